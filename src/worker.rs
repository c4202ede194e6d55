//! A worker: one thread's sockets around one engine.
//!
//! The thread sleeps until the kernel has news of some of its sockets, reads each of those, and gives
//! what it reads to the engine, which marks whom it has something for. When all that arrived together has
//! been used it writes each marked server once, then each marked client once, and sleeps again. When much
//! arrived it writes before that: what was copied is written while the core's cache holds it.
//!
//! Nothing here is shared with other threads but three queues with a bell (accepted clients, servers'
//! sockets that were connected elsewhere, the workers' messages to each other) and the metrics' cells.

use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::engine::{About, Engine, Fault, Message, Options, Order, Out};
use crate::metrics::WorkerMetrics;
use crate::socket::Socket;
use crate::topology::Topology;
use connect::Dialed;

pub use bell::Bell;
pub use connect::Patience;

mod bell;
mod connect;

/// What one read may bring.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads of one socket before others have their turn.
const READS_MAX: usize = 4;
/// What one socket brings, or takes, before others have their turn: the read that goes beyond is the last.
const TURN_BYTES: usize = 256 * 1024;
/// What all sockets together bring before it is written onwards: a core's own cache holds it twice.
const FLUSH_BYTES: usize = 96 * 1024;
/// Sockets that the kernel names at a time.
const EVENTS_MAX: usize = 1024;
/// How often timeouts are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Messages of other workers, and clients, that are taken in before sockets have their turn.
const MAIL_MAX: usize = 64;
/// Ticks between two rounds of giving memory back.
const TIDY_TICKS: u32 = 30;

/// What the kernel is to tell of a socket.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A client that the acceptor hands over.
#[derive(Debug)]
pub struct Arrival {
    pub socket: Socket,
    pub about: About,
}

/// Another worker, as a letter reaches it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub mail: mpsc::Sender<Message>,
    pub bell: Arc<Bell>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    pub options: Options,
    /// The current snapshot; a new one is seen at the next wake-up.
    pub topology: Arc<ArcSwap<Topology>>,
    pub metrics: Arc<WorkerMetrics>,
    pub patience: Patience,
    pub drain_timeout: Duration,
    /// What the thread sleeps on, and what wakes it for the queues.
    pub poll: Poll,
    pub bell: Arc<Bell>,
    pub arrivals: mpsc::Receiver<Arrival>,
    /// What other workers have for this one, and where each worker's own goes.
    pub mail: mpsc::Receiver<Message>,
    pub peers: Vec<Peer>,
    /// Connects to servers.
    pub control: Handle,
    /// Changes when the process is to stop.
    pub stop: watch::Receiver<bool>,
}

struct Worker {
    engine: Engine,
    topology: Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>,
    poll: Poll,
    bell: Arc<Bell>,
    arrivals: mpsc::Receiver<Arrival>,
    mail: mpsc::Receiver<Message>,
    peers: Vec<Peer>,
    dialed: mpsc::Receiver<Dialed>,
    /// Goes with each attempt to connect.
    dialer: mpsc::Sender<Dialed>,
    control: Handle,
    patience: Patience,
    /// By the engine's numbers.
    clients: Vec<Option<ClientIo>>,
    conns: Vec<Option<ConnIo>>,
    scratch: Box<[u8]>,
    start: Instant,
    /// When it woke up.
    now: Instant,
    /// The bell rang, and the queues were not looked at yet.
    rang: bool,
    draining: bool,
    /// Bytes that were read since the last flush.
    unflushed: usize,
    /// Sockets that may have more to read, or room for more, though the kernel will not say so again.
    unread: Vec<Token>,
    unwritten: Vec<Token>,
    /// Connections that broke and were not seen to yet.
    broken: Vec<u32>,
    resumed: Vec<u32>,
    dirty_conns: Vec<u32>,
    dirty_clients: Vec<u32>,
    /// Attempts to connect, ever.
    dials: u64,
    next_tick: Instant,
    ticks: u32,
    /// When the engine wants to be called.
    alarm: Option<Instant>,
}

struct ClientIo {
    socket: Socket,
    /// The engine does not want more from it.
    resting: bool,
    standing: Standing,
}

struct ConnIo {
    socket: Option<Socket>,
    dial: connect::Dial,
    standing: Standing,
}

/// How a socket stands with the kernel, and in the worker's lists.
#[derive(Default)]
struct Standing {
    /// The peer has sent its last byte, which need not have been read.
    hung_up: bool,
    /// It takes nothing more until the kernel says so.
    full: bool,
    /// It stands in `unread`.
    unread: bool,
    /// It stands in `unwritten`.
    unwritten: bool,
}

impl Standing {
    /// Whether it would take something now, and it is its turn.
    fn may_write(&self) -> bool {
        !self.full && !self.unwritten
    }
}

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Bell,
    Client(u32),
    Conn(u32),
}

impl Name {
    fn token(self) -> Token {
        Token(match self {
            Self::Bell => 0,
            Self::Client(id) => id as usize * 2 + 1,
            Self::Conn(id) => id as usize * 2 + 2,
        })
    }

    fn of(Token(token): Token) -> Self {
        match token.checked_sub(1) {
            None => Self::Bell,
            Some(rest) if rest % 2 == 0 => Self::Client((rest / 2) as u32),
            Some(rest) => Self::Conn((rest / 2) as u32),
        }
    }
}

/// Serves clients until told to stop, then until they are gone or the time for that is over.
pub fn run(setup: Setup) {
    let (drain_timeout, stop) = (setup.drain_timeout, setup.stop.clone());
    let mut worker = Worker::new(setup);
    let mut events = Events::with_capacity(EVENTS_MAX);
    worker.after();
    while matches!(stop.has_changed(), Ok(false)) {
        worker.turn(&mut events);
    }
    worker.drain();
    let deadline = Instant::now() + drain_timeout;
    while worker.engine.clients_left() > 0 && Instant::now() < deadline {
        worker.turn(&mut events);
    }
    let left = worker.engine.clients_left();
    if left > 0 {
        warn!(clients = left, "clients are cut off: they did not finish in time");
    }
}

impl Worker {
    fn new(setup: Setup) -> Self {
        let (dialer, dialed) = mpsc::channel(MAIL_MAX);
        let start = Instant::now();
        Self {
            engine: Engine::new(setup.options, setup.topology.load_full(), setup.metrics),
            topology: Cache::new(setup.topology),
            poll: setup.poll,
            bell: setup.bell,
            arrivals: setup.arrivals,
            mail: setup.mail,
            peers: setup.peers,
            dialed,
            dialer,
            control: setup.control,
            patience: setup.patience,
            clients: Vec::new(),
            conns: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            start,
            now: start,
            rang: false,
            draining: false,
            unflushed: 0,
            unread: Vec::new(),
            unwritten: Vec::new(),
            broken: Vec::new(),
            resumed: Vec::new(),
            dirty_conns: Vec::new(),
            dirty_clients: Vec::new(),
            dials: 0,
            next_tick: start,
            ticks: 0,
            alarm: None,
        }
    }

    /// Sleeps until there is something to do, and does it.
    fn turn(&mut self, events: &mut Events) {
        let busy = !self.unread.is_empty() || !self.unwritten.is_empty() || self.engine.is_dirty();
        let until = self.alarm.map_or(self.next_tick, |alarm| alarm.min(self.next_tick));
        let patience = if busy { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
        if let Err(error) = self.poll.poll(events, Some(patience))
            && error.kind() != io::ErrorKind::Interrupted
        {
            panic!("the kernel does not say which sockets are ready: {error}");
        }
        self.look_at_the_clock();
        // Those that had their turn come after those that wait for theirs.
        let mut unread = mem::take(&mut self.unread);
        for event in events.iter() {
            self.ready(event);
        }
        for token in unread.drain(..) {
            if let Some(standing) = self.standing(token) {
                standing.unread = false;
                self.read(token);
            }
        }
        if self.unread.is_empty() {
            self.unread = unread;
        }
        // New sockets get numbers of old ones, whose news must be over.
        if mem::take(&mut self.rang) {
            self.look_at_the_queues();
        }
        if self.now >= self.next_tick {
            self.tick();
        }
        if self.alarm.is_some_and(|alarm| self.now >= alarm) {
            self.alarm = None;
            self.engine.alarm();
            self.after();
        }
        self.flush();
    }

    fn look_at_the_clock(&mut self) {
        self.now = Instant::now();
        self.engine.set_now(self.now.duration_since(self.start).as_micros() as u64);
        let current = self.topology.load();
        if !Arc::ptr_eq(current, self.engine.topology()) {
            self.engine.set_topology(Arc::clone(current));
        }
    }

    /// The kernel has news of a socket.
    fn ready(&mut self, event: &Event) {
        let token = event.token();
        if Name::of(token) == Name::Bell {
            self.rang = true;
        }
        let Some(standing) = self.standing(token) else { return };
        standing.hung_up |= event.is_read_closed();
        let has_its_turn = standing.unread;
        if event.is_writable() && mem::take(&mut standing.full) {
            self.write_later(token);
        }
        if (event.is_readable() || event.is_read_closed() || event.is_error()) && !has_its_turn {
            self.read(token);
        }
    }

    fn standing(&mut self, token: Token) -> Option<&mut Standing> {
        match Name::of(token) {
            Name::Bell => None,
            Name::Client(id) => Some(&mut self.clients.get_mut(id as usize)?.as_mut()?.standing),
            Name::Conn(id) => Some(&mut self.conns.get_mut(id as usize)?.as_mut()?.standing),
        }
    }

    fn read(&mut self, token: Token) {
        match Name::of(token) {
            Name::Bell => {}
            Name::Client(id) => self.read_client(id),
            Name::Conn(id) => self.read_conn(id),
        }
    }

    fn look_at_the_queues(&mut self) {
        self.bell.heard();
        while let Ok(dialed) = self.dialed.try_recv() {
            self.dialed(dialed);
            // A number that it frees is not given away before it is known to be free.
            self.after();
        }
        let (mut letters, mut arrivals) = (0, 0);
        while letters < MAIL_MAX
            && let Ok(letter) = self.mail.try_recv()
        {
            self.engine.message(letter);
            letters += 1;
        }
        while arrivals < MAIL_MAX
            && !self.draining
            && let Ok(arrival) = self.arrivals.try_recv()
        {
            self.welcome(arrival);
            arrivals += 1;
        }
        // There may be more, for when sockets have had their turn.
        if letters.max(arrivals) == MAIL_MAX {
            self.bell.ring();
        }
        self.after();
    }

    fn welcome(&mut self, Arrival { mut socket, about }: Arrival) {
        let id = self.engine.client_open(about);
        // It may be gone already; that is nobody's fault.
        if self.poll.registry().register(&mut socket, Name::Client(id).token(), BOTH).is_err() {
            return self.engine.client_gone(id);
        }
        put(&mut self.clients, id, ClientIo { socket, resting: false, standing: Standing::default() });
    }

    fn read_client(&mut self, id: u32) {
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut) else { return };
            if !self.engine.client_wants(id) {
                io.resting = true;
                return;
            }
            let direct = self.engine.client_direct(id);
            let (direct, buf) = direct.map_or((false, &mut self.scratch[..]), |buf| (true, buf));
            let room = buf.len();
            let count = match io.socket.read(buf) {
                Ok(0) => {
                    self.engine.client_eof(id);
                    return self.after();
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.close_client(id);
                    return self.after();
                }
            };
            // The kernel tells of what comes later, but for the end that it told of already.
            let empty = count < room && !io.standing.hung_up;
            if direct {
                self.engine.client_filled(id, count);
            } else {
                self.engine.client_bytes(id, &self.scratch[..count]);
            }
            bytes += count;
            self.after_reading(count);
            if empty {
                return;
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        self.read_later(Name::Client(id).token());
    }

    fn read_conn(&mut self, id: u32) {
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let Some(socket) = &mut io.socket else { return };
            let direct = self.engine.conn_direct(id);
            let (direct, buf) = direct.map_or((false, &mut self.scratch[..]), |buf| (true, buf));
            let room = buf.len();
            let count = match socket.read(buf) {
                Ok(0) => {
                    self.conn_lost(id, "closed by the server");
                    return self.after();
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.conn_lost(id, &error.to_string());
                    return self.after();
                }
            };
            let empty = count < room && !io.standing.hung_up;
            let quiet = io.dial.is_quiet();
            if direct {
                self.engine.conn_filled(id, count);
            } else {
                self.engine.conn_bytes(id, &self.scratch[..count]);
            }
            bytes += count;
            self.after_reading(count);
            if quiet {
                self.tell_of_return(id);
            }
            if empty {
                return;
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        self.read_later(Name::Conn(id).token());
    }

    /// Others have their turn first.
    fn read_later(&mut self, token: Token) {
        if self.standing(token).is_some_and(|standing| !mem::replace(&mut standing.unread, true)) {
            self.unread.push(token);
        }
    }

    fn write_later(&mut self, token: Token) {
        if self.standing(token).is_some_and(|standing| !mem::replace(&mut standing.unwritten, true)) {
            self.unwritten.push(token);
        }
    }

    fn conn_lost(&mut self, id: u32, trouble: &str) {
        if let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) {
            io.socket = None;
        }
        self.engine.conn_lost(id, Fault::Lost, trouble);
        self.broken.push(id);
    }

    /// Obeys the engine; when much was read it is written onwards at once.
    fn after_reading(&mut self, count: usize) {
        self.after();
        self.unflushed += count;
        if self.unflushed >= FLUSH_BYTES {
            self.flush();
            self.look_at_the_clock();
        }
    }

    /// Writes what everybody has to be written: servers first, so that they work meanwhile.
    fn flush(&mut self) {
        self.unflushed = 0;
        let (mut conns, mut clients) = (mem::take(&mut self.dirty_conns), mem::take(&mut self.dirty_clients));
        self.engine.take_dirty(&mut conns, &mut clients);
        for token in mem::take(&mut self.unwritten) {
            if let Some(standing) = self.standing(token) {
                standing.unwritten = false;
                match Name::of(token) {
                    Name::Bell => {}
                    Name::Client(id) => self.write_client(id),
                    Name::Conn(id) => self.write_conn(id),
                }
            }
        }
        for id in conns.drain(..) {
            self.write_conn(id);
        }
        for id in clients.drain(..) {
            self.write_client(id);
        }
        (self.dirty_conns, self.dirty_clients) = (conns, clients);
        self.after();
    }

    fn write_conn(&mut self, id: u32) {
        let mut left = TURN_BYTES;
        loop {
            let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let (Some(socket), Some(out)) = (&mut io.socket, self.engine.conn_out(id)) else { return };
            if out.is_empty() || !io.standing.may_write() {
                return;
            }
            if left == 0 {
                return self.write_later(Name::Conn(id).token());
            }
            match write(socket, out, left) {
                Ok(Written { count, full }) => {
                    io.standing.full = full;
                    left -= count;
                    out.advance(count);
                    if count > 0 {
                        self.engine.conn_written(id);
                    }
                }
                Err(error) => return self.conn_lost(id, &error.to_string()),
            }
        }
    }

    fn write_client(&mut self, id: u32) {
        let mut left = TURN_BYTES;
        loop {
            let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let Some(out) = self.engine.client_out(id) else { return };
            if out.is_empty() || !io.standing.may_write() {
                return;
            }
            if left == 0 {
                return self.write_later(Name::Client(id).token());
            }
            match write(&mut io.socket, out, left) {
                Ok(Written { count, full }) => {
                    io.standing.full = full;
                    left -= count;
                    out.advance(count);
                    if count > 0 {
                        self.engine.client_written(id, count);
                    }
                }
                Err(_) => return self.close_client(id),
            }
        }
    }

    /// Obeys the engine.
    #[inline]
    fn after(&mut self) {
        while self.engine.has_news() || !self.broken.is_empty() {
            self.obey();
        }
    }

    #[cold]
    fn obey(&mut self) {
        let mut resumed = mem::take(&mut self.resumed);
        self.engine.resume_clients(&mut resumed);
        for id in resumed.drain(..) {
            if let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut)
                && mem::take(&mut io.resting)
            {
                self.read_later(Name::Client(id).token());
            }
        }
        self.resumed = resumed;
        while let Some(order) = self.engine.next_order() {
            match order {
                Order::Connect { conn, shard } => self.connect(conn, shard),
                Order::Close { conn } => {
                    if let Some(io) = self.conns.get_mut(conn as usize).and_then(Option::take) {
                        io.dial.give_up();
                    }
                }
                Order::Reconnect { conn } => {
                    if let Some(io) = self.conns.get_mut(conn as usize).and_then(Option::as_mut) {
                        io.socket = None;
                        self.broken.push(conn);
                    }
                }
                Order::CloseClient { client } | Order::DropClient { client } => self.close_client(client),
                Order::Send { to, message } => self.send(to, message),
                Order::Alarm { at } => self.alarm = Some(self.start + Duration::from_micros(at)),
            }
        }
        while let Some(conn) = self.broken.pop() {
            self.connect_again(conn);
        }
    }

    /// A worker that takes no more is not waited for.
    fn send(&mut self, to: u16, message: Message) {
        let Some(peer) = self.peers.get(to as usize) else { return };
        match peer.mail.try_send(message) {
            Ok(()) => peer.bell.ring(),
            Err(mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message)) => {
                self.engine.undelivered(to, &message);
            }
        }
    }

    fn close_client(&mut self, id: u32) {
        if self.clients.get_mut(id as usize).and_then(Option::take).is_some() {
            self.engine.client_gone(id);
        }
    }

    fn tick(&mut self) {
        // After a stall sockets are read before the next one.
        self.next_tick = self.now + TICK;
        self.ticks = self.ticks.wrapping_add(1);
        self.engine.tick();
        self.hear_hang_ups();
        for news in self.engine.take_news() {
            info!(%news, "the shards differ");
        }
        if self.ticks.is_multiple_of(TIDY_TICKS) {
            self.engine.tidy();
        }
        self.after();
    }

    /// Who waits is not read beyond a little: that it hung up behind more is seen here.
    fn hear_hang_ups(&mut self) {
        for (id, io) in self.clients.iter().enumerate() {
            if io.as_ref().is_some_and(|io| io.resting && io.standing.hung_up) {
                self.engine.client_hung_up(id as u32);
            }
        }
    }

    /// Nobody is listened to any more; what was asked is still answered.
    fn drain(&mut self) {
        info!(clients = self.engine.clients_left(), "stopping: clients get what they asked for");
        self.draining = true;
        self.engine.drain();
        self.after();
    }
}

/// Puts `item` at `id`, which is one of the engine's small numbers.
fn put<T>(items: &mut Vec<Option<T>>, id: u32, item: T) {
    let at = id as usize;
    if at >= items.len() {
        items.resize_with(at + 1, || None);
    }
    items[at] = Some(item);
}

/// What became of a write.
struct Written {
    count: usize,
    /// The socket takes nothing more until the kernel says so.
    full: bool,
}

/// Writes `most` bytes at most.
fn write(socket: &mut Socket, out: &Out, most: usize) -> io::Result<Written> {
    let (wanted, written) = match out.single() {
        Some(bytes) => {
            let bytes = &bytes[..bytes.len().min(most)];
            (bytes.len(), socket.write(bytes))
        }
        None => {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = out.slices(&mut slices, most);
            (slices[..count].iter().map(|slice| slice.len()).sum(), socket.write_vectored(&slices[..count]))
        }
    };
    match written {
        Ok(count) => Ok(Written { count, full: count < wanted }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Written { count: 0, full: true }),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Written { count: 0, full: false }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_one_thing() {
        for name in [Name::Bell, Name::Client(0), Name::Conn(0), Name::Client(7), Name::Conn(u32::MAX)] {
            assert_eq!(Name::of(name.token()), name);
        }
        assert_eq!(Name::of(Name::Bell.token()), Name::of(Token(0)));
    }
}

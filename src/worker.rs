//! A worker: one thread's sockets around one engine.
//!
//! The thread sleeps until the kernel has news of some of its sockets, reads each of those, and gives
//! what it reads to the engine, which marks whom it has something for. When all that arrived together has
//! been used it writes each marked server once, then each marked client once, and sleeps again. When much
//! arrived it writes before that: what was copied is written while the core's cache holds it.
//!
//! Nothing here is shared with other threads but three queues with a bell (accepted clients, servers'
//! sockets that were connected elsewhere, the workers' messages to each other) and the metrics' cells.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use mio::{Events, Poll, Token};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::engine::{About, Engine, Message, Options, Order};
use crate::metrics::WorkerMetrics;
use crate::socket::Socket;
use crate::topology::Topology;
use connect::Dialed;
use traffic::{ClientIo, ConnIo, Name, Standing};

pub use bell::Bell;
pub use connect::Patience;

mod bell;
mod connect;
mod traffic;

/// Sockets that the kernel names at a time.
const EVENTS_MAX: usize = 1024;
/// How often timeouts are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Messages of other workers, and clients, that are taken in before sockets have their turn.
const MAIL_MAX: usize = 64;
/// Ticks between two rounds of giving memory back.
const TIDY_TICKS: u32 = 30;

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
            scratch: traffic::scratch(),
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
        if socket.register(self.poll.registry(), Name::Client(id).token()).is_err() {
            return self.engine.client_gone(id);
        }
        put(&mut self.clients, id, ClientIo { socket, resting: false, standing: Standing::default() });
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
            if let Some(io) = at(&mut self.clients, id)
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
                    if let Some(io) = at(&mut self.conns, conn) {
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
        for news in self.engine.take_news() {
            info!(%news, "the shards differ");
        }
        if self.ticks.is_multiple_of(TIDY_TICKS) {
            self.engine.tidy();
        }
        self.after();
    }

    /// Nobody is listened to any more; what was asked is still answered.
    fn drain(&mut self) {
        info!(clients = self.engine.clients_left(), "stopping: clients get what they asked for");
        self.draining = true;
        self.engine.drain();
        self.after();
    }
}

/// What stands at `id`, which is one of the engine's small numbers.
fn at<T>(items: &mut [Option<T>], id: u32) -> Option<&mut T> {
    items.get_mut(id as usize).and_then(Option::as_mut)
}

/// Puts `item` there.
fn put<T>(items: &mut Vec<Option<T>>, id: u32, item: T) {
    let at = id as usize;
    if at >= items.len() {
        items.resize_with(at + 1, || None);
    }
    items[at] = Some(item);
}

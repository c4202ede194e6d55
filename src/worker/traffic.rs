//! What moves bytes: who is ready is read, who has something to be written is written, and nobody keeps
//! the others waiting. The kernel tells of a change once (edge-triggered), so what it told is remembered here.

use std::io::{self, IoSlice};
use std::mem;

use mio::Token;
use mio::event::Event;

use super::{Worker, at, connect};
use crate::engine::{Fault, Out};
use crate::socket::Socket;

/// What one read may bring.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads of one socket before others have their turn.
const READS_MAX: usize = 4;
/// What one socket brings, or takes, before others have their turn: the read that goes beyond is the last.
const TURN_BYTES: usize = 256 * 1024;
/// What all sockets together bring before it is written onwards: a core's own cache holds it twice.
const FLUSH_BYTES: usize = 96 * 1024;

pub(super) struct ClientIo {
    pub(super) socket: Socket,
    /// The engine does not want more from it.
    pub(super) resting: bool,
    pub(super) standing: Standing,
}

pub(super) struct ConnIo {
    pub(super) socket: Option<Socket>,
    pub(super) dial: connect::Dial,
    pub(super) standing: Standing,
}

/// How a socket stands with the kernel, and in the worker's lists.
#[derive(Default)]
pub(super) struct Standing {
    /// The peer has sent its last byte, which need not have been read.
    pub(super) hung_up: bool,
    /// It takes nothing more until the kernel says so.
    pub(super) full: bool,
    /// It stands in `unread`.
    pub(super) unread: bool,
    /// It stands in `unwritten`.
    pub(super) unwritten: bool,
}

impl Standing {
    /// Whether it would take something now, and it is its turn.
    pub(super) fn may_write(&self) -> bool {
        !self.full && !self.unwritten
    }
}

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Bell,
    Client(u32),
    Conn(u32),
}

impl Name {
    pub(super) fn token(self) -> Token {
        Token(match self {
            Self::Bell => 0,
            Self::Client(id) => id as usize * 2 + 1,
            Self::Conn(id) => id as usize * 2 + 2,
        })
    }

    pub(super) fn of(Token(token): Token) -> Self {
        match token.checked_sub(1) {
            None => Self::Bell,
            Some(rest) if rest % 2 == 0 => Self::Client((rest / 2) as u32),
            Some(rest) => Self::Conn((rest / 2) as u32),
        }
    }
}

/// What sockets are read into.
pub(super) fn scratch() -> Box<[u8]> {
    vec![0; SCRATCH_BYTES].into_boxed_slice()
}

impl Worker {
    /// The kernel has news of a socket.
    pub(super) fn ready(&mut self, event: &Event) {
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

    pub(super) fn standing(&mut self, token: Token) -> Option<&mut Standing> {
        match Name::of(token) {
            Name::Bell => None,
            Name::Client(id) => at(&mut self.clients, id).map(|io| &mut io.standing),
            Name::Conn(id) => at(&mut self.conns, id).map(|io| &mut io.standing),
        }
    }

    pub(super) fn read(&mut self, token: Token) {
        match Name::of(token) {
            Name::Bell => {}
            Name::Client(id) => self.read_client(id),
            Name::Conn(id) => self.read_conn(id),
        }
    }

    fn read_client(&mut self, id: u32) {
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            let Some(io) = at(&mut self.clients, id) else { return };
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
            let Some(io) = at(&mut self.conns, id) else { return };
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
    pub(super) fn read_later(&mut self, token: Token) {
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
        if let Some(io) = at(&mut self.conns, id) {
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
    pub(super) fn flush(&mut self) {
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
            let Some(io) = at(&mut self.conns, id) else { return };
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
            let Some(io) = at(&mut self.clients, id) else { return };
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
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use mio::{Events, Poll};
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::engine::{About, Options, labels};
    use crate::metrics::{Metrics, WorkerMetrics};
    use crate::topology::{Endpoint, Kind, Shard, Spec, Topology};
    use crate::worker::{Arrival, Bell, Patience, Setup};

    /// A worker that is driven turn by turn, before a server that is not there.
    struct Rig {
        worker: Worker,
        events: Events,
        listener: TcpListener,
        received: Arc<WorkerMetrics>,
        // Would connect to servers, and is not driven.
        _control: Runtime,
    }

    impl Rig {
        fn new() -> Self {
            let control = Builder::new_current_thread().enable_all().build().unwrap();
            let shard =
                Shard { name: "a".into(), endpoint: Endpoint::Unix("/nonexistent/redis.sock".into()), weight: 1 };
            let spec = Spec { shards: vec![shard], home: None, kind: Kind::Slots, colocate: Vec::new() };
            let topology = Arc::new(Topology::build(&spec, 1).unwrap());
            let metrics = Metrics::new(labels(&topology), 1).unwrap();
            let poll = Poll::new().unwrap();
            let second = Duration::from_secs(1);
            let setup = Setup {
                options: Options { credentials: vec![Default::default()], ..Options::default() },
                topology: Arc::new(ArcSwap::new(topology)),
                metrics: metrics.worker(0),
                patience: Patience { connect: second, pause_min: second, pause_max: second },
                drain_timeout: second,
                bell: Arc::new(Bell::new(&poll).unwrap()),
                poll,
                arrivals: mpsc::channel(1).1,
                mail: mpsc::channel(1).1,
                peers: Vec::new(),
                control: control.handle().clone(),
                stop: watch::channel(false).1,
            };
            let mut worker = Worker::new(setup);
            worker.after();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let events = Events::with_capacity(16);
            Self { worker, events, listener, received: metrics.worker(0), _control: control }
        }

        /// A new client's end.
        fn client(&mut self) -> TcpStream {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            let (socket, _) = self.listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = Socket::Tcp(mio::net::TcpStream::from_std(socket));
            self.worker.welcome(Arrival { socket, about: About::default() });
            client
        }

        fn turn(&mut self) {
            self.worker.turn(&mut self.events);
        }
    }

    #[test]
    fn a_token_names_one_thing() {
        for name in [Name::Bell, Name::Client(0), Name::Conn(0), Name::Client(7), Name::Conn(u32::MAX)] {
            assert_eq!(Name::of(name.token()), name);
        }
    }

    #[test]
    fn who_never_stops_sending_has_one_turn_like_everybody() {
        let mut rig = Rig::new();
        let (mut busy, mut other) = (rig.client(), rig.client());
        busy.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000000\r\n").unwrap();
        other.write_all(b"PING\r\n").unwrap();
        let body = vec![b'x'; 1024 * 1024];
        let (mut turns, mut full, mut pongs) = (0, 0, 0);
        while full < 40 {
            // The socket is filled again before each turn: the kernel tells of that while its next turn is due.
            while busy.write(&body).is_ok() {}
            let before = rig.received.bytes_in.value();
            rig.turn();
            let share = rig.received.bytes_in.value() - before;
            assert!(share < 2 * TURN_BYTES as u64, "{share} bytes in turn {turns}");
            assert!(rig.worker.unread.len() <= 1, "{:?}", rig.worker.unread);
            turns += 1;
            full += u32::from(share >= TURN_BYTES as u64);
            if other.read(&mut [0; 7]).is_ok() {
                pongs += 1;
                other.write_all(b"PING\r\n").unwrap();
            }
        }
        // The kernel may be late with a few bytes now and then, not the worker.
        assert!(pongs > turns / 2, "{pongs} answers in {turns} turns");
    }
}

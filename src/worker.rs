//! A worker: one thread's sockets around one engine.
//!
//! Every socket has a task that reads; what it reads goes to the engine, which marks whom it has
//! something for. One more task, the flusher, is woken at the first mark. It stands behind every task
//! that is ready by then, so it runs when all that arrived together has been used, and writes each
//! marked server once, then each marked client once. When much arrived it is not waited for: what was
//! copied is written while the core's cache holds it. Nothing here is shared with other threads but the
//! queue of accepted sockets, the workers' messages to each other and the metrics' cells. No borrow of
//! the worker outlives a poll.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::engine::{About, Engine, Fault, Message, Options, Order};
use crate::metrics::WorkerMetrics;
use crate::socket::Socket;
use crate::topology::{Endpoint, ShardId, Topology};

pub use connect::Patience;

mod connect;

/// What one read may bring.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads of one socket before others have their turn.
const READS_MAX: usize = 4;
/// What one socket brings, or takes, before others have their turn: the read that goes beyond is the last.
const TURN_BYTES: usize = 256 * 1024;
/// What all sockets together bring before it is written onwards: a core's own cache holds it twice.
const FLUSH_BYTES: usize = 96 * 1024;
/// How often timeouts are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Messages of other workers that are taken in before clients have their turn.
const MAIL_MAX: usize = 64;
/// Ticks between two rounds of giving memory back.
const TIDY_TICKS: u32 = 30;

/// A client that the acceptor hands over.
#[derive(Debug)]
pub struct Arrival {
    pub socket: Accepted,
    pub about: About,
}

/// An accepted socket, not yet part of any runtime.
#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
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
    pub arrivals: mpsc::Receiver<Arrival>,
    /// What other workers have for this one, and where each worker's own goes.
    pub mail: mpsc::Receiver<Message>,
    pub peers: Vec<mpsc::Sender<Message>>,
    /// Turns true when the process is to stop.
    pub stop: watch::Receiver<bool>,
}

struct Worker {
    engine: Engine,
    topology: Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>,
    /// By the engine's numbers.
    clients: Vec<Option<ClientIo>>,
    conns: Vec<Option<ConnIo>>,
    scratch: Box<[u8]>,
    start: Instant,
    /// The time has to be asked for anew.
    stale: bool,
    flusher: Option<Waker>,
    flushing: bool,
    /// Bytes that were read since.
    unflushed: usize,
    /// Sockets whose buffers are full; the flusher is woken when they have room.
    full_conns: Vec<u32>,
    full_clients: Vec<u32>,
    resumed: Vec<u32>,
    peers: Vec<mpsc::Sender<Message>>,
    patience: Patience,
    /// Sleeps until the engine wants to be called.
    alarm: Option<AbortHandle>,
    me: std::rc::Weak<RefCell<Worker>>,
}

struct ClientIo {
    socket: Socket,
    task: AbortHandle,
    /// Its task, while the engine does not want more from it.
    resting: Option<Waker>,
    /// It took nothing more, or enough for now: it stands in `full_clients`, once.
    full: bool,
}

struct ConnIo {
    socket: Option<Socket>,
    task: AbortHandle,
    reader: Option<Waker>,
    /// It took nothing more, or enough for now: it stands in `full_conns`, once.
    full: bool,
}

/// Serves clients until told to stop, then until they are gone or the time for that is over.
pub async fn run(setup: Setup) {
    let Setup { options, topology, metrics, patience, drain_timeout, mut arrivals, mut mail, peers, mut stop } = setup;
    let worker = Rc::new_cyclic(|me| {
        RefCell::new(Worker {
            engine: Engine::new(options, topology.load_full(), metrics),
            topology: Cache::new(topology),
            clients: Vec::new(),
            conns: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            start: Instant::now(),
            stale: true,
            flusher: None,
            flushing: false,
            unflushed: 0,
            full_conns: Vec::new(),
            full_clients: Vec::new(),
            resumed: Vec::new(),
            peers,
            patience,
            alarm: None,
            me: me.clone(),
        })
    });
    let flusher = Rc::clone(&worker);
    let flusher = tokio::task::spawn_local(poll_fn(move |cx| flusher.borrow_mut().flush(cx)));
    worker.borrow_mut().after();
    let mut tick = tokio::time::interval(TICK);
    // After a stall sockets are read before the next one.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks: u32 = 0;
    let mut letters = Vec::with_capacity(MAIL_MAX);
    loop {
        tokio::select! {
            arrival = arrivals.recv() => match arrival {
                Some(arrival) => Worker::welcome(&worker, arrival),
                None => break,
            },
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                worker.borrow_mut().tick(ticks);
            }
            _ = mail.recv_many(&mut letters, MAIL_MAX) => worker.borrow_mut().messages(&mut letters),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    worker.borrow_mut().drain();
    let deadline = Instant::now() + drain_timeout;
    while worker.borrow().engine.clients_left() > 0 && Instant::now() < deadline {
        tokio::select! {
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                worker.borrow_mut().tick(ticks);
            }
            _ = mail.recv_many(&mut letters, MAIL_MAX) => worker.borrow_mut().messages(&mut letters),
        }
    }
    let left = worker.borrow().engine.clients_left();
    if left > 0 {
        warn!(clients = left, "clients are cut off: they did not finish in time");
    }
    flusher.abort();
}

impl Worker {
    /// A new client gets its task.
    fn welcome(worker: &Rc<RefCell<Self>>, arrival: Arrival) {
        let socket = match arrival.socket {
            Accepted::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Socket::Tcp),
            Accepted::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Socket::Unix),
        };
        // It may be gone already; that is nobody's fault.
        let Ok(socket) = socket else { return };
        let mut this = worker.borrow_mut();
        this.look_at_the_clock();
        let id = this.engine.client_open(arrival.about);
        let reader = Rc::clone(worker);
        let task = tokio::task::spawn_local(poll_fn(move |cx| reader.borrow_mut().read_client(id, cx))).abort_handle();
        put(&mut this.clients, id, ClientIo { socket, task, resting: None, full: false });
        this.after();
    }

    fn look_at_the_clock(&mut self) {
        if self.stale {
            self.stale = false;
            self.engine.set_now(self.start.elapsed().as_micros() as u64);
            let current = self.topology.load();
            if !Arc::ptr_eq(current, self.engine.topology()) {
                self.engine.set_topology(Arc::clone(current));
            }
        }
    }

    fn read_client(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        self.look_at_the_clock();
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut) else { return Poll::Ready(()) };
            if !self.engine.client_wants(id) {
                io.resting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let read = match self.engine.client_direct(id) {
                Some(buf) => io.socket.poll_read_buf(cx, buf).map_ok(|count| (count, true)),
                None => io.socket.poll_read(cx, &mut self.scratch).map_ok(|count| (count, false)),
            };
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((0, _))) => {
                    self.engine.client_eof(id);
                    self.after();
                    return Poll::Pending;
                }
                Poll::Ready(Ok((count, direct))) => {
                    bytes += count;
                    self.unflushed += count;
                    if direct {
                        self.engine.client_filled(id, count);
                    } else {
                        self.engine.client_bytes(id, &self.scratch[..count]);
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.close_client(id);
                    self.after();
                    return Poll::Ready(());
                }
            }
            self.after();
            self.flush_early();
            if bytes >= TURN_BYTES {
                break;
            }
        }
        wake_after_others(cx);
        Poll::Pending
    }

    /// Ready when the socket is gone.
    fn read_conn(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        self.look_at_the_clock();
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) else { return Poll::Ready(()) };
            let Some(socket) = &mut io.socket else { return Poll::Ready(()) };
            let read = match self.engine.conn_direct(id) {
                Some(buf) => socket.poll_read_buf(cx, buf).map_ok(|count| (count, true)),
                None => socket.poll_read(cx, &mut self.scratch).map_ok(|count| (count, false)),
            };
            match read {
                Poll::Pending => {
                    if !io.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                        io.reader = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok((0, _))) => self.conn_lost(id, "closed by the server"),
                Poll::Ready(Ok((count, direct))) => {
                    bytes += count;
                    self.unflushed += count;
                    if direct {
                        self.engine.conn_filled(id);
                    } else {
                        self.engine.conn_bytes(id, &self.scratch[..count]);
                    }
                }
                Poll::Ready(Err(error)) => self.conn_lost(id, &error.to_string()),
            }
            self.after();
            self.flush_early();
            if bytes >= TURN_BYTES {
                break;
            }
        }
        wake_after_others(cx);
        Poll::Pending
    }

    fn conn_lost(&mut self, id: u32, trouble: &str) {
        if let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) {
            io.socket = None;
        }
        self.engine.conn_lost(id, Fault::Lost, trouble);
    }

    /// Does not wait for the flusher when much was read: a copy that is written soon is still cached.
    fn flush_early(&mut self) {
        if self.unflushed >= FLUSH_BYTES
            && let Some(flusher) = self.flusher.clone()
        {
            _ = self.flush(&mut Context::from_waker(&flusher));
        }
    }

    /// Writes what everybody has to be written: servers first, so that they work meanwhile.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.flusher.as_ref().is_some_and(|flusher| flusher.will_wake(cx.waker())) {
            self.flusher = Some(cx.waker().clone());
        }
        self.flushing = false;
        self.unflushed = 0;
        let (mut conns, mut clients) = (std::mem::take(&mut self.full_conns), std::mem::take(&mut self.full_clients));
        // Each of these gets one more try; who is marked as well stands in the list a second time.
        for id in &conns {
            if let Some(Some(io)) = self.conns.get_mut(*id as usize) {
                io.full = false;
            }
        }
        for id in &clients {
            if let Some(Some(io)) = self.clients.get_mut(*id as usize) {
                io.full = false;
            }
        }
        self.engine.take_dirty(&mut conns, &mut clients);
        for id in conns.drain(..) {
            self.write_conn(id, cx);
        }
        for id in clients.drain(..) {
            self.write_client(id, cx);
        }
        // The vectors keep their room; whoever could not be written stands in them again.
        swap_back(&mut self.full_conns, conns);
        swap_back(&mut self.full_clients, clients);
        self.after();
        self.stale = true;
        Poll::Pending
    }

    fn write_conn(&mut self, id: u32, cx: &mut Context<'_>) {
        let mut left = TURN_BYTES;
        loop {
            let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let (Some(socket), Some(out)) = (&mut io.socket, self.engine.conn_out(id)) else { return };
            if out.is_empty() || io.full {
                return;
            }
            match write(socket, out, left, cx) {
                Poll::Ready(Ok(count)) => {
                    left -= count;
                    out.advance(count);
                    self.engine.conn_written(id);
                }
                Poll::Ready(Err(error)) => {
                    self.conn_lost(id, &error.to_string());
                    self.wake_reader(id);
                    return;
                }
                Poll::Pending => {
                    io.full = true;
                    return self.full_conns.push(id);
                }
            }
        }
    }

    fn write_client(&mut self, id: u32, cx: &mut Context<'_>) {
        let mut left = TURN_BYTES;
        loop {
            let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let Some(out) = self.engine.client_out(id) else { return };
            if out.is_empty() || io.full {
                return;
            }
            match write(&mut io.socket, out, left, cx) {
                Poll::Ready(Ok(count)) => {
                    left -= count;
                    out.advance(count);
                    self.engine.client_written(id, count);
                }
                Poll::Ready(Err(_)) => return self.close_client(id),
                Poll::Pending => {
                    io.full = true;
                    return self.full_clients.push(id);
                }
            }
        }
    }

    /// Obeys the engine, and has the flusher woken when there is something to write.
    #[inline]
    fn after(&mut self) {
        while self.engine.has_news() {
            self.obey();
        }
        if !self.flushing {
            if self.engine.is_dirty() {
                self.flushing = true;
                if let Some(flusher) = &self.flusher {
                    flusher.wake_by_ref();
                }
            } else {
                self.stale = true;
            }
        }
    }

    #[cold]
    fn obey(&mut self) {
        let mut resumed = std::mem::take(&mut self.resumed);
        self.engine.resume_clients(&mut resumed);
        for id in resumed.drain(..) {
            if let Some(io) = self.clients.get_mut(id as usize).and_then(Option::as_mut)
                && let Some(resting) = io.resting.take()
            {
                resting.wake();
            }
        }
        self.resumed = resumed;
        while let Some(order) = self.engine.next_order() {
            match order {
                Order::Connect { conn, shard } => self.connect(conn, shard),
                Order::Close { conn } => {
                    if let Some(io) = self.conns.get_mut(conn as usize).and_then(Option::take) {
                        io.task.abort();
                    }
                }
                Order::Reconnect { conn } => {
                    if let Some(io) = self.conns.get_mut(conn as usize).and_then(Option::as_mut) {
                        io.socket = None;
                    }
                    self.wake_reader(conn);
                }
                Order::CloseClient { client } | Order::DropClient { client } => self.close_client(client),
                Order::Send { to, message } => self.send(to, message),
                Order::Alarm { at } => self.set_alarm(at),
            }
        }
    }

    fn connect(&mut self, conn: u32, shard: ShardId) {
        let Some(me) = self.me.upgrade() else { return };
        let endpoint: Endpoint = self.engine.topology().shard(shard).endpoint.clone();
        let name = self.engine.topology().shard(shard).name.clone();
        let task = tokio::task::spawn_local(connect::keep(me, conn, name, endpoint, self.patience));
        put(&mut self.conns, conn, ConnIo { socket: None, task: task.abort_handle(), reader: None, full: false });
    }

    /// What other workers have for this one's clients.
    fn messages(&mut self, letters: &mut Vec<Message>) {
        self.look_at_the_clock();
        for message in letters.drain(..) {
            self.engine.message(message);
        }
        self.after();
    }

    /// A worker that takes no more is not waited for.
    fn send(&mut self, to: u16, message: Message) {
        let refused = match self.peers.get(to as usize).map(|peer| peer.try_send(message)) {
            Some(Err(mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message))) => message,
            Some(Ok(())) | None => return,
        };
        self.engine.undelivered(to, &refused);
    }

    fn set_alarm(&mut self, at: u64) {
        let (me, at) = (self.me.clone(), self.start + Duration::from_micros(at));
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at.into()).await;
            let Some(worker) = me.upgrade() else { return };
            let mut this = worker.borrow_mut();
            this.stale = true;
            this.look_at_the_clock();
            this.engine.alarm();
            this.after();
        });
        if let Some(earlier) = self.alarm.replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    fn wake_reader(&mut self, id: u32) {
        if let Some(io) = self.conns.get_mut(id as usize).and_then(Option::as_mut)
            && let Some(reader) = io.reader.take()
        {
            reader.wake();
        }
    }

    fn close_client(&mut self, id: u32) {
        if let Some(io) = self.clients.get_mut(id as usize).and_then(Option::take) {
            io.task.abort();
            self.engine.client_gone(id);
        }
    }

    fn tick(&mut self, ticks: u32) {
        self.stale = true;
        self.look_at_the_clock();
        self.engine.tick();
        self.hear_hang_ups();
        for news in self.engine.take_news() {
            info!(%news, "the shards differ");
        }
        if ticks.is_multiple_of(TIDY_TICKS) {
            self.engine.tidy();
        }
        self.after();
    }

    /// Who waits is not read beyond a little: that it hung up behind more is seen here.
    fn hear_hang_ups(&mut self) {
        for (id, io) in self.clients.iter().enumerate() {
            if io.as_ref().is_some_and(|io| io.resting.is_some() && io.socket.is_read_closed()) {
                self.engine.client_hung_up(id as u32);
            }
        }
    }

    /// Nobody is listened to any more; what was asked is still answered.
    fn drain(&mut self) {
        info!(clients = self.engine.clients_left(), "stopping: clients get what they asked for");
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

/// Keeps the larger of two vectors' room and the contents of `kept`.
fn swap_back(kept: &mut Vec<u32>, mut spare: Vec<u32>) {
    if kept.is_empty() {
        std::mem::swap(kept, &mut spare);
    }
}

/// Writes `most` bytes at most. Pending when the socket takes nothing more for now, or others have their turn
/// first.
fn write(socket: &mut Socket, out: &crate::engine::Out, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if most == 0 {
        wake_after_others(cx);
        return Poll::Pending;
    }
    if let Some(bytes) = out.single() {
        return socket.poll_write(cx, &bytes[..bytes.len().min(most)]);
    }
    let mut slices = [IoSlice::new(&[]); 16];
    let count = out.slices(&mut slices, most);
    socket.poll_write_vectored(cx, &slices[..count])
}

/// Has the task woken when every socket that is ready has been asked for, which a plain waking would not
/// wait for.
fn wake_after_others(cx: &mut Context<'_>) {
    _ = pin!(yield_now()).poll(cx);
}

//! The engine: bytes of clients and servers in, bytes for clients and servers out. Pure.
//!
//! ```text
//! client bytes -> scan -> row -> plan -> frame into a connection's `out`, tag on its FIFO, slot opened
//! server bytes -> scan -> tag off the FIFO -> slot settled -> reply into the client's `out`, in order
//! ```
//!
//! It knows no socket and no clock: whoever drives it says what time it is, hands over what was
//! received, and writes what lies in the `out` of everything that was marked dirty. News for the
//! driver (connect, close) are [`Order`]s. Everything below is one thread's; nothing here blocks.

mod aside;
mod busy;
mod client;
mod clock;
mod conn;
mod failure;
mod functions;
mod gather;
mod inbox;
mod link;
mod local;
mod lookup;
mod merge;
mod monitor;
mod options;
mod out;
mod peers;
mod proxy;
mod pubsub;
mod reply;
mod request;
mod scripts;
mod session;
mod slowlog;
mod straight;
mod tally;
mod tracking;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use slab::Slab;

pub use client::About;
pub use options::{Credentials, Facts, Options, User};
pub use out::Out;
pub use peers::Message;
pub use pubsub::{Board, OutputLimits};

use crate::command::{self, Class};
use crate::metrics::{Labels, WorkerMetrics};
use crate::resp::{Proto, Span};
use crate::topology::{ShardId, Topology};
use busy::Probe;
use client::{Client, End, Park};
use conn::{Conn, Link, Use};
use functions::Functions;
use gather::Renames;
use local::{Advice, Pause, Readers};
use lookup::Lookups;
use monitor::Monitors;
use out::Pool;
use peers::Peers;
use pubsub::Hub;
use scripts::Scripts;
use session::{Queued, Reserve};
use slowlog::OwnLog;
use tally::Tally;
use tracking::Tracked;
use waiting::Waiting;

/// Where an index of no connection is needed.
const NONE: u32 = u32::MAX;

/// What a parked client may still send.
const PARKED_BYTES_MAX: usize = 4 * 1024;

/// Lines for the log that are remembered, so that none is told twice.
const TOLD_MAX: usize = 256;

/// What the driver is to do with sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect `conn` to its shard, and again whenever it is lost while it is shared.
    Connect { conn: u32, shard: ShardId },
    /// The connection is over and forgotten.
    Close { conn: u32 },
    /// The socket is broken or not to be trusted: close it, and connect anew.
    Reconnect { conn: u32 },
    /// Write what is left for the client, then close it.
    CloseClient { client: u32 },
    /// Close the client at once, whatever is left for it.
    DropClient { client: u32 },
    /// Give the message to worker `to`, or say that it could not be ([`Engine::undelivered`]).
    Send { to: u16, message: Message },
    /// Call [`Engine::alarm`] at this time, and not at the one that was asked for before.
    Alarm { at: u64 },
}

/// Why a connection to a server is not there (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Connect,
    Lost,
    Timeout,
    Protocol,
    Auth,
}

/// What the engine knows about one shard.
#[derive(Debug)]
struct ShardState {
    /// Shared connections to database 0, by protocol.
    shared: [u32; 2],
    /// Shared connections to other databases.
    others: HashMap<(Proto, u32), u32>,
    /// Further ones, over which nothing goes but what went there before.
    spares: Vec<u32>,
    /// Leases that nobody holds.
    idle: Vec<u32>,
    /// Leases there are.
    leases: usize,
    /// Those of transactions over several shards.
    reserve: Reserve,
    /// What the server calls its version, once it was asked.
    version: Option<String>,
    /// Whether a script keeps it busy.
    probe: Probe,
    functions: Functions,
    /// It calls itself Valkey, which counts its versions apart from Redis'.
    is_valkey: bool,
}

#[derive(Debug)]
pub struct Engine {
    options: Options,
    topology: Arc<Topology>,
    metrics: Arc<WorkerMetrics>,
    tally: Tally,
    /// Microseconds of the driver's clock.
    now: u64,
    /// The time of the tick before this one. Who was late by then has had a chance to be heard since: after a
    /// stall of ours the answers may be there, and unread.
    heard_by: u64,
    generation: u32,
    clients: Slab<Client>,
    conns: Slab<Conn>,
    shards: Vec<ShardState>,
    hub: Hub,
    waiting: Waiting,
    dirty_conns: Vec<u32>,
    dirty_clients: Vec<u32>,
    /// Clients that were parked and may go on.
    resume: Vec<(u32, u32)>,
    orders: VecDeque<Order>,
    /// Lines for the log that the driver has not taken.
    news: Vec<String>,
    /// Those that were news once.
    told: Vec<String>,
    pool: Pool,
    /// There is a pause, or somebody monitors: requests take the long way.
    unusual: bool,
    /// CLIENT PAUSE is in force.
    pause: Option<Pause>,
    readers: Readers,
    own_log: OwnLog,
    /// Calls by row of the command table, of all workers, before the last CONFIG RESETSTAT.
    calls_before: Vec<u64>,
    /// Clients whose next request waits for the pause's end.
    held: Vec<(u32, u32)>,
    /// Clients whose transactions wait for leases, the first one first.
    transactions: VecDeque<Queued>,
    /// Commands whose keys were brought together so far.
    gathers: u64,
    renames: Renames,
    lookups: Lookups,
    scripts: Scripts,
    peers: Peers,
    monitors: Monitors,
    tracked: Tracked,
    advice: Advice,
    /// Scratch: the arguments of the request at hand, the positions of its keys.
    spans: Vec<Span>,
    keys: Vec<u32>,
}

/// Places among the labels of what becomes of keys on several shards.
const CROSS_REFUSED: usize = 0;
const CROSS_PREPARED: usize = 1;
const CROSS_GATHERED: usize = 2;

/// The labels of [`WorkerMetrics`], in the order in which the engine counts.
#[must_use]
pub fn labels(topology: &Topology) -> Labels {
    Labels {
        commands: command::all().iter().map(|row| row.name).collect(),
        classes: const { &Class::NAMES },
        error_kinds: failure::KINDS,
        cross_kinds: &["refused", "prepared", "gathered"],
        backends: topology.shards().iter().map(|shard| shard.name.clone()).collect(),
    }
}

impl Engine {
    /// Every shard gets its first connection at once.
    #[must_use]
    pub fn new(options: Options, topology: Arc<Topology>, metrics: Arc<WorkerMetrics>) -> Self {
        let shards = topology.shards().iter().map(|_| ShardState::new()).collect();
        let mut engine = Self {
            options,
            topology,
            metrics,
            tally: Tally::default(),
            now: 0,
            heard_by: 0,
            generation: 0,
            clients: Slab::new(),
            conns: Slab::new(),
            shards,
            hub: Hub::default(),
            waiting: Waiting::default(),
            dirty_conns: Vec::new(),
            dirty_clients: Vec::new(),
            resume: Vec::new(),
            orders: VecDeque::new(),
            news: Vec::new(),
            told: Vec::new(),
            pool: Pool::default(),
            unusual: false,
            pause: None,
            readers: Readers::Unknown,
            own_log: OwnLog::default(),
            calls_before: Vec::new(),
            held: Vec::new(),
            transactions: VecDeque::new(),
            gathers: 0,
            renames: Renames::new(),
            lookups: Lookups::default(),
            scripts: Scripts::default(),
            peers: Peers::default(),
            monitors: Monitors::default(),
            tracked: Tracked::default(),
            advice: Advice::default(),
            spans: Vec::new(),
            keys: Vec::new(),
        };
        for index in 0..engine.shards.len() {
            engine.shared(ShardId(index as u16), Proto::Resp2, 0);
        }
        engine
    }

    /// Says what time it is; it never goes back.
    pub fn set_now(&mut self, now: u64) {
        self.tally.set_now(now, &self.metrics);
        self.now = now;
    }

    /// From now on keys live where this snapshot says. It speaks of the same shards in the same order;
    /// one that does not is ignored, since connections are numbered by them.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        let names =
            |topology: &Topology| -> Vec<String> { topology.shards().iter().map(|shard| shard.name.clone()).collect() };
        if names(&topology) == names(&self.topology) {
            self.topology = topology;
        }
    }

    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    // Clients.

    /// A client connected; the number names it until [`client_gone`](Self::client_gone).
    pub fn client_open(&mut self, about: About) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let mut client = Client::new(self.generation, About { since: self.now, active: self.now, ..about });
        if !self.options.users.is_empty() {
            client.session_mut().authenticated = false;
        }
        self.metrics.clients.inc();
        self.metrics.clients_total.inc();
        self.clients.insert(client) as u32
    }

    /// The client's socket is closed: whatever it still waits for is dropped when it comes.
    pub fn client_gone(&mut self, id: u32) {
        if self.is_committing(id) {
            self.metrics.clients.dec();
            return self.orphan(id);
        }
        let Some(mut client) = self.clients.try_remove(id as usize) else { return };
        self.metrics.clients.dec();
        client.out.clear();
        client.out.retire(&mut self.pool);
        self.hub.publishers.remove(&id);
        self.tracked.targets.remove(&client.about.id);
        if let Some(mut session) = client.session.take() {
            self.end_subscriptions(id, &session);
            if session.monitors {
                self.end_monitor(id);
            }
            let tracking = session.tracking.take();
            self.end_session(id, &session);
            tracking.into_iter().for_each(|tracking| self.end_tracking(*tracking));
        }
    }

    /// The client sends nothing more; it still gets what it asked for, unless it is held back: like
    /// Redis, what was not begun is then dropped.
    pub fn client_eof(&mut self, id: u32) {
        if !self.clients.contains(id as usize) {
            return;
        }
        let (held, blocked) = (self.is_held(id), self.is_blocked(id));
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        if client.end == End::Open {
            client.end = End::HalfClosed;
        }
        match client.end {
            End::HalfClosed if held => {
                // Its request goes with it; what it was owed before is still written.
                client.end = End::Closing;
                self.close_if_finished(id);
            }
            End::HalfClosed if blocked => self.give_up_blocked(id),
            _ => self.close_if_finished(id),
        }
    }

    /// Where the client's next bytes are to be received when a large request is under way.
    pub fn client_direct(&mut self, id: u32) -> Option<&mut [u8]> {
        self.clients.get_mut(id as usize)?.inbox.direct()
    }

    /// Whether the client's socket is to be read. One that may not go on is read a little; one that blocks as
    /// far as Redis reads it, so that its hanging up is seen behind all that it sent: what a server gives to
    /// somebody who is gone is lost.
    #[must_use]
    pub fn client_wants(&self, id: u32) -> bool {
        self.clients.get(id as usize).is_some_and(|client| {
            let blocks = client.session.as_ref().is_some_and(|session| session.is_blocked());
            let most = if blocks { self.options.query_bytes_max } else { PARKED_BYTES_MAX };
            client.end == End::Open && (client.park == Park::No || client.inbox.len() < most)
        })
    }

    #[must_use]
    pub fn client_out(&mut self, id: u32) -> Option<&mut Out> {
        self.clients.get_mut(id as usize).map(|client| &mut client.out)
    }

    /// The client's output was written, or some of it.
    #[inline]
    pub fn client_written(&mut self, id: u32, count: usize) {
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        self.metrics.bytes_out.add(count as u64);
        client.about.active = self.now;
        if client.out.is_empty() && client.slots.is_empty() {
            client.rest(&mut self.pool);
            if client.is_finished() {
                self.orders.push_back(Order::CloseClient { client: id });
            }
        }
        if client.park == Park::Window {
            self.resume.push((id, client.generation));
        }
    }

    // Connections.

    #[must_use]
    pub fn conn_out(&mut self, id: u32) -> Option<&mut Out> {
        self.conns.get_mut(id as usize)?.writable()
    }

    pub fn conn_direct(&mut self, id: u32) -> Option<&mut [u8]> {
        self.conns.get_mut(id as usize)?.inbox.direct()
    }

    /// Some of the connection's output was written.
    #[inline]
    pub fn conn_written(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        conn.sent = self.now;
        if !conn.waiters.is_empty() {
            self.release_waiters(id);
        }
    }

    // News.

    /// Connections and clients with something to write, each once.
    pub fn take_dirty(&mut self, conns: &mut Vec<u32>, clients: &mut Vec<u32>) {
        self.tally.settle(&self.metrics);
        conns.append(&mut self.dirty_conns);
        clients.append(&mut self.dirty_clients);
        for id in conns.iter() {
            if let Some(conn) = self.conns.get_mut(*id as usize) {
                conn.dirty = false;
                self.metrics.backends[conn.shard.0 as usize].requests.add(mem::take(&mut conn.asked));
            }
        }
        for id in clients.iter() {
            if let Some(client) = self.clients.get_mut(*id as usize) {
                client.dirty = false;
            }
        }
    }

    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty_conns.is_empty() || !self.dirty_clients.is_empty()
    }

    /// There are orders, or clients to resume.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.orders.is_empty() || !self.resume.is_empty()
    }

    /// Clients, and what is to be finished for some that are gone: elements put back, keys renamed.
    #[must_use]
    pub fn clients_left(&self) -> usize {
        self.clients.len() + self.unsettled() + self.renames.len()
    }

    /// No client is listened to any more; each is closed when it has got what it asked for.
    pub fn drain(&mut self) {
        let ids: Vec<u32> = self.clients.iter().map(|(id, _)| id as u32).collect();
        for id in ids {
            self.client_eof(id);
        }
    }

    #[must_use]
    pub fn has_conn(&self, id: u32) -> bool {
        self.conns.contains(id as usize)
    }

    /// Whether the connection can be used.
    #[must_use]
    pub fn is_conn_up(&self, id: u32) -> bool {
        self.conns.get(id as usize).is_some_and(|conn| conn.link.is_up())
    }

    /// What the connection is for, in a word for the log.
    #[must_use]
    pub fn conn_purpose(&self, id: u32) -> &'static str {
        match self.conns.get(id as usize).map(|conn| conn.purpose) {
            Some(Use::Shared) | None => "requests",
            Some(Use::Lease { .. }) => "lease",
            Some(Use::Party(_)) => "transactions",
            Some(Use::Hub) => "subscriptions",
            Some(Use::Track) => "waiting",
            Some(Use::Private { .. } | Use::Sink { .. }) => "tracking",
            Some(Use::Probe) => "probe",
        }
    }

    /// Whether the connection's last socket got as far as being used, and why it ended.
    #[must_use]
    pub fn conn_history(&self, id: u32) -> (bool, String) {
        self.conns
            .get(id as usize)
            .map_or((false, String::new()), |conn| (conn.link == Link::Connecting, conn.trouble.clone()))
    }

    #[must_use]
    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Lines for the log, each once; beyond `TOLD_MAX` different ones nothing is told.
    #[must_use]
    pub fn take_news(&mut self) -> Vec<String> {
        mem::take(&mut self.news)
    }

    /// Lets clients that were parked and may go on do so; their numbers are left in `resumed`.
    pub fn resume_clients(&mut self, resumed: &mut Vec<u32>) {
        while !self.resume.is_empty() {
            for (id, generation) in mem::take(&mut self.resume) {
                let parked = |client: &Client| client.generation == generation && client.park != Park::No;
                if self.clients.get(id as usize).is_some_and(parked) && self.client_resumed(id) {
                    resumed.push(id);
                }
            }
        }
    }

    // Private.

    /// The shared connection for such requests; [`NONE`] while its shard is not connected.
    #[inline(always)]
    fn shared(&mut self, shard: ShardId, proto: Proto, db: u32) -> u32 {
        let state = &self.shards[shard.0 as usize];
        let known = if db == 0 {
            state.shared[proto as usize]
        } else {
            state.others.get(&(proto, db)).copied().unwrap_or(NONE)
        };
        if known != NONE {
            return if self.conns[known as usize].link.is_shut() { NONE } else { known };
        }
        self.shared_new(shard, proto, db)
    }

    #[cold]
    fn shared_new(&mut self, shard: ShardId, proto: Proto, db: u32) -> u32 {
        // A shard that is known to be down would only be asked in vain.
        let base = self.shards[shard.0 as usize].shared[0];
        if base != NONE && self.conns[base as usize].link == Link::Down {
            return NONE;
        }
        let id = self.conn_new(shard, proto, db, Use::Shared);
        let state = &mut self.shards[shard.0 as usize];
        if db == 0 {
            state.shared[proto as usize] = id;
        } else {
            state.others.insert((proto, db), id);
        }
        id
    }

    fn conn_new(&mut self, shard: ShardId, proto: Proto, db: u32, purpose: Use) -> u32 {
        let id = self.conns.insert(Conn::new(shard, proto, db, purpose)) as u32;
        self.orders.push_back(Order::Connect { conn: id, shard });
        id
    }

    /// Forgets a connection; says whose it was.
    fn conn_over(&mut self, id: u32) -> ShardId {
        let conn = self.conns.remove(id as usize);
        self.metrics.backends[conn.shard.0 as usize].requests.add(conn.asked);
        conn.shard
    }

    #[inline]
    fn mark_conn(&mut self, id: u32) {
        let conn = &mut self.conns[id as usize];
        if !conn.dirty {
            conn.dirty = true;
            self.dirty_conns.push(id);
        }
    }

    #[inline]
    fn mark_client(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        if !client.dirty {
            client.dirty = true;
            self.dirty_clients.push(id);
        }
    }

    fn release_waiters(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let room = conn.out.len() * 2 <= self.options.backend_buffer_bytes_max
            && conn.fifo.len() * 2 <= self.options.backend_inflight_max;
        if room || conn.link.is_shut() {
            self.resume.append(&mut conn.waiters);
        }
    }

    /// The lowest version of all servers; a plausible one before any was heard.
    fn server_version(&self) -> String {
        let key =
            |version: &&String| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
        let known = self.shards.iter().filter_map(|shard| shard.version.as_ref());
        known.min_by_key(key).cloned().unwrap_or_else(|| "7.0.0".to_owned())
    }
}

impl ShardState {
    fn new() -> Self {
        Self {
            shared: [NONE; 2],
            others: HashMap::new(),
            spares: Vec::new(),
            idle: Vec::new(),
            leases: 0,
            reserve: Reserve::default(),
            version: None,
            probe: Probe::default(),
            functions: Functions::default(),
            is_valkey: false,
        }
    }
}

#[cfg(test)]
mod tests;

//! The engine in a world made of random numbers: clients that pipeline everything, in pieces of any
//! size, read slowly or not at all, and vanish; servers that are slow, mute, refuse, or break; limits
//! so small that everything waits for everything. The engine is driven as `worker.rs` drives it, and
//! every reply is compared with what the servers really did. The same seed plays the same game.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/rest.rs"]
mod rest;
#[path = "simulation/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Life};
use ledger::Ledger;
use random::Random;
use ringway::engine::{About, Credentials, Engine, Fault as Broken, Options, Order, Out, labels};
use ringway::metrics::{Metrics, WorkerMetrics};
use ringway::topology::{Endpoint, Kind, Shard, Spec, Topology};
use server::{Fault, Server};

const SHARDS: usize = 3;
/// Clients at one time.
const CLIENTS: usize = 12;
/// What a client's socket takes before it has to be read.
const SOCKET_BYTES: usize = 4096;
/// What one simulated read brings at most.
const SCRATCH_BYTES: usize = 64 * 1024;
const TICK: u64 = 100_000;
/// What twelve clients and their connections may make the proxy hold: values are up to 60 KB.
const BUFFERED_BYTES_MAX: i64 = 2 << 20;

struct ClientIo {
    client: Client,
    /// It does not read before this time.
    deaf_until: u64,
    /// The engine wanted nothing from it; nobody asks again before the engine says so.
    resting: bool,
    /// Its end of stream was told.
    ended: bool,
    full: bool,
}

struct ConnIo {
    shard: usize,
    /// None until the next attempt to connect, at `at`.
    server: Option<Server>,
    at: u64,
    mute_until: u64,
    full: bool,
}

#[derive(Default, Debug)]
struct Stats {
    clients: u64,
    asked: u64,
    failed: u64,
    served: u64,
    losses: u64,
    refusals: u64,
    timeouts: u64,
    vanished: u64,
    /// Transactions over shards, and those that only some of them ran.
    prepared: u64,
    partial: u64,
    returned: u64,
    buffered_max: i64,
}

struct World {
    engine: Engine,
    metrics: Arc<WorkerMetrics>,
    map: Arc<Topology>,
    random: Random,
    ledger: Ledger,
    now: u64,
    next_tick: u64,
    clients: BTreeMap<u32, ClientIo>,
    conns: BTreeMap<u32, ConnIo>,
    /// By shard: it cannot be connected before this time.
    down_until: [u64; SHARDS],
    /// Nothing goes wrong any more.
    calm: bool,
    fault: Option<Fault>,
    /// Every other request is a transaction over shards.
    trading: bool,
    /// Steps from one leap of the clock to the next while something is waited for.
    pace: usize,
    leases_max: usize,
    stats: Stats,
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let shard = |index: usize| Shard {
            name: char::from(b'a' + index as u8).to_string(),
            endpoint: Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 7001 + index as u16 },
            weight: 1,
        };
        let spec =
            Spec { shards: (0..SHARDS).map(shard).collect(), home: None, kind: Kind::Slots, colocate: Vec::new() };
        let map = Arc::new(Topology::build(&spec, 1).unwrap());
        let metrics = Metrics::new(labels(&map), 1).unwrap().worker(0);
        // Every other seed has limits in which nearly nothing fits.
        let tiny = seed.is_multiple_of(2);
        let leases_max = if seed.is_multiple_of(3) { 2 } else { 5 };
        let options = Options {
            client_inflight_max: if tiny { 4 } else { 64 },
            client_output_bytes_max: if tiny { 1024 } else { 64 * 1024 },
            backend_inflight_max: if tiny { 8 } else { 200 },
            backend_buffer_bytes_max: if tiny { 2048 } else { 128 * 1024 },
            leases_max,
            transaction_leases_max: if seed.is_multiple_of(4) { 1 } else { 3 },
            request_timeout: 1_000_000,
            script_timeout: 3_000_000,
            credentials: vec![Credentials::default(); SHARDS],
            ..Options::default()
        };
        let engine = Engine::new(options, Arc::clone(&map), Arc::clone(&metrics));
        let mut world = Self {
            engine,
            metrics,
            map,
            random: Random::new(seed),
            ledger: Ledger::default(),
            now: 1,
            next_tick: TICK,
            clients: BTreeMap::new(),
            conns: BTreeMap::new(),
            down_until: [0; SHARDS],
            calm: false,
            fault,
            trading: false,
            pace: 50,
            leases_max,
            stats: Stats::default(),
        };
        world.obey();
        world
    }

    /// Plays until `requests` were asked, lets everything come to rest, and looks at what is left.
    fn play(mut self, requests: u64) -> (Stats, Vec<String>) {
        while self.stats.asked < requests && self.ledger.wrong.is_empty() {
            self.step();
        }
        self.calm = true;
        self.down_until = [0; SHARDS];
        self.clients.values_mut().for_each(|io| io.deaf_until = 0);
        self.conns.values_mut().for_each(|io| io.mute_until = 0);
        self.until("every client has its answers", |world| world.clients.values().all(|io| io.client.is_content()));
        self.leave();
        self.until("no client is left", |world| world.engine.clients_left() == 0);
        self.rest();
        self.leases();
        self.ledger.close();
        self.stats.prepared = self.metrics.cross_shard[1].value();
        self.stats.partial = self.metrics.errors[partial()].value();
        if self.stats.buffered_max > BUFFERED_BYTES_MAX {
            self.ledger.blame(format!("{} bytes were buffered", self.stats.buffered_max));
        }
        self.stats.returned = self.ledger.returned;
        (self.stats, self.ledger.wrong)
    }

    /// Something happens somewhere.
    fn step(&mut self) {
        let micros = match self.random.within(0..2000) {
            0 => 20_000 + self.random.within(0..200_000) as u64,
            _ if self.calm => self.random.within(0..50) as u64,
            _ => self.random.within(0..200) as u64,
        };
        self.pass(micros);
        match self.random.within(0..20) {
            0 if !self.calm => self.misfortune(),
            1 if !self.calm => self.ask(),
            0..7 => self.proxy_reads_client(),
            7..11 => self.flush(),
            11..14 => self.server_works(),
            14..17 => self.proxy_reads_server(),
            17 => self.connect(),
            _ => self.client_reads(),
        }
    }

    fn pass(&mut self, micros: u64) {
        self.now += micros;
        self.engine.set_now(self.now);
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.engine.tick();
            self.obey();
            self.stats.buffered_max = self.stats.buffered_max.max(self.metrics.buffered_bytes.value());
        }
    }

    /// Steps until `done`, in a calm world; whoever waits for ever is a fault.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut steps = 0;
        while !done(self) && self.ledger.wrong.is_empty() {
            self.step();
            if steps % self.pace == 0 {
                self.pass(2_000);
            }
            steps += 1;
            if steps > 150_000 {
                let stuck: Vec<String> = self
                    .clients
                    .iter()
                    .filter(|(_, io)| !io.client.is_content())
                    .map(|(id, io)| {
                        format!(
                            "client {id} resting {} {:?} {:?}",
                            io.resting,
                            io.client.life,
                            io.client.pending.front()
                        )
                    })
                    .collect();
                self.ledger.blame(format!("never: {what}: {stuck:#?}"));
            }
        }
    }

    // Clients.

    fn ask(&mut self) {
        if self.clients.len() < CLIENTS {
            self.open();
        }
        let Some(id) = self.any_client() else { return };
        let io = self.clients.get_mut(&id).unwrap();
        if io.client.may_ask() {
            let before = io.client.asked;
            if self.trading && self.random.once_in(2) {
                io.client.trade(&self.map, &mut self.ledger, &mut self.random);
            } else {
                io.client.ask(&self.map, &mut self.ledger, &mut self.random);
            }
            self.stats.asked += io.client.asked - before;
        }
    }

    fn open(&mut self) -> u32 {
        self.stats.clients += 1;
        let id = self.engine.client_open(About { id: self.stats.clients, ..About::default() });
        let client = Client::new(self.stats.clients);
        let io = ClientIo { client, deaf_until: 0, resting: false, ended: false, full: false };
        assert!(self.clients.insert(id, io).is_none(), "the number of a client that is there");
        id
    }

    fn any_client(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.random.pick(&ids))
    }

    /// As `Worker::read_client`.
    fn proxy_reads_client(&mut self) {
        let Some(id) = self.any_client() else { return };
        let io = self.clients.get_mut(&id).unwrap();
        if io.resting || io.ended {
            return;
        }
        if !self.engine.client_wants(id) {
            io.resting = true;
            return;
        }
        if io.client.outgoing.is_empty() {
            if io.client.life == Life::HalfClosed {
                io.ended = true;
                self.engine.client_eof(id);
                self.obey();
            }
            return;
        }
        let count = self.random.chunk(io.client.outgoing.len().min(SCRATCH_BYTES));
        let filled = self.engine.client_direct(id).map(|buf| {
            let count = count.min(buf.len());
            let bytes: Vec<u8> = io.client.outgoing.drain(..count).collect();
            buf[..count].copy_from_slice(&bytes);
            count
        });
        match filled {
            Some(count) => self.engine.client_filled(id, count),
            None => {
                let bytes: Vec<u8> = io.client.outgoing.drain(..count).collect();
                self.engine.client_bytes(id, &bytes);
            }
        }
        self.obey();
    }

    fn client_reads(&mut self) {
        let Some(id) = self.any_client() else { return };
        let io = self.clients.get_mut(&id).unwrap();
        if self.now >= io.deaf_until && !io.client.socket.is_empty() {
            let count = self.random.chunk(io.client.socket.len());
            let before = io.client.failed;
            io.client.read(count, &mut self.ledger);
            self.stats.failed += io.client.failed - before;
        }
    }

    /// The proxy closes a client: it was to leave, and has got what it was owed.
    fn close(&mut self, id: u32) {
        let Some(mut io) = self.clients.remove(&id) else { return };
        let unwritten = self.engine.client_out(id).map_or(0, |out| out.len());
        if unwritten > 0 {
            self.ledger.blame(format!("client {id} was closed with {unwritten} bytes to be written"));
        }
        self.engine.client_gone(id);
        let count = io.client.socket.len();
        io.client.read(count, &mut self.ledger);
        let (life, owed) = (io.client.life, io.client.pending.front());
        let fair = match life {
            Life::Open => false,
            Life::Leaving => owed.is_none(),
            Life::HalfClosed => owed.is_none_or(|pending| pending.blocks),
        };
        if !fair {
            self.ledger.blame(format!("client {id} was closed, {life:?}, and was owed {owed:?}"));
        }
    }

    /// Its socket breaks.
    fn vanish(&mut self, id: u32) {
        self.clients.remove(&id);
        self.engine.client_gone(id);
        self.obey();
    }

    fn leave(&mut self) {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        for id in ids {
            if self.random.once_in(2) {
                self.vanish(id);
            } else if let Some(io) = self.clients.get_mut(&id)
                && io.client.life == Life::Open
            {
                io.client.life = Life::HalfClosed;
            }
        }
    }

    // Servers.

    fn any_conn(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.conns.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.random.pick(&ids))
    }

    fn connect(&mut self) {
        let waiting = |io: &&ConnIo| io.server.is_none() && io.at <= self.now;
        let Some((&id, _)) = self.conns.iter().find(|(_, io)| waiting(io)) else { return };
        let again = self.now + self.random.within(1..100_000) as u64;
        let io = self.conns.get_mut(&id).unwrap();
        if self.now < self.down_until[io.shard] {
            io.at = again;
            self.stats.refusals += 1;
            self.engine.conn_lost(id, Broken::Connect, "connection refused");
        } else {
            io.server = Some(Server::new(io.shard));
            io.full = false;
            self.engine.conn_connected(id);
        }
        self.obey();
    }

    fn server_works(&mut self) {
        let Some(id) = self.any_conn() else { return };
        let io = self.conns.get_mut(&id).unwrap();
        if self.now < io.mute_until {
            return;
        }
        if let Some(server) = &mut io.server {
            let count = 1 + self.random.within(0..8);
            self.stats.served +=
                server.serve(count, self.now, &mut self.ledger, &mut self.random, &mut self.fault) as u64;
        }
    }

    /// As `Worker::read_conn`.
    fn proxy_reads_server(&mut self) {
        let Some(id) = self.any_conn() else { return };
        let Some(server) = &mut self.conns.get_mut(&id).unwrap().server else { return };
        if server.output.is_empty() {
            return;
        }
        let count = self.random.chunk(server.output.len().min(SCRATCH_BYTES));
        let filled = self.engine.conn_direct(id).map(|buf| {
            let count = count.min(buf.len());
            let bytes: Vec<u8> = server.output.drain(..count).collect();
            buf[..count].copy_from_slice(&bytes);
            count
        });
        match filled {
            Some(count) => self.engine.conn_filled(id, count),
            None => {
                let bytes: Vec<u8> = server.output.drain(..count).collect();
                self.engine.conn_bytes(id, &bytes);
            }
        }
        self.obey();
    }

    /// The socket is gone; what was on its way may be carried out all the same.
    fn unplug(&mut self, id: u32) {
        let again = self.now + self.random.within(1..300_000) as u64;
        let Some(io) = self.conns.get_mut(&id) else { return };
        io.at = again;
        if let Some(mut server) = io.server.take()
            && self.random.once_in(2)
        {
            let count = self.random.within(0..20);
            server.serve(count, self.now, &mut self.ledger, &mut self.random, &mut None);
        }
    }

    fn lose(&mut self, id: u32) {
        if self.conns.get(&id).is_some_and(|io| io.server.is_some()) {
            self.stats.losses += 1;
            self.unplug(id);
            self.engine.conn_lost(id, Broken::Lost, "connection reset");
            self.obey();
        }
    }

    /// Something goes wrong, not too often.
    fn misfortune(&mut self) {
        let longest = if self.random.once_in(6) { 2_500_000 } else { 200_000 };
        let until = self.now + self.random.within(0..longest) as u64;
        // Where servers can be relied on clients go all the more often.
        let what = if self.ledger.reliable { 6 + self.random.within(0..12) } else { self.random.within(0..200) };
        match what {
            0..3 => {
                if let Some(id) = self.any_conn() {
                    self.lose(id);
                }
            }
            3 => {
                let shard = self.random.within(0..SHARDS);
                self.down_until[shard] = until;
                let ids: Vec<u32> = self.conns.iter().filter(|(_, io)| io.shard == shard).map(|(id, _)| *id).collect();
                ids.into_iter().for_each(|id| self.lose(id));
            }
            4..6 => {
                if let Some(io) = self.any_conn().and_then(|id| self.conns.get_mut(&id)) {
                    io.mute_until = until;
                }
            }
            6..12 => {
                if let Some(io) = self.any_client().and_then(|id| self.clients.get_mut(&id)) {
                    io.deaf_until = until;
                }
            }
            12..15 => {
                if let Some(id) = self.any_client() {
                    self.stats.vanished += 1;
                    self.vanish(id);
                }
            }
            15..18 => {
                if let Some(io) = self.any_client().and_then(|id| self.clients.get_mut(&id))
                    && io.client.life == Life::Open
                {
                    io.client.life = Life::HalfClosed;
                }
            }
            _ => {}
        }
    }

    // What the worker does.

    /// As `Worker::flush`, with sockets that take what they like.
    fn flush(&mut self) {
        let full = |io: &bool| *io;
        let mut conns: Vec<u32> = self.conns.iter().filter(|(_, io)| full(&io.full)).map(|(id, _)| *id).collect();
        let mut clients: Vec<u32> = self.clients.iter().filter(|(_, io)| full(&io.full)).map(|(id, _)| *id).collect();
        self.engine.take_dirty(&mut conns, &mut clients);
        for id in conns {
            let Some(io) = self.conns.get_mut(&id) else { continue };
            io.full = false;
            let Some(server) = &mut io.server else { continue };
            while let Some(out) = self.engine.conn_out(id) {
                let room = SCRATCH_BYTES.saturating_sub(server.input.len());
                if out.is_empty() {
                    break;
                }
                if room == 0 || self.random.once_in(3) {
                    io.full = true;
                    break;
                }
                write(out, room, &mut server.input, &mut self.random);
                self.engine.conn_written(id);
            }
        }
        for id in clients {
            let Some(io) = self.clients.get_mut(&id) else { continue };
            io.full = false;
            while let Some(out) = self.engine.client_out(id) {
                let room = SOCKET_BYTES.saturating_sub(io.client.socket.len());
                if out.is_empty() {
                    break;
                }
                if room == 0 || self.random.once_in(3) {
                    io.full = true;
                    break;
                }
                let count = write(out, room, &mut io.client.socket, &mut self.random);
                self.engine.client_written(id, count);
            }
        }
        self.obey();
    }

    /// As `Worker::after`.
    fn obey(&mut self) {
        let mut resumed = Vec::new();
        while self.engine.has_news() {
            self.engine.resume_clients(&mut resumed);
            for id in resumed.drain(..) {
                if let Some(io) = self.clients.get_mut(&id) {
                    io.resting = false;
                }
            }
            while let Some(order) = self.engine.next_order() {
                match order {
                    Order::Connect { conn, shard } => {
                        let at = self.now + self.random.within(0..30_000) as u64;
                        let io = ConnIo { shard: shard.0 as usize, server: None, at, mute_until: 0, full: false };
                        assert!(self.conns.insert(conn, io).is_none(), "the number of a connection that is there");
                    }
                    Order::Close { conn } => {
                        self.unplug(conn);
                        assert!(self.conns.remove(&conn).is_some(), "a connection is closed twice");
                    }
                    Order::Reconnect { conn } => {
                        self.stats.timeouts += 1;
                        self.unplug(conn);
                    }
                    Order::CloseClient { client } => self.close(client),
                    Order::Alarm { .. } | Order::Send { .. } => {}
                    Order::DropClient { client } => self.ledger.blame(format!("client {client} was dropped")),
                }
            }
        }
    }
}

/// The place of SHARDPARTIAL among the kinds of errors.
fn partial() -> usize {
    let metrics = labels(&World::new(1, None).map);
    metrics.error_kinds.iter().position(|kind| *kind == "SHARDPARTIAL").unwrap()
}

/// Some of what is to be written goes into a socket.
fn write(out: &mut Out, room: usize, socket: &mut std::collections::VecDeque<u8>, random: &mut Random) -> usize {
    let bytes = if let Some(bytes) = out.single() {
        bytes.to_vec()
    } else {
        let mut slices = [std::io::IoSlice::new(&[]); 16];
        let count = out.slices(&mut slices, usize::MAX);
        slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect()
    };
    let count = random.chunk(bytes.len().min(room));
    socket.extend(&bytes[..count]);
    out.advance(count);
    count
}

/// The games that are played, or the one that is asked for.
fn seeds() -> Vec<u64> {
    match std::env::var("SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=24).collect(),
    }
}

#[test]
fn every_client_gets_its_replies_whatever_happens() {
    let seeds = seeds();
    let (mut prepared, mut partial) = (0, 0);
    for seed in seeds {
        let (stats, wrong) = World::new(seed, None).play(1500);
        (prepared, partial) = (prepared + stats.prepared, partial + stats.partial);
        println!("seed {seed}: {stats:?}");
        assert!(wrong.is_empty(), "SIMULATION_SEED={seed}:\n{}", wrong.join("\n"));
    }
    println!("transactions over shards {prepared}, ran by some of them {partial}");
}

/// Transactions over shards in all their forms, and losses at every point of them: what a client is
/// told of each is what happened.
#[test]
fn transactions_over_shards_say_what_happened() {
    let (mut prepared, mut partial, mut vanished) = (0, 0, 0);
    let seeds = seeds();
    for seed in &seeds {
        let seed = *seed;
        let (stats, wrong) = World { trading: true, ..World::new(seed, None) }.play(1500);
        (prepared, partial, vanished) = (prepared + stats.prepared, partial + stats.partial, vanished + stats.vanished);
        assert!(wrong.is_empty(), "SIMULATION_SEED={seed}:\n{}", wrong.join("\n"));
    }
    println!("transactions over shards {prepared}, ran by some of them {partial}, clients vanished {vanished}");
    let few = prepared < 400 || partial < 20;
    assert!(!few || seeds.len() == 1, "prepared {prepared}, partial {partial}");
}

/// Clients go at any point of their transactions, and nothing else goes wrong: each transaction runs
/// on all its shards or on none.
#[test]
fn transactions_of_clients_that_vanish_are_whole() {
    let (mut prepared, mut vanished) = (0, 0);
    for seed in seeds() {
        let mut world = World { trading: true, ..World::new(seed, None) };
        world.ledger.reliable = true;
        let (stats, wrong) = world.play(1000);
        (prepared, vanished) = (prepared + stats.prepared, vanished + stats.vanished);
        assert!(wrong.is_empty(), "SIMULATION_SEED={seed}:\n{}", wrong.join("\n"));
    }
    println!("transactions over shards {prepared}, clients vanished {vanished}");
}

/// The checker is worth something: servers that mix up their replies are noticed. Where a fault hits
/// the last request of a connection the engine itself notices and closes it, and no client is wronged.
#[test]
fn planted_faults_are_noticed() {
    for fault in [Fault::Drop, Fault::Duplicate, Fault::Swap, Fault::Foreign, Fault::Garble] {
        let mut noticed = 0;
        for seed in 1..=10 {
            let (stats, wrong) = World::new(seed, Some(fault)).play(1500);
            noticed += usize::from(!wrong.is_empty());
            let first = wrong.first().and_then(|what| what.lines().next()).unwrap_or("nobody was wronged");
            println!("{fault:?}, seed {seed}, after {} requests: {first}", stats.asked);
        }
        assert!(noticed >= 6, "{fault:?} went unnoticed in {} of 10 games", 10 - noticed);
    }
}

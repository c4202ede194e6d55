//! The engine driven by bytes alone: clients and servers are strings, nothing has a socket.
//!
//! ```text
//! rig.send(client, "DBSIZE")   rig.asked(0) -> ["DBSIZE"]   rig.tell(0, ":3\r\n")   rig.got(client)
//! ```

use std::collections::VecDeque;

use super::*;
use crate::metrics::Metrics;
use crate::resp::{Args, Limits, RequestScanner, Scan, request};
use crate::topology::{Colocate, Endpoint, Kind, Shard, Spec};

mod busy;
mod ends;
mod gather;
mod peers;
mod prepared;
mod sessions;

/// An engine over servers that say what the test says, and its clients.
pub(super) struct Rig {
    pub(super) engine: Engine,
    /// Connections that have a socket, with the shard of each.
    linked: Vec<(u32, ShardId)>,
    /// By shard: what was asked and is not answered yet, with the connection that it came on.
    asked: Vec<VecDeque<(u32, String)>>,
    clients: u64,
    /// What other workers were sent.
    pub(super) letters: Vec<(u16, Message)>,
}

pub(super) fn options(shards: usize) -> Options {
    Options {
        leases_max: 4,
        credentials: vec![Credentials::default(); shards],
        epoch: 1_700_000_000_000_000,
        facts: Facts { version: "1.2.3", port: 7379, pid: 42, clients_max: 500, threads: 1, ..Facts::default() },
        ..Options::default()
    }
}

impl Rig {
    /// `count` shards called `a`, `b`, ..., all connected.
    pub(super) fn of(count: usize) -> Self {
        Self::with(count, options(count))
    }

    pub(super) fn with(count: usize, options: Options) -> Self {
        let shard = |index: usize| Shard {
            name: char::from(b'a' + index as u8).to_string(),
            endpoint: Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 7001 + index as u16 },
            weight: 1,
        };
        let spec =
            Spec { shards: (0..count).map(shard).collect(), home: None, kind: Kind::Slots, colocate: Vec::new() };
        let topology = Arc::new(Topology::build(&spec, 1).unwrap());
        let metrics = Metrics::new(labels(&topology), 1).unwrap();
        let engine = Engine::new(options, topology, metrics.worker(0));
        let mut rig =
            Self { engine, linked: Vec::new(), asked: vec![VecDeque::new(); count], clients: 0, letters: Vec::new() };
        rig.settle();
        rig
    }

    /// A new client.
    pub(super) fn client(&mut self) -> u32 {
        self.clients += 1;
        self.engine.client_open(About { id: self.clients, peer: "10.0.0.9:5".to_owned(), ..About::default() })
    }

    /// A new client that speaks RESP3.
    pub(super) fn client3(&mut self) -> u32 {
        let client = self.client();
        self.send(client, "HELLO 3");
        assert!(self.got(client).starts_with("%7\r\n"));
        client
    }

    /// The client sends one request; words are separated by single blanks.
    pub(super) fn send(&mut self, client: u32, line: &str) {
        let mut frame = Vec::new();
        request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        self.engine.client_bytes(client, &frame);
        self.settle();
    }

    /// What the client received since it was last looked at.
    pub(super) fn got(&mut self, client: u32) -> String {
        self.settle();
        let Some(out) = self.engine.client_out(client) else { return String::new() };
        let bytes = drained(out);
        self.engine.client_written(client, bytes.len());
        self.settle();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The requests that wait at a shard, the oldest first.
    pub(super) fn asked(&mut self, shard: usize) -> Vec<String> {
        self.settle();
        self.asked[shard].iter().map(|(_, line)| line.clone()).collect()
    }

    /// The shard answers the oldest request that waits there.
    pub(super) fn tell(&mut self, shard: usize, reply: &str) {
        let (conn, _) = self.asked[shard].pop_front().expect("somebody asked");
        self.engine.conn_bytes(conn, reply.as_bytes());
        self.settle();
    }

    /// Shards from the first on answer, one reply each.
    pub(super) fn tell_all(&mut self, replies: &[&str]) {
        for (shard, reply) in replies.iter().enumerate() {
            self.tell(shard, reply);
        }
    }

    /// Every connection to the shard breaks and none comes back.
    pub(super) fn lose(&mut self, shard: usize) {
        self.asked[shard].clear();
        for (conn, at) in std::mem::take(&mut self.linked) {
            if at == ShardId(shard as u16) {
                self.engine.conn_lost(conn, Fault::Lost, "it broke");
                self.engine.conn_lost(conn, Fault::Connect, "connection refused");
            } else {
                self.linked.push((conn, at));
            }
        }
        self.settle();
    }

    /// Two ticks: who is late is told at the second.
    pub(super) fn ticks(&mut self) {
        self.engine.tick();
        self.engine.tick();
    }

    /// The driver's work: sockets are made, greetings answered, requests taken to their shards.
    pub(super) fn settle(&mut self) {
        let mut resumed = Vec::new();
        loop {
            self.engine.resume_clients(&mut resumed);
            let mut idle = true;
            while let Some(order) = self.engine.next_order() {
                idle = false;
                match order {
                    Order::Connect { conn, shard } => {
                        self.engine.conn_connected(conn);
                        self.linked.push((conn, shard));
                    }
                    Order::Close { conn } => self.linked.retain(|(known, _)| *known != conn),
                    Order::Send { to, message } => self.letters.push((to, message)),
                    Order::Reconnect { .. } | Order::Alarm { .. } => {}
                    Order::CloseClient { client } | Order::DropClient { client } => self.engine.client_gone(client),
                }
            }
            self.engine.take_dirty(&mut Vec::new(), &mut Vec::new());
            for (conn, shard) in self.linked.clone() {
                let Some(out) = self.engine.conn_out(conn) else { continue };
                let bytes = drained(out);
                self.engine.conn_written(conn);
                for line in lines(&bytes) {
                    idle = false;
                    if line.starts_with("HELLO") {
                        let hello = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n";
                        self.engine.conn_bytes(conn, hello);
                    } else {
                        self.asked[shard.0 as usize].push_back((conn, line));
                    }
                }
            }
            if idle {
                return;
            }
        }
    }
}

/// A key on the shard.
pub(super) fn on(rig: &Rig, shard: usize) -> String {
    let here = |key: &String| rig.engine.topology().shard_of(key.as_bytes()) == ShardId(shard as u16);
    (0..).map(|n| format!("k{n}")).find(here).expect("every shard has keys")
}

fn drained(out: &mut Out) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 16];
        let count = out.slices(&mut slices, usize::MAX);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        out.advance(bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

/// Requests as lines of words.
fn lines(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut spans = Vec::new();
    while !bytes.is_empty() {
        let Ok(Scan::Frame { len, .. }) = RequestScanner::default().scan(bytes, &Limits::default(), true, &mut spans)
        else {
            panic!("no whole request: {:?}", String::from_utf8_lossy(bytes));
        };
        let args = Args::new(&bytes[..len], &spans);
        lines.push(args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>().join(" "));
        bytes = &bytes[len..];
    }
    lines
}

/// One client's request to three shards, their replies in one round, and the answer.
fn check(line: &str, replies: &[&str], expected: &str) {
    let mut rig = Rig::of(replies.len());
    let client = rig.client();
    rig.send(client, line);
    rig.tell_all(replies);
    assert_eq!(rig.got(client), expected, "{line}");
}

/// A topology of `count` shards on which every key without a tag is at shard `at`.
fn pinned(count: usize, at: usize) -> Arc<Topology> {
    let shard = |index: usize| Shard {
        name: char::from(b'a' + index as u8).to_string(),
        endpoint: Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 7001 + index as u16 },
        weight: 1,
    };
    let rule = Colocate { pattern: "*".to_owned(), shard: Some(shard(at).name) };
    let shards = (0..count).map(shard).collect();
    Arc::new(Topology::build(&Spec { shards, home: None, kind: Kind::Slots, colocate: vec![rule] }, 2).unwrap())
}

#[test]
fn a_new_topology_counts_from_the_next_request_on() {
    let mut rig = Rig::of(3);
    let client = rig.client();
    for at in [2, 0, 1] {
        rig.engine.set_topology(pinned(3, at));
        rig.send(client, "GET k");
        assert_eq!(rig.asked(at), ["GET k"]);
        rig.tell(at, "$1\r\nv\r\n");
        assert_eq!(rig.got(client), "$1\r\nv\r\n");
    }
    rig.engine.set_topology(pinned(2, 0));
    assert_eq!(rig.engine.topology().shards().len(), 3, "other shards than those that are connected");
}

#[test]
fn a_denied_command_does_not_run_in_a_transaction_either() {
    let deny = vec![crate::command::lookup(b"keys").unwrap()];
    let mut rig = Rig::with(1, Options { deny, ..options(1) });
    let client = rig.client();
    let denied = "-NOPERM the command 'keys' is denied by [commands] deny\r\n";
    rig.send(client, "KEYS *");
    assert_eq!(rig.got(client), denied);
    for line in ["MULTI", "KEYS *", "EXEC"] {
        rig.send(client, line);
    }
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(rig.got(client), format!("+OK\r\n{denied}{aborted}"));
    assert!(rig.asked(0).is_empty());
}

#[test]
fn all_shards_answer_as_one() {
    check("DBSIZE", &[":1\r\n", ":2\r\n", ":4\r\n"], ":7\r\n");
    check("LASTSAVE", &[":5\r\n", ":2\r\n"], ":2\r\n");
    check("KEYS *", &["*1\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n$1\r\nb\r\n"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    check("SCRIPT EXISTS x y", &["*2\r\n:1\r\n:1\r\n", "*2\r\n:0\r\n:1\r\n"], "*2\r\n:0\r\n:1\r\n");
    check("BGSAVE", &["+Background saving started\r\n"; 2], "+Background saving started\r\n");
    check("BGSAVE", &["+Background saving started\r\n", "+Later\r\n"], "+a: Background saving started; b: Later\r\n");
}

#[test]
fn a_failure_is_the_answer_and_names_who_ran() {
    let partial = "-SHARDPARTIAL it ran on a; shard b (10.0.0.1:7002) answered: READONLY no\r\n";
    check("FLUSHALL", &["+OK\r\n", "-READONLY no\r\n"], partial);
    check("CONFIG RESETSTAT", &["+OK\r\n", "-READONLY no\r\n"], partial);
    check("FLUSHALL", &["-READONLY no\r\n", "-LOADING x\r\n"], "-READONLY no\r\n");
    check("DBSIZE", &[":1\r\n", "-LOADING x\r\n"], "-LOADING x\r\n");
    let mut rig = Rig::of(2);
    let client = rig.client();
    rig.lose(1);
    rig.send(client, "FLUSHALL");
    assert!(rig.got(client).starts_with("-SHARDDOWN shard b (10.0.0.1:7002) "));
    assert_eq!(rig.asked(0), [""; 0], "a write is not begun unless all are there");
}

#[test]
fn a_random_key_is_of_a_shard_that_has_one() {
    for client3 in [false, true] {
        let mut rig = Rig::of(3);
        let client = if client3 { rig.client3() } else { rig.client() };
        let null = if client3 { "_\r\n" } else { "$-1\r\n" };
        rig.send(client, "RANDOMKEY");
        assert_eq!(rig.asked(2), ["DBSIZE"]);
        rig.tell_all(&[":0\r\n", ":9\r\n", ":0\r\n"]);
        assert_eq!((rig.asked(0), rig.asked(1)), (vec![], vec!["RANDOMKEY".to_owned()]));
        rig.tell(1, null);
        assert_eq!(rig.got(client), "", "it expired: the others are tried");
        rig.tell(2, null);
        rig.tell(0, "$1\r\nk\r\n");
        assert_eq!(rig.got(client), "$1\r\nk\r\n");
        rig.send(client, "RANDOMKEY");
        rig.tell_all(&[":0\r\n"; 3]);
        assert_eq!(rig.got(client), null, "nobody has any");
    }
}

#[test]
fn a_scan_goes_from_shard_to_shard() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    let mut turn = |line: &str, shard: usize, asked: &str, reply: &str, expected: &str| {
        rig.send(client, line);
        assert_eq!(rig.asked(shard), [asked]);
        rig.tell(shard, reply);
        assert_eq!(rig.got(client), expected, "{line}");
    };
    turn(
        "SCAN 0 COUNT 5",
        0,
        "SCAN 0 COUNT 5",
        "*2\r\n$1\r\n3\r\n*1\r\n$1\r\nk\r\n",
        "*2\r\n$4\r\n3072\r\n*1\r\n$1\r\nk\r\n",
    );
    turn("SCAN 3072", 0, "SCAN 3", "*2\r\n$1\r\n0\r\n*0\r\n", "*2\r\n$1\r\n1\r\n*0\r\n");
    turn("SCAN 1 MATCH x", 1, "SCAN 0 MATCH x", "*2\r\n$1\r\n7\r\n*0\r\n", "*2\r\n$4\r\n7169\r\n*0\r\n");
    turn("SCAN 7169", 1, "SCAN 7", "*2\r\n$1\r\n0\r\n*0\r\n", "*2\r\n$1\r\n0\r\n*0\r\n");
    rig.send(client, "SCAN 2");
    assert_eq!(rig.got(client), "-ERR invalid cursor\r\n");
}

/// What two shards say when they are asked for `name`.
fn former(name: &str, value: &str) -> String {
    format!("*2\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len())
}

#[test]
fn a_change_of_parameters_is_made_by_all() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    rig.send(client, "CONFIG SET maxmemory 9 hz 20");
    assert_eq!(rig.asked(1), ["CONFIG GET hz maxmemory"]);
    let both = "*4\r\n$2\r\nhz\r\n$2\r\n10\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n";
    rig.tell_all(&[both, both]);
    assert_eq!(rig.asked(1), ["CONFIG SET hz 20"]);
    rig.tell_all(&["+OK\r\n"; 2]);
    assert_eq!(rig.asked(1), ["CONFIG SET maxmemory 9"], "what may evict comes last");
    rig.tell_all(&["+OK\r\n"; 2]);
    assert_eq!(rig.got(client), "+OK\r\n");

    rig.send(client, "CONFIG SET maxmemory 9 hz 20");
    rig.tell_all(&[both, both]);
    rig.tell_all(&["+OK\r\n"; 2]);
    rig.tell_all(&["+OK\r\n", "-ERR no\r\n"]);
    assert_eq!(rig.asked(0), ["CONFIG SET hz 10 maxmemory 0"]);
    assert_eq!(rig.asked(1), ["CONFIG SET hz 10"], "each what it had changed");
    rig.tell_all(&["+OK\r\n"; 2]);
    assert_eq!(rig.got(client), "-ERR no\r\n");
}

#[test]
fn a_refused_change_is_set_back() {
    let mut rig = Rig::of(3);
    let client = rig.client3();
    let (ten, eleven) = (former("hz", "10"), former("hz", "11"));
    rig.send(client, "CONFIG SET hz 20");
    rig.send(client, "DBSIZE");
    rig.tell_all(&[&ten, &eleven, &ten]);
    rig.tell_all(&[":1\r\n"; 3]);
    rig.tell_all(&["+OK\r\n", "+OK\r\n", "-ERR no\r\n"]);
    assert_eq!(
        (rig.asked(0), rig.asked(1)),
        (vec!["CONFIG SET hz 10".to_owned()], vec!["CONFIG SET hz 11".to_owned()])
    );
    assert_eq!(rig.got(client), "");
    rig.tell_all(&["+OK\r\n"; 2]);
    assert_eq!(rig.got(client), "-ERR no\r\n:3\r\n", "the reply behind it kept its place");
    assert_eq!(rig.asked(2), [""; 0]);

    // Setting back fails, because the shard is gone by then.
    rig.send(client, "CONFIG SET hz 20");
    rig.tell_all(&[&ten, &ten, &ten]);
    rig.tell_all(&["+OK\r\n", "-ERR no\r\n"]);
    rig.lose(2);
    rig.tell(0, "+OK\r\n");
    let said = rig.got(client);
    assert_eq!(said, "-SHARDPARTIAL the former values could not be set again on c, after: ERR no\r\n");

    // Everybody refuses: there is nothing to set back.
    let mut rig = Rig::of(2);
    let client = rig.client();
    rig.send(client, "CONFIG SET nope 1");
    rig.tell_all(&["*0\r\n"; 2]);
    rig.tell_all(&["-ERR Unknown option\r\n"; 2]);
    assert_eq!(rig.got(client), "-ERR Unknown option\r\n");
}

#[test]
fn what_is_not_the_servers_is_refused_by_name() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    let mut refused = |line: &str, name: &str, why: &str| {
        rig.send(client, line);
        assert!(rig.asked(0)[0].starts_with("CONFIG GET "), "{line}");
        rig.tell(0, "*4\r\n$11\r\nrequirepass\r\n$1\r\nx\r\n$3\r\ndir\r\n$2\r\n/a\r\n");
        let expected = format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}\r\n");
        assert_eq!(rig.got(client), expected, "{line}");
        assert_eq!(rig.asked(0), [""; 0]);
    };
    let server = "it belongs to each server: set it there, not through Ringway";
    let proxy = "it concerns Ringway's own clients: set it in Ringway's configuration";
    refused("CONFIG SET requirepass x", "requirepass", server);
    refused("CONFIG SET hz 1 TLS-port 1", "TLS-port", server);
    refused("CONFIG SET timeout 1", "timeout", proxy);
    refused("CONFIG SET dir /b", "dir", server);
    let percent = "percentage argument must be less or equal to 100";
    refused("CONFIG SET hz 1 maxmemory-clients 200%", "maxmemory-clients", percent);
    rig.send(client, "CONFIG SET hz 10");
    assert_eq!(rig.asked(0), ["CONFIG SET hz 10"], "a single shard is asked at once");
    rig.tell(0, "-ERR anything\r\n");
    assert_eq!(rig.got(client), "-ERR anything\r\n");
}

#[test]
fn what_is_not_the_servers_may_be_set_to_what_it_is() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    let dir = "*2\r\n$3\r\ndir\r\n$2\r\n/a\r\n";
    rig.send(client, "CONFIG SET dir /a timeout 0");
    rig.tell_all(&[dir, dir]);
    assert_eq!(rig.got(client), "+OK\r\n");
    rig.send(client, "CONFIG SET dir /a hz 20");
    rig.tell_all(&[dir, dir]);
    assert_eq!(rig.asked(0), ["CONFIG SET hz 20"]);
    rig.tell_all(&["+OK\r\n"; 2]);
    assert_eq!(rig.got(client), "+OK\r\n");
    rig.send(client, "CONFIG SET dir /a");
    rig.tell_all(&[dir, "*2\r\n$3\r\ndir\r\n$2\r\n/b\r\n"]);
    assert!(rig.got(client).starts_with("-ERR CONFIG SET failed (possibly related to argument 'dir')"));
    assert_eq!(rig.asked(0), [""; 0]);
}

#[test]
fn parameters_are_the_home_shards_or_the_proxys() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    let one = "*6\r\n$4\r\nport\r\n$4\r\n7001\r\n$2\r\nhz\r\n$2\r\n10\r\n$10\r\nmasterauth\r\n$1\r\ns\r\n";
    let two = "*6\r\n$2\r\nhz\r\n$2\r\n99\r\n$4\r\nport\r\n$4\r\n7002\r\n$10\r\nmasterauth\r\n$1\r\ns\r\n";
    let answer = "*6\r\n$4\r\nport\r\n$4\r\n7379\r\n$2\r\nhz\r\n$2\r\n10\r\n$10\r\nmasterauth\r\n$0\r\n\r\n";
    for news in [vec!["the parameter hz of b differs from that of a".to_owned()], vec![]] {
        rig.send(client, "CONFIG GET port h* masterauth");
        rig.tell_all(&[one, two]);
        assert_eq!(rig.got(client), answer);
        assert_eq!(rig.engine.take_news(), news, "each is told once");
    }
    let client = rig.client3();
    rig.send(client, "CONFIG GET MAXCLIENTS");
    rig.tell_all(&["%1\r\n$10\r\nMAXCLIENTS\r\n$5\r\n10000\r\n"; 2]);
    assert_eq!(rig.got(client), "%1\r\n$10\r\nMAXCLIENTS\r\n$3\r\n500\r\n");
}

#[test]
fn info_speaks_of_all_shards_and_of_the_proxy() {
    let mut rig = Rig::of(2);
    let client = rig.client3();
    let info = "# Clients\r\nconnected_clients:9\r\n\r\n# Stats\r\nkeyspace_hits:4\r\n";
    let verbatim = format!("={}\r\ntxt:{info}\r\n", info.len() + 4);
    rig.send(client, "INFO clients stats");
    rig.tell_all(&[&verbatim, &verbatim]);
    let merged = info.replace(":9", ":1").replace(":4", ":8");
    assert_eq!(rig.got(client), format!("={}\r\ntxt:{merged}\r\n", merged.len() + 4));

    let client = rig.client();
    rig.send(client, "INFO");
    let bulk = format!("${}\r\n{info}\r\n", info.len());
    rig.tell_all(&[&bulk, &bulk]);
    let said = rig.got(client);
    assert!(said.starts_with('$') && said.contains("connected_clients:2\r\n"), "{said}");
    let own = "\r\n\r\n# Ringway\r\nringway_version:1.2.3\r\nthreads:1\r\nshards:2\r\nhome:a\r\ntopology_version:1\r\nshard_a:address=10.0.0.1:7001,state=up,version=7.0.15,slots=";
    assert!(said.contains(own), "{said}");

    // This section needs no server.
    rig.lose(1);
    rig.send(client, "INFO ringway");
    assert!(rig.got(client).contains("shard_b:address=10.0.0.1:7002,state=down,version=7.0.15,slots="));
}

#[test]
fn logs_are_merged() {
    let entry = |id: u32, time: u32| format!("*4\r\n:{id}\r\n:{time}\r\n:5\r\n*1\r\n$4\r\nPING\r\n");
    let one = format!("*2\r\n{}{}", entry(1, 90), entry(0, 70));
    let two = format!("*2\r\n{}{}", entry(4, 80), entry(3, 60));
    // A shard's numbers are told from the others', and from the proxy's own, by its place.
    let all = [entry(3, 90), entry(13, 80), entry(0, 70), entry(10, 60)];
    let kept = |kept: u32| format!("*2\r\n$15\r\nslowlog-max-len\r\n${}\r\n{kept}\r\n", kept.to_string().len());
    for (line, limit, expected) in [
        ("SLOWLOG GET", kept(128), format!("*4\r\n{}", all.concat())),
        ("SLOWLOG GET -1", kept(3), format!("*3\r\n{}", all[..3].concat())),
        ("SLOWLOG GET 1", kept(128), format!("*1\r\n{}", all[0])),
        ("SLOWLOG LEN", kept(2), ":2\r\n".to_owned()),
        ("SLOWLOG LEN", "-NOPERM nothing\r\n".to_owned(), ":4\r\n".to_owned()),
    ] {
        let mut rig = Rig::of(2);
        let client = rig.client();
        rig.send(client, line);
        assert_eq!(rig.asked(1), ["SLOWLOG GET -1"]);
        rig.tell_all(&[&one, &two]);
        assert_eq!(rig.asked(0), ["CONFIG GET slowlog-max-len"]);
        rig.tell(0, &limit);
        assert_eq!(rig.got(client), expected, "{line}");
    }
    check("SLOWLOG GET", &[&one], &one);
    check("SLOWLOG GET x", &["-ERR count\r\n"; 2], "-ERR count\r\n");
    check("SLOWLOG GET -2", &["-ERR count\r\n"; 2], "-ERR count\r\n");
    let latest = |time: u32, last: u32, most: u32| format!("*4\r\n$4\r\nfork\r\n:{time}\r\n:{last}\r\n:{most}\r\n");
    let (one, two) = (format!("*1\r\n{}", latest(10, 1, 9)), format!("*1\r\n{}", latest(20, 2, 3)));
    check("LATENCY LATEST", &[&one, &two, "*0\r\n"], &format!("*1\r\n{}", latest(20, 2, 9)));
    let (one, two) = ("*2\r\n*2\r\n:1\r\n:9\r\n*2\r\n:5\r\n:9\r\n", "*1\r\n*2\r\n:3\r\n:7\r\n");
    check("LATENCY HISTORY fork", &[one, two], "*3\r\n*2\r\n:1\r\n:9\r\n*2\r\n:3\r\n:7\r\n*2\r\n:5\r\n:9\r\n");
    check("LATENCY RESET", &[":1\r\n", ":2\r\n"], ":3\r\n");
}

#[test]
fn what_the_proxy_answers_itself_is_in_logs_and_statistics() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "CONFIG SET slowlog-log-slower-than 0");
    rig.tell(0, "+OK\r\n");
    rig.send(client, "CONFIG RESETSTAT");
    rig.tell(0, "+OK\r\n");
    rig.got(client);
    rig.send(client, "PING");
    rig.send(client, "CLIENT ID");
    rig.got(client);
    rig.send(client, "SLOWLOG GET 1");
    rig.tell(0, "*0\r\n");
    rig.tell(0, "*0\r\n");
    let said =
        "*1\r\n*6\r\n:3\r\n:1700000000\r\n:0\r\n*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n$10\r\n10.0.0.9:5\r\n$0\r\n\r\n";
    assert_eq!(rig.got(client), said);
    rig.send(client, "LATENCY HISTOGRAM client");
    rig.tell(0, "*0\r\n");
    let said = "*2\r\n$9\r\nclient|id\r\n*4\r\n$5\r\ncalls\r\n:1\r\n$14\r\nhistogram_usec\r\n*2\r\n:1\r\n:1\r\n";
    assert_eq!(rig.got(client), said);
    rig.send(client, "INFO commandstats");
    let info = "# Commandstats\r\ncmdstat_get:calls=1,usec=2,usec_per_call=2.00,rejected_calls=0,failed_calls=0\r\n";
    rig.tell(0, &format!("${}\r\n{info}\r\n", info.len()));
    let said = rig.got(client);
    assert!(said.contains("cmdstat_ping:calls=1,usec=0") && said.contains("cmdstat_client|id:calls=1"), "{said}");
    rig.send(client, "SLOWLOG RESET");
    rig.tell(0, "+OK\r\n");
    rig.got(client);
    rig.send(client, "SLOWLOG LEN");
    assert_eq!(rig.asked(0), ["SLOWLOG LEN"]);
}

/// The same, in RESP3, where maps are maps.
fn check3(line: &str, replies: &[&str], expected: &str) {
    let mut rig = Rig::of(replies.len());
    let client = rig.client3();
    rig.send(client, line);
    rig.tell_all(replies);
    assert_eq!(rig.got(client), expected, "{line}");
}

#[test]
fn figures_are_summed() {
    let set = |map: &str, calls: u32, counts: &str| {
        format!("{map}$5\r\ncalls\r\n:{calls}\r\n$14\r\nhistogram_usec\r\n{counts}")
    };
    // Cumulative: two of the first server's three calls took up to 2 us, and all three up to 8.
    let one = format!("%1\r\n$3\r\nset\r\n{}", set("%2\r\n", 3, "%2\r\n:2\r\n:2\r\n:8\r\n:3\r\n"));
    let two = format!("%1\r\n$3\r\nset\r\n{}", set("%2\r\n", 5, "%2\r\n:4\r\n:4\r\n:16\r\n:5\r\n"));
    let both = set("%2\r\n", 8, "%4\r\n:2\r\n:2\r\n:4\r\n:6\r\n:8\r\n:7\r\n:16\r\n:8\r\n");
    check3("LATENCY HISTOGRAM set", &[&one, &two], &format!("%1\r\n$3\r\nset\r\n{both}"));
    let one = format!("*2\r\n$3\r\nset\r\n{}", set("*4\r\n", 3, "*2\r\n:2\r\n:3\r\n"));
    check("LATENCY HISTOGRAM", &[&one, "*0\r\n"], &one);

    let stats = |peak: u32, total: u32, dbs: &str, percent: &str| {
        format!(
            "$14\r\npeak.allocated\r\n:{peak}\r\n$15\r\ntotal.allocated\r\n:{total}\r\n{dbs}$14\r\noverhead.total\r\n:1\r\n$15\r\npeak.percentage\r\n{percent}"
        )
    };
    let db = |n: u32, main: u32| format!("$4\r\ndb.{n}\r\n%1\r\n$4\r\nmain\r\n:{main}\r\n");
    let one = format!("%5\r\n{}", stats(10, 5, &db(0, 1), ",50\r\n"));
    let two = format!("%6\r\n{}", stats(30, 25, &(db(0, 2) + &db(1, 7)), ",83.3\r\n"));
    let both =
        stats(40, 30, &(db(0, 3) + &db(1, 7)), ",75\r\n").replace("overhead.total\r\n:1", "overhead.total\r\n:2");
    check3("MEMORY STATS", &[&one, &two], &format!("%6\r\n{both}"));
    check3("MEMORY STATS", &[&one], &one);
}

#[test]
fn reports_have_a_section_a_shard() {
    let report = "# shard a (10.0.0.1:7001)\nfine\n\n# shard b (10.0.0.1:7002)\nbad\n";
    check("MEMORY DOCTOR", &["$4\r\nfine\r\n", "$4\r\nbad\n\r\n"], &format!("${}\r\n{report}\r\n", report.len()));
    let verbatim = ["=8\r\ntxt:fine\r\n", "=7\r\ntxt:bad\r\n"];
    check3("MEMORY DOCTOR", &verbatim, &format!("={}\r\ntxt:{report}\r\n", report.len() + 4));
    check3("MEMORY DOCTOR", &verbatim[..1], verbatim[0]);
    let none = "-ERR No samples available for event 'x'\r\n";
    check("LATENCY GRAPH x", &[none, none], none);
    check("LATENCY GRAPH x", &[none, "-LOADING x\r\n"], none);
    let report =
        "# shard a (10.0.0.1:7001)\nfine\n\n# shard b (10.0.0.1:7002)\nERR No samples available for event 'x'\n";
    check("LATENCY GRAPH x", &["$4\r\nfine\r\n", none], &format!("${}\r\n{report}\r\n", report.len()));
}

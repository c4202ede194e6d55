//! Driven by bytes alone: clients' requests in, what servers are asked and clients get out.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{About, Credentials, Engine, Fault, Options, Order, User, labels};
use crate::metrics::Metrics;
use crate::resp::{request, split_inline};
use crate::topology::{Endpoint, Kind, Shard, ShardId, Spec, Topology};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// An engine before three servers, whose connections are up as soon as they are asked for.
pub(in crate::engine) struct Bench {
    pub(in crate::engine) engine: Engine,
    now: u64,
    /// The shard of each connection.
    pub(in crate::engine) conns: HashMap<u32, ShardId>,
    /// Shards that cannot be connected.
    down: Vec<ShardId>,
    closed: Vec<u32>,
    clients: u64,
}

pub(in crate::engine) fn options() -> Options {
    Options {
        query_bytes_max: 1 << 20,
        client_inflight_max: 64,
        leases_max: 4,
        keyless_scripts: None,
        credentials: vec![Credentials::default(); 3],
        epoch: 1_700_000_000_000_000,
        ..Options::default()
    }
}

fn admins() -> Options {
    Options { admin: true, ..options() }
}

fn users() -> Options {
    let user = |name: &str, admin| User { name: name.to_owned(), password: "pw".to_owned(), admin };
    Options { users: vec![user("root", true), user("app", false)], ..options() }
}

impl Bench {
    pub(in crate::engine) fn new(options: Options) -> Self {
        Self::without(options, &[])
    }

    pub(in crate::engine) fn without(options: Options, down: &[u16]) -> Self {
        let shard = |(at, name): (usize, &&str)| Shard {
            name: (*name).to_owned(),
            endpoint: Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 7001 + at as u16 },
            weight: 1,
        };
        let shards = NAMES.iter().enumerate().map(shard).collect();
        let spec = Spec { shards, home: None, kind: Kind::Slots, colocate: Vec::new() };
        let map = Arc::new(Topology::build(&spec, 1).expect("a topology"));
        let metrics = Metrics::new(labels(&map), 1).expect("metrics");
        let engine = Engine::new(options, map, metrics.worker(0));
        let down = down.iter().copied().map(ShardId).collect();
        let mut bench = Self { engine, now: 0, conns: HashMap::new(), down, closed: Vec::new(), clients: 0 };
        bench.settle();
        bench
    }

    /// Does what a driver would with the engine's orders.
    pub(in crate::engine) fn settle(&mut self) {
        while let Some(order) = self.engine.next_order() {
            match order {
                Order::Connect { conn, shard } => {
                    self.conns.insert(conn, shard);
                    if self.down.contains(&shard) {
                        self.engine.conn_lost(conn, Fault::Connect, "connection refused");
                        continue;
                    }
                    self.engine.conn_connected(conn);
                    self.sent(conn);
                    let hello = format!("*4\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:{}\r\n", conn + 100);
                    self.engine.conn_bytes(conn, hello.as_bytes());
                }
                Order::Close { conn } => {
                    self.conns.remove(&conn);
                }
                Order::Reconnect { .. } | Order::Alarm { .. } | Order::Send { .. } => {}
                Order::CloseClient { client } | Order::DropClient { client } => {
                    self.closed.push(client);
                }
            }
        }
        self.engine.resume_clients(&mut Vec::new());
    }

    pub(in crate::engine) fn pass(&mut self, ms: u64) {
        self.now += ms * 1000;
        self.engine.set_now(self.now);
        // Who is late is told at the second.
        self.engine.tick();
        self.engine.tick();
        self.settle();
    }

    pub(in crate::engine) fn client(&mut self) -> u32 {
        self.client_like(true)
    }

    fn client_like(&mut self, trusted: bool) -> u32 {
        self.clients += 1;
        self.engine.client_open(About {
            id: self.clients,
            peer: format!("127.0.0.1:{}", 5000 + self.clients),
            local: "127.0.0.1:6379".to_owned(),
            trusted,
            ..About::default()
        })
    }

    /// Sends one request; quotes and escapes as in an inline command.
    pub(in crate::engine) fn say(&mut self, client: u32, line: &str) {
        let mut frame = Vec::new();
        request(&mut frame, &split_inline(line.as_bytes()).expect("words"));
        self.engine.client_bytes(client, &frame);
        self.settle();
    }

    /// What the client got since it was looked at last.
    pub(in crate::engine) fn got(&mut self, client: u32) -> String {
        let Some(out) = self.engine.client_out(client) else { return "gone".to_owned() };
        let bytes = out.single().expect("one piece").to_vec();
        out.advance(bytes.len());
        self.engine.client_written(client, bytes.len());
        self.settle();
        bytes.iter().map(|byte| char::from(*byte)).collect()
    }

    pub(in crate::engine) fn ask(&mut self, client: u32, line: &str) -> String {
        self.say(client, line);
        self.got(client)
    }

    /// What a connection was asked since it was looked at last.
    fn sent(&mut self, conn: u32) -> String {
        let Some(out) = self.engine.conn_out(conn) else { return String::new() };
        let bytes = out.single().expect("one piece").to_vec();
        out.advance(bytes.len());
        self.engine.conn_written(conn);
        String::from_utf8(bytes).expect("text")
    }

    /// The connection that was asked something, what it was, as words.
    pub(in crate::engine) fn asked(&mut self) -> (u32, String) {
        let mut conns: Vec<u32> = self.conns.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            let sent = self.sent(conn);
            if !sent.is_empty() {
                let words = sent.split("\r\n").filter(|word| !word.starts_with(['*', '$']) && !word.is_empty());
                return (conn, words.collect::<Vec<_>>().join(" "));
            }
        }
        (u32::MAX, String::new())
    }

    /// The next question to a server must be this one, and gets this reply.
    pub(in crate::engine) fn serve(&mut self, question: &str, reply: &str) -> u32 {
        let (conn, asked) = self.asked();
        assert_eq!(asked, question);
        self.engine.conn_bytes(conn, reply.as_bytes());
        self.settle();
        conn
    }
}

fn check_with(options: Options, cases: &[(&str, &str)]) {
    let mut bench = Bench::new(options);
    let client = bench.client();
    for (line, reply) in cases {
        assert_eq!(bench.ask(client, line), *reply, "{line}");
    }
}

#[test]
fn the_connection_speaks_as_redis_does() {
    check_with(
        options(),
        &[
            ("PING", "+PONG\r\n"),
            ("PING \"\"", "$0\r\n\r\n"),
            ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
            ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO -2", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO 3x", "-ERR Protocol version is not an integer or out of range\r\n"),
            ("HELLO SETNAME x", "-ERR Protocol version is not an integer or out of range\r\n"),
            ("HELLO 2 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
            ("HELLO 2 \"fo\\xff\"", "-ERR Syntax error in HELLO option 'fo\u{ff}'\r\n"),
            ("HELLO 9 foo", "-NOPROTO unsupported protocol version\r\n"),
            (
                "HELLO 2 SETNAME \"a\\nb\"",
                "-ERR Client names cannot contain spaces, newlines or special characters.\r\n",
            ),
            ("HELLO 3 SETNAME n2 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
            ("CLIENT GETNAME", "$2\r\nn2\r\n"),
            ("HELLO 2 AUTH nobody x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            (
                "AUTH x",
                "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?\r\n",
            ),
            ("AUTH default x", "+OK\r\n"),
            ("AUTH a b c", "-ERR syntax error\r\n"),
            ("SELECT 16", "-ERR DB index is out of range\r\n"),
            ("SELECT -1", "-ERR DB index is out of range\r\n"),
            ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
            ("SELECT 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n"),
            ("SELECT 3", "+OK\r\n"),
            ("READONLY", "-ERR This instance has cluster support disabled\r\n"),
            ("CLUSTER SLOTS", "-ERR This instance has cluster support disabled\r\n"),
            ("CLUSTER", "-ERR wrong number of arguments for 'cluster' command\r\n"),
            ("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
            ("ACL WHOAMI", "$7\r\ndefault\r\n"),
            ("TIME", "*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"),
            ("CLIENT REPLY x", "-ERR syntax error\r\n"),
            ("CLIENT REPLY SKIP", ""),
            ("CLIENT REPLY OFF x", ""),
            ("PING", "+PONG\r\n"),
            ("CLIENT REPLY OFF", ""),
            ("CLIENT REPLY SKIP", ""),
            ("PING", ""),
            ("CLIENT REPLY ON", "+OK\r\n"),
            ("CLIENT GETREDIR", ":-1\r\n"),
            (
                "CLIENT TRACKINGINFO",
                "*6\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n",
            ),
            ("CLIENT TRACKING off", "+OK\r\n"),
            ("CLIENT TRACKING x", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING on FOO", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING on REDIRECT x", "-ERR value is not an integer or out of range\r\n"),
            ("CLIENT TRACKING on PREFIX a", "-ERR PREFIX option requires BCAST mode to be enabled\r\n"),
            (
                "CLIENT CACHING yes",
                "-ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
                 enabled\r\n",
            ),
            ("CLIENT NO-EVICT x", "-ERR syntax error\r\n"),
            ("CLIENT SETINFO lib-name redis-py", "+OK\r\n"),
            ("CLIENT SETINFO lib-x a", "-ERR Unrecognized option 'lib-x'\r\n"),
            (
                "CLIENT SETINFO LIB-VER \"a b\"",
                "-ERR lib-ver cannot contain spaces, newlines or special characters.\r\n",
            ),
            ("RESET", "+RESET\r\n"),
            ("CLIENT GETNAME", "$-1\r\n"),
        ],
    );
    check_with(
        options(),
        &[
            (
                "HELLO 3",
                "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n\
                 :1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
            ),
            ("CLIENT GETNAME", "_\r\n"),
            (
                "CLIENT TRACKINGINFO",
                "%3\r\n$5\r\nflags\r\n~1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n",
            ),
        ],
    );
}

#[test]
fn users_log_in() {
    check_with(
        users(),
        &[
            ("GET x", "-NOAUTH Authentication required.\r\n"),
            // As in Redis, the form of a request is judged first.
            ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("FOO x", "-ERR unknown command 'FOO', with args beginning with: 'x' \r\n"),
            ("HELLO 3", &format!("-{}\r\n", super::HELLO_NOAUTH)),
            ("AUTH app nope", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("AUTH app pw", "+OK\r\n"),
            ("ACL WHOAMI", "$3\r\napp\r\n"),
            ("RESET", "+RESET\r\n"),
            ("PING", "-NOAUTH Authentication required.\r\n"),
        ],
    );
}

#[test]
fn clients_are_listed_and_killed() {
    let mut bench = Bench::new(options());
    let (one, two, three) = (bench.client(), bench.client(), bench.client());
    bench.pass(2500);
    let line = |id: u64, rest: &str| {
        format!(
            "id={id} addr=127.0.0.1:{} laddr=127.0.0.1:6379 fd={} {rest} user=default redir=-1 resp=2",
            5000 + id,
            id - 1
        )
    };
    let state = |own: usize| {
        format!("qbuf={own} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r")
    };
    let counts = "sub=0 psub=0 ssub=0 multi=-1";
    let text = line(1, &format!("name= age=2 idle=0 flags=N db=0 {counts} {} cmd=client|info", state(26)));
    assert_eq!(bench.ask(one, "CLIENT INFO"), format!("${}\r\n{text}\n\r\n", text.len() + 1));
    let text = line(3, &format!("name= age=2 idle=2 flags=N db=0 {counts} {} cmd=NULL", state(0)));
    assert_eq!(bench.ask(one, "CLIENT LIST ID 3 9"), format!("${}\r\n{text}\n\r\n", text.len() + 1));
    for line in ["CLIENT SETNAME n", "CLIENT SETINFO LIB-NAME l", "CLIENT NO-EVICT on", "SELECT 2", "MULTI"] {
        assert_eq!(bench.ask(two, line), "+OK\r\n");
    }
    bench.ask(two, "GET x");
    let all = bench.ask(one, "CLIENT LIST TYPE normal");
    assert_eq!(all.matches("id=").count() - all.matches("fd=").count(), 0);
    assert!(all.contains(" name=n age=2 idle=0 flags=xe db=2 sub=0 psub=0 ssub=0 multi=1 "), "{all}");
    assert!(all.contains(" cmd=get user=default redir=-1 resp=2 lib-name=l\n"), "{all}");
    for (line, reply) in [
        ("CLIENT LIST TYPE pubsub", "$0\r\n\r\n"),
        ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n"),
        ("CLIENT LIST ID", "-ERR syntax error\r\n"),
        ("CLIENT LIST FOO", "-ERR syntax error\r\n"),
        ("CLIENT KILL x", "-ERR No such client\r\n"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n"),
        ("CLIENT KILL ID 99999", ":0\r\n"),
        ("CLIENT KILL ID 99999 TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT KILL USER nosuch", "-ERR No such user 'nosuch'\r\n"),
        ("CLIENT KILL ID 1 SKIPME maybe", "-ERR syntax error\r\n"),
        ("CLIENT KILL ID 1 2", "-ERR syntax error\r\n"),
        ("CLIENT KILL ID 1", ":0\r\n"),
        ("CLIENT KILL ID 3 TYPE pubsub", ":0\r\n"),
        ("CLIENT KILL 127.0.0.1:5003", "+OK\r\n"),
        ("CLIENT KILL LADDR 127.0.0.1:6379", ":1\r\n"),
    ] {
        assert_eq!(bench.ask(one, line), reply, "{line}");
    }
    assert_eq!(bench.closed, [three, two]);
    assert_eq!(bench.ask(one, "CLIENT KILL USER default SKIPME no"), ":3\r\n".replace('3', "1"));
    assert_eq!(bench.closed, [three, two, one]);
}

#[test]
fn a_pause_holds_requests_in_order() {
    let mut bench = Bench::new(options());
    let (one, two) = (bench.client(), bench.client());
    for (line, reply) in [
        ("CLIENT PAUSE x", "-ERR timeout is not an integer or out of range\r\n"),
        ("CLIENT PAUSE -1", "-ERR timeout is negative\r\n"),
        ("CLIENT PAUSE 10 FOO", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n"),
        (
            "CLIENT PAUSE 10 WRITE x",
            "-ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.\r\n",
        ),
        ("CLIENT UNPAUSE", "+OK\r\n"),
        ("CLIENT PAUSE 1000 WRITE", "+OK\r\n"),
    ] {
        assert_eq!(bench.ask(one, line), reply, "{line}");
    }
    assert_eq!(bench.ask(two, "PING"), "+PONG\r\n");
    assert_eq!(bench.ask(two, "PFCOUNT x"), "");
    assert_eq!(bench.ask(two, "PING"), "", "behind the one that is held");
    assert!(bench.ask(one, "CLIENT LIST").contains(" flags=b "));
    assert_eq!(bench.asked().1, "");
    assert_eq!(bench.ask(one, "CLIENT UNPAUSE"), "+OK\r\n");
    bench.serve("PFCOUNT x", ":7\r\n");
    assert_eq!(bench.got(two), ":7\r\n+PONG\r\n");

    // A transaction that writes waits at EXEC when its commands came before the pause.
    assert_eq!(bench.ask(two, "MULTI"), "+OK\r\n");
    assert_eq!(bench.ask(two, "SET x 1"), "+QUEUED\r\n");
    assert_eq!(bench.ask(one, "CLIENT PAUSE 1000 ALL"), "+OK\r\n");
    assert_eq!(bench.ask(two, "EXEC"), "");
    assert_eq!(bench.ask(one, "CLIENT UNPAUSE"), "", "in Redis 7.0 that one is held, too");
    bench.pass(999);
    assert_eq!(bench.got(one), "");
    bench.pass(1);
    assert_eq!(bench.got(one), "+OK\r\n");
    bench.serve("MULTI SET x 1 EXEC", "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(bench.got(two), "*1\r\n+OK\r\n");
}

#[test]
fn a_blocked_client_is_unblocked_by_its_server() {
    let mut bench = Bench::new(options());
    let (one, two) = (bench.client(), bench.client());
    assert_eq!(bench.ask(one, "CLIENT UNBLOCK x"), "-ERR value is not an integer or out of range\r\n");
    assert_eq!(bench.ask(one, "CLIENT UNBLOCK 2 foo"), "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n");
    assert_eq!(bench.ask(one, "CLIENT UNBLOCK 2"), ":0\r\n");
    bench.say(two, "BLPOP q 0");
    let (lease, asked) = bench.asked();
    assert_eq!(asked, "BLPOP q 0");
    assert!(bench.ask(one, "CLIENT LIST ID 2").contains(" flags=b "));
    assert_eq!(bench.ask(one, "CLIENT UNBLOCK 2 error"), "");
    bench.serve(&format!("CLIENT UNBLOCK {} ERROR", lease + 100), ":1\r\n");
    assert_eq!(bench.got(one), ":1\r\n");
    bench.engine.conn_bytes(lease, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    assert_eq!(bench.got(two), "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    assert_eq!(bench.ask(two, "PING"), "+PONG\r\n");
}

#[test]
fn a_wait_that_has_not_begun_is_given_up_here() {
    for (line, unblock, reply) in [
        ("BLPOP q 0", "CLIENT UNBLOCK 2", "*-1\r\n"),
        ("BLMOVE {q} {q}x LEFT LEFT 0", "CLIENT UNBLOCK 2 TIMEOUT", "*-1\r\n"),
        ("BLPOP q 0", "CLIENT UNBLOCK 2 ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        let mut bench = Bench::new(options());
        let (one, two) = (bench.client(), bench.client());
        let mut frame = Vec::new();
        request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        // The lease is asked for, and its socket is never connected.
        bench.engine.client_bytes(two, &frame);
        let Some(Order::Connect { conn, .. }) = bench.engine.next_order() else { panic!("no lease is asked for") };
        assert_eq!(bench.ask(one, unblock), ":1\r\n");
        assert_eq!(bench.got(two), reply, "{line}");
        assert!(!bench.conns.contains_key(&conn));
        assert_eq!(bench.ask(two, "PING"), "+PONG\r\n");
    }
}

#[test]
fn ringway_says_where_keys_are() {
    let mut bench = Bench::without(options(), &[2]);
    let client = bench.client();
    let home = bench.engine.topology().shard(bench.engine.topology().shard_of(b"foo")).name.clone();
    let port = 7001 + NAMES.iter().position(|name| *name == home).expect("a shard");
    assert_eq!(
        bench.ask(client, "RINGWAY LOCATE {foo}x"),
        format!(
            "*1\r\n*12\r\n$3\r\nkey\r\n$6\r\n{{foo}}x\r\n$3\r\ntag\r\n$3\r\nfoo\r\n$4\r\nslot\r\n:12182\r\n$5\r\nshard\r\n\
             $1\r\n{home}\r\n$7\r\naddress\r\n$13\r\n10.0.0.1:{port}\r\n$3\r\nwhy\r\n$12\r\nits hash tag\r\n"
        )
    );
    let shards = bench.ask(client, "RINGWAY SHARDS");
    assert!(shards.starts_with("*3\r\n*16\r\n$4\r\nname\r\n$1\r\na\r\n$7\r\naddress\r\n$13\r\n10.0.0.1:7001\r\n"));
    assert!(shards.contains("$5\r\nstate\r\n$2\r\nup\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$8\r\ninflight\r\n:0\r\n"));
    assert!(shards.contains("$5\r\nstate\r\n$4\r\ndown\r\n$7\r\nversion\r\n$-1\r\n"), "{shards}");
    assert!(bench.ask(client, "RINGWAY HELP").starts_with("*11\r\n+RINGWAY <subcommand>"));
    assert_eq!(bench.ask(client, "RINGWAY"), "-ERR wrong number of arguments for 'ringway' command\r\n");
    assert_eq!(bench.ask(client, "RINGWAY LOCATE"), "-ERR wrong number of arguments for 'ringway|locate' command\r\n");
    assert_eq!(bench.ask(client, "RINGWAY foo"), "-ERR unknown subcommand 'foo'. Try RINGWAY HELP.\r\n");
}

#[test]
fn an_admin_reaches_one_shard() {
    let refused = |options, trusted, line: &str| {
        let mut bench = Bench::new(options);
        let client = bench.client_like(trusted);
        bench.ask(client, line);
        let said = bench.ask(client, "RINGWAY SHARD b PING");
        assert!(said.starts_with("-NOPERM RINGWAY SHARD is for admins"), "{said}");
    };
    refused(options(), true, "PING");
    refused(admins(), false, "PING");
    refused(users(), true, "AUTH app pw");

    let mut bench = Bench::new(admins());
    let client = bench.client();
    assert_eq!(bench.ask(client, "RINGWAY SHARD x PING"), "-ERR no shard is called 'x': there are a, b, c\r\n");
    assert_eq!(bench.ask(client, "RINGWAY SHARD b"), "-ERR wrong number of arguments for 'ringway|shard' command\r\n");
    assert_eq!(bench.ask(client, "RINGWAY SHARD b CONFIG GET save"), "");
    let conn = bench.serve("CONFIG GET save", "*0\r\n");
    assert_eq!(bench.got(client), "*0\r\n");
    assert!(!bench.conns.contains_key(&conn), "the lease is closed");
    // The shared connection is another one, and the client goes on as before.
    assert_eq!(bench.ask(client, "RINGWAY SHARD home BLPOP q 0"), "");
    bench.pass(100_000);
    assert_eq!(bench.got(client), "", "a command that waits may");
    bench.engine.client_gone(client);
    bench.settle();
    assert_eq!(bench.conns.len(), 3);

    let mut bench = Bench::new(users());
    let client = bench.client();
    bench.ask(client, "AUTH root pw");
    assert_eq!(bench.ask(client, "RINGWAY SHARD c PING"), "");
    bench.serve("PING", "+PONG\r\n");
    assert_eq!(bench.got(client), "+PONG\r\n");
}

/// Two keys with these names that are on two shards.
pub(in crate::engine) fn apart(bench: &Bench, name: impl Fn(usize) -> (String, String)) -> (String, String) {
    let map = bench.engine.topology();
    let differ = |(one, two): &(String, String)| map.shard_of(one.as_bytes()) != map.shard_of(two.as_bytes());
    (0..).map(name).find(differ).expect("two keys")
}

#[test]
fn what_is_on_several_shards_becomes_advice() {
    let mut bench = Bench::new(Options { prepared: false, gather: false, ..options() });
    let client = bench.client();
    let none = bench.ask(client, "RINGWAY ADVISE");
    assert!(none.contains("No request was refused"), "{none}");
    let (cart, seen) = apart(&bench, |n| (format!("user:{n}:cart"), format!("user:{n}:seen")));
    for line in [format!("SINTER {cart} {seen}"), format!("SUNION {seen} {cart}")] {
        assert!(bench.ask(client, &line).starts_with("-CROSSSLOT"));
    }
    let (queue, job) = apart(&bench, |n| (format!("q:{n}"), format!("job:{n}")));
    for (line, reply) in [
        ("MULTI".to_owned(), "+OK"),
        (format!("LPUSH {queue} 1"), "+QUEUED"),
        (format!("HSET {job} a 1"), "-CROSSSLOT"),
        ("EXEC".to_owned(), "-EXECABORT"),
    ] {
        let said = bench.ask(client, &line);
        assert!(said.starts_with(reply), "{line}: {said}");
    }
    let text = bench.ask(client, "RINGWAY ADVISE");
    assert!(text.contains("are on several shards: 3 refused, 0 gathered.\n"), "{text}");
    assert!(text.contains("only before a second shard holds data"), "{text}");
    assert!(
        text.contains(
            "\n# 2 x user:*:cart with user:*:seen (SINTER 1, SUNION 1)\n[[colocate]]\npattern = \"user:{*}:*\"\n"
        ),
        "{text}"
    );
    assert!(
        text.contains(
            "\n# 1 x job:* with q:* (MULTI 1)\n[[colocate]]\npattern = \"job:{*}\"\n[[colocate]]\npattern = \"q:{*}\"\n"
        ),
        "{text}"
    );
}

//! The promise about waiting for keys of several shards: blocked clients get what one Redis would give
//! them, in their order, each element once, and cost nothing while they wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::time::{Duration, Instant};

use support::{Client, Proxy, Redis, Value, shards, until};

/// One request of words.
fn say(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>())
}

fn send(client: &mut Client, line: &str) {
    client.send(&line.split(' ').collect::<Vec<_>>());
}

/// Waits until `n` clients are blocked, by the words of whoever `client` is connected to.
#[track_caller]
fn until_blocked(client: &mut Client, n: usize) {
    until("clients are blocked", || blocked(client) == (n, n));
}

/// As CLIENT LIST and as INFO have it.
fn blocked(client: &mut Client) -> (usize, usize) {
    let list = say(client, "CLIENT LIST").text();
    let flags = list.lines().filter_map(|line| line.split(" flags=").nth(1)?.split(' ').next());
    let flagged = flags.filter(|flags| flags.contains('b')).count();
    let info = say(client, "INFO clients").text();
    let counted = info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap().parse();
    (flagged, counted.unwrap())
}

/// A plain server and a proxy over three, and one key of each shard.
struct Pair {
    plain: Redis,
    proxy: Proxy,
    _shards: Vec<Redis>,
    keys: Vec<String>,
}

impl Pair {
    fn new() -> Self {
        let shards = shards(3);
        let proxy = Proxy::over(&shards).start();
        let keys = proxy.keys_by_shard(3, 1).concat();
        Self { plain: Redis::start(), proxy, _shards: shards, keys }
    }

    /// `A`, `B` and `C` in a line are keys on three shards.
    fn line(&self, line: &str) -> String {
        let word = |word: &str| match word {
            "A" => self.keys[0].clone(),
            "B" => self.keys[1].clone(),
            "C" => self.keys[2].clone(),
            other => other.replace("{A}", &format!("{{{}}}", self.keys[0])),
        };
        line.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// Lines separated by `;` prepare, then `waiter` blocks, then others wake it: all is answered as by
    /// the plain server, in both protocols.
    #[track_caller]
    fn same(&self, before: &str, waiter: &str, wake: &str) {
        for modern in [false, true] {
            let mut said = Vec::new();
            for address in [self.plain.address(), self.proxy.address()] {
                let mut client = Client::connect(address);
                let mut other = Client::connect(address);
                if modern {
                    client = client.resp3();
                }
                say(&mut other, "FLUSHALL");
                let mut replies = Vec::new();
                let lines =
                    |text: &str| text.split("; ").filter(|l| !l.is_empty()).map(|l| self.line(l)).collect::<Vec<_>>();
                for line in lines(before) {
                    replies.push((line.clone(), format!("{:?}", say(&mut other, &line))));
                }
                send(&mut client, &self.line(waiter));
                if !wake.is_empty() {
                    until_blocked(&mut other, 1);
                }
                for line in lines(wake) {
                    replies.push((line.clone(), format!("{:?}", say(&mut other, &line))));
                }
                replies.push((self.line(waiter), format!("{:?}", client.reply_raw().escape_ascii().to_string())));
                replies.push(("PING".to_owned(), format!("{:?}", say(&mut client, "PING"))));
                // What is left is the same, too.
                for key in &self.keys {
                    let kind = say(&mut other, &format!("TYPE {key}")).text();
                    let left = match kind.as_str() {
                        "list" => say(&mut other, &format!("LRANGE {key} 0 -1")),
                        "zset" => say(&mut other, &format!("ZRANGE {key} 0 -1 WITHSCORES")),
                        "stream" => say(&mut other, &format!("XRANGE {key} - +")),
                        _ => Value::Int(0),
                    };
                    replies.push((key.clone(), format!("{kind} {left:?}")));
                }
                until_blocked(&mut other, 0);
                said.push(replies);
            }
            assert_eq!(said[1], said[0], "{before} / {waiter} / {wake}, RESP3 {modern}");
        }
    }
}

#[test]
fn what_is_there_is_taken_in_the_order_of_the_keys() {
    let pair = Pair::new();
    let same = |before: &str, line: &str| pair.same(before, line, "");
    same("RPUSH A 1 2; RPUSH B 3", "BLPOP A B C 0");
    same("RPUSH C 1 2; RPUSH B 3", "BLPOP A B C 0");
    same("RPUSH C 1 2", "BRPOP A B C 0");
    same("ZADD B 1 x 2 y", "BZPOPMIN C B 1");
    same("ZADD B 1 x 2.5 y", "BZPOPMAX C B 1");
    same("RPUSH B 1 2 3", "BLMPOP 0 3 A B C RIGHT COUNT 2");
    same("RPUSH B 1 2 3", "BLMPOP 0 3 A B C LEFT");
    same("ZADD C 1 x 2 y 3 z", "BZMPOP 0 3 A B C MAX COUNT 2");
    same("SET A x; RPUSH B 1", "BLPOP A B 0");
    same("SET B x; RPUSH A 1", "BLPOP A B 0");
    same("SET B x", "BLPOP A B 0");
    same("RPUSH B x", "BZPOPMIN A B 0");
    same("", "BLPOP A B C 0.01");
    same("", "BZMPOP 0.01 2 A B MIN");
    same("", "BLPOP A B -1");
    same("", "BLPOP A B x");
    same("", "BLPOP A B inf");
    same("", "BLMPOP 0 2 A B UP");
    same("", "BLMPOP 0 2 A B LEFT COUNT 0");
    same("", "BLMPOP x 2 A B LEFT");
    same("", "BLMPOP 0 3 A B LEFT");
    same("", "BZMPOP 0 2 A B MIN COUNT 1 x");
    same("XADD B 1-1 f v; XADD A 1-1 f v; XADD A 1-2 f v", "XREAD COUNT 1 BLOCK 0 STREAMS C B A 0 0 0");
    same("XADD B 1-1 f v", "XREAD BLOCK 10 STREAMS A B C 0 1-1 $");
    same("SET B x", "XREAD BLOCK 10 STREAMS A B 0 0");
    same("SET B x", "XREAD BLOCK 10 STREAMS A B $ $");
    same("", "XREAD BLOCK x STREAMS A B 0 0");
    same("", "XREAD BLOCK -1 STREAMS A B 0 0");
    same("", "XREAD BLOCK 0 STREAMS A B 0 y");
}

#[test]
fn without_blocking_the_shards_are_asked_in_order() {
    let pair = Pair::new();
    let same = |before: &str, line: &str| pair.same(before, line, "");
    same("RPUSH B 1 2 3; RPUSH C 4", "LMPOP 3 A B C LEFT COUNT 2");
    same("RPUSH C 4", "LMPOP 3 A B C RIGHT");
    same("", "LMPOP 3 A B C RIGHT");
    same("SET B x; RPUSH C 4", "LMPOP 3 A B C RIGHT");
    same("SET B x; RPUSH A 4", "LMPOP 3 A B C RIGHT");
    same("", "LMPOP 2 A B UP");
    same("ZADD C 1 a 2 b", "ZMPOP 3 A B C MIN COUNT 5");
    same("", "ZMPOP 3 A B C MAX");
    same("XADD A 1-1 f v; XADD C 1-1 f v; XADD B 2-1 g w", "XREAD STREAMS C A B 0 0 0");
    same("XADD A 1-1 f v; XADD C 1-1 f v; XADD B 2-1 g w", "XREAD COUNT 1 STREAMS C A B A 0 9 0 0");
    same("XADD A 1-1 f v", "XREAD STREAMS A B 1-1 0");
    same("XADD A 1-1 f v", "XREAD STREAMS A B 0 $");
    same("SET A x", "XREAD STREAMS B A 0 0");
    same("XADD A 1-1 f v; XGROUP CREATE A g 0", "XREADGROUP GROUP g c STREAMS A B > >");
    let group = "XADD A 1-1 f v; XADD B 1-1 f v; XADD B 1-2 f v; XGROUP CREATE A g 0; XGROUP CREATE B g 0";
    same(group, "XREADGROUP GROUP g c STREAMS B A > >");
    same(group, "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS B A > >");
    same(group, "XREADGROUP GROUP g c STREAMS B A > 0");
    same(group, "XREADGROUP GROUP g c STREAMS A B 0 0");
    same(group, "XREADGROUP GROUP g c STREAMS A B > $");
    same("XGROUP CREATE A g 0 MKSTREAM; XGROUP CREATE B g 0 MKSTREAM", "XREADGROUP GROUP g c STREAMS A B > >");
}

/// Whatever puts an element there wakes who waits for it.
#[test]
fn every_way_to_make_an_element_wakes() {
    let pair = Pair::new();
    let wakes = |wake: &str| pair.same("RPUSH {A}src v", "BLPOP C A B 0", wake);
    wakes("LPUSH A x");
    wakes("RPUSH B x y z");
    wakes("LPUSHX A x; LPUSH C x");
    wakes("LINSERT A BEFORE q x; RPUSH B y");
    wakes("EVAL return(redis.call('rpush',KEYS[1],'x')) 1 A");
    wakes("MULTI; RPUSH A x; RPUSH A y; EXEC");
    wakes("RENAME {A}src A");
    wakes("COPY {A}src A");
    wakes("RPOPLPUSH {A}src A");
    wakes("SORT {A}src ALPHA STORE A");
    wakes("SET A x; DEL A; LPUSH A y");
    wakes("ZADD A 1 x; RPUSH B y");
    wakes("SELECT 1; LPUSH A x; SELECT 0; LPUSH B y");
    wakes("RPUSH B x; FLUSHALL");
    let sorted = |waiter: &str, wake: &str| pair.same("ZADD {A}src 1 v 2 w", waiter, wake);
    sorted("BZPOPMIN C A B 0", "ZADD A 3 x 4 y");
    sorted("BZPOPMAX C A B 0", "ZADD B 3 x 4 y");
    sorted("BZMPOP 0 2 A B MAX COUNT 3", "ZUNIONSTORE A 1 {A}src");
    sorted("BZMPOP 0 2 A B MIN", "ZRANGESTORE A {A}src 0 -1");
    sorted("BZPOPMIN A B 0", "ZINCRBY A 5 x");
    sorted("BZPOPMIN A B 0", "GEOADD A 1 1 x");
    pair.same("", "BLMPOP 0 2 A B LEFT COUNT 2", "RPUSH B 1 2 3");
    pair.same("", "BRPOP A B 0", "RPUSH B 1 2 3");
}

#[test]
fn readers_of_streams_are_woken() {
    let pair = Pair::new();
    pair.same("", "XREAD BLOCK 0 STREAMS A B C $ $ $", "XADD B 5-1 f v");
    pair.same("XADD B 5-1 f v", "XREAD BLOCK 0 STREAMS A B C $ $ $", "XADD B 5-2 f v");
    pair.same("XADD B 5-1 f v", "XREAD BLOCK 0 STREAMS A B 0 5-1", "XADD B 5-2 f v; XADD B 5-3 f v");
    pair.same("XADD B 5-1 f v; XDEL B 5-1", "XREAD BLOCK 0 STREAMS A B $ $", "XADD B 5-2 f v");
    pair.same("", "XREAD BLOCK 0 COUNT 1 STREAMS A B 0 7-0", "XADD B 5-2 f v; XADD B 8-3 f v");
    pair.same("", "XREAD BLOCK 200 STREAMS A B 0 7-0", "XADD B 5-2 f v; DEL B; SET A x");
    let groups = "XGROUP CREATE A g $ MKSTREAM; XGROUP CREATE B g $ MKSTREAM";
    let group = |wake: &str| pair.same(groups, "XREADGROUP GROUP g c BLOCK 0 STREAMS A B > >", wake);
    group("XADD B 5-1 f v");
    group("EVAL return(redis.call('xadd',KEYS[1],'5-1','f','v')) 1 A");
    group("DEL A");
    group("SET B x");
    group("XGROUP DESTROY A g");
    group("FLUSHALL");
    pair.same(groups, "XREADGROUP GROUP g c BLOCK 20 STREAMS A B > >", "PING");
    pair.same(groups, "XREADGROUP GROUP h c BLOCK 20 STREAMS A B > >", "");
}

/// Lines of CLIENT LIST at a server: who is connected there.
fn connections(shards: &[Redis]) -> Vec<usize> {
    shards.iter().map(|shard| say(&mut shard.client(), "CLIENT LIST").text().lines().count() - 1).collect()
}

/// Requests that the proxy sent to servers so far.
fn requests_sent(proxy: &Proxy) -> f64 {
    proxy.metric("ringway_backend_requests_total")
}

#[test]
fn a_thousand_blocked_clients_cost_few_connections_and_no_requests() {
    const CLIENTS: usize = 1000;
    let shards = shards(3);
    let proxy = Proxy::over(&shards).extra("[limits]\nleases_max = 20").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut other = proxy.client();
    let mut waiting: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for (at, client) in waiting.iter_mut().enumerate() {
        match at % 4 {
            0 => send(client, &format!("BLPOP {} 0", keys[at % 3])),
            1 => send(client, &format!("BRPOP own:{at} {} 0", keys[at % 3])),
            _ => send(client, &format!("BLPOP {} 0", keys.join(" "))),
        }
    }
    until_blocked(&mut other, CLIENTS);
    for (at, count) in connections(&shards).into_iter().enumerate() {
        assert!(count <= 20 + 4, "shard {at} has {count} connections for {CLIENTS} blocked clients");
    }
    // Let what is under way come to its end, then look at three seconds of nothing.
    let quiet = || {
        let before = requests_sent(&proxy);
        support::interval(Duration::from_millis(1100));
        requests_sent(&proxy) - before
    };
    until("the proxy is quiet", || quiet() < 30.0);
    let idle: f64 = (0..3).map(|_| quiet()).sum();
    println!("{CLIENTS} blocked clients: {idle} requests in three seconds");
    assert!(idle < 60.0, "{idle} requests while nothing happened");
    let before = requests_sent(&proxy);
    for at in 0..CLIENTS {
        say(&mut other, &format!("RPUSH {} e{at}", keys[at % 3]));
    }
    let mut got: Vec<String> = waiting.iter_mut().map(|client| client.reply().elements()[1].text()).collect();
    let spent = requests_sent(&proxy) - before;
    println!("{spent} requests for {CLIENTS} elements");
    assert!(spent < CLIENTS as f64 * 12.0, "{spent} requests for {CLIENTS} elements");
    got.sort();
    got.dedup();
    assert_eq!(got.len(), CLIENTS, "an element was lost or given twice");
    until_blocked(&mut other, 0);
    for key in &keys {
        assert_eq!(say(&mut other, &format!("LLEN {key}")), Value::Int(0));
    }
}

#[test]
fn those_who_wait_are_served_in_their_order() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut other = proxy.client();
    // Alone on a connection, with others, alone again: whoever came first is first.
    let lines = [format!("BLPOP {} 0", keys[0]), format!("BLPOP {} {} 0", keys[0], keys[1])];
    let mut waiting = Vec::new();
    for at in 0..24 {
        let mut client = if at % 5 == 0 { proxy.client().resp3() } else { proxy.client() };
        let line = if at < 4 { &lines[0] } else { &lines[usize::from(at % 3 == 1)] };
        send(&mut client, line);
        until_blocked(&mut other, at + 1);
        waiting.push(client);
    }
    for (at, client) in waiting.iter_mut().enumerate().take(12) {
        say(&mut other, &format!("RPUSH {} e{at}", keys[0]));
        assert_eq!(client.reply().elements()[1].text(), format!("e{at}"));
    }
    let elements = (12..24).map(|at| format!("e{at}")).collect::<Vec<_>>().join(" ");
    say(&mut other, &format!("RPUSH {} {elements}", keys[0]));
    for (at, client) in waiting.iter_mut().enumerate().skip(12) {
        assert_eq!(client.reply().elements()[1].text(), format!("e{at}"));
    }
}

#[test]
fn a_wait_ends_when_it_should() {
    let pair = Pair::new();
    let (proxy, keys) = (&pair.proxy, &pair.keys);
    let pop = format!("BLPOP {} 0", keys.join(" "));
    let mut other = proxy.client();
    let blocked_one = |other: &mut Client| {
        let mut client = proxy.client();
        let id = say(&mut client, "CLIENT ID").int();
        send(&mut client, &pop);
        until_blocked(other, 1);
        (client, id)
    };
    // CLIENT UNBLOCK.
    for (how, expected) in
        [("", "*-1\r\n"), (" TIMEOUT", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
    {
        let (mut client, id) = blocked_one(&mut other);
        assert_eq!(say(&mut other, &format!("CLIENT UNBLOCK {id}{how}")), Value::Int(1));
        assert_eq!(client.reply_raw(), expected.as_bytes());
        assert_eq!(say(&mut client, "PING").text(), "PONG");
        assert_eq!(say(&mut other, &format!("CLIENT UNBLOCK {id}{how}")), Value::Int(0));
    }
    // CLIENT KILL, half-close, close: nothing is taken for them afterwards.
    let (mut client, id) = blocked_one(&mut other);
    say(&mut other, &format!("CLIENT KILL ID {id}"));
    assert!(client.closed());
    let (mut client, _) = blocked_one(&mut other);
    client.half_close();
    assert!(client.closed());
    let (client, _) = blocked_one(&mut other);
    drop(client);
    until_blocked(&mut other, 0);
    say(&mut other, &format!("RPUSH {} x", keys[1]));
    assert_eq!(say(&mut other, &pop).elements()[1].text(), "x");
    // Its own time, which is finer than the worker's ticks.
    for round in 0..5 {
        let start = Instant::now();
        assert!(say(&mut other, &format!("BLPOP {} 0.02", keys.join(" "))).is_null());
        let took = start.elapsed();
        println!("a timeout of 20 ms took {took:?}");
        assert!(took >= Duration::from_millis(20), "round {round}: {took:?}");
    }
    // Requests behind it wait, and are not lost.
    let mut client = proxy.client();
    send(&mut client, &pop);
    send(&mut client, "ECHO behind");
    until_blocked(&mut other, 1);
    say(&mut other, &format!("RPUSH {} y", keys[2]));
    assert_eq!(client.reply().elements()[1].text(), "y");
    assert_eq!(client.reply().text(), "behind");
}

#[test]
fn databases_protocols_and_pauses_are_kept_apart() {
    let pair = Pair::new();
    let (proxy, keys) = (&pair.proxy, &pair.keys);
    let pop = format!("BLPOP {} 0", keys.join(" "));
    let mut other = proxy.client();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for (db, client) in clients.iter_mut().enumerate() {
        say(client, &format!("SELECT {db}"));
        send(client, &pop);
        until_blocked(&mut other, db + 1);
    }
    for db in [2, 0, 1] {
        say(&mut other, &format!("SELECT {db}"));
        say(&mut other, &format!("RPUSH {} of{db}", keys[db]));
        assert_eq!(clients[db].reply().elements()[1].text(), format!("of{db}"));
    }
    // A pause holds those back who wait, too.
    say(&mut other, "SELECT 0");
    say(&mut clients[0], "CLIENT ID");
    send(&mut clients[0], &pop);
    until_blocked(&mut other, 1);
    say(&mut other, "CLIENT PAUSE 60000 WRITE");
    let shard = (0..3).find(|at| pair.proxy.keys_by_shard(3, 1)[*at][0] == keys[1]).unwrap();
    say(&mut pair._shards[shard].client(), &format!("RPUSH {} x", keys[1]));
    assert!(clients[0].silent_for(Duration::from_millis(300)));
    say(&mut other, "CLIENT UNPAUSE");
    assert_eq!(clients[0].reply().elements()[1].text(), "x");
}

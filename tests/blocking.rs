//! The promise about waiting for keys of several shards: blocked clients get what one Redis would give
//! them, in their order, each element once, and cost nothing while they wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Proxy, Random, Redis, Value, say, shards, until};

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
    wakes("RENAME {A}src B");
    wakes("COPY {A}src C");
    wakes("SORT {A}src ALPHA STORE B");
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
    sorted("BZPOPMIN A B 0", "ZUNIONSTORE B 2 {A}src B");
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
    pair.same("", "XREAD BLOCK 1000 STREAMS A B 0 7-0", "XADD B 5-2 f v; DEL B; SET A x");
    let groups = "XGROUP CREATE A g $ MKSTREAM; XGROUP CREATE B g $ MKSTREAM";
    let group = |wake: &str| pair.same(groups, "XREADGROUP GROUP g c BLOCK 0 STREAMS A B > >", wake);
    group("XADD B 5-1 f v");
    group("EVAL return(redis.call('xadd',KEYS[1],'5-1','f','v')) 1 A");
    group("DEL A");
    group("SET B x");
    group("XGROUP DESTROY A g");
    group("FLUSHALL");
    pair.same(groups, "XREADGROUP GROUP g c BLOCK 20 STREAMS A B > >", "");
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
        // Who takes from any key comes last, so that every key's elements find somebody.
        match 4 * at / CLIENTS {
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

// What is taken is delivered.

/// Whether every element was delivered exactly once.
fn judge(pushed: &[String], delivered: &[String]) -> Result<(), String> {
    let mut counts: BTreeMap<&str, i32> = pushed.iter().map(|element| (element.as_str(), 0)).collect();
    for element in delivered {
        *counts.get_mut(element.as_str()).ok_or_else(|| format!("{element} was never pushed"))? += 1;
    }
    let wrong: Vec<String> =
        counts.iter().filter(|(_, count)| **count != 1).map(|(element, count)| format!("{element}: {count}")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("not delivered once: {}", wrong.join(", "))) }
}

#[test]
fn the_judge_notices_planted_faults() {
    let pushed: Vec<String> = (0..50).map(|at| format!("e{at}")).collect();
    assert_eq!(judge(&pushed, &pushed), Ok(()));
    let lost = [&pushed[..7], &pushed[8..]].concat();
    assert!(judge(&pushed, &lost).unwrap_err().contains("e7: 0"));
    let doubled = [&pushed[..], &pushed[3..4]].concat();
    assert!(judge(&pushed, &doubled).unwrap_err().contains("e3: 2"));
    let foreign = [&pushed[..], &["x".to_owned()]].concat();
    assert!(judge(&pushed, &foreign).unwrap_err().contains("never pushed"));
}

/// Scripts that put elements back, over all servers.
fn put_back(shards: &[Redis]) -> usize {
    let calls = |shard: &Redis| {
        let stats = say(&mut shard.client(), "INFO commandstats").text();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls=")).map(str::to_owned);
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    shards.iter().map(calls).sum()
}

/// Workers as Celery's: each asks for the next of several queues, the urgent ones first. Some leave at
/// any moment, also with a pop under way; what they were not given, others get.
#[test]
fn nothing_is_lost_or_doubled_among_workers_that_come_and_go() {
    const ELEMENTS: usize = 6_000;
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).extra("[limits]\nleases_max = 8").start();
    let keys = proxy.keys_by_shard(3, 2).concat();
    let mut random = Random::of_this_run("workers that come and go");
    let over = AtomicBool::new(false);
    let pushed: Vec<String> = (0..ELEMENTS).map(|at| format!("e{at}")).collect();
    let mut delivered = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..10)
            .map(|at| {
                let mut random = random.fork();
                let (over, proxy, keys) = (&over, &proxy, &keys);
                scope.spawn(move || {
                    let (mut taken, mut left) = (Vec::new(), 0_usize);
                    let mut client = proxy.client();
                    while !over.load(Ordering::Relaxed) {
                        let mut queues = keys.clone();
                        queues.rotate_left(random.below(keys.len()));
                        queues.truncate(3 + random.below(keys.len() - 2));
                        let line = match random.below(3) {
                            0 => format!("BLPOP {} 0.1", queues.join(" ")),
                            1 => format!("BRPOP {} 0.1", queues.join(" ")),
                            _ => format!("BLMPOP 0.1 {} {} RIGHT COUNT 3", queues.len(), queues.join(" ")),
                        };
                        send(&mut client, &line);
                        let leaves = at % 2 == 1 && random.one_in(2);
                        if leaves {
                            if random.one_in(3) {
                                support::interval(Duration::from_micros(random.below(400) as u64));
                            }
                            client.half_close();
                            left += 1;
                        }
                        // Whatever comes before the end was delivered.
                        while let Ok(reply) = client.try_reply() {
                            assert!(!reply.is_error(), "{reply:?}");
                            if !reply.is_null() {
                                match &reply.elements()[1] {
                                    Value::Array(several) => taken.extend(several.iter().map(Value::text)),
                                    one => taken.push(one.text()),
                                }
                            }
                            if !leaves {
                                break;
                            }
                        }
                        if leaves {
                            client = proxy.client();
                        }
                    }
                    (taken, left)
                })
            })
            .collect();
        let mut pusher = proxy.client();
        for (at, elements) in pushed.chunks(25).enumerate() {
            // A queue that is full for a moment: pops are under way when workers leave.
            let args = [&["RPUSH".to_owned(), keys[at % keys.len()].clone()], elements].concat();
            assert!(pusher.call(&args).int() >= 1);
        }
        until("all is popped", || {
            keys.iter().all(|key| pusher.call(&["LLEN", key]) == Value::Int(0)) && blocked(&mut pusher).0 <= 10
        });
        // What is on its way back arrives, and is popped as well.
        support::interval(Duration::from_millis(500));
        until("all is popped", || keys.iter().all(|key| pusher.call(&["LLEN", key]) == Value::Int(0)));
        over.store(true, Ordering::Relaxed);
        let mut left = 0;
        for worker in workers {
            let (taken, count) = worker.join().unwrap();
            delivered.extend(taken);
            left += count;
        }
        println!(
            "{ELEMENTS} elements, {} delivered, {left} workers left, {} put back",
            delivered.len(),
            put_back(&shards)
        );
        assert!(put_back(&shards) >= 100, "too few left with a pop under way");
    });
    assert_eq!(judge(&pushed, &delivered), Ok(()));
}

/// A client leaves with its pop under way: what was taken goes back where it was.
#[test]
fn what_a_client_left_behind_goes_back_to_its_place() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut other = proxy.client();
    let [a, b] = [&keys[0], &keys[1]];
    let check = |other: &mut Client, before: &str, pop: &str, look: &str| {
        say(other, "FLUSHALL");
        say(other, before);
        let wanted = format!("{:?}", say(other, look));
        let done = put_back(&shards);
        shards.iter().for_each(Redis::pause);
        let mut client = proxy.client();
        send(&mut client, pop);
        client.half_close();
        assert!(client.closed(), "{pop}");
        shards.iter().for_each(Redis::resume);
        until("the element is back", || put_back(&shards) > done);
        until("it is where it was", || format!("{:?}", say(other, look)) == wanted);
    };
    let lists = format!("LRANGE {a} 0 -1");
    let sorted = format!("ZRANGE {a} 0 -1 WITHSCORES");
    check(&mut other, &format!("RPUSH {a} 1 2 3"), &format!("BLPOP {a} {b} 0"), &lists);
    check(&mut other, &format!("RPUSH {a} 1 2 3"), &format!("BRPOP {a} {b} 0"), &lists);
    check(&mut other, &format!("RPUSH {a} 1"), &format!("BRPOP {a} {b} 0"), &lists);
    check(&mut other, &format!("RPUSH {a} 1 2 3 4"), &format!("BLMPOP 0 2 {a} {b} LEFT COUNT 3"), &lists);
    check(&mut other, &format!("RPUSH {a} 1 2 3 4"), &format!("BLMPOP 0 2 {a} {b} RIGHT COUNT 3"), &lists);
    let scores = format!("ZADD {a} 0.1 x -inf y 1e300 z");
    check(&mut other, &scores, &format!("BZPOPMIN {a} {b} 0"), &sorted);
    check(&mut other, &scores, &format!("BZPOPMAX {a} {b} 0"), &sorted);
    check(&mut other, &scores, &format!("BZMPOP 0 2 {a} {b} MAX COUNT 2"), &sorted);
    // Also when the server has no memory left for more.
    for line in ["CONFIG SET maxmemory 1", "CONFIG SET maxmemory-policy noeviction"] {
        assert_eq!(say(&mut other, line).text(), "OK");
    }
    assert_eq!(say(&mut other, &format!("RPUSH {a} x")).error_word(), "OOM");
    say(&mut other, "CONFIG SET maxmemory 0");
    say(&mut other, "FLUSHALL");
    say(&mut other, &format!("RPUSH {a} 1 2"));
    say(&mut other, "CONFIG SET maxmemory 1");
    let done = put_back(&shards);
    shards.iter().for_each(Redis::pause);
    let mut client = proxy.client();
    send(&mut client, &format!("BLPOP {a} {b} 0"));
    client.half_close();
    assert!(client.closed());
    shards.iter().for_each(Redis::resume);
    until("the element is back", || put_back(&shards) > done);
    assert_eq!(format!("{:?}", say(&mut other, &lists)), r#"*[$"1", $"2"]"#);
}

/// A proxy that is told to stop waits for what is on its way.
#[test]
fn a_proxy_that_stops_puts_back_what_it_took() {
    let shards = shards(3);
    let mut proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut other = proxy.client();
    for key in &keys {
        say(&mut other, &format!("RPUSH {key} 1 2 3"));
    }
    shards.iter().for_each(Redis::pause);
    let mut waiting: Vec<Client> = (0..9).map(|_| proxy.client()).collect();
    waiting.iter_mut().for_each(|client| send(client, &format!("BLPOP {} 0", keys.join(" "))));
    until_blocked_of(&mut other, 9);
    proxy.signal("TERM");
    assert!(waiting.iter_mut().all(Client::closed));
    shards.iter().for_each(Redis::resume);
    assert!(proxy.wait(support::PATIENCE).is_some());
    let left: i64 = keys
        .iter()
        .map(|key| shards.iter().map(|shard| say(&mut shard.client(), &format!("LLEN {key}")).int()).sum::<i64>())
        .sum();
    assert_eq!(left, 9, "what was taken for those who were sent away is gone");
}

/// Shards come and go under those who wait: nobody is told but who had a pop under way there.
#[test]
fn who_waits_outlives_a_shard() {
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let at = |key: &String| (0..3).find(|at| proxy.keys_by_shard(3, 1)[*at].contains(key)).unwrap();
    let mut other = proxy.client();
    let pop = format!("BLPOP {} 0", keys.join(" "));
    let mut waiting: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
    for (at, client) in waiting.iter_mut().enumerate() {
        send(client, &pop);
        until_blocked_of(&mut other, at + 1);
    }
    until_at_rest(&mut other, &shards, &keys);
    shards[at(&keys[1])].kill();
    until("the loss is noticed", || say(&mut other, &format!("LLEN {}", keys[1])).is_error());
    // The other shards go on, and who asks anew is told.
    say(&mut other, &format!("RPUSH {} x", keys[2]));
    assert_eq!(waiting[0].reply().elements()[1].text(), "x");
    let refused = say(&mut other, &pop);
    assert_eq!(refused.error_word(), "SHARDDOWN", "{refused:?}");
    assert!(refused.text().contains("not executed"), "{refused:?}");
    shards[at(&keys[1])].restart();
    until("the shard is back", || !say(&mut other, &format!("LLEN {}", keys[1])).is_error());
    until_at_rest(&mut other, &shards, &keys);
    for (at, client) in waiting.iter_mut().enumerate().skip(1) {
        say(&mut other, &format!("RPUSH {} e{at}", keys[1 + at % 2]));
        assert_eq!(client.reply().elements()[1].text(), format!("e{at}"));
    }
    // A pop that was under way may have taken something: its client is told that.
    shards[at(&keys[0])].pause();
    let mut client = proxy.client();
    send(&mut client, &pop);
    until_blocked_of(&mut other, 1);
    shards[at(&keys[0])].kill();
    let lost = client.reply();
    assert_eq!(lost.error_word(), "SHARDLOST", "{lost:?}");
    assert_eq!(say(&mut client, "PING").text(), "PONG");
}

/// Those who wait have been tried wherever there was a reason to, and every shard will tell of the next
/// change: nothing more is on its way.
fn until_at_rest(client: &mut Client, shards: &[Redis], keys: &[String]) {
    let tells = |shard: &Redis| !say(&mut shard.client(), "INFO stats").text().contains("tracking_total_keys:0\r\n");
    until("every shard will tell", || shards.iter().all(tells));
    // What a client asks travels behind the attempts that are under way; an attempt leads to a few more at most.
    for _ in 0..10 {
        assert!(!say(client, &format!("MGET {}", keys.join(" "))).is_error());
    }
}

/// By CLIENT LIST alone: INFO asks the shards as well, and one of them may be down.
fn until_blocked_of(client: &mut Client, n: usize) {
    until("clients are blocked", || {
        let list = say(client, "CLIENT LIST").text();
        let flags = list.lines().filter_map(|line| line.split(" flags=").nth(1)?.split(' ').next());
        flags.filter(|flags| flags.contains('b')).count() == n
    });
}

/// A server whose user may not track, or that was lost sight of, is looked at once a second.
#[test]
fn without_tracking_those_who_wait_are_served_all_the_same() {
    let shards = shards(3);
    for shard in &shards {
        say(&mut shard.client(), "ACL SETUSER default -client|tracking");
    }
    let proxy = Proxy::over(&shards).expect_log("refuses CLIENT TRACKING").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut client = proxy.client();
    let mut other = proxy.client();
    for round in 0..3 {
        send(&mut client, &format!("BLPOP {} 0", keys.join(" ")));
        until_blocked(&mut other, 1);
        say(&mut other, &format!("RPUSH {} e{round}", keys[round]));
        assert_eq!(client.reply().elements()[1].text(), format!("e{round}"));
    }
}

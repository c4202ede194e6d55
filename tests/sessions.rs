//! The promise about what belongs to one connection: transactions, watched keys, blocking commands,
//! scripts, databases and protocols behave as they do on one Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Guard, PATIENCE, Proxy, Random, Redis, Value, poll, shards, until};

const QUIET: Duration = Duration::from_millis(50);

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

/// One request of words.
fn say(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>())
}

/// What `line` answers, as a test prints it; `check(&mut client, "GET a", "$-1")`.
#[track_caller]
fn check(client: &mut Client, line: &str, expected: &str) {
    assert_eq!(format!("{:?}", say(client, line)), expected, "{line}");
}

/// Whether the proxy counts `n` clients in state `flag`.
fn until_flagged(client: &mut Client, flag: char, n: usize) {
    until("clients in their state", || {
        let list = say(client, "CLIENT LIST").text();
        let flags = list.lines().filter_map(|line| line.split(" flags=").nth(1)?.split(' ').next());
        flags.filter(|flags| flags.contains(flag)).count() == n
    });
}

/// The same lines to a plain server and to the proxy answer the same, to the byte, in both protocols.
/// `2: GET a` is said by a second client.
fn same(lines: &[&str]) {
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    for hello in [None, Some("3")] {
        plain.client().call(&["FLUSHALL"]);
        proxy.client().call(&["FLUSHALL"]);
        let mut clients = [0, 1].map(|_| [plain.client(), proxy.client()]);
        if hello.is_some() {
            clients = clients.map(|pair| pair.map(Client::resp3));
        }
        for line in lines {
            let (who, text) = line.strip_prefix("2: ").map_or((0, *line), |text| (1, text));
            let [wanted, got] = clients[who].each_mut().map(|client| say(client, text));
            assert_eq!(got, wanted, "{line} with HELLO {hello:?}");
        }
    }
}

// Transactions.

#[test]
fn transactions_answer_as_a_plain_redis_does() {
    same(&[
        "EXEC",
        "DISCARD",
        "UNWATCH",
        "MULTI",
        "MULTI",
        "SET {t}a 1",
        "INCR {t}a",
        "LPUSH {t}a x",
        "HSET {t}h f v",
        "HGETALL {t}h",
        "ZADD {t}z 1.5 m",
        "ZSCORE {t}z m",
        "2: GET {t}a",
        "EXEC",
        "GET {t}a",
        "MULTI",
        "SET {t}a 5",
        "DISCARD",
        "GET {t}a",
        // Nothing in it.
        "MULTI",
        "EXEC",
        // Errors before EXEC.
        "MULTI",
        "SET {t}a",
        "INCR {t}a",
        "EXEC",
        "GET {t}a",
        "MULTI",
        "NOSUCH {t}a",
        "EXEC",
        "MULTI",
        "CONFIG NOSUCH",
        "EXEC",
        "MULTI",
        "EXEC extra",
        "DISCARD",
        "MULTI",
        "WATCH {t}a",
        "GET {t}a",
        "EXEC",
        "MULTI",
        "UNWATCH",
        "PING",
        "ECHO hello",
        "GET {t}a",
        "EXEC",
        "MULTI",
        "RESET",
        "EXEC",
        "MULTI",
        "BLPOP {t}none 0",
        "BRPOPLPUSH {t}none {t}other 0",
        "EXEC",
        "MULTI",
        "CLIENT GETNAME",
        "CLIENT SETNAME inside",
        "GET {t}a",
        "CLIENT GETNAME",
        "EXEC",
        "CLIENT GETNAME",
        "MULTI",
        "EVAL return{redis.call('INCR',KEYS[1])} 1 {t}n",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "EXEC",
    ]);
}

#[test]
fn watched_keys_answer_as_a_plain_redis_does() {
    same(&[
        "WATCH {w}a {w}b",
        "MULTI",
        "SET {w}a 1",
        "EXEC",
        "WATCH {w}a",
        "2: SET {w}a 2",
        "GET {w}a",
        "MULTI",
        "SET {w}a 3",
        "EXEC",
        "GET {w}a",
        "WATCH {w}a",
        "UNWATCH",
        "2: SET {w}a 4",
        "MULTI",
        "SET {w}a 5",
        "EXEC",
        "WATCH {w}a",
        "MULTI",
        "DISCARD",
        "2: SET {w}a 6",
        "MULTI",
        "INCR {w}a",
        "EXEC",
        "WATCH {w}a",
        "SET {w}a own",
        "MULTI",
        "GET {w}a",
        "EXEC",
        "WATCH {w}gone",
        "2: SET {w}gone x",
        "2: DEL {w}gone",
        "MULTI",
        "PING",
        "EXEC",
        "WATCH {w}a",
        "2: SET {w}a 9",
        "RESET",
        "MULTI",
        "EXEC",
        "WATCH",
        // In another database it is another key.
        "WATCH {w}a",
        "2: SELECT 3",
        "2: SET {w}a elsewhere",
        "MULTI",
        "GET {w}a",
        "EXEC",
    ]);
}

#[test]
fn a_select_inside_a_transaction_holds_from_there_on() {
    same(&[
        "SET {s}k zero",
        "MULTI",
        "GET {s}k",
        "SELECT 4",
        "SET {s}k four",
        "GET {s}k",
        "EXEC",
        "GET {s}k",
        "SELECT 0",
        "GET {s}k",
        "MULTI",
        "SELECT 5",
        "DISCARD",
        "GET {s}k",
        "MULTI",
        "SELECT 99",
        "SELECT x",
        "GET {s}k",
        "EXEC",
        "GET {s}k",
        "2: GET {s}k",
        "WATCH {s}k",
        "2: SET {s}k new",
        "MULTI",
        "SELECT 6",
        "EXEC",
        "GET {s}k",
    ]);
}

#[test]
fn a_whole_transaction_can_be_pipelined() {
    let proxy = proxy();
    let mut client = proxy.client();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut requests = Vec::new();
    for round in 0..50 {
        let key = &keys[round % 3];
        for line in ["MULTI".to_owned(), format!("INCR {key}"), format!("INCR {key}"), "EXEC".to_owned()] {
            requests.push(line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }
    let replies = client.pipeline(&requests);
    let sums = replies.chunks(4).map(|four| four[3].elements()[1].int()).collect::<Vec<_>>();
    let wanted = (0..50).map(|round| 2 * (round / 3 + 1)).collect::<Vec<i64>>();
    assert_eq!(sums, wanted);
    say(&mut client, &format!("DEL {}", keys.join(" ")));
}

#[test]
fn keys_on_several_shards_are_refused_and_the_transaction_with_them() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).extra("[commands]\ncross_shard_transactions = \"refuse\"").start();
    let keys = proxy.keys_by_shard(3, 2);
    let (a, b) = (&keys[0][0], &keys[1][0]);
    let mut client = proxy.client();
    let aborted = r#"-"EXECABORT Transaction discarded because of previous errors.""#;
    for lines in [
        [format!("SET {a} 1"), format!("SET {b} 1")],
        [format!("SET {a} 1"), format!("MSET {a} 1 {b} 1")],
        [format!("SET {a} 1"), format!("BLPOP {b} 0")],
        ["PING".to_owned(), format!("SUNION {a} {b}")],
        ["PING".to_owned(), format!("RENAME {a} {b}")],
        ["PING".to_owned(), "DBSIZE".to_owned()],
    ] {
        check(&mut client, "MULTI", "+\"OK\"");
        check(&mut client, &lines[0], "+\"QUEUED\"");
        let refused = say(&mut client, &lines[1]);
        assert_eq!(refused.error_word(), "CROSSSLOT", "{lines:?}: {refused:?}");
        check(&mut client, "EXEC", aborted);
        check(&mut client, &format!("EXISTS {a} {b}"), ":0");
    }
    check(&mut client, &format!("WATCH {a}"), "+\"OK\"");
    assert_eq!(say(&mut client, &format!("WATCH {b}")).error_word(), "CROSSSLOT");
    assert_eq!(say(&mut client, &format!("WATCH {a} {b}")).error_word(), "CROSSSLOT");
    check(&mut client, "MULTI", "+\"OK\"");
    assert_eq!(say(&mut client, &format!("GET {b}")).error_word(), "CROSSSLOT");
    check(&mut client, "EXEC", aborted);
    check(&mut client, &format!("GET {b}"), "$-1");
}

/// Each adds one by WATCH, GET, MULTI, SET, EXEC until it has added its share.
fn optimistic(proxy: &Proxy, key: &str, clients: usize, share: usize) -> (i64, usize) {
    proxy.client().call(&["SET", key, "0"]);
    let lost = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for at in 0..clients {
            let (lost, proxy) = (&lost, &proxy);
            scope.spawn(move || {
                let mut client = if at % 2 == 0 { proxy.client() } else { proxy.client().resp3() };
                let mut added = 0;
                while added < share {
                    check(&mut client, &format!("WATCH {key}"), "+\"OK\"");
                    let seen = say(&mut client, &format!("GET {key}")).text().parse::<i64>().unwrap();
                    check(&mut client, "MULTI", "+\"OK\"");
                    check(&mut client, &format!("SET {key} {}", seen + 1), "+\"QUEUED\"");
                    let done = say(&mut client, "EXEC");
                    assert!(!done.is_error(), "{done:?}");
                    if done.is_null() {
                        lost.fetch_add(1, Ordering::Relaxed)
                    } else {
                        added += 1;
                        0
                    };
                }
            });
        }
    });
    (say(&mut proxy.client(), &format!("GET {key}")).text().parse().unwrap(), lost.into_inner())
}

#[test]
fn optimistic_increments_of_eight_clients_lose_nothing() {
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).start();
        let (sum, lost) = optimistic(&proxy, "counter", 8, 30);
        println!("{threads} workers: optimistic increments 240, sum {sum}, races lost {lost}");
        assert_eq!(sum, 240);
        assert!(lost > 0, "nobody ever raced");
    }
}

/// Two keys are moved between in transactions; whoever reads both in one sees the same sum.
#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let proxy = proxy();
    let over = AtomicBool::new(false);
    let mut client = proxy.client();
    check(&mut client, "MSET {iso}a 1000 {iso}b 0", "+\"OK\"");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut client = proxy.client();
            let mut moved = 0;
            while !over.load(Ordering::Relaxed) {
                for line in ["MULTI", "DECRBY {iso}a 1", "INCRBY {iso}b 1"] {
                    say(&mut client, line);
                }
                assert_eq!(say(&mut client, "EXEC").elements().len(), 2);
                moved += 1;
            }
            moved
        });
        for _ in 0..400 {
            let both = say(&mut client, "MGET {iso}a {iso}b");
            let sum = both.elements().iter().map(|value| value.text().parse::<i64>().unwrap()).sum::<i64>();
            assert_eq!(sum, 1000, "{both:?}");
        }
        over.store(true, Ordering::Relaxed);
        println!("sums seen 400, moves {}", mover.join().unwrap());
    });
}

#[test]
fn a_watch_on_a_lost_shard_spoils_the_transaction() {
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let key = proxy.keys_by_shard(3, 1)[1][0].clone();
    let mut client = proxy.client();
    check(&mut client, &format!("WATCH {key}"), "+\"OK\"");
    shards[1].restart();
    let mut other = proxy.client();
    until("the shard is back", || !say(&mut other, &format!("GET {key}")).is_error());
    check(&mut client, "MULTI", "+\"OK\"");
    check(&mut client, &format!("SET {key} x"), "+\"QUEUED\"");
    let lost = say(&mut client, "EXEC");
    assert_eq!(lost.error_word(), "SHARDLOST", "{lost:?}");
    assert!(lost.text().contains("not executed"), "{lost:?}");
    check(&mut client, &format!("GET {key}"), "$-1");
    // And the next one is a new beginning.
    for line in [&format!("WATCH {key}") as &str, "MULTI", &format!("SET {key} y")] {
        assert!(!say(&mut client, line).is_error());
    }
    check(&mut client, "EXEC", "*[+\"OK\"]");
    // A request on the watching connection while the shard is lost is an error, not silence.
    check(&mut client, &format!("WATCH {key}"), "+\"OK\"");
    shards[1].kill();
    let reply = say(&mut client, &format!("GET {key}"));
    assert!(["SHARDLOST", "SHARDDOWN"].contains(&reply.error_word().as_str()), "{reply:?}");
    check(&mut client, "UNWATCH", "+\"OK\"");
    shards[1].restart();
    until("the shard is back", || !say(&mut client, &format!("GET {key}")).is_error());
}

/// A client that goes in the middle of a transaction leaves nothing behind.
#[test]
fn a_client_that_leaves_before_exec_changes_nothing() {
    let proxy = proxy();
    let mut client = proxy.client();
    for round in 0..20 {
        let mut leaving = proxy.client();
        say(&mut leaving, "WATCH {leave}a");
        say(&mut leaving, "MULTI");
        check(&mut leaving, "SET {leave}a x", "+\"QUEUED\"");
        drop(leaving);
        check(&mut client, "GET {leave}a", "$-1");
        check(&mut client, "WATCH {leave}a", "+\"OK\"");
        check(&mut client, "MULTI", "+\"OK\"");
        check(&mut client, "PING", "+\"QUEUED\"");
        assert_eq!(say(&mut client, "EXEC").elements().len(), 1, "round {round}");
    }
}

// Blocking commands.

#[test]
fn a_pop_waits_for_what_another_client_pushes() {
    let proxy = proxy();
    let mut other = proxy.client();
    for (pop, push, expected) in [
        ("BLPOP {pop}l 0", "RPUSH {pop}l a", r#"*[$"{pop}l", $"a"]"#),
        ("BRPOP {pop}none {pop}l 0", "RPUSH {pop}l b", r#"*[$"{pop}l", $"b"]"#),
        ("BLMOVE {pop}l {pop}m LEFT RIGHT 0", "RPUSH {pop}l c", r#"$"c""#),
        ("BZPOPMIN {pop}z 0", "ZADD {pop}z 1 d", r#"*[$"{pop}z", $"d", $"1"]"#),
        ("BLMPOP 0 1 {pop}l LEFT", "RPUSH {pop}l e", r#"*[$"{pop}l", *[$"e"]]"#),
        ("XREAD BLOCK 0 STREAMS {pop}x $", "XADD {pop}x 7-1 f v", r#"*[*[$"{pop}x", *[*[$"7-1", *[$"f", $"v"]]]]]"#),
    ] {
        let mut client = proxy.client();
        client.send(&pop.split(' ').collect::<Vec<_>>());
        assert!(client.silent_for(QUIET), "{pop}");
        say(&mut other, push);
        assert_eq!(format!("{:?}", client.reply()), expected, "{pop}");
        check(&mut client, "PING", "+\"PONG\"");
    }
    say(&mut other, "DEL {pop}m {pop}x");
}

#[test]
fn a_pop_times_out_and_the_connection_is_as_before() {
    let proxy = proxy();
    let mut client = proxy.client();
    let asked = Instant::now();
    check(&mut client, "BLPOP {out}l 0.2", "*-1");
    assert!(asked.elapsed() >= Duration::from_millis(190), "{:?}", asked.elapsed());
    check(&mut client, "BLMOVE {out}l {out}m LEFT LEFT 0.05", "*-1");
    check(&mut client, "SET {out}s x", "+\"OK\"");
    check(&mut client, "BLPOP {out}s 0", r#"-"WRONGTYPE Operation against a key holding the wrong kind of value""#);
    check(&mut client, "BLPOP {out}l -1", r#"-"ERR timeout is negative""#);
    check(&mut client, "BLPOP {out}l x", r#"-"ERR timeout is not a float or out of range""#);
    let mut modern = proxy.client().resp3();
    check(&mut modern, "BLPOP {out}l 0.05", "_");
}

/// A pop may wait for longer than any request may take.
#[test]
fn a_pop_outlives_the_request_timeout() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).timeout("request", "200ms").start();
    let mut client = proxy.client();
    client.send(&["BLPOP", "long", "0"]);
    assert!(client.silent_for(Duration::from_millis(900)));
    proxy.client().call(&["RPUSH", "long", "x"]);
    assert_eq!(words(&client.reply()), ["long", "x"]);
}

fn words(value: &Value) -> Vec<String> {
    value.elements().iter().map(Value::text).collect()
}

#[test]
fn requests_behind_a_blocking_one_wait_their_turn() {
    let proxy = proxy();
    let mut client = proxy.client();
    let lines = ["SET {turn}k 1", "BLPOP {turn}l 0", "GET {turn}k", "INCR {turn}k", "BLPOP {turn}l 0", "PING"];
    let bytes = lines.iter().flat_map(|line| support::request(&line.split(' ').collect::<Vec<_>>()));
    client.send_raw(&bytes.collect::<Vec<_>>());
    assert_eq!(client.reply(), Value::ok());
    assert!(client.silent_for(QUIET));
    let mut other = proxy.client();
    check(&mut other, "SET {turn}k 41", "+\"OK\"");
    check(&mut other, "RPUSH {turn}l x", ":1");
    assert_eq!(words(&client.reply()), ["{turn}l", "x"]);
    assert_eq!(client.replies(2), [Value::bulk("41"), Value::Int(42)]);
    assert!(client.silent_for(QUIET));
    check(&mut other, "RPUSH {turn}l y", ":1");
    assert_eq!(words(&client.reply()), ["{turn}l", "y"]);
    assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
}

#[test]
fn blocked_clients_are_served_in_their_order() {
    let shards = shards(1);
    let proxy = Proxy::over(&shards).start();
    let (mut other, mut direct) = (proxy.client(), shards[0].client());
    let mut waiting = Vec::new();
    for n in 1..=8 {
        let mut client = proxy.client();
        client.send(&["BLPOP", "{fifo}l", "0"]);
        let blocked = format!("blocked_clients:{n}\r\n");
        until("it waits at the shard", || say(&mut direct, "INFO clients").text().contains(&blocked));
        waiting.push(client);
    }
    for (at, client) in waiting.iter_mut().enumerate() {
        check(&mut other, &format!("RPUSH {{fifo}}l {at}"), ":1");
        assert_eq!(words(&client.reply()), ["{fifo}l".to_owned(), at.to_string()]);
    }
}

#[test]
fn a_client_that_went_away_pops_nothing_any_more() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut other = proxy.client();
    for round in 0..20 {
        let mut leaving = proxy.client();
        leaving.send(&["BLPOP", "left", "0"]);
        until_flagged(&mut other, 'b', 1);
        drop(leaving);
        until_flagged(&mut other, 'b', 0);
        // The shard hears of it in its own time.
        let blocked = || shards.iter().map(|shard| say(&mut shard.client(), "INFO clients").text());
        until("the shard knows", || blocked().all(|info| info.contains("blocked_clients:0")));
        check(&mut other, "RPUSH left x", ":1");
        check(&mut other, "LLEN left", ":1");
        assert_eq!(words(&say(&mut other, "BLPOP left 0")), ["left", "x"], "round {round}");
    }
}

/// 2,000 elements for clients that block, of whom half now and then leave without waiting. What the
/// server had given to one that leaves is lost with it, as with Redis: at most one element for each.
#[test]
fn no_element_is_lost_or_doubled_among_blocked_clients() {
    const ELEMENTS: usize = 2_000;
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut random = Random::of_this_run("blocked clients");
    let over = AtomicBool::new(false);
    let (taken, leavers) = std::thread::scope(|scope| {
        let mut poppers = Vec::new();
        for at in 0..8 {
            let mut random = random.fork();
            let (over, proxy, keys) = (&over, &proxy, &keys);
            poppers.push(scope.spawn(move || {
                let (mut taken, mut left) = (Vec::new(), 0);
                let mut client = proxy.client();
                while !over.load(Ordering::Relaxed) {
                    client.send(&["BLPOP", &keys[at % 3], "0.05"]);
                    if at % 2 == 1 && random.one_in(6) {
                        client.half_close();
                        while let Ok(reply) = client.try_reply() {
                            taken.extend(reply_element(&reply));
                        }
                        left += 1;
                        client = proxy.client();
                        continue;
                    }
                    taken.extend(reply_element(&client.reply()));
                }
                (taken, left)
            }));
        }
        let mut pusher = proxy.client();
        for at in 0..ELEMENTS {
            assert!(pusher.call(&["RPUSH", &keys[at % 3], &at.to_string()]).int() >= 1);
        }
        let empty = |client: &mut Client| keys.iter().all(|key| client.call(&["LLEN", key]) == Value::Int(0));
        until("all is popped", || empty(&mut pusher));
        over.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        let mut leavers = 0;
        for popper in poppers {
            let (taken, left) = popper.join().unwrap();
            leavers += left;
            for element in taken {
                *all.entry(element).or_insert(0) += 1;
            }
        }
        let doubled = all.values().filter(|count| **count > 1).count();
        println!("elements {ELEMENTS}, popped {}, doubled {doubled}, clients that left {leavers}", all.len());
        assert_eq!(doubled, 0);
        (all.len(), leavers)
    });
    println!("lost with a leaving client: {}", ELEMENTS - taken);
    assert!(ELEMENTS - taken <= leavers, "elements were lost");
}

fn reply_element(reply: &Value) -> Option<String> {
    assert!(!reply.is_error(), "{reply:?}");
    (!reply.is_null()).then(|| reply.elements()[1].text())
}

#[test]
fn more_blocked_clients_than_leases_wait_all_the_same() {
    let shards = shards(1);
    let proxy = Proxy::over(&shards).extra("[limits]\nleases_max = 3").start();
    let mut other = proxy.client();
    let mut waiting = (0..8).map(|_| proxy.client()).collect::<Vec<_>>();
    for (at, client) in waiting.iter_mut().enumerate() {
        client.send(&["BLPOP", "full", "0"]);
        until_flagged(&mut other, 'b', at + 1);
        // Those on a connection of their own wait at the server, in the order in which it hears of them.
        let there = format!("blocked_clients:{}\r\n", 3.min(at + 1));
        until("it waits at the server", || shards[0].client().call(&["INFO", "clients"]).text().contains(&there));
    }
    let refused = say(&mut other, "WATCH full");
    assert_eq!(refused.error_word(), "SHARDDOWN", "{refused:?}");
    assert!(refused.text().contains("leases_max") && refused.text().contains("not executed"), "{refused:?}");
    for (at, client) in waiting.iter_mut().enumerate() {
        check(&mut other, &format!("RPUSH full e{at}"), ":1");
        assert_eq!(words(&client.reply()), ["full".to_owned(), format!("e{at}")]);
    }
    check(&mut other, "WATCH full", "+\"OK\"");
    check(&mut other, "BLPOP full 0.01", "*-1");
}

#[test]
fn client_unblock_ends_a_wait() {
    let proxy = proxy();
    let mut other = proxy.client();
    for (how, expected) in
        [("", "*-1"), (" TIMEOUT", "*-1"), (" ERROR", r#"-"UNBLOCKED client unblocked via CLIENT UNBLOCK""#)]
    {
        let mut client = proxy.client();
        let id = say(&mut client, "CLIENT ID").int();
        check(&mut other, &format!("CLIENT UNBLOCK {id}"), ":0");
        client.send(&["BLPOP", "{unblock}l", "0"]);
        let done =
            poll(PATIENCE, || (say(&mut other, &format!("CLIENT UNBLOCK {id}{how}")) == Value::Int(1)).then_some(()));
        assert!(done.is_some());
        assert_eq!(format!("{:?}", client.reply()), expected, "{how}");
        check(&mut client, "PING", "+\"PONG\"");
    }
    check(&mut other, "CLIENT UNBLOCK 999999", ":0");
}

#[test]
fn a_blocking_move_between_shards_is_refused_with_the_remedy() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut client = proxy.client();
    for line in [format!("BRPOPLPUSH {} {} 0", keys[0], keys[1]), format!("BLMOVE {} {} LEFT LEFT 0", keys[2], keys[1])]
    {
        let refused = say(&mut client, &line);
        assert_eq!(refused.error_word(), "CROSSSLOT", "{line}: {refused:?}");
        assert!(refused.text().contains("hash tag") && refused.text().contains("[[colocate]]"), "{refused:?}");
    }
    check(&mut client, "PING", "+\"PONG\"");
}

/// A shard that dies under blocked clients answers them.
#[test]
fn blocked_clients_of_a_lost_shard_are_told() {
    let mut shards = shards(2);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let key = proxy.keys_by_shard(2, 1)[1][0].clone();
    let mut waiting = (0..5).map(|_| proxy.client()).collect::<Vec<_>>();
    waiting.iter_mut().for_each(|client| client.send(&["BLPOP", &key, "0"]));
    until("they wait", || say(&mut shards[1].client(), "INFO clients").text().contains("blocked_clients:5"));
    shards[1].restart();
    for client in &mut waiting {
        let lost = client.reply();
        assert_eq!(lost.error_word(), "SHARDLOST", "{lost:?}");
    }
    let mut client = waiting.remove(0);
    until("the shard is back", || !say(&mut client, &format!("LLEN {key}")).is_error());
    check(&mut client, &format!("RPUSH {key} x"), ":1");
    assert_eq!(words(&say(&mut client, &format!("BLPOP {key} 0"))), [key, "x".to_owned()]);
}

// Scripts.

#[test]
fn scripts_run_on_every_shard() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut client = proxy.client();
    let script = "return {KEYS[1], redis.call('INCRBY', KEYS[1], ARGV[1])}";
    let sha = client.call(&["SCRIPT", "LOAD", script]).text();
    assert_eq!(sha.len(), 40);
    for key in &keys {
        let by_body = client.call(&["EVAL", script, "1", key, "5"]);
        assert_eq!(by_body, Value::Array(vec![Value::bulk(key), Value::Int(5)]));
        let by_sha = client.call(&["EVALSHA", &sha, "1", key, "2"]);
        assert_eq!(by_sha, Value::Array(vec![Value::bulk(key), Value::Int(7)]));
        check(
            &mut client,
            &format!("EVALSHA_RO {sha} 1 {key} 2"),
            &format!(
                "-\"ERR Write commands are not allowed from read-only scripts. script: {sha}, on @user_script:1.\""
            ),
        );
    }
    let none = "f".repeat(40);
    check(&mut client, &format!("SCRIPT EXISTS {sha} {none}"), "*[:1, :0]");
    check(&mut client, &format!("EVALSHA {none} 1 {}", keys[0]), r#"-"NOSCRIPT No matching script. Please use EVAL.""#);
    let across = client.call(&["EVAL", "return 1", "2", &keys[0], &keys[1]]);
    assert_eq!(across.error_word(), "CROSSSLOT", "{across:?}");
    check(&mut client, "SCRIPT FLUSH", "+\"OK\"");
    check(&mut client, &format!("SCRIPT EXISTS {sha}"), "*[:0]");
    for key in &keys {
        let gone = client.call(&["EVALSHA", &sha, "1", key, "2"]);
        assert_eq!(gone.error_word(), "NOSCRIPT", "{gone:?}");
        client.call(&["DEL", key]);
    }
}

#[test]
fn functions_are_loaded_everywhere() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 2).concat();
    let mut client = proxy.client();
    let library = "#!lua name=ours\nredis.register_function('add', function(keys, args) return \
                   redis.call('INCRBY', keys[1], args[1]) end)";
    assert_eq!(client.call(&["FUNCTION", "LOAD", library]), Value::bulk("ours"));
    for key in &keys {
        check(&mut client, &format!("FCALL add 1 {key}:f 3"), ":3");
        check(&mut client, &format!("FCALL add 1 {key}:f 3"), ":6");
    }
    let again = client.call(&["FUNCTION", "LOAD", library]);
    assert!(again.text().contains("already exists"), "{again:?}");
    assert_eq!(client.call(&["FUNCTION", "LOAD", "REPLACE", library]), Value::bulk("ours"));
    let list = say(&mut client, "FUNCTION LIST");
    assert_eq!(list.elements()[0].field("library_name"), Some(&Value::bulk("ours")));
    check(&mut client, "FUNCTION DELETE ours", "+\"OK\"");
    check(&mut client, &format!("FCALL add 1 {} 3", keys[0]), "-\"ERR Function not found\"");
}

/// A script that never ends is BUSY to others of its shard and ends by SCRIPT KILL; other shards go on.
#[test]
fn a_running_script_is_killed_from_another_connection() {
    let shards = shards(3);
    for shard in &shards {
        shard.client().call(&["CONFIG", "SET", "busy-reply-threshold", "50"]);
    }
    let proxy = Proxy::over(&shards).timeout("script", "15s").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let (mut stuck, mut other) = (proxy.client(), proxy.client());
    check(&mut other, "SCRIPT KILL", r#"-"NOTBUSY No scripts in execution right now.""#);
    stuck.send(&["EVAL", "while true do end", "1", &keys[1]]);
    for _ in 0..20 {
        check(&mut other, &format!("SET {} x", keys[0]), "+\"OK\"");
        check(&mut other, &format!("GET {}", keys[2]), "$-1");
    }
    let began = Instant::now();
    let killed = poll(PATIENCE, || {
        let reply = say(&mut other, "SCRIPT KILL");
        (reply == Value::ok()).then_some(())
    });
    assert!(killed.is_some(), "SCRIPT KILL never worked");
    println!("the script was killed after {:?}", began.elapsed());
    let end = stuck.reply();
    assert!(end.text().contains("killed by user"), "{end:?}");
    check(&mut other, &format!("GET {}", keys[1]), "$-1");
    check(&mut stuck, &format!("GET {}", keys[1]), "$-1");
}

#[test]
fn wait_answers_when_there_are_no_replicas() {
    let proxy = proxy();
    let mut client = proxy.client();
    check(&mut client, "SET {wait}k x", "+\"OK\"");
    check(&mut client, "WAIT 0 0", ":0");
    let asked = Instant::now();
    check(&mut client, "WAIT 1 100", ":0");
    assert!(asked.elapsed() >= Duration::from_millis(90), "{:?}", asked.elapsed());
    check(&mut client, "GET {wait}k", "$\"x\"");
}

// Databases and protocols.

#[test]
fn databases_are_apart_for_each_client() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut clients = (0..4).map(|_| proxy.client()).collect::<Vec<_>>();
    for (db, client) in clients.iter_mut().enumerate() {
        check(client, &format!("SELECT {}", db + 8), "+\"OK\"");
        for key in &keys {
            check(client, &format!("SET {key} in-{db}"), "+\"OK\"");
        }
    }
    for (db, client) in clients.iter_mut().enumerate() {
        let all = client.call(&[&["MGET"][..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        assert!(words(&all).iter().all(|value| *value == format!("in-{db}")), "{all:?}");
        check(client, "DBSIZE", ":3");
    }
    // Changing it in a pipeline, request by request.
    let mut requests = Vec::new();
    for at in 0..200 {
        for line in [format!("SELECT {}", 8 + at % 4), format!("GET {}", keys[at % 3])] {
            requests.push(line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }
    let replies = clients[0].pipeline(&requests);
    for at in 0..200 {
        assert_eq!(replies[2 * at + 1], Value::bulk(format!("in-{}", at % 4)), "request {at}");
    }
    check(&mut clients[1], "FLUSHDB", "+\"OK\"");
    check(&mut clients[1], "DBSIZE", ":0");
    check(&mut clients[2], "DBSIZE", ":3");
    for client in &mut clients[2..] {
        check(client, "FLUSHDB", "+\"OK\"");
    }
    check(&mut clients[0], "SELECT 8", "+\"OK\"");
    check(&mut clients[0], "FLUSHDB", "+\"OK\"");
}

#[test]
fn the_protocol_is_each_clients_own() {
    let proxy = proxy();
    let mut client = proxy.client();
    check(&mut client, "HSET {proto}h f v", ":1");
    check(&mut client, "ZADD {proto}z 1.5 m", ":1");
    check(&mut client, "SADD {proto}s m", ":1");
    let hello = say(&mut client, "HELLO 3");
    assert_eq!(hello.field("proto"), Some(&Value::Int(3)));
    check(&mut client, "HGETALL {proto}h", r#"%[($"f", $"v")]"#);
    check(&mut client, "ZSCORE {proto}z m", r#","1.5""#);
    check(&mut client, "SMEMBERS {proto}s", r#"~[$"m"]"#);
    check(&mut client, "ZRANGE {proto}z 0 -1 WITHSCORES", r#"*[*[$"m", ,"1.5"]]"#);
    check(&mut client, "GET {proto}none", "_");
    check(&mut client, "MULTI", "+\"OK\"");
    check(&mut client, "HGETALL {proto}h", "+\"QUEUED\"");
    check(&mut client, "EXEC", r#"*[%[($"f", $"v")]]"#);
    let nested = client.call(&[
        "EVAL",
        "redis.setresp(3) return {redis.call('HGETALL', KEYS[1]), {{1}}, false}",
        "1",
        "{proto}h",
    ]);
    assert_eq!(format!("{nested:?}"), r#"*[%[($"f", $"v")], *[*[:1]], #false]"#);
    let mut old = proxy.client();
    check(&mut old, "HGETALL {proto}h", r#"*[$"f", $"v"]"#);
    check(&mut client, "HELLO 4", r#"-"NOPROTO unsupported protocol version""#);
    assert_eq!(say(&mut client, "HELLO 2").field("proto"), Some(&Value::Int(2)));
    check(&mut client, "HGETALL {proto}h", r#"*[$"f", $"v"]"#);
    check(&mut client, "DEL {proto}h {proto}z {proto}s", ":3");
}

// Other clients.

#[test]
fn client_pause_holds_writes_or_everything() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    check(&mut client, "CLIENT PAUSE 10000 WRITE", "+\"OK\"");
    check(&mut other, "GET k", "$-1");
    other.send(&["SET", "k", "v"]);
    assert!(other.silent_for(QUIET));
    check(&mut client, "CLIENT UNPAUSE", "+\"OK\"");
    assert_eq!(other.reply(), Value::ok());
    let began = Instant::now();
    check(&mut client, "CLIENT PAUSE 200", "+\"OK\"");
    other.send(&["GET", "k"]);
    assert_eq!(other.reply(), Value::bulk("v"));
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    // One who leaves while it is held does not come back.
    check(&mut client, "CLIENT PAUSE 300 WRITE", "+\"OK\"");
    other.send(&["SET", "k", "late"]);
    assert!(other.silent_for(QUIET));
    drop(other);
    until("the pause is over", || say(&mut client, "SET other x") == Value::ok());
    check(&mut client, "GET k", "$\"v\"");
}

#[test]
fn client_kill_ends_another_client() {
    let proxy = proxy();
    let mut client = proxy.client();
    for how in ["addr", "id"] {
        let mut victim = proxy.client();
        let (id, address) = (say(&mut victim, "CLIENT ID").int(), victim.local());
        let (line, expected) = match how {
            "addr" => (format!("CLIENT KILL {address}"), "+\"OK\""),
            _ => (format!("CLIENT KILL ID {id}"), ":1"),
        };
        check(&mut client, &line, expected);
        assert!(victim.closed(), "{how}");
    }
    let mut blocked = proxy.client();
    let id = say(&mut blocked, "CLIENT ID").int();
    blocked.send(&["BLPOP", "{kill}l", "0"]);
    assert!(blocked.silent_for(QUIET));
    check(&mut client, &format!("CLIENT KILL ID {id}"), ":1");
    assert!(blocked.closed());
    check(&mut client, "CLIENT KILL ID 999999", ":0");
    check(&mut client, "CLIENT KILL 1.2.3.4:5", "-\"ERR No such client\"");
    let id = say(&mut client, "CLIENT ID").int();
    check(&mut client, &format!("CLIENT KILL ID {id} SKIPME no"), ":1");
    assert!(client.closed());
}

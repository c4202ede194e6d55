//! The promise about what belongs to one connection: transactions, watched keys, blocking commands,
//! scripts, databases and protocols behave as they do on one Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Guard, PATIENCE, Proxy, Redis, Value, check, poll, say, shards, until};

const QUIET: Duration = Duration::from_millis(50);

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
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
        assert!(all.elements().iter().all(|value| value.text() == format!("in-{db}")), "{all:?}");
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

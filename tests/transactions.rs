//! The promise about transactions over several shards: they answer as on one Redis, a refusal or a
//! loss before the last step runs nothing anywhere, and no client that goes leaves half of one behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::sync::{Arc, Mutex};

use support::{Answer, Client, Fake, Proxy, Random, Redis, Value, check, poll, request, say, shards, until};

/// The lines of a transaction, one behind the other; the answer to EXEC.
fn transact(client: &mut Client, lines: &[String]) -> Value {
    check(client, "MULTI", "+\"OK\"");
    for line in lines {
        check(client, line, "+\"QUEUED\"");
    }
    say(client, "EXEC")
}

/// The same lines to a plain server and to the proxy answer the same, to the byte, in both protocols.
/// `2: GET a` is said by a second client; `a0`, `b1` and the like are keys on those shards.
fn same(lines: &[&str]) {
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 3);
    for hello in [None, Some("3")] {
        plain.client().call(&["FLUSHALL"]);
        proxy.client().call(&["FLUSHALL"]);
        let mut clients = [0, 1].map(|_| [plain.client(), proxy.client()]);
        if hello.is_some() {
            clients = clients.map(|pair| pair.map(Client::resp3));
        }
        for line in lines {
            let (who, text) = line.strip_prefix("2: ").map_or((0, *line), |text| (1, text));
            let text = text.split(' ').map(|word| placed(word, &keys)).collect::<Vec<_>>();
            let [wanted, got] = clients[who].each_mut().map(|client| client.call_raw(&request(&text)));
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(shown(&got), shown(&wanted), "{line} with HELLO {hello:?}");
        }
    }
}

/// `b1` is the second key on the second shard.
fn placed(word: &str, keys: &[Vec<String>]) -> String {
    match word.as_bytes() {
        [shard @ b'a'..=b'c', at @ b'0'..=b'2'] => keys[usize::from(shard - b'a')][usize::from(at - b'0')].clone(),
        _ => word.to_owned(),
    }
}

#[test]
fn transactions_over_shards_answer_as_a_plain_redis_does() {
    same(&[
        "MULTI",
        "SET a0 1",
        "INCR b0",
        "LPUSH c0 x y",
        "GET a0",
        "2: GET a0",
        "EXEC",
        "LRANGE c0 0 -1",
        // Errors among the replies.
        "MULTI",
        "INCR c0",
        "INCR b0",
        "LPUSH a0 x",
        "EXEC",
        "GET b0",
        // Errors before EXEC.
        "MULTI",
        "SET a0 9",
        "SET b0",
        "SET c1 9",
        "EXEC",
        "GET a0",
        "EXISTS c1",
        "MULTI",
        "SET a0 9",
        "NOSUCH b0",
        "EXEC",
        "GET a0",
        "MULTI",
        "SET a0 9",
        "SET b0 9",
        "DISCARD",
        "MGET a0 b0",
        // Maps, sets and doubles are the server's own.
        "MULTI",
        "HSET a1 f v",
        "HGETALL a1",
        "ZADD b1 1.5 m",
        "ZSCORE b1 m",
        "SADD c1 x",
        "SMEMBERS c1",
        "EXEC",
        // Split and merged.
        "MULTI",
        "MSET a0 1 b0 2 a2 3",
        "MGET c2 b0 a0 none a2",
        "DEL a0 b0 c0 none",
        "EXISTS a0 b1 c1",
        "TOUCH a1 b1",
        "EXEC",
        "MULTI",
        "MSET a0 1 b0 2",
        "MGET a0 b0",
        "UNLINK a0 b0",
        "MSET a0 1 b0",
        "EXEC",
        // All shards.
        "MULTI",
        "DBSIZE",
        "FLUSHDB",
        "DBSIZE",
        "RANDOMKEY",
        "EXEC",
        "DBSIZE",
        "MULTI",
        "SET a0 1",
        "KEYS *",
        "SCRIPT EXISTS abc",
        "WAIT 0 0",
        "EXEC",
        "MULTI",
        "RANDOMKEY",
        "EXEC",
        "MULTI",
        "FLUSHALL",
        "CONFIG SET hz 12",
        "EXEC",
        "MULTI",
        "SCRIPT LOAD return{1}",
        "EVALSHA 97e5ec6e73b9a9ad9ba4e0a3ed1ef7d8c3d3c2b3 1 a0",
        "EVAL return{KEYS[1]} 1 none",
        "EXEC",
        // What the proxy answers.
        "MULTI",
        "PING",
        "ECHO x",
        "CLIENT GETNAME",
        "CLIENT SETNAME n",
        "SET a0 1",
        "SET b0 1",
        "CLIENT GETNAME",
        "UNWATCH",
        "EXEC",
        "MULTI",
        "SCAN abc",
        "SET a0 1",
        "SET b0 1",
        "MONITOR",
        "EXEC",
        "CLIENT GETNAME",
        // Blocking ones do not block.
        "MULTI",
        "BLPOP a2 0",
        "BRPOP b2 0",
        "BLMPOP 0 1 c2 LEFT",
        "XREAD BLOCK 0 STREAMS a2 0",
        "EXEC",
        "MULTI",
        "PUBLISH ch x",
        "EXEC",
        "MULTI",
        "SET a0 1",
        "SET b0 2",
        "PUBLISH ch x",
        "SPUBLISH ch x",
        "EXEC",
        "MULTI",
        "PUBSUB CHANNELS",
        "PUBSUB NUMSUB x y",
        "PUBSUB NUMPAT",
        "PUBSUB CHANNELS a b c",
        "EXEC",
    ]);
}

#[test]
fn watched_keys_and_databases_answer_as_a_plain_redis_does() {
    same(&[
        "WATCH a0",
        "MULTI",
        "SET a0 1",
        "SET b0 1",
        "EXEC",
        "MGET a0 b0",
        "WATCH a0",
        "2: SET a0 2",
        "MULTI",
        "SET a0 3",
        "SET b0 3",
        "EXEC",
        "MGET a0 b0",
        // The watched shard has no command of its own.
        "WATCH a0",
        "2: SET a0 4",
        "MULTI",
        "SET c0 5",
        "SET b0 5",
        "EXEC",
        "MGET a0 b0 c0",
        "WATCH a0",
        "MULTI",
        "SET c0 5",
        "EXEC",
        "GET c0",
        "WATCH a0",
        "2: SET a0 6",
        "UNWATCH",
        "MULTI",
        "SET b0 6",
        "INCR a0",
        "EXEC",
        "WATCH a0",
        "MULTI",
        "SET b0 7",
        "SET c0 7",
        "DISCARD",
        "2: SET a0 7",
        "MULTI",
        "SET b0 8",
        "SET c0 8",
        "EXEC",
        "WATCH a0",
        "MULTI",
        "SET b0",
        "EXEC",
        "2: SET a0 9",
        "MULTI",
        "SET b0 9",
        "SET c0 9",
        "EXEC",
        // The database is another one only when EXEC ran.
        "MULTI",
        "SELECT 3",
        "SET a0 three",
        "SET b0 three",
        "SELECT 4",
        "SET c0 four",
        "EXEC",
        "MGET a0 b0 c0",
        "SELECT 3",
        "MGET a0 b0 c0",
        "SELECT 0",
        "MGET a0 b0 c0",
        "MULTI",
        "SELECT 5",
        "SET a0 x",
        "SET b0 x",
        "DISCARD",
        "GET a0",
        "WATCH a0",
        "2: SET a0 y",
        "MULTI",
        "SELECT 6",
        "SET a0 x",
        "SET b0 x",
        "EXEC",
        "GET a0",
        "MULTI",
        "SELECT 99",
        "SELECT x",
        "GET a0",
        "GET b0",
        "EXEC",
        "MGET a0 b0",
        "2: MGET a0 b0 c0",
    ]);
}

#[test]
fn subscriptions_inside_answer_as_a_plain_redis_does() {
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1);
    for three in [false, true] {
        let mut said = Vec::new();
        for address in [plain.address(), proxy.address()] {
            let mut client = Client::connect(address);
            if three {
                client = client.resp3();
            }
            let lines = [
                "MULTI",
                "SET a0 1",
                "SUBSCRIBE x",
                "PSUBSCRIBE p*",
                "UNSUBSCRIBE x",
                "SET b0 1",
                "SUBSCRIBE y",
                "UNSUBSCRIBE none",
                "EXEC",
            ];
            let mut all = Vec::new();
            for line in lines {
                all.push(client.call_raw(&request(&line.split(' ').map(|w| placed(w, &keys)).collect::<Vec<_>>())));
            }
            let mut other = Client::connect(address);
            for channel in ["x", "pp", "y"] {
                all.push(format!("{:?}", other.call(&["PUBLISH", channel, "m"])).into_bytes());
            }
            all.push(client.reply_raw());
            all.push(client.reply_raw());
            said.push(all.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect::<Vec<_>>());
        }
        // Between channels of several shards the order of messages is not promised.
        said.iter_mut().for_each(|all| all[12..].sort());
        assert_eq!(said[1], said[0], "RESP3 {three}");
    }
}

/// A command of a random transaction, some of them wrong.
fn random_command(random: &mut Random, keys: &[String]) -> Vec<String> {
    let n = random.below(100).to_string();
    let mut key = || random.pick(keys).clone();
    let (a, b, c) = (key(), key(), key());
    let line = match random.below(40) {
        0..3 => format!("SET {a} {n}"),
        3..6 => format!("GET {a}"),
        6..9 => format!("INCRBY {a} {n}"),
        9..11 => format!("LPUSH {a} {n} x"),
        11 => format!("LRANGE {a} 0 -1"),
        12 => format!("HSET {a} f{n} v"),
        13 => format!("HGETALL {a}"),
        14 => format!("ZADD {a} {n} m{n}"),
        15 => format!("ZRANGE {a} 0 -1 WITHSCORES"),
        16..18 => format!("MSET {a} {n} {b} x{n} {c} z"),
        18..20 => format!("MGET {a} {b} {c} none"),
        20 => format!("DEL {a} {b}"),
        21 => format!("UNLINK {a} {c}"),
        22 => format!("EXISTS {a} {b} {c} {a}"),
        23 => format!("TOUCH {a} {b}"),
        24 => "DBSIZE".to_owned(),
        25 => "PING".to_owned(),
        26 => format!("ECHO {n}"),
        27 => format!("SELECT {}", random.below(3)),
        28 => format!("PUBLISH ch{n} x"),
        29 => "CLIENT GETNAME".to_owned(),
        30 => format!("CLIENT SETNAME n{n}"),
        31 => format!("EVAL return{{redis.call('INCR',KEYS[1]),ARGV[1]}} 1 {a} {n}"),
        32 => format!("TYPE {a}"),
        33 if random.one_in(4) => "FLUSHDB".to_owned(),
        34 if random.one_in(4) => "FLUSHALL".to_owned(),
        35 if random.one_in(8) => format!("SET {a}"),
        36 if random.one_in(8) => format!("NOSUCH {a}"),
        37 => format!("BLPOP {a} 0"),
        38 => format!("SCRIPT EXISTS {n}"),
        39 => format!("APPEND {a} {}", "v".repeat(random.below(30_000))),
        _ => format!("STRLEN {b}"),
    };
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn random_transactions_answer_as_a_plain_redis_does() {
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 4).concat();
    let mut random = Random::of_this_run("random transactions");
    let (mut asked, mut ran, mut aborted, mut missed) = (0, 0, 0, 0);
    for round in 0..400 {
        let mut pair = [plain.client(), proxy.client()];
        if round % 2 == 1 {
            pair = pair.map(Client::resp3);
        }
        let mut lines: Vec<Vec<String>> = Vec::new();
        for _ in 0..random.between(1, 3) {
            if random.one_in(4) {
                lines.push(vec!["WATCH".to_owned(), random.pick(&keys).clone()]);
                if random.one_in(2) {
                    lines.push(vec![
                        "".to_owned(),
                        "SET".to_owned(),
                        lines[lines.len() - 1][1].clone(),
                        "other".to_owned(),
                    ]);
                }
            }
            lines.push(vec!["MULTI".to_owned()]);
            for _ in 0..random.between(0, 10) {
                lines.push(random_command(&mut random, &keys));
            }
            lines.push(vec![if random.one_in(10) { "DISCARD" } else { "EXEC" }.to_owned()]);
            lines.push(vec!["GET".to_owned(), random.pick(&keys).clone()]);
        }
        // One line at a time, or all at once where nobody else has a word in it.
        let whole = random.one_in(2) && lines.iter().all(|line| !line[0].is_empty());
        let said = pair.each_mut().map(|client| {
            if whole {
                let bytes = lines.iter().flat_map(|line| request(line)).collect::<Vec<_>>();
                return client.pipeline_raw(&bytes, lines.len()).into_iter().map(|(_, raw)| raw).collect::<Vec<_>>();
            }
            Vec::new()
        });
        for (at, line) in lines.iter().enumerate() {
            asked += 1;
            if let Some(("", words)) = line.split_first().map(|(first, words)| (first.as_str(), words)) {
                // Another client's.
                plain.client().call(words);
                proxy.client().call(words);
                continue;
            }
            let [wanted, got] = match whole {
                true => [said[0][at].clone(), said[1][at].clone()],
                false => pair.each_mut().map(|client| client.call_raw(&request(line))),
            };
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(shown(&got), shown(&wanted), "round {round}, {line:?} of {lines:#?}");
            if line[0] == "EXEC" {
                ran += usize::from(wanted.starts_with(b"*") && !wanted.starts_with(b"*-1"));
                missed += usize::from(wanted.starts_with(b"*-1") || wanted.starts_with(b"_"));
                aborted += usize::from(wanted.starts_with(b"-"));
            }
        }
    }
    for db in ["0", "1", "2"] {
        let mut pair = [plain.client(), proxy.client()];
        for key in &keys {
            let [wanted, got] = pair.each_mut().map(|client| {
                client.call(&["SELECT", db]);
                client.call(&["DUMP", key])
            });
            assert_eq!(got, wanted, "{key} in {db}");
        }
    }
    println!("requests {asked}, transactions that ran {ran}, nil {missed}, aborted {aborted}");
    println!("over shards: {}", proxy.metric("ringway_cross_shard_total"));
    assert!(ran > 300 && missed > 5 && aborted > 5, "ran {ran}, nil {missed}, aborted {aborted}");
    assert!(proxy.metric("ringway_cross_shard_total") > 100.0, "hardly any was over shards");
}

#[test]
fn what_one_command_needs_of_several_shards_is_refused() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let (a, b) = (&keys[0], &keys[1]);
    let mut client = proxy.client();
    for line in [
        format!("SUNION {a} {b}"),
        format!("RENAME {a} {b}"),
        format!("BLPOP {a} {b} 0"),
        format!("MSETNX {a} 1 {b} 1"),
    ] {
        check(&mut client, "MULTI", "+\"OK\"");
        check(&mut client, &format!("SET {a} 1"), "+\"QUEUED\"");
        assert_eq!(say(&mut client, &line).error_word(), "CROSSSLOT", "{line}");
        check(&mut client, "EXEC", r#"-"EXECABORT Transaction discarded because of previous errors.""#);
        check(&mut client, &format!("EXISTS {a}"), ":0");
    }
    check(&mut client, &format!("WATCH {a}"), "+\"OK\"");
    assert_eq!(say(&mut client, &format!("WATCH {b}")).error_word(), "CROSSSLOT");
    check(&mut client, "UNWATCH", "+\"OK\"");
    check(&mut client, "MULTI", "+\"OK\"");
    check(&mut client, "CLIENT REPLY OFF", "+\"QUEUED\"");
    let refused = r#"*[-"ERR CLIENT REPLY cannot be part of a transaction through Ringway"]"#;
    check(&mut client, "EXEC", refused);
}

/// What the server behind the fake does to the next request of this name.
type Plan = Arc<Mutex<Option<(&'static str, Answer)>>>;

/// Shard `b` is behind a fake that follows the plan.
fn unreliable() -> (Vec<Redis>, Plan, Fake) {
    let servers = shards(3);
    let plan = Plan::default();
    let script = Arc::clone(&plan);
    let fake = Fake::before(&servers[1], move |args| {
        let mut plan = script.lock().unwrap();
        match plan.take() {
            Some((name, answer)) if args[0].eq_ignore_ascii_case(name.as_bytes()) => answer,
            other => {
                *plan = other;
                Answer::Pass
            }
        }
    });
    (servers, plan, fake)
}

/// A server that fails at a step of a transaction: what the client is told, and what ran.
#[test]
fn a_server_that_fails_at_any_step() {
    let (servers, plan, fake) = unreliable();
    let addresses = [servers[0].address(), fake.address(), servers[2].address()];
    let options = Proxy::over_addresses(addresses).timeout("request", "700ms").timeout("script", "1s");
    // A lease that were lost would be the last one.
    let mut proxy = options.extra("[limits]\ntransaction_leases_max = 1").start();
    for text in ["lost", "connection", "timeout", "answer"] {
        proxy.expect_log(text);
    }
    let keys = proxy.keys_by_shard(3, 1).concat();
    let (a, b, c) = (&keys[0], &keys[1], &keys[2]);
    let lines = [format!("INCR {a}"), format!("INCR {b}"), format!("INCR {c}"), format!("INCR {b}")];
    let nothing = "nothing was executed";
    let (oom, readonly) = ("-OOM command not allowed\r\n", "-READONLY no writes here\r\n");
    let mut runs = 0;
    for (step, answer, expected, ran) in [
        ("MULTI", Answer::BytesThenClose(Vec::new()), vec!["EXECABORT", "SHARDLOST", "shard b ", nothing], false),
        ("MULTI", Answer::BytesThenClose(oom.into()), vec!["EXECABORT", "OOM"], false),
        ("INCR", Answer::BytesThenClose(Vec::new()), vec!["EXECABORT", "SHARDLOST", "shard b ", nothing], false),
        ("INCR", Answer::BytesThenClose(oom.into()), vec!["EXECABORT", "OOM command not allowed"], false),
        ("INCR", Answer::Bytes(oom.into()), vec!["EXECABORT Transaction discarded because of: OOM command"], false),
        ("INCR", Answer::Silence, vec!["EXECABORT", "SHARDTIMEOUT", nothing], false),
        ("EXEC", Answer::BytesThenClose(Vec::new()), vec!["SHARDPARTIAL", "ran on a, c; shard b ", "SHARDLOST"], true),
        (
            "EXEC",
            Answer::BytesThenClose(readonly.into()),
            vec!["SHARDPARTIAL", "ran on a, c; shard b ", "answered: READONLY"],
            true,
        ),
        ("EXEC", Answer::Silence, vec!["SHARDPARTIAL", "ran on a, c; shard b ", "SHARDTIMEOUT"], true),
        ("NONE", Answer::Pass, vec![], true),
    ] {
        for watched in [None, Some(a), Some(b)] {
            let mut client = proxy.client();
            if let Some(key) = watched {
                check(&mut client, &format!("WATCH {key}"), "+\"OK\"");
            }
            let before = [a, c].map(|key| {
                servers[usize::from(key == c) * 2].client().call(&["GET", key]).text().parse::<i64>().unwrap_or(0)
            });
            *plan.lock().unwrap() = Some((step, answer.copy()));
            let said = transact(&mut client, &lines);
            *plan.lock().unwrap() = None;
            let after = [a, c].map(|key| {
                servers[usize::from(key == c) * 2].client().call(&["GET", key]).text().parse::<i64>().unwrap_or(0)
            });
            // Where keys of b are watched it is asked first, alone.
            let first = watched == Some(b) && step == "EXEC";
            let added = i64::from(ran && !first);
            assert_eq!(
                [after[0] - before[0], after[1] - before[1]],
                [added; 2],
                "{step}, watched {watched:?}: {said:?}"
            );
            if first {
                let text = said.text();
                assert!(["SHARDLOST", "READONLY", "SHARDTIMEOUT"].contains(&said.error_word().as_str()), "{text}");
                assert!(text.starts_with("READONLY") || text.contains("that of a, c was not"), "{text}");
            } else if expected.is_empty() {
                assert_eq!(said.elements().len(), 4, "{said:?}");
            } else {
                assert!(
                    expected.iter().all(|part| said.text().contains(part)),
                    "{step}, watched {watched:?}: {said:?}, not {expected:?}"
                );
            }
            // The client goes on, and so do others.
            let fine = poll(support::PATIENCE, || {
                let said = transact(&mut client, &[format!("GET {a}"), format!("GET {b}"), format!("GET {c}")]);
                (!said.is_error()).then_some(said)
            });
            assert!(fine.is_some(), "after {step}, watched {watched:?} nothing works");
            runs += 1;
        }
    }
    println!("failures {runs}");
}

trait Again {
    fn copy(&self) -> Self;
}

impl Again for Answer {
    fn copy(&self) -> Self {
        match self {
            Self::Pass => Self::Pass,
            Self::Silence => Self::Silence,
            Self::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Self::BytesThenClose(bytes) => Self::BytesThenClose(bytes.clone()),
            Self::PassThenBytes(bytes) => Self::PassThenBytes(bytes.clone()),
        }
    }
}

#[test]
fn a_shard_that_is_down_is_named_and_nothing_runs() {
    let mut servers = shards(3);
    let proxy = Proxy::over(&servers).expect_log("lost").expect_log("connect").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut client = proxy.client();
    let lines = keys.iter().map(|key| format!("INCR {key}")).collect::<Vec<_>>();
    assert_eq!(transact(&mut client, &lines).elements().len(), 3);
    servers[1].kill();
    for _ in 0..20 {
        let said = transact(&mut client, &lines);
        assert!(["SHARDDOWN", "EXECABORT"].contains(&said.error_word().as_str()), "{said:?}");
        assert!(said.text().contains("shard b ") && said.text().contains("executed"), "{said:?}");
    }
    check(&mut client, &format!("GET {}", keys[0]), "$\"1\"");
    servers[1].restart();
    until("the shard is back", || !transact(&mut client, &lines).is_error());
    check(&mut client, &format!("MGET {} {}", keys[0], keys[1]), "*[$\"2\", $\"1\"]");
}

/// Who finds no lease free waits his turn; who waits too long is told, and nothing ran.
#[test]
fn leases_are_bounded_and_waiting_for_them_too() {
    let servers = shards(3);
    let options = Proxy::over(&servers).timeout("request", "1s").timeout("script", "60s");
    let options = options.extra("[limits]\ntransaction_leases_max = 2\nleases_max = 1");
    let proxy = options.start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let lines = [format!("INCR {}", keys[0]), format!("INCR {}", keys[1])];
    // Whoever watches or blocks takes none of theirs.
    let mut blocked = proxy.client();
    blocked.send(&["BLPOP", &format!("{{{}}}none", keys[0]), "0"]);
    let mut client = proxy.client();
    until("somebody blocks", || say(&mut client, "INFO clients").text().contains("blocked_clients:1\r\n"));
    assert_eq!(transact(&mut client, &lines).elements().len(), 2);
    // Shard a is silent: two transactions have their leases there and wait for it, the others for leases.
    servers[0].pause();
    let mut waiting = (0..5).map(|_| proxy.client()).collect::<Vec<_>>();
    for client in &mut waiting {
        client.send(&["MULTI"]);
        lines.iter().for_each(|line| client.send(&line.split(' ').collect::<Vec<_>>()));
        client.send(&["EXEC"]);
    }
    // The shared connection, two of the reserve, and the one that asks.
    let count = || servers[1].client().call(&["CLIENT", "LIST"]).text().lines().count();
    assert!(count() <= 4, "{} connections", count());
    let said = waiting.iter_mut().map(|client| client.replies(4).pop().unwrap()).collect::<Vec<_>>();
    for said in &said {
        let why = ["SHARDTIMEOUT", "transaction_leases_max"].iter().any(|why| said.text().contains(why));
        assert!(said.error_word() == "EXECABORT" && why && said.text().contains("nothing was executed"), "{said:?}");
    }
    assert!(said.iter().any(|said| said.text().contains("transaction_leases_max")), "{said:?}");
    servers[0].resume();
    until("it works again", || !transact(&mut client, &lines).is_error());
    let counts = keys[..2].iter().map(|key| say(&mut client, &format!("GET {key}")).text()).collect::<Vec<_>>();
    assert_eq!(counts, ["2", "2"], "what was aborted did not run: {said:?}");
}

//! The promise about one command on keys of several shards: it answers what one Redis would, to the
//! byte, and leaves nothing behind: no copy, no trace of a read at a replica, no half of a write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{Client, Proxy, Random, Redis, Value, check, request, say, shards, until};

/// Keys on three shards, three on each, and some that are never there.
struct Keys(Vec<String>);

impl Keys {
    fn of(proxy: &Proxy) -> Self {
        Self(proxy.keys_by_shard(3, 4).concat())
    }

    fn any(&self, random: &mut Random) -> String {
        random.pick(&self.0).clone()
    }

    /// Up to `max` of them, some perhaps twice.
    fn some(&self, random: &mut Random, max: usize) -> Vec<String> {
        (0..random.between(1, max)).map(|_| self.any(random)).collect()
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Something for a key, of any type; elements are few so that sets overlap.
fn fill(random: &mut Random, key: &str) -> Vec<String> {
    let many = |random: &mut Random, each: &dyn Fn(usize) -> String| {
        (0..random.between(1, 6)).map(|_| each(random.below(8))).collect::<Vec<_>>().join(" ")
    };
    let line = match random.below(9) {
        0 | 1 => format!("SADD {key} {}", many(random, &|n| format!("{n}"))),
        2 => format!("SADD {key} {}", many(random, &|n| format!("m{n}"))),
        3 | 4 => format!("ZADD {key} {}", many(random, &|n| format!("{}.5 m{n}", n * 7 % 5))),
        5 => format!("RPUSH {key} {}", many(random, &|n| format!("{n}"))),
        6 => format!("PFADD {key} {}", many(random, &|n| format!("p{n}"))),
        7 => format!("GEOADD {key} {}", many(random, &|n| format!("13.{n} 38.{n} m{n}"))),
        _ => format!(
            "SET {key} {}",
            "abcdefgh".chars().skip(random.below(4)).step_by(random.between(1, 2)).collect::<String>()
        ),
    };
    words(&line)
}

/// A command that may concern several shards.
fn gathered(random: &mut Random, keys: &Keys) -> Vec<String> {
    let counted = |random: &mut Random| {
        let some = keys.some(random, 4);
        format!("{} {}", some.len(), some.join(" "))
    };
    let options = ["", " WITHSCORES", " AGGREGATE MAX", " AGGREGATE MIN WITHSCORES", " BOGUS"];
    let stored = ["", " AGGREGATE MAX", " WEIGHTS 2", " BOGUS"];
    let (one, other, some) = (keys.any(random), keys.any(random), keys.some(random, 4).join(" "));
    let line = match random.below(28) {
        0 => format!("SINTER {some}"),
        1 => format!("SUNION {some}"),
        2 => format!("SDIFF {some}"),
        3 => format!("SINTERCARD {}{}", counted(random), random.pick(&["", " LIMIT 1", " LIMIT x"])),
        4 => format!("ZUNION {}{}", counted(random), random.pick(&options)),
        5 => format!("ZINTER {}{}", counted(random), random.pick(&options)),
        6 => format!("ZDIFF {}{}", counted(random), random.pick(&["", " WITHSCORES"])),
        7 => format!("ZINTERCARD {}{}", counted(random), random.pick(&["", " LIMIT 1"])),
        8 => format!("PFCOUNT {some}"),
        9 => format!(
            "LCS {one} {other}{}",
            random.pick(&["", " LEN", " IDX", " IDX MINMATCHLEN 2 WITHMATCHLEN", " LEN IDX"])
        ),
        10 => format!("SINTERSTORE {one} {some}"),
        11 => format!("SUNIONSTORE {one} {some}"),
        12 => format!("SDIFFSTORE {one} {some}"),
        13 => format!("ZUNIONSTORE {one} {}{}", counted(random), random.pick(&stored)),
        14 => format!("ZINTERSTORE {one} {}{}", counted(random), random.pick(&stored)),
        15 => format!("ZDIFFSTORE {one} {}", counted(random)),
        16 => format!("ZRANGESTORE {one} {other} {}", random.pick(&["0 -1", "0 1 REV", "1 3 BYSCORE", "a b"])),
        17 => format!("GEOSEARCHSTORE {one} {other} FROMLONLAT 13 38 BYRADIUS {} km ASC", random.below(200)),
        18 => {
            format!("GEORADIUS {one} 13 38 {} km {} {other}", random.below(200), random.pick(&["STORE", "STOREDIST"]))
        }
        19 => format!("GEORADIUSBYMEMBER {one} m3 {} km STORE {other}", random.below(200)),
        20 => format!("PFMERGE {one} {some}"),
        21 => format!("BITOP {} {one} {some}", random.pick(&["AND", "OR", "XOR"])),
        22 => format!("BITOP NOT {one} {other}"),
        23 => format!("COPY {one} {other}{}", random.pick(&["", " REPLACE", " BOGUS", " DB 99"])),
        24 => format!("SORT {one} ALPHA STORE {other}"),
        25 => format!("SORT {one} DESC LIMIT 0 3 STORE {other}"),
        26 => format!("SUNIONSTORE {one} {some} {one}"),
        _ => format!("SORT {one} STORE {other}"),
    };
    words(&line)
}

/// Sets have no order, and a copy may have another than its original.
fn shown(command: &str, bytes: &[u8]) -> String {
    let (value, _) = support::raw_reply(bytes).unwrap().unwrap();
    match value {
        Value::Array(all) | Value::Set(all) if matches!(command, "SINTER" | "SUNION" | "SDIFF" | "SMEMBERS") => {
            let mut all: Vec<String> = all.iter().map(|one| format!("{one:?}")).collect();
            all.sort();
            format!("{}{all:?}", char::from(bytes[0]))
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Everything that is there, in a form that two servers with the same data have in common.
fn state(client: &mut Client, keys: &Keys) -> Vec<String> {
    let mut all = vec![format!("{:?}", say(client, "DBSIZE"))];
    for key in &keys.0 {
        let kind = say(client, &format!("TYPE {key}")).text();
        let line = match kind.as_str() {
            "set" => format!("SMEMBERS {key}"),
            "zset" => format!("ZRANGE {key} 0 -1 WITHSCORES"),
            "list" => format!("LRANGE {key} 0 -1"),
            _ => format!("GET {key}"),
        };
        let line = words(&line);
        let ttl = say(client, &format!("PEXPIRETIME {key}"));
        all.push(format!("{key} {kind} {ttl:?} {}", shown(&line[0], &client.call_raw(&request(&line)))));
    }
    all
}

#[test]
fn every_gathered_command_answers_as_a_plain_redis_does() {
    let mut random = Random::of_this_run("gathered");
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let keys = Keys::of(&proxy);
    for hello in [None, Some("3")] {
        let mut pair = [plain.client(), proxy.client()];
        if hello.is_some() {
            pair = pair.map(Client::resp3);
        }
        let (mut errors, mut answers) = (0, 0);
        for round in 0..120 {
            pair.iter_mut().for_each(|client| check(client, "FLUSHALL", "+\"OK\""));
            for key in &keys.0 {
                let mut setup = if random.one_in(4) { Vec::new() } else { vec![fill(&mut random, key)] };
                if random.one_in(3) {
                    setup.push(words(&format!("PEXPIREAT {key} {}", 4_000_000_000_000_u64 + random.next() % 1_000)));
                }
                for line in setup {
                    let [one, two] = pair.each_mut().map(|client| client.call(&line));
                    assert_eq!(one, two, "{line:?}");
                }
            }
            for _ in 0..12 {
                let line = gathered(&mut random, &keys);
                let [wanted, got] = pair.each_mut().map(|client| client.call_raw(&request(&line)));
                assert_eq!(shown(&line[0], &got), shown(&line[0], &wanted), "round {round}: {line:?} {hello:?}");
                *if wanted[0] == b'-' { &mut errors } else { &mut answers } += 1;
            }
            let [wanted, got] = pair.each_mut().map(|client| state(client, &keys));
            assert_eq!(got, wanted, "round {round}");
        }
        println!("answers {answers}, errors {errors}");
        assert!(answers > 300 && errors > 200, "answers {answers}, errors {errors}");
    }
    assert!(proxy.metric("ringway_cross_shard_total") > 1_000.0, "hardly any was over shards");
}

/// Elements stand for a pattern's `*`: the keys that they name are elsewhere, there and on the list's own
/// shard, of the wrong type, or nowhere.
#[test]
fn sorts_patterns_name_keys_of_any_shard() {
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let lists = proxy.keys_by_shard(3, 1).concat();
    for hello in [None, Some("3")] {
        let mut pair = [plain.client(), proxy.client()];
        if hello.is_some() {
            pair = pair.map(Client::resp3);
        }
        let mut both = |line: &str| {
            let [wanted, got] = pair.each_mut().map(|client| client.call_raw(&request(&words(line))));
            assert_eq!(got.escape_ascii().to_string(), wanted.escape_ascii().to_string(), "{line} {hello:?}");
        };
        both("FLUSHALL");
        for n in 1..=20 {
            both(&format!("SET w_{n} {}", n * 7 % 20));
            both(&format!("SET o_{n}:x object-{n}"));
            both(&format!("HSET h_{n} weight {} name field-{n}", n * 3 % 20));
        }
        both("DEL o_3:x w_4 h_5");
        both("LPUSH o_6:x wrong");
        for (list, fill) in lists.iter().zip(["RPUSH", "SADD", "ZADD"]) {
            let elements = |n: usize| if fill == "ZADD" { format!("{n} {n}") } else { n.to_string() };
            both(&format!("{fill} {list} {}", (1..=22).map(elements).collect::<Vec<_>>().join(" ")));
            for how in ["SORT", "SORT_RO"] {
                for line in [
                    format!("{how} {list} BY w_*"),
                    format!("{how} {list} BY w_* GET # GET o_*:x DESC"),
                    format!("{how} {list} BY h_*->weight GET h_*->name GET w_* LIMIT 2 5"),
                    // Three have no name: which of them comes first is chance.
                    format!("{how} {list} BY h_*->name ALPHA GET w_* LIMIT 3 20"),
                    format!("{how} {list} BY w_* GET nothing GET h_*->none GET h_*->"),
                    format!("{how} {list} GET {list} GET none_*"),
                    format!("{how} {list} BY o_*:x"),
                    format!("{how} {list} BY w_* LIMIT a b"),
                    format!("{how} none BY w_* GET o_*:x"),
                ] {
                    both(&line);
                }
            }
            for target in &lists {
                both(&format!("SORT {list} BY w_* GET o_*:x STORE {target}:stored"));
                both(&format!("LRANGE {target}:stored 0 -1"));
                both(&format!("SORT none BY w_* STORE {target}:stored"));
                both(&format!("EXISTS {target}:stored"));
            }
        }
        both("SORT w_1 BY w_* GET o_*:x");
        both("DBSIZE");
    }
}

/// What a client sends without waiting runs in its order, also where its keys are elsewhere.
#[test]
fn a_client_sees_its_own_writes() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let [a, b, c] = proxy.keys_by_shard(3, 1).concat().try_into().unwrap();
    let mut client = proxy.client();
    for n in 0..50 {
        let lines = [
            format!("SADD {a} {n} x"),
            format!("SADD {b} {n} y"),
            format!("SINTERSTORE {c} {a} {b}"),
            format!("SMEMBERS {c}"),
            format!("SADD {c} x"),
            format!("SINTER {a} {c} {a}"),
            format!("SREM {a} {n}"),
            format!("DEL {c} {b}"),
            format!("SUNION {c} {b} {a}"),
            format!("RENAME {a} {c}"),
            format!("EXISTS {a}"),
            format!("DEL {c}"),
        ];
        let requests: Vec<Vec<Vec<u8>>> =
            lines.iter().map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).collect();
        let replies = client.pipeline(&requests);
        let shown: Vec<String> = replies.iter().map(|reply| format!("{reply:?}")).collect();
        assert_eq!(shown[2..4], [":1".to_owned(), format!("*[$\"{n}\"]")], "{n}");
        assert_eq!(replies[5].elements().len(), 2, "{shown:?}");
        assert_eq!(shown[8..], ["*[$\"x\"]", "+\"OK\"", ":0", ":1"], "{n}");
    }
}

/// The same in another database, and what COPY's DB means there.
#[test]
fn databases_are_kept_apart() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let mut client = proxy.client();
    for line in
        [format!("SADD {a} zero"), "SELECT 3".to_owned(), format!("SADD {a} three"), format!("SADD {b} three four")]
    {
        assert!(!say(&mut client, &line).is_error(), "{line}");
    }
    check(&mut client, &format!("SINTER {a} {b}"), "*[$\"three\"]");
    check(&mut client, &format!("COPY {a} {b} DB 5"), ":1");
    check(&mut client, &format!("RENAME {a} {b}"), "+\"OK\"");
    check(&mut client, &format!("SMEMBERS {b}"), "*[$\"three\"]");
    check(&mut client, "SELECT 5", "+\"OK\"");
    check(&mut client, &format!("SMEMBERS {b}"), "*[$\"three\"]");
    check(&mut client, "SELECT 0", "+\"OK\"");
    check(&mut client, "DBSIZE", ":1");
}

#[test]
fn what_is_watched_stays_watched() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    for changes in [false, true] {
        check(&mut client, &format!("WATCH {a}"), "+\"OK\"");
        check(&mut client, &format!("SUNION {a} {b}"), "*[]");
        check(&mut client, &format!("RENAMENX {b} {a}"), "-\"ERR no such key\"");
        if changes {
            check(&mut other, &format!("SADD {a} x"), ":1");
        }
        check(&mut client, "MULTI", "+\"OK\"");
        check(&mut client, "PING", "+\"QUEUED\"");
        check(&mut client, "EXEC", if changes { "*-1" } else { "*[+\"PONG\"]" });
    }
}

/// What a gather reads is tracked, wherever it is, also while the client watches keys.
#[test]
fn a_client_that_caches_hears_of_what_was_gathered() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let mut other = proxy.client();
    for watches in [false, true] {
        let mut client = proxy.client().resp3();
        check(&mut client, "CLIENT TRACKING ON", "+\"OK\"");
        if watches {
            check(&mut client, &format!("WATCH {a}"), "+\"OK\"");
        }
        for key in [&a, &b] {
            say(&mut client, &format!("SUNION {a} {b}"));
            say(&mut other, &format!("SADD {key} {watches}:{key}"));
            let push = client.reply();
            assert_eq!(format!("{push:?}"), format!(">[$\"invalidate\", *[$\"{key}\"]]"), "watches {watches}");
        }
        if watches {
            check(&mut client, "MULTI", "+\"OK\"");
            check(&mut client, "PING", "+\"QUEUED\"");
            check(&mut client, "EXEC", "_");
        }
        check(&mut client, "PING", "+\"PONG\"");
    }
}

// What is left behind: nothing.

/// A replica and an append-only file hear nothing of a read, and of a write what makes them the same.
#[test]
fn replicas_hear_of_writes_alone() {
    let aof = ["--appendonly", "yes", "--appendfsync", "always", "--repl-ping-replica-period", "3600"];
    let shards = [Redis::start_with(&aof), Redis::start_with(&aof)];
    let replicas: Vec<Redis> = shards
        .iter()
        .map(|shard| Redis::start_with(&["--replicaof", "127.0.0.1", &shard.port().to_string()]))
        .collect();
    let field = |redis: &Redis, name: &str| {
        let info = redis.client().call(&["INFO"]).text();
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned)).unwrap_or_default()
    };
    for redis in &replicas {
        until("the replica is up", || field(redis, "master_link_status") == "up");
    }
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 2).try_into().unwrap();
    let mut client = proxy.client();
    for (n, key) in a.iter().chain(&b).enumerate() {
        check(&mut client, &format!("SADD {key} x y {n}"), ":3");
    }
    let all =
        || shards.each_ref().map(|shard| ["master_repl_offset", "aof_current_size"].map(|name| field(shard, name)));
    let same = || {
        shards
            .iter()
            .zip(&replicas)
            .all(|(shard, replica)| field(shard, "master_repl_offset") == field(replica, "slave_repl_offset"))
    };
    let before = all();
    assert!(before.iter().flatten().all(|number| number.parse::<u64>().is_ok_and(|number| number > 0)), "{before:?}");
    for line in [
        format!("SINTER {} {}", a[0], b[0]),
        format!("SUNION {} {}", b[0], a[0]),
        format!("SORT {} BY w_* GET o_*", a[0]),
        format!("PFCOUNT {} {}", a[0], b[1]),
    ] {
        for _ in 0..5 {
            say(&mut client, &line);
        }
    }
    assert_eq!(all(), before);
    check(&mut client, &format!("SUNIONSTORE {} {} {}", a[1], b[0], a[0]), ":4");
    check(&mut client, &format!("COPY {} {} REPLACE", a[1], b[1]), ":1");
    check(&mut client, &format!("RENAME {} new:{}", a[0], b[0]), "+\"OK\"");
    assert_ne!(all(), before);
    until("the replicas have it all", same);
    for (shard, replica) in shards.iter().zip(&replicas) {
        let digests = [shard, replica].map(|redis| redis.client().call(&["DEBUG", "DIGEST"]).text());
        assert_eq!(digests[0], digests[1]);
    }
    drop(replicas);
}

/// While others gather, KEYS and DBSIZE are exact, and no event speaks of a copy.
#[test]
fn copies_are_never_seen() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let keys = Keys::of(&proxy);
    let mut client = proxy.client();
    check(&mut client, "CONFIG SET notify-keyspace-events KEA", "+\"OK\"");
    let mut listener = proxy.client();
    listener.send(&["PSUBSCRIBE", "__key*__:*"]);
    listener.reply();
    for key in &keys.0 {
        check(&mut client, &format!("SADD {key} x {key}"), ":2");
    }
    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let size = keys.0.len();
    std::thread::scope(|scope| {
        for at in 0..2 {
            let (proxy, keys, done) = (&proxy, &keys, &done);
            scope.spawn(move || {
                let (mut client, mut random) = (proxy.client(), Random::new(at));
                for _ in 0..400 {
                    let some = keys.some(&mut random, 4).join(" ");
                    let line = match random.below(3) {
                        0 => format!("SUNION {some}"),
                        1 => format!("SUNIONSTORE {} {some}", keys.any(&mut random)),
                        _ => format!("COPY {} {} REPLACE", keys.any(&mut random), keys.any(&mut random)),
                    };
                    let said = say(&mut client, &line);
                    assert!(!said.is_error() || said.text().contains("objects are the same"), "{line}: {said:?}");
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        while !done.load(Ordering::Relaxed) {
            assert_eq!(say(&mut client, "DBSIZE").int(), size as i64);
            let all = say(&mut client, "KEYS *").elements().iter().map(Value::text).collect::<BTreeSet<_>>();
            assert_eq!(all.len(), size, "{all:?}");
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    println!("looked {} times", seen.load(Ordering::Relaxed));
    check(&mut client, "SET last x", "+\"OK\"");
    let mut events = BTreeMap::<String, usize>::new();
    loop {
        let message = listener.reply().elements().iter().map(Value::text).collect::<Vec<_>>();
        assert!(!message.iter().any(|part| part.contains("__ringway:")), "{message:?}");
        if message[2].contains("keyevent") {
            *events.entry(message[2].clone()).or_default() += 1;
        }
        if message[3] == "last" {
            break;
        }
    }
    println!("{events:?}");
    assert!(events.contains_key("__keyevent@0__:sunionstore") && events.contains_key("__keyevent@0__:copy_to"));
    assert!(!events.contains_key("__keyevent@0__:restore"), "{events:?}");
    for shard in &shards {
        let left = shard.client().call(&["KEYS", "__ringway:*"]);
        assert_eq!(left, Value::Array(Vec::new()));
    }
}

#[test]
fn names_of_copies_are_the_proxys_own() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client();
    for line in [
        "SET __ringway:1:a x",
        "MGET a __ringway:1:a",
        "SUNION __ringway:a b",
        "BLPOP __ringway:1:a 0",
        "XREAD STREAMS __ringway:1:a 0",
    ] {
        let said = say(&mut client, line);
        assert!(said.text().contains("names that begin with '__ringway:' are the proxy's own"), "{line}: {said:?}");
    }
    check(&mut client, "SET __ring way", "+\"OK\"");
}

// Refusals.

/// A shard that takes no writes takes no copies: its own words are the answer, and nothing is left.
#[test]
fn a_shard_that_refuses_writes_says_so_itself() {
    let (plain, shards) = (Redis::start(), shards(2));
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let (mut client, mut single) = (proxy.client(), plain.client());
    for client in [&mut client, &mut single] {
        check(client, &format!("SADD {a} x"), ":1");
        check(client, &format!("SADD {b} x y"), ":2");
    }
    for (refuse, allow) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let mut shard = shards[0].client();
        check(&mut shard, refuse, "+\"OK\"");
        check(&mut single, refuse, "+\"OK\"");
        let wanted = say(&mut single, &format!("SUNIONSTORE {a} {a} {b}"));
        assert!(wanted.is_error(), "{wanted:?}");
        for line in [
            format!("SUNIONSTORE {a} {a} {b}"),
            format!("SUNION {a} {b}"),
            format!("SORT {a} BY w_* STORE {a}"),
            format!("RENAME {b} {a}"),
            format!("COPY {b} {a} REPLACE"),
        ] {
            assert_eq!(say(&mut client, &line), wanted, "{refuse}: {line}");
        }
        // The other shard takes them.
        check(&mut client, &format!("SINTER {b} {a}"), "*[$\"x\"]");
        check(&mut shard, allow, "+\"OK\"");
        check(&mut single, allow, "+\"OK\"");
        check(&mut shard, "DBSIZE", ":1");
        check(&mut client, &format!("SMEMBERS {a}"), "*[$\"x\"]");
    }
}

#[test]
fn the_values_are_measured_before_any_is_copied() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).extra("[limits]\ncross_shard_max_bytes = \"1KiB\"").start();
    let [a, b] = proxy.keys_by_shard(2, 2).try_into().unwrap();
    let mut client = proxy.client();
    let mut random = Random::new(1);
    for key in &b {
        // Nothing that would be compressed.
        client.call(&[&b"SADD"[..], key.as_bytes(), &random.bytes(600)]);
    }
    check(&mut client, &format!("SADD {} x", a[0]), ":1");
    assert_eq!(say(&mut client, &format!("SUNION {} {}", a[0], b[0])).elements().len(), 2);
    for line in [format!("SUNION {} {} {}", a[0], b[0], b[1]), format!("SUNIONSTORE {} {} {}", a[0], b[0], b[1])] {
        let said = say(&mut client, &line);
        assert!(said.error_word() == "CROSSSLOT" && said.text().contains("cross_shard_max_bytes (1024)"), "{said:?}");
    }
    check(&mut client, &format!("SMEMBERS {}", a[0]), "*[$\"x\"]");
}

/// As many keys as a script can be given, and as many as are copied; beyond that nothing is done.
#[test]
fn many_keys_are_gathered_and_too_many_refused() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let mut client = proxy.client();
    check(&mut client, &format!("SADD {a} x"), ":1");
    check(&mut client, &format!("SADD {b} x y"), ":2");
    let store = |n: usize| format!("SUNIONSTORE {a}{}", format!(" {b}").repeat(n));
    check(&mut client, &store(7_898), ":2");
    assert!(say(&mut client, &store(7_899)).text().contains("more than 7900 arguments"));
    let names = |tag: &str, n: usize| (0..n).map(|n| format!(" {{{tag}}}:{n}")).collect::<String>();
    let tagged =
        (0..).map(|n| format!("t{n}")).find(|tag| proxy.place(&format!("{{{tag}}}")) != proxy.place(&a)).unwrap();
    client.call(&["SADD", &format!("{{{tagged}}}:9"), "z"]);
    assert_eq!(say(&mut client, &format!("SUNION {a}{}", names(&tagged, 10_000))).elements().len(), 3);
    let said = say(&mut client, &format!("SUNION {a}{}", names(&tagged, 10_001)));
    assert!(said.error_word() == "CROSSSLOT" && said.text().contains("more than 10000 keys"), "{said:?}");
    // The elements of one list name as many.
    let list = format!("RPUSH {a}:list{}", (0..11_000).map(|n| format!(" {n}")).collect::<String>());
    say(&mut client, &list);
    let said = say(&mut client, &format!("SORT {a}:list BY w_*"));
    assert!(said.error_word() == "CROSSSLOT" && said.text().contains("more than 10000 keys"), "{said:?}");
}

#[test]
fn a_proxy_that_is_told_to_refuse_refuses() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).extra("[commands]\ncross_shard = \"refuse\"").start();
    let [a, b] = proxy.keys_by_shard(2, 1).concat().try_into().unwrap();
    let mut client = proxy.client();
    for line in [
        format!("SUNION {a} {b}"),
        format!("SUNIONSTORE {a} {b}"),
        format!("SORT {a} BY w_*"),
        format!("RENAME {a} {b}"),
    ] {
        let said = say(&mut client, &line);
        assert!(said.error_word() == "CROSSSLOT" && said.text().contains("hash tag"), "{said:?}");
    }
}

// RENAME.

/// Another name, another shard: the value, its type and its time to live go with it.
#[test]
fn a_key_is_renamed_to_another_shard() {
    let mut random = Random::of_this_run("renamed");
    let (plain, shards) = (Redis::start(), shards(3));
    let proxy = Proxy::over(&shards).start();
    let keys = Keys::of(&proxy);
    for hello in [None, Some("3")] {
        let mut pair = [plain.client(), proxy.client()];
        if hello.is_some() {
            pair = pair.map(Client::resp3);
        }
        pair.iter_mut().for_each(|client| check(client, "FLUSHALL", "+\"OK\""));
        for round in 0..200 {
            let key = keys.any(&mut random);
            let mut lines = vec![words(&format!("DEL {key}")), fill(&mut random, &key)];
            if random.one_in(2) {
                lines.push(words(&format!("PEXPIREAT {key} {}", 4_000_000_000_000_u64 + random.next() % 1_000)));
            }
            let verb = random.pick(&["RENAME", "RENAMENX"]);
            lines.push(words(&format!("{verb} {} {}", keys.any(&mut random), keys.any(&mut random))));
            for line in lines {
                let [wanted, got] = pair.each_mut().map(|client| client.call_raw(&request(&line)));
                assert_eq!(
                    got.escape_ascii().to_string(),
                    wanted.escape_ascii().to_string(),
                    "round {round}: {line:?}"
                );
            }
            if round % 10 == 0 {
                let [wanted, got] = pair.each_mut().map(|client| state(client, &keys));
                assert_eq!(got, wanted, "round {round}");
            }
        }
    }
}

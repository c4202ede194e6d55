//! The promise about one command on keys of several shards: it answers what one Redis would, to the
//! byte, and leaves nothing behind: no copy, no trace of a read at a replica, no half of a write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use support::{Client, Proxy, Random, Redis, Value, request, shards};

/// One request of words.
fn say(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>())
}

#[track_caller]
fn check(client: &mut Client, line: &str, expected: &str) {
    assert_eq!(format!("{:?}", say(client, line)), expected, "{line}");
}

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
        assert!(answers > 500 && errors > 200, "answers {answers}, errors {errors}");
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
                    format!("{how} {list} BY h_*->name ALPHA GET w_*"),
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

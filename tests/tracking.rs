//! CLIENT TRACKING over several shards and workers: a cache at the client hears of every change, in
//! the words of one Redis, and never keeps what is out of date.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use support::{Client, Proxy, Redis, Value, say, shards, until};

/// How long it is quiet when nothing more comes.
const QUIET: Duration = Duration::from_millis(120);

/// All that comes unasked until nothing comes any more.
fn heard(client: &mut Client) -> Vec<Value> {
    let mut all = Vec::new();
    while !client.silent_for(QUIET) {
        all.push(client.reply());
    }
    all
}

/// The keys that are to be forgotten, in the order of their names; `*` for all.
fn forgotten(client: &mut Client) -> Vec<String> {
    let mut keys = Vec::new();
    for push in heard(client) {
        let Value::Push(fields) = &push else { panic!("{push:?}") };
        assert_eq!(fields[0], Value::bulk("invalidate"));
        match &fields[1] {
            Value::Null => keys.push("*".to_owned()),
            names => keys.extend(names.elements().iter().map(Value::text)),
        }
    }
    keys.sort();
    keys
}

/// Runs a story at a plain server, and behind three shards with one worker and with two.
fn same(story: impl Fn(&dyn Fn() -> Client) -> Vec<Value>) {
    let plain = Redis::start();
    let wanted = story(&|| plain.client());
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).start();
        let got = story(&|| proxy.client());
        for (at, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "answer {at} with {threads} threads");
        }
        assert_eq!(got.len(), wanted.len());
        shards.iter().for_each(|shard| _ = shard.client().call(&["FLUSHALL"]));
    }
}

#[test]
fn what_is_said_wrongly_is_answered_as_redis_does() {
    same(|connect| {
        let mut client = connect();
        let mut said = Vec::new();
        for line in include_str!("tracking/words.txt").lines() {
            said.push(say(&mut client, line));
        }
        // Redirecting to oneself is allowed; ids differ, so they are not compared.
        let id = say(&mut client, "CLIENT ID").int();
        said.push(say(&mut client, &format!("CLIENT TRACKING ON REDIRECT {id}")));
        assert_eq!(say(&mut client, "CLIENT GETREDIR"), Value::Int(id));
        said.push(say(&mut client, "CLIENT TRACKING ON REDIRECT 424242"));
        said.push(say(&mut client, "RESET"));
        said.push(say(&mut client, "CLIENT TRACKINGINFO"));
        said.push(say(&mut client.resp3(), "CLIENT TRACKINGINFO"));
        said
    });
}

#[test]
fn a_client_hears_of_what_it_read() {
    same(|connect| {
        let (mut client, mut other) = (connect().resp3(), connect());
        let mut said = vec![say(&mut client, "CLIENT TRACKING ON")];
        let mut step = |mine: &[&str], others: &[&str]| {
            said.extend(mine.iter().map(|line| say(&mut client, line)));
            said.extend(others.iter().map(|line| say(&mut other, line)));
            said.extend(heard(&mut client));
        };
        step(&["GET k1"], &["SET k1 v"]);
        step(&[], &["SET k1 w"]);
        step(&["GET k1", "SET k1 2"], &[]);
        step(&["MGET k1 k2 k3 k4"], &["DEL k2"]);
        step(&[], &["DEL k4"]);
        step(&["GET k1"], &["FLUSHALL"]);
        step(&[], &["FLUSHALL"]);
        step(&["FLUSHALL"], &[]);
        step(&["SELECT 3", "GET k5"], &["SELECT 3", "SET k5 v"]);
        step(&["MULTI", "GET a1", "GET a2", "GET a3", "GET a4", "EXEC"], &["SET a2 v"]);
        step(&[], &["SET a4 v"]);
        step(&["EVAL return(redis.call('get',KEYS[1])) 1 e1"], &["SET e1 v"]);
        step(&["LRANGE l 0 -1", "HGETALL h", "ZRANGE z 0 -1"], &["HSET h f v"]);
        step(&["XREAD COUNT 1 STREAMS x1 x2 0 0"], &["XADD x2 1-1 f v"]);
        step(&["SINTER s1 s2 s3"], &["SADD s3 m"]);
        step(&["WATCH w1", "GET w1", "GET w2", "MULTI", "GET w3", "EXEC"], &["SET w1 v"]);
        step(&[], &["SET w3 v"]);
        step(&["CLIENT TRACKING OFF", "GET k1"], &["SET k1 v"]);
        step(&["CLIENT TRACKING ON NOLOOP", "GET k1", "SET k1 v"], &[]);
        step(&["CLIENT REPLY ON", "RESET", "GET k1"], &["SET k1 v"]);
        said
    });
}

#[test]
fn a_client_that_waits_hears_all_the_same() {
    same(|connect| {
        let (mut client, mut other) = (connect().resp3(), connect());
        let mut said = vec![say(&mut client, "CLIENT TRACKING ON"), say(&mut client, "GET k1")];
        for keys in ["l1", "l1 l2 l3 l4"] {
            said.push(say(&mut client, "GET k1"));
            client.send(&format!("BLPOP {keys} 0").split(' ').collect::<Vec<_>>());
            until("it waits", || say(&mut other, "CLIENT LIST").text().contains(" flags=bt "));
            said.push(say(&mut other, "SET k1 v"));
            said.extend(heard(&mut client));
            said.push(say(&mut other, "RPUSH l1 x"));
            said.push(client.reply());
        }
        said
    });
}

#[test]
fn changes_are_told_to_whom_they_are_redirected() {
    same(|connect| {
        let (mut target, mut client, mut other) = (connect(), connect(), connect());
        let id = say(&mut target, "CLIENT ID").int();
        let mut said = vec![say(&mut client, &format!("CLIENT TRACKING ON REDIRECT {id}"))];
        assert_eq!(say(&mut client, "CLIENT GETREDIR"), Value::Int(id));
        let mut change = |client: &mut Client, target: &mut Client| {
            let mut said = Vec::new();
            for key in ["k1", "k2", "k3", "k4"] {
                said.push(say(client, &format!("GET {key}")));
                said.push(say(&mut other, &format!("SET {key} v")));
                said.extend(heard(target));
            }
            said
        };
        // Not before it has subscribed to something, whatever that is.
        said.extend(change(&mut client, &mut target));
        said.push(say(&mut target, "SUBSCRIBE something"));
        said.extend(change(&mut client, &mut target));
        said.push(say(&mut target, "SUBSCRIBE __redis__:invalidate"));
        said.extend(change(&mut client, &mut target));
        said.push(say(&mut client, "FLUSHALL"));
        said.extend(heard(&mut target));
        said.push(say(&mut target, "RESET"));
        target = target.resp3();
        said.extend(change(&mut client, &mut target));
        assert!(client.silent_for(QUIET));
        // It goes, and the client is told so when it can be.
        drop(target);
        until("it is gone", || !say(&mut other, "CLIENT LIST").text().contains(&format!("id={id} ")));
        say(&mut client, "GET k1");
        say(&mut other, "SET k1 v");
        until("it is known", || say(&mut client, "CLIENT TRACKINGINFO").elements()[1].elements().len() == 2);
        said.push(say(&mut client, "CLIENT TRACKINGINFO").elements()[1].clone());
        client = client.resp3();
        say(&mut client, "GET k1");
        say(&mut other, "SET k1 v");
        let pushes = heard(&mut client);
        let broken = vec![Value::bulk("tracking-redir-broken"), Value::Int(id)];
        assert_eq!(pushes, [Value::Push(broken)]);
        said
    });
}

#[test]
fn only_what_is_to_be_cached_is_tracked() {
    same(|connect| {
        let mut said = Vec::new();
        for (mode, word) in [("OPTIN", "YES"), ("OPTOUT", "NO")] {
            let (mut client, mut other) = (connect().resp3(), connect());
            let caching = format!("CLIENT CACHING {word}");
            said.push(say(&mut client, &format!("CLIENT TRACKING ON {mode}")));
            let mut step = |lines: &[&str], keys: &[&str]| {
                for line in lines {
                    let line = if *line == "CACHING" { &caching } else { *line };
                    said.push(say(&mut client, line));
                }
                for key in keys {
                    said.push(say(&mut other, &format!("SET {key} v")));
                    said.extend(heard(&mut client));
                }
            };
            step(&["GET k1"], &["k1"]);
            step(&["CACHING", "GET k1", "GET k2"], &["k1", "k2"]);
            step(&["CACHING", "MGET k1 k2 k3 k4"], &["k1", "k2", "k3", "k4"]);
            step(&["CACHING", "PING", "GET k1"], &["k1"]);
            step(&["CACHING", "CLIENT GETNAME", "CLIENT TRACKINGINFO", "GET k1"], &["k1"]);
            step(&["CACHING", "MULTI", "GET k1", "GET k2", "GET k3", "EXEC", "GET k4"], &["k1", "k2", "k3", "k4"]);
            step(&["MULTI", "CACHING", "GET k1", "GET k2", "EXEC", "GET k3"], &["k1", "k2", "k3"]);
            step(&["CACHING", "EVAL return(redis.call('get',KEYS[1])) 1 k1"], &["k1"]);
            step(&["SCRIPT LOAD return(redis.call('get',KEYS[1]))"], &[]);
            step(&["CACHING", "EVALSHA 4e6d8fc8bb01276962cce5371fa795a7763657ae 1 k2"], &["k2"]);
        }
        said
    });
}

#[test]
fn changes_of_prefixes_are_broadcast() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let (mut client, mut other) = (proxy.client().resp3(), proxy.client());
    assert_eq!(say(&mut client, "CLIENT TRACKING ON BCAST PREFIX user: PREFIX item:"), Value::ok());
    say(&mut other, "MSET user:1 a user:2 b user:3 c item:1 d item:2 e other:1 f");
    assert_eq!(forgotten(&mut client), ["item:1", "item:2", "user:1", "user:2", "user:3"]);
    // More prefixes are added to those.
    assert_eq!(say(&mut client, "CLIENT TRACKING ON BCAST PREFIX other:"), Value::ok());
    say(&mut other, "DEL other:1 item:1 item:2 nothing:1");
    assert_eq!(forgotten(&mut client), ["item:1", "item:2", "other:1"]);
    // What the proxy makes for itself is nobody's: copies of a gathered command.
    assert_eq!(say(&mut client, "CLIENT TRACKING OFF"), Value::ok());
    assert_eq!(say(&mut client, "CLIENT TRACKING ON BCAST"), Value::ok());
    for line in ["SADD s1 a b", "SADD s2 b c", "SADD s3 b d", "SUNION s1 s2 s3", "SUNIONSTORE s4 s1 s2 s3"] {
        assert!(!say(&mut other, line).is_error(), "{line}");
    }
    assert_eq!(forgotten(&mut client), ["s1", "s2", "s3", "s4"]);
    let list = say(&mut other, "CLIENT LIST").text();
    assert!(list.contains(" flags=tB ") && list.contains(" redir=0 "), "{list}");
    assert!(say(&mut other, "INFO clients").text().contains("tracking_clients:1\r\n"));
    assert_eq!(proxy.metric("ringway_clients_tracking"), 1.0);
    drop(client);
    until("nobody tracks", || proxy.metric("ringway_clients_tracking") == 0.0);
}

#[test]
fn one_shard_that_forgets_is_heard_of_too() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client().resp3();
    assert_eq!(say(&mut client, "CLIENT TRACKING ON"), Value::ok());
    let everything = Value::Push(vec![Value::bulk("invalidate"), Value::Null]);
    for shard in &shards {
        assert_eq!(shard.client().call(&["FLUSHALL"]), Value::ok());
        assert_eq!(client.reply(), everything);
    }
    // Three servers say so, and the client hears of it once.
    for _ in 0..20 {
        assert_eq!(say(&mut proxy.client(), "FLUSHALL"), Value::ok());
        assert_eq!(client.reply(), everything);
        assert!(client.silent_for(QUIET));
    }
}

#[test]
fn a_connection_that_breaks_takes_the_cache_with_it() {
    let shards = shards(3);
    let mut proxy = Proxy::over(&shards).start();
    proxy.expect_log("backend is not connected");
    let keys = proxy.keys_by_shard(3, 1).concat();
    let (mut target, mut other) = (proxy.client().resp3(), proxy.client());
    let id = say(&mut target, "CLIENT ID").int();
    let (mut own, mut redirected) = (proxy.client().resp3(), proxy.client());
    assert_eq!(say(&mut own, "CLIENT TRACKING ON"), Value::ok());
    assert_eq!(say(&mut redirected, &format!("CLIENT TRACKING ON REDIRECT {id}")), Value::ok());
    for (shard, key) in shards.iter().zip(&keys) {
        for round in 0..3 {
            for client in [&mut own, &mut redirected] {
                until("the shard is back", || !say(client, &format!("GET {key}")).is_error());
            }
            assert!(heard(&mut own).is_empty() && heard(&mut target).is_empty(), "round {round}");
            let mut admin = shard.client();
            let killed = admin.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            assert!(killed.int() >= 4, "{killed:?}");
            let (mine, theirs) = (forgotten(&mut own), forgotten(&mut target));
            assert!(!mine.is_empty() && mine.iter().all(|key| key == "*"), "{mine:?}");
            assert!(!theirs.is_empty() && theirs.iter().all(|key| key == "*"), "{theirs:?}");
        }
        for client in [&mut own, &mut redirected, &mut other] {
            until("the shard is back", || !say(client, &format!("GET {key}")).is_error());
        }
        // It tracks again, in the same way.
        assert_eq!(say(&mut other, &format!("SET {key} v")), Value::ok());
        assert_eq!(&forgotten(&mut own).concat(), key);
        assert_eq!(&forgotten(&mut target).concat(), key);
    }
}

#[test]
fn private_connections_are_bounded() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).extra("[limits]\nleases_max = 3").start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    let id = say(&mut clients[2], "CLIENT ID").int();
    assert_eq!(say(&mut clients[0], &format!("CLIENT TRACKING ON REDIRECT {id}")), Value::ok());
    assert_eq!(say(&mut clients[1], "CLIENT TRACKING ON"), Value::ok());
    let refused = say(&mut clients[2], "CLIENT TRACKING ON").text();
    assert!(refused.starts_with("SHARDDOWN shard a (") && refused.contains("all 3 (limits.leases_max)"), "{refused}");
    assert_eq!(say(&mut clients[2], "CLIENT TRACKINGINFO").elements()[1], Value::Array(vec![Value::bulk("off")]));
    // What one gives back another may have, and waiting with others needs none.
    clients[2].send(&["BLPOP", "l", "0"]);
    until("it waits", || say(&mut clients[0], "CLIENT LIST").text().contains(" flags=b "));
    say(&mut clients[0], "RPUSH l x");
    assert_eq!(clients[2].reply().elements().len(), 2);
    assert_eq!(say(&mut clients[0], "CLIENT TRACKING OFF"), Value::ok());
    assert_eq!(say(&mut clients[2], "CLIENT TRACKING ON"), Value::ok());
    for _ in 0..50 {
        let mut client = proxy.client();
        assert_eq!(say(&mut client, "CLIENT TRACKING ON"), Value::ok());
        assert!(!say(&mut client, "GET k").is_error());
        drop(client);
        until("its connections are given back", || {
            let list = say(&mut clients[0], "CLIENT LIST").text();
            list.lines().count() == 3
        });
    }
}

#[test]
fn transactions_over_shards_run_whole_although_the_client_goes() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut reader = proxy.client();
    let mut last = 0;
    for round in 0..60 {
        let mut client = proxy.client().resp3();
        say(&mut client, "CLIENT TRACKING ON");
        if round % 2 == 0 {
            say(&mut client, &format!("WATCH {}", keys[0]));
        }
        client.send(&["MULTI"]);
        keys.iter().for_each(|key| client.send(&["INCR", key]));
        client.send(&["EXEC"]);
        drop(client);
        until("nothing is under way", || say(&mut reader, "CLIENT LIST").text().lines().count() == 1);
        let mut counts = Vec::new();
        until("all or none", || {
            let values = reader.call(&[&["MGET"][..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat());
            counts =
                values.elements().iter().map(|v| if v.is_null() { 0 } else { v.text().parse().unwrap() }).collect();
            counts.iter().collect::<BTreeSet<_>>().len() == 1
        });
        assert!((last..=last + 1).contains(&counts[0]), "{counts:?} after {last}");
        last = counts[0];
    }
}

#[test]
fn a_change_is_told_behind_the_value_that_it_outdates() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(2, 1).concat();
    let (slow, fast) = (&keys[0], &keys[1]);
    let (mut client, mut other) = (proxy.client().resp3(), proxy.client());
    say(&mut client, "CLIENT TRACKING ON");
    shards[1].client().call(&["SET", fast, "old"]);
    shards[0].pause();
    client.send(&["GET", slow]);
    client.send(&["GET", fast]);
    // The value is there, and waits for the one before it, when the key changes.
    until("the server tracks it", || {
        shards[1].client().call(&["INFO", "stats"]).text().contains("tracking_total_keys:1")
    });
    assert_eq!(other.call(&["SET", fast, "new"]), Value::ok());
    assert!(client.silent_for(QUIET));
    shards[0].resume();
    assert!(client.reply().is_null());
    assert_eq!(client.reply(), Value::bulk("old"));
    assert_eq!(&forgotten(&mut client).concat(), fast);
}

/// A cache at the client: what it holds when all is quiet is what the servers hold.
#[test]
fn a_cache_is_never_left_with_what_is_out_of_date() {
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).start();
        let keys: Vec<String> = (0..24).map(|at| format!("c{at}")).collect();
        let (mut hits, mut pushes) = (0, 0);
        let mut cache: HashMap<String, Value> = HashMap::new();
        let mut client = proxy.client().resp3();
        let mut writers: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
        say(&mut client, "CLIENT TRACKING ON");
        let forget = |cache: &mut HashMap<String, Value>, fields: &[Value]| match &fields[1] {
            Value::Null => cache.clear(),
            names => names.elements().iter().for_each(|name| _ = cache.remove(&name.text())),
        };
        for round in 0..400 {
            // A few keys change while many are read in one go.
            for (at, writer) in writers.iter_mut().enumerate() {
                for step in 0..4 {
                    writer.send(&["INCR", &keys[(round * 7 + at * 11 + step * 5) % keys.len()]]);
                }
            }
            let missing: Vec<String> = keys.iter().filter(|key| !cache.contains_key(*key)).cloned().collect();
            hits += keys.len() - missing.len();
            let mut bytes: Vec<u8> = missing.iter().flat_map(|key| support::request(&["GET", key])).collect();
            bytes.extend(support::request(&["ECHO", "end of the round"]));
            client.send_raw(&bytes);
            let mut answered = missing.iter();
            loop {
                match client.reply() {
                    Value::Push(fields) => {
                        pushes += 1;
                        forget(&mut cache, &fields);
                    }
                    value => match answered.next() {
                        Some(key) => _ = cache.insert(key.clone(), value),
                        None => break,
                    },
                }
            }
            writers.iter_mut().for_each(|writer| _ = writer.replies(4));
        }
        for push in heard(&mut client) {
            let Value::Push(fields) = push else { panic!("{push:?}") };
            forget(&mut cache, &fields);
        }
        assert!(hits > 100 && pushes > 100, "{hits} hits, {pushes} pushes");
        for (key, value) in &cache {
            assert_eq!(&writers[0].call(&["GET", key]), value, "{key}");
        }
        shards.iter().for_each(|shard| _ = shard.client().call(&["FLUSHALL"]));
    }
}

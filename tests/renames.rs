//! The promise about names that move to another shard: no write is lost to a rename, and whichever
//! server dies, a key is gone only when the client was told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::{Client, Proxy, Random, Value, check, interval, say, shards, until};

/// Others write both names while a third renames. What was written to the old name is in one place
/// afterwards, once; what was written to the new one after the rename is there.
#[test]
fn no_write_is_lost_to_a_rename() {
    let mut random = Random::of_this_run("renames");
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let places = proxy.keys_by_shard(3, 40);
    for verb in ["RENAME", "RENAMENX"] {
        let (old, news) = (format!("old:{verb}:{}", random.next()), places.concat());
        let (done, current) = (AtomicBool::new(false), AtomicUsize::new(0));
        // Elements whose push was answered, by the name that they were pushed to.
        let pushed = Mutex::new(Vec::<(String, String)>::new());
        let (mut renamed, mut refused, mut half) = (0, 0, BTreeSet::new());
        proxy.client().call(&["FLUSHALL"]);
        std::thread::scope(|scope| {
            for at in 0..3 {
                let (proxy, old, news, done, current, pushed) = (&proxy, &old, &news, &done, &current, &pushed);
                // One of them does not go through the proxy.
                let direct = at == 2;
                let shard = proxy.place(old);
                let mut client = if direct { shards[shard].client() } else { proxy.client() };
                scope.spawn(move || {
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let key = if at == 0 { &news[current.load(Ordering::Relaxed)] } else { old };
                        let element = format!("{at}:{n}");
                        let said = client.call(&["RPUSH", key, &element]);
                        assert!(said.int() > 0);
                        pushed.lock().unwrap().push((key.clone(), element));
                        interval(Duration::from_micros(300));
                    }
                });
            }
            let mut client = proxy.client();
            for (at, new) in news.iter().enumerate() {
                current.store(at, Ordering::Relaxed);
                let said = client.call(&[verb, &old, new]);
                match (said.error_word().as_str(), &said) {
                    (_, Value::Simple(_) | Value::Int(1)) => renamed += 1,
                    ("SHARDPARTIAL", _) => _ = half.insert(new.clone()),
                    _ => refused += 1,
                }
                interval(Duration::from_millis(3));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut client = proxy.client();
        let mut found = BTreeMap::<String, Vec<String>>::new();
        for key in news.iter().chain([&old]) {
            for element in client.call(&["LRANGE", key, "0", "-1"]).elements() {
                found.entry(element.text()).or_default().push(key.clone());
            }
        }
        let pushed = pushed.into_inner().unwrap();
        println!("{verb}: pushed {}, renamed {renamed}, refused {refused}, half {}", pushed.len(), half.len());
        for (key, element) in &pushed {
            let places = found.get(element).map_or(0, Vec::len);
            // RENAME overwrites what the new name held before.
            let may_be_gone = verb == "RENAME" && *key != old;
            let may_be_twice = || found[element].iter().any(|place| half.contains(place));
            assert!(
                places == 1 || places == 0 && may_be_gone || places > 1 && may_be_twice(),
                "{key} {element}: {:?}",
                found.get(element)
            );
        }
        assert!(pushed.len() > 300 && renamed > 10, "{verb}");
    }
}

/// A shard is killed at some moment of a rename: a key is not gone unless the client was told that it
/// moved, or that it may have.
#[test]
fn a_shard_that_dies_takes_no_key_of_another_with_it() {
    let mut random = Random::of_this_run("killed");
    let mut shards = shards(2);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let [olds, news] = proxy.keys_by_shard(2, 40).try_into().unwrap();
    let mut client = proxy.client();
    let mut words = BTreeMap::<String, usize>::new();
    for (round, (old, new)) in olds.iter().zip(&news).enumerate() {
        until("both are there", || {
            !say(&mut client, &format!("SET {old} v")).is_error() && !say(&mut client, &format!("DEL {new}")).is_error()
        });
        // The first rename makes the leases, or a later one would only find that there are none.
        check(&mut client, &format!("RENAME {old} {new}"), "+\"OK\"");
        check(&mut client, &format!("RENAME {new} {old}"), "+\"OK\"");
        client.send(&["RENAME", old, new]);
        interval(Duration::from_micros(random.below(300) as u64));
        let dies = round % 2;
        shards[dies].kill();
        let said = client.reply();
        *words.entry(if said.is_error() { said.error_word() } else { "OK".to_owned() }).or_default() += 1;
        let left = shards[1 - dies].client();
        let exists = |mut client: Client, key: &str| client.call(&["EXISTS", key]).int() == 1;
        let (survivor, text) = (if dies == 1 { old } else { new }, format!("{said:?}"));
        match (said.is_error(), dies) {
            // It moved to the one that died.
            (false, 1) => assert!(!exists(left, survivor), "{text}"),
            (false, _) => assert!(exists(left, survivor), "{text}"),
            (true, 1) => assert!(exists(left, survivor), "{text}"),
            (true, _) => assert!(!exists(left, survivor) || text.contains("holds the value"), "{text}"),
        }
        assert!(!said.is_error() || ["SHARDLOST", "SHARDDOWN"].contains(&said.error_word().as_str()), "{text}");
        shards[dies].restart();
    }
    println!("{words:?}");
    assert!(words.len() > 1, "{words:?}");
}

/// Shards die and hang while clients gather: every answer is a right one or a defined error, and those
/// that could not be given in time say so.
#[test]
fn answers_are_right_or_defined_errors_while_shards_die() {
    let mut random = Random::of_this_run("dying");
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).timeout("request", "300ms").expect_log("backend").start();
    let [a, b, c] = proxy.keys_by_shard(3, 1).concat().try_into().unwrap();
    let done = AtomicBool::new(false);
    let all = Mutex::new(BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (proxy, done, all, mut random) = (&proxy, &done, &all, random.fork());
            let (a, b, c) = (&a, &b, &c);
            scope.spawn(move || {
                let mut client = proxy.client();
                while !done.load(Ordering::Relaxed) {
                    let line = match random.below(5) {
                        0 => format!("SUNION {a} {b} {c}"),
                        1 => format!("SUNIONSTORE {a} {b} {c}"),
                        2 => format!("SORT {b} BY w_* GET o_*"),
                        3 => format!("COPY {b} {c} REPLACE"),
                        _ => format!("RENAME {b} {a}"),
                    };
                    let said = say(&mut client, &line);
                    let word = if said.is_error() { said.error_word() } else { "right".to_owned() };
                    let defined = ["right", "SHARDDOWN", "SHARDLOST", "SHARDTIMEOUT", "SHARDPARTIAL"];
                    let own = said.text().contains("no such key") || said.text().contains("attempts");
                    assert!(defined.contains(&word.as_str()) || own, "{line}: {said:?}");
                    *all.lock().unwrap().entry(word).or_default() += 1;
                    say(&mut client, &format!("SADD {b} 1 2 3"));
                }
            });
        }
        for round in 0..12 {
            interval(Duration::from_millis(100));
            let at = random.below(3);
            if round % 3 == 0 {
                shards[at].pause();
                // The request's time, until the tick that sees it over and the one that tells.
                interval(Duration::from_millis(700));
                shards[at].resume();
            } else {
                shards[at].restart();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let all = all.into_inner().unwrap();
    println!("{all:?}");
    assert!(all["right"] > 100 && all.contains_key("SHARDLOST") && all.contains_key("SHARDTIMEOUT"), "{all:?}");
    let mut client = proxy.client();
    until("all are back", || !say(&mut client, &format!("SUNION {a} {b} {c}")).is_error());
    for shard in &shards {
        assert_eq!(shard.client().call(&["KEYS", "__ringway:*"]), Value::Array(Vec::new()));
    }
}

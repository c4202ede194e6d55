//! The promise about blocking commands on one shard: each waits as it does on one Redis, holds up nobody
//! else, and pops nothing for a client that has gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Guard, PATIENCE, Proxy, Random, Redis, Value, check, poll, request, say, shards, until};

const QUIET: Duration = Duration::from_millis(50);

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

/// Whether the proxy counts `n` clients in state `flag`.
fn until_flagged(client: &mut Client, flag: char, n: usize) {
    until("clients in their state", || {
        let list = say(client, "CLIENT LIST").text();
        let flags = list.lines().filter_map(|line| line.split(" flags=").nth(1)?.split(' ').next());
        flags.filter(|flags| flags.contains(flag)).count() == n
    });
}

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
        if round % 2 == 1 {
            // More than sockets keep: its end is seen by who reads all that is before it.
            leaving.send_raw(&request(&["PING"]).repeat(600_000));
        }
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

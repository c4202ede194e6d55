//! Several workers are one server: what speaks of clients speaks of all of them, whichever worker a
//! client happens to be on.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::time::Duration;

use support::{Client, Proxy, Redis, Value, poll, shards, until};

const SOON: Duration = Duration::from_millis(300);

/// Two and three workers over three shards; each new client goes to the worker with the fewest, so
/// that `WORKERS.1 * 2` clients are on all of them.
fn for_each_count(test: impl Fn(&Proxy, usize)) {
    let shards = shards(3);
    for threads in [2, 3] {
        let proxy = Proxy::over(&shards).threads(threads).expect_log("only take turns").start();
        test(&proxy, threads);
        shards.iter().for_each(|shard| _ = shard.client().call(&["FLUSHALL"]));
    }
}

fn error(text: &str) -> Value {
    Value::Error(text.into())
}

fn named(proxy: &Proxy, name: &str) -> Client {
    let mut client = proxy.client();
    assert_eq!(client.call(&["CLIENT", "SETNAME", name]), Value::ok());
    client
}

fn crowd(proxy: &Proxy, count: usize) -> Vec<Client> {
    (0..count).map(|at| named(proxy, &format!("c{at}"))).collect()
}

fn id(client: &mut Client) -> String {
    client.call(&["CLIENT", "ID"]).int().to_string()
}

/// The values of a field in the lines of CLIENT LIST.
fn fields(list: &Value, name: &str) -> Vec<String> {
    let text = list.text();
    let prefix = format!("{name}=");
    let one = |line: &str| line.split(' ').find_map(|field| field.strip_prefix(&prefix)).unwrap().to_owned();
    text.lines().map(one).collect()
}

fn list(client: &mut Client, words: &[&str]) -> Value {
    client.call(&[&["CLIENT", "LIST"][..], words].concat())
}

#[test]
fn client_list_tells_of_everybody() {
    for_each_count(|proxy, threads| {
        let mut clients = crowd(proxy, 2 * threads);
        let ids: Vec<String> = clients.iter_mut().map(id).collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 2 * threads, "ids are unique");
        for client in &mut clients {
            let all = list(client, &[]);
            assert_eq!(fields(&all, "id"), ids);
            assert_eq!(fields(&all, "name"), (0..2 * threads).map(|at| format!("c{at}")).collect::<Vec<_>>());
        }
        let (first, second) = clients.split_at_mut(1);
        let wanted = [&ids[2], &ids[1], &ids[0], "999999", &ids[2]];
        let some = list(&mut first[0], &[&["ID"], &wanted.map(AsRef::as_ref)[..]].concat());
        assert_eq!(fields(&some, "id"), [2, 1, 0, 2].map(|at| ids[at].clone()));
        let pubsub = second.last_mut().unwrap();
        pubsub.call(&["SUBSCRIBE", "news"]);
        assert_eq!(fields(&list(&mut first[0], &["TYPE", "pubsub"]), "id"), [ids.last().unwrap().clone()]);
        assert_eq!(fields(&list(&mut first[0], &["TYPE", "normal"]), "id"), &ids[..2 * threads - 1]);
        assert_eq!(list(&mut first[0], &["TYPE", "replica"]).text(), "");
        // What is wrong is nobody's business but the asker's.
        assert_eq!(list(&mut first[0], &["ID", "x"]), error("ERR Invalid client ID"));
        assert_eq!(list(&mut first[0], &["TYPE", "x"]), error("ERR Unknown client type 'x'"));
        assert_eq!(list(&mut first[0], &["NONSENSE"]), error("ERR syntax error"));
    });
}

#[test]
fn client_kill_reaches_every_worker() {
    for_each_count(|proxy, threads| {
        let count = 2 * threads;
        let kill = |client: &mut Client, words: &[&str]| client.call(&[&["CLIENT", "KILL"][..], words].concat());
        // By address, one by one, the old form and the new one.
        let mut clients = crowd(proxy, count);
        let address = clients[1].local().to_string();
        assert_eq!(kill(&mut clients[0], &[&address]), Value::ok());
        assert!(clients[1].closed());
        until("the killed one is gone", || fields(&list(&mut clients[0], &[]), "id").len() == count - 1);
        assert_eq!(kill(&mut clients[0], &[&address]), error("ERR No such client"));
        let address = clients[2].local().to_string();
        assert_eq!(kill(&mut clients[0], &["ADDR", &address, "TYPE", "normal"]), Value::Int(1));
        assert!(clients[2].closed());
        let last = id(clients.last_mut().unwrap());
        assert_eq!(kill(&mut clients[0], &["ID", &last]), Value::Int(1));
        assert!(clients.last_mut().unwrap().closed());
        assert_eq!(kill(&mut clients[0], &["ID", "0"]), error("ERR client-id should be greater than 0"));
        drop(clients);
        until("all are gone", || fields(&list(&mut proxy.client(), &[]), "id").len() == 1);
        // All of a kind.
        let mut clients = crowd(proxy, count);
        for client in &mut clients[1..] {
            client.call(&["SUBSCRIBE", "x"]);
        }
        assert_eq!(kill(&mut clients[0], &["TYPE", "pubsub"]), Value::Int(count as i64 - 1));
        assert!(clients[1..].iter_mut().all(Client::closed));
        drop(clients);
        until("all are gone", || fields(&list(&mut proxy.client(), &[]), "id").len() == 1);
        // Everybody but oneself, then oneself as well.
        let mut clients = crowd(proxy, count);
        assert_eq!(kill(&mut clients[0], &["USER", "default"]), Value::Int(count as i64 - 1));
        assert!(clients[1..].iter_mut().all(Client::closed));
        drop(clients.split_off(1));
        until("only one is left", || fields(&list(&mut clients[0], &[]), "id").len() == 1);
        let mut more = crowd(proxy, count);
        assert_eq!(kill(&mut clients[0], &["USER", "default", "SKIPME", "no"]), Value::Int(count as i64 + 1));
        assert!(clients[0].closed() && more.iter_mut().all(Client::closed));
    });
}

#[test]
fn client_pause_holds_every_workers_clients() {
    for_each_count(|proxy, threads| {
        let mut clients = crowd(proxy, 2 * threads);
        assert_eq!(clients[0].call(&["CLIENT", "PAUSE", "60000", "WRITE"]), Value::ok());
        for client in &mut clients[1..] {
            assert!(!client.call(&["GET", "k"]).is_error());
            client.send(&["INCR", "k"]);
        }
        assert!(clients[1..].iter_mut().all(|client| client.silent_for(SOON / 6)));
        assert_eq!(clients[0].call(&["CLIENT", "UNPAUSE"]), Value::ok());
        let mut sums: Vec<i64> = clients[1..].iter_mut().map(|client| client.reply().int()).collect();
        sums.sort_unstable();
        assert_eq!(sums, (1..2 * threads as i64).collect::<Vec<_>>());
        assert_eq!(clients[0].call(&["CLIENT", "PAUSE", "x"]), error("ERR timeout is not an integer or out of range"));
        assert_eq!(clients[0].call(&["CLIENT", "PAUSE", "50", "ALL"]), Value::ok());
        clients[1].send(&["PING"]);
        assert_eq!(clients[1].reply(), Value::Simple(b"PONG".to_vec()));
    });
}

#[test]
fn client_unblock_finds_a_client_on_any_worker() {
    for_each_count(|proxy, threads| {
        let mut asker = proxy.client();
        let keys = proxy.keys_by_shard(3, 1).concat();
        let mut blocked: Vec<(Client, String)> = (0..2 * threads)
            .map(|at| {
                let mut client = proxy.client();
                let id = id(&mut client);
                // On a connection of its own, and together with others over shards.
                let keys: &[String] = if at % 2 == 0 { &keys[..1] } else { &keys };
                client.send(&[&["BLPOP".to_owned()], keys, &["0".to_owned()]].concat());
                (client, id)
            })
            .collect();
        let flags = |client: &mut Client| fields(&list(client, &[]), "flags");
        until("all are blocked", || flags(&mut asker).iter().filter(|flags| *flags == "b").count() == 2 * threads);
        for (at, (client, id)) in blocked.iter_mut().enumerate() {
            let by_error = at % 3 == 0;
            let reason = if by_error { "ERROR" } else { "TIMEOUT" };
            assert_eq!(asker.call(&["CLIENT", "UNBLOCK", id, reason]), Value::Int(1));
            match by_error {
                true => assert_eq!(client.reply(), error("UNBLOCKED client unblocked via CLIENT UNBLOCK")),
                false => assert!(client.reply().is_null()),
            }
            assert_eq!(asker.call(&["CLIENT", "UNBLOCK", id]), Value::Int(0));
        }
        assert_eq!(asker.call(&["CLIENT", "UNBLOCK", "424242"]), Value::Int(0));
        assert_eq!(asker.call(&["CLIENT", "UNBLOCK", "x"]), error("ERR value is not an integer or out of range"));
    });
}

/// What a script of subscriptions and questions is answered, by the proxy or by a plain server.
fn subscriptions(connect: impl Fn() -> Client) -> Vec<Value> {
    let mut clients: Vec<Client> = (0..7).map(|_| connect()).collect();
    let mut said = Vec::new();
    for (at, words) in ["news", "news", "sport", "news", "sport"].iter().enumerate() {
        said.push(clients[at].call(&["SUBSCRIBE", words]));
    }
    said.push(clients[4].call(&["PSUBSCRIBE", "n*"]));
    said.push(clients[5].call(&["PSUBSCRIBE", "n*"]));
    said.push(clients[3].call(&["PSUBSCRIBE", "s?ort"]));
    said.push(clients[5].call(&["SSUBSCRIBE", "shard"]));
    said.push(clients[2].call(&["SSUBSCRIBE", "shard"]));
    let asker = &mut clients[6];
    for words in [
        &["PUBSUB", "NUMSUB", "news", "sport", "none", "news"][..],
        &["PUBSUB", "NUMPAT"],
        &["PUBSUB", "SHARDNUMSUB", "shard", "none"],
        &["PUBSUB", "SHARDCHANNELS"],
        &["PUBLISH", "news", "1"],
        &["PUBLISH", "sport", "2"],
        &["PUBLISH", "none", "3"],
        &["SPUBLISH", "shard", "4"],
    ] {
        said.push(asker.call(words));
    }
    for words in [&["PUBSUB", "CHANNELS"][..], &["PUBSUB", "CHANNELS", "s*"]] {
        let mut names: Vec<String> = asker.call(words).elements().iter().map(Value::text).collect();
        names.sort();
        said.push(Value::Array(names.into_iter().map(Value::bulk).collect()));
    }
    // Whoever leaves is not counted any more.
    said.push(clients[0].call(&["UNSUBSCRIBE", "news"]));
    said.push(clients[0].reply());
    said.push(clients[6].call(&["PUBLISH", "news", "5"]));
    said
}

#[test]
fn subscribers_are_counted_on_all_workers() {
    let plain = Redis::start();
    let wanted = subscriptions(|| plain.client());
    for_each_count(|proxy, _| {
        assert_eq!(subscriptions(|| proxy.client()), wanted);
        let gone = poll(support::PATIENCE, || {
            let mut client = proxy.client();
            let none = client.call(&["PUBSUB", "CHANNELS"]).elements().is_empty();
            (none && client.call(&["PUBSUB", "NUMPAT"]) == Value::Int(0)).then_some(())
        });
        assert!(gone.is_some(), "subscriptions of clients that are gone are still counted");
    });
}

#[test]
fn replies_keep_their_order_while_others_are_asked() {
    for_each_count(|proxy, threads| {
        let mut clients = crowd(proxy, threads);
        for round in 0..50 {
            let key = format!("k{round}");
            let lines: [&[&str]; 6] = [
                &["SET", &key, "v"],
                &["CLIENT", "LIST"],
                &["GET", &key],
                &["CLIENT", "KILL", "ID", "777777"],
                &["CLIENT", "UNBLOCK", "777777"],
                &["ECHO", "end"],
            ];
            let bytes: Vec<u8> = lines.iter().flat_map(|line| support::request(line)).collect();
            for client in &mut clients {
                client.send_raw(&bytes);
            }
            for client in &mut clients {
                let replies = client.replies(6);
                assert_eq!(replies[0], Value::ok());
                assert_eq!(fields(&replies[1], "id").len(), threads);
                assert_eq!(replies[2], Value::bulk("v"));
                assert_eq!(replies[3..5], [Value::Int(0), Value::Int(0)]);
                assert_eq!(replies[5], Value::bulk("end"));
            }
        }
    });
}

#[test]
fn script_flush_is_heard_by_every_worker() {
    for_each_count(|proxy, threads| {
        let mut clients = crowd(proxy, threads);
        let digest = clients[0].call(&["SCRIPT", "LOAD", "return KEYS[1]"]).text();
        for client in &mut clients {
            client.call(&["EVAL", "return KEYS[1]", "1", "a"]);
            assert_eq!(client.call(&["EVALSHA", &digest, "1", "b"]), Value::bulk("b"));
        }
        assert_eq!(clients[0].call(&["SCRIPT", "FLUSH"]), Value::ok());
        for client in &mut clients {
            assert_eq!(client.call(&["EVALSHA", &digest, "1", "b"]).error_word(), "NOSCRIPT");
        }
        assert_eq!(clients[0].call(&["SCRIPT", "FLUSH", "NONSENSE"]).error_word(), "ERR");
    });
}

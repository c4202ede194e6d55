//! EVALSHA behind several shards: a body that was sent once is known wherever its keys live, and
//! after a server has lost it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use support::{Client, Proxy, Value, shards, until};

const BODY: &str = "return {KEYS[1], ARGV[1]}";

fn sha(client: &mut Client) -> String {
    client.call(&["SCRIPT", "LOAD", BODY]).text()
}

/// EVALSHA for keys of every shard.
fn run(client: &mut Client, sha: &str) {
    for number in 0..30 {
        client.send(&["EVALSHA", sha, "1", &format!("k{number}"), "x"]);
    }
    for number in 0..30 {
        let wanted = Value::Array(vec![Value::bulk(format!("k{number}")), Value::bulk("x")]);
        assert_eq!(client.reply(), wanted);
    }
}

#[test]
fn a_body_is_known_on_every_shard() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client();
    // Learnt by EVAL, on one shard alone.
    client.call(&["EVAL", BODY, "1", "only", "x"]);
    let digest = client.call(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", BODY]).text();
    run(&mut client, &digest);
    run(&mut proxy.client(), &digest.to_uppercase());
    let mut resp3 = proxy.client();
    resp3.call(&["HELLO", "3"]);
    run(&mut resp3, &digest);
    // What nobody sent is unknown, and so is all that was flushed.
    let unknown = client.call(&["EVALSHA", &"f".repeat(40), "1", "k"]);
    assert_eq!(unknown.error_word(), "NOSCRIPT");
    assert_eq!(client.call(&["SCRIPT", "FLUSH"]), Value::ok());
    assert_eq!(client.call(&["EVALSHA", &digest, "1", "k", "x"]).error_word(), "NOSCRIPT");
    assert_eq!(sha(&mut client), digest);
    run(&mut client, &digest);
}

/// Whichever worker serves a client: one of them learnt it by EVAL, on one shard.
#[test]
fn a_body_is_known_to_every_worker() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let mut clients: Vec<Client> = (0..9).map(|_| proxy.client()).collect();
    clients[0].call(&["EVAL", BODY, "1", "only", "x"]);
    let digest = clients[0].call(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", BODY]).text();
    for client in &mut clients {
        until("the body is known", || !client.call(&["EVALSHA", &digest, "1", "other", "x"]).is_error());
        run(client, &digest);
    }
    clients[4].call(&["SCRIPT", "FLUSH"]);
    for client in &mut clients {
        until("the body is forgotten", || client.call(&["EVALSHA", &digest, "1", "k", "x"]).is_error());
    }
}

#[test]
fn a_server_that_lost_it_gets_it_again() {
    let mut shards = shards(3);
    let mut proxy = Proxy::over(&shards).start();
    proxy.expect_log("backend is not connected");
    let mut client = proxy.client();
    let digest = sha(&mut client);
    for shard in &mut shards {
        shard.kill();
        shard.restart();
    }
    for number in 0..30 {
        let key = format!("k{number}");
        until("every shard is back", || !client.call(&["GET", &key]).is_error());
    }
    run(&mut client, &digest);
    // In transactions too, on one shard and on several.
    for shard in &mut shards {
        shard.kill();
        shard.restart();
    }
    for number in 0..30 {
        let key = format!("k{number}");
        until("every shard is back", || !client.call(&["GET", &key]).is_error());
    }
    for keys in [1, 30] {
        client.call(&["MULTI"]);
        for number in 0..keys {
            client.call(&["EVALSHA", &digest, "1", &format!("k{number}"), "x"]);
        }
        let wanted = (0..keys).map(|n| Value::Array(vec![Value::bulk(format!("k{n}")), Value::bulk("x")]));
        assert_eq!(client.call(&["EXEC"]), Value::Array(wanted.collect()));
    }
}

fn library(name: &str, returns: &str) -> String {
    format!("#!lua name={name}\nredis.register_function('{name}', function(keys) return '{returns}' end)")
}

#[test]
fn a_server_that_lost_its_functions_gets_them_from_another() {
    let mut shards = shards(3);
    for threads in [1, 2] {
        let mut proxy = Proxy::over(&shards).threads(threads).start();
        proxy.expect_log("backend is not connected");
        let keys = proxy.keys_by_shard(3, 1).concat();
        let mut clients = vec![proxy.client(), proxy.client().resp3(), proxy.client()];
        assert!(clients[0].call(&["FCALL", "ours", "1", &keys[1]]).is_error());
        for name in ["ours", "more"] {
            let load = clients[0].call(&["FUNCTION", "LOAD", "REPLACE", &library(name, "one")]);
            assert_eq!(load, Value::bulk(name));
        }
        let back = |client: &mut Client, key: &str| {
            until("the shard is back", || !client.call(&["GET", key]).is_error());
        };
        // The first one that asks finds them, in a transaction too, and whichever shard it is.
        for (round, (shard, key)) in shards.iter_mut().zip(&keys).enumerate() {
            shard.kill();
            shard.restart();
            clients.iter_mut().for_each(|client| back(client, key));
            match round {
                0 => assert_eq!(clients[0].call(&["FUNCTION", "LIST"]).elements().len(), 2),
                1 => assert_eq!(clients[1].call(&["FCALL", "ours", "1", key]), Value::bulk("one")),
                _ => {
                    let lines = [&["MULTI"][..], &["FCALL", "more", "1", key], &["FCALL_RO", "x", "1", key], &["EXEC"]];
                    let said = lines.map(|line| clients[0].call(line));
                    assert_eq!(said[3].elements()[0], Value::bulk("one"), "{said:?}");
                }
            }
            for client in &mut clients {
                assert_eq!(client.call(&["FCALL", "more", "1", key]), Value::bulk("one"));
            }
            assert_eq!(shard.client().call(&["FUNCTION", "LIST"]).elements().len(), 2);
        }
        // One that brings functions of its own keeps them as they are.
        shards[2].kill();
        shards[2].restart();
        shards[2].client().call(&["FUNCTION", "LOAD", &library("ours", "another")]);
        back(&mut clients[0], &keys[2]);
        assert_eq!(clients[0].call(&["FCALL", "ours", "1", &keys[2]]), Value::bulk("another"));
        assert!(clients[0].call(&["FCALL", "more", "1", &keys[2]]).is_error());
        // What was deleted everywhere does not come back.
        assert_eq!(clients[0].call(&["FUNCTION", "FLUSH"]), Value::ok());
        shards[1].kill();
        shards[1].restart();
        back(&mut clients[0], &keys[1]);
        let missing = clients[0].call(&["FCALL", "ours", "1", &keys[1]]);
        assert_eq!(missing.text(), "ERR Function not found");
        assert_eq!(clients[0].call(&["FUNCTION", "LIST"]), Value::Array(Vec::new()));
    }
}

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

//! MONITOR behind several shards and workers: the lines that one Redis would tell.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::io::Read;
use std::time::Duration;

use support::{Client, Proxy, Redis, Value, poll, shards, until};

const ADMIN: &str = "[commands]\nadmin = true";

/// A line without its time and its client's address, which differ from run to run.
fn shown(line: &Value) -> String {
    let text = line.text();
    let (time, rest) = text.split_once(" [").unwrap_or_else(|| panic!("{text}"));
    let (seconds, micros) = time.split_once('.').unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 1_600_000_000 && micros.len() == 6, "{text}");
    let (place, command) = rest.split_once("] ").unwrap();
    let (db, address) = place.split_once(' ').unwrap();
    assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{text}");
    format!("{db} {command}")
}

/// All lines up to the one with `last` in it.
fn lines_up_to(monitor: &mut Client, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = shown(&monitor.reply());
        if line.contains(last) {
            return lines;
        }
        lines.push(line);
    }
}

/// What a monitor is told of a client that does all sorts of things, and what the monitor itself may.
fn story(connect: impl Fn() -> Client) -> (Vec<String>, Vec<Value>) {
    let mut monitor = connect();
    let mut said = vec![monitor.call(&["MONITOR"])];
    let mut client = connect();
    let binary: &[&[u8]] = &[b"SET", b"a", b"x\r\n\x00\xff\"\\\t\x07\x08'"];
    client.call(binary);
    for line in [
        "get nope too many",
        "nosuch",
        "AUTH x",
        "AUTH default pw",
        "HELLO 3 AUTH default pw SETNAME n",
        "hello 2 setname q",
        "CONFIG GET port",
        "CLIENT LIST",
        "CLIENT SETNAME z",
        "MULTI",
        "SET {a}k v",
        "GET nope too many",
        "EXEC",
        "MULTI",
        "SET {a}k v",
        "SELECT 2",
        "GET {a}k",
        "INCR {a}k2",
        "EXEC",
        "SELECT 0",
        "MULTI",
        "SET k v",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "EVAL return(1) 1 k",
        "SELECT 3",
        "GET k",
        "SUBSCRIBE ch",
        "GET k",
        "PING",
        "UNSUBSCRIBE ch",
        "PUBLISH ch x",
        "COMMAND COUNT",
        "INFO server",
        "SLOWLOG LEN",
        "DBSIZE",
        "KEYS *",
        "MGET a b c d",
        "MSET a 1 b 2 c 3",
        "LPUSH s x",
        "GET s",
        "BLPOP s 0",
        "OBJECT HELP",
        "CLIENT NOSUCH",
        "FLUSHALL",
        "RESET",
        "ECHO end",
    ] {
        client.call(&line.split(' ').collect::<Vec<_>>());
    }
    let lines = lines_up_to(&mut monitor, "\"ECHO\" \"end\"");
    // The monitor's own requests: it is told of them behind the reply.
    for line in ["PING", "GET a", "SET a b", "INCR a", "PUBLISH a b", "EVAL x 0", "TIME a"] {
        said.push(monitor.call(&line.split(' ').collect::<Vec<_>>()));
        if line == "PING" {
            assert_eq!(shown(&monitor.reply()), "0 \"PING\"");
        }
    }
    // A second MONITOR is not even answered; RESET ends it.
    monitor.send(&["MONITOR"]);
    said.push(monitor.call(&["RESET"]));
    client.call(&["PING"]);
    said.push(monitor.call(&["GET", "a"]));
    // In RESP3 lines are the same; in a transaction it is refused.
    let mut monitor = connect().resp3();
    said.push(monitor.call(&["MONITOR"]));
    client.call(&["PING", "resp3"]);
    assert_eq!(shown(&monitor.reply()), "0 \"PING\" \"resp3\"");
    said.extend(["MULTI", "MONITOR", "EXEC"].map(|word| client.call(&[word])));
    said.push(client.call(&["SUBSCRIBE", "x"]));
    said.push(client.call(&["MONITOR"]));
    (lines, said)
}

#[test]
fn a_monitor_is_told_what_a_plain_redis_tells() {
    let plain = Redis::start();
    let (wanted, replies) = story(|| plain.client());
    assert!(wanted.len() > 30, "{wanted:#?}");
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).extra(ADMIN).start();
        let (lines, said) = story(|| proxy.client());
        assert_eq!(lines, wanted, "{threads} threads");
        assert_eq!(said, replies, "{threads} threads");
    }
}

#[test]
fn requests_of_all_workers_are_told() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).threads(3).extra(ADMIN).expect_log("only take turns").start();
    let mut monitors: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for monitor in &mut monitors {
        assert_eq!(monitor.call(&["MONITOR"]), Value::ok());
    }
    let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
    for round in 0..200 {
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(&["ECHO", &format!("{at}:{round}")]);
        }
    }
    for client in &mut clients {
        client.replies(200);
    }
    for monitor in &mut monitors {
        let mut next = [0; 6];
        for _ in 0..1200 {
            let line = shown(&monitor.reply());
            let (client, round) = line.strip_prefix("0 \"ECHO\" \"").unwrap().split_once(':').unwrap();
            let next: &mut usize = &mut next[client.parse::<usize>().unwrap()];
            assert_eq!(round, format!("{next}\""), "a client's requests come in their order, each once");
            *next += 1;
        }
        assert_eq!(next, [200; 6]);
    }
    let flags = clients[0].call(&["CLIENT", "LIST"]).text();
    assert_eq!(flags.matches(" flags=O ").count(), 3, "{flags}");
    // Whoever leaves is not told any more, and the others are.
    drop(monitors.split_off(1));
    clients.iter_mut().for_each(|client| _ = client.call(&["ECHO", "again"]));
    for _ in 0..6 {
        assert_eq!(shown(&monitors[0].reply()), "0 \"ECHO\" \"again\"");
    }
}

#[test]
fn monitor_is_for_admins() {
    let shards = shards(1);
    let refused = |proxy: &Proxy, login: Option<[&str; 3]>| {
        let mut client = proxy.client();
        if let Some(login) = login {
            assert_eq!(client.call(&login), Value::ok());
        }
        let reply = client.call(&["MONITOR"]);
        assert_eq!(client.call(&["PING"]), Value::Simple(b"PONG".to_vec()));
        reply.text()
    };
    let proxy = Proxy::over(&shards).start();
    assert_eq!(
        refused(&proxy, None),
        "NOPERM MONITOR is for admins: [commands] admin = true makes local clients admins, [[user]] admin = true a user"
    );
    let users = "[[user]]\nname = \"app\"\npassword = \"a\"\n[[user]]\nname = \"ops\"\npassword = \"o\"\nadmin = true";
    let proxy = Proxy::over(&shards).extra(users).start();
    let said = refused(&proxy, Some(["AUTH", "app", "a"]));
    assert_eq!(said, "NOPERM MONITOR is for admins: user 'app' has no admin = true");
    assert_eq!(proxy.client().call(&["MONITOR"]).error_word(), "NOAUTH");
    let mut monitor = proxy.client();
    assert_eq!(monitor.call(&["AUTH", "ops", "o"]), Value::ok());
    assert_eq!(monitor.call(&["MONITOR"]), Value::ok());
    // Nobody is told of a password, nor of what a stranger may not do.
    let mut client = proxy.client();
    client.call(&["GET", "k"]);
    client.call(&["AUTH", "app", "wrong"]);
    client.call(&["HELLO", "3", "AUTH", "app", "a"]);
    client.call(&["PING"]);
    let lines = lines_up_to(&mut monitor, "PING");
    assert_eq!(lines, [r#"0 "AUTH" "(redacted)" "(redacted)""#, r#"0 "HELLO" "3" "AUTH" "(redacted)" "(redacted)""#]);
}

#[test]
fn a_monitor_that_does_not_read_is_closed() {
    let shards = shards(1);
    let limits = "[limits]\nsubscriber_output_hard_bytes_max = \"1MiB\"\nsubscriber_output_soft_bytes_max = \"512KiB\"";
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).extra(&format!("{ADMIN}\n{limits}")).start();
        let mut monitor = proxy.client();
        assert_eq!(monitor.call(&["MONITOR"]), Value::ok());
        let mut others: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
        let large = "x".repeat(64 << 10);
        let closed = poll(support::PATIENCE, || {
            for other in &mut others {
                other.call(&["SET", "k", &large]);
            }
            let list = others[0].call(&["CLIENT", "LIST"]).text();
            (!list.contains(" flags=O ")).then_some(())
        });
        assert!(closed.is_some(), "it is still there");
        let mut rest = Vec::new();
        monitor.stream().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        _ = monitor.stream().read_to_end(&mut rest);
        until("the others go on", || others[1].call(&["GET", "k"]) == Value::bulk(&large));
    }
}

//! The test support itself: a reader that accepts too much, or a server that is not the one that was
//! started, would make every other test worthless.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::path::Path;

use support::{Answer, Client, Fake, Process, Redis, Value, raw_reply, until};

/// `bytes` are one whole reply that reads as `wanted`; no shorter part of them is one.
fn check(bytes: &[u8], wanted: &str) {
    let (value, length) = raw_reply(bytes).unwrap().unwrap();
    assert_eq!((format!("{value:?}").as_str(), length), (wanted, bytes.len()));
    for cut in 0..bytes.len() {
        assert!(raw_reply(&bytes[..cut]).unwrap().is_none(), "{} at {cut}", bytes.escape_ascii());
    }
}

#[test]
fn every_kind_of_reply_is_read() {
    check(b"+OK\r\n", "+\"OK\"");
    check(b"-ERR no\r\n", "-\"ERR no\"");
    check(b":-7\r\n", ":-7");
    check(b"$0\r\n\r\n", "$\"\"");
    check(b"$4\r\na\r\nb\r\n", "$\"a\\r\\nb\"");
    check(b"$-1\r\n", "$-1");
    check(b"*-1\r\n", "*-1");
    check(b"*0\r\n", "*[]");
    check(b"*2\r\n:1\r\n*1\r\n$-1\r\n", "*[:1, *[$-1]]");
    check(b"_\r\n", "_");
    check(b"#t\r\n", "#true");
    check(b",1.5\r\n", ",\"1.5\"");
    check(b"(12345678901234567890\r\n", "(\"12345678901234567890\"");
    check(b"!3\r\nERR\r\n", "!\"ERR\"");
    check(b"=7\r\ntxt:abc\r\n", "=\"txt:abc\"");
    check(b"%1\r\n+a\r\n:1\r\n", "%[(+\"a\", :1)]");
    check(b"~1\r\n+a\r\n", "~[+\"a\"]");
    check(b">1\r\n+a\r\n", ">[+\"a\"]");
    check(b"|1\r\n+a\r\n:1\r\n+OK\r\n", "|[(+\"a\", :1)] +\"OK\"");
}

#[test]
fn what_is_no_reply_is_refused() {
    for bytes in ["what\r\n", "$3\r\nabcdef\r\n", "$-2\r\n", "*-2\r\n", ":x\r\n", "#x\r\n", "\r\n", "$\r\n", "%-1\r\n"]
    {
        assert!(raw_reply(bytes.as_bytes()).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_server_comes_back_empty_on_its_port() {
    let mut redis = Redis::start();
    let port = redis.port();
    assert_eq!(redis.client().call(&["SET", "k", "v"]), Value::ok());
    redis.restart();
    assert_eq!(redis.port(), port);
    assert!(redis.client().call(&["GET", "k"]).is_null());
    redis.pause();
    let mut client = redis.client();
    client.send(&["PING"]);
    assert!(client.silent_for(std::time::Duration::from_millis(20)));
    redis.resume();
    assert_eq!(client.reply().text(), "PONG");
    redis.stop();
    assert!(client.closed());
}

#[test]
fn a_process_ends_with_its_owner() {
    let process = Process::start("sleep", |command| {
        command.arg("600");
    });
    let entry = format!("/proc/{}", process.id());
    assert!(Path::new(&entry).exists());
    drop(process);
    assert!(!Path::new(&entry).exists());
}

#[test]
fn a_fake_passes_on_what_its_script_leaves_alone() {
    let redis = Redis::start();
    let fake = Fake::before(&redis, |args| match args.last().map(Vec::as_slice) {
        Some(b"garbage") => Answer::Bytes(b"+garbage\r\n".to_vec()),
        Some(b"twice") => Answer::PassThenBytes(b":2\r\n".to_vec()),
        Some(b"half") => Answer::BytesThenClose(b"$9\r\nha".to_vec()),
        _ => Answer::Pass,
    });
    let mut client = Client::connect(fake.address());
    assert_eq!(client.call(&["SET", "k", "v"]), Value::ok());
    assert_eq!(client.call(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(client.call(&["GET", "garbage"]).text(), "garbage");
    assert!(client.call(&["GET", "twice"]).is_null());
    assert_eq!(client.reply(), Value::Int(2));
    assert!(client.try_call(&["GET", "half"]).is_err());
    fake.disconnect();
    until("a second connection", || Client::connect(fake.address()).try_call(&["PING"]).is_ok());
    assert!(fake.accepted() >= 2);
}

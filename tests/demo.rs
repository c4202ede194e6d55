//! `ringway demo`: real servers behind the proxy, and nothing left of them, however it ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn demo(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    // A port of the kernel's choice: demos of other tests may hold the default one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    command.args(["demo", "--shards", "2", "--port", &port.to_string()]).args(args).env("TMPDIR", directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The processes that live in a demo's directory; those that ended but were not awaited are none.
fn alive(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let inside = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if inside || line.contains(directory.to_str().unwrap()) {
            found.push(line);
        }
    }
    found
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// Starts a demo that waits for Ctrl-C, and waits for its text.
fn waiting(directory: &Path) -> (Child, String) {
    let mut child = demo(directory, &[]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        assert!(out.read_line(&mut text).unwrap() > 0, "{text}");
    }
    (child, text)
}

fn send(signal: &str, child: &Child) {
    // The shell's own kill: the program of that name is a package that may be missing.
    let status = Command::new("sh").args(["-c", &format!("kill {signal} {}", child.id())]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_command_finds_the_proxy_and_its_exit_code_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let script = "redis-cli -u $REDIS_URL ping; exit 7";
    let output = demo(dir.path(), &["--", "sh", "-c", script]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "PONG\n");
    assert_eq!(alive(dir.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn signals_leave_nothing_behind() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, text) = waiting(dir.path());
        assert!(text.contains("redis-cli -p "), "{text}");
        assert_eq!(alive(dir.path()).len(), 3, "two servers and the proxy");
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        assert_eq!(alive(dir.path()), Vec::<String>::new(), "{signal}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn no_process_outlives_a_killed_demo() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, _) = waiting(dir.path());
    send("-KILL", &child);
    child.wait().unwrap();
    until("the servers and the proxy to end", || alive(dir.path()).is_empty());
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(dir.path(), &[]).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(err, "ringway: redis-server is not on the PATH: apt-get install redis-server\n");
}

//! The promise to existing programs: the libraries and tools that people use work unchanged, in
//! RESP2 and RESP3.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::{Guard, Proxy, Redis};

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

/// A proxy of its own for a program that begins and ends with FLUSHALL.
fn alone(run: impl FnOnce(&str)) {
    let shards = support::shards(3);
    let proxy = Proxy::over(&shards).start();
    run(&proxy.address().port().to_string());
}

/// The libraries, installed by the first test that needs them.
fn libraries() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients");
        run(Command::new("sh").arg("tests/clients/setup.sh").arg(&directory));
        directory
    })
}

/// Runs to the end; what it printed. Panics with all of that when it fails.
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    format!("{out}{err}")
}

/// `timeout`: a library that waits for ever is a failure, not a hanging test.
fn within(seconds: u32, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).arg(program.as_ref());
    command
}

fn redis_py(protocol: &str) {
    let python = libraries().join("python/bin/python");
    alone(|port| print!("{}", run(within(120, python).args(["tests/clients/redis_py.py", port, protocol]))));
}

fn node_redis(protocol: &str) {
    let modules = libraries().join("node");
    alone(|port| {
        let mut node = within(120, "node");
        print!("{}", run(node.args(["tests/clients/node_redis.mjs", port, protocol]).arg(modules)));
    });
}

#[test]
fn redis_py_in_resp2() {
    redis_py("2");
}

#[test]
fn redis_py_in_resp3() {
    redis_py("3");
}

#[test]
fn node_redis_in_resp2() {
    node_redis("2");
}

#[test]
fn node_redis_in_resp3() {
    node_redis("3");
}

/// redis-benchmark's whole default list; an error reply ends it with a line that says so.
fn redis_benchmark(pipeline: &str) {
    alone(|port| {
        let mut benchmark = within(120, "redis-benchmark");
        let printed = run(benchmark.args(["-p", port, "-n", "2000", "-c", "20", "-P", pipeline, "-q"]));
        let lines = printed.split(['\r', '\n']).filter(|line| line.contains("requests per second"));
        let wrong = printed.lines().find(|line| line.contains("rror") || line.contains("WARN"));
        println!("redis-benchmark -P {pipeline}: {} tests", lines.clone().count());
        assert_eq!(wrong, None, "{printed}");
        assert!(lines.count() >= 20, "{printed}");
    });
}

#[test]
fn redis_benchmark_without_pipelining() {
    redis_benchmark("1");
}

#[test]
fn redis_benchmark_with_pipelines_of_16() {
    redis_benchmark("16");
}

/// What redis-cli prints for `args` to a server.
fn redis_cli(port: u16, args: &[&str]) -> String {
    run(within(20, "redis-cli").args(["-p", &port.to_string()]).args(args))
}

/// The same commands to a plain server and to the proxy print the same.
#[test]
fn redis_cli_prints_what_it_prints_for_a_plain_redis() {
    let (plain, proxy) = (Redis::start(), proxy());
    let commands: &[&[&str]] = &[
        &["PING"],
        &["SET", "cli", "v"],
        &["GET", "cli"],
        &["HSET", "cli:h", "f", "v", "g", "w"],
        &["HGETALL", "cli:h"],
        &["ZADD", "cli:z", "1.5", "m"],
        &["ZRANGE", "cli:z", "0", "-1", "WITHSCORES"],
        &["MGET", "cli", "cli:none", "cli:other"],
        &["-n", "2", "EXISTS", "cli"],
        &["LPUSH", "cli", "x"],
        &["NO-SUCH-COMMAND"],
        &["EVAL", "return {1,'two',{3}}", "0"],
        &["CONFIG", "GET", "maxmemory"],
        &["-r", "3", "INCR", "cli:n"],
        &["DEL", "cli", "cli:h", "cli:z", "cli:n", "cli:none"],
    ];
    for protocol in ["-2", "-3"] {
        for shape in ["--raw", "--no-raw", "--csv", "--json"] {
            for command in commands {
                // JSON makes RESP3 of it.
                let args = [&[protocol, shape][..], command].concat();
                let args = if shape == "--json" { &args[1..] } else { &args[..] };
                let (wanted, got) = (redis_cli(plain.port(), args), redis_cli(proxy.address().port(), args));
                assert_eq!(wanted, got, "redis-cli {}", args.join(" "));
            }
        }
    }
}

#[test]
fn redis_cli_scans() {
    let proxy = proxy();
    let mut client = proxy.client();
    for at in 0..500 {
        client.call(&["SET", &format!("scan:{at}"), "x"]);
    }
    let printed = redis_cli(proxy.address().port(), &["--scan", "--pattern", "scan:*"]);
    let found = printed.lines().collect::<std::collections::HashSet<_>>();
    assert_eq!(found.len(), 500);
}

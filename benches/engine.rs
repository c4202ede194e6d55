//! The pure half under a microscope: scanning, routing, ordering and merging, driven by bytes alone.
//!
//! `cargo bench --bench engine` times each work; `engine --count WORK ROUNDS` does it so many times and says
//! how many requests that were, for callgrind (benches/counts.py). Nothing is random, so that two runs
//! of one build count the same.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark has nobody to report to but its caller")]

use std::process::ExitCode;
use std::sync::Arc;

use ringway::engine::{self, About, Credentials, Engine, Options, Order};
use ringway::metrics::Metrics;
use ringway::resp::{Args, Limits, ReplyScanner, RequestScanner, Scan, Scanned, request};
use ringway::route::{self, Rules};
use ringway::topology::{Colocate, Endpoint, Kind, Shard, Spec, Topology};

/// Clients of every work with an engine, as many as the comparison of proxies has.
const CLIENTS: usize = 50;

/// One turn of a work; says how many requests it was.
type Turn = Box<dyn FnMut() -> usize>;

const WORKS: [&str; 20] = [
    "scan GET",
    "scan SET",
    "scan MGET 10",
    "scan reply",
    "scan reply MGET 10",
    "route GET",
    "route GET 1 KiB key",
    "route GET 30 rules",
    "GET P1",
    "GET P16",
    "GET P64",
    "SET P16",
    "GET P16 one shard",
    "GET P16 30 shards",
    "GET P16 last shard first",
    "GET P1 5000 clients",
    "GET P16 RESP3",
    "GET P16 10 B keys",
    "MGET 10",
    "MSET 10",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--count", name, rounds] => {
            let (Some(mut turn), Ok(rounds)) = (work(name), rounds.parse::<usize>()) else {
                println!("works: {}", WORKS.join(", "));
                return ExitCode::from(2);
            };
            println!("{}", (0..rounds).map(|_| turn()).sum::<usize>());
        }
        [_, "--works"] => println!("{}", WORKS.join("\n")),
        _ => divan::main(),
    }
    ExitCode::SUCCESS
}

#[divan::bench(args = WORKS)]
fn per_request(bencher: divan::Bencher<'_, '_>, name: &str) {
    let mut turn = work(name).expect("a work of the list");
    let requests = turn();
    bencher.counter(divan::counter::ItemsCount::new(requests)).bench_local(turn);
}

fn work(name: &str) -> Option<Turn> {
    let gets = |depth| Load { depth, ..Load::default() };
    Some(match name {
        "scan GET" => scan(&get(0, 12)),
        "scan SET" => scan(&frame(&["SET", &key(0, 12), "xxx"])),
        "scan MGET 10" => scan(&mget(0)),
        "scan reply" => scan_reply(b"$3\r\nxxx\r\n"),
        "scan reply MGET 10" => scan_reply(&[&b"*10\r\n"[..], &b"$3\r\nxxx\r\n".repeat(10)].concat()),
        "route GET" => routing(12, 0),
        "route GET 1 KiB key" => routing(1020, 0),
        "route GET 30 rules" => routing(12, 30),
        "GET P1" => traffic(gets(1)),
        "GET P16" => traffic(gets(16)),
        "GET P64" => traffic(gets(64)),
        "SET P16" => traffic(Load { frame: |n, _| frame(&["SET", &key(n, 12), "xxx"]), ..gets(16) }),
        "GET P16 one shard" => traffic(Load { shards: 1, ..gets(16) }),
        "GET P16 30 shards" => traffic(Load { shards: 30, ..gets(16) }),
        "GET P16 last shard first" => traffic(Load { backwards: true, ..gets(16) }),
        "GET P1 5000 clients" => traffic(Load { clients: 5000, ..gets(1) }),
        "GET P16 RESP3" => traffic(Load { resp3: true, ..gets(16) }),
        "GET P16 10 B keys" => traffic(Load { digits: 6, ..gets(16) }),
        "MGET 10" => traffic(Load { frame: |n, _| mget(n), ..gets(1) }),
        "MSET 10" => traffic(Load { frame: |n, _| mset(n), ..gets(1) }),
        _ => return None,
    })
}

// Frames.

fn frame(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    request(&mut out, words);
    out
}

/// The key numbered `n`, four bytes and `digits` digits.
fn key(n: usize, digits: usize) -> String {
    // Steps of a prime, so that neighbours differ in more than their last digit.
    format!("key:{:0digits$}", n * 7_919 % 100_000)
}

fn get(n: usize, digits: usize) -> Vec<u8> {
    frame(&["GET", &key(n, digits)])
}

fn mget(n: usize) -> Vec<u8> {
    let keys: Vec<String> = (0..10).map(|i| key(n * 10 + i, 12)).collect();
    frame(&[vec!["MGET"], keys.iter().map(String::as_str).collect()].concat())
}

fn mset(n: usize) -> Vec<u8> {
    let keys: Vec<String> = (0..10).map(|i| key(n * 10 + i, 12)).collect();
    frame(&[vec!["MSET"], keys.iter().flat_map(|key| [key.as_str(), "xxx"]).collect()].concat())
}

// Scanning and routing.

const REPEATS: usize = 1000;

fn scan(frame: &[u8]) -> Turn {
    let (bytes, mut spans) = (frame.repeat(REPEATS), Vec::new());
    Box::new(move || {
        let (mut scanner, limits, mut used, mut count) = (RequestScanner::default(), Limits::default(), 0, 0);
        while let Ok(Scan::Frame { len, .. }) = scanner.scan(&bytes[used..], &limits, true, &mut spans) {
            used += len;
            count += 1;
        }
        count
    })
}

fn scan_reply(frame: &[u8]) -> Turn {
    let bytes = frame.repeat(REPEATS);
    Box::new(move || {
        let (mut scanner, mut used, mut count) = (ReplyScanner::default(), 0, 0);
        while used < bytes.len()
            && let Ok(Scanned::Frame { len }) = scanner.scan(&bytes[used..])
        {
            used += len;
            count += 1;
        }
        count
    })
}

fn routing(digits: usize, rules: usize) -> Turn {
    let frames: Vec<_> = (0..REPEATS)
        .map(|n| {
            let (frame, mut spans) = (get(n, digits), Vec::new());
            RequestScanner::default().scan(&frame, &Limits::default(), true, &mut spans).expect("a request");
            (frame, spans)
        })
        .collect();
    let (map, mut keys) = (topology(3, rules), Vec::new());
    Box::new(move || {
        for (frame, spans) in &frames {
            let args = Args::new(frame, spans);
            let (id, row) = route::resolve(args).expect("GET");
            divan::black_box(route::plan(
                id,
                row,
                args,
                &map,
                Rules { keyless_scripts: None, gather: true, apart: true },
                &mut keys,
            ));
        }
        REPEATS
    })
}

fn topology(shards: usize, rules: usize) -> Topology {
    let shard = |index: usize| Shard {
        name: format!("s{index}"),
        endpoint: Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 7001 + index as u16 },
        weight: 1,
    };
    let rule = |index: usize| Colocate { pattern: format!("app{index}:{{*}}:*"), shard: None };
    let spec = Spec {
        shards: (0..shards).map(shard).collect(),
        home: None,
        kind: Kind::Slots,
        colocate: (0..rules).map(rule).collect(),
    };
    Topology::build(&spec, 1).expect("a topology")
}

// Whole journeys.

/// What the clients of an engine ask, all at once, turn after turn.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    depth: usize,
    shards: usize,
    digits: usize,
    resp3: bool,
    /// The shards answer in the opposite order, so that most replies come too early.
    backwards: bool,
    /// The request numbered so, with keys of so many digits.
    frame: fn(usize, usize) -> Vec<u8>,
}

impl Default for Load {
    fn default() -> Self {
        Self { clients: CLIENTS, depth: 1, shards: 3, digits: 12, resp3: false, backwards: false, frame: get }
    }
}

/// The clients' batches go in, the shards' replies follow; whatever is marked is taken as a socket would.
fn traffic(load: Load) -> Turn {
    let topology = Arc::new(topology(load.shards, 0));
    let metrics = Metrics::new(engine::labels(&topology), 1).expect("a registry");
    let options = Options { credentials: vec![Credentials::default(); load.shards], ..Options::default() };
    let mut engine = Engine::new(options, topology, metrics.worker(0));
    let mut replies: Vec<Vec<u8>> = Vec::new();
    let clients: Vec<u32> = (0..load.clients).map(|_| engine.client_open(About::default())).collect();
    if load.resp3 {
        for client in &clients {
            engine.client_bytes(*client, &frame(&["HELLO", "3"]));
        }
    }
    let batch = |client: usize| (0..load.depth).flat_map(move |i| (load.frame)(client * load.depth + i, load.digits));
    let batches: Vec<Vec<u8>> = (0..load.clients).map(|client| batch(client).collect()).collect();
    let (mut conns, mut marked, mut now) = (Vec::new(), Vec::new(), 0);
    Box::new(move || {
        now += 1000;
        engine.set_now(now);
        for (client, batch) in clients.iter().zip(&batches) {
            engine.client_bytes(*client, batch);
        }
        connect(&mut engine);
        engine.take_dirty(&mut conns, &mut marked);
        if load.backwards {
            conns.reverse();
        }
        engine.set_now(now + 500);
        replies.resize(conns.iter().max().map_or(0, |conn| *conn as usize + 1).max(replies.len()), Vec::new());
        for conn in conns.drain(..) {
            let out = engine.conn_out(conn).expect("a connection that is up");
            let asked = out.single().expect("small requests");
            // Every turn asks the same: what is to be answered is worked out in the first one.
            if replies[conn as usize].is_empty() {
                replies[conn as usize] = answers(asked);
            }
            let count = asked.len();
            out.advance(count);
            engine.conn_written(conn);
            engine.conn_bytes(conn, &replies[conn as usize]);
        }
        engine.take_dirty(&mut conns, &mut marked);
        for client in marked.drain(..) {
            let out = engine.client_out(client).expect("a client");
            let count = out.len();
            out.advance(count);
            engine.client_written(client, count);
        }
        load.clients * load.depth
    })
}

/// Gives every connection that is asked for a socket and a server that greets back.
fn connect(engine: &mut Engine) {
    while let Some(order) = engine.next_order() {
        if let Order::Connect { conn, .. } = order {
            engine.conn_connected(conn);
            let greeting = engine.conn_out(conn).expect("a greeting");
            let count = greeting.len();
            greeting.advance(count);
            engine.conn_bytes(conn, b"%1\r\n$5\r\nproto\r\n:3\r\n");
        }
    }
}

/// What a server says to `asked`: three bytes for every key read, OK for what is written.
fn answers(asked: &[u8]) -> Vec<u8> {
    let (mut replies, mut spans, mut used) = (Vec::new(), Vec::new(), 0);
    while let Ok(Scan::Frame { len, .. }) =
        RequestScanner::default().scan(&asked[used..], &Limits::default(), true, &mut spans)
    {
        let args = Args::new(&asked[used..], &spans);
        match args.at(0) {
            b"GET" => replies.extend_from_slice(b"$3\r\nxxx\r\n"),
            b"MGET" => {
                replies.extend_from_slice(format!("*{}\r\n", args.len() - 1).as_bytes());
                replies.extend_from_slice(&b"$3\r\nxxx\r\n".repeat(args.len() - 1));
            }
            _ => replies.extend_from_slice(b"+OK\r\n"),
        }
        used += len;
    }
    replies
}

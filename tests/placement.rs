//! Placement is a contract with the data on disk: golden file, bounds, and the real servers' word.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringway::config::Config;
use ringway::topology::{Colocate, Endpoint, KeyHash, Kind, SLOTS, Shard, ShardId, Slot, Spec, Topology, Why};

fn shards<S: AsRef<str>>(named: &[(S, u32)]) -> Vec<Shard> {
    named
        .iter()
        .map(|(name, weight)| Shard {
            name: name.as_ref().to_owned(),
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 7001 },
            weight: *weight,
        })
        .collect()
}

fn topology(shards: Vec<Shard>, kind: Kind) -> Topology {
    Topology::build(&Spec { shards, home: None, kind, colocate: vec![] }, 1).unwrap()
}

fn slots<S: AsRef<str>>(named: &[(S, u32)]) -> Topology {
    topology(shards(named), Kind::Slots)
}

fn owners(topology: &Topology) -> Vec<ShardId> {
    (0..SLOTS as u16).map(|slot| topology.owner(Slot(slot)).unwrap()).collect()
}

/// Keys of the shapes that applications use, the same in every run.
fn keys(count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|index| match index % 8 {
            0 => format!("user:{}", draw() % 1_000_000).into_bytes(),
            1 => format!("session:{:016x}", draw()).into_bytes(),
            2 => format!("cart:{{{}}}:items", draw() % 10_000).into_bytes(),
            3 => format!("{index}").into_bytes(),
            4 => format!("a{{}}{}", draw() % 1000).into_bytes(),
            5 => (0..1 + draw() % 40).map(|_| b'a' + (draw() % 26) as u8).collect(),
            6 => format!("größe:{}:ключ", draw() % 100_000).into_bytes(),
            _ => (0..1 + draw() % 20).map(|_| draw() as u8).filter(|b| *b > b' ').chain([b'z']).collect(),
        })
        .collect()
}

// Bounds.

#[test]
fn shares_and_moves_stay_in_their_bounds() {
    let sets: [fn(usize) -> String; 20] = [
        |i| format!("{i}"),
        |i| format!("{}", i + 1),
        |i| format!("a{i}"),
        |i| format!("redis{i}"),
        |i| format!("redis{}", i + 1),
        |i| format!("redis-{i}"),
        |i| format!("redis-{i:02}"),
        |i| format!("shard{i}"),
        |i| format!("shard-{i:03}"),
        |i| format!("node{}", i + 1),
        |i| format!("cache{i}.example.com"),
        |i| format!("10.0.0.{}", i + 1),
        |i| format!("10.0.0.1:{}", 6379 + i),
        |i| format!("127.0.0.1:{}", 7001 + i),
        |i| char::from(b'A' + i as u8).to_string(),
        |i| format!("rack{}-{}", i / 8, i % 8),
        |i| format!("sessions_{i}"),
        |i| "x".repeat(i + 1),
        |i| format!("{:x}", i * 2_654_435_761),
        |i| format!("db-{}-eu", i * i),
    ];
    let (mut fullest, mut emptiest) = (0f64, f64::MAX);
    let mut moves = Vec::new();
    for name in sets {
        let named: Vec<(String, u32)> = (0..51).map(|i| (name(i), 1)).collect();
        let mut before = owners(&slots(&named[..1]));
        for n in 2..=51 {
            let topology = slots(&named[..n]);
            let after = owners(&topology);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            moves.push(moved as f64 / (SLOTS as f64 / n as f64));
            before = after;
            for shard in (0..n as u16).map(ShardId).filter(|_| n <= 50) {
                let share = topology.share(shard) * n as f64;
                fullest = fullest.max(share);
                emptiest = emptiest.min(share);
            }
        }
    }
    moves.sort_by(f64::total_cmp);
    let (median, most) = (moves[moves.len() / 2], moves[moves.len() - 1]);
    println!("fullest {fullest:.3} emptiest {emptiest:.3} of a fair share");
    println!("adding a shard moves {median:.3} (median) {most:.3} (most) of 16384/(n+1)");
    assert!(fullest <= 1.06, "{fullest}");
    assert!(emptiest >= 0.78, "{emptiest}");
    assert!(median <= 1.25, "{median}");
    assert!(most <= 1.4, "{most}");
}

#[test]
fn shares_follow_weights() {
    let named = [("a", 1), ("b", 2), ("c", 3), ("d", 10)];
    let topology = slots(&named);
    for (id, (name, weight)) in (0..).map(ShardId).zip(named) {
        let share = topology.share(id) / (f64::from(weight) / 16.0);
        println!("{name} of weight {weight}: {share:.3} of its fair share");
        assert!((0.78..=1.06).contains(&share), "{name}: {share}");
    }
}

#[test]
fn an_address_or_an_order_moves_nothing() {
    let named = [("a", 1), ("b", 2), ("c", 1)];
    let turned = [("c", 1), ("b", 2), ("a", 1)];
    let (plain, mut moved) = (slots(&named), shards(&turned));
    moved[0].endpoint = Endpoint::Unix(PathBuf::from("/run/redis.sock"));
    let moved = topology(moved, Kind::Slots);
    for slot in (0..SLOTS as u16).map(Slot) {
        let name = |topology: &Topology| topology.shard(topology.owner(slot).unwrap()).name.clone();
        assert_eq!(name(&plain), name(&moved));
    }
}

// The golden file.

#[test]
fn a_thousand_keys_stay_where_they_are() {
    let columns = [
        slots(&[("a", 1), ("b", 1), ("c", 1)]),
        slots(&[("r1", 1), ("r2", 1), ("r3", 1), ("r4", 1)]),
        slots(&(0..10).map(|i| (format!("redis-{i}"), 1)).collect::<Vec<_>>()),
        slots(&[("small", 1), ("middle", 2), ("large", 5)]),
    ];
    let mut text = String::from(
        "# Placement version 1: key, slot, and its shard of 3, of 4, of 10, and of 3 with weights 1, 2, 5.\n\
         # A change of this file is a new placement version, never an edit.\n",
    );
    for key in keys(1000) {
        let slot = columns[0].slot_of(&key).unwrap();
        write!(text, "{}\t{}", key.escape_ascii(), slot.0).unwrap();
        for topology in &columns {
            let shard = topology.shard_of(&key);
            assert_eq!(topology.owner(slot), Some(shard));
            write!(text, "\t{}", topology.shard(shard).name).unwrap();
        }
        text.push('\n');
    }
    golden("placement.txt", &text);
}

#[test]
fn rules_and_presets_give_the_tags_that_they_gave() {
    let own = [
        "rq:*",
        "a*b*c",
        "*:end*",
        "bull:{*}:*",
        "{*}:meta",
        "*:{*}:*",
        "{*}*",
        "a?[b]*",
        "a{b}*",
        r"a\**",
        r"a\{*}:*",
        r"a\\*",
        "größe:{*}",
    ];
    let keys: [&[u8]; 28] = [
        b"rq:",
        b"rq:job:1",
        b"a-b-c",
        b"abc",
        b"abcb",
        b"x:end",
        b"bull:mail:1",
        b"bull:mail:1:logs",
        b"bull::x:y",
        b"bull::",
        b"a:meta:meta",
        b":meta",
        b"a:b:c:d",
        b"a?[b]c",
        b"a{b}c",
        b"a*b",
        b"a{x}:y",
        b"a\\b",
        b"bull:{t}:1",
        b"\xff\0:\r\n:x",
        "größe:ключ".as_bytes(),
        b"_kombu.binding.celery",
        b"unacked_index",
        b"celery-taskset-meta-5.j",
        b"celery-taskset-meta-5",
        b"queue:default",
        b"queues",
        b"stat:failed:2024",
    ];
    let shards = || shards(&[("a", 1), ("b", 1), ("c", 1)]);
    let mut text = String::from(
        "# Pattern, or preset; key; its tag, or the shard that it is pinned to.\n\
         # A change of this file moves users' keys: lines may be added, never edited.\n",
    );
    let mut rows = |name: &str, colocate: Vec<Colocate>| {
        let topology = Topology::build(&Spec { shards: shards(), home: None, kind: Kind::Slots, colocate }, 1).unwrap();
        for key in keys {
            let place = topology.locate(key);
            let to = match place.why {
                Why::Rule(_) => place.tag.escape_ascii().to_string(),
                Why::Pinned(_) => format!("on {}", topology.shard(place.shard).name),
                // A tag in the key wins over any rule.
                Why::HashTag | Why::WholeKey => continue,
            };
            writeln!(text, "{name}\t{}\t{to}", key.escape_ascii()).unwrap();
        }
    };
    for pattern in own {
        let shard = pattern.starts_with("*:e").then(|| "b".to_owned());
        rows(pattern, vec![Colocate { pattern: pattern.to_owned(), shard }]);
    }
    for (name, rules) in Config::presets() {
        rows(&format!("preset {name}"), rules);
    }
    golden("colocate.txt", &text);
}

/// That `text` is the golden file's, line by line.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("RINGWAY_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, (now, then)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, then, "tests/golden/{name}, line {}", line + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}

// The servers' word.

/// A child that ends with the test, however it ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn spawn(program: &str, args: &[&str], dir: &Path) -> Process {
    let log = std::fs::File::create(dir.join(format!("{program}.log"))).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).args(args).current_dir(dir);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// A port of the kernel's choice.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// A connection that asks many things at once and reads line by line.
struct Asker<S: Read + Write>(BufReader<S>);

impl<S: Read + Write> Asker<S> {
    fn ask(&mut self, commands: &[Vec<&[u8]>]) {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len()).unwrap();
            for argument in command {
                write!(bytes, "${}\r\n", argument.len()).unwrap();
                bytes.extend_from_slice(argument);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.0.get_mut().write_all(&bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn bulk(&mut self) -> Vec<u8> {
        let header = self.line();
        let len: usize = header.strip_prefix('$').unwrap().parse().unwrap();
        let mut bytes = vec![0; len + 2];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }
}

#[test]
fn slots_are_what_a_cluster_server_says() {
    let dir = tempfile::tempdir().unwrap();
    let (redis, bus) = (port().to_string(), port().to_string());
    let args = ["--port", &redis, "--cluster-enabled", "yes", "--cluster-port", &bus, "--save", ""];
    let _server = spawn("redis-server", &args, dir.path());
    let address = format!("127.0.0.1:{redis}");
    let stream = until("a cluster server", || TcpStream::connect(&address).ok());
    let mut server = Asker(BufReader::new(stream));
    let topology = slots(&[("a", 1), ("b", 1)]);
    let keys = keys(5000);
    for part in keys.chunks(500) {
        let ask = |key| vec![&b"CLUSTER"[..], b"KEYSLOT", key];
        server.ask(&part.iter().map(|key| ask(key)).collect::<Vec<_>>());
        for key in part {
            let slot = topology.slot_of(key).unwrap();
            assert_eq!(server.line(), format!(":{}", slot.0), "{}", key.escape_ascii());
        }
    }
}

/// Servers with names of several lengths and with weights: twemproxy orders and rounds by them.
const POOL: [(&str, u32); 5] = [("server10", 1), ("b", 3), ("server2", 1), ("alpha", 2), ("a", 1)];

#[test]
fn ketama_and_modula_are_what_nutcracker_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    let mut direct = Vec::new();
    let socket = |name: &str| dir.path().join(format!("{name}.sock"));
    for (name, _) in POOL {
        let path = socket(name);
        let args = ["--port", "0", "--unixsocket", path.to_str().unwrap(), "--save", ""];
        servers.push(spawn("redis-server", &args, dir.path()));
        let stream = until("a redis-server", || UnixStream::connect(&path).ok());
        direct.push(Asker(BufReader::new(stream)));
    }

    // One pool for every hash and distribution, and one with a single server, which hashes nothing.
    let mut pools = Vec::new();
    for (name, hash) in KeyHash::ALL {
        for ketama in [true, false] {
            for hash_tag in [None, Some(*b"{}"), Some(*b"$$")] {
                if hash_tag == Some(*b"$$") && hash != KeyHash::Fnv1ax64 {
                    continue;
                }
                let kind = match ketama {
                    true => Kind::Ketama { hash, hash_tag },
                    false => Kind::Modula { hash, hash_tag },
                };
                pools.push((name, kind, &POOL[..]));
            }
        }
    }
    let hash = KeyHash::Md5;
    pools.push(("md5", Kind::Ketama { hash, hash_tag: None }, &POOL[1..2]));
    let mut file = String::new();
    for (index, (hash, kind, pool)) in pools.iter().enumerate() {
        let (distribution, hash_tag) = match kind {
            Kind::Ketama { hash_tag, .. } => ("ketama", hash_tag),
            Kind::Modula { hash_tag, .. } => ("modula", hash_tag),
            Kind::Slots => unreachable!(),
        };
        let listen = socket(&format!("pool{index}"));
        writeln!(file, "pool{index}:\n  listen: {}", listen.display()).unwrap();
        writeln!(file, "  redis: true\n  hash: {hash}\n  distribution: {distribution}").unwrap();
        if let Some(tag) = hash_tag {
            writeln!(file, "  hash_tag: \"{}\"", tag.escape_ascii()).unwrap();
        }
        writeln!(file, "  servers:").unwrap();
        for (name, weight) in *pool {
            writeln!(file, "   - {}:{weight} {name}", socket(name).display()).unwrap();
        }
    }
    std::fs::write(dir.path().join("nutcracker.yml"), file).unwrap();
    let stats = port().to_string();
    let args = ["-c", "nutcracker.yml", "-a", "127.0.0.1", "-s", &stats];
    let _nutcracker = spawn("nutcracker", &args, dir.path());

    let mut keys = keys(2000);
    keys.extend((0..200).map(|i| format!("x$tag{}$y", i % 50).into_bytes()));
    let (mut asked, mut shares_seen) = (0, 0);
    for (index, (hash, kind, pool)) in pools.iter().enumerate() {
        let stream = until("nutcracker", || UnixStream::connect(socket(&format!("pool{index}"))).ok());
        let mut proxy = Asker(BufReader::new(stream));
        for part in keys.chunks(200) {
            let set = |key| vec![&b"SET"[..], key, b"1"];
            proxy.ask(&part.iter().map(|key| set(key)).collect::<Vec<_>>());
            for _ in part {
                assert_eq!(proxy.line(), "+OK");
            }
        }
        let topology = topology(shards(pool), kind.clone());
        let mut found: HashMap<Vec<u8>, &str> = HashMap::new();
        for ((name, _), server) in POOL.iter().zip(&mut direct) {
            server.ask(&[vec![b"KEYS", b"*"], vec![b"FLUSHALL"]]);
            let count: usize = server.line()[1..].parse().unwrap();
            found.extend((0..count).map(|_| (server.bulk(), *name)));
            assert_eq!(server.line(), "+OK");
        }
        for key in &keys {
            let here = &topology.shard(topology.shard_of(key)).name;
            assert_eq!(found[key], here, "{hash} {kind:?}: {}", key.escape_ascii());
            assert_eq!(topology.slot_of(key), None);
            asked += 1;
        }
        let sum: f64 = (0..pool.len() as u16).map(|id| topology.share(ShardId(id))).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{hash} {kind:?}: shares add up to {sum}");
        shares_seen += 1;
    }
    println!("{asked} keys in {shares_seen} pools are where nutcracker put them");
}

//! The command table against a real server: the same names, arities, flags and keys.
//!
//! The rows are written for Redis 7.0; every difference that is meant stands in [`EXCEPTIONS`].

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use ringway::command::{self, Class, Command, Every, Flags, Gather, Keys, Local, Route, Session, Split};
use ringway::resp::{Args, Span};

/// Rows that a Redis 7.0 server knows nothing of, and why they are here.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("client|no-touch", "Redis 7.2's; accepted in front of older servers too"),
    ("client|setinfo", "Redis 7.2's; today's client libraries send it unasked"),
    ("ringway", "our own"),
];

#[test]
fn rows_are_those_of_the_server() {
    let mut server = Server::start();
    let mut theirs = BTreeMap::new();
    for entry in server.ask(&["COMMAND"]).array() {
        for sub in entry.array()[9].array() {
            theirs.insert(sub.array()[0].text(), facts(sub));
        }
        theirs.insert(entry.array()[0].text(), facts(entry));
    }
    assert!(theirs.len() > 350, "{} is no whole answer", theirs.len());

    let excepted: BTreeSet<&str> = EXCEPTIONS.iter().map(|(name, _)| *name).collect();
    let mut ours = BTreeMap::new();
    for row in command::all() {
        assert_eq!(ours.insert(row.name.to_owned(), row_facts(row)), None, "{} stands there twice", row.name);
    }
    let mut differences = Vec::new();
    for name in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (our, their) = (ours.get(name), theirs.get(name));
        match excepted.contains(name.as_str()) {
            false if our != their => differences.push(format!("{name}: {our:?}, the server: {their:?}")),
            true if their.is_some() => differences.push(format!("{name}: no exception any more")),
            _ => {}
        }
    }
    assert!(differences.is_empty(), "server {}:\n{}", server.version(), differences.join("\n"));
}

/// What COMMAND says of one command: arity, flags, first and last key, step.
fn facts(entry: &Value) -> String {
    let entry = entry.array();
    let flags: BTreeSet<String> = entry[2].array().iter().map(Value::text).collect();
    facts_text(entry[1].int(), &flags, [entry[3].int(), entry[4].int(), entry[5].int()])
}

fn row_facts(row: &Command) -> String {
    let named = FLAGS.iter().filter(|(flag, _)| row.flags.has(*flag));
    let flags = named.map(|(_, name)| (*name).to_owned()).collect();
    let keys = match row.keys {
        Keys::None => [0, 0, 0],
        Keys::Range { first, last, step } => [i64::from(first), i64::from(last), i64::from(step)],
        // COMMAND shows only the keys that stand at a fixed place, and says that others may come.
        Keys::Counted { target: 0, .. } | Keys::Streams => [0, 0, 0],
        Keys::Counted { target, .. } => [i64::from(target), i64::from(target), 1],
        Keys::Sort | Keys::SortReadOnly | Keys::GeoRadius => [1, 1, 1],
        Keys::Migrate => [3, 3, 1],
    };
    facts_text(i64::from(row.arity), &flags, keys)
}

fn facts_text(arity: i64, flags: &BTreeSet<String>, keys: [i64; 3]) -> String {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    format!("arity {arity}, flags [{}], keys {keys:?}", flags.join(" "))
}

/// MAY_REPLICATE is not among them: Redis keeps it to itself.
const FLAGS: [(Flags, &str); 19] = [
    (Flags::WRITE, "write"),
    (Flags::READONLY, "readonly"),
    (Flags::DENYOOM, "denyoom"),
    (Flags::ADMIN, "admin"),
    (Flags::PUBSUB, "pubsub"),
    (Flags::NOSCRIPT, "noscript"),
    (Flags::BLOCKING, "blocking"),
    (Flags::LOADING, "loading"),
    (Flags::STALE, "stale"),
    (Flags::SKIP_MONITOR, "skip_monitor"),
    (Flags::SKIP_SLOWLOG, "skip_slowlog"),
    (Flags::ASKING, "asking"),
    (Flags::FAST, "fast"),
    (Flags::NO_AUTH, "no_auth"),
    (Flags::MOVABLEKEYS, "movablekeys"),
    (Flags::ALLOW_BUSY, "allow_busy"),
    (Flags::NO_ASYNC_LOADING, "no_async_loading"),
    (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
    (Flags::NO_MULTI, "no_multi"),
];

#[test]
fn keys_are_where_the_server_finds_them() {
    let mut server = Server::start();
    let mut tried = BTreeSet::new();
    let mut requests = 0;
    for row in command::all() {
        // To the server a channel is no key.
        if row.keys == Keys::None || row.flags.has(Flags::PUBSUB) {
            continue;
        }
        for request in samples(row) {
            let ours = keys(row, &request).unwrap_or_else(|| panic!("{} has no keys", request.join(" ")));
            let question = [&["COMMAND".to_owned(), "GETKEYS".to_owned()], &request[..]].concat();
            let answer = server.ask(&question);
            let Value::Array(theirs) = &answer else { panic!("{}: {answer:?}", request.join(" ")) };
            let theirs: Vec<String> = theirs.iter().map(Value::text).collect();
            assert_eq!(ours, theirs, "{}", request.join(" "));
            tried.insert(row.name);
            requests += 1;
        }
    }
    let keyed = command::all().iter().filter(|row| row.keys != Keys::None && !row.flags.has(Flags::PUBSUB));
    assert_eq!(tried, keyed.map(|row| row.name).collect(), "commands with keys");
    assert!(requests > 700, "{requests} requests are too few to mean anything");
}

#[test]
fn what_names_no_key_is_refused_by_the_server_too() {
    let mut server = Server::start();
    let mut refused = 0;
    for row in command::all() {
        let Keys::Counted { count, .. } = row.keys else { continue };
        for wrong in ["x", "", "-1", "+1", "01", "1x", " 1", "1.0", "99", "4294967297", "99999999999999999999"] {
            let mut request = counted(row, usize::from(count), 2, 1);
            request[usize::from(count)] = wrong.to_owned();
            assert_eq!(keys(row, &request), None, "{}", request.join(" "));
            let answer = server.ask(&request);
            assert!(answer.is_error(), "{}: {answer:?}", request.join(" "));
            refused += 1;
        }
    }
    for line in [
        "MSET a 1 b",
        "MSETNX a 1 b",
        "XREAD STREAMS a b 0",
        "XREAD COUNT STREAMS a 0",
        "XREAD COUNT 2 a 0",
        "XREADGROUP GROUP g c STREAMS a b >",
        "XREADGROUP GROUP g STREAMS a > x",
    ] {
        let request = words(line);
        let row = find(&request);
        assert_eq!(keys(row, &request), None, "{line}");
        let answer = server.ask(&request);
        assert!(answer.is_error(), "{line}: {answer:?}");
        refused += 1;
    }
    assert!(refused > 150, "{refused}");
}

/// Requests of `row` that are right as far as their keys go; no word stands there twice unless it
/// is an option.
fn samples(row: &Command) -> Vec<Vec<String>> {
    let least = usize::from(row.arity.unsigned_abs());
    match row.keys {
        Keys::None => Vec::new(),
        Keys::Range { step, .. } => {
            let longer = if row.arity < 0 { 6 } else { 1 };
            // A PFMERGE without sources is right, but COMMAND GETKEYS does not think so.
            let least = if row.name == "pfmerge" { least + 1 } else { least };
            (least..least + longer)
                .filter(|argc| step == 1 || argc % usize::from(step) == 1)
                .map(|argc| filled(row, argc))
                .collect()
        }
        Keys::Counted { count, .. } => {
            let count = usize::from(count);
            let fewest = usize::from(!row.flags.has(Flags::NO_MANDATORY_KEYS));
            let sizes = (fewest..12).flat_map(|keys| (0..4).map(move |more| (keys, more)));
            let requests = sizes.map(|(keys, more)| counted(row, count, keys, more));
            requests.filter(|request| request.len() >= least).collect()
        }
        Keys::Streams if row.name == "xread" => lines(&[
            "XREAD STREAMS a 0",
            "XREAD STREAMS a b c 0 1 2",
            "XREAD COUNT 2 STREAMS a b 0 0",
            "xread block 0 count 2 streams a $",
            "XREAD BLOCK 0 STREAMS count block 0 $",
            "XREAD STREAMS streams 0",
        ]),
        Keys::Streams => lines(&[
            "XREADGROUP GROUP g c STREAMS a >",
            "XREADGROUP GROUP g c COUNT 1 BLOCK 5 NOACK STREAMS a b > 0",
            "XREADGROUP GROUP streams streams STREAMS a b > >",
            "XREADGROUP GROUP block count streams noack >",
        ]),
        Keys::SortReadOnly => lines(&["SORT_RO a", "SORT_RO a BY w_* LIMIT 0 5 GET # GET o_* ASC"]),
        Keys::Sort => lines(&[
            "SORT a",
            "SORT a DESC ALPHA",
            "SORT a BY w_* LIMIT 0 5 GET # GET o_* ASC",
            "SORT a STORE d",
            "SORT a BY store GET STORE store d ALPHA",
            "SORT a LIMIT store store",
            "SORT a STORE d STORE e",
            "SORT a STORE",
        ]),
        Keys::GeoRadius if row.name == "georadius" => lines(&[
            "GEORADIUS a 1 2 3 km",
            "GEORADIUS a 1 2 3 km WITHCOORD COUNT 3 ANY ASC",
            "GEORADIUS a 1 2 3 km STORE d",
            "GEORADIUS a 1 2 3 km ASC storedist d",
            "GEORADIUS a store 2 3 km",
        ]),
        Keys::GeoRadius => lines(&[
            "GEORADIUSBYMEMBER a m 3 km",
            "GEORADIUSBYMEMBER a m 3 km WITHDIST COUNT 3",
            "GEORADIUSBYMEMBER a store 3 km ASC STORE d",
            "GEORADIUSBYMEMBER a m 3 km ASC storedist d",
        ]),
        Keys::Migrate => lines(&["MIGRATE h 1 a 0 9", "MIGRATE h 1 a 0 9 COPY REPLACE AUTH keys"]),
    }
}

/// The name and then `a1`, `a2` and so on up to `argc` words.
fn filled(row: &Command, argc: usize) -> Vec<String> {
    let mut request = words(&row.name.replace('|', " "));
    request.extend((request.len()..argc).map(|at| format!("a{at}")));
    request
}

fn counted(row: &Command, count: usize, keys: usize, more: usize) -> Vec<String> {
    let mut request = filled(row, count + 1 + keys + more);
    request[count] = keys.to_string();
    request
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn lines(lines: &[&str]) -> Vec<Vec<String>> {
    lines.iter().map(|line| words(line)).collect()
}

fn find(request: &[String]) -> &'static Command {
    command::row(command::lookup(request[0].as_bytes()).expect("a known command"))
}

/// The words at the positions that the table finds; None where it calls the request malformed.
fn keys(row: &Command, request: &[String]) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    let mut spans = Vec::new();
    for word in request {
        spans.push(Span { start: bytes.len() as u32, len: word.len() as u32 });
        bytes.extend_from_slice(word.as_bytes());
    }
    let mut positions = Vec::new();
    row.keys.find(Args::new(&bytes, &spans), &mut positions).ok()?;
    if let Some(only) = row.keys.single() {
        assert_eq!(positions, [only as u32], "{}", row.name);
    }
    Some(positions.iter().map(|at| request[*at as usize].clone()).collect())
}

#[test]
fn every_row_is_routed_sensibly() {
    for (id, row) in command::all().iter().enumerate() {
        let wrong = complaint(row);
        assert_eq!(wrong, None, "{}: {:?}", row.name, row.route);
        for (place, child) in row.children.iter().enumerate() {
            assert_eq!(usize::from(*child), id + 1 + place, "{}: children follow their parent", row.name);
            let name = command::all()[usize::from(*child)].name;
            assert_eq!(name.split_once('|').map(|(parent, _)| parent), Some(row.name), "{name}");
        }
    }
    let family = |parent: &str| command::all().iter().filter(|row| row.name.starts_with(parent)).count();
    for parent in command::all().iter().filter(|row| !row.children.is_empty()) {
        assert_eq!(parent.children.len(), family(&format!("{}|", parent.name)), "{}", parent.name);
    }
}

fn complaint(row: &Command) -> Option<&'static str> {
    let keyed = row.keys != Keys::None;
    let write = row.flags.has(Flags::WRITE);
    let class = row.class();
    let fits = match row.route {
        Route::Keys | Route::Gather(_) if !keyed => return Some("no keys to go by"),
        Route::Gather(Gather::Read) if write => return Some("its writes would go to copies"),
        Route::Keys | Route::Gather(_) if row.flags.has(Flags::READONLY) => class == Class::Read,
        Route::Keys | Route::Gather(_) => class == Class::Write,
        Route::Split(split) => {
            let pairs = matches!(row.keys, Keys::Range { step: 2, .. });
            if !keyed || pairs != (split == Split::Pairs) {
                return Some("its keys do not suit its parts");
            }
            class == Class::Split
        }
        Route::Every(_) if keyed => return Some("keys would be overlooked"),
        Route::Every(_) => class == Class::Every,
        Route::Home if keyed || write => return Some("belongs to the shards of its keys"),
        Route::Home => class == Class::Read,
        Route::Local(_) if keyed || write => return Some("the proxy has no data to answer from"),
        Route::Container if row.children.is_empty() => return Some("nothing is in it"),
        Route::Local(_) | Route::Container | Route::Refused => class == Class::Local,
        Route::Session(Session::Block) if !keyed || !row.flags.has(Flags::BLOCKING) => return Some("does not block"),
        Route::Session(session) if write != (session == Session::Block) => return Some("writes outside of a shard"),
        Route::Session(_) => class == Class::Session,
    };
    // PFDEBUG is one, and looks at a single key.
    let admin = matches!(row.route, Route::Keys | Route::Split(_) | Route::Home)
        && row.flags.has(Flags::ADMIN)
        && row.name != "pfdebug";
    match (fits, admin) {
        (_, true) => Some("an administrator's command passes for an ordinary one"),
        (false, _) => Some("its class is wrong"),
        _ => None,
    }
}

/// Whatever reads or stores what several keys hold is gathered; the rest is refused, by name.
#[test]
fn a_command_on_several_keys_is_gathered_or_known_to_be_refused() {
    let several = |row: &&Command| {
        matches!(row.route, Route::Keys) && row.keys.single().is_none() && !row.flags.has(Flags::NO_MANDATORY_KEYS)
    };
    let refused: Vec<&str> = command::all().iter().filter(several).map(|row| row.name).collect();
    // Streams are split; a parent's subcommands have rows of their own.
    assert_eq!(refused, ["msetnx", "lmove", "rpoplpush", "smove", "xread", "xreadgroup"]);
}

#[test]
fn routes_that_a_mistake_would_be_dear_for() {
    let check = |name: &str, expected: Route| {
        let row = command::all().iter().find(|row| row.name == name).expect("a row");
        assert_eq!(row.route, expected, "{name}");
    };
    for name in ["blpop", "brpop", "blmove", "brpoplpush", "bzpopmin", "bzpopmax", "blmpop", "bzmpop"] {
        check(name, Route::Session(Session::Block));
    }
    for name in ["del", "unlink", "exists", "touch"] {
        check(name, Route::Split(Split::Sum));
    }
    for name in ["shutdown", "replicaof", "slaveof", "failover", "sync", "psync", "migrate", "debug", "save", "swapdb"]
    {
        check(name, Route::Refused);
    }
    for name in ["config|rewrite", "module|load", "acl|setuser", "acl|load", "replconf"] {
        check(name, Route::Refused);
    }
    for name in ["flushall", "flushdb", "script|load", "script|flush", "function|load", "function|restore"] {
        check(name, Route::Every(Every::Same));
    }
    for name in ["msetnx", "smove", "lmove", "eval", "eval_ro", "xread", "object|encoding"] {
        check(name, Route::Keys);
    }
    for name in ["sinterstore", "zunionstore", "zrangestore", "geosearchstore", "pfmerge", "bitop"] {
        check(name, Route::Gather(Gather::StoreFirst));
    }
    for name in ["georadius", "georadiusbymember"] {
        check(name, Route::Gather(Gather::StoreLast));
    }
    for name in ["sort", "sort_ro"] {
        check(name, Route::Gather(Gather::Sort));
    }
    check("copy", Route::Gather(Gather::Copy));
    check("rename", Route::Gather(Gather::Rename { overwrites: true }));
    check("renamenx", Route::Gather(Gather::Rename { overwrites: false }));
    check("mget", Route::Split(Split::Values));
    check("mset", Route::Split(Split::Pairs));
    check("scan", Route::Every(Every::Scan));
    check("wait", Route::Every(Every::Wait));
    check("script|kill", Route::Every(Every::Kill));
    check("acl|whoami", Route::Local(Local::AclWhoAmI));
    check("ringway", Route::Local(Local::Ringway));
    check("cluster|help", Route::Local(Local::Cluster));
}

/// A server of the test's own, reached over a unix socket; gone with the value.
struct Server {
    process: Child,
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("redis");
        let mut process = Process::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed");
        let log = process.stdout.take().expect("a pipe");
        // The server says when it is ready; should it end instead, so does its log.
        let ready = BufReader::new(log).lines().map_while(Result::ok).any(|line| line.contains("ready to accept"));
        let stream = UnixStream::connect(&socket);
        let (true, Ok(stream)) = (ready, stream) else {
            let _ = process.kill();
            panic!("redis-server did not start: {:?}", process.wait());
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Self { process, stream: BufReader::new(stream), _dir: dir }
    }

    fn ask<T: AsRef<str>>(&mut self, request: &[T]) -> Value {
        let mut frame = format!("*{}\r\n", request.len());
        for word in request.iter().map(T::as_ref) {
            frame.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(frame.as_bytes()).expect("a server that listens");
        self.read()
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a reply");
        let body = line.get(1..).expect("a reply").trim_end().to_owned();
        let number = || body.parse::<i64>().expect("a number");
        match line.as_bytes()[0] {
            b'+' => Value::Text(body),
            b'-' => Value::Error(body),
            b':' => Value::Int(number()),
            b'$' => match usize::try_from(number()) {
                Err(_) => Value::Nil,
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.stream.read_exact(&mut bytes).expect("a body");
                    bytes.truncate(len);
                    Value::Text(String::from_utf8_lossy(&bytes).into_owned())
                }
            },
            b'*' => match usize::try_from(number()) {
                Err(_) => Value::Nil,
                Ok(len) => Value::Array((0..len).map(|_| self.read()).collect()),
            },
            other => panic!("no reply begins with {other}"),
        }
    }

    fn version(&mut self) -> String {
        let info = self.ask(&["INFO", "server"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        line.unwrap_or("of an unknown version").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
enum Value {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    Array(Vec<Value>),
}

impl Value {
    fn array(&self) -> &[Self] {
        let Self::Array(items) = self else { panic!("{self:?} is no array") };
        items
    }

    fn text(&self) -> String {
        let Self::Text(text) = self else { panic!("{self:?} is no text") };
        text.clone()
    }

    fn is_error(&self) -> bool {
        matches!(self, Self::Error(text) if !text.is_empty())
    }

    fn int(&self) -> i64 {
        let Self::Int(int) = self else { panic!("{self:?} is no number") };
        *int
    }
}

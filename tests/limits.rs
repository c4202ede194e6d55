//! The promise about bounds: bad input is normal input, every limit has a defined answer, nobody is
//! served without the password, and a process that is told to end finishes what it was asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{
    Client, Guard, Over, PATIENCE, Proxy, Redis, Value, check, raw_reply, request, say, scratch, shards, until,
};

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

// Bad input.

/// Everything that comes back for `bytes` until the server closes the connection, which it does when
/// the client has closed its half.
fn answer(client: &Client, bytes: &[u8], half_close: bool) -> String {
    let mut stream = client.stream();
    // A server that closes early need not take everything.
    let _ = stream.write_all(bytes);
    if half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("not closed: {}", bytes.escape_ascii()),
            Ok(0) | Err(_) => return all.escape_ascii().to_string(),
            Ok(n) => all.extend_from_slice(&chunk[..n]),
        }
    }
}

#[test]
fn malformed_requests_are_answered_as_by_a_plain_redis() {
    let (plain, proxy) = (Redis::start(), proxy());
    let long_line = [&b"GET "[..], &vec![b'x'; 70_000]].concat();
    let long_count = [&b"*"[..], &vec![b'1'; 70_000]].concat();
    let long_length = [&b"*1\r\n$"[..], &vec![b'1'; 70_000]].concat();
    let cases: &[&[u8]] = &[
        b"*-1\r\nPING\r\n",
        b"*0\r\nPING\r\n",
        b"\r\n\r\nPING\r\n",
        b"\nPING\n",
        b"PING\r\nPING\n",
        b"*x\r\n",
        b"*1x\r\n",
        b"*\r\n",
        b"* 1\r\n$4\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*99999999999999999999\r\n",
        b"*2147483648\r\n",
        b"*-2147483649\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$ 4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*1\r\n$4\r\nPINGPING\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
        b"\"unbalanced\r\n",
        b"SET \"a\"b c\r\n",
        b"SET 'quoted key' \"\\x41\\n\"\r\nGET 'quoted key'\r\nDEL 'quoted key'\r\n",
        b"GET\r\n",
        b"NOSUCH a b\r\n",
        b"NOSUCH\r\n",
        b"CLIENT NOSUCH\r\n",
        b"CONFIG\r\n",
        b"XINFO nosuch k\r\n",
        b"OBJECT HELP x y\r\n",
        b"GET a b c\r\n",
        b"\0\r\n",
        b"*1\r\n$7\r\nNO\r\nSUC\r\n",
        b"*2\r\n$6\r\nNOSUCH\r\n$3\r\na\r\n\r\n",
        b"\xff\xfe\r\n",
        b"PING\r\n*1\r\n$x\r\nPING\r\n",
        b"*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n",
        &long_line,
        &long_count,
        &long_length,
    ];
    for bytes in cases {
        let [wanted, got] = [plain.client(), proxy.client()].map(|client| answer(&client, bytes, true));
        assert_eq!(got, wanted, "{}", bytes[..bytes.len().min(80)].escape_ascii());
        if wanted.contains("Protocol error") {
            assert_eq!(answer(&proxy.client(), bytes, false), wanted, "closed without being asked to");
        }
    }
    // What Redis takes for an attack from a browser it closes without a word.
    for bytes in [&b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"[..], b"POST / HTTP/1.1\r\n\r\n"] {
        for client in [plain.client(), proxy.client()] {
            assert_eq!(answer(&client, bytes, false), "", "{}", bytes.escape_ascii());
        }
    }
    // Redis 7 takes more arguments than 6.2, which would close a connection that is everybody's.
    let text = answer(&proxy.client(), b"*1048577\r\n", false);
    assert_eq!(text, "-ERR Protocol error: invalid multibulk length\\r\\n");
    println!("malformed requests answered as by a plain server: {}", cases.len());
}

/// A huge count or length is a claim, not memory.
#[test]
fn claimed_lengths_cost_nothing_until_they_come() {
    let proxy = proxy();
    let claims = [&b"*1048576\r\n"[..], b"*2\r\n$3\r\nGET\r\n$536870912\r\n", b"*2\r\n$536870912\r\n"];
    let clients = (0..60).map(|at| {
        let mut client = proxy.client();
        client.send_raw(claims[at % 3]);
        client
    });
    let _clients = clients.collect::<Vec<_>>();
    check(&mut proxy.client(), "PING", "+\"PONG\"");
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss = rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    println!("60 claims of up to 512 MiB: {rss} kB resident");
    assert!(rss < 200 << 10, "{rss} kB");
}

#[test]
fn an_argument_over_the_limit_is_refused() {
    let shards = shards(2);
    let limits = "[limits]\nrequest_bytes_max = \"1MiB\"\nquery_buffer_bytes_max = \"2MiB\"";
    let proxy = Proxy::over(&shards).extra(limits).start();
    let mut client = proxy.client();
    let fits = "x".repeat(1 << 20);
    assert_eq!(client.call(&["SET", "k", &fits]), Value::ok());
    assert_eq!(client.call(&["GET", "k"]), Value::bulk(&fits));
    client.send_raw(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", (1 << 20) + 1).as_bytes());
    assert_eq!(client.reply().text(), "ERR Protocol error: invalid bulk length");
    assert!(client.closed());
    // Many arguments that fit each, and not together.
    let mut client = proxy.client();
    let half = "x".repeat(700 << 10);
    let sent = client.try_send_raw(&request(&["DEL", &half, &half, &half, &half]));
    let reply = sent.and_then(|()| client.try_reply());
    println!("a request over the query buffer: {reply:?}");
    assert!(reply.is_err_and(|error| error.kind() != ErrorKind::TimedOut) || client.closed());
    // In a transaction.
    let mut client = proxy.client();
    check(&mut client, "MULTI", "+\"OK\"");
    let replies = [(); 4].map(|()| client.call(&["SET", "k", &half]));
    assert!(replies.iter().any(Value::is_error), "{replies:?}");
    assert_eq!(say(&mut client, "EXEC").error_word(), "EXECABORT");
    check(&mut proxy.client(), "PING", "+\"PONG\"");
}

// Limits of clients.

#[test]
fn one_client_too_many_is_told_so() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).extra("[limits]\nclients_max = 5").start();
    let mut clients = (0..5).map(|_| proxy.client()).collect::<Vec<_>>();
    clients.iter_mut().for_each(|client| check(client, "PING", "+\"PONG\""));
    for _ in 0..10 {
        let mut refused = proxy.client();
        assert_eq!(refused.reply().text(), "ERR max number of clients reached");
        assert!(refused.closed());
    }
    clients.iter_mut().for_each(|client| check(client, "PING", "+\"PONG\""));
    clients.pop();
    let again = || {
        let mut client = proxy.client();
        client.try_call(&["PING"]).is_ok_and(|reply| !reply.is_error())
    };
    until("there is room again", again);
    assert!(proxy.metric("ringway_clients_refused_total") >= 10.0);
}

/// Many at once: the limit counts those, too, that no worker has seen yet.
#[test]
fn a_rush_of_clients_is_let_in_up_to_the_limit() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).threads(2).extra("[limits]\nclients_max = 20").start();
    let mut clients = (0..100).map(|_| proxy.client()).collect::<Vec<_>>();
    let served = clients.iter_mut().filter_map(|client| client.try_call(&["PING"]).ok());
    let served = served.filter(|reply| !reply.is_error()).count();
    // Whoever has just been taken in by a worker may be counted nowhere for a moment.
    assert!((20..=22).contains(&served), "{served} clients were served");
}

/// The system's limit counts before the configured one: servers and the admin port keep their share.
#[test]
fn clients_leave_descriptors_for_servers_and_the_admin_port() {
    let mut shards = shards(2);
    let options = Proxy::over(&shards).files(64).expect_log("ulimit").expect_log("backend");
    let proxy = options.start();
    proxy.until_logged("only 16 clients are taken at a time");
    let mut clients = (0..16).map(|_| proxy.client()).collect::<Vec<_>>();
    clients.iter_mut().for_each(|client| check(client, "PING", "+\"PONG\""));
    for _ in 0..50 {
        assert_eq!(proxy.client().reply().text(), "ERR max number of clients reached");
    }
    shards[1].restart();
    let back = || proxy.metric("ringway_backend_up") == 2.0;
    until("the restarted server is used again", back);
    check(&mut clients[0], "CONFIG GET maxclients", r#"*[$"maxclients", $"16"]"#);
    assert_eq!(proxy.metric("ringway_client_connections_max"), 16.0);
}

#[test]
fn sighup_stops_nothing() {
    let shards = shards(1);
    let proxy = Proxy::over(&shards).expect_log("SIGHUP").start();
    proxy.signal("HUP");
    proxy.until_logged("SIGHUP");
    check(&mut proxy.client(), "PING", "+\"PONG\"");
}

#[test]
fn an_idle_client_is_closed_and_a_waiting_one_is_not() {
    let shards = shards(2);
    let proxy = Proxy::over(&shards).timeout("client_idle", "1s").start();
    let (mut idle, mut busy, mut blocked, mut subscribed) =
        (proxy.client(), proxy.client(), proxy.client(), proxy.client());
    blocked.send(&["BLPOP", "l", "0"]);
    subscribed.call(&["SUBSCRIBE", "c"]);
    check(&mut idle, "PING", "+\"PONG\"");
    let since = Instant::now();
    let closed = std::thread::scope(|scope| {
        let idle = scope.spawn(|| (idle.closed(), since.elapsed()));
        while !idle.is_finished() {
            check(&mut busy, "PING", "+\"PONG\"");
            support::interval(Duration::from_millis(20));
        }
        idle.join().unwrap()
    });
    println!("an idle client was closed after {:?}", closed.1);
    assert!(closed.0 && closed.1 >= Duration::from_millis(900), "{closed:?}");
    check(&mut busy, "PUBLISH c x", ":1");
    check(&mut busy, "RPUSH l x", ":1");
    assert_eq!(blocked.reply().elements().len(), 2);
    assert_eq!(subscribed.reply().elements().len(), 3);
}

/// 10,000 requests of a client that never reads: memory stays bounded and another one is served.
#[test]
fn a_client_that_never_reads_is_not_read_either() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut other = proxy.client();
    let body = "x".repeat(20_000);
    for at in 0..30 {
        other.call(&["SET", &format!("big:{at}"), &body]);
    }
    let hoarder = proxy.client();
    let all = (0..10_000).flat_map(|at| request(&["GET", &format!("big:{}", at % 30)])).collect::<Vec<_>>();
    let (mut most, mut slowest) = (0.0_f64, Duration::ZERO);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut stream = hoarder.stream().try_clone().unwrap();
        let (all, over) = (&all, &over);
        scope.spawn(move || {
            // Blocks when nobody takes it any more, until the stream is shut down below.
            let _ = stream.write_all(all);
            over.store(true, Ordering::SeqCst);
        });
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            assert_eq!(other.call(&["GET", "big:7"]).bytes().len(), 20_000);
            slowest = slowest.max(asked.elapsed());
            most = most.max(proxy.metric("ringway_buffered_bytes"));
        }
        // Wakes the writer; the proxy, which does not read, sees nothing of it.
        hoarder.stream().shutdown(Shutdown::Both).unwrap();
    });
    println!("200 MB asked for by one who never reads: {most} bytes buffered at most; another waited {slowest:?}");
    // 1,024 requests (limits.client_inflight_max) may be on their way before the first reply tells what
    // they bring.
    assert!(most < 24e6, "{most}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(over.into_inner());
    drop(hoarder);
    until("its buffers are given back", || proxy.metric("ringway_buffered_bytes") < 1e5);
}

#[test]
fn a_half_closed_client_gets_all_that_it_asked_for() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    for round in 0..20 {
        let mut client = proxy.client();
        let lines = (0..600).map(|at| match at % 4 {
            0 => format!("SET {} {at}", keys[at % 3]),
            1 => format!("MGET {}", keys.join(" ")),
            2 => format!("ECHO {at}"),
            _ => "PUBLISH nobody x".to_owned(),
        });
        let bytes = lines.flat_map(|line| request(&line.split(' ').collect::<Vec<_>>())).collect::<Vec<_>>();
        client.send_raw(&bytes);
        client.half_close();
        let replies = client.replies(600);
        assert_eq!(replies[598], Value::bulk("598"), "round {round}");
        assert!(replies.iter().all(|reply| !reply.is_error()));
        assert!(client.closed());
    }
    // Half a request is none.
    let mut client = proxy.client();
    client.send_raw(b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1");
    client.half_close();
    assert_eq!(client.reply().text(), "PONG");
    assert!(client.closed());
}

// Passwords.

const USERS: &str =
    "[[user]]\nname = \"default\"\npassword = \"open\"\n\n[[user]]\nname = \"app\"\npassword = \"se same\"\n";

#[test]
fn without_the_password_nothing_is_served() {
    let plain = Redis::start_with(&["--requirepass", "open"]);
    plain.client().call(&["AUTH", "open"]);
    let mut direct = plain.client();
    direct.call(&["AUTH", "open"]);
    assert_eq!(direct.call(&["ACL", "SETUSER", "app", "on", ">se same", "~*", "&*", "+@all"]), Value::ok());
    let shards = shards(2);
    let proxy = Proxy::over(&shards).extra(USERS).start();
    let cases: &[&[&str]] = &[
        &["GET k", "NOSUCH", "GET", "SELECT 1", "CLIENT ID", "MULTI", "SUBSCRIBE c", "BLPOP k 0", "EXEC"],
        &["PING", "HELLO", "HELLO 3", "HELLO 2", "AUTH", "AUTH a b c", "RESET", "PING", "COMMAND COUNT"],
        &["AUTH wrong", "GET k", "AUTH open", "GET k", "AUTH wrong", "GET k", "RESET", "GET k"],
        &["AUTH default open", "GET k", "ACL WHOAMI"],
        &["AUTH nobody open", "AUTH app open", "AUTH default wrong", "GET k"],
        &["HELLO 3 AUTH app wrong", "GET k", "HELLO 2 AUTH nobody open", "GET k"],
        &["HELLO 2 AUTH default open SETNAME x", "CLIENT GETNAME", "ACL WHOAMI"],
        &["HELLO 3 AUTH default", "HELLO 9 AUTH default open", "GET k"],
        &["QUIT"],
    ];
    for lines in cases {
        let mut clients = [plain.client(), proxy.client()];
        for line in *lines {
            let [wanted, got] = clients.each_mut().map(|client| {
                let mut reply = say(client, line);
                // A number of its own.
                if line.starts_with("HELLO") && !reply.is_error() {
                    reply = reply.field("proto").unwrap().clone();
                }
                reply
            });
            assert_eq!(got, wanted, "{line} of {lines:?}");
        }
    }
    let mut client = proxy.client();
    assert_eq!(client.call(&["AUTH", "app", "se same"]), Value::ok());
    check(&mut client, "ACL WHOAMI", "$\"app\"");
    check(&mut client, "SET k v", "+\"OK\"");
    let mut client = proxy.client();
    let hello = client.call(&["HELLO", "3", "AUTH", "app", "se same"]);
    assert_eq!(hello.field("proto"), Some(&Value::Int(3)));
    check(&mut client, "GET none", "_");
    // Before the password only small requests are read.
    let mut stranger = proxy.client();
    stranger.send_raw(b"*11\r\n");
    assert_eq!(stranger.reply().text(), "ERR Protocol error: unauthenticated multibulk length");
    assert!(stranger.closed());
    let mut stranger = proxy.client();
    stranger.send_raw(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(stranger.reply().text(), "ERR Protocol error: unauthenticated bulk length");
    assert!(stranger.closed());
}

/// `[[backend]]` tables with a line of their own for each.
fn backends<'a>(shards: impl IntoIterator<Item = (&'a Redis, &'a str)>) -> String {
    let table = |(at, (shard, line)): (usize, (&Redis, &str))| {
        format!("[[backend]]\nname = \"{}\"\naddress = \"{}\"\n{line}\n\n", Proxy::shard_name(at), shard.address())
    };
    shards.into_iter().enumerate().map(table).collect()
}

#[test]
fn backends_may_ask_for_passwords() {
    let shards = (0..3).map(|_| Redis::start_with(&["--requirepass", "inner"])).collect::<Vec<_>>();
    let mut direct = shards[2].client();
    direct.call(&["AUTH", "inner"]);
    direct.call(&["ACL", "SETUSER", "ringway", "on", ">own", "~*", "&*", "+@all"]);
    let right = ["password = \"inner\"", "password = \"inner\"", "username = \"ringway\"\npassword = \"own\""];
    let proxy = Proxy::over(&[]).extra(&backends(shards.iter().zip(right))).start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    for mut client in [proxy.client(), proxy.client().resp3()] {
        for key in &keys {
            check(&mut client, &format!("SET {key} x"), "+\"OK\"");
            check(&mut client, &format!("WATCH {key}"), "+\"OK\"");
            check(&mut client, "UNWATCH", "+\"OK\"");
        }
        check(&mut client, "SELECT 3", "+\"OK\"");
        check(&mut client, "DBSIZE", ":0");
        assert_eq!(client.call(&["SUBSCRIBE", "c"]).elements().len(), 3);
        check(&mut proxy.client(), "PUBLISH c x", ":1");
        client.reply();
    }
    // One wrong password is one lost shard, and says so.
    for wrong in ["password = \"outer\"", "", "username = \"nobody\"\npassword = \"inner\""] {
        let lines = [right[0], wrong, right[2]];
        let options = Proxy::over(&[]).extra(&backends(shards.iter().zip(lines)));
        let proxy = options.expect_log("backend is not connected").start();
        let mut client = proxy.client();
        check(&mut client, &format!("GET {}", keys[0]), "$\"x\"");
        let refused = say(&mut client, &format!("GET {}", keys[1]));
        assert_eq!(refused.error_word(), "SHARDDOWN", "{refused:?}");
        let why = ["NOAUTH", "WRONGPASS"].into_iter().any(|word| refused.text().contains(word));
        assert!(why, "{refused:?}");
        assert!(!refused.text().contains("outer") && !refused.text().contains("inner"), "{refused:?}");
        check(&mut client, &format!("GET {}", keys[2]), "$\"x\"");
        assert!(proxy.log().iter().all(|line| !line.contains("outer") && !line.contains("inner")));
    }
}

// Sockets.

/// One request over a unix socket.
fn ask(stream: &mut UnixStream, args: &[&str]) -> Value {
    stream.write_all(&request(args)).unwrap();
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some((value, _)) = raw_reply(&all).unwrap() {
            return value;
        }
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "closed after {}", all.escape_ascii());
        all.extend_from_slice(&chunk[..read]);
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let directory = scratch("sockets");
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let sockets = ["a", "b", "c"].map(&path);
    let shards = sockets.iter().map(|socket| Redis::start_with(&["--unixsocket", socket])).collect::<Vec<_>>();
    let table = |at: usize| format!("[[backend]]\nname = \"{at}\"\naddress = \"unix:{}\"\n\n", sockets[at]);
    let front = path("front");
    let options = Proxy::over(&[]).extra(&(0..3).map(table).collect::<String>());
    let proxy = options.listen(&[&format!("unix:{front}"), "127.0.0.1:0"]).start();
    let mut local = UnixStream::connect(&front).unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    for at in 0..60 {
        assert_eq!(ask(&mut local, &["SET", &format!("key:{at}"), "x"]), Value::ok());
    }
    assert_eq!(ask(&mut local, &["DBSIZE"]), Value::Int(60));
    assert_eq!(ask(&mut local, &["SUBSCRIBE", "c"]).elements().len(), 3);
    let mut client = proxy.client();
    check(&mut client, "DBSIZE", ":60");
    check(&mut client, "PUBLISH c x", ":1");
    check(&mut client, "CONFIG GET unixsocket", &format!("*[$\"unixsocket\", ${front:?}]"));
    let sizes = shards.iter().map(|shard| say(&mut shard.client(), "DBSIZE").int()).collect::<Vec<_>>();
    assert!(sizes.iter().sum::<i64>() == 60 && sizes.iter().all(|size| *size > 0), "{sizes:?}");
    // A killed proxy leaves its socket's file; the next one takes the place.
    drop((client, local, proxy));
    assert!(std::path::Path::new(&front).exists());
    let options = Proxy::over(&[]).extra(&(0..3).map(table).collect::<String>());
    let mut proxy = options.listen(&[&format!("unix:{front}"), "127.0.0.1:0"]).start();
    assert_eq!(ask(&mut UnixStream::connect(&front).unwrap(), &["DBSIZE"]), Value::Int(60));
    proxy.signal("TERM");
    assert!(proxy.wait(PATIENCE).is_some_and(|status| status.success()));
    assert!(!std::path::Path::new(&front).exists(), "a clean end removes the file");
    std::fs::remove_dir_all(directory).unwrap();
}

// The end.

#[test]
fn sigterm_lets_requests_in_flight_finish() {
    let shards = shards(3);
    let mut proxy = Proxy::over(&shards).threads(2).timeout("shutdown", "10s").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let (mut slow, mut idle, mut blocked, mut subscribed) =
        (proxy.client(), proxy.client(), proxy.client(), proxy.client());
    check(&mut idle, "PING", "+\"PONG\"");
    blocked.send(&["BLPOP", "l", "0"]);
    subscribed.call(&["SUBSCRIBE", "c"]);
    until("it blocks", || {
        shards.iter().any(|shard| say(&mut shard.client(), "INFO clients").text().contains("blocked_clients:1"))
    });
    // A script that is under way when the signal comes, and what was asked behind it.
    let script = "local t = redis.call('TIME') local e = t[1] * 1000000 + t[2] + 600000 repeat t = redis.call('TIME') \
                  until t[1] * 1000000 + t[2] >= e return redis.call('SET', KEYS[1], 'done')";
    slow.send(&["EVAL", script, "1", &keys[0]]);
    let more = keys.iter().flat_map(|key| request(&["GET", key])).collect::<Vec<_>>();
    slow.send_raw(&more);
    let info = |at: usize| say(&mut shards[at].client(), "INFO commandstats").text();
    until("all is on its way", || info(1).contains("cmdstat_get:calls=1") && info(2).contains("cmdstat_get:calls=1"));
    let told = Instant::now();
    proxy.signal("TERM");
    until("it says that it stops", || proxy.page("/readyz").contains("not ready: stopping"));
    let replies = slow.replies(4);
    assert_eq!(replies[0], Value::ok());
    assert_eq!(replies[1], Value::bulk("done"));
    assert!(replies[2..].iter().all(Value::is_null), "{replies:?}");
    assert!([&mut slow, &mut idle, &mut blocked, &mut subscribed].into_iter().all(Client::closed));
    let status = proxy.wait(PATIENCE).expect("it ends");
    println!("requests in flight answered, ended {:?} after SIGTERM: {status}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(5));
    assert!(Client::try_connect(proxy.address(), Duration::from_secs(1)).is_err());
}

/// Who does not finish in time is cut off, and the process still ends well.
#[test]
fn sigterm_waits_for_nobody_for_ever() {
    let shards = shards(2);
    let options = Proxy::over(&shards).timeout("shutdown", "500ms").timeout("script", "15s");
    let mut proxy = options.expect_log("clients are cut off").start();
    let mut stuck = proxy.client();
    stuck.send(&["EVAL", "while true do end", "1", "k"]);
    let busy = || {
        shards.iter().any(|shard| {
            let mut client = shard.client().patience(Duration::from_millis(200));
            client.try_call(&["GET", "x"]).is_err()
        })
    };
    until("the script runs", busy);
    let told = Instant::now();
    proxy.signal("TERM");
    let status = proxy.wait(PATIENCE).expect("it ends");
    println!("one cut off, ended {:?} after SIGTERM: {status}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(400) && told.elapsed() < Duration::from_secs(4));
    assert!(stuck.closed());
}

/// A restart without a gap: the new process listens beside the old one, which then ends.
#[test]
fn two_processes_overlap_on_one_port() {
    let shards = shards(3);
    let mut old = Proxy::over(&shards).start();
    let address = old.address();
    let over = AtomicBool::new(false);
    let (answered, connected) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for at in 0..4 {
            let (over, answered, connected) = (&over, &answered, &connected);
            scope.spawn(move || {
                // One connection after the other, each with a few requests; a server that ends may
                // close a connection, but between two requests only.
                while !over.load(Ordering::SeqCst) {
                    let Ok(mut client) = Client::try_connect(address, PATIENCE) else { continue };
                    connected.fetch_add(1, Ordering::Relaxed);
                    for n in 0..20 {
                        let key = format!("overlap:{at}:{n}");
                        match client.try_call(&["SET", &key, "x"]) {
                            Ok(reply) => assert_eq!(reply, Value::ok()),
                            Err(error) if error.kind() == ErrorKind::TimedOut => panic!("{error}"),
                            Err(_) => break,
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Ends the load even when a check below panics.
        let _over = Over(&over);
        let settle = |n: usize| {
            let goal = answered.load(Ordering::Relaxed) + n;
            until("answers", || answered.load(Ordering::Relaxed) >= goal);
        };
        settle(500);
        let new = Proxy::over(&shards).listen(&[&address.to_string()]).start();
        assert_eq!(new.address(), address);
        until("the new one has clients", || new.metric("ringway_client_connections_total") > 0.0);
        old.signal("TERM");
        assert_eq!(old.wait(PATIENCE).expect("the old one ends").code(), Some(0));
        settle(500);
        over.store(true, Ordering::SeqCst);
        println!("overlap: {connected:?} connections, {answered:?} answers");
        drop(new);
    });
}

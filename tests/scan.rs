//! The promise of SCAN: every key that lives throughout a scan is returned, whatever else happens,
//! over whatever connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::{Client, Guard, Over, Proxy, Random, Redis, Value};

const KEYS: usize = 20_000;

/// One proxy for the file, its keys written once: 20,000 that stay, every tenth of them a list.
fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    static FILLED: OnceLock<()> = OnceLock::new();
    let proxy = Proxy::shared(&SHARED, 3);
    FILLED.get_or_init(|| {
        let requests = (0..KEYS).map(|at| {
            let args: &[&str] = if at % 10 == 0 { &["RPUSH", &staying(at), "x"] } else { &["SET", &staying(at), "x"] };
            args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
        });
        let replies = proxy.client().pipeline(&requests.collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| !reply.is_error()));
    });
    proxy
}

fn staying(at: usize) -> String {
    format!("stay:{at}")
}

/// A whole scan; `connect` gives the connection for each step.
fn scan(extra: &[&str], mut connect: impl FnMut(u64) -> Client) -> Scanned {
    let mut scanned = Scanned::default();
    let mut cursor = "0".to_owned();
    let mut client = connect(0);
    loop {
        let args = ["SCAN", &cursor].into_iter().chain(extra.iter().copied()).collect::<Vec<_>>();
        let reply = client.call(&args);
        assert!(!reply.is_error(), "{reply:?}");
        let [next, keys] = reply.elements() else { panic!("no cursor and keys: {reply:?}") };
        cursor = next.text();
        let number = cursor.parse::<u64>().unwrap();
        assert!(number < 1 << 53, "a cursor that no double holds: {cursor}");
        scanned.steps += 1;
        scanned.returned += keys.elements().len();
        scanned.keys.extend(keys.elements().iter().map(Value::text));
        if cursor == "0" {
            return scanned;
        }
        assert!(scanned.steps < 200_000, "the scan does not end");
        client = if scanned.steps % 50 == 0 { connect(scanned.steps) } else { client };
    }
}

#[derive(Default)]
struct Scanned {
    keys: HashSet<String>,
    returned: usize,
    steps: u64,
}

/// Runs `work` while another client writes and deletes keys; gives the number of its changes.
fn while_others_write(address: SocketAddr, work: impl FnOnce()) -> u64 {
    let over = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(address);
            let mut random = Random::new(5);
            while !over.load(Ordering::Relaxed) {
                let key = format!("come-and-go:{}", random.below(30_000));
                let args: &[&str] = if random.one_in(3) { &["DEL", &key] } else { &["SET", &key, "x"] };
                let reply = client.call(args);
                assert!(!reply.is_error(), "{reply:?}");
                changes.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Ends the writer even when the scan panics.
        let _over = Over(&over);
        work();
    });
    changes.into_inner()
}

/// Fails unless every staying key that `wanted` accepts was returned.
fn check(what: &str, scanned: &Scanned, wanted: impl Fn(usize) -> bool) {
    let missing = (0..KEYS).filter(|&at| wanted(at) && !scanned.keys.contains(&staying(at))).count();
    let distinct = scanned.keys.len();
    let (returned, steps) = (scanned.returned, scanned.steps);
    println!("{what}: returned {returned}, distinct {distinct}, steps {steps}, missing {missing}");
    assert_eq!(missing, 0, "{what}");
}

#[test]
fn every_key_that_lives_throughout_is_returned() {
    let proxy = proxy();
    let changes = while_others_write(proxy.address(), || {
        for extra in [&[][..], &["COUNT", "1"], &["COUNT", "100"], &["COUNT", "50000"]] {
            let scanned = scan(extra, |_| proxy.client());
            check(&format!("SCAN {}", extra.join(" ")), &scanned, |_| true);
        }
    });
    println!("changes meanwhile {changes}");
    assert!(changes > 0);
}

#[test]
fn match_and_type_choose() {
    let proxy = proxy();
    while_others_write(proxy.address(), || {
        let scanned = scan(&["MATCH", "stay:1*", "COUNT", "500"], |_| proxy.client());
        check("SCAN MATCH", &scanned, |at| at.to_string().starts_with('1'));
        assert!(scanned.keys.iter().all(|key| key.starts_with("stay:1")));
        let scanned = scan(&["TYPE", "list", "COUNT", "500"], |_| proxy.client());
        check("SCAN TYPE", &scanned, |at| at % 10 == 0);
        assert_eq!(scanned.keys.len(), KEYS / 10);
        let scanned = scan(&["TYPE", "string", "MATCH", "stay:*7", "COUNT", "500"], |_| proxy.client());
        check("SCAN TYPE MATCH", &scanned, |at| at % 10 == 7);
        let scanned = scan(&["MATCH", "none:*", "COUNT", "1000"], |_| proxy.client());
        assert!(scanned.keys.is_empty());
    });
}

#[test]
fn a_cursor_goes_on_over_another_connection() {
    let proxy = proxy();
    let mut connections = 0;
    let scanned = scan(&["COUNT", "20"], |_| {
        connections += 1;
        proxy.client()
    });
    println!("connections {connections}");
    assert!(connections > 10);
    check("SCAN over several connections", &scanned, |_| true);
    let scanned = scan(&["COUNT", "100"], |_| proxy.client().resp3());
    check("SCAN in RESP3", &scanned, |_| true);
}

/// A cursor that no scan here has given: refused, not an empty or endless scan.
#[test]
fn a_foreign_cursor_is_refused() {
    let proxy = proxy();
    let mut client = proxy.client();
    for cursor in ["abc", "1.5", "18446744073709551616", "99999999999999999999999"] {
        let reply = client.call(&["SCAN", cursor]);
        assert_eq!(reply, Value::Error(b"ERR invalid cursor".to_vec()), "cursor {cursor}");
    }
    if proxy.is_stand_in() {
        return;
    }
    for cursor in ["-1", "9007199254740991", "9007199254740992", "18446744073709551615"] {
        let reply = client.call(&["SCAN", cursor]);
        assert_eq!(reply, Value::Error(b"ERR invalid cursor".to_vec()), "cursor {cursor}");
    }
}

#[test]
fn other_databases_are_scanned_apart() {
    let proxy = proxy();
    let mut client = proxy.client();
    assert_eq!(client.call(&["SELECT", "5"]), Value::ok());
    let scanned = scan(&[], |_| {
        let mut client = proxy.client();
        assert_eq!(client.call(&["SELECT", "5"]), Value::ok());
        client
    });
    assert!(scanned.keys.is_empty());
    assert_eq!(client.call(&["SET", "only", "x"]), Value::ok());
    let scanned = scan(&[], |_| {
        let mut client = proxy.client();
        assert_eq!(client.call(&["SELECT", "5"]), Value::ok());
        client
    });
    assert_eq!(scanned.keys.into_iter().collect::<Vec<_>>(), ["only"]);
}

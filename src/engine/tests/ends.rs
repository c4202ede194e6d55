//! Ends in the middle of something: clients that leave while they wait, servers that speak unasked.

use super::super::client::End;
use super::*;

const SECOND: u64 = 1_000_000;

#[test]
fn a_wait_ends_with_its_client() {
    let mut rig = Rig::of(2);
    for _ in 0..5 {
        let client = rig.client();
        rig.send(client, "WAIT 1 0");
        assert_eq!(rig.asked(1).last().map(String::as_str), Some("WAIT 1 0"));
        rig.engine.client_gone(client);
    }
    rig.settle();
    // There are four leases at most; none is held any more.
    for _ in 0..4 {
        let client = rig.client();
        rig.send(client, "WATCH k");
        assert_eq!(rig.got(client), "");
    }
    let client = rig.client();
    rig.send(client, "WATCH k");
    assert!(rig.got(client).contains("no free connection"));
}

/// What a client gets that asks, half-closes, and only then has `line` looked at.
fn check_half_closed(line: &str) {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "GET a");
    rig.send(client, line);
    rig.engine.client_eof(client);
    rig.tell(0, "$1\r\nx\r\n");
    assert_eq!(rig.engine.clients[client as usize].end, End::Closing, "{line}: it does not wait");
    assert_eq!(rig.got(client), "$1\r\nx\r\n", "{line}: what it asked before is answered");
    assert_eq!(rig.engine.clients_left(), 0, "{line}");
    assert_eq!(rig.engine.shards[0].leases, 0, "{line}");
}

#[test]
fn a_client_that_half_closes_does_not_block() {
    check_half_closed("BLPOP q 0");
    check_half_closed("WAIT 1 0");
    // Blocked already: what was answered and not written yet is not lost.
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "PING");
    rig.send(client, "BLPOP q 0");
    rig.engine.client_eof(client);
    rig.settle();
    assert_eq!(rig.got(client), "+PONG\r\n");
    assert_eq!((rig.engine.clients_left(), rig.engine.shards[0].leases), (0, 0));
}

#[test]
fn an_admin_who_half_closes_gets_his_answer() {
    let mut rig = Rig::with(1, Options { admin: true, ..options(1) });
    let client = rig.engine.client_open(About { trusted: true, ..About::default() });
    rig.send(client, "RINGWAY SHARD a DBSIZE");
    rig.engine.client_eof(client);
    rig.tell(0, ":3\r\n");
    assert_eq!(rig.got(client), ":3\r\n");
    assert_eq!((rig.engine.clients_left(), rig.engine.shards[0].leases), (0, 0));
}

#[test]
fn a_lease_is_patient_only_while_it_blocks() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    for (line, reply) in [("WATCH k", "+OK\r\n"), ("BLPOP k 0", "*-1\r\n")] {
        rig.send(client, line);
        rig.tell(0, reply);
        assert_eq!(rig.got(client), reply);
    }
    rig.send(client, "GET k");
    rig.engine.set_now(6 * SECOND);
    rig.ticks();
    assert!(rig.got(client).starts_with("-SHARDTIMEOUT "));
}

#[test]
fn what_follows_an_unasked_reply_is_not_the_next_connections() {
    let mut rig = Rig::of(1);
    let (conn, shard) = rig.linked[0];
    let large = [b"$20000\r\n".to_vec(), vec![b'x'; 20_000], b"\r\n+half a".to_vec()].concat();
    rig.engine.conn_bytes(conn, &large[..100]);
    rig.engine.conn_bytes(conn, &large[100..]);
    rig.engine.conn_connected(conn);
    assert_eq!(rig.engine.conns[conn as usize].shard, shard);
    let client = rig.client();
    rig.send(client, "GET a");
    rig.tell(0, "$1\r\nx\r\n");
    assert_eq!(rig.got(client), "$1\r\nx\r\n");
}

#[test]
fn who_uploads_is_not_idle() {
    let mut rig = Rig::with(1, Options { client_idle: SECOND, ..options(1) });
    let client = rig.client();
    rig.engine.client_bytes(client, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n");
    for second in 1..5 {
        rig.engine.set_now(second * SECOND - 1);
        {
            let buf = rig.engine.client_direct(client).expect("a large request is under way");
            buf[..1000].fill(b'x');
        }
        rig.engine.client_filled(client, 1000);
        rig.engine.tick();
        rig.settle();
        assert_eq!(rig.engine.clients_left(), 1);
    }
    rig.engine.set_now(9 * SECOND);
    rig.engine.tick();
    rig.settle();
    assert_eq!(rig.engine.clients_left(), 0);
}

#[test]
fn a_large_request_or_reply_under_way_is_not_late() {
    let mut rig = Rig::of(1);
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, "GET k");
    rig.send(other, "GET l");
    let conn = rig.linked[0].0;
    rig.engine.conn_bytes(conn, b"$900000\r\n");
    for second in 1..10 {
        rig.engine.set_now(second * SECOND);
        rig.engine.conn_bytes(conn, &[b'x'; 100_000]);
        rig.ticks();
        assert_eq!(rig.got(client), "", "second {second}");
        // Who stands behind it waits as long as anybody.
        let late = second == 5;
        assert_eq!(rig.got(other).starts_with("-SHARDTIMEOUT"), late, "second {second}");
    }
    rig.engine.conn_bytes(conn, b"\r\n$1\r\nl\r\n");
    assert_eq!(rig.got(client).len(), 900_011);
    assert_eq!(rig.got(other), "", "its late reply is dropped");
    // A request that the server takes slowly.
    let value = "x".repeat(9_000);
    rig.engine.client_bytes(client, format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000\r\n{value}\r\n").as_bytes());
    for second in 10..18 {
        rig.engine.set_now(second * SECOND);
        rig.engine.conn_out(conn).expect("it is up").advance(1000);
        rig.engine.conn_written(conn);
        rig.ticks();
        assert!(rig.engine.client_out(client).expect("a client").is_empty(), "second {second}");
    }
    let out = rig.engine.conn_out(conn).expect("it is up");
    out.advance(out.len());
    rig.engine.conn_bytes(conn, b"+OK\r\n");
    assert_eq!(rig.got(client), "+OK\r\n");
    // The rest does not come.
    rig.send(client, "GET k");
    rig.engine.conn_bytes(conn, b"$900000\r\n");
    rig.engine.set_now(21 * SECOND);
    rig.ticks();
    assert_eq!(rig.got(client), "");
    rig.engine.set_now(22 * SECOND);
    rig.ticks();
    assert!(rig.got(client).starts_with("-SHARDTIMEOUT"));
}

#[test]
fn what_came_while_we_were_stalled_is_not_late() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "GET k");
    rig.engine.set_now(60 * SECOND);
    rig.engine.tick();
    assert_eq!(rig.got(client), "", "the answer may be there, and unread");
    rig.tell(0, "$1\r\nx\r\n");
    assert_eq!(rig.got(client), "$1\r\nx\r\n");
    // It is not.
    rig.send(client, "GET k");
    rig.engine.set_now(120 * SECOND);
    rig.engine.tick();
    rig.engine.set_now(120 * SECOND + SECOND / 10);
    rig.engine.tick();
    assert!(rig.got(client).starts_with("-SHARDTIMEOUT"));
}

#[test]
fn who_reads_what_it_asked_for_is_not_idle() {
    let mut rig = Rig::with(1, Options { client_idle: SECOND, ..options(1) });
    let client = rig.client();
    rig.send(client, "GET k");
    rig.tell(0, &format!("$10000\r\n{}\r\n", "x".repeat(10_000)));
    for second in 1..5 {
        rig.engine.set_now(second * SECOND - 1);
        rig.engine.client_out(client).expect("a client").advance(1000);
        rig.engine.client_written(client, 1000);
        rig.engine.tick();
        rig.settle();
        assert_eq!(rig.engine.clients_left(), 1, "second {second}");
    }
    rig.engine.set_now(9 * SECOND);
    rig.engine.tick();
    rig.settle();
    assert_eq!(rig.engine.clients_left(), 0, "it does not read any more");
}

#[test]
fn who_got_a_late_answer_is_not_idle() {
    let mut rig = Rig::with(1, Options { client_idle: SECOND, ..options(1) });
    let client = rig.client();
    rig.send(client, "BLPOP l 0");
    rig.engine.set_now(9 * SECOND);
    let conn = rig.linked.last().expect("a lease").0;
    rig.engine.conn_bytes(conn, b"*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
    // The time to look at clients comes before the answer is written.
    rig.engine.tick();
    rig.settle();
    assert_eq!(rig.got(client), "*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
    rig.engine.set_now(10 * SECOND - 1);
    rig.engine.tick();
    rig.settle();
    assert_eq!(rig.engine.clients_left(), 1, "its time begins with the answer");
    rig.engine.set_now(10 * SECOND);
    rig.engine.tick();
    rig.settle();
    assert_eq!(rig.engine.clients_left(), 0);
}

#[test]
fn who_waits_for_the_end_of_a_pause_is_not_idle() {
    let mut rig = Rig::with(1, Options { client_idle: SECOND, ..options(1) });
    let (admin, client) = (rig.client(), rig.client());
    rig.send(admin, "CLIENT PAUSE 5000");
    rig.send(client, "SET k v");
    for tenth in 1..=55 {
        rig.engine.set_now(tenth * SECOND / 10);
        rig.engine.tick();
        rig.settle();
    }
    assert_eq!(rig.asked(0), ["SET k v"]);
    rig.tell(0, "+OK\r\n");
    assert_eq!(rig.got(client), "+OK\r\n");
}

#[test]
fn old_requests_behind_a_mute_greeting_are_answered() {
    let mut rig = Rig::of(1);
    let (conn, _) = rig.linked[0];
    rig.engine.conn_lost(conn, Fault::Lost, "it broke");
    rig.linked.clear();
    let client = rig.client();
    rig.send(client, "GET a");
    rig.engine.set_now(4 * SECOND);
    rig.engine.conn_connected(conn);
    rig.engine.set_now(6 * SECOND);
    rig.ticks();
    assert!(rig.got(client).starts_with("-SHARDTIMEOUT "));
}

#[test]
fn who_blocks_behind_a_long_pipeline_is_listened_to() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    // More than a client that waits may send: its socket is not read for now.
    let gets = 300;
    let mut bytes = Vec::new();
    for line in ["WATCH k"].into_iter().chain(std::iter::repeat_n("GET k", gets)).chain(["UNWATCH", "BLPOP q 0"]) {
        request(&mut bytes, &line.split(' ').collect::<Vec<_>>());
    }
    rig.engine.client_bytes(client, &bytes);
    assert!(!rig.engine.client_wants(client));
    let mut resumed = Vec::new();
    for reply in std::iter::once("+OK\r\n").chain(std::iter::repeat_n("$1\r\nv\r\n", gets)).chain(["+OK\r\n"]) {
        rig.settle();
        let (conn, _) = rig.asked[0].pop_front().expect("somebody asked");
        rig.engine.conn_bytes(conn, reply.as_bytes());
        rig.engine.resume_clients(&mut resumed);
    }
    assert_eq!(rig.asked(0), ["BLPOP q 0"]);
    assert!(rig.engine.client_wants(client));
    assert!(resumed.contains(&client), "its hanging up would not be seen");
}

#[test]
fn who_half_closes_behind_a_push_does_not_block_either() {
    let mut rig = Rig::of(2);
    let client = rig.client3();
    rig.send(client, "CLIENT TRACKING ON");
    rig.tell_all(&["+OK\r\n"; 2]);
    rig.tell_all(&["+PONG\r\n"; 2]);
    assert_eq!(rig.got(client), "+OK\r\n");
    let (a, b) = (on(&rig, 0), on(&rig, 1));
    rig.send(client, &format!("XREAD BLOCK 0 STREAMS {a} {b} 0 0"));
    let (conn, _) = rig.asked[0][0];
    rig.tell(0, "_\r\n");
    rig.engine.conn_bytes(conn, format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n$2\r\n{a}\r\n").as_bytes());
    rig.tell(1, "_\r\n");
    assert_eq!(rig.got(client), "");
    rig.engine.client_eof(client);
    assert!(rig.got(client).starts_with(">2\r\n$10\r\ninvalidate\r\n"));
    assert!(rig.engine.clients.is_empty(), "it is closed");
}

/// What a client gets of `requests`, in one write each, and whether it is still there: shards a and b
/// answer in the order given, shard c dies where `None` stands.
fn check_closed(requests: &[&str], replies: &[Option<(usize, &str)>], expected: &str) {
    let mut rig = Rig::with(3, Options { close_on_shard_errors: true, ..options(3) });
    let keys = [on(&rig, 0), on(&rig, 1), on(&rig, 2)];
    let client = rig.client();
    for line in requests {
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| ["A", "B", "C"].iter().position(|key| *key == word).map_or(word, |at| &keys[at]))
            .collect();
        rig.send(client, &words.join(" "));
    }
    for reply in replies {
        match reply {
            Some((shard, text)) => rig.tell(*shard, text),
            None => rig.lose(2),
        }
    }
    assert_eq!(rig.got(client), expected, "{requests:?}");
    assert_eq!(rig.engine.clients_left(), 0, "{requests:?}");
    assert!((0..3).all(|shard| rig.engine.shards[shard].leases == rig.engine.shards[shard].idle.len()), "{requests:?}");
}

#[test]
fn a_client_of_a_dead_shard_is_closed_where_no_error_is_wanted() {
    // Lost: what was asked before is answered, what was asked behind is not.
    let all = ["GET A", "GET C", "GET B"];
    check_closed(&all, &[Some((0, "$1\r\na\r\n")), None, Some((1, "$1\r\nb\r\n"))], "$1\r\na\r\n");
    check_closed(&all, &[None, Some((1, "$1\r\nb\r\n")), Some((0, "$1\r\na\r\n"))], "$1\r\na\r\n");
    check_closed(&all, &[Some((1, "$1\r\nb\r\n")), Some((0, "$1\r\na\r\n")), None], "$1\r\na\r\n");
    // Down, and what stands behind is not even looked at.
    let mut rig = Rig::with(3, Options { close_on_shard_errors: true, ..options(3) });
    rig.lose(2);
    let client = rig.client();
    let (a, c) = (on(&rig, 0), on(&rig, 2));
    let mut frames = Vec::new();
    for line in [format!("GET {a}"), format!("GET {c}"), format!("SET {a} x")] {
        request(&mut frames, &line.split(' ').collect::<Vec<_>>());
    }
    rig.engine.client_bytes(client, &frames);
    assert_eq!(rig.asked(0), [format!("GET {a}")]);
    rig.tell(0, "$1\r\na\r\n");
    assert_eq!(rig.got(client), "$1\r\na\r\n");
    assert_eq!(rig.engine.clients_left(), 0);
    // Several shards' answers, transactions, watched keys, waiting.
    check_closed(&["MGET A C"], &[None, Some((0, "*1\r\n$1\r\na\r\n"))], "");
    check_closed(&["MULTI", "SET C x", "EXEC"], &[None], "+OK\r\n+QUEUED\r\n");
    let both = ["MULTI", "SET A x", "SET C x", "EXEC"];
    let taken = [Some((0, "+OK\r\n")), Some((0, "+QUEUED\r\n")), None];
    check_closed(&both, &taken, "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    check_closed(&["WATCH C"], &[None], "");
    check_closed(&["KEYS *"], &[None, Some((0, "*0\r\n")), Some((1, "*0\r\n"))], "");
    // An error of a server's is told.
    let mut rig = Rig::with(1, Options { close_on_shard_errors: true, ..options(1) });
    let client = rig.client();
    rig.send(client, "GET k");
    rig.tell(0, "-WRONGTYPE\r\n");
    assert_eq!(rig.got(client), "-WRONGTYPE\r\n");
    assert_eq!(rig.engine.clients_left(), 1);
}

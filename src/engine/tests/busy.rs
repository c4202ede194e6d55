//! A script that runs too long: who is told BUSY, and what never leaves.

use super::*;

const BUSY: &str = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n";

/// One shard whose script has been running for `ms` milliseconds, and its client.
fn running(ms: u64) -> (Rig, u32) {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "EVAL loop 0");
    rig.engine.set_now(ms * 1000);
    rig.engine.tick();
    (rig, client)
}

/// The same once the server said BUSY.
fn busy() -> (Rig, u32) {
    let (mut rig, client) = running(100);
    assert_eq!(rig.asked(0), ["EVAL loop 0", "PING"]);
    let script = rig.asked[0].pop_front().unwrap();
    rig.tell(0, BUSY);
    rig.asked[0].push_back(script);
    (rig, client)
}

#[test]
fn a_short_script_holds_nobody_back() {
    let (mut rig, _) = running(5);
    let other = rig.client();
    rig.send(other, "GET k");
    assert_eq!(rig.asked(0), ["EVAL loop 0", "GET k"]);
}

#[test]
fn requests_behind_a_long_one_leave_when_it_has_ended() {
    let (mut rig, client) = running(100);
    let other = rig.client();
    rig.send(other, "SET k v");
    assert_eq!(rig.asked(0), ["EVAL loop 0", "PING"], "the server is asked, and nothing stands behind the script");
    rig.tell(0, ":1\r\n");
    assert_eq!(rig.got(client), ":1\r\n");
    assert_eq!(rig.asked(0), ["PING", "SET k v"]);
    rig.tell_all(&["+PONG\r\n"]);
    rig.tell(0, "+OK\r\n");
    assert_eq!(rig.got(other), "+OK\r\n");
}

#[test]
fn a_pong_lets_them_leave_too() {
    let (mut rig, _) = running(100);
    let other = rig.client();
    rig.send(other, "SET k v");
    let script = rig.asked[0].pop_front().unwrap();
    rig.tell(0, "+PONG\r\n");
    rig.asked[0].push_front(script);
    assert_eq!(rig.asked(0), ["EVAL loop 0", "SET k v"]);
}

#[test]
fn what_was_held_back_is_answered_busy_and_never_sent() {
    let (mut rig, client) = running(100);
    let others: Vec<u32> = (0..3).map(|_| rig.client()).collect();
    for (other, line) in others.iter().zip(["SET k v", "MSET a 1 b 2", "EVALSHA x 0"]) {
        rig.send(*other, line);
    }
    let script = rig.asked[0].pop_front().unwrap();
    rig.tell(0, BUSY);
    for other in others {
        assert_eq!(rig.got(other), BUSY);
    }
    rig.asked[0].push_back(script);
    rig.tell(0, "-ERR Error running script: killed\r\n");
    assert_eq!(rig.got(client), "-ERR Error running script: killed\r\n");
    assert_eq!(rig.asked(0), [""; 0]);
}

#[test]
fn while_it_is_busy_everybody_is_told_so() {
    let (mut rig, _) = busy();
    let other = rig.client();
    for line in ["GET k", "PING", "DBSIZE", "CLIENT LIST", "EVAL x 0"] {
        rig.send(other, line);
        assert_eq!(rig.got(other), BUSY, "{line}");
    }
    rig.send(other, "MULTI");
    rig.send(other, "INCR k");
    assert_eq!(rig.got(other), format!("+OK\r\n{BUSY}"));
    rig.send(other, "EXEC");
    assert_eq!(rig.got(other), BUSY.replacen('-', "-EXECABORT Transaction discarded because of: ", 1));
    rig.tell(0, ":1\r\n");
    rig.send(other, "PING");
    assert_eq!(rig.got(other), "+PONG\r\n");
}

#[test]
fn what_a_busy_server_answers_reaches_it() {
    let (mut rig, _) = busy();
    let other = rig.client();
    rig.send(other, "SELECT 5");
    assert_eq!(rig.got(other), BUSY);
    rig.send(other, "FUNCTION STATS");
    assert_eq!(rig.asked(0), ["EVAL loop 0", "FUNCTION STATS"]);
    rig.asked[0].rotate_left(1);
    rig.tell(0, "*0\r\n");
    assert_eq!(rig.got(other), "*0\r\n");
    rig.send(other, "SCRIPT KILL");
    assert_eq!(rig.asked(0), ["EVAL loop 0", "SCRIPT KILL"]);
    rig.asked[0].rotate_left(1);
    rig.tell(0, "+OK\r\n");
    assert_eq!(rig.got(other), "+OK\r\n");
}

#[test]
fn a_new_connection_that_is_told_busy_tells_who_waits_for_it() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.send(client, "SELECT 5");
    assert_eq!(rig.got(client), "+OK\r\n");
    rig.send(client, "GET k");
    assert_eq!(rig.asked(0), ["SELECT 5"]);
    rig.tell(0, BUSY);
    assert_eq!(rig.got(client), BUSY);
}

#[test]
fn other_shards_go_on() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    rig.send(client, "EVAL loop 0");
    rig.engine.set_now(100_000);
    rig.engine.tick();
    assert_eq!(rig.asked(0), ["EVAL loop 0", "PING"]);
    let script = rig.asked[0].pop_front().unwrap();
    rig.tell(0, BUSY);
    rig.asked[0].push_back(script);
    rig.engine.set_topology(pinned(2, 1));
    let other = rig.client();
    rig.send(other, "GET k");
    rig.tell(1, "$-1\r\n");
    assert_eq!(rig.got(other), "$-1\r\n");
    rig.engine.set_now(200_000);
    rig.engine.tick();
    assert_eq!(rig.asked(0), ["EVAL loop 0", "PING"], "it is asked again");
}

//! Clients in a state of their own: what one command changes of it, and what the next one meets.

use super::*;

/// A client that speaks RESP3 and tracks what it reads from the only shard.
fn tracking(rig: &mut Rig) -> u32 {
    let client = rig.client3();
    rig.send(client, "CLIENT TRACKING ON");
    rig.tell(0, "+OK\r\n");
    rig.tell(0, "+PONG\r\n");
    assert_eq!(rig.got(client), "+OK\r\n");
    client
}

#[test]
fn the_connection_of_a_client_that_tracks_follows_it_out_of_a_transaction() {
    let mut rig = Rig::of(1);
    let client = tracking(&mut rig);
    for line in ["MULTI", "SELECT 1", "EXEC", "GET k"] {
        rig.send(client, line);
    }
    for reply in ["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"] {
        rig.tell(0, reply);
    }
    let asked = rig.asked(0);
    assert_eq!(asked.last().map(String::as_str), Some("GET k"));
    let selected = asked.iter().rfind(|line| line.starts_with("SELECT "));
    assert_eq!(selected.map(String::as_str), Some("SELECT 1"), "{asked:?}");
}

/// The server may hear it after the wait has ended by itself, and knows the connection alone.
#[test]
fn nobody_inherits_a_connection_that_is_to_be_unblocked() {
    let mut rig = Rig::of(1);
    let (one, two, other) = (rig.client(), rig.client(), rig.client());
    rig.send(one, "BLPOP k 0");
    let lease = rig.linked.last().expect("a lease").0;
    let number = rig.engine.clients[one as usize].about.id;
    rig.send(other, &format!("CLIENT UNBLOCK {number}"));
    rig.engine.conn_bytes(lease, b"*2\r\n$1\r\nk\r\n$1\r\nx\r\n");
    assert_eq!(rig.got(one), "*2\r\n$1\r\nk\r\n$1\r\nx\r\n");
    assert!(!rig.engine.has_conn(lease));
    rig.send(two, "BLPOP k 0");
    assert!(rig.asked(0).ends_with(&["BLPOP k 0".to_owned()]));
}

#[test]
fn the_error_of_a_denied_command_is_skipped_like_any_reply() {
    let deny = vec![crate::command::lookup(b"keys").unwrap()];
    let mut rig = Rig::with(1, Options { deny, ..options(1) });
    let client = rig.client();
    for line in ["CLIENT REPLY SKIP", "KEYS *", "PING"] {
        rig.send(client, line);
    }
    assert_eq!(rig.got(client), "+PONG\r\n");
    assert!(rig.engine.clients[client as usize].session.is_none());
}

#[test]
fn names_of_scripts_that_went_over_a_connection_are_not_kept_for_ever() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    for number in 0..9_000 {
        rig.send(client, &format!("EVAL return+{number} 0"));
        rig.tell(0, ":1\r\n");
        rig.got(client);
    }
    let kept: usize = rig.engine.conns.iter().map(|(_, conn)| conn.scripts.len()).sum();
    assert!(kept < 9_000, "{kept}");
}

#[test]
fn who_heard_for_others_and_went_is_forgotten() {
    let mut rig = Rig::of(1);
    let (client, hears) = (rig.client3(), rig.client3());
    let number = rig.engine.clients[hears as usize].about.id;
    rig.send(client, &format!("CLIENT TRACKING ON REDIRECT {number}"));
    assert_eq!(rig.engine.tracked.targets.len(), 1);
    rig.engine.client_gone(hears);
    assert_eq!(rig.engine.tracked.targets.len(), 0);
}

#[test]
fn who_watches_goes_on_when_it_tracks_no_more() {
    let mut rig = Rig::of(1);
    let client = tracking(&mut rig);
    rig.send(client, "WATCH k");
    rig.tell(0, "+OK\r\n");
    rig.send(client, "CLIENT TRACKING OFF");
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n");
    assert_eq!(rig.asked(0), ["CLIENT TRACKING OFF"]);
    rig.tell(0, "+OK\r\n");
    for line in ["SELECT 1", "MULTI", "GET k", "EXEC"] {
        rig.send(client, line);
    }
    assert_eq!(rig.asked(0), ["SELECT 1", "MULTI", "GET k", "EXEC"]);
    for reply in ["+OK\r\n", "+OK\r\n", "+QUEUED\r\n", "*1\r\n_\r\n"] {
        rig.tell(0, reply);
    }
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n_\r\n");
    assert_eq!((rig.engine.shards[0].leases, rig.engine.shards[0].idle.len()), (1, 1));
}

#[test]
fn the_lease_that_watches_follows_a_client_that_tracks_since() {
    let mut rig = Rig::of(1);
    let client = rig.client3();
    rig.send(client, "WATCH k");
    rig.tell(0, "+OK\r\n");
    rig.send(client, "CLIENT TRACKING ON");
    rig.tell(0, "+OK\r\n");
    rig.tell(0, "+PONG\r\n");
    for line in ["SELECT 1", "MULTI", "GET k", "EXEC"] {
        rig.send(client, line);
    }
    let exec = rig.asked[0].iter().find(|(_, line)| line == "EXEC").expect("it was sent").0;
    let there: Vec<&str> =
        rig.asked[0].iter().filter(|(conn, _)| *conn == exec).map(|(_, line)| line.as_str()).collect();
    assert_eq!(there, ["SELECT 1", "MULTI", "GET k", "EXEC"]);
}

#[test]
fn a_connection_that_breaks_while_tracking_is_turned_on_is_an_error() {
    let mut rig = Rig::of(2);
    let client = rig.client3();
    rig.send(client, "CLIENT TRACKING ON");
    rig.tell(0, "+OK\r\n");
    rig.tell(0, "+PONG\r\n");
    rig.lose(1);
    assert!(rig.got(client).starts_with("-SHARDDOWN shard b "));
    assert_eq!((rig.engine.shards[0].leases, rig.engine.shards[1].leases), (0, 0));
}

#[test]
fn a_first_watch_that_was_refused_watches_nothing() {
    let mut rig = Rig::of(2);
    let keys = [on(&rig, 0), on(&rig, 1)];
    let client = rig.client();
    let watch = |rig: &mut Rig, shard: usize| rig.send(client, &format!("WATCH {}", keys[shard]));
    // By its server, which is told all the same: the lease is others' soon.
    watch(&mut rig, 0);
    rig.tell(0, "-NOPERM\r\n");
    assert_eq!(rig.got(client), "-NOPERM\r\n");
    assert_eq!(rig.asked(0), ["UNWATCH"]);
    rig.tell(0, "+OK\r\n");
    assert_eq!((rig.engine.shards[0].leases, rig.engine.shards[0].idle.len()), (1, 1));
    // By a connection that broke.
    watch(&mut rig, 0);
    rig.lose(0);
    assert!(rig.got(client).starts_with("-SHARDLOST the connection to shard a "));
    assert_eq!(rig.engine.shards[0].leases, 0);
    // So another shard's keys may be watched, and nothing stands in a transaction's way.
    watch(&mut rig, 1);
    rig.tell(1, "+OK\r\n");
    assert_eq!(rig.got(client), "+OK\r\n");
    // A second one that is refused takes nothing from the first.
    watch(&mut rig, 1);
    rig.tell(1, "-NOPERM\r\n");
    assert_eq!(rig.got(client), "-NOPERM\r\n");
    rig.lose(1);
    rig.send(client, "MULTI");
    rig.send(client, "EXEC");
    assert!(rig.got(client).starts_with("+OK\r\n-SHARDLOST the connection to shard b "));
}

#[test]
fn who_waits_is_counted_when_the_shard_was_asked() {
    let mut rig = Rig::of(1);
    let client = rig.client();
    rig.engine.client_bytes(client, b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n");
    assert_eq!(rig.engine.blocked_clients(), 0, "its connection is not there yet");
    assert_eq!(rig.asked(0), ["BLPOP l 0"]);
    assert_eq!(rig.engine.blocked_clients(), 1);
    rig.tell(0, "*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
    assert_eq!(rig.engine.blocked_clients(), 0);
}

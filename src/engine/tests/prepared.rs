//! Transactions over shards, step by step: what is sent when, and what becomes of it when somebody goes.

use super::*;

const SECOND: u64 = 1_000_000;

/// A client between MULTI and EXEC, with a SET on each of the shards; the keys.
fn queued(rig: &mut Rig, shards: &[usize]) -> (u32, Vec<String>) {
    let client = rig.client();
    let keys = queue(rig, client, shards);
    (client, keys)
}

fn queue(rig: &mut Rig, client: u32, shards: &[usize]) -> Vec<String> {
    let keys: Vec<String> = shards.iter().map(|shard| on(rig, *shard)).collect();
    rig.send(client, "MULTI");
    keys.iter().for_each(|key| rig.send(client, &format!("SET {key} 1")));
    assert_eq!(rig.got(client), format!("+OK\r\n{}", "+QUEUED\r\n".repeat(keys.len())));
    keys
}

/// The shard takes MULTI and as many commands.
fn take(rig: &mut Rig, shard: usize, commands: usize) {
    rig.tell(shard, "+OK\r\n");
    (0..commands).for_each(|_| rig.tell(shard, "+QUEUED\r\n"));
}

/// Nobody holds a connection, and as many of the reserve wait for use.
fn check_reserve(rig: &Rig, expected: [usize; 2]) {
    let leases: Vec<usize> = rig.engine.shards.iter().map(|shard| shard.reserve.leases).collect();
    assert_eq!(leases, expected);
    let conns = rig.engine.conns.iter().filter(|(_, conn)| matches!(conn.purpose, Use::Party(_)));
    let idle = conns.filter(|(_, conn)| conn.purpose == Use::Party(crate::engine::conn::Hold::Nobody)).count();
    assert_eq!(idle, expected.iter().sum::<usize>(), "all are idle");
}

#[test]
fn nothing_runs_before_everybody_has_taken_his_commands() {
    let mut rig = Rig::of(2);
    let (client, keys) = queued(&mut rig, &[0, 1, 0]);
    let (a, b) = (&keys[0], &keys[1]);
    rig.send(client, "EXEC");
    rig.send(client, "PING");
    assert_eq!(rig.asked(0), ["MULTI".to_owned(), format!("SET {a} 1"), format!("SET {a} 1")]);
    assert_eq!(rig.asked(1), ["MULTI".to_owned(), format!("SET {b} 1")]);
    take(&mut rig, 0, 2);
    rig.tell(1, "+OK\r\n");
    assert_eq!(rig.asked(0), [""; 0]);
    rig.tell(1, "+QUEUED\r\n");
    assert_eq!((rig.asked(0), rig.asked(1)), (vec!["EXEC".to_owned()], vec!["EXEC".to_owned()]));
    rig.tell(1, "*1\r\n:2\r\n");
    assert_eq!(rig.got(client), "");
    rig.tell(0, "*2\r\n:1\r\n-ERR x\r\n");
    assert_eq!(rig.got(client), "*3\r\n:1\r\n:2\r\n-ERR x\r\n+PONG\r\n");
    check_reserve(&rig, [1, 1]);
    assert!(rig.engine.clients[client as usize].session.is_none(), "an ordinary client again");
    // The same connections serve the next one.
    queue(&mut rig, client, &[1, 0]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.tell(0, "*1\r\n:1\r\n");
    rig.tell(1, "*1\r\n:2\r\n");
    assert_eq!(rig.got(client), "*2\r\n:2\r\n:1\r\n");
    check_reserve(&rig, [1, 1]);
}

#[test]
fn one_refusal_discards_everywhere() {
    let mut rig = Rig::of(2);
    let (client, _) = queued(&mut rig, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    rig.tell(1, "+OK\r\n");
    rig.tell(1, "-OOM command not allowed\r\n");
    assert_eq!(rig.got(client), "-EXECABORT Transaction discarded because of: OOM command not allowed\r\n");
    assert_eq!((rig.asked(0), rig.asked(1)), (vec!["DISCARD".to_owned()], vec!["DISCARD".to_owned()]));
    rig.tell_all(&["+OK\r\n"; 2]);
    check_reserve(&rig, [1, 1]);
}

#[test]
fn a_shard_that_is_lost_or_silent_before_exec_runs_nothing_anywhere() {
    for silent in [false, true] {
        let mut rig = Rig::of(2);
        let (client, _) = queued(&mut rig, &[0, 1]);
        rig.send(client, "EXEC");
        take(&mut rig, 0, 1);
        if silent {
            rig.tell(1, "+OK\r\n");
            rig.engine.set_now(6 * SECOND);
            rig.ticks();
        } else {
            rig.lose(1);
        }
        let got = rig.got(client);
        let word = if silent { "SHARDTIMEOUT no reply from" } else { "SHARDLOST the connection to" };
        assert!(got.starts_with(&format!("-EXECABORT Transaction discarded because of: {word} shard b ")), "{got}");
        assert!(got.ends_with("; nothing was executed\r\n"), "{got}");
        assert_eq!(rig.asked(0), ["DISCARD"]);
        rig.tell(0, "+OK\r\n");
        check_reserve(&rig, [1, 0]);
    }
}

#[test]
fn a_shard_lost_between_its_word_and_the_last_one_runs_nothing_anywhere() {
    let mut rig = Rig::of(2);
    let (client, _) = queued(&mut rig, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    rig.lose(0);
    assert_eq!(rig.got(client), "");
    take(&mut rig, 1, 1);
    assert!(rig.got(client).contains("SHARDDOWN shard a (10.0.0.1:7001) "));
    assert_eq!(rig.asked(1), ["DISCARD"]);
}

#[test]
fn who_ran_it_is_named_when_others_did_not() {
    let mut rig = Rig::of(2);
    let (client, _) = queued(&mut rig, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.tell(0, "*1\r\n+OK\r\n");
    rig.tell(1, "-READONLY no\r\n");
    let partial = "-SHARDPARTIAL the transaction ran on a; shard b (10.0.0.1:7002) answered: READONLY no\r\n";
    assert_eq!(rig.got(client), partial);
    queue(&mut rig, client, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.tell_all(&["-OOM no\r\n", "-MISCONF no\r\n"]);
    assert_eq!(rig.got(client), "-OOM no\r\n", "nobody ran it");
    check_reserve(&rig, [1, 1]);
}

#[test]
fn a_client_that_goes_before_exec_runs_nothing() {
    let mut rig = Rig::of(2);
    for taken in 0..2 {
        let (client, _) = queued(&mut rig, &[0, 1]);
        rig.send(client, "EXEC");
        take(&mut rig, 0, taken);
        rig.engine.client_gone(client);
        rig.settle();
        rig.asked.iter_mut().for_each(VecDeque::clear);
        check_reserve(&rig, [0, 0]);
    }
}

#[test]
fn a_client_that_goes_after_exec_leaves_nothing_half_done() {
    let mut rig = Rig::of(2);
    let (client, _) = queued(&mut rig, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.engine.client_gone(client);
    // One with the same number does not inherit them.
    let next = rig.client();
    assert_eq!(next, client);
    rig.send(next, "BLPOP none 0");
    rig.engine.client_gone(next);
    rig.settle();
    assert_eq!(rig.engine.clients_left(), 0);
    for shard in [0, 1] {
        rig.asked[shard].retain(|(_, line)| line == "EXEC");
        rig.tell(shard, "*1\r\n+OK\r\n");
    }
    check_reserve(&rig, [1, 1]);
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let mut rig = Rig::of(2);
    let (client, _) = queued(&mut rig, &[0, 1]);
    rig.send(client, "EXEC");
    rig.engine.client_eof(client);
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.tell_all(&["*1\r\n+OK\r\n"; 2]);
    assert_eq!(rig.got(client), "*2\r\n+OK\r\n+OK\r\n");
    assert_eq!(rig.engine.clients_left(), 0);
}

/// A client that watches a key of shard a, with a transaction on both; EXEC is sent.
fn watching(rig: &mut Rig) -> u32 {
    let client = rig.client();
    let key = on(rig, 0);
    rig.send(client, &format!("WATCH {key}"));
    rig.tell(0, "+OK\r\n");
    rig.got(client);
    queue(rig, client, &[0, 1]);
    rig.send(client, "EXEC");
    take(rig, 0, 1);
    take(rig, 1, 1);
    assert_eq!((rig.asked(0), rig.asked(1)), (vec!["EXEC".to_owned()], vec![]), "who watches is asked first");
    client
}

#[test]
fn who_watches_goes_first() {
    let mut rig = Rig::of(2);
    let client = watching(&mut rig);
    rig.tell(0, "*-1\r\n");
    assert_eq!(rig.got(client), "*-1\r\n");
    assert_eq!(rig.asked(1), ["DISCARD"]);
    rig.tell(1, "+OK\r\n");
    let client = watching(&mut rig);
    rig.tell(0, "*1\r\n+OK\r\n");
    assert_eq!(rig.asked(1), ["EXEC"]);
    rig.tell(1, "*1\r\n+OK\r\n");
    assert_eq!(rig.got(client), "*2\r\n+OK\r\n+OK\r\n");
    let client = watching(&mut rig);
    rig.lose(0);
    let got = rig.got(client);
    assert!(got.starts_with("-SHARDLOST ") && got.ends_with("may have been executed, that of b was not\r\n"), "{got}");
    assert_eq!(rig.asked(1), ["DISCARD"]);
    rig.tell(1, "+OK\r\n");
    check_reserve(&rig, [0, 1]);
    assert_eq!(rig.engine.shards[0].leases, 0);
}

#[test]
fn a_client_that_goes_while_who_watches_is_asked_leaves_nothing_half_done() {
    for (said, then) in [("*1\r\n+OK\r\n", "EXEC"), ("*-1\r\n", "DISCARD"), ("-OOM no\r\n", "DISCARD")] {
        let mut rig = Rig::of(2);
        let client = watching(&mut rig);
        rig.engine.client_gone(client);
        let next = rig.client();
        assert_ne!(next, client, "its place is not free yet");
        rig.tell(0, said);
        assert_eq!(rig.asked(1), [then]);
        rig.tell(1, if then == "EXEC" { "*1\r\n+OK\r\n" } else { "+OK\r\n" });
        check_reserve(&rig, [0, 1]);
        assert_eq!((rig.engine.clients_left(), rig.engine.metrics.clients.value()), (1, 1));
    }
    // And when the other shard is lost meanwhile.
    let mut rig = Rig::of(2);
    let client = watching(&mut rig);
    rig.engine.client_gone(client);
    rig.lose(1);
    rig.tell(0, "*1\r\n+OK\r\n");
    assert_eq!(rig.engine.clients_left(), 0);
    check_reserve(&rig, [0, 0]);
}

#[test]
fn leases_are_taken_all_or_none_and_in_turn() {
    let mut rig = Rig::with(2, Options { transaction_leases_max: 1, ..options(2) });
    let (first, _) = queued(&mut rig, &[0, 1]);
    rig.send(first, "EXEC");
    let (second, _) = queued(&mut rig, &[0, 1]);
    rig.send(second, "EXEC");
    let (third, _) = queued(&mut rig, &[0, 1]);
    rig.send(third, "EXEC");
    let (fourth, _) = queued(&mut rig, &[0, 1]);
    rig.send(fourth, "EXEC");
    assert_eq!(rig.asked(0).len(), 2, "the others wait");
    // One that waits goes: it is not waited for.
    rig.engine.client_gone(second);
    for client in [first, third] {
        take(&mut rig, 0, 1);
        take(&mut rig, 1, 1);
        rig.tell_all(&["*1\r\n+OK\r\n"; 2]);
        assert_eq!(rig.got(client), "*2\r\n+OK\r\n+OK\r\n");
    }
    // The fourth has them now, and a fifth waits in vain.
    let (fifth, _) = queued(&mut rig, &[0, 1]);
    rig.engine.set_now(2 * SECOND);
    rig.send(fifth, "EXEC");
    rig.engine.set_now(6 * SECOND);
    rig.asked.iter_mut().for_each(VecDeque::clear);
    rig.ticks();
    assert!(rig.got(fourth).contains("SHARDTIMEOUT"));
    // Its connections were closed, so the fifth gets its own.
    assert_eq!(rig.asked(0).len(), 2);
    let (sixth, _) = queued(&mut rig, &[0, 1]);
    rig.send(sixth, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.engine.set_now(12 * SECOND);
    rig.ticks();
    let text = "all 1 (limits.transaction_leases_max) were held for 5000 ms; nothing was executed\r\n";
    let got = rig.got(sixth);
    assert!(got.starts_with("-EXECABORT ") && got.ends_with(text), "{got}");
    rig.tell_all(&["*1\r\n+OK\r\n"; 2]);
    assert_eq!(rig.got(fifth), "*2\r\n+OK\r\n+OK\r\n");
    check_reserve(&rig, [1, 1]);
}

#[test]
fn a_watch_lost_in_the_queue_leaves_the_queue() {
    let mut rig = Rig::with(2, Options { transaction_leases_max: 1, ..options(2) });
    let (first, _) = queued(&mut rig, &[0, 1]);
    rig.send(first, "EXEC");
    take(&mut rig, 0, 1);
    let second = rig.client();
    let key = on(&rig, 0);
    rig.send(second, &format!("WATCH {key}"));
    rig.tell(0, "+OK\r\n");
    rig.got(second);
    queue(&mut rig, second, &[0, 1]);
    rig.send(second, "EXEC");
    assert_eq!(rig.engine.transactions.len(), 1);
    rig.lose(0);
    take(&mut rig, 1, 1);
    rig.tell(1, "+OK\r\n");
    assert!(rig.got(second).contains("SHARDLOST"));
    assert_eq!(rig.engine.transactions.len(), 0);
}

#[test]
fn what_cannot_be_prepared_is_refused_when_it_is_to_be() {
    let mut rig = Rig::with(2, Options { prepared: false, ..options(2) });
    let client = rig.client();
    let (a, b) = (on(&rig, 0), on(&rig, 1));
    for (line, refused) in [
        (format!("SET {b} 1"), "-CROSSSLOT the transaction"),
        (format!("MSET {a} 1 {b} 1"), "-CROSSSLOT Keys"),
        ("DBSIZE".to_owned(), "-CROSSSLOT DBSIZE"),
    ] {
        rig.send(client, "MULTI");
        rig.send(client, &format!("SET {a} 1"));
        assert_eq!(rig.got(client), "+OK\r\n+QUEUED\r\n");
        rig.send(client, &line);
        assert!(rig.got(client).starts_with(refused), "{line}");
        rig.send(client, "EXEC");
        assert_eq!(rig.got(client), "-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    assert!(rig.asked(0).is_empty() && rig.asked(1).is_empty());
}

#[test]
fn a_scan_inside_keeps_the_shard_in_its_cursor() {
    for count in [1, 2] {
        let mut rig = Rig::of(count);
        let client = rig.client();
        ["MULTI", "SCAN 3072 COUNT 5", "EXEC"].iter().for_each(|line| rig.send(client, line));
        assert_eq!(rig.asked(0), ["MULTI", "SCAN 3 COUNT 5", "EXEC"]);
        rig.got(client);
        take(&mut rig, 0, 1);
        rig.tell(0, "*1\r\n*2\r\n$1\r\n7\r\n*0\r\n");
        assert_eq!(rig.got(client), "*1\r\n*2\r\n$4\r\n7168\r\n*0\r\n");
    }
}

#[test]
fn a_client_that_goes_in_the_middle_is_subscribed_to_nothing_any_more() {
    let mut rig = Rig::of(2);
    let client = rig.client3();
    rig.send(client, "SUBSCRIBE news");
    for shard in [0, 1] {
        assert_eq!(rig.asked(shard), ["subscribe news"]);
        rig.tell(shard, "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    let (hub, _) = rig.engine.conns.iter().find(|(_, conn)| conn.purpose == Use::Hub).expect("there is one");
    let key = on(&rig, 0);
    rig.send(client, &format!("WATCH {key}"));
    rig.tell(0, "+OK\r\n");
    rig.got(client);
    queue(&mut rig, client, &[0, 1]);
    rig.send(client, "EXEC");
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    rig.engine.client_gone(client);
    rig.settle();
    rig.asked[0].retain(|(_, line)| line == "EXEC");
    rig.tell(0, "*1\r\n+OK\r\n");
    rig.asked[1].retain(|(_, line)| line == "EXEC");
    rig.tell(1, "*1\r\n+OK\r\n");
    let next = rig.client();
    assert_eq!(next, client, "its place is free");
    rig.send(next, "MULTI");
    rig.engine.conn_bytes(hub as u32, b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
    assert_eq!(rig.got(next), "+OK\r\n", "it hears nothing that it did not ask for");
}

#[test]
fn a_log_inside_is_merged() {
    let mut rig = Rig::of(2);
    let client = rig.client();
    ["MULTI", "SLOWLOG GET", "EXEC"].iter().for_each(|line| rig.send(client, line));
    rig.got(client);
    take(&mut rig, 0, 1);
    take(&mut rig, 1, 1);
    let entry = "*1\r\n*6\r\n:4\r\n:1700000000\r\n:7\r\n*1\r\n$4\r\nPING\r\n$0\r\n\r\n$0\r\n\r\n";
    rig.tell(0, "*1\r\n*0\r\n");
    rig.tell(1, &format!("*1\r\n{entry}"));
    assert_eq!(rig.got(client), format!("*1\r\n{}", entry.replace(":4", ":13")));
}

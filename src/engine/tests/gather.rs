//! Commands on keys of several shards, step by step: what is asked of whom, and what becomes of it
//! when a step fails, a connection breaks or the client goes.

use super::*;

const OK: &str = "+OK\r\n";
const QUEUED: &str = "+QUEUED\r\n";

/// A key on the shard.
fn key(rig: &Rig, shard: u16) -> String {
    let on = |name: &String| rig.engine.topology().shard_of(name.as_bytes()) == ShardId(shard);
    (0..).map(|n| format!("k{n}")).find(on).unwrap()
}

/// Two shards, a client, and a key on each shard.
fn rig() -> (Rig, u32, [String; 2]) {
    let mut rig = Rig::of(2);
    let client = rig.client();
    let keys = [key(&rig, 0), key(&rig, 1)];
    (rig, client, keys)
}

/// The words that tell requests apart: a script's body says nothing here.
fn words(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split([' ', '\n']).next().unwrap_or_default()).collect()
}

/// The shard answers these, one after the other.
fn tell_each(rig: &mut Rig, shard: usize, replies: &[&str]) {
    replies.iter().for_each(|reply| rig.tell(shard, reply));
}

#[test]
fn a_read_runs_on_copies_in_one_batch() {
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, &format!("SADD {a} x"));
    rig.send(client, &format!("SUNION {a} {b} {b} none"));
    rig.send(client, &format!("SADD {a} later"));
    let none = rig.engine.topology().shard_of(b"none");
    assert_eq!(rig.asked(0).first(), Some(&format!("SADD {a} x")));
    let dumps = [vec![format!("DUMP {b}")], vec!["DUMP none".to_owned()]].concat();
    assert_eq!(rig.asked(1), if none == ShardId(1) { &dumps[..] } else { &dumps[..1] });
    rig.tell(0, ":1\r\n");
    tell_each(&mut rig, 1, &["$4\r\nload\r\n", "$-1\r\n"][..if none == ShardId(1) { 2 } else { 1 }]);
    let asked = rig.asked(0);
    assert_eq!(words(&asked), ["MULTI", "EVAL", "SUNION", "EVAL", "EXEC"]);
    assert!(asked[1].ends_with(&format!(" 1 __ringway:1:{b} load")), "{}", asked[1]);
    assert!(asked[2].starts_with(&format!("SUNION {a} __ringway:1:{b} __ringway:1:{b} ")), "{}", asked[2]);
    assert!(asked[3].ends_with(&format!(" 1 __ringway:1:{b}")), "{}", asked[3]);
    tell_each(&mut rig, 0, &[OK, QUEUED, QUEUED, QUEUED, "*3\r\n+OK\r\n*1\r\n$1\r\nx\r\n+OK\r\n"]);
    assert_eq!(rig.got(client), ":1\r\n*1\r\n$1\r\nx\r\n");
    // What it sent behind comes behind.
    assert_eq!(rig.asked(0), [format!("SADD {a} later")]);
}

#[test]
fn a_write_is_one_script_where_it_writes() {
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, &format!("SINTERSTORE {b} {a} {b}"));
    rig.tell(0, "$4\r\nload\r\n");
    let asked = rig.asked(1);
    assert_eq!(words(&asked), ["EVAL"]);
    let end = format!(" 2 __ringway:1:{a} {b} 1 ABSTTL 0 load SINTERSTORE {b} __ringway:1:{a} {b}");
    assert!(asked[0].ends_with(&end), "{}", asked[0]);
    rig.tell(1, ":3\r\n");
    assert_eq!(rig.got(client), ":3\r\n");
}

#[test]
fn what_cannot_be_gathered_is_refused_with_the_reason() {
    let check = |options: Options, version: Option<&str>, line: &str, dumps: &[&str], why: &str| {
        let mut rig = Rig::with(2, options);
        let client = rig.client();
        let [a, b] = [key(&rig, 0), key(&rig, 1)];
        if let Some(version) = version {
            rig.engine.shards[0].version = Some(version.to_owned());
        }
        rig.send(client, &line.replace('A', &a).replace('B', &b));
        tell_each(&mut rig, 1, dumps);
        let got = rig.got(client);
        assert!(got.starts_with("-CROSSSLOT ") && got.contains(why) && got.contains("[[colocate]]"), "{line}: {got}");
        assert!(got.contains(&format!("'{a}' is on a")) && got.contains(&format!("'{b}' is on b")), "{line}: {got}");
        assert_eq!((rig.asked(0).len(), rig.asked(1).len()), (0, 0), "{line}: nothing is asked");
        rig.send(client, "PING");
        assert_eq!(rig.got(client), "+PONG\r\n");
    };
    let small = Options { gather_bytes_max: 4, ..options(2) };
    let many = format!("SINTERSTORE A{}", " B".repeat(super::super::gather::SCRIPT_ARGS_MAX));
    check(Options { gather: false, ..options(2) }, None, "sinter A B", &[], "don't hash to the same shard");
    check(
        small,
        None,
        "sinter A B",
        &["$5\r\nloads\r\n"],
        "measures 5 bytes, more than limits.cross_shard_max_bytes (4)",
    );
    check(options(2), None, &many, &[], "more than 7900 arguments");
    check(options(2), Some("6.2.14"), "sinter A B", &[], "a (6.2.14) cannot read what b (7.0.15) writes");
    check(options(2), Some("6.2.14"), "rename B A", &[], "a (6.2.14) cannot read what b (7.0.15) writes");
}

#[test]
fn a_step_that_fails_says_whether_the_command_ran() {
    let check = |line: &str, told: &[(usize, &[&str])], lost: Option<usize>, expected: &str| {
        let (mut rig, client, [a, b]) = rig();
        rig.send(client, &line.replace('A', &a).replace('B', &b));
        for (shard, replies) in told {
            tell_each(&mut rig, *shard, replies);
        }
        if let Some(shard) = lost {
            rig.lose(shard);
        }
        let got = rig.got(client);
        assert!(got.contains(expected), "{line} {told:?} {lost:?}: {got}");
        assert!(rig.engine.clients[client as usize].slots.is_empty(), "{line}");
    };
    let dump: (usize, &[&str]) = (1, &["$4\r\nload\r\n"]);
    let exec = |reply| [OK, QUEUED, QUEUED, QUEUED, reply];
    check("sinter A B", &[(1, &["-BUSY Redis is busy\r\n"])], None, "-BUSY Redis is busy\r\n");
    check("sinterstore A B", &[], Some(1), "; the command was not executed\r\n");
    check("sinterstore A B", &[dump], Some(0), "; the command may have been executed\r\n");
    check("sinterstore A B", &[dump, (0, &["-OOM too much\r\n"])], None, "-OOM too much\r\n");
    check("sinter A B", &[dump, (0, &exec("*3\r\n-OOM too much\r\n*0\r\n+OK\r\n"))], None, "-OOM too much\r\n");
    check("sinter A B", &[dump, (0, &exec("*3\r\n+OK\r\n-WRONGTYPE x\r\n+OK\r\n"))], None, "-WRONGTYPE x\r\n");
    let refused = [OK, "-NOPERM no scripts\r\n", QUEUED, QUEUED, "-EXECABORT x\r\n"];
    check("sinter A B", &[dump, (0, &refused)], None, "-NOPERM no scripts\r\n");
    // The shard where it runs goes while the values are on their way.
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, &format!("SINTER {a} {b}"));
    rig.lose(0);
    rig.tell(1, "$4\r\nload\r\n");
    assert!(rig.got(client).starts_with("-SHARDDOWN shard a"));
}

#[test]
fn a_client_that_watches_keeps_its_watch() {
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, &format!("WATCH {a}"));
    rig.tell(0, OK);
    rig.got(client);
    let lease = rig.engine.watched_conn(client);
    rig.send(client, &format!("GET {a}"));
    assert_eq!(rig.asked[0][0].0, lease);
    rig.send(client, &format!("SUNION {a} {b}"));
    assert_eq!(rig.asked(1), [""; 0], "it waits for what the lease has to answer");
    rig.tell(0, "$1\r\n1\r\n");
    rig.tell(1, "$4\r\nload\r\n");
    assert_eq!(words(&rig.asked(0)), ["MULTI", "EVAL", "SUNION", "EVAL", "EXEC"]);
    assert!(rig.asked[0].iter().all(|(conn, _)| *conn != lease), "its EXEC would forget what is watched");
}

#[test]
fn a_gather_is_refused_when_a_transaction_is_queued() {
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, "MULTI");
    for line in [format!("SUNION {a} {b}"), format!("RENAME {a} {b}"), format!("SORT {a} BY w_*")] {
        rig.send(client, &line);
        assert!(rig.got(client).contains("-CROSSSLOT"), "{line}");
    }
}

// RENAME.

/// A value of the old name, and one of the new name that RESTORE wrote.
const LOOK: [&str; 5] = [OK, OK, OK, "$1\r\nv\r\n", ":-1\r\n"];
const NOTHING: [&str; 5] = [OK, OK, OK, "$-1\r\n", ":-2\r\n"];
const RESTORED: [&str; 5] = [OK, QUEUED, QUEUED, QUEUED, "*3\r\n+OK\r\n$1\r\nw\r\n:-1\r\n"];
const OURS: [&str; 5] = [OK, OK, OK, "$1\r\nw\r\n", ":-1\r\n"];
const UNDONE: [&str; 3] = [OK, QUEUED, "*1\r\n:1\r\n"];
const NIL: &str = "*-1\r\n";

/// A key of shard `a` is renamed to one of shard `b`; who says what, one after the other.
fn rename(verb: &str, told: &[(usize, &[&str])]) -> (Rig, u32, [String; 2]) {
    let (mut rig, client, [a, b]) = rig();
    rig.send(client, &format!("{verb} {a} {b}"));
    for (shard, replies) in told {
        tell_each(&mut rig, *shard, replies);
    }
    (rig, client, [a, b])
}

/// The leases are back, and nobody is asked anything but to forget what was watched.
fn settled(rig: &mut Rig) {
    for shard in 0..2 {
        while rig.asked(shard) == ["UNWATCH"] {
            rig.tell(shard, OK);
        }
        assert_eq!(rig.asked(shard), [""; 0]);
        assert_eq!(rig.engine.shards[shard].idle.len(), rig.engine.shards[shard].leases, "shard {shard}");
    }
    assert!(rig.engine.renames.is_empty());
}

#[test]
fn a_rename_restores_before_it_deletes() {
    let (mut rig, client, [a, b]) = rename("RENAME", &[]);
    let look = |key: &str| format!("MULTI DISCARD WATCH {key} DUMP {key} PEXPIRETIME {key}");
    assert_eq!([rig.asked(0).join(" "), rig.asked(1).join(" ")], [look(&a), look(&b)]);
    tell_each(&mut rig, 0, &[OK, OK, OK, "$1\r\nv\r\n", ":4000\r\n"]);
    tell_each(&mut rig, 1, &NOTHING);
    assert_eq!(rig.asked(0), [""; 0]);
    let restore = format!("RESTORE {b} 4000 v REPLACE ABSTTL");
    assert_eq!(rig.asked(1), ["MULTI", &restore, &format!("DUMP {b}"), &format!("PEXPIRETIME {b}"), "EXEC"]);
    tell_each(&mut rig, 1, &RESTORED);
    assert_eq!(rig.asked(0), ["MULTI", &format!("UNLINK {a}"), "EXEC"]);
    tell_each(&mut rig, 0, &UNDONE);
    assert_eq!(rig.got(client), OK);
    settled(&mut rig);
}

#[test]
fn a_rename_that_cannot_be_changes_nothing() {
    let check = |verb: &str, told: &[(usize, &[&str])], expected: &str| {
        let (mut rig, client, _) = rename(verb, told);
        let got = rig.got(client);
        assert!(got.starts_with(expected), "{verb} {told:?}: {got}");
        settled(&mut rig);
    };
    check("RENAME", &[(0, &NOTHING), (1, &NOTHING)], "-ERR no such key\r\n");
    check("RENAMENX", &[(0, &NOTHING), (1, &LOOK)], "-ERR no such key\r\n");
    check("RENAMENX", &[(0, &LOOK), (1, &LOOK)], ":0\r\n");
    let no_multi = ["-NOPERM x\r\n", "-ERR DISCARD without MULTI\r\n", OK, "$1\r\nv\r\n", ":-1\r\n"];
    check("RENAME", &[(0, &LOOK), (1, &no_multi)], "-NOPERM x\r\n");
    let full = [OK, "-OOM x\r\n", QUEUED, QUEUED, "-EXECABORT x\r\n"];
    check("RENAME", &[(0, &LOOK), (1, &NOTHING), (1, &full)], "-OOM x\r\n");
    let wrong = [OK, QUEUED, QUEUED, QUEUED, "*3\r\n-ERR Bad data format\r\n$-1\r\n:-2\r\n"];
    check("RENAME", &[(0, &LOOK), (1, &NOTHING), (1, &wrong)], "-ERR Bad data format\r\n");
}

/// Somebody changes the old name between the look and the deletion: both are looked at again.
#[test]
fn a_rename_begins_again_when_a_name_was_changed() {
    let nil = [OK, QUEUED, QUEUED, QUEUED, NIL];
    let (mut rig, client, [_, b]) = rename("RENAME", &[(0, &LOOK), (1, &NOTHING), (1, &nil)]);
    assert_eq!(words(&rig.asked(0)), ["MULTI", "DISCARD", "WATCH", "DUMP", "PEXPIRETIME"]);
    tell_each(&mut rig, 0, &[OK, OK, OK, "$2\r\nvv\r\n", ":-1\r\n"]);
    tell_each(&mut rig, 1, &NOTHING);
    tell_each(&mut rig, 1, &RESTORED);
    // The old name once more: the new one has our value, which the next one replaces.
    tell_each(&mut rig, 0, &[OK, QUEUED, NIL]);
    tell_each(&mut rig, 0, &LOOK);
    tell_each(&mut rig, 1, &OURS);
    assert_eq!(rig.asked(1)[1], format!("RESTORE {b} 0 v REPLACE ABSTTL"));
    tell_each(&mut rig, 1, &RESTORED);
    tell_each(&mut rig, 0, &UNDONE);
    assert_eq!(rig.got(client), OK);
    settled(&mut rig);
}

#[test]
fn what_cannot_be_finished_is_undone() {
    // There was something under the new name, and the old one is gone when it is to be deleted.
    let before = [OK, OK, OK, "$3\r\nold\r\n", ":5000\r\n"];
    let told: [(usize, &[&str]); 6] =
        [(0, &LOOK), (1, &before), (1, &RESTORED), (0, &[OK, QUEUED, NIL]), (0, &NOTHING), (1, &OURS)];
    let (mut rig, client, [_, b]) = rename("RENAME", &told);
    assert_eq!(rig.asked(1), ["MULTI", &format!("RESTORE {b} 5000 old REPLACE ABSTTL"), "EXEC"]);
    tell_each(&mut rig, 1, &UNDONE);
    assert_eq!(rig.got(client), "-ERR no such key\r\n");
    settled(&mut rig);
    // The old name's shard refuses to delete it; there was nothing under the new name.
    let read_only = [OK, "-READONLY x\r\n", "-EXECABORT x\r\n"];
    let told: [(usize, &[&str]); 5] = [(0, &LOOK), (1, &NOTHING), (1, &RESTORED), (0, &read_only), (1, &OURS)];
    let (mut rig, client, [_, b]) = rename("RENAME", &told);
    assert_eq!(rig.asked(1), ["MULTI", &format!("UNLINK {b}"), "EXEC"]);
    tell_each(&mut rig, 1, &UNDONE);
    assert_eq!(rig.got(client), "-READONLY x\r\n");
    settled(&mut rig);
}

#[test]
fn what_cannot_be_undone_is_said() {
    let changed = [OK, OK, OK, "$1\r\nX\r\n", ":-1\r\n"];
    let half: [(usize, &[&str]); 4] = [(0, &LOOK), (1, &NOTHING), (1, &RESTORED), (0, &[OK, QUEUED, NIL])];
    let check = |verb: &str, more: &[(usize, &[&str])], reason: &str| {
        let (mut rig, client, [a, b]) = rename(verb, &[&half, more].concat());
        let reason = reason.replace('B', &b);
        let expected = format!(
            "-SHARDPARTIAL {reason}; '{a}' was not renamed, but '{b}' got its value, and was changed by another client since\r\n"
        );
        assert_eq!(rig.got(client), expected);
        settled(&mut rig);
    };
    check("RENAME", &[(0, &NOTHING), (1, &changed)], "ERR no such key");
    check("RENAMENX", &[(0, &LOOK), (1, &changed)], "'B' exists");
    // Somebody changes it while it is undone.
    let told: [(usize, &[&str]); 4] = [(0, &NOTHING), (1, &OURS), (1, &[OK, QUEUED, NIL]), (1, &changed)];
    check("RENAME", &told, "ERR no such key");
}

#[test]
fn what_others_made_of_a_value_is_what_an_undoing_leaves() {
    let read_only = [OK, "-READONLY x\r\n", "-EXECABORT x\r\n"];
    // The old name changes before it is deleted, and somebody writes to the new one before that is replaced.
    let pushed = [OK, OK, OK, "$3\r\nv+X\r\n", ":-1\r\n"];
    let told: [(usize, &[&str]); 8] = [
        (0, &LOOK),
        (1, &NOTHING),
        (1, &RESTORED),
        (0, &[OK, QUEUED, NIL]),
        (0, &LOOK),
        (1, &pushed),
        (1, &RESTORED),
        (0, &read_only),
    ];
    let (mut rig, client, [a, b]) = rename("RENAME", &told);
    tell_each(&mut rig, 1, &OURS);
    assert_eq!(rig.asked(1), ["MULTI", &format!("RESTORE {b} 0 v+X REPLACE ABSTTL"), "EXEC"]);
    tell_each(&mut rig, 1, &UNDONE);
    assert_eq!(
        rig.got(client),
        format!(
            "-SHARDPARTIAL READONLY x; '{a}' was not renamed, but '{b}' got its value, and was changed by another client since\r\n"
        )
    );
    settled(&mut rig);
}

/// A connection breaks at each step: what may exist is said, or nothing was changed.
#[test]
fn a_rename_whose_connection_breaks_says_what_may_exist() {
    let check = |told: &[(usize, &[&str])], lost: usize, then: &[(usize, &[&str])], word: &str, expected: &str| {
        let (mut rig, client, [a, b]) = rename("RENAME", told);
        rig.lose(lost);
        for (shard, replies) in then {
            tell_each(&mut rig, *shard, replies);
        }
        let got = rig.got(client);
        let expected = expected.replace('A', &a).replace('B', &b);
        assert!(got.starts_with(&format!("-{word} ")), "{told:?}: {got}");
        assert!(got.ends_with(&format!("{expected}\r\n")), "{told:?}: {got}");
        assert!(rig.engine.renames.is_empty());
    };
    let restored: [(usize, &[&str]); 3] = [(0, &LOOK), (1, &NOTHING), (1, &RESTORED)];
    check(&[], 0, &[(1, &NOTHING)], "SHARDLOST", "; the command was not executed");
    check(&[], 1, &[(0, &LOOK)], "SHARDLOST", "; the command was not executed");
    let perhaps = "; 'A' was not renamed, but 'B' may hold its value already";
    check(&[(0, &LOOK), (1, &NOTHING)], 1, &[], "SHARDLOST", perhaps);
    check(&restored, 0, &[], "SHARDLOST", "; 'B' holds the value of 'A', which may still exist as well");
    // The other one's loss is noticed when it is needed.
    check(&restored, 1, &[(0, &[OK, QUEUED, NIL]), (0, &LOOK)], "SHARDPARTIAL", perhaps);
    // Nobody is asked to undo what others have changed.
    let changed = [OK, OK, OK, "$1\r\nX\r\n", ":-1\r\n"];
    let since = "; 'A' was not renamed, but 'B' got its value, and was changed by another client since";
    check(&restored[..2], 0, &[(1, &RESTORED), (1, &changed)], "SHARDPARTIAL", since);
    let (mut rig, client, _) = rename("RENAME", &restored);
    rig.lose(1);
    tell_each(&mut rig, 0, &UNDONE);
    assert_eq!(rig.got(client), OK);
    // The old name's connection goes before it is asked to delete: that much is certain, and is undone.
    let (mut rig, client, [_, b]) = rename("RENAME", &restored[..2]);
    rig.lose(0);
    tell_each(&mut rig, 1, &RESTORED);
    tell_each(&mut rig, 1, &OURS);
    assert_eq!(rig.asked(1), ["MULTI", &format!("UNLINK {b}"), "EXEC"]);
    tell_each(&mut rig, 1, &UNDONE);
    let got = rig.got(client);
    assert!(got.starts_with("-SHARDDOWN shard a") && got.ends_with("; the command was not executed\r\n"), "{got}");
}

#[test]
fn a_rename_goes_on_when_its_client_goes() {
    let (mut rig, client, [a, _]) = rename("RENAME", &[(0, &LOOK), (1, &NOTHING)]);
    rig.engine.client_gone(client);
    assert_eq!(rig.engine.clients_left(), 1, "a proxy that stops waits for it");
    tell_each(&mut rig, 1, &RESTORED);
    assert_eq!(rig.asked(0), ["MULTI", &format!("UNLINK {a}"), "EXEC"]);
    tell_each(&mut rig, 0, &UNDONE);
    settled(&mut rig);
    assert_eq!(rig.engine.clients_left(), 0);
}

#[test]
fn a_rename_that_others_outrun_is_given_up() {
    let (mut rig, client, _) = rename("RENAME", &[(0, &LOOK), (1, &NOTHING)]);
    let mut rounds = 1;
    while rig.got(client).is_empty() {
        tell_each(&mut rig, 1, &[OK, QUEUED, QUEUED, QUEUED, NIL]);
        tell_each(&mut rig, 0, &LOOK);
        tell_each(&mut rig, 1, &NOTHING);
        rounds += 1;
        assert!(rounds <= 100);
        if rounds == 100 {
            assert!(rig.got(client).starts_with("-ERR the keys were changed by others in each of 100 attempts"));
            break;
        }
    }
    settled(&mut rig);
}

#[test]
fn a_server_that_does_not_answer_ends_a_rename_in_time() {
    let (mut rig, client, [a, b]) = rename("RENAME", &[(0, &LOOK), (1, &NOTHING)]);
    rig.engine.set_now(6_000_000);
    rig.ticks();
    let got = rig.got(client);
    assert!(got.starts_with("-SHARDTIMEOUT no reply from shard b"), "{got}");
    assert!(got.ends_with(&format!("; '{a}' was not renamed, but '{b}' may hold its value already\r\n")), "{got}");
    tell_each(&mut rig, 1, &RESTORED);
    settled(&mut rig);
}

//! Waiting, driven by bytes: what is asked of whom, when, and what comes of it.

use crate::engine::tests::Rig;

const NIL: &str = "$-1\r\n";
const WRONG: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// A rig over two shards, and a key on each.
fn rig() -> (Rig, String, String) {
    let rig = Rig::of(2);
    let on = |shard: u16| {
        let here = |key: &String| rig.engine.topology().shard_of(key.as_bytes()).0 == shard;
        (0..).map(|n| format!("k{n}")).find(here).unwrap()
    };
    let (a, b) = (on(0), on(1));
    // The tracking connections are made when somebody waits for the first time.
    let mut rig = rig;
    let client = waiting(&mut rig, &format!("BLPOP {a} {b} 0"));
    rig.engine.client_gone(client);
    rig.settle();
    (rig, a, b)
}

/// Servers answer everything by `answer`, which knows the shard and the line; what they were asked.
fn serve(rig: &mut Rig, answer: impl Fn(usize, &str) -> &'static str) -> Vec<String> {
    let mut log = Vec::new();
    loop {
        let waits = |rig: &mut Rig, shard| rig.asked(shard).into_iter().next().map(|line| (shard, line));
        let Some((shard, line)) = waits(rig, 0).or_else(|| waits(rig, 1)) else { return log };
        let reply = if line.starts_with("CLIENT TRACKING") { "+OK\r\n" } else { answer(shard, &line) };
        rig.tell(shard, reply);
        if !line.starts_with("CLIENT TRACKING") {
            log.push(line);
        }
    }
}

/// Nothing is there.
fn nothing(_: usize, line: &str) -> &'static str {
    if line.starts_with("EXISTS") { ":0\r\n" } else { NIL }
}

/// The shard says that `key` changed.
fn change(rig: &mut Rig, shard: usize, key: &str) {
    let conn = rig.engine.waiting.lines[shard];
    let push = format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len());
    rig.engine.conn_bytes(conn, push.as_bytes());
    rig.settle();
}

fn pass(rig: &mut Rig, micros: u64) {
    let now = rig.engine.now + micros;
    rig.engine.set_now(now);
    rig.engine.tick();
    rig.settle();
}

/// A client that waits for both keys, and the servers have said that nothing is there.
fn waiting(rig: &mut Rig, line: &str) -> u32 {
    let client = rig.client();
    rig.send(client, line);
    serve(rig, nothing);
    assert_eq!(rig.got(client), "");
    client
}

#[test]
fn keys_are_tried_in_order_then_armed_then_nothing_is_asked() {
    let (mut rig, a, b) = rig();
    let client = rig.client();
    rig.send(client, &format!("BLPOP {b} {a} 0"));
    let mut log = serve(&mut rig, nothing);
    assert_eq!(log[0], format!("LPOP {b}"));
    log.sort();
    assert_eq!(log, [format!("EXISTS {a}"), format!("EXISTS {b}"), format!("LPOP {a}"), format!("LPOP {b}")]);
    pass(&mut rig, 900_000);
    assert_eq!(serve(&mut rig, nothing), [""; 0]);
    // A change is tried where it is, and only there.
    change(&mut rig, 0, &a);
    assert_eq!(serve(&mut rig, |_, _| "$1\r\nx\r\n"), [format!("LPOP {a}")]);
    assert_eq!(rig.got(client), format!("*2\r\n$2\r\n{a}\r\n$1\r\nx\r\n"));
    change(&mut rig, 1, &b);
    assert_eq!(serve(&mut rig, nothing), [""; 0], "nobody waits any more");
}

#[test]
fn a_change_between_the_attempt_and_the_arming_is_seen() {
    let (mut rig, a, b) = rig();
    let client = rig.client();
    rig.send(client, &format!("BLPOP {a} {b} 0"));
    // It comes when the attempt has found nothing: the arming says that it is there.
    let log = serve(&mut rig, |shard, line| match line {
        _ if line.starts_with("EXISTS") && shard == 0 => ":1\r\n",
        _ => nothing(shard, line),
    });
    assert_eq!(log.iter().filter(|line| **line == format!("LPOP {a}")).count(), 2, "{log:?}");
}

#[test]
fn who_comes_later_is_served_later_and_asks_nothing() {
    let (mut rig, a, b) = rig();
    let first = waiting(&mut rig, &format!("BLPOP {a} {b} 0"));
    let second = rig.client();
    rig.send(second, &format!("BLPOP {b} {a} 0"));
    assert_eq!(serve(&mut rig, nothing), [""; 0], "what is known need not be asked");
    change(&mut rig, 1, &b);
    let taken = std::cell::Cell::new(false);
    let log = serve(&mut rig, |shard, line| match line {
        _ if line.starts_with("LPOP") && !taken.replace(true) => "$1\r\nx\r\n",
        _ => nothing(shard, line),
    });
    assert_eq!(log, [format!("LPOP {b}"), format!("EXISTS {b}")]);
    assert_ne!(rig.got(first), "");
    assert_eq!(rig.got(second), "");
    // One that could wait alone waits with the others.
    let third = rig.client();
    rig.send(third, &format!("BLPOP {b} 0"));
    change(&mut rig, 1, &b);
    taken.set(false);
    serve(&mut rig, |shard, line| match line {
        _ if line.starts_with("LPOP") && !taken.replace(true) => "$1\r\ny\r\n",
        _ => nothing(shard, line),
    });
    assert_ne!(rig.got(second), "");
    assert_eq!(rig.got(third), "");
}

#[test]
fn a_wrong_type_is_an_error_at_first_and_nothing_later() {
    let (mut rig, a, b) = rig();
    let client = waiting(&mut rig, &format!("BLPOP {a} {b} 0"));
    change(&mut rig, 0, &a);
    let log = serve(&mut rig, |shard, line| match line {
        _ if line.starts_with("EXISTS") => ":1\r\n",
        _ if shard == 0 => WRONG,
        _ => NIL,
    });
    assert!(log.len() <= 4, "{log:?}");
    assert_eq!(rig.got(client), "");
    let second = rig.client();
    rig.send(second, &format!("BLPOP {b} {a} 0"));
    assert_eq!(serve(&mut rig, nothing), [""; 0]);
    assert_eq!(rig.got(second), WRONG);
}

#[test]
fn what_was_taken_for_a_client_that_is_gone_is_put_back() {
    let (mut rig, a, b) = rig();
    for (line, reply, back) in [
        ("BLPOP <a> <b> 0", "$1\r\nx\r\n", "end 1 <a> x"),
        ("BLMPOP 0 2 <a> <b> LEFT COUNT 2", "*2\r\n$2\r\n<a>\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n", "end 1 <a> y x"),
        ("BZPOPMIN <a> <b> 0", "*2\r\n$1\r\nm\r\n$3\r\n1.5\r\n", "end 1 <a> 1.5 m"),
    ] {
        let named = |text: &str| text.replace("<a>", &a).replace("<b>", &b);
        let client = waiting(&mut rig, &named(line));
        change(&mut rig, 0, &a);
        assert_eq!(rig.asked(0).len(), 1);
        rig.engine.client_gone(client);
        rig.tell(0, &named(reply));
        let asked = rig.asked(0);
        assert!(asked.len() == 1 && asked[0].starts_with("EVAL") && asked[0].ends_with(&named(back)), "{asked:?}");
        // A user who may not run scripts may push.
        rig.tell(0, "-NOPERM this user has no permissions\r\n");
        let asked = rig.asked(0);
        assert!(asked.len() == 1 && !asked[0].starts_with("EVAL"), "{asked:?}");
        rig.tell(0, ":1\r\n");
        assert_eq!(serve(&mut rig, nothing), [""; 0]);
        assert!(rig.engine.waiting.spots.is_empty() && rig.engine.waiting.questions.is_empty());
        assert!(rig.engine.waiting.names.is_empty() && rig.engine.waiting.index.is_empty());
    }
}

#[test]
fn elements_wait_for_their_shard() {
    let (mut rig, a, b) = rig();
    let client = waiting(&mut rig, &format!("BLPOP {a} {b} 0"));
    change(&mut rig, 0, &a);
    rig.engine.client_gone(client);
    rig.tell(0, "$1\r\nx\r\n");
    rig.tell(0, "-LOADING Redis is loading the dataset in memory\r\n");
    rig.tell(0, "-LOADING Redis is loading the dataset in memory\r\n");
    assert_eq!(rig.asked(0), [""; 0]);
    pass(&mut rig, 1_100_000);
    let asked = rig.asked(0);
    assert!(asked.len() == 1 && asked[0].starts_with("EVAL"), "{asked:?}");
}

#[test]
fn a_refused_arming_is_repeated() {
    let (mut rig, a, b) = rig();
    let client = rig.client();
    rig.send(client, &format!("BLPOP {a} {b} 0"));
    serve(&mut rig, |shard, line| if line.starts_with("EXISTS") { "-BUSY\r\n" } else { nothing(shard, line) });
    pass(&mut rig, 100_000);
    assert_eq!(serve(&mut rig, nothing), [""; 0], "not at once: a server may be busy for long");
    pass(&mut rig, 1_000_000);
    let log = serve(&mut rig, nothing);
    assert!([&a, &b].iter().all(|key| log.contains(&format!("EXISTS {key}"))), "{log:?}");
}

#[test]
fn a_time_that_is_over_ends_a_wait_but_not_an_attempt() {
    let (mut rig, a, b) = rig();
    let client = waiting(&mut rig, &format!("BLPOP {a} {b} 0.5"));
    pass(&mut rig, 400_000);
    assert_eq!(rig.got(client), "");
    pass(&mut rig, 200_000);
    assert_eq!(rig.got(client), "*-1\r\n");
    let late = waiting(&mut rig, &format!("BLPOP {a} {b} 0.5"));
    change(&mut rig, 0, &a);
    pass(&mut rig, 600_000);
    assert_eq!(rig.got(late), "", "it may have taken something");
    rig.tell(0, "$1\r\nx\r\n");
    assert_ne!(rig.got(late), "");
}

#[test]
fn a_lost_shard_concerns_whose_attempt_was_under_way() {
    let (mut rig, a, b) = rig();
    let idle = waiting(&mut rig, &format!("BLPOP {b} {a} 0"));
    let busy = waiting(&mut rig, &format!("BZPOPMIN {a} {b} 0"));
    change(&mut rig, 0, &a);
    // The list's attempt found nothing, the sorted set's was not answered.
    let first = rig.asked(0).remove(0);
    assert!(first.starts_with("LPOP") || first.starts_with("ZPOPMIN"), "{first}");
    rig.lose(0);
    let told = [idle, busy].map(|client| rig.got(client));
    assert!(told.iter().all(|text| text.starts_with("-SHARDLOST")), "both were under way: {told:?}");
    let next = rig.client();
    rig.send(next, &format!("BLPOP {b} {a} 0"));
    serve(&mut rig, nothing);
    assert!(rig.got(next).starts_with("-SHARDDOWN"));
}

#[test]
fn streams_are_read_as_they_would_be() {
    let (mut rig, a, b) = rig();
    let client = rig.client();
    rig.send(client, &format!("XREAD COUNT 5 BLOCK 0 STREAMS {a} {b} $ 7-0"));
    let log = serve(&mut rig, |shard, line| match line {
        _ if line.starts_with("XINFO") => "*2\r\n$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n",
        _ if line.starts_with("XREAD") => "*-1\r\n",
        _ => nothing(shard, line),
    });
    assert_eq!(log[0], format!("XINFO STREAM {a}"));
    assert!(log.contains(&format!("XREAD COUNT 5 STREAMS {a} 5-1")), "{log:?}");
    assert!(log.contains(&format!("XREAD COUNT 5 STREAMS {b} 7-0")), "{log:?}");
    assert_eq!(rig.got(client), "");
    change(&mut rig, 1, &b);
    assert_eq!(serve(&mut rig, |_, _| "*1\r\n*0\r\n"), [format!("XREAD COUNT 5 STREAMS {b} 7-0")]);
    assert_eq!(rig.got(client), "*1\r\n*0\r\n");
}

#[test]
fn of_several_keys_that_have_something_the_first_is_taken() {
    let (mut rig, a, b) = rig();
    let client = waiting(&mut rig, &format!("BLPOP {b} {a} 0"));
    let conn = rig.engine.waiting.lines[0];
    for shard in [0, 1] {
        rig.engine.conn_lost(rig.engine.waiting.lines[shard], crate::engine::Fault::Lost, "it broke");
    }
    rig.engine.conn_connected(conn);
    rig.engine.conn_connected(rig.engine.waiting.lines[1]);
    rig.settle();
    let pops = |rig: &mut Rig| {
        [0, 1].map(|shard| rig.asked(shard).into_iter().filter(|line| line.starts_with("LPOP")).collect::<Vec<_>>())
    };
    // Both may have something, and only one is asked at a time.
    let asked = pops(&mut rig).concat();
    assert_eq!(asked.len(), 1, "{asked:?}");
    serve(&mut rig, nothing);
    // Both change while an attempt is under way.
    change(&mut rig, 0, &a);
    change(&mut rig, 1, &b);
    assert_eq!(pops(&mut rig).concat(), [format!("LPOP {a}")]);
    change(&mut rig, 0, &a);
    rig.tell(0, NIL);
    assert_eq!(pops(&mut rig).concat(), [format!("LPOP {b}")]);
    rig.tell(1, "$1\r\nx\r\n");
    assert_eq!(rig.got(client), format!("*2\r\n$2\r\n{b}\r\n$1\r\nx\r\n"));
}

//! Pub/sub driven by bytes: an engine, clients, and servers whose every word is written here.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{About, Engine, Fault, Options, Order};
use super::{Board, OutputLimits};
use crate::metrics::WorkerMetrics;
use crate::resp::{Args, Limits, RequestScanner, Scan, request};
use crate::topology::{Endpoint, Kind, Shard, Spec, Topology};

const SECOND: u64 = 1_000_000;

/// An engine over three servers, `a`, `b` and `c`, whose lines get the connections' next numbers.
struct Bench {
    engine: Engine,
    now: u64,
    /// The connections ordered, in order: first the shared ones.
    conns: Vec<u32>,
    dropped: Vec<u32>,
    closed: Vec<u32>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let shard = |name: &str| Shard {
            name: name.to_owned(),
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 1 },
            weight: 1,
        };
        let spec = Spec {
            shards: vec![shard("a"), shard("b"), shard("c")],
            home: None,
            kind: Kind::Slots,
            colocate: Vec::new(),
        };
        let topology = Arc::new(Topology::build(&spec, 1).expect("three shards"));
        let options = Options { script_timeout: 5 * SECOND, credentials: vec![Default::default(); 3], ..options };
        let metrics = Arc::new(WorkerMetrics::new(&super::super::labels(&topology)));
        let engine = Engine::new(options, topology, metrics);
        let mut bench = Self { engine, now: 0, conns: Vec::new(), dropped: Vec::new(), closed: Vec::new() };
        bench.obey();
        (0..3).for_each(|shard| bench.up(shard));
        bench
    }

    fn obey(&mut self) {
        self.engine.resume_clients(&mut Vec::new());
        while let Some(order) = self.engine.next_order() {
            match order {
                Order::Connect { conn, .. } => self.conns.push(conn),
                Order::DropClient { client } => self.dropped.push(client),
                Order::CloseClient { client } => self.closed.push(client),
                Order::Close { .. } | Order::Reconnect { .. } | Order::Alarm { .. } | Order::Send { .. } => {}
            }
        }
        self.engine.resume_clients(&mut Vec::new());
    }

    /// The `n`th connection is made and greeted.
    fn up(&mut self, n: usize) {
        self.engine.conn_connected(self.conns[n]);
        self.said(n);
        self.says(n, "%1|$7|version|$5|7.0.0|".replace("%1", "*2").as_str());
    }

    fn lost(&mut self, n: usize) {
        self.engine.conn_lost(self.conns[n], Fault::Lost, "closed by the server");
        self.obey();
    }

    /// The server says `text`, where `|` is a line's end.
    fn says(&mut self, n: usize, text: &str) {
        self.engine.conn_bytes(self.conns[n], text.replace('|', "\r\n").as_bytes());
        self.obey();
    }

    /// The requests that the `n`th connection got since the last look, one a word: `get+k`.
    fn said(&mut self, n: usize) -> String {
        let Some(out) = self.engine.conn_out(self.conns[n]) else { return "down".to_owned() };
        let bytes = out.single().expect("small requests").to_vec();
        out.advance(bytes.len());
        let (mut at, mut requests, mut spans) = (0, Vec::new(), Vec::new());
        while at < bytes.len() {
            let scanned = RequestScanner::default().scan(&bytes[at..], &Limits::default(), true, &mut spans);
            let Ok(Scan::Frame { len, .. }) = scanned else { panic!("{scanned:?}") };
            let words: Vec<_> = Args::new(&bytes[at..], &spans).iter().map(String::from_utf8_lossy).collect();
            requests.push(words.join("+").to_lowercase());
            at += len;
        }
        requests.join(" ")
    }

    fn client(&mut self) -> u32 {
        self.engine.client_open(About::default())
    }

    fn client3(&mut self) -> u32 {
        let id = self.client();
        self.sends(id, "HELLO 3");
        self.hears(id);
        id
    }

    fn sends(&mut self, client: u32, line: &str) {
        let mut frame = Vec::new();
        request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        self.engine.client_bytes(client, &frame);
        self.obey();
    }

    /// What the client got since the last look, `|` for a line's end.
    fn hears(&mut self, client: u32) -> String {
        let Some(out) = self.engine.client_out(client) else { return "gone".to_owned() };
        let mut bytes = Vec::new();
        while !out.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 16];
            let count = out.slices(&mut slices, usize::MAX);
            let before = bytes.len();
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            out.advance(bytes.len() - before);
        }
        self.engine.client_written(client, bytes.len());
        self.obey();
        String::from_utf8_lossy(&bytes).replace("\r\n", "|")
    }

    /// Has the client subscribe, with every server saying yes.
    fn subscribed(&mut self, client: u32, line: &str) {
        self.sends(client, line);
        self.agree();
        assert!(self.hears(client).contains("subscribe"), "{line}");
    }

    /// Another client has subscribed to the channel.
    fn subscribed_by_somebody(&mut self, channel: &str) {
        let client = self.client();
        self.subscribed(client, &format!("SUBSCRIBE {channel}"));
    }

    /// Every line that is not up comes up, and every question on it is answered.
    fn agree(&mut self) {
        for n in 3..6 {
            if self.engine.conns[self.conns[n] as usize].link != super::Link::Up {
                self.up(n);
            }
            for asked in self.said(n).split_whitespace() {
                let (verb, name) = asked.split_once('+').unwrap_or((asked, ""));
                self.says(n, &reply(verb, name));
            }
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        self.engine.set_now(self.now);
        // Who is late is told at the second.
        self.engine.tick();
        self.engine.tick();
        self.obey();
    }
}

fn reply(verb: &str, name: &str) -> String {
    format!("*3|${}|{verb}|${}|{name}|:1|", verb.len(), name.len())
}

fn message(channel: &str, body: &str) -> String {
    format!("*3|$7|message|${}|{channel}|${}|{body}|", channel.len(), body.len())
}

/// The shard of a channel, as a number.
fn shard(bench: &Bench, channel: &str) -> usize {
    bench.engine.topology().shard_of(channel.as_bytes()).0 as usize
}

#[test]
fn a_subscription_is_confirmed_when_every_shard_has_confirmed() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.sends(client, "SUBSCRIBE x y");
    assert_eq!(bench.conns.len(), 6, "a line per shard");
    for n in 3..6 {
        bench.up(n);
        let mut asked: Vec<String> = bench.said(n).split(' ').map(str::to_owned).collect();
        asked.sort();
        assert_eq!(asked, ["subscribe+x", "subscribe+y"]);
    }
    for n in 3..6 {
        bench.says(n, &(reply("subscribe", "x") + &message("x", "early")));
        assert_eq!(bench.hears(client), "", "nothing before the confirmation");
        bench.says(n, &reply("subscribe", "y"));
    }
    // Those shards counted it among the receivers.
    let early = message("x", "early").repeat(3);
    assert_eq!(bench.hears(client), format!("*3|$9|subscribe|$1|x|:1|*3|$9|subscribe|$1|y|:2|{early}"));
    bench.says(4, &message("x", "hello"));
    assert_eq!(bench.hears(client), message("x", "hello"));
}

#[test]
fn another_client_of_a_channel_asks_nobody() {
    let mut bench = Bench::new();
    let (first, second) = (bench.client(), bench.client3());
    bench.subscribed(first, "SUBSCRIBE x");
    bench.sends(second, "SUBSCRIBE x x");
    assert_eq!(bench.hears(second), ">3|$9|subscribe|$1|x|:1|>3|$9|subscribe|$1|x|:1|");
    assert_eq!((3..6).map(|n| bench.said(n)).collect::<String>(), "");
    bench.says(5, &message("x", "m"));
    assert_eq!(bench.hears(first), "*3|$7|message|$1|x|$1|m|");
    assert_eq!(bench.hears(second), ">3|$7|message|$1|x|$1|m|");
}

#[test]
fn large_messages_reach_both_protocols() {
    let mut bench = Bench::new();
    let (first, second) = (bench.client(), bench.client3());
    bench.subscribed(first, "SUBSCRIBE x");
    bench.subscribed(second, "SUBSCRIBE x");
    let large = message("x", &"m".repeat(100_000));
    let (head, tail) = large.split_at(30_000);
    bench.says(3, head);
    bench.says(3, &(tail.to_owned() + &message("x", "small")));
    assert!(bench.hears(first) == large.clone() + &message("x", "small"));
    assert!(bench.hears(second) == format!(">{}>{}", &large[1..], &message("x", "small")[1..]));
}

#[test]
fn patterns_and_shard_channels_have_names_of_their_own() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.subscribed(client, "PSUBSCRIBE x");
    bench.subscribed(client, "SSUBSCRIBE x");
    bench.says(3, &message("x", "nobody's"));
    assert_eq!(bench.hears(client), "");
    bench.says(3, "*4|$8|pmessage|$1|x|$1|x|$1|m|*3|$8|smessage|$1|x|$1|m|");
    assert_eq!(bench.hears(client), "*4|$8|pmessage|$1|x|$1|x|$1|m|*3|$8|smessage|$1|x|$1|m|");
}

#[test]
fn unsubscribing_the_last_client_unsubscribes_upstream() {
    let mut bench = Bench::new();
    let (first, second) = (bench.client(), bench.client());
    bench.subscribed(first, "SUBSCRIBE x");
    bench.subscribed(second, "SUBSCRIBE x");
    bench.sends(first, "UNSUBSCRIBE");
    assert_eq!(bench.hears(first), "*3|$11|unsubscribe|$1|x|:0|");
    assert_eq!(bench.said(3), "");
    bench.sends(second, "UNSUBSCRIBE x");
    assert_eq!(bench.hears(second), "", "a server may still count it");
    for n in 3..6 {
        assert_eq!(bench.said(n), "unsubscribe+x");
        bench.says(n, &(message("x", "late") + &reply("unsubscribe", "x")));
    }
    assert_eq!(bench.hears(second), "*3|$11|unsubscribe|$1|x|:0|");
}

#[test]
fn the_words_are_those_of_redis() {
    let mut bench = Bench::new();
    let (old, new) = (bench.client(), bench.client3());
    let mut check = |client: u32, line: &str, expected: &str| {
        bench.sends(client, line);
        bench.agree_if_any();
        assert_eq!(bench.hears(client), expected, "{line}");
    };
    let only = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context|";
    check(old, "UNSUBSCRIBE", "*3|$11|unsubscribe|$-1|:0|");
    check(old, "PUNSUBSCRIBE", "*3|$12|punsubscribe|$-1|:0|");
    check(old, "SUNSUBSCRIBE a", "*3|$12|sunsubscribe|$1|a|:0|");
    check(new, "SUNSUBSCRIBE", ">3|$12|sunsubscribe|_|:0|");
    check(old, "PSUBSCRIBE x* x*", "*3|$10|psubscribe|$2|x*|:1|*3|$10|psubscribe|$2|x*|:1|");
    check(old, "SUBSCRIBE a", "*3|$9|subscribe|$1|a|:2|");
    check(old, "SSUBSCRIBE s", "*3|$10|ssubscribe|$1|s|:1|");
    check(old, "PING", "*2|$4|pong|$0||");
    check(old, "PING hi", "*2|$4|pong|$2|hi|");
    check(old, "PING a b", "-ERR wrong number of arguments for 'ping' command|");
    check(old, "CLIENT GETNAME", &format!("-ERR Can't execute 'client|getname': {only}"));
    check(old, "HELLO 3", &format!("-ERR Can't execute 'hello': {only}"));
    check(old, "UNSUBSCRIBE q", "*3|$11|unsubscribe|$1|q|:2|");
    check(new, "SUBSCRIBE a", ">3|$9|subscribe|$1|a|:1|");
    check(new, "PING", "+PONG|");
    check(new, "PUBSUB NUMPAT", ":1|");
    check(new, "PUBSUB CHANNELS a*", "*1|$1|a|");
    check(new, "PUBSUB CHANNELS b*", "*0|");
    check(new, "PUBSUB SHARDCHANNELS", "*1|$1|s|");
    check(new, "PUBSUB NUMSUB", "*0|");
    let text = "-ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.|";
    check(new, "PUBSUB CHANNELS a b", text);
    check(old, "RESET", "+RESET|");
    check(old, "PING", "+PONG|");
    check(new, "PUBSUB NUMPAT", ":0|");
    check(new, "CLIENT REPLY OFF", "");
    check(new, "SUBSCRIBE b", ">3|$9|subscribe|$1|b|:2|");
    check(new, "PING", "");
}

#[test]
fn a_shard_that_is_down_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.lost(1);
    bench.engine.conn_lost(bench.conns[1], Fault::Connect, "refused");
    let client = bench.client();
    bench.sends(client, "SUBSCRIBE x");
    for n in [3, 5] {
        bench.up(n);
        bench.said(n);
        bench.says(n, &reply("subscribe", "x"));
    }
    assert_eq!(bench.hears(client), "*3|$9|subscribe|$1|x|:1|");
    bench.up(4);
    assert_eq!(bench.said(4), "subscribe+x", "made up for on its return");
}

#[test]
fn a_shard_that_is_lost_meanwhile_is_not_waited_for() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.sends(client, "SUBSCRIBE x");
    for n in 3..6 {
        bench.up(n);
        bench.said(n);
    }
    bench.says(3, &reply("subscribe", "x"));
    bench.says(4, &reply("subscribe", "x"));
    bench.lost(5);
    assert_eq!(bench.hears(client), "*3|$9|subscribe|$1|x|:1|");
}

#[test]
fn a_shard_that_says_nothing_is_waited_for_no_longer_than_for_a_reply() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.sends(client, "SUBSCRIBE x");
    bench.pass(4 * SECOND);
    assert_eq!(bench.hears(client), "");
    bench.pass(SECOND);
    assert_eq!(bench.hears(client), "*3|$9|subscribe|$1|x|:1|");
}

#[test]
fn everything_is_subscribed_again_on_return() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.subscribed(client, "SUBSCRIBE x");
    bench.subscribed(client, "PSUBSCRIBE p*");
    bench.subscribed(client, "SSUBSCRIBE s");
    bench.lost(4);
    bench.up(4);
    assert_eq!(bench.said(4), "subscribe+x psubscribe+p* ssubscribe+s");
    let answers = reply("subscribe", "x") + &reply("psubscribe", "p*") + &reply("ssubscribe", "s");
    bench.says(4, &(answers + &message("x", "back")));
    assert_eq!(bench.hears(client), message("x", "back"));
}

#[test]
fn a_refused_subscription_is_the_clients_error() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.sends(client, "SUBSCRIBE x");
    for n in 3..6 {
        bench.up(n);
        bench.said(n);
        bench.says(n, if n == 4 { "-NOPERM no such channel for you|" } else { "*3|$9|subscribe|$1|x|:1|" });
    }
    assert_eq!(bench.hears(client), "-NOPERM no such channel for you|");
    assert_eq!(bench.said(3), "unsubscribe+x");
    bench.sends(client, "PING");
    assert_eq!(bench.hears(client), "+PONG|", "it is no subscriber");
}

#[test]
fn a_client_that_goes_leaves_nothing() {
    let mut bench = Bench::new();
    let (client, waits) = (bench.client(), bench.client());
    bench.subscribed(client, "SUBSCRIBE x");
    bench.sends(waits, "SUBSCRIBE y");
    bench.engine.client_gone(client);
    bench.engine.client_gone(waits);
    let next = bench.client();
    bench.says(3, &message("x", "for nobody"));
    assert_eq!(bench.said(3), "subscribe+y unsubscribe+x unsubscribe+y");
    (3..6).for_each(|n| bench.says(n, &(reply("subscribe", "y") + &reply("unsubscribe", "x"))));
    assert_eq!(bench.hears(next), "");
    assert!(bench.engine.hub.topics.iter().all(HashMap::is_empty));
}

#[test]
fn receivers_are_the_proxys_own_clients_and_the_servers_others() {
    let mut bench = Bench::new();
    let (one, two, three, publisher) = (bench.client(), bench.client(), bench.client3(), bench.client());
    bench.subscribed(one, "SUBSCRIBE x");
    bench.subscribed(two, "SUBSCRIBE x");
    bench.subscribed(three, "PSUBSCRIBE x* y*");
    let at = shard(&bench, "x");
    bench.sends(publisher, "PUBLISH x m");
    assert_eq!(bench.said(at), "publish+x+m");
    // One for the channel, one for the pattern, and one of somebody else.
    bench.says(at, ":3|");
    assert_eq!(bench.hears(publisher), ":4|");
    bench.sends(publisher, "PUBSUB NUMSUB x nobody");
    let other = shard(&bench, "nobody");
    if other == at {
        bench.says(at, "*4|$1|x|:2|$6|nobody|:1|");
    } else {
        assert_eq!((bench.said(at), bench.said(other)), ("pubsub+numsub+x".into(), "pubsub+numsub+nobody".into()));
        bench.says(other, "*2|$6|nobody|:1|");
        bench.says(at, "*2|$1|x|:2|");
    }
    assert_eq!(bench.hears(publisher), "*4|$1|x|:3|$6|nobody|:1|");
    // While the line is down the server counts none of ours, and none of ours gets it.
    bench.lost(3 + at);
    bench.sends(publisher, "PUBLISH x m");
    bench.says(at, ":1|");
    assert_eq!(bench.hears(publisher), ":1|");
}

#[test]
fn messages_to_one_shard_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    let client = bench.client();
    let at = shard(&bench, "x");
    let other = ["y", "z", "k", "l", "m"].into_iter().find(|name| shard(&bench, name) != at).expect("another shard");
    bench.sends(client, "PUBLISH x 1");
    bench.sends(client, "PUBLISH x 2");
    bench.sends(client, &format!("PUBLISH {other} 3"));
    let there = shard(&bench, other);
    assert_eq!((bench.said(at).as_str(), bench.said(there).as_str()), ("publish+x+1 publish+x+2", ""));
    bench.says(at, ":0|:0|");
    assert_eq!(bench.said(there), format!("publish+{other}+3"));
    bench.sends(client, "GET x");
    bench.sends(client, &format!("PUBLISH {other} 4"));
    assert_eq!(bench.said(there), "", "GET is still to come");
}

#[test]
fn a_message_stands_between_two_replies() {
    let mut bench = Bench::new();
    let client = bench.client3();
    bench.subscribed(client, "SUBSCRIBE x");
    bench.sends(client, "GET k");
    bench.sends(client, "PING");
    bench.says(3, &message("x", "m"));
    // The request went over a connection of its protocol.
    bench.up(6);
    bench.says(6, "$1|v|");
    assert_eq!(bench.hears(client), ">3|$7|message|$1|x|$1|m|$1|v|+PONG|");
}

#[test]
fn a_subscription_waits_for_earlier_replies() {
    let mut bench = Bench::new();
    let (first, second) = (bench.client(), bench.client());
    bench.subscribed(first, "SUBSCRIBE x");
    bench.sends(second, "GET k");
    bench.sends(second, "SUBSCRIBE x");
    bench.says(4, &message("x", "m"));
    bench.says(shard(&bench, "k"), "$1|v|");
    assert_eq!(bench.hears(second), "$1|v|*3|$9|subscribe|$1|x|:1|");
}

#[test]
fn what_is_asked_behind_a_subscription_is_so_at_once() {
    let mut bench = Bench::new();
    let (client, publisher) = (bench.client(), bench.client());
    bench.subscribed_by_somebody("z");
    for line in ["SUBSCRIBE x", "SUBSCRIBE y", "UNSUBSCRIBE x", "SUBSCRIBE x", "PING"] {
        bench.sends(client, line);
    }
    let home = shard(&bench, "y");
    bench.sends(publisher, "PUBLISH y m");
    assert_eq!(bench.said(home), "", "it is not confirmed to whom the message is for");
    for n in 3..6 {
        assert_eq!(bench.said(n), "subscribe+x subscribe+y unsubscribe+x subscribe+x");
    }
    for n in 3..5 {
        bench.says(n, &(reply("subscribe", "x") + &message("x", "early") + &reply("subscribe", "y")));
        bench.says(n, &(message("y", "early") + &reply("unsubscribe", "x") + &reply("subscribe", "x")));
        assert_eq!(bench.hears(client), "");
    }
    bench.says(5, &reply("subscribe", "x"));
    assert_eq!(bench.hears(client), "*3|$9|subscribe|$1|x|:1|");
    assert_eq!(bench.said(home), "");
    bench.says(5, &reply("subscribe", "y"));
    assert_eq!(bench.hears(client), format!("*3|$9|subscribe|$1|y|:2|{}", message("y", "early").repeat(2)));
    assert_eq!(bench.said(home), "publish+y+m");
    bench.says(5, &(message("x", "early") + &message("y", "m")));
    assert_eq!(bench.hears(client), message("y", "m"), "x is not confirmed the second time");
    bench.says(5, &reply("unsubscribe", "x"));
    assert_eq!(bench.hears(client), "*3|$11|unsubscribe|$1|x|:1|");
    bench.says(5, &reply("subscribe", "x"));
    let early = message("x", "early").repeat(3);
    assert_eq!(bench.hears(client), format!("*3|$9|subscribe|$1|x|:2|{early}*2|$4|pong|$0||"));
}

#[test]
fn a_subscriber_that_does_not_read_is_closed() {
    let limits = OutputLimits { hard_bytes_max: 2000, soft_bytes_max: 500, soft_time: 60 * SECOND };
    let mut bench = Bench::with(Options { subscribers: limits, ..Options::default() });
    let (hard, soft, reads) = (bench.client(), bench.client(), bench.client());
    for client in [hard, soft, reads] {
        bench.subscribed(client, "SUBSCRIBE x");
    }
    let large = message("x", &"m".repeat(900));
    bench.says(3, &large);
    for client in [reads, soft] {
        bench.hears(client);
    }
    bench.says(3, &large);
    for client in [reads, hard] {
        bench.hears(client);
    }
    // `soft` has 900 bytes from now on and nothing comes any more.
    bench.pass(59 * SECOND);
    assert!(bench.dropped.is_empty());
    bench.pass(2 * SECOND);
    assert_eq!(bench.dropped, [soft]);
    bench.engine.client_gone(soft);
    (0..3).for_each(|_| bench.says(3, &large));
    bench.hears(reads);
    assert_eq!(bench.dropped[1..], [hard, reads], "both had not read 2,000 bytes");
    assert_eq!(bench.engine.subscribers_dropped(), 3);
}

#[test]
fn a_line_that_is_silent_is_asked_and_then_given_up() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.subscribed(client, "SUBSCRIBE x");
    bench.pass(5 * SECOND);
    assert_eq!((3..6).map(|n| bench.said(n)).collect::<Vec<_>>(), ["ping"; 3]);
    bench.says(3, "*2|$4|pong|$0||");
    bench.says(4, "*2|$4|pong|$0||");
    bench.pass(9 * SECOND);
    bench.says(3, "*2|$4|pong|$0||");
    bench.says(4, "*2|$4|pong|$0||");
    bench.pass(SECOND);
    assert_eq!(bench.said(5), "down");
    assert_ne!(bench.said(3), "down");
}

impl Bench {
    /// As `agree`, once there are lines.
    fn agree_if_any(&mut self) {
        if self.conns.len() > 3 {
            self.agree();
        }
    }
}

#[test]
fn a_transaction_that_subscribes_comes_after_what_was_asked_before() {
    let mut bench = Bench::new();
    let client = bench.client();
    let other = (0..).map(|n| format!("k{n}")).find(|key| shard(&bench, key) != 0).unwrap();
    bench.subscribed_by_somebody("x");
    bench.sends(client, &format!("GET {other}"));
    for line in ["MULTI", "SUBSCRIBE x", "EXEC"] {
        bench.sends(client, line);
    }
    if bench.said(0) == "multi exec" {
        bench.says(0, "+OK|*0|");
    }
    bench.says(4, &message("x", "m"));
    assert_eq!(bench.hears(client), "", "nothing before the reply to GET");
    bench.says(shard(&bench, &other), "$1|v|");
    bench.says(0, "+OK|*0|");
    let subscribed = "+OK|+QUEUED|*1|*3|$9|subscribe|$1|x|:1|";
    assert_eq!(bench.hears(client), format!("$1|v|{subscribed}"));
    bench.says(4, &message("x", "n"));
    assert_eq!(bench.hears(client), message("x", "n"));
}

#[test]
fn a_message_that_was_refused_is_not_the_measure_of_the_next_one() {
    let mut bench = Bench::new();
    let (first, second, publisher) = (bench.client(), bench.client(), bench.client());
    let at = shard(&bench, "x");
    bench.sends(first, "SUBSCRIBE x");
    bench.sends(publisher, "PUBLISH x m");
    assert_eq!(bench.hears(publisher), "", "it waits for the confirmation");
    bench.lost(at);
    bench.engine.conn_lost(bench.conns[at], Fault::Connect, "refused");
    bench.agree();
    assert!(bench.hears(first).contains("subscribe"));
    assert!(bench.hears(publisher).starts_with("-SHARDDOWN"));
    bench.up(at);
    bench.sends(second, "PSUBSCRIBE x");
    bench.sends(publisher, "PUBLISH x m");
    assert_eq!(bench.said(at), "", "somebody asked for it before");
    bench.agree();
    assert_eq!(bench.said(at), "publish+x+m");
}

/// What `bench`'s publisher is told when the shard of `x` counts `receivers`.
fn publishes(bench: &mut Bench, publisher: u32, receivers: u32) -> String {
    let home = shard(bench, "x");
    bench.said(home);
    bench.sends(publisher, "PUBLISH x m");
    assert_eq!(bench.said(home), "publish+x+m");
    bench.says(home, &format!(":{receivers}|"));
    bench.hears(publisher)
}

#[test]
fn subscribers_of_a_worker_that_does_not_hear_a_shard_are_no_receivers() {
    let board = Arc::new(Board::default());
    let with = |worker| Bench::with(Options { worker, board: Some(board.clone()), ..Options::default() });
    let (mut here, mut there) = (with(0), with(1));
    let publisher = here.client();
    let home = shard(&here, "x");
    let subscriber = there.client();
    there.sends(subscriber, "SUBSCRIBE x");
    for line in ["SUBSCRIBE x", "PSUBSCRIBE ?"] {
        let subscriber = there.client();
        there.sends(subscriber, line);
        let subscriber = there.client();
        there.sends(subscriber, line);
    }
    assert_eq!(publishes(&mut here, publisher, 0), ":0|", "not connected yet");
    there.agree();
    assert_eq!(publishes(&mut here, publisher, 2), ":5|");
    there.lost(3 + home);
    assert_eq!(publishes(&mut here, publisher, 0), ":0|");
    // Another shard's loss is none of this one's.
    there.lost(3 + (home + 1) % 3);
    there.up(3 + home);
    assert_eq!(publishes(&mut here, publisher, 0), ":0|", "asked for, not confirmed");
    there.says(3 + home, &reply("subscribe", "x"));
    there.says(3 + home, &reply("psubscribe", "?"));
    assert_eq!(publishes(&mut here, publisher, 2), ":5|");
}

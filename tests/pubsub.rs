//! The promise about messages: a subscriber hears every shard, each message once, nothing before its
//! confirmation; a shard that went away is heard again; who does not read hurts nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Guard, PATIENCE, Proxy, Redis, Value, poll, shards, until};

const QUIET: Duration = Duration::from_millis(60);

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

/// The texts of a pushed array's elements.
fn words(value: &Value) -> Vec<String> {
    value.elements().iter().map(Value::text).collect()
}

/// The next message's payload; panics on anything that is none.
fn payload(client: &mut Client) -> String {
    let message = client.reply();
    let words = words(&message);
    assert!(["message", "pmessage", "smessage"].contains(&words[0].as_str()), "{message:?}");
    words.last().unwrap().clone()
}

/// A client that is subscribed.
fn subscriber(proxy: &Proxy, args: &[&str]) -> Client {
    let mut client = proxy.client();
    client.send(args);
    client.replies(args.len() - 1);
    client
}

/// Publishes on the shard of `key`, as a script does.
fn publish_there(client: &mut Client, key: &str, channel: &str, payload: &str) -> Value {
    client.call(&["EVAL", "return redis.call('PUBLISH', ARGV[1], ARGV[2])", "1", key, channel, payload])
}

// What is said, to the byte.

/// The same conversation with a plain server and with the proxy; each line is sent after the replies
/// to the one before, and has that many.
fn same(lines: &[(&str, usize)]) {
    let (plain, proxy) = (Redis::start(), proxy());
    for hello in [None, Some("3")] {
        let mut clients = [plain.client(), proxy.client()];
        if hello.is_some() {
            clients = clients.map(Client::resp3);
        }
        for (line, count) in lines {
            let args = line.split(' ').collect::<Vec<_>>();
            let replies = clients.each_mut().map(|client| {
                client.send(&args);
                client.replies(*count)
            });
            let [wanted, got] = replies.map(|replies| {
                // Redis ends all subscriptions in the order of its hash table.
                let ends_all = args.len() == 1 && args[0].ends_with("UNSUBSCRIBE");
                let mut lines = replies.iter().map(|reply| format!("{reply:?}")).collect::<Vec<_>>();
                if ends_all {
                    lines = replies.iter().map(|reply| words(reply)[1].clone()).collect();
                    lines.sort();
                }
                lines
            });
            assert_eq!(got, wanted, "{line} with HELLO {hello:?}");
        }
        for client in &mut clients {
            assert!(client.silent_for(QUIET), "more was said than asked");
        }
    }
}

#[test]
fn a_conversation_is_the_same_as_with_a_plain_redis() {
    same(&[
        ("UNSUBSCRIBE", 1),
        ("PUNSUBSCRIBE", 1),
        ("SUNSUBSCRIBE", 1),
        ("UNSUBSCRIBE never", 1),
        ("SUBSCRIBE said:one said:two said:one", 3),
        ("PSUBSCRIBE said:o* said:t?o said:[n]* said:none", 4),
        ("SSUBSCRIBE said:one", 1),
        ("SUBSCRIBE said:three", 1),
        ("UNSUBSCRIBE said:two never", 2),
        ("PUNSUBSCRIBE said:none", 1),
        ("UNSUBSCRIBE", 2),
        ("PUNSUBSCRIBE", 3),
        ("SUNSUBSCRIBE", 1),
        ("PING", 1),
        ("ECHO ordinary-again", 1),
        ("SUBSCRIBE x", 1),
        ("RESET", 1),
        ("PING", 1),
    ]);
}

#[test]
fn a_subscribed_client_of_resp2_may_only_subscribe() {
    let (plain, proxy) = (Redis::start(), proxy());
    for subscribe in ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"] {
        let mut clients = [plain.client(), proxy.client()];
        for line in [
            &format!("{subscribe} c") as &str,
            "GET k",
            "PING",
            "PING with",
            "PING a b",
            "PUBLISH c x",
            "MULTI",
            "EXEC",
            "HELLO 3",
            "CLIENT ID",
            "CONFIG GET maxmemory",
            "NOSUCH",
            "SET k",
            "SELECT 1",
            "AUTH x",
            "RESET",
            "GET k",
        ] {
            let args = line.split(' ').collect::<Vec<_>>();
            let [wanted, got] = clients.each_mut().map(|client| client.call(&args));
            assert_eq!(got, wanted, "{line} after {subscribe}");
        }
    }
    let mut client = subscriber(&proxy, &["SUBSCRIBE", "c"]);
    assert_eq!(client.call(&["QUIT"]), Value::ok());
    assert!(client.closed());
}

// Every shard is heard.

#[test]
fn what_a_script_publishes_on_any_shard_arrives_once_in_its_order() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let subscribers = [proxy.client(), proxy.client().resp3()];
    for (mut client, kind) in subscribers.into_iter().zip(["RESP2", "RESP3"]) {
        client.send(&["SUBSCRIBE", "from-scripts"]);
        let is_push = |value: &Value| matches!(value, Value::Push(_));
        assert_eq!(is_push(&client.reply()), kind == "RESP3");
        let mut publisher = proxy.client();
        for at in 0..60 {
            publish_there(&mut publisher, &keys[at % 3], "from-scripts", &format!("{}:{at}", at % 3));
        }
        let mut last = BTreeMap::new();
        for _ in 0..60 {
            let message = client.reply();
            assert_eq!(is_push(&message), kind == "RESP3", "{message:?}");
            let text = words(&message)[2].clone();
            let (shard, at) = text.split_once(':').unwrap();
            let at = at.parse::<i32>().unwrap();
            let before = last.insert(shard.to_owned(), at);
            assert!(before.is_none_or(|before| before < at), "shard {shard}: {before:?} then {at}");
        }
        assert!(client.silent_for(QUIET), "a message came twice");
        println!("{kind}: messages of 3 shards, each once: 60");
    }
}

#[test]
fn keyspace_events_of_all_shards_arrive_once() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client();
    assert_eq!(client.call(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]), Value::ok());
    let mut events = subscriber(&proxy, &["PSUBSCRIBE", "__keyevent@0__:set"]);
    let mut space = subscriber(&proxy, &["PSUBSCRIBE", "__keyspace@0__:event:*"]);
    let mut one = subscriber(&proxy, &["SUBSCRIBE", "__keyspace@2__:event:7"]);
    let keys = (0..60).map(|at| format!("event:{at}")).collect::<BTreeSet<_>>();
    for key in &keys {
        client.call(&["SET", key, "x"]);
    }
    let heard = (0..60).map(|_| payload(&mut events)).collect::<BTreeSet<_>>();
    assert_eq!(heard, keys);
    let heard = (0..60).map(|_| words(&space.reply())[2].clone()).collect::<BTreeSet<_>>();
    assert_eq!(heard, keys.iter().map(|key| format!("__keyspace@0__:{key}")).collect());
    client.call(&["SELECT", "2"]);
    client.call(&["SET", "event:7", "x"]);
    assert_eq!(payload(&mut one), "set");
    assert!([&mut events, &mut space, &mut one].into_iter().all(|client| client.silent_for(QUIET)));
    println!("keyspace events of 3 shards, each once: 120");
}

#[test]
fn a_client_with_a_pattern_and_the_channel_hears_both() {
    let proxy = proxy();
    let mut client = subscriber(&proxy, &["SUBSCRIBE", "news.art"]);
    client.call(&["PSUBSCRIBE", "news.*"]);
    client.call(&["PSUBSCRIBE", "n?ws.[a-c]*"]);
    let mut publisher = proxy.client();
    assert_eq!(publisher.call(&["PUBLISH", "news.art", "one"]), Value::Int(3));
    let mut kinds = client.replies(3).iter().map(|message| words(message).join(" ")).collect::<Vec<_>>();
    kinds.sort();
    let wanted = ["message news.art one", "pmessage n?ws.[a-c]* news.art one", "pmessage news.* news.art one"];
    assert_eq!(kinds, wanted);
    assert_eq!(publisher.call(&["PUBLISH", "news.bus", "two"]), Value::Int(2));
    assert_eq!(publisher.call(&["PUBLISH", "news.xyz", "three"]), Value::Int(1));
    assert_eq!(publisher.call(&["PUBLISH", "other", "four"]), Value::Int(0));
    client.replies(3);
    assert!(client.silent_for(QUIET));
}

#[test]
fn shard_channels_are_apart_from_channels() {
    let proxy = proxy();
    let mut sharded = subscriber(&proxy, &["SSUBSCRIBE", "apart"]);
    let mut plain = subscriber(&proxy, &["SUBSCRIBE", "apart"]);
    let mut publisher = proxy.client();
    assert_eq!(publisher.call(&["SPUBLISH", "apart", "s"]), Value::Int(1));
    assert_eq!(publisher.call(&["PUBLISH", "apart", "p"]), Value::Int(1));
    assert_eq!(words(&sharded.reply()), ["smessage", "apart", "s"]);
    assert_eq!(words(&plain.reply()), ["message", "apart", "p"]);
    assert_eq!(publisher.call(&["PUBSUB", "SHARDCHANNELS", "apar?"]).elements().len(), 1);
    assert_eq!(words(&publisher.call(&["PUBSUB", "SHARDNUMSUB", "apart"])), ["apart", "1"]);
}

/// Values too large for one copy come as they were sent, also to many.
#[test]
fn a_large_message_arrives_whole() {
    let proxy = proxy();
    let mut all = (0..3).map(|_| subscriber(&proxy, &["SUBSCRIBE", "large"])).collect::<Vec<_>>();
    let mut modern = proxy.client().resp3();
    modern.call(&["SUBSCRIBE", "large"]);
    all.push(modern);
    let body = "0123456789abcdef".repeat(40_000);
    assert_eq!(proxy.client().call(&["PUBLISH", "large", &body]), Value::Int(4));
    assert!(all.iter_mut().all(|client| payload(client) == body));
}

// Confirmations and order.

#[test]
fn nothing_comes_before_the_confirmation_and_nothing_is_missed_after_it() {
    let proxy = proxy();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = proxy.client();
            for at in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                publisher.call(&["PUBLISH", "stream", &at.to_string()]);
            }
        });
        let mut gaps = 0;
        for round in 0..100 {
            let mut client = if round % 2 == 0 { proxy.client() } else { proxy.client().resp3() };
            assert_eq!(words(&client.call(&["SUBSCRIBE", "stream"])), ["subscribe", "stream", "1"]);
            let mut expected = None;
            for _ in 0..10 {
                let at = payload(&mut client).parse::<u64>().unwrap();
                gaps += u64::from(expected.is_some_and(|expected| expected != at));
                expected = Some(at + 1);
            }
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(gaps, 0, "messages were lost or came twice");
        println!("subscriptions into a running stream: 100, gaps {gaps}");
    });
}

/// What is published after the confirmation was read arrives, on whichever shard.
#[test]
fn what_is_published_after_the_confirmation_arrives() {
    let proxy = proxy();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut publisher = proxy.client();
    for round in 0..60 {
        let channel = format!("fresh:{round}");
        let mut client = subscriber(&proxy, &["SUBSCRIBE", &channel]);
        assert_eq!(publish_there(&mut publisher, &keys[round % 3], &channel, "now"), Value::Int(1), "round {round}");
        assert_eq!(payload(&mut client), "now");
    }
}

/// Who does not wait for the confirmation, and tells others to publish, is heard by a single server all
/// the same.
#[test]
fn what_is_published_behind_a_subscription_under_way_arrives() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut publisher = proxy.client();
    for round in 0..200 {
        let channel = format!("under way:{round}");
        let mut client = proxy.client();
        assert_eq!(client.call(&["PING"]).text(), "PONG");
        // While a server is still in the middle of writing that, the kernel keeps what comes on the same
        // connection aside, and other connections' requests overtake it.
        publisher.call(&["PING"]);
        let (verb, name) =
            if round % 2 == 0 { ("SUBSCRIBE", channel.clone()) } else { ("PSUBSCRIBE", format!("{channel}*")) };
        // Nor for those of subscriptions before it.
        for other in 0..4 {
            client.send(&["SUBSCRIBE", &format!("other:{round}:{other}")]);
        }
        client.send(&[verb, &name]);
        assert_eq!(publisher.call(&["PUBLISH", &channel, "x"]), Value::Int(1), "round {round}");
        (0..5).for_each(|_| _ = client.reply());
        assert_eq!(payload(&mut client), "x", "round {round}");
    }
}

#[test]
fn each_publishers_messages_keep_their_order() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).start();
    let channels = ["c:0", "c:1", "c:2", "c:3", "c:4"];
    let mut all = [&["SUBSCRIBE"][..], &channels].concat();
    let mut by_channel = subscriber(&proxy, &all);
    all = vec!["PSUBSCRIBE", "c:*"];
    let mut by_pattern = subscriber(&proxy, &all);
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = proxy.client();
                let message = |at: usize| {
                    let text = format!("{publisher} {at}");
                    vec![b"PUBLISH".to_vec(), channels[at % 5].into(), text.into_bytes()]
                };
                let replies = client.pipeline(&(0..500).map(message).collect::<Vec<_>>());
                assert!(replies.iter().all(|reply| *reply == Value::Int(2)), "{replies:?}");
            });
        }
    });
    for (client, channel_at) in [(&mut by_channel, 1), (&mut by_pattern, 2)] {
        let (mut last, mut newest, mut crossed) = (BTreeMap::new(), BTreeMap::new(), 0);
        for _ in 0..2_000 {
            let words = words(&client.reply());
            let (publisher, at) = words[channel_at + 1].split_once(' ').unwrap();
            let at = at.parse::<i32>().unwrap();
            let before = last.insert((publisher.to_owned(), words[channel_at].clone()), at);
            assert!(before.is_none_or(|before| before + 5 == at), "{words:?} after {before:?}");
            let newest = newest.entry(publisher.to_owned()).or_insert(-1);
            crossed += i32::from(at < *newest);
            *newest = at.max(*newest);
        }
        assert!(client.silent_for(QUIET));
        println!("messages in their publisher's order on each channel: 2000; overtaken across channels: {crossed}");
    }
}

// Counts.

#[test]
fn publish_and_pubsub_count_the_clients() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client();
    assert_eq!(client.call(&["PUBLISH", "counted:1", "x"]), Value::Int(0));
    let mut all = Vec::new();
    for n in 1..=5 {
        all.push(subscriber(&proxy, &["SUBSCRIBE", "counted:1", "counted:2"]));
        assert_eq!(client.call(&["PUBLISH", "counted:1", "x"]), Value::Int(n));
    }
    all.push(subscriber(&proxy, &["PSUBSCRIBE", "counted:*", "unrelated*"]));
    all.push(subscriber(&proxy, &["PSUBSCRIBE", "counted:*"]));
    assert_eq!(client.call(&["PUBLISH", "counted:2", "x"]), Value::Int(7));
    let numbers = words(&client.call(&["PUBSUB", "NUMSUB", "counted:1", "none", "counted:2"]));
    assert_eq!(numbers, ["counted:1", "5", "none", "0", "counted:2", "5"]);
    assert_eq!(client.call(&["PUBSUB", "NUMSUB"]), Value::Array(Vec::new()));
    assert_eq!(client.call(&["PUBSUB", "NUMPAT"]), Value::Int(2));
    let mut names = words(&client.call(&["PUBSUB", "CHANNELS"]));
    names.sort();
    assert_eq!(names, ["counted:1", "counted:2"]);
    assert_eq!(words(&client.call(&["PUBSUB", "CHANNELS", "*2"])), ["counted:2"]);
    // A direct client of the shard is counted too.
    let channel_shard = shards.iter().find(|shard| {
        let reply = shard.client().call(&["PUBLISH", "counted:1", "direct"]);
        reply.int() > 0
    });
    assert!(channel_shard.is_some());
    all.truncate(2);
    until("the others are gone", || client.call(&["PUBLISH", "counted:1", "x"]) == Value::Int(2));
    assert_eq!(client.call(&["PUBSUB", "NUMPAT"]), Value::Int(0));
    drop(all);
    until("all are gone", || client.call(&["PUBLISH", "counted:1", "x"]) == Value::Int(0));
    until("the servers know", || {
        shards.iter().all(|shard| shard.client().call(&["PUBSUB", "CHANNELS"]).elements().is_empty())
    });
}

#[test]
fn who_unsubscribed_hears_nothing_and_others_do() {
    let proxy = proxy();
    let mut leaving = subscriber(&proxy, &["SUBSCRIBE", "left", "kept"]);
    let mut staying = subscriber(&proxy, &["SUBSCRIBE", "left"]);
    let mut resetting = subscriber(&proxy, &["PSUBSCRIBE", "lef*"]);
    let mut publisher = proxy.client();
    assert_eq!(words(&leaving.call(&["UNSUBSCRIBE", "left"])), ["unsubscribe", "left", "1"]);
    assert_eq!(publisher.call(&["PUBLISH", "left", "1"]), Value::Int(2));
    assert_eq!(payload(&mut resetting), "1");
    assert_eq!(resetting.call(&["RESET"]), Value::Simple(b"RESET".to_vec()));
    assert_eq!(publisher.call(&["PUBLISH", "left", "2"]), Value::Int(1));
    assert_eq!(publisher.call(&["PUBLISH", "kept", "3"]), Value::Int(1));
    assert_eq!([payload(&mut staying), payload(&mut staying)], ["1", "2"]);
    assert_eq!(payload(&mut leaving), "3");
    assert!([&mut leaving, &mut staying, &mut resetting].into_iter().all(|client| client.silent_for(QUIET)));
    assert!(resetting.call(&["GET", "left"]).is_null());
}

#[test]
fn a_subscribed_client_of_resp3_goes_on_asking() {
    let proxy = proxy();
    let mut client = proxy.client().resp3();
    client.call(&["SUBSCRIBE", "own"]);
    let requests = (0..200).map(|at| match at % 2 {
        0 => vec![b"SET".to_vec(), format!("own:{at}").into_bytes(), at.to_string().into_bytes()],
        _ => vec![b"PUBLISH".to_vec(), b"own".to_vec(), at.to_string().into_bytes()],
    });
    let requests = requests.collect::<Vec<_>>();
    client.send_raw(&requests.iter().flat_map(|args| support::request(args)).collect::<Vec<_>>());
    let (pushed, replies): (Vec<_>, Vec<_>) =
        client.replies(300).into_iter().partition(|value| matches!(value, Value::Push(_)));
    assert_eq!(pushed.len(), 100);
    assert_eq!(replies.len(), 200);
    for (at, reply) in replies.iter().enumerate() {
        assert_eq!(*reply, if at % 2 == 0 { Value::ok() } else { Value::Int(1) }, "reply {at}");
    }
    let order = pushed.iter().map(|message| words(message)[2].parse::<i32>().unwrap()).collect::<Vec<_>>();
    assert!(order.is_sorted(), "{order:?}");
}

// Shards that go and come.

/// Publishes on the shard of `key` until it is heard, and then a few times more.
fn heard_again(publisher: &mut Client, client: &mut Client, key: &str) {
    let back = Instant::now();
    let first = poll(PATIENCE, || {
        let sent = back.elapsed().as_nanos().to_string();
        let reply = publish_there(publisher, key, "through", &sent);
        (reply.int_or(0) > 0).then_some(sent)
    });
    let first = first.expect("the shard never heard of the subscription");
    assert_eq!(payload(client), first);
    for at in 0..20 {
        publish_there(publisher, key, "through", &format!("again:{at}"));
        assert_eq!(payload(client), format!("again:{at}"));
    }
    println!("heard again after {:?}", back.elapsed());
}

trait OrElse {
    fn int_or(&self, other: i64) -> i64;
}

impl OrElse for Value {
    fn int_or(&self, other: i64) -> i64 {
        if let Value::Int(n) = self { *n } else { other }
    }
}

#[test]
fn subscriptions_outlive_a_shards_restart() {
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut client = subscriber(&proxy, &["SUBSCRIBE", "through"]);
    let mut pattern = subscriber(&proxy, &["PSUBSCRIBE", "throug[h]"]);
    let mut sharded = subscriber(&proxy, &["SSUBSCRIBE", "through"]);
    let mut publisher = proxy.client();
    for round in 0..2 {
        shards[1].kill();
        publish_there(&mut publisher, &keys[0], "through", "meanwhile");
        assert_eq!(payload(&mut client), "meanwhile", "round {round}");
        assert_eq!(payload(&mut pattern), "meanwhile", "round {round}");
        shards[1].restart();
        heard_again(&mut publisher, &mut client, &keys[1]);
        for _ in 0..21 {
            payload(&mut pattern);
        }
        assert!(client.silent_for(QUIET) && pattern.silent_for(QUIET), "a message came twice");
        let direct = || shards[1].client().call(&["SPUBLISH", "through", "s"]);
        until("the shard channel is restored", || direct() == Value::Int(1));
        assert_eq!(payload(&mut sharded), "s");
    }
}

#[test]
fn subscribing_works_while_a_shard_is_down() {
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).expect_log("backend").start();
    let keys = proxy.keys_by_shard(3, 1).concat();
    let mut publisher = proxy.client();
    shards[2].kill();
    until("the loss is noticed", || publisher.call(&["GET", &keys[2]]).error_word() == "SHARDDOWN");
    let asked = Instant::now();
    let mut client = subscriber(&proxy, &["SUBSCRIBE", "through"]);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    publish_there(&mut publisher, &keys[0], "through", "0");
    publish_there(&mut publisher, &keys[1], "through", "1");
    let heard = [payload(&mut client), payload(&mut client)].into_iter().collect::<BTreeSet<_>>();
    assert_eq!(heard.len(), 2);
    // Another one, while the first one's subscription is not there yet.
    let mut second = subscriber(&proxy, &["SUBSCRIBE", "through"]);
    second.call(&["UNSUBSCRIBE", "through"]);
    shards[2].restart();
    heard_again(&mut publisher, &mut client, &keys[2]);
    assert!(second.silent_for(QUIET));
    assert!(client.silent_for(QUIET));
}

/// A shard that hangs delays a confirmation by the timeout at most.
#[test]
fn subscribing_does_not_wait_for_a_paused_shard_for_ever() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).timeout("request", "400ms").expect_log("backend").start();
    let _ = subscriber(&proxy, &["SUBSCRIBE", "before"]);
    shards[0].pause();
    let asked = Instant::now();
    let _client = subscriber(&proxy, &["SUBSCRIBE", "paused"]);
    let took = asked.elapsed();
    shards[0].resume();
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    println!("confirmed beside a paused shard after {took:?}");
}

// Those who do not read.

/// One subscriber never reads; another one and an ordinary client notice nothing.
fn cut_off(proxy: &Proxy, bytes: usize, count: usize) {
    let mut lazy = subscriber(proxy, &["SUBSCRIBE", "flood"]);
    let mut busy = subscriber(proxy, &["SUBSCRIBE", "flood"]);
    let body = "x".repeat(bytes);
    let (mut publisher, mut other) = (proxy.client(), proxy.client());
    let mut slowest = Duration::ZERO;
    let mut receivers = 2;
    for at in 0..count {
        receivers = publisher.call(&["PUBLISH", "flood", &body]).int();
        assert_eq!(payload(&mut busy).len(), bytes);
        let asked = Instant::now();
        assert_eq!(other.call(&["SET", &format!("calm:{at}"), "x"]), Value::ok());
        slowest = slowest.max(asked.elapsed());
    }
    until("the lazy one is cut off", || {
        receivers = publisher.call(&["PUBLISH", "flood", "small"]).int();
        assert_eq!(payload(&mut busy), "small");
        receivers == 1
    });
    // It may still read what its socket holds, then it is over.
    let end = loop {
        match lazy.try_reply() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_ne!(end.kind(), std::io::ErrorKind::TimedOut, "the lazy one is still connected");
    assert!(slowest < Duration::from_secs(1), "another client waited {slowest:?}");
    println!("cut off after {count} messages of {bytes} bytes; another client waited {slowest:?} at most");
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_at_the_hard_limit() {
    let shards = shards(3);
    let limits = "[limits]\nsubscriber_output_hard_bytes_max = \"1MiB\"\nsubscriber_output_soft_bytes_max = \"1MiB\"";
    let proxy = Proxy::over(&shards).extra(limits).start();
    cut_off(&proxy, 128 << 10, 160);
}

#[test]
fn a_subscriber_over_the_soft_limit_is_cut_off_in_time() {
    let shards = shards(3);
    let limits = "[limits]\nsubscriber_output_hard_bytes_max = \"1GiB\"\nsubscriber_output_soft_bytes_max = \"64KiB\"";
    let proxy = Proxy::over(&shards).extra(limits).timeout("subscriber_output", "300ms").start();
    cut_off(&proxy, 128 << 10, 120);
}

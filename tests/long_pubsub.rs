//! The promise about messages at the size of a real application: a thousand subscribers hear each
//! message once and in its publisher's order, one that does not read harms nobody, and a shard that
//! dies costs what is published there meanwhile and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Over, PATIENCE, Proxy, Value, interval, shards, until};

const SUBSCRIBERS: usize = 1_000;
const CHANNELS: usize = 10;
const PATTERNS: usize = 5;
const PUBLISHERS: usize = 4;
const MESSAGES: usize = 10_000;

/// Channel `c` matches pattern `c % PATTERNS`, and so do two channels for each pattern.
fn pattern(at: usize) -> String {
    format!("many:[{at}{}]", at + PATTERNS)
}

/// The subscriptions of subscriber `at`.
fn subscriber(proxy: &Proxy, at: usize) -> Client {
    let mut client = patient(proxy);
    client.call(&["SUBSCRIBE", &channel(at % CHANNELS)]);
    client.call(&["PSUBSCRIBE", &pattern(at % PATTERNS)]);
    client
}

/// A thousand clients on two processors take their time.
fn patient(proxy: &Proxy) -> Client {
    proxy.client().patience(PATIENCE * 5)
}

fn channel(at: usize) -> String {
    format!("many:{at}")
}

/// Who hears a message: a tenth by the channel, a fifth by its pattern.
const RECEIVERS: i64 = (SUBSCRIBERS / CHANNELS + SUBSCRIBERS / PATTERNS) as i64;

/// What one subscriber heard, as `subscription > channel`, by publisher: how many, and whether in order.
#[derive(Default, PartialEq, Debug)]
struct Heard(BTreeMap<(String, usize), Vec<usize>>);

impl Heard {
    fn take(&mut self, message: &Value) {
        let words: Vec<String> = message.elements().iter().map(Value::text).collect();
        let (by, body) = (words[..words.len() - 1].join(" "), &words[words.len() - 1]);
        let (publisher, number) = body.split_once(':').unwrap();
        self.0.entry((by, publisher.parse().unwrap())).or_default().push(number.parse().unwrap());
    }

    /// What subscriber `at` has to hear, message by message.
    fn wanted(at: usize) -> Self {
        let mut wanted = Self::default();
        for number in 0..MESSAGES {
            let (channel, publisher) = (number % CHANNELS, number / CHANNELS % PUBLISHERS);
            if channel == at % CHANNELS {
                wanted.0.entry((format!("message many:{channel}"), publisher)).or_default().push(number);
            }
            if channel % PATTERNS == at % PATTERNS {
                let by = format!("pmessage {} many:{channel}", pattern(at % PATTERNS));
                wanted.0.entry((by, publisher)).or_default().push(number);
            }
        }
        wanted
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

fn message(channel: usize, publisher: usize, number: usize) -> Value {
    let channel = format!("many:{channel}");
    Value::Array(vec![Value::bulk("message"), Value::bulk(channel), Value::bulk(format!("{publisher}:{number}"))])
}

/// A checker that would not notice is worth nothing.
#[test]
fn lost_doubled_and_swapped_messages_are_noticed() {
    let hear = |numbers: &[usize]| {
        let mut heard = Heard::default();
        numbers.iter().for_each(|number| heard.take(&message(3, 1, *number)));
        heard
    };
    assert_eq!(hear(&[1, 2, 3]), hear(&[1, 2, 3]));
    assert!([&[1, 3][..], &[1, 2, 2, 3], &[2, 1, 3], &[1, 2, 4]].iter().all(|wrong| hear(wrong) != hear(&[1, 2, 3])));
}

#[test]
fn a_thousand_subscribers_hear_each_message_once_and_in_order() {
    let shards = shards(3);
    let limits = "[limits]\nsubscriber_output_hard_bytes_max = \"8MiB\"";
    let proxy = Proxy::over(&shards).threads(2).extra(limits).timeout("subscriber_output", "10m").start();
    let mut all: Vec<Client> = (0..SUBSCRIBERS).map(|at| subscriber(&proxy, at)).collect();
    // One that never reads: everything and a flood of its own beside it.
    let mut lazy = patient(&proxy);
    lazy.call(&["PSUBSCRIBE", "many:*"]);
    lazy.call(&["SUBSCRIBE", "flood"]);
    let began = Instant::now();
    let heard = std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let mut client = patient(&proxy);
            scope.spawn(move || {
                let mine = (0..MESSAGES).filter(|number| number / CHANNELS % PUBLISHERS == publisher);
                for number in mine {
                    let body = format!("{publisher}:{number}");
                    let receivers = client.call(&["PUBLISH", &channel(number % CHANNELS), &body]).int();
                    // Perhaps also the lazy one.
                    assert!((RECEIVERS..=RECEIVERS + 1).contains(&receivers), "{receivers} receivers");
                }
            });
        }
        let mut flooder = patient(&proxy);
        scope.spawn(move || {
            // The kernel keeps some tens of MiB for it.
            let body = "x".repeat(64 << 10);
            let flooded = (0..4_000).take_while(|_| flooder.call(&["PUBLISH", "flood", &body]).int() > 0).count();
            assert!(flooded < 4_000, "the one that does not read is still there");
        });
        let readers = all.chunks_mut(SUBSCRIBERS / 4).enumerate().map(|(chunk, clients)| {
            scope.spawn(move || {
                let mut total = 0;
                for (at, client) in clients.iter_mut().enumerate() {
                    let wanted = Heard::wanted(chunk * SUBSCRIBERS / 4 + at);
                    let mut heard = Heard::default();
                    (0..wanted.count()).for_each(|_| heard.take(&client.reply()));
                    assert_eq!(heard, wanted);
                    total += heard.count();
                }
                total
            })
        });
        let readers = readers.collect::<Vec<_>>();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>()
    });
    println!("{SUBSCRIBERS} subscribers heard {heard} messages in {:?}", began.elapsed());
    assert_eq!(heard, SUBSCRIBERS * (MESSAGES / CHANNELS + 2 * MESSAGES / CHANNELS));
    let more =
        all.iter_mut().step_by(50).filter_map(|client| client.silent_for(Duration::from_millis(5)).then_some(()));
    assert_eq!(more.count(), SUBSCRIBERS / 50, "somebody heard more");
    let mut client = patient(&proxy);
    until("the lazy one is gone", || client.call(&["PUBLISH", "flood", "x"]) == Value::Int(0));
}

/// What became of a message, as its publisher was told.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Told {
    /// Every subscriber is among the receivers.
    Received,
    /// It was not executed.
    Refused,
    /// The shard died behind it, or is late, or is back and not all have subscribed to it again.
    Unknown,
}

impl Told {
    fn of(reply: &Value) -> Self {
        match reply {
            Value::Int(RECEIVERS) => Self::Received,
            Value::Int(0..RECEIVERS) => Self::Unknown,
            reply => match reply.error_word().as_str() {
                "SHARDDOWN" => Self::Refused,
                "SHARDLOST" | "SHARDTIMEOUT" => Self::Unknown,
                _ => panic!("{reply:?}"),
            },
        }
    }
}

/// What is wrong with what a subscriber heard of one publisher on one channel, message by message.
fn judge(told: &BTreeMap<usize, Told>, heard: &[usize]) -> Result<(), String> {
    if let Some(pair) = heard.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("{} after {}", pair[1], pair[0]));
    }
    // Who publishes may be told before subscribers are, and the shard die between the two.
    let next = told.values().skip(1).chain([&Told::Received]);
    for ((number, told), next) in told.iter().zip(next) {
        match (told, heard.binary_search(number).is_ok()) {
            (Told::Received, false) if *next != Told::Received => {}
            (Told::Received, false) => return Err(format!("{number} was lost")),
            (Told::Refused, true) => return Err(format!("{number} was refused and heard")),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn what_was_told_and_what_was_heard_are_compared() {
    let told = [Told::Received, Told::Received, Told::Refused, Told::Unknown, Told::Received];
    let told = told.into_iter().enumerate().collect();
    for fine in [&[0, 1, 4][..], &[0, 1, 3, 4], &[0, 4]] {
        assert_eq!(judge(&told, fine), Ok(()));
    }
    let wrong = |heard: &[usize], what: &str| assert_eq!(judge(&told, heard), Err(what.to_owned()));
    wrong(&[1, 4], "0 was lost");
    wrong(&[0, 1], "4 was lost");
    wrong(&[0, 1, 2, 4], "2 was refused and heard");
    wrong(&[0, 1, 4, 4], "4 after 4");
    wrong(&[0, 1, 4, 3], "3 after 4");
}

/// How often each of the shards dies.
const DEATHS: usize = 2;
/// Rounds of messages, one to each channel, between a shard's return and the next death.
const ROUNDS_BETWEEN: usize = 20;
/// The number of the last round: it is published when all shards are back.
const LAST: usize = usize::MAX;

/// Publishes on all channels, round by round, until one round after `over`.
fn publish(proxy: &Proxy, publisher: usize, rounds: &AtomicUsize, over: &AtomicBool) -> Vec<BTreeMap<usize, Told>> {
    let mut client = patient(proxy);
    let mut told = vec![BTreeMap::new(); CHANNELS];
    loop {
        let round = if over.load(Ordering::Relaxed) { LAST } else { rounds.load(Ordering::Relaxed) };
        for (at, told) in told.iter_mut().enumerate() {
            let reply = client.call(&["PUBLISH", &channel(at), &format!("{publisher}:{round}")]);
            told.insert(round, Told::of(&reply));
        }
        if round == LAST {
            return told;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        interval(Duration::from_millis(5));
    }
}

/// All that a subscriber hears, up to every publisher's last round.
fn hear(client: &mut Client) -> Heard {
    let mut heard = Heard::default();
    // By its channel, and by its pattern on two of them.
    let mut open = 3 * PUBLISHERS;
    while open > 0 {
        let message = client.reply();
        open -= usize::from(message.elements().last().unwrap().text().ends_with(&LAST.to_string()));
        heard.take(&message);
    }
    heard
}

#[test]
fn a_shard_that_dies_costs_what_is_published_there_meanwhile_and_nothing_else() {
    let mut shards = shards(3);
    let proxy = Proxy::over(&shards).threads(2).expect_log("backend").start();
    let mut all: Vec<Client> = (0..SUBSCRIBERS).map(|at| subscriber(&proxy, at)).collect();
    let homes: Vec<usize> = (0..CHANNELS).map(|at| proxy.place(&channel(at))).collect();
    let (rounds, over) = ([const { AtomicUsize::new(0) }; PUBLISHERS], AtomicBool::new(false));
    let (told, heard) = std::thread::scope(|scope| {
        let (proxy, over) = (&proxy, &over);
        let publishers = rounds.iter().enumerate();
        let publishers = publishers.map(|(at, rounds)| scope.spawn(move || publish(proxy, at, rounds, over)));
        let publishers = publishers.collect::<Vec<_>>();
        let readers = all.chunks_mut(SUBSCRIBERS / 4);
        let readers = readers.map(|clients| scope.spawn(|| clients.iter_mut().map(hear).collect::<Vec<_>>()));
        let readers = readers.collect::<Vec<_>>();
        // Also when something is wrong: everybody's end waits for it.
        let ends = Over(over);
        let mut watcher = patient(proxy);
        for death in 0..DEATHS * shards.len() {
            let seen = rounds.each_ref().map(|round| round.load(Ordering::Relaxed));
            let gone = |(round, seen): (&AtomicUsize, usize)| round.load(Ordering::Relaxed) >= seen + ROUNDS_BETWEEN;
            until("everybody publishes", || rounds.iter().zip(seen).all(gone));
            let at = death % shards.len();
            shards[at].kill();
            interval(Duration::from_millis(300));
            shards[at].restart();
            let here = homes.iter().position(|home| *home == at).expect("a channel on each shard");
            let body = format!("{PUBLISHERS}:{death}");
            until("all hear the shard again", || {
                Told::of(&watcher.call(&["PUBLISH", &channel(here), &body])) == Told::Received
            });
        }
        until("every worker has every shard", || proxy.metric("ringway_backend_up") == 3.0);
        drop(ends);
        let told = publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>();
        (told, readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
    });
    let count = |what| told.iter().flatten().flat_map(BTreeMap::values).filter(|told| **told == what).count();
    println!(
        "{} deaths: {} messages received, {} refused, {} neither",
        DEATHS * shards.len(),
        count(Told::Received),
        count(Told::Refused),
        count(Told::Unknown)
    );
    assert!(count(Told::Refused) > 0);
    for (at, heard) in heard.iter().enumerate() {
        assert_eq!(heard.0.keys().filter(|(_, publisher)| *publisher < PUBLISHERS).count(), 3 * PUBLISHERS);
        for ((by, publisher), numbers) in &heard.0 {
            let channel = by.rsplit(':').next().unwrap().parse::<usize>().unwrap();
            // The watcher's are not counted.
            let Some(told) = told.get(*publisher) else { continue };
            judge(&told[channel], numbers)
                .unwrap_or_else(|wrong| panic!("subscriber {at}, {by}, publisher {publisher}: {wrong}"));
        }
    }
}

//! The promise about messages at the size of a real application: a thousand subscribers hear each
//! message once and in its publisher's order, and one that does not read harms nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::{Client, PATIENCE, Proxy, Value, shards, until};

const SUBSCRIBERS: usize = 1_000;
const CHANNELS: usize = 10;
const PATTERNS: usize = 5;
const PUBLISHERS: usize = 4;
const MESSAGES: usize = 10_000;

/// Channel `c` matches pattern `c % PATTERNS`, and so do two channels for each pattern.
fn pattern(at: usize) -> String {
    format!("many:[{at}{}]", at + PATTERNS)
}

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
    let channels: Vec<String> = (0..CHANNELS).map(|at| format!("many:{at}")).collect();
    let patient = || Client::connect(proxy.address()).patience(PATIENCE * 5);
    let mut all: Vec<Client> = (0..SUBSCRIBERS)
        .map(|at| {
            let mut client = patient();
            client.call(&["SUBSCRIBE", &channels[at % CHANNELS]]);
            client.call(&["PSUBSCRIBE", &pattern(at % PATTERNS)]);
            client
        })
        .collect();
    // One that never reads: everything and a flood of its own beside it.
    let mut lazy = patient();
    lazy.call(&["PSUBSCRIBE", "many:*"]);
    lazy.call(&["SUBSCRIBE", "flood"]);
    let began = Instant::now();
    let heard = std::thread::scope(|scope| {
        let channels = &channels;
        for publisher in 0..PUBLISHERS {
            let mut client = patient();
            scope.spawn(move || {
                let mine = (0..MESSAGES).filter(|number| number / CHANNELS % PUBLISHERS == publisher);
                for number in mine {
                    let body = format!("{publisher}:{number}");
                    let receivers = client.call(&["PUBLISH", &channels[number % CHANNELS], &body]).int();
                    // A tenth by the channel, a fifth by its pattern, and perhaps the lazy one.
                    let wanted = (SUBSCRIBERS / CHANNELS + SUBSCRIBERS / PATTERNS) as i64;
                    assert!((wanted..=wanted + 1).contains(&receivers), "{receivers} receivers");
                }
            });
        }
        let mut flooder = patient();
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
    let mut client = patient();
    until("the lazy one is gone", || client.call(&["PUBLISH", "flood", "x"]) == Value::Int(0));
}

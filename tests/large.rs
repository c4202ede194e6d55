//! The promise about large values: they travel beside everything else, and everybody's requests keep
//! their order and their replies' places all the same.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::time::Duration;

use support::{Client, Proxy, Random, Value, shards, until};

const CLIENTS: usize = 6;
const ROUNDS: usize = 12;

/// One client's pipelines of large and small requests to keys of its own, all on one shard: what it
/// reads tells whether a request overtook another.
fn talk(mut client: Client, keys: &[String], random: &mut Random) -> usize {
    let [large, small, count] = keys else { panic!("three keys") };
    let (mut checked, mut counted, mut last) = (0, 0, None);
    for round in 0..ROUNDS {
        let (mut requests, mut wanted) = (Vec::new(), Vec::new());
        for step in 0..random.between(4, 12) {
            let mut ask = |words: &[&[u8]], reply: Value| {
                requests.push(words.iter().map(|word| word.to_vec()).collect::<Vec<_>>());
                wanted.push(reply);
            };
            match random.below(4) {
                0 => {
                    let value = vec![b'a' + (step % 26) as u8; random.between(1 << 20, 3 << 20)];
                    ask(&[b"SET", large.as_bytes(), &value], Value::ok());
                    last = Some(value);
                }
                1 => ask(&[b"GET", large.as_bytes()], last.as_ref().map_or(Value::NullBulk, Value::bulk)),
                2 => {
                    let value = format!("{round}:{step}");
                    ask(&[b"SET", small.as_bytes(), value.as_bytes()], Value::ok());
                    ask(&[b"GET", small.as_bytes()], Value::bulk(value));
                }
                _ => {
                    counted += 1;
                    ask(&[b"INCR", count.as_bytes()], Value::Int(counted));
                    let large = last.as_ref().map_or(Value::NullBulk, Value::bulk);
                    ask(
                        &[b"MGET", large_key(keys), count.as_bytes()],
                        Value::Array(vec![large, Value::bulk(counted.to_string())]),
                    );
                }
            }
        }
        let replies = client.pipeline(&requests);
        for (at, (reply, wanted)) in replies.iter().zip(&wanted).enumerate() {
            assert!(reply == wanted, "round {round}, reply {at}: {reply:?} instead of {wanted:?}");
        }
        checked += replies.len();
    }
    checked
}

fn large_key(keys: &[String]) -> &[u8] {
    keys[0].as_bytes()
}

#[test]
fn large_and_small_requests_of_many_clients_keep_their_order() {
    let shards = shards(3);
    let proxy = Proxy::over(&shards).start();
    let keys = proxy.keys_by_shard(3, 3 * CLIENTS);
    let mut random = Random::of_this_run("large values");
    let checked = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                // Four of six meet on one shard.
                let keys = &keys[if at < 4 { 0 } else { at - 3 }][3 * at..][..3];
                let (client, mut random) = (proxy.client().patience(support::PATIENCE * 3), random.fork());
                scope.spawn(move || talk(client, keys, &mut random))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
    });
    println!("{checked} replies checked");
    assert!(checked >= 300);
    // Further connections were made for it, and no more than a few.
    let connections = proxy.metric("ringway_backend_connections") as usize;
    assert!((4..=3 * (1 + 4)).contains(&connections), "{connections} connections");
}

/// Somebody reads a large value slowly, or not at all; the others of that shard are served.
#[test]
fn who_does_not_read_a_large_value_holds_up_nobody() {
    let shards = shards(1);
    let proxy = Proxy::over(&shards).start();
    let mut client = proxy.client();
    let value = vec![b'v'; 64 << 20];
    assert_eq!(client.call(&[&b"SET"[..], b"large", &value]), Value::ok());
    let mut lazy = proxy.client();
    lazy.send(&["GET", "large"]);
    for round in 0..200 {
        let text = round.to_string();
        assert_eq!(client.call(&["SET", "small", &text]), Value::ok());
        assert_eq!(client.call(&["GET", "small"]), Value::bulk(text));
    }
    assert_eq!(lazy.patience(Duration::from_secs(60)).reply(), Value::Bulk(value));
    until("what was held for it is given back", || proxy.metric("ringway_buffered_bytes") < 1e6);
}

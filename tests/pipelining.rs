//! The promise of order: whatever is sent, cut and mixed at random, every reply comes once and in
//! its place. A model in the test knows the only right reply to each request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use support::{Client, Proxy, Value, request, shards};

const CLIENTS: usize = 4;
const ROUNDS: u32 = 120;

#[test]
fn every_reply_has_its_place() {
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).start();
        let address = proxy.address();
        assert_eq!(proxy.client().call(&["FLUSHALL"]), Value::ok());
        let checked = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let checked = &checked;
                scope.spawn(move || storm(address, client, checked));
            }
        });
        let checked = checked.into_inner();
        println!("threads {threads}: replies checked {checked}");
        assert!(checked >= 50_000);
    }
}

/// What one client does: a pipeline, cut in pieces, checked; before it perhaps another client that
/// leaves in the middle of its own.
#[derive(Clone, Debug)]
struct Round {
    /// Over a new connection.
    anew: bool,
    leaving: Option<Leaving>,
    steps: Vec<Step>,
    pieces: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Leaving {
    steps: Vec<Step>,
    /// How much of it is sent.
    sent: Index,
    /// Perhaps with replies on their way.
    waits: bool,
}

fn rounds() -> impl Strategy<Value = Round> {
    let steps = prop_oneof![1 => vec(step(), 1..5), 3 => vec(step(), 50..400)];
    let leaving = (vec(step(), 1..200), any::<Index>(), any::<bool>());
    let leaving = leaving.prop_map(|(steps, sent, waits)| Leaving { steps, sent, waits });
    let most = select(vec![1usize, 7, 100, 1_400, 20_000, 1_000_000]);
    let pieces = most.prop_flat_map(|most| vec(1..=most, 1..20));
    let leaving = proptest::option::weighted(1.0 / 6.0, leaving);
    (proptest::bool::weighted(1.0 / 8.0), leaving, steps, pieces).prop_map(|(anew, leaving, steps, pieces)| Round {
        anew,
        leaving,
        steps,
        pieces,
    })
}

/// One client's rounds, each with keys of its own, so that a failing one can be made smaller.
fn storm(address: SocketAddr, number: usize, checked: &AtomicUsize) {
    let config = Config { cases: ROUNDS, failure_persistence: None, ..Config::default() };
    let mut count = 0;
    let client = std::cell::RefCell::new(Client::connect(address));
    let count = std::cell::RefCell::new(&mut count);
    let done = TestRunner::new(config).run(&rounds(), |round| {
        let mut client = client.borrow_mut();
        **count.borrow_mut() += 1;
        let prefix = format!("c{number}:{}:", count.borrow());
        if let Some(leaving) = &round.leaving {
            // What was sent may have run or not, on keys of its own.
            let mut orphan = Model::new(&format!("{prefix}left:"));
            let bytes: Vec<u8> = leaving.steps.iter().flat_map(|step| request(&orphan.take(step).0)).collect();
            let mut gone = Client::connect(address);
            gone.send_raw(&bytes[..=leaving.sent.index(bytes.len())]);
            if leaving.waits {
                gone.silent_for(Duration::from_millis(2));
            }
        }
        if round.anew {
            *client = Client::connect(address);
        }
        let mut model = Model::new(&prefix);
        let (requests, wanted): (Vec<_>, Vec<_>) = round.steps.iter().map(|step| model.take(step)).unzip();
        let bytes: Vec<u8> = requests.iter().flat_map(|args| request(args)).collect();
        let mut writer = client.stream().try_clone().unwrap();
        let got = std::thread::scope(|scope| {
            scope.spawn(|| cut(&bytes, &round.pieces).for_each(|piece| writer.write_all(piece).unwrap()));
            client.replies(requests.len())
        });
        prop_assert!(client.silent_for(Duration::from_millis(1)), "more replies than requests");
        if let Err(wrong) = check(&wanted, &got) {
            *client = Client::connect(address);
            return Err(TestCaseError::fail(format!("{wrong}, request {:?}", requests.get(wrong.at))));
        }
        checked.fetch_add(got.len(), Ordering::Relaxed);
        Ok(())
    });
    done.unwrap_or_else(|error| panic!("client {number}: {error}"));
}

/// The bytes in pieces of these sizes, over and over; long ones not in crumbs.
fn cut<'a>(mut bytes: &'a [u8], pieces: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let least = if bytes.len() > 4_000 { 100 } else { 1 };
    pieces.iter().cycle().map_while(move |size| {
        let (head, rest) = bytes.split_at((*size).max(least).min(bytes.len()));
        bytes = rest;
        (!head.is_empty()).then_some(head)
    })
}

/// The first place where replies are not what they must be.
#[derive(Debug, thiserror::Error)]
#[error("reply {at}: wanted {wanted}, got {got}")]
struct Wrong {
    at: usize,
    wanted: String,
    got: String,
}

fn check(wanted: &[Value], got: &[Value]) -> Result<(), Wrong> {
    let longer = wanted.len().max(got.len());
    match (0..longer).find(|&at| wanted.get(at) != got.get(at)) {
        None => Ok(()),
        Some(at) => {
            let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
            Err(Wrong { at, wanted: show(wanted.get(at)), got: show(got.get(at)) })
        }
    }
}

/// A request, its keys by number.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, usize),
    Get(u8),
    Incr(u8),
    Del(Vec<u8>),
    Mget(Vec<u8>),
    Mset(Vec<u8>),
    Exists(Vec<u8>),
    Push(u8),
    Range(u8),
    Ping,
    Echo,
    GetList(u8),
    Arity,
}

fn step() -> impl Strategy<Value = Step> {
    let (string, list) = (|| 0..40u8, || 0..8u8);
    let several = || vec(0..40u8, 1..12);
    let size = || prop_oneof![60 => Just(0), 1 => 0..30_000usize];
    prop_oneof![
        2 => (string(), size()).prop_map(|(key, size)| Step::Set(key, size)),
        2 => string().prop_map(Step::Get),
        1 => (0..5u8).prop_map(Step::Incr),
        1 => several().prop_map(Step::Del),
        1 => several().prop_map(Step::Mget),
        1 => several().prop_map(Step::Mset),
        1 => several().prop_map(Step::Exists),
        1 => list().prop_map(Step::Push),
        1 => list().prop_map(Step::Range),
        1 => prop_oneof![Just(Step::Ping), Just(Step::Echo)],
        1 => list().prop_map(Step::GetList),
        1 => Just(Step::Arity),
    ]
}

/// What a Redis holds under one prefix, as far as the commands used here go.
struct Model {
    prefix: String,
    strings: HashMap<String, Vec<u8>>,
    lists: BTreeMap<String, Vec<Vec<u8>>>,
    counter: u64,
}

impl Model {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), strings: HashMap::new(), lists: BTreeMap::new(), counter: 0 }
    }

    /// The step's request and the only right reply to it.
    fn take(&mut self, step: &Step) -> (Vec<Vec<u8>>, Value) {
        self.counter += 1;
        // No two values are alike, so a foreign reply is seen.
        let mut value = format!("{}{}.", self.prefix, self.counter).into_bytes();
        let string = |key: &u8| format!("s{key}");
        let strings = |keys: &[u8]| keys.iter().map(string).collect::<Vec<_>>();
        let list = |key: &u8| format!("l{key}");
        let wrong_type = || Value::Error(b"WRONGTYPE Operation against a key holding the wrong kind of value".to_vec());
        match step {
            Step::Set(key, size) => {
                // Every byte there is, CR and LF among them.
                value.extend((0..*size).map(|at| (at as u8).wrapping_mul(37)));
                self.strings.insert(string(key), value.clone());
                (self.args("SET", &[&string(key)], &[&value]), Value::ok())
            }
            Step::Get(key) => (self.args("GET", &[&string(key)], &[]), self.get(&string(key))),
            Step::Incr(key) => {
                let key = format!("n{key}");
                let old = self.strings.get(&key).map_or(0, |text| String::from_utf8_lossy(text).parse().unwrap());
                self.strings.insert(key.clone(), (old + 1).to_string().into_bytes());
                (self.args("INCR", &[&key], &[]), Value::Int(old + 1))
            }
            Step::Del(keys) => {
                let keys = strings(keys);
                let gone = keys.iter().filter(|key| self.strings.remove(*key).is_some()).count();
                (self.many("DEL", &keys), Value::Int(gone as i64))
            }
            Step::Mget(keys) => {
                let keys = strings(keys);
                let values = keys.iter().map(|key| self.get(key)).collect();
                (self.many("MGET", &keys), Value::Array(values))
            }
            Step::Mset(keys) => {
                let mut args = vec![b"MSET".to_vec()];
                for (at, key) in strings(keys).into_iter().enumerate() {
                    let value = [&value[..], format!("#{at}").as_bytes()].concat();
                    args.extend([self.key(&key), value.clone()]);
                    self.strings.insert(key, value);
                }
                (args, Value::ok())
            }
            Step::Exists(keys) => {
                let keys = strings(keys);
                let there = keys.iter().filter(|key| self.strings.contains_key(*key)).count();
                (self.many("EXISTS", &keys), Value::Int(there as i64))
            }
            Step::Push(key) => {
                let all = self.lists.entry(list(key)).or_default();
                all.insert(0, value.clone());
                let length = Value::Int(all.len() as i64);
                (self.args("LPUSH", &[&list(key)], &[&value]), length)
            }
            Step::Range(key) => {
                let all = self.lists.get(&list(key)).into_iter().flatten().take(5).map(Value::bulk).collect();
                (self.args("LRANGE", &[&list(key)], &[b"0", b"4"]), Value::Array(all))
            }
            Step::Ping => (vec![b"PING".to_vec()], Value::Simple(b"PONG".to_vec())),
            Step::Echo => (vec![b"ECHO".to_vec(), value.clone()], Value::Bulk(value)),
            Step::GetList(key) => match self.lists.contains_key(&list(key)) {
                true => (self.args("GET", &[&list(key)], &[]), wrong_type()),
                false => (self.args("GET", &[&list(key)], &[]), Value::NullBulk),
            },
            Step::Arity => {
                let text = b"ERR wrong number of arguments for 'get' command".to_vec();
                (vec![b"GET".to_vec()], Value::Error(text))
            }
        }
    }

    fn get(&self, key: &str) -> Value {
        self.strings.get(key).map_or(Value::NullBulk, Value::bulk)
    }

    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    fn args(&self, name: &str, keys: &[&str], rest: &[&[u8]]) -> Vec<Vec<u8>> {
        let keys = keys.iter().map(|key| self.key(key));
        [name.as_bytes().to_vec()].into_iter().chain(keys).chain(rest.iter().map(|arg| arg.to_vec())).collect()
    }

    fn many(&self, name: &str, keys: &[String]) -> Vec<Vec<u8>> {
        self.args(name, &keys.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }
}

/// The checker itself: each planted fault is found, at its place.
fn planted(fault: impl FnOnce(&mut Vec<Value>)) -> Option<usize> {
    // All different, so that a swap cannot hide behind two equal ones.
    let wanted: Vec<Value> = (0..100).map(|at| Value::bulk(format!("reply {at}"))).collect();
    let mut got = wanted.clone();
    fault(&mut got);
    check(&wanted, &got).err().map(|wrong| wrong.at)
}

#[test]
fn the_checker_accepts_what_is_right() {
    assert_eq!(planted(|_| ()), None);
}

#[test]
fn the_checker_finds_a_lost_reply() {
    assert_eq!(planted(|got| drop(got.remove(40))), Some(40));
    assert_eq!(planted(|got| drop(got.pop())), Some(99));
}

#[test]
fn the_checker_finds_a_doubled_reply() {
    assert_eq!(planted(|got| got.insert(41, got[40].clone())), Some(41));
    assert_eq!(planted(|got| got.push(got[99].clone())), Some(100));
}

#[test]
fn the_checker_finds_two_swapped_replies() {
    assert_eq!(planted(|got| got.swap(40, 70)), Some(40));
}

#[test]
fn the_checker_finds_a_foreign_reply() {
    assert_eq!(planted(|got| got[40] = Value::bulk("c9:1.")), Some(40));
}

//! The promise of order: whatever is sent, cut and mixed at random, every reply comes once and in
//! its place. A model in the test knows the only right reply to each request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use support::{Client, Proxy, Random, Value, request, shards};

const CLIENTS: usize = 4;
const ROUNDS: usize = 120;

#[test]
fn every_reply_has_its_place() {
    let mut random = Random::of_this_run("every_reply_has_its_place");
    let shards = shards(3);
    for threads in [1, 2] {
        let proxy = Proxy::over(&shards).threads(threads).start();
        let address = proxy.address();
        assert_eq!(proxy.client().call(&["FLUSHALL"]), Value::ok());
        let checked = std::thread::scope(|scope| {
            let clients = (0..CLIENTS).map(|number| {
                let random = random.fork();
                scope.spawn(move || storm(address, number, random))
            });
            let clients = clients.collect::<Vec<_>>();
            clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
        });
        println!("threads {threads}: replies checked {checked}");
        assert!(checked >= 50_000);
    }
}

/// One client's rounds: a random pipeline, randomly cut, checked or left in the middle.
fn storm(address: SocketAddr, number: usize, mut random: Random) -> usize {
    let mut model = Model::new(&format!("c{number}:"));
    let mut client = Client::connect(address);
    let mut checked = 0;
    for round in 0..ROUNDS {
        if random.one_in(6) {
            // Leaves in the middle: what was sent may have run or not, on keys of its own.
            let mut leaving = Client::connect(address);
            let mut orphan = Model::new(&format!("c{number}:left{round}:"));
            let bytes =
                (0..random.between(1, 200)).flat_map(|_| request(&orphan.next(&mut random).0)).collect::<Vec<_>>();
            let cut = random.between(1, bytes.len());
            leaving.send_raw(&bytes[..cut]);
            if random.one_in(2) {
                // Perhaps with replies on their way.
                leaving.silent_for(Duration::from_millis(2));
            }
        }
        if random.one_in(8) {
            client = Client::connect(address);
        }
        let length = if random.one_in(4) { random.between(1, 5) } else { random.between(50, 400) };
        let (requests, wanted) = (0..length).map(|_| model.next(&mut random)).unzip::<_, _, Vec<_>, Vec<_>>();
        let bytes = requests.iter().flat_map(|args| request(args)).collect::<Vec<_>>();
        let chunks = cut(&bytes, &mut random);
        let mut writer = client.stream().try_clone().unwrap();
        let got = std::thread::scope(|scope| {
            scope.spawn(move || {
                for chunk in chunks {
                    writer.write_all(chunk).unwrap();
                }
            });
            client.replies(length)
        });
        assert!(client.silent_for(Duration::from_millis(1)), "more replies than requests");
        if let Err(wrong) = check(&wanted, &got) {
            panic!("client {number}, round {round}: {wrong}, request {:?}", requests.get(wrong.at));
        }
        checked += got.len();
    }
    checked
}

/// The bytes in pieces of random sizes: all at once, small ones, single bytes.
fn cut<'a>(mut bytes: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let most = *random.pick(&[1, 7, 100, 1_400, 20_000, usize::MAX]);
    let most = if bytes.len() > 4_000 { most.max(300) } else { most };
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(random.between(1, most.min(bytes.len())));
        chunks.push(head);
        bytes = rest;
    }
    chunks
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

    /// A random request and the only right reply to it.
    fn next(&mut self, random: &mut Random) -> (Vec<Vec<u8>>, Value) {
        self.counter += 1;
        // No two values are alike, so a foreign reply is seen.
        let mut value = format!("{}{}.", self.prefix, self.counter).into_bytes();
        if random.one_in(60) {
            let size = random.between(0, 30_000);
            value.extend(random.bytes(size));
        }
        let string = |random: &mut Random| format!("s{}", random.below(40));
        let list = |random: &mut Random| format!("l{}", random.below(8));
        let wrong_type = || Value::Error(b"WRONGTYPE Operation against a key holding the wrong kind of value".to_vec());
        let several = |random: &mut Random| (0..random.between(1, 12)).map(|_| string(random)).collect::<Vec<_>>();
        match random.below(14) {
            0 | 1 => {
                let key = string(random);
                self.strings.insert(key.clone(), value.clone());
                (self.args("SET", &[&key], &[&value]), Value::ok())
            }
            2 | 3 => {
                let key = string(random);
                (self.args("GET", &[&key], &[]), self.get(&key))
            }
            4 => {
                let key = format!("n{}", random.below(5));
                let old = self.strings.get(&key).map_or(0, |text| String::from_utf8_lossy(text).parse().unwrap());
                self.strings.insert(key.clone(), (old + 1).to_string().into_bytes());
                (self.args("INCR", &[&key], &[]), Value::Int(old + 1))
            }
            5 => {
                let keys = several(random);
                let gone = keys.iter().filter(|key| self.strings.remove(*key).is_some()).count();
                (self.many("DEL", &keys), Value::Int(gone as i64))
            }
            6 => {
                let keys = several(random);
                let values = keys.iter().map(|key| self.get(key)).collect();
                (self.many("MGET", &keys), Value::Array(values))
            }
            7 => {
                let mut args = vec![b"MSET".to_vec()];
                for (at, key) in several(random).into_iter().enumerate() {
                    let value = [&value[..], format!("#{at}").as_bytes()].concat();
                    args.extend([self.key(&key), value.clone()]);
                    self.strings.insert(key, value);
                }
                (args, Value::ok())
            }
            8 => {
                let keys = several(random);
                let there = keys.iter().filter(|key| self.strings.contains_key(*key)).count();
                (self.many("EXISTS", &keys), Value::Int(there as i64))
            }
            9 => {
                let key = list(random);
                let all = self.lists.entry(key.clone()).or_default();
                all.insert(0, value.clone());
                let length = Value::Int(all.len() as i64);
                (self.args("LPUSH", &[&key], &[&value]), length)
            }
            10 => {
                let key = list(random);
                let all = self.lists.get(&key).into_iter().flatten().take(5).map(Value::bulk).collect();
                (self.args("LRANGE", &[&key], &[b"0", b"4"]), Value::Array(all))
            }
            11 => {
                if random.one_in(2) {
                    return (vec![b"PING".to_vec()], Value::Simple(b"PONG".to_vec()));
                }
                (vec![b"ECHO".to_vec(), value.clone()], Value::Bulk(value))
            }
            12 => match self.lists.keys().next() {
                Some(key) => (self.args("GET", &[key], &[]), wrong_type()),
                None => (vec![b"ECHO".to_vec(), value.clone()], Value::Bulk(value)),
            },
            _ => {
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
    let mut model = Model::new("p:");
    let mut random = Random::new(3);
    // ECHO replies are all different, so that a swap cannot hide behind two equal ones.
    let wanted = (0..2_000).map(|_| model.next(&mut random).1).filter(|reply| matches!(reply, Value::Bulk(_)));
    let wanted = wanted.take(100).enumerate().map(|(at, _)| Value::bulk(format!("reply {at}"))).collect::<Vec<_>>();
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

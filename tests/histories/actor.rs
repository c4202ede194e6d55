//! One client: it does one thing after the other, and now and then vanishes in the middle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ledger::{Kind, Move, Name, Write};
use crate::own;
use crate::support::{Client, Random, Value, interval, request};
use crate::world::{Family, OWN, World};

/// How long a reply may take, whatever happens; a pop's own time comes to it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(6);
/// Errors about a shard, beside the ones that say that nothing was done.
const UNCERTAIN: &[&str] = &["SHARDLOST", "SHARDTIMEOUT", "SHARDPARTIAL"];

pub(crate) struct Actor<'a> {
    pub(crate) world: &'a World<'a>,
    number: usize,
    client: Client,
    pub(crate) random: Random,
    elements: usize,
    /// Keys by shard that only this client uses.
    pub(crate) own: Vec<Vec<String>>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Said(Value),
    /// It was not carried out, and says so.
    NotDone,
    /// It may have been carried out; `now`: whatever became of it, it is over.
    Unknown {
        now: bool,
    },
}

impl<'a> Actor<'a> {
    pub(crate) fn new(world: &'a World<'a>, random: Random) -> Self {
        let number = world.actor();
        let client = Self::connect(world, number);
        Self { world, number, client, random, elements: 0, own: world.keys(OWN) }
    }

    fn connect(world: &World<'_>, number: usize) -> Client {
        let client = Client::connect(world.proxy.address()).patience(ANSWERED_WITHIN);
        if number.is_multiple_of(2) { client } else { client.resp3() }
    }

    pub(crate) fn turn(&mut self) {
        match self.random.below(12) {
            0..=2 => self.transfer(),
            3 => self.push(),
            4 | 5 => self.pop(),
            6 | 7 => self.write(),
            8 => self.rename(),
            _ => own::turn(self),
        }
    }

    pub(crate) fn element(&mut self) -> String {
        self.elements += 1;
        format!("{}:{}", self.number, self.elements)
    }

    /// Its keys are in a state that it does not know: it takes others.
    pub(crate) fn own_anew(&mut self) {
        self.own = self.world.keys(OWN);
    }

    /// Requests in one write, and what became of them, up to the first that failed; or the client vanishes.
    pub(crate) fn ask(&mut self, lines: &[Vec<String>]) -> Vec<Outcome> {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| request(line)).collect();
        if self.random.one_in(14) {
            let sent = if self.random.one_in(2) { bytes.len() } else { self.random.below(bytes.len()) };
            _ = self.client.try_send_raw(&bytes[..sent]);
            self.vanish();
            return vec![Outcome::Unknown { now: false }];
        }
        let asked = Instant::now();
        self.client.send_raw(&bytes);
        let mut outcomes = Vec::new();
        for line in lines {
            let reply = self.client.try_reply();
            let reply = reply.unwrap_or_else(|error| panic!("{line:?}: {error} after {:?}", asked.elapsed()));
            outcomes.push(self.outcome(line, reply));
        }
        outcomes
    }

    fn vanish(&mut self) {
        if self.random.one_in(2) {
            interval(Duration::from_micros(self.random.below(500) as u64));
        }
        self.world.did("vanished");
        self.client = Self::connect(self.world, self.number);
    }

    /// Errors are only right in trouble, and only some.
    fn outcome(&self, line: &[String], reply: Value) -> Outcome {
        let word = reply.error_word();
        let text = reply.text();
        let about_shard = |word: &str| UNCERTAIN.iter().any(|one| word.contains(one));
        let outcome = match word.as_str() {
            "SHARDDOWN" => Outcome::NotDone,
            // Its server reads its file.
            "LOADING" => Outcome::NotDone,
            "EXECABORT" if text.contains("nothing was executed") || text.contains("LOADING") => Outcome::NotDone,
            "EXECABORT" if text.contains("SHARDDOWN") => Outcome::NotDone,
            _ if about_shard(&word) || about_shard(&text) && !word.is_empty() => Outcome::Unknown { now: true },
            _ => return Outcome::Said(reply),
        };
        // Who writes to both names while RENAMENX is between its two steps may leave both.
        let halfway = line[0] == "RENAMENX" && word == "SHARDPARTIAL";
        assert!(self.world.troubled || halfway, "{line:?}: {reply:?}");
        self.world.did(&word);
        outcome
    }

    fn transfer(&mut self) {
        let world = self.world;
        let (from, to) = (self.random.pick(&world.accounts).clone(), self.random.pick(&world.accounts).clone());
        let amount = self.random.between(1, 50) as i64;
        let watch = self.random.one_in(3);
        let mut lines: Vec<Vec<String>> = Vec::new();
        if watch {
            lines.push(words(&["WATCH", &from]));
        }
        lines.push(words(&["MULTI"]));
        lines.push(words(&["DECRBY", &from, &amount.to_string()]));
        lines.push(words(&["INCRBY", &to, &amount.to_string()]));
        lines.push(words(&["EXEC"]));
        let outcomes = self.ask(&lines);
        match outcomes.last().unwrap() {
            Outcome::Said(done) if done.is_null() && watch => world.did("race lost"),
            Outcome::Said(done) if done.is_error() => {
                assert!(world.troubled && done.error_word() == "EXECABORT", "{done:?}");
            }
            Outcome::Said(done) => {
                assert_eq!(done.elements().len(), 2, "{done:?}");
                world.did("transfer");
            }
            Outcome::NotDone => {}
            Outcome::Unknown { .. } if world.troubled => _ = world.doubt.fetch_add(amount, Ordering::Relaxed),
            Outcome::Unknown { .. } => {}
        }
    }

    fn push(&mut self) {
        let queue = self.random.pick(&self.world.queues).clone();
        let elements: Vec<String> = (0..3).map(|_| self.element()).collect();
        let side = *self.random.pick(&["LPUSH", "RPUSH"]);
        // Said before it is done: who pops it may be faster.
        let line = [words(&[side, &queue]), elements.clone()].concat();
        let first = {
            let mut pushed = self.world.pushed.lock().unwrap();
            pushed.extend(elements.into_iter().map(|element| (element, false)));
            pushed.len() - 3
        };
        let outcome = self.ask(&[line]).pop().unwrap();
        if matches!(outcome, Outcome::Said(_)) {
            self.world.pushed.lock().unwrap()[first..first + 3].iter_mut().for_each(|one| one.1 = true);
            self.world.did(side);
        }
    }

    fn pop(&mut self) {
        let mut queues = self.world.queues.clone();
        let at = self.random.below(queues.len());
        queues.rotate_left(at);
        // Two of the six may be on one shard, three are on two at least.
        queues.truncate(self.random.between(3, 6));
        let count = queues.len().to_string();
        let (kind, line) = match self.random.below(3) {
            0 => ("BLPOP", [words(&["BLPOP"]), queues, words(&["0.05"])].concat()),
            1 => ("BRPOP", [words(&["BRPOP"]), queues, words(&["0.05"])].concat()),
            _ => ("BLMPOP", [words(&["BLMPOP", "0.05", &count]), queues, words(&["LEFT", "COUNT", "3"])].concat()),
        };
        self.client.send(&line);
        let vanishes = self.random.one_in(4);
        if vanishes {
            if self.random.one_in(2) {
                interval(Duration::from_micros(self.random.below(800) as u64));
            }
            self.client.half_close();
        }
        // Whatever comes before the end was delivered.
        let mut answered = false;
        while let Ok(reply) = self.client.try_reply() {
            answered = true;
            match self.outcome(&line, reply) {
                Outcome::Said(reply) if reply.is_null() => {}
                Outcome::Said(reply) => {
                    let taken = match &reply.elements()[1] {
                        Value::Array(several) => several.iter().map(Value::text).collect(),
                        one => vec![one.text()],
                    };
                    self.world.delivered.lock().unwrap().extend(taken);
                    self.world.did(kind);
                }
                Outcome::NotDone => {}
                Outcome::Unknown { .. } => _ = self.world.swallowed.fetch_add(3, Ordering::Relaxed),
            }
            if !vanishes {
                break;
            }
        }
        assert!(answered || vanishes, "{line:?} was not answered");
        if vanishes {
            if !answered {
                self.world.did("vanished with a pop under way");
                if self.world.troubled {
                    self.world.swallowed.fetch_add(3, Ordering::Relaxed);
                }
            }
            self.client = Self::connect(self.world, self.number);
        }
    }

    /// Appends an element to one name of a family.
    fn write(&mut self) {
        let family = self.world.family(self.random.below(64));
        let (name, key) = match self.random.below(2) {
            0 => (Name::Source, family.source.clone()),
            _ => (Name::Target, family.target.clone()),
        };
        let element = self.element();
        let begin = self.world.now();
        let outcome = self.ask(&[words(&["RPUSH", &key, &element])]).pop().unwrap();
        let end = match outcome {
            Outcome::Said(reply) => {
                assert!(!reply.is_error(), "{reply:?}");
                Some(self.world.now())
            }
            Outcome::NotDone => return,
            Outcome::Unknown { .. } => None,
        };
        family.writes.lock().unwrap().push(Write { element, name, begin, end });
    }

    /// Moves a family's source onto its target, or takes the target away.
    fn rename(&mut self) {
        let family: Arc<Family> = self.world.family(self.random.below(64));
        let mut moves = family.moves.lock().unwrap();
        if moves.closed {
            return;
        }
        let verb = *self.random.pick(&["RENAME", "RENAMENX", "take"]);
        let (source, target) = (family.source.as_str(), family.target.as_str());
        let lines = match verb {
            "take" => {
                let read = words(&["LRANGE", target, "0", "-1"]);
                vec![words(&["MULTI"]), read, words(&["DEL", target]), words(&["EXEC"])]
            }
            _ => vec![words(&[verb, source, target])],
        };
        let begin = self.world.now();
        let outcome = self.ask(&lines).pop().unwrap();
        let mut end = self.world.now();
        let kind = match outcome {
            Outcome::Said(Value::Array(both)) => Kind::Taken(both[0].elements().iter().map(Value::text).collect()),
            Outcome::Said(Value::Int(0)) => Kind::Refused,
            Outcome::Said(Value::Int(1)) => Kind::RenamedNew,
            Outcome::Said(reply) if reply == Value::ok() => Kind::Renamed,
            Outcome::Said(reply) if reply.text() == "ERR no such key" => Kind::Missing,
            // Others wrote to both names all the while: nothing was done.
            Outcome::Said(reply) if reply.error_word() == "TRYAGAIN" => return self.world.did("TRYAGAIN"),
            Outcome::Said(reply) => panic!("{lines:?}: {reply:?}"),
            Outcome::NotDone => return,
            Outcome::Unknown { now } => {
                end = if now { end } else { u128::MAX };
                moves.closed = true;
                let new = verb == "RENAMENX";
                Kind::Unknown { new, halfway: self.world.troubled || new }
            }
        };
        self.world.did(verb);
        moves.list.push(Move { begin, end, kind });
        if moves.closed {
            // When it is not known what was taken, no more can be said of this family.
            self.world.retire(&family, verb != "take");
        }
    }
}

pub(crate) fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|&word| word.to_owned()).collect()
}

//! Commands over several shards on keys that one client alone uses, so that it knows each answer: in one
//! pipeline what they work on, the command itself, and what it left.

use std::collections::BTreeSet;

use crate::actor::{Actor, Outcome, words};
use crate::support::{Random, Value};

/// The only right replies to a line.
enum Want {
    Any,
    Is(Value),
    Members(BTreeSet<String>),
    /// An estimate, one off at most.
    Near(i64),
}

/// Lines and what they answer.
#[derive(Default)]
struct Talk {
    lines: Vec<Vec<String>>,
    wants: Vec<Want>,
}

impl Talk {
    fn say(&mut self, line: &[&str], want: Want) {
        self.lines.push(words(line));
        self.wants.push(want);
    }

    fn with(&mut self, line: &[&str], rest: &BTreeSet<String>) {
        self.lines.push([words(line), rest.iter().cloned().collect()].concat());
        self.wants.push(Want::Any);
    }
}

fn some(random: &mut Random) -> BTreeSet<String> {
    let count = random.between(1, 9);
    (0..count).map(|_| format!("m{}", random.below(14))).collect()
}

fn int(n: usize) -> Want {
    Want::Is(Value::Int(n as i64))
}

fn ok() -> Want {
    Want::Is(Value::ok())
}

pub(crate) const KINDS: &[&str] = &[
    "MGET",
    "SINTER",
    "SUNION",
    "SDIFF",
    "SINTERCARD",
    "SINTERSTORE",
    "SUNIONSTORE",
    "SDIFFSTORE",
    "ZUNIONSTORE",
    "ZINTER",
    "ZRANGESTORE",
    "BITOP",
    "PFCOUNT",
    "PFMERGE",
    "COPY",
    "RENAME",
    "RENAMENX",
    "SORT",
    "LMPOP",
    "XREAD",
];

pub(crate) fn turn(actor: &mut Actor<'_>) {
    let kind = *actor.random.pick(KINDS);
    let mut keys = actor.own.concat();
    let by = actor.random.below(keys.len());
    keys.rotate_left(by);
    // Three keys on three shards, in any order.
    let shards = keys.len() / 3;
    let (a, b, c) = (keys[0].clone(), keys[shards].clone(), keys[2 * shards].clone());
    let mut talk = Talk::default();
    talk.say(&["DEL", &a, &b, &c], Want::Any);
    fill(kind, [&a, &b, &c], &mut talk, &mut actor.random);
    let outcomes = actor.ask(&talk.lines);
    for (at, outcome) in outcomes.iter().enumerate() {
        let reply = match outcome {
            Outcome::Said(reply) => reply,
            // Nothing of it is under way any more, and the next turn begins by removing all.
            Outcome::NotDone => return,
            Outcome::Unknown { .. } => return actor.own_anew(),
        };
        let right = match &talk.wants[at] {
            Want::Any => !reply.is_error(),
            Want::Is(value) => reply == value || value.is_null() && reply.is_null(),
            Want::Members(members) => {
                !reply.is_error() && reply.elements().iter().map(Value::text).collect::<BTreeSet<_>>() == *members
            }
            Want::Near(n) => !reply.is_error() && (reply.int() - n).abs() <= 1,
        };
        if !right && actor.world.troubled && reply.is_error() {
            panic!("{:?}: {reply:?}", talk.lines[at]);
        }
        assert!(right, "{:?}: {reply:?} in {:?}", talk.lines[at], talk.lines);
    }
    actor.world.did(kind);
}

fn fill(kind: &str, [a, b, c]: [&str; 3], talk: &mut Talk, random: &mut Random) {
    let (x, y) = (some(random), some(random));
    let union: BTreeSet<String> = x.union(&y).cloned().collect();
    let inter: BTreeSet<String> = x.intersection(&y).cloned().collect();
    let diff: BTreeSet<String> = x.difference(&y).cloned().collect();
    let sets = |talk: &mut Talk| {
        talk.with(&["SADD", a], &x);
        talk.with(&["SADD", b], &y);
    };
    match kind {
        "MGET" => {
            talk.say(&["MSET", a, "1", b, "2", c, "3"], ok());
            let values = [b, c, a].map(|key| {
                Value::bulk(if key == a {
                    "1"
                } else if key == b {
                    "2"
                } else {
                    "3"
                })
            });
            talk.say(&["MGET", b, c, a], Want::Is(Value::Array(values.to_vec())));
            talk.say(&["DEL", c, a], int(2));
            talk.say(&["EXISTS", a, b, c], int(1));
        }
        "SINTER" | "SUNION" | "SDIFF" => {
            sets(talk);
            let members = match kind {
                "SINTER" => inter,
                "SUNION" => union,
                _ => diff,
            };
            talk.say(&[kind, a, b], Want::Members(members));
        }
        "SINTERCARD" => {
            sets(talk);
            talk.say(&[kind, "2", a, b], int(inter.len()));
        }
        "SINTERSTORE" | "SUNIONSTORE" | "SDIFFSTORE" => {
            sets(talk);
            let members = match kind {
                "SINTERSTORE" => inter,
                "SUNIONSTORE" => union,
                _ => diff,
            };
            talk.say(&[kind, c, a, b], int(members.len()));
            talk.say(&["SMEMBERS", c], Want::Members(members));
            talk.say(&["SCARD", a], int(x.len()));
        }
        "ZUNIONSTORE" | "ZINTER" => {
            sets(talk);
            if kind == "ZINTER" {
                talk.say(&["ZINTER", "2", a, b], Want::Members(inter));
            } else {
                talk.say(&["ZUNIONSTORE", c, "2", a, b, "WEIGHTS", "2", "3"], int(union.len()));
                talk.say(&["ZRANGE", c, "0", "-1"], Want::Members(union));
            }
        }
        "ZRANGESTORE" => {
            talk.say(&["ZADD", a, "1", "p", "2", "q", "3", "r"], int(3));
            talk.say(&["ZRANGESTORE", c, a, "0", "1"], int(2));
            talk.say(&["ZRANGE", c, "0", "-1"], Want::Members(["p", "q"].map(str::to_owned).into()));
        }
        "BITOP" => {
            talk.say(&["SET", a, "abc"], ok());
            talk.say(&["SET", b, "   "], ok());
            talk.say(&["BITOP", "XOR", c, a, b], int(3));
            talk.say(&["GET", c], Want::Is(Value::bulk("ABC")));
        }
        "PFCOUNT" | "PFMERGE" => {
            talk.with(&["PFADD", a], &x);
            talk.with(&["PFADD", b], &y);
            if kind == "PFMERGE" {
                talk.say(&["PFMERGE", c, a, b], ok());
                talk.say(&["PFCOUNT", c], Want::Near(union.len() as i64));
            } else {
                talk.say(&["PFCOUNT", a, b], Want::Near(union.len() as i64));
            }
        }
        "COPY" => {
            talk.say(&["SET", a, "v", "EX", "1000"], ok());
            talk.say(&["SET", b, "w"], ok());
            talk.say(&["COPY", a, b], int(0));
            talk.say(&["COPY", a, b, "REPLACE"], int(1));
            talk.say(&["MGET", a, b], Want::Is(Value::Array(vec![Value::bulk("v"), Value::bulk("v")])));
            talk.say(&["PERSIST", b], int(1));
        }
        "RENAME" | "RENAMENX" => {
            talk.say(&["SET", a, "v"], ok());
            let done = if kind == "RENAME" { ok() } else { int(1) };
            talk.say(&[kind, a, b], done);
            talk.say(&["EXISTS", a], int(0));
            talk.say(&["GET", b], Want::Is(Value::bulk("v")));
            talk.say(&["TTL", b], Want::Is(Value::Int(-1)));
        }
        "SORT" => {
            talk.with(&["SADD", a], &x);
            talk.with(&["RPUSH", b], &x);
            talk.say(&["SORT", b, "ALPHA", "STORE", c], int(x.len()));
            let sorted = x.iter().map(Value::bulk).collect();
            talk.say(&["LRANGE", c, "0", "-1"], Want::Is(Value::Array(sorted)));
        }
        "LMPOP" => {
            talk.say(&["RPUSH", b, "1"], int(1));
            let popped =
                |key: &str| Want::Is(Value::Array(vec![Value::bulk(key), Value::Array(vec![Value::bulk("1")])]));
            talk.say(&["LMPOP", "3", a, b, c, "LEFT"], popped(b));
            talk.say(&["LMPOP", "3", a, b, c, "LEFT"], Want::Is(Value::NullArray));
        }
        _ => {
            talk.say(&["XADD", a, "1-1", "f", "v"], Want::Is(Value::bulk("1-1")));
            talk.say(&["XADD", b, "2-2", "f", "v"], Want::Is(Value::bulk("2-2")));
            talk.say(&["XREAD", "STREAMS", a, b, "0", "2-2"], Want::Any);
            talk.say(&["XLEN", b], int(1));
        }
    }
}

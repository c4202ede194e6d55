//! A blocking command taken apart: its keys, when it gives up, how it is tried on one key without
//! blocking, and how what it took is put back. Pure.

use std::sync::Arc;

use crate::command::Command;
use crate::resp::Proto;
use crate::resp::{Args, Reply, elements, integer, request};

/// A key.
pub(in crate::engine) type Name = Arc<[u8]>;

/// Puts elements back. Its first command is a write that changes nothing: a server that is out of
/// memory lets a script go on once it has written.
const PUSH_LEFT: &str = "redis.pcall('lpop',KEYS[1],0) for i=1,#ARGV do redis.call('lpush',KEYS[1],ARGV[i]) end";
const PUSH_RIGHT: &str = "redis.pcall('lpop',KEYS[1],0) for i=1,#ARGV do redis.call('rpush',KEYS[1],ARGV[i]) end";
const ADD_SORTED: &str =
    "redis.pcall('zpopmin',KEYS[1],0) for i=1,#ARGV,2 do redis.call('zadd',KEYS[1],ARGV[i],ARGV[i+1]) end";

/// What the server is to be told, and what it does to what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Form {
    /// BLPOP, BRPOP, BZPOPMIN, BZPOPMAX.
    Pop(End),
    /// BLMPOP, BZMPOP.
    Several(End),
    /// BLMOVE, BRPOPLPUSH: nothing has to be put back, the element is in the other list.
    Move,
    Read,
    /// XREADGROUP: what it delivered to a client that is gone stays pending, as in Redis.
    Group,
}

/// Where elements are taken from, and where they go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum End {
    Left,
    Right,
    Sorted,
}

/// Whom one element could go to: those who wait on one key for the same kind of thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Kind {
    List,
    Sorted,
    /// Readers take nothing from each other; each has his own number.
    Read(u64),
    Group(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(in crate::engine) struct Words {
    pub(in crate::engine) form: Form,
    pub(in crate::engine) keys: Vec<Name>,
    /// One per key for streams, else none.
    pub(in crate::engine) ids: Vec<Vec<u8>>,
    /// The words before the key and behind it when one key is tried.
    head: Vec<Vec<u8>>,
    tail: Vec<Vec<u8>>,
    /// How long it waits, in microseconds; None: for ever.
    pub(in crate::engine) patience: Option<u64>,
    /// A stream command that was told to block; the others always are.
    pub(in crate::engine) blocks: bool,
}

/// Why a command cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Wrong {
    /// This is the answer.
    Text(&'static str),
    /// A server says what is wrong with it.
    Words,
}

const NO_FLOAT: Wrong = Wrong::Text("ERR timeout is not a float or out of range");
const NEGATIVE: Wrong = Wrong::Text("ERR timeout is negative");

impl Words {
    /// Of a request whose keys are at `keys`.
    pub(in crate::engine) fn of(row: &Command, args: Args<'_>, keys: &[u32]) -> Result<Self, Wrong> {
        let words = |from: usize, to: usize| (from..to).map(|at| args.at(at).to_vec()).collect::<Vec<_>>();
        let last = args.len() - 1;
        let word = |text: &str| vec![text.as_bytes().to_vec()];
        let names = |keys: &[u32]| keys.iter().map(|key| Name::from(args.at(*key as usize))).collect::<Vec<_>>();
        let pop = |end, now: &str| -> Result<Self, Wrong> {
            let patience = seconds(args.at(last))?;
            Ok(Self::new(Form::Pop(end), names(keys), word(now), Vec::new(), patience))
        };
        match row.name {
            "blpop" => pop(End::Left, "LPOP"),
            "brpop" => pop(End::Right, "RPOP"),
            "bzpopmin" => pop(End::Sorted, "ZPOPMIN"),
            "bzpopmax" => pop(End::Sorted, "ZPOPMAX"),
            "blmpop" | "bzmpop" => {
                let end = 3 + keys.len();
                let from = match () {
                    () if row.name == "bzmpop" && (args.is(end, "min") || args.is(end, "max")) => End::Sorted,
                    () if row.name == "blmpop" && args.is(end, "left") => End::Left,
                    () if row.name == "blmpop" && args.is(end, "right") => End::Right,
                    () => return Err(Wrong::Words),
                };
                let count = args.is(end + 1, "count") && integer(args.at(end + 2)).is_some_and(|count| count > 0);
                if keys.is_empty() || !(last == end || last == end + 2 && count) {
                    return Err(Wrong::Words);
                }
                let patience = seconds(args.at(1))?;
                let now = if from == End::Sorted { "ZMPOP" } else { "LMPOP" };
                let head = [word(now), word("1")].concat();
                Ok(Self::new(Form::Several(from), names(keys), head, words(end, last + 1), patience))
            }
            "blmove" | "brpoplpush" => {
                let side = |at: usize| args.is(at, "left") || args.is(at, "right");
                if row.name == "blmove" && !(side(3) && side(4)) {
                    return Err(Wrong::Words);
                }
                let patience = seconds(args.at(last))?;
                let now = if row.name == "blmove" { "LMOVE" } else { "RPOPLPUSH" };
                Ok(Self::new(Form::Move, names(&keys[..1]), word(now), words(2, last), patience))
            }
            "xread" | "xreadgroup" => Self::of_streams(row, args, keys),
            _ => Err(Wrong::Words),
        }
    }

    fn of_streams(row: &Command, args: Args<'_>, keys: &[u32]) -> Result<Self, Wrong> {
        let form = if row.name == "xread" { Form::Read } else { Form::Group };
        let first = *keys.first().ok_or(Wrong::Words)? as usize;
        let (mut head, mut patience, mut blocks, mut grouped) = (vec![args.at(0).to_vec()], None, false, false);
        let mut at = 1;
        while at + 1 < first {
            let step = match () {
                () if args.is(at, "block") => {
                    let wait = integer(args.at(at + 1)).and_then(|ms| u64::try_from(ms).ok()).ok_or(Wrong::Words)?;
                    blocks = true;
                    patience = (wait > 0).then(|| wait.saturating_mul(1000));
                    at += 2;
                    continue;
                }
                () if args.is(at, "count") => {
                    integer(args.at(at + 1)).ok_or(Wrong::Words)?;
                    2
                }
                () if form == Form::Group && args.is(at, "group") => {
                    grouped = true;
                    3
                }
                () if form == Form::Group && args.is(at, "noack") => 1,
                () => return Err(Wrong::Words),
            };
            head.extend((at..at + step).map(|word| args.at(word).to_vec()));
            at += step;
        }
        let ids: Vec<Vec<u8>> = (first + keys.len()..args.len()).map(|at| args.at(at).to_vec()).collect();
        if at + 1 != first || ids.len() != keys.len() || grouped != (form == Form::Group) {
            return Err(Wrong::Words);
        }
        let names = keys.iter().map(|key| Name::from(args.at(*key as usize))).collect();
        let mut words = Self::new(form, names, head, Vec::new(), patience);
        (words.ids, words.blocks) = (ids, blocks);
        Ok(words)
    }

    fn new(form: Form, keys: Vec<Name>, head: Vec<Vec<u8>>, tail: Vec<Vec<u8>>, patience: Option<u64>) -> Self {
        Self { form, keys, ids: Vec::new(), head, tail, patience, blocks: true }
    }

    /// Whom it competes with; `number` tells readers apart.
    pub(in crate::engine) fn kind(&self, number: u64) -> Kind {
        match self.form {
            Form::Pop(End::Sorted) | Form::Several(End::Sorted) => Kind::Sorted,
            Form::Pop(_) | Form::Several(_) | Form::Move => Kind::List,
            Form::Read => Kind::Read(number),
            Form::Group => Kind::Group(self.group().to_vec()),
        }
    }

    fn group(&self) -> &[u8] {
        let at = self.head.iter().position(|word| word.eq_ignore_ascii_case(b"group"));
        at.and_then(|at| self.head.get(at + 1)).map_or(&[][..], Vec::as_slice)
    }

    /// The request that takes from key number `key` what is there, now or not at all.
    pub(super) fn attempt(&self, key: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let name = &self.keys[key];
        if let Form::Read | Form::Group = self.form {
            self.streams(&[key], &self.ids, &mut frame);
            return frame;
        }
        let mut args: Vec<&[u8]> = self.head.iter().map(Vec::as_slice).collect();
        args.push(name);
        args.extend(self.tail.iter().map(Vec::as_slice));
        request(&mut frame, &args);
        frame
    }

    /// What the blocking command would have said where the attempt said this.
    pub(super) fn said(&self, key: usize, reply: &[u8]) -> Vec<u8> {
        let Form::Pop(end) = self.form else { return reply.to_vec() };
        if reply.first() == Some(&b'-') || is_nil(reply) {
            return reply.to_vec();
        }
        let mut out = Vec::new();
        let mut said = Reply::new(&mut out, Proto::Resp2);
        if end != End::Sorted {
            said.array(2).bulk(&*self.keys[key]).raw(reply);
            return out;
        }
        let fields: Vec<&[u8]> = elements(reply).collect();
        match fields.as_slice() {
            [member, score] => _ = said.array(3).bulk(&*self.keys[key]).raw(member).raw(score),
            _ => _ = said.raw(b"*-1\r\n"),
        }
        out
    }

    /// The stream command for some of its keys, which does not block.
    pub(in crate::engine) fn streams(&self, keys: &[usize], ids: &[Vec<u8>], out: &mut Vec<u8>) {
        let mut args: Vec<&[u8]> = self.head.iter().map(Vec::as_slice).collect();
        args.push(b"STREAMS");
        args.extend(keys.iter().map(|key| &*self.keys[*key]));
        args.extend(keys.iter().map(|key| ids[*key].as_slice()));
        request(out, &args);
    }

    /// How what a reply holds is put back: requests in the order in which they are worth a try. None
    /// when nothing was taken, or nothing has to go back.
    pub(super) fn undo(&self, key: &Name, reply: &[u8]) -> Option<[Vec<u8>; 2]> {
        let (Form::Pop(end) | Form::Several(end)) = self.form else { return None };
        let fields: Vec<&[u8]> = elements(reply).collect();
        let taken: Vec<Vec<u8>> = match (self.form, end) {
            (Form::Pop(End::Sorted), _) => vec![body(fields.get(2)?).to_vec(), body(fields.get(1)?).to_vec()],
            (Form::Pop(_), _) => vec![body(fields.get(1)?).to_vec()],
            (_, End::Sorted) => elements(fields.get(1)?)
                .flat_map(|pair| {
                    let both: Vec<&[u8]> = elements(pair).map(body).collect();
                    [
                        both.get(1).copied().unwrap_or_default().to_vec(),
                        both.first().copied().unwrap_or_default().to_vec(),
                    ]
                })
                .collect(),
            // The last one taken goes back first.
            _ => elements(fields.get(1)?).map(|one| body(one).to_vec()).collect::<Vec<_>>().into_iter().rev().collect(),
        };
        if taken.is_empty() {
            return None;
        }
        let (script, plain) = match end {
            End::Left => (PUSH_LEFT, "LPUSH"),
            End::Right => (PUSH_RIGHT, "RPUSH"),
            End::Sorted => (ADD_SORTED, "ZADD"),
        };
        let frame = |head: &[&[u8]]| {
            let mut frame = Vec::new();
            let args: Vec<&[u8]> = head.iter().copied().chain(taken.iter().map(Vec::as_slice)).collect();
            request(&mut frame, &args);
            frame
        };
        Some([frame(&[b"EVAL", script.as_bytes(), b"1", key]), frame(&[plain.as_bytes(), key])])
    }

    /// What the client gets when its time is over.
    pub(super) fn nothing(proto: Proto) -> &'static [u8] {
        if proto == Proto::Resp3 { b"_\r\n" } else { b"*-1\r\n" }
    }
}

/// Nothing was there.
pub(in crate::engine) fn is_nil(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"_\r\n" | b"$-1\r\n")
}

/// The text of a bulk string, or of a line.
pub(in crate::engine) fn body(element: &[u8]) -> &[u8] {
    let text = element.get(1..element.len().saturating_sub(2)).unwrap_or_default();
    match element.first() {
        Some(b'$') => text.iter().position(|byte| *byte == b'\n').map_or(&[], |at| &text[at + 1..]),
        _ => text,
    }
}

/// `ms` or `ms-seq`.
pub(in crate::engine) fn is_id(word: &[u8]) -> bool {
    let number = |part: &[u8]| {
        part.iter().all(u8::is_ascii_digit) && std::str::from_utf8(part).is_ok_and(|text| text.parse::<u64>().is_ok())
    };
    let mut parts = word.splitn(2, |byte| *byte == b'-');
    parts.next().is_some_and(number) && parts.next().is_none_or(number)
}

/// A timeout in seconds, as Redis reads it: milliseconds, rounded up; 0 is for ever.
fn seconds(word: &[u8]) -> Result<Option<u64>, Wrong> {
    let text = std::str::from_utf8(word).map_err(|_| NO_FLOAT)?;
    let value: f64 = text.parse().map_err(|_| NO_FLOAT)?;
    if value.is_nan() {
        return Err(NO_FLOAT);
    }
    let ms = (value * 1000.0).ceil();
    // What does not fit wraps around in Redis, and is negative then.
    if ms < 0.0 || ms >= i64::MAX as f64 {
        return Err(NEGATIVE);
    }
    Ok((ms > 0.0).then(|| (ms as u64).saturating_mul(1000)))
}

/// An error in the form of a reply.
pub(super) fn error(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Reply::new(&mut out, Proto::Resp2).error(text);
    out
}

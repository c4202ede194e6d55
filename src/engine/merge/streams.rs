//! XREAD and XREADGROUP over several shards, step by step: what `$` means now, whether every group is
//! there, then what is to be read. LMPOP and ZMPOP: one shard after the other until one has something.

use std::collections::VecDeque;

use super::{Finish, Kind, Merge, Need, text, value};
use crate::engine::waiting::{Form, Words, body, is_id, is_nil};
use crate::resp::{Proto, Reply, elements};
use crate::topology::ShardId;

/// Reads nothing, and says what would be wrong with reading. The very last id means `>`.
const END: &[u8] = b"18446744073709551615-18446744073709551614";

/// Where a command on several streams has got to.
#[derive(Debug)]
pub(in crate::engine) struct Streams {
    words: Words,
    /// Others wait already for what this one would take: it may not go first.
    older: bool,
    /// The positions of each part's keys; no key is twice in one part.
    parts: Vec<(ShardId, Vec<usize>)>,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// XINFO STREAM for each of these keys, whose id is `$`.
    Resolve(Vec<usize>),
    /// XREADGROUP changes something where it is carried out: it is only begun when every shard would.
    Check,
    Read,
}

impl Streams {
    pub(in crate::engine) fn new(words: Words, older: bool, shard_of: impl Fn(&[u8]) -> ShardId) -> Self {
        let mut parts: Vec<(ShardId, Vec<usize>)> = Vec::new();
        for (at, key) in words.keys.iter().enumerate() {
            let shard = shard_of(key);
            let new = |part: &&mut (ShardId, Vec<usize>)| {
                part.0 == shard && !part.1.iter().any(|other| words.keys[*other] == *key)
            };
            match parts.iter_mut().find(new) {
                Some(part) => part.1.push(at),
                None => parts.push((shard, vec![at])),
            }
        }
        let latest: Vec<usize> = (0..words.ids.len()).filter(|at| words.ids[*at] == b"$").collect();
        let step = match words.form {
            Form::Read if words.blocks && !latest.is_empty() => Step::Resolve(latest),
            Form::Group if parts.len() > 1 || older => Step::Check,
            _ => Step::Read,
        };
        Self { words, older, parts, step }
    }

    /// One step after another: nothing else of the client may come between them.
    pub(in crate::engine) fn has_steps(&self) -> bool {
        self.words.blocks || self.step != Step::Read
    }

    /// What the shards are asked in this step.
    pub(in crate::engine) fn questions(&self) -> Vec<(ShardId, Vec<u8>)> {
        let frame = |keys: &[usize], ids: &[Vec<u8>]| {
            let mut out = Vec::new();
            self.words.streams(keys, ids, &mut out);
            out
        };
        match &self.step {
            Step::Resolve(keys) => keys.iter().map(|key| (self.shard(*key), self.info(*key))).collect(),
            Step::Check => {
                let ids: Vec<Vec<u8>> = self.words.ids.iter().map(|id| checked(id)).collect();
                self.parts.iter().map(|(shard, keys)| (*shard, frame(keys, &ids))).collect()
            }
            Step::Read => self.parts.iter().map(|(shard, keys)| (*shard, frame(keys, &self.words.ids))).collect(),
        }
    }

    fn shard(&self, key: usize) -> ShardId {
        self.parts.iter().find(|(_, keys)| keys.contains(&key)).map_or(ShardId(0), |part| part.0)
    }

    fn info(&self, key: usize) -> Vec<u8> {
        let mut out = Vec::new();
        crate::resp::request(&mut out, &[&b"XINFO"[..], b"STREAM", &*self.words.keys[key]]);
        out
    }

    /// All parts of a step are there.
    pub(super) fn advance(mut self, parts: &[Vec<u8>], proto: Proto) -> Finish {
        let resolving = matches!(self.step, Step::Resolve(_));
        // A stream that is not there has no last element.
        let fails =
            |part: &&Vec<u8>| part.first() == Some(&b'-') && !(resolving && part.starts_with(b"-ERR no such key"));
        if let Some(error) = parts.iter().find(fails) {
            let delivered = self.words.form == Form::Group
                && self.step == Step::Read
                && parts.iter().any(|part| part.first() != Some(&b'-') && !is_nil(part));
            if !delivered {
                return Finish::Reply(error.clone());
            }
            let mut out = Vec::new();
            let text = format!("{} (other shards may have applied their part)", text(error));
            Reply::new(&mut out, Proto::Resp2).error(&text);
            return Finish::Reply(out);
        }
        match std::mem::replace(&mut self.step, Step::Read) {
            Step::Resolve(keys) => {
                for (key, part) in keys.into_iter().zip(parts) {
                    let fields = value::pairs(part, proto);
                    let last = fields.into_iter().find(|(name, _)| name == b"last-generated-id");
                    self.words.ids[key] = last.map_or_else(|| b"0-0".to_vec(), |(_, id)| body(id).to_vec());
                }
                self.ask()
            }
            // Only new elements can be waited for.
            Step::Check if self.older && self.words.blocks && self.words.ids.iter().all(|id| id == b">") => {
                Finish::Wait(Box::new(self.words))
            }
            Step::Check => self.ask(),
            Step::Read => self.read(parts, proto),
        }
    }

    fn ask(self) -> Finish {
        let questions = self.questions();
        let pending = questions.len();
        let writes = self.words.form == Form::Group;
        let merge = Box::new(Merge::new(Kind::Streams(Box::new(self)), pending, writes));
        Finish::Ask { questions, need: Need::All, merge }
    }

    /// The streams that have something, in the order of the request.
    fn read(self, parts: &[Vec<u8>], proto: Proto) -> Finish {
        let mut streams: Vec<(usize, &[u8], &[u8])> = Vec::new();
        for (part, (_, keys)) in parts.iter().zip(&self.parts) {
            for (name, entries) in pairs(part) {
                let key = keys.iter().find(|key| *self.words.keys[**key] == *body(name));
                streams.push((key.copied().unwrap_or(usize::MAX), name, entries));
            }
        }
        if streams.is_empty() && self.words.blocks {
            return Finish::Wait(Box::new(self.words));
        }
        streams.sort_by_key(|stream| stream.0);
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, proto);
        match (proto, streams.len()) {
            (Proto::Resp2, 0) => _ = reply.raw(b"*-1\r\n"),
            (Proto::Resp3, 0) => _ = reply.null(),
            (Proto::Resp2, count) => {
                reply.array(count);
                streams.iter().for_each(|(_, name, entries)| _ = reply.array(2).raw(name).raw(entries));
            }
            (Proto::Resp3, count) => {
                reply.map(count);
                streams.iter().for_each(|(_, name, entries)| _ = reply.raw(name).raw(entries));
            }
        }
        Finish::Reply(out)
    }
}

/// An id that reads nothing, for one that a server would accept.
fn checked(id: &[u8]) -> Vec<u8> {
    if id == b">" || is_id(id) { END.to_vec() } else { id.to_vec() }
}

/// Names and entries of one server's reply.
fn pairs(part: &[u8]) -> Vec<(&[u8], &[u8])> {
    if part.first() == Some(&b'%') {
        let mut fields = elements(part);
        return std::iter::from_fn(|| Some((fields.next()?, fields.next()?))).collect();
    }
    elements(part)
        .filter_map(|pair| {
            let mut fields = elements(pair);
            Some((fields.next()?, fields.next()?))
        })
        .collect()
}

/// One shard had its turn: the next one is asked when it had nothing.
pub(super) fn pops(mut left: VecDeque<(ShardId, Vec<u8>)>, part: &[u8]) -> Finish {
    match left.pop_front() {
        Some(question) if is_nil(part) => {
            let merge = Box::new(Merge::new(Kind::Pops { left }, 1, false));
            Finish::Ask { questions: vec![question], need: Need::All, merge }
        }
        _ => Finish::Reply(part.to_vec()),
    }
}

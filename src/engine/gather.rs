//! Commands whose keys are on several shards and must be seen together: the others' values are
//! brought to the shard where the command runs, as copies that exist only while it does.
//!
//! ```text
//! SORT's patterns -> its elements, which say what keys are meant     (only then)
//! the other keys  -> DUMP, each on its shard; nothing is written yet
//! measured        -> more than `gather_bytes_max` is refused
//! a read          -> MULTI { EVAL restores ; the command ; EVAL unlinks } EXEC, in one batch
//! a write         -> EVAL { restores ; the command ; unlinks } where the key is that it writes
//! ```
//!
//! All that changes anything is one atomic step on one shard, so a client or a connection that goes
//! at any time leaves nothing behind. The client's later requests wait until it is answered. RENAME,
//! which moves a key, is told in `gather/rename.rs`.

mod frames;
mod rename;
mod sort;

use super::client::{Park, State};
use super::merge::{Kind, Merge};
use super::request::{Flow, Request};
use super::waiting::body;
use super::{CROSS_GATHERED, CROSS_REFUSED, Engine, NONE, failure};
use crate::advice::Outcome;
use crate::command::{Class, Gather as How};
use crate::resp::{Args, elements};
use crate::route::{self, RESERVED};
use crate::topology::ShardId;
pub(super) use rename::Renames;

/// Keys that are copied for one command.
const COPIES_MAX: usize = 10_000;
/// Arguments of a command that a script runs: Lua hands over no more than some 8,000 at once.
pub(super) const SCRIPT_ARGS_MAX: usize = 7_900;
/// Part number of replies that only matter when they are errors.
const QUEUED: u16 = u16::MAX;
/// Part number of the reply that the step is for.
const RESULT: u16 = u16::MAX - 1;

/// A command on its way, and what was brought together for it.
#[derive(Debug)]
pub(super) struct Gather {
    how: How,
    /// It is written by a script, so that a copy that cannot be made stops it.
    writes: bool,
    step: Step,
    /// The command, with the copies' names in the places of their keys.
    words: Vec<Vec<u8>>,
    /// Where it runs, and why there: the first key, or the one that it writes.
    target: ShardId,
    anchor: Vec<u8>,
    copies: Vec<Copy>,
    /// What the copies' names begin with.
    prefix: Vec<u8>,
    /// Patterns whose keys are to be copied, by their places among the words.
    patterns: Vec<u32>,
    /// Of all payloads.
    bytes: usize,
    bytes_max: usize,
    error: Option<Vec<u8>>,
    result: Vec<u8>,
}

/// What a gather waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Elements,
    Dump,
    Run,
}

/// A key of another shard.
#[derive(Debug)]
struct Copy {
    key: Vec<u8>,
    shard: ShardId,
    /// What DUMP said; None: there is no such key.
    payload: Option<Vec<u8>>,
    /// Until when it lives, as RESTORE takes it.
    ttl: Vec<u8>,
}

impl Gather {
    fn new(how: How, writes: bool, number: u64, args: Args<'_>, (target, anchor): (ShardId, &[u8])) -> Self {
        Self {
            how,
            writes,
            step: Step::Dump,
            words: args.iter().map(<[u8]>::to_vec).collect(),
            target,
            anchor: anchor.to_vec(),
            copies: Vec::new(),
            prefix: [RESERVED, number.to_string().as_bytes(), b":"].concat(),
            patterns: Vec::new(),
            bytes: 0,
            bytes_max: 0,
            error: None,
            result: Vec::new(),
        }
    }

    /// Takes the reply to a part of the step.
    pub(super) fn add(&mut self, part: u16, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            self.error.get_or_insert_with(|| reply.to_vec());
            return;
        }
        if part == RESULT {
            self.result = reply.to_vec();
        } else if self.how == How::Copy && part == 0 && self.step == Step::Dump {
            // The payload and the time to live, read at one moment.
            let mut both = elements(reply);
            let (payload, ttl) = (both.next().unwrap_or_default(), both.next().unwrap_or_default());
            self.keep(0, payload);
            self.copies[0].ttl = frames::ttl(ttl);
        } else if part != QUEUED {
            self.keep(part as usize, reply);
        }
    }

    /// What is too large altogether is measured, not kept.
    fn keep(&mut self, copy: usize, reply: &[u8]) {
        let Some(copy) = self.copies.get_mut(copy).filter(|_| reply.starts_with(b"$") && !reply.starts_with(b"$-"))
        else {
            return;
        };
        let payload = body(reply);
        self.bytes += payload.len();
        copy.payload = (self.bytes <= self.bytes_max).then(|| payload.to_vec());
    }

    /// A copy of this key is needed.
    fn wants(&mut self, key: &[u8], shard: ShardId) {
        let missing = Copy { key: key.to_vec(), shard, payload: None, ttl: b"0".to_vec() };
        self.copies.push(missing);
    }

    fn name(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// The shards that are asked for copies, each once.
    fn sources(&self) -> Vec<ShardId> {
        let mut all: Vec<ShardId> = self.copies.iter().map(|copy| copy.shard).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Engine {
    /// A command whose keys, at the positions `keys`, are on several shards.
    #[cold]
    pub(super) fn gather(&mut self, id: u32, how: How, keys: &[u32], request: &Request<'_>) -> Flow {
        if self.watched_conn(id) != NONE && !self.clients[id as usize].slots.is_empty() {
            // EXEC would forget what its lease watches, so other connections are used: not before
            // that one has answered.
            return Flow::Parked(Park::Empty);
        }
        if let How::Rename { overwrites } = how {
            return self.rename(id, overwrites, request);
        }
        let gather = self.gather_of(id, how, keys, request.args);
        if let Some(why) = self.cannot_gather(&gather) {
            self.advise_of(request.args, Outcome::Refused);
            self.metrics.cross_shard[CROSS_REFUSED].inc();
            return self.answer_error(id, why);
        }
        let first = if gather.patterns.is_empty() { None } else { Some(self.topology.shard_of(request.args.at(1))) };
        let steps = gather.sources().into_iter().map(|shard| (shard, Step::Dump)).chain([(gather.target, Step::Run)]);
        for (shard, step) in steps.chain(first.map(|shard| (shard, Step::Elements))) {
            let conn = self.gather_conn(id, shard, step);
            if conn == NONE {
                return self.answer_down(id, shard, request.row.class());
            }
            if self.is_full(conn) {
                return self.wait_for(id, conn);
            }
        }
        self.advise_of(request.args, Outcome::Gathered);
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        let seq = client.open(State::Wait, Class::Split, self.now);
        match first {
            Some(shard) => self.ask_elements(id, seq, Box::new(gather), shard),
            None => self.ask_dumps(id, seq, Box::new(gather)),
        }
        Flow::Taken
    }

    /// What is to be copied, and the command with the copies' names.
    fn gather_of(&mut self, id: u32, how: How, keys: &[u32], args: Args<'_>) -> Gather {
        let writes = match how {
            How::Read | How::Rename { .. } => false,
            How::StoreFirst | How::StoreLast | How::Copy => true,
            How::Sort => keys.len() > 1,
        };
        let anchor = match how {
            How::StoreLast | How::Copy | How::Sort => keys.last(),
            _ => keys.first(),
        };
        let anchor = anchor.map_or(&[][..], |at| args.at(*at as usize));
        let target = self.topology.shard_of(anchor);
        self.gathers += 1;
        let mut gather = Gather::new(how, writes, self.gathers, args, (target, anchor));
        gather.bytes_max = self.options.gather_bytes_max;
        // What it reads where it is would not be tracked: the command does not run on its own connection.
        let all = !writes && self.watched_conn(id) != NONE && self.tracking(id).is_some();
        let mut known = std::collections::HashSet::new();
        for at in keys {
            let key = args.at(*at as usize);
            let shard = self.topology.shard_of(key);
            if shard == target && !all {
                continue;
            }
            gather.words[*at as usize] = gather.name(key);
            if known.insert(key) {
                gather.wants(key, shard);
            }
        }
        if how == How::Sort {
            gather.patterns = route::foreign_patterns(args, target, &self.topology).collect();
        }
        gather
    }

    /// Why the values are not brought together.
    fn cannot_gather(&self, gather: &Gather) -> Option<String> {
        let why = if gather.writes && gather.words.len() > SCRIPT_ARGS_MAX {
            format!("it has more than {SCRIPT_ARGS_MAX} arguments")
        } else if gather.copies.len() > COPIES_MAX {
            format!("it needs more than {COPIES_MAX} keys of other shards")
        } else if gather.bytes > gather.bytes_max {
            let (bytes, max) = (gather.bytes, gather.bytes_max);
            failure::too_large(bytes, max)
        } else {
            gather.sources().into_iter().find_map(|source| self.unreadable(source, gather.target))?
        };
        let other = gather.copies.iter().find(|copy| copy.shard != gather.target).or(gather.copies.first());
        let other = other.map_or((&[][..], gather.target), |copy| (copy.key.as_slice(), copy.shard));
        let remedy = self.remedy(&[&gather.anchor, other.0]);
        Some(failure::cannot_gather((&gather.anchor, gather.target), other, &why, &remedy, &self.topology))
    }

    /// Why what `source` writes cannot be restored on `target`.
    fn unreadable(&self, source: ShardId, target: ShardId) -> Option<String> {
        let state = |shard: ShardId| &self.shards[shard.0 as usize];
        let said = |shard: ShardId| {
            let version = state(shard).version.as_deref().unwrap_or("unknown");
            format!("{} ({version})", self.topology.shard(shard).name)
        };
        frames::is_unreadable(state(source), state(target))
            .then(|| format!("{} cannot read what {} writes", said(target), said(source)))
    }

    /// The connection for what a gather asks of a shard in this step: the client's usual one, so that its
    /// requests keep their order and that what it reads is tracked; but nothing runs on one that watches keys.
    fn gather_conn(&mut self, id: u32, shard: ShardId, step: Step) -> u32 {
        let tracks = step == Step::Dump && self.tracking(id).is_some();
        if tracks || self.watched_conn(id) == NONE {
            return self.conn_to(id, shard);
        }
        let client = &self.clients[id as usize];
        self.shared(shard, client.proto, client.db)
    }

    /// The slot waits for `count` replies to the step that is about to be asked.
    fn gather_step(&mut self, id: u32, seq: u32, gather: Box<Gather>, count: usize) {
        if let Some(slot) = self.clients[id as usize].slot(seq) {
            slot.state = State::Merge(Box::new(Merge::new(Kind::Gather(gather), count, false)));
        }
    }

    /// All replies to the step are there.
    pub(super) fn gathered(&mut self, id: u32, seq: u32, mut gather: Box<Gather>) {
        // What cannot be sorted has no elements; whether the command says so, or first what else is wrong
        // with it, is seen when it runs.
        let unsorted = |error: &Vec<u8>| gather.step == Step::Elements && error.starts_with(b"-WRONGTYPE");
        if let Some(error) = gather.error.take().filter(|error| !unsorted(error)) {
            let text = if gather.step == Step::Run { error } else { failure::not_begun(&error) };
            return self.finish_with(id, seq, &text);
        }
        match gather.step {
            Step::Elements => {
                sort::expand(&mut gather, |key| self.topology.shard_of(key));
                match self.cannot_gather(&gather) {
                    Some(why) => self.refuse_gather(id, seq, &why),
                    None => self.ask_dumps(id, seq, gather),
                }
            }
            Step::Dump => match self.cannot_gather(&gather) {
                Some(why) => self.refuse_gather(id, seq, &why),
                None => self.run_gather(id, seq, gather),
            },
            Step::Run => {
                let reply = if gather.writes { &gather.result } else { frames::said(&gather.result) };
                self.finish_with(id, seq, reply);
            }
        }
    }

    fn refuse_gather(&mut self, id: u32, seq: u32, why: &str) {
        self.metrics.cross_shard[CROSS_REFUSED].inc();
        self.finish_with(id, seq, format!("-{why}\r\n").as_bytes());
    }

    /// A shard that is asked in a later step is not there (any more).
    fn gather_lost(&mut self, id: u32, seq: u32, shard: ShardId) {
        let text = self.gone_between_steps(shard);
        self.finish_with(id, seq, &text);
    }

    /// Asks for what SORT would sort: its patterns name keys by it.
    fn ask_elements(&mut self, id: u32, seq: u32, mut gather: Box<Gather>, shard: ShardId) {
        let conn = self.gather_conn(id, shard, Step::Elements);
        gather.step = Step::Elements;
        let key = gather.copies.first().map_or(&gather.words[1], |copy| &copy.key).clone();
        self.gather_step(id, seq, gather, 1);
        self.expect(conn, id, seq, RESULT, false);
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, &[b"SORT", &key[..], b"BY", b"nosort"]));
    }

    /// Asks for the values of all keys that are to be copied.
    fn ask_dumps(&mut self, id: u32, seq: u32, mut gather: Box<Gather>) {
        gather.step = Step::Dump;
        let mut conns = vec![NONE; self.shards.len()];
        for shard in gather.sources() {
            conns[shard.0 as usize] = self.gather_conn(id, shard, Step::Dump);
            if conns[shard.0 as usize] == NONE {
                return self.gather_lost(id, seq, shard);
            }
        }
        let copies: Vec<(u32, Vec<u8>)> =
            gather.copies.iter().map(|copy| (conns[copy.shard.0 as usize], copy.key.clone())).collect();
        if copies.is_empty() {
            return self.run_gather(id, seq, gather);
        }
        if gather.how == How::Copy {
            let has_absolute = frames::has_absolute(&self.shards[gather.copies[0].shard.0 as usize]);
            let (conn, key) = &copies[0];
            self.gather_step(id, seq, gather, 4);
            for (part, frame) in frames::dump_with_ttl(key, has_absolute) {
                self.expect(*conn, id, seq, part, false);
                self.conns[*conn as usize].out.push(&frame);
            }
            return;
        }
        self.gather_step(id, seq, gather, copies.len());
        for (part, (conn, key)) in copies.iter().enumerate() {
            if copies[..part].iter().any(|(earlier, _)| earlier == conn) {
                self.announce_again(id, *conn);
            }
            self.expect(*conn, id, seq, part as u16, false);
            self.conns[*conn as usize].out.write(|out| crate::resp::request(out, &[b"DUMP", &key[..]]));
        }
    }

    /// Sends the one step that changes something, in one uninterrupted batch.
    fn run_gather(&mut self, id: u32, seq: u32, mut gather: Box<Gather>) {
        let shard = gather.target;
        let conn = self.gather_conn(id, shard, Step::Run);
        if conn == NONE {
            return self.gather_lost(id, seq, shard);
        }
        self.metrics.cross_shard[CROSS_GATHERED].inc();
        gather.step = Step::Run;
        let has_absolute =
            gather.copies.first().is_some_and(|copy| frames::has_absolute(&self.shards[copy.shard.0 as usize]));
        let frames = if gather.writes { frames::write(&gather, has_absolute) } else { frames::read(&gather) };
        gather.copies = Vec::new();
        self.gather_step(id, seq, gather, frames.len());
        for (part, frame) in frames {
            self.expect(conn, id, seq, part, false);
            self.conns[conn as usize].out.hand_over(frame.into());
        }
    }
}

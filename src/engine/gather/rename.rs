//! RENAME and RENAMENX between shards: the one command that moves a key, so that two shards change.
//!
//! ```text
//! look     WATCH, DUMP and the time to live of both names, on a lease to each shard
//! restore  MULTI { RESTORE under the new name } EXEC      not if that one changed: look again
//! delete   MULTI { UNLINK the old name } EXEC             not if that one changed: look again
//! undo     MULTI { what was there before } EXEC           not if somebody else has changed it
//! ```
//!
//! The value is there under the new name before it goes under the old one, so nothing that fails or dies
//! can lose it, and neither name is written unless it is as it was when it was looked at, so no write of
//! another client is lost. What cannot be finished is undone; where that cannot be known or done the
//! error says what may exist. It is nobody's once it has begun: a client that goes does not stop it.

use slab::Slab;

use super::{QUEUED, RESULT, frames};
use crate::advice;
use crate::command::Class;
use crate::engine::client::{Park, State};
use crate::engine::conn::{Conn, MOVER, NOBODY, TRANSACTION, Use};
use crate::engine::failure::{self, Left};
use crate::engine::request::{Flow, Request};
use crate::engine::{CROSS_GATHERED, CROSS_REFUSED, Engine, NONE};
use crate::resp::{Proto, elements, request as write};
use crate::topology::{ShardId, Topology};

/// Looks at two names that others keep changing.
const LOOKS_MAX: u32 = 100;
/// Further ones at the new name, to put back what was there.
const UNDOS_MAX: u32 = 10;

/// All that are under way.
pub(in crate::engine) type Renames = Slab<Box<Rename>>;

#[derive(Debug)]
pub(in crate::engine) struct Rename {
    client: u32,
    generation: u32,
    seq: u32,
    /// RENAME, not RENAMENX.
    overwrites: bool,
    /// When it is given up.
    until: u64,
    from: Side,
    to: Side,
    looks: u32,
    step: Step,
    /// Replies to the step that are still to come.
    pending: usize,
    /// The first error among them.
    error: Option<Vec<u8>>,
    /// What EXEC said.
    result: Vec<u8>,
    /// What it has written under the new name, and what was there before.
    written: Option<Written>,
    /// Others have changed what it had written under the new name, and it was written over.
    mixed: bool,
    /// The answer once it is undone.
    given_up: Option<Vec<u8>>,
}

/// One of the two names.
#[derive(Debug)]
struct Side {
    key: Vec<u8>,
    shard: ShardId,
    /// The lease that watches it; [`NONE`] once it broke.
    conn: u32,
    has_absolute: bool,
    payload: Vec<u8>,
    ttl: Vec<u8>,
}

#[derive(Debug)]
struct Written {
    before: Option<Value>,
    now: Option<Value>,
}

/// What a key holds, in the words of its own shard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    payload: Vec<u8>,
    ttl: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    Restore,
    Delete,
    Undo,
}

/// What a complete set of replies leads to.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Step(Step),
    End(Vec<u8>),
}

/// Parts of a look.
const FROM: u16 = 0;
const FROM_TTL: u16 = 1;
const TO: u16 = 2;
const TO_TTL: u16 = 3;

impl Side {
    fn value(&self) -> Option<Value> {
        Value::of(&self.payload, &self.ttl)
    }

    /// A word of RESTORE's when times are absolute.
    fn absolute(&self) -> Option<&'static [u8]> {
        self.has_absolute.then_some(b"ABSTTL")
    }

    fn ttl_command(&self) -> &'static [u8] {
        if self.has_absolute { b"PEXPIRETIME" } else { b"PTTL" }
    }

    /// From now on a change is noticed; and what is there. DISCARD forgets what was watched before, and
    /// who may not use MULTI is found out while nothing hangs on it: what stands behind one that is refused
    /// would be carried out at once.
    fn questions(&self, payload: u16, ttl: u16) -> Vec<(u16, Vec<u8>)> {
        let key = self.key.as_slice();
        let ask = |part: u16, words: &[&[u8]]| (part, frames::frame(words));
        vec![
            ask(QUEUED, &[b"MULTI"]),
            ask(QUEUED, &[b"DISCARD"]),
            ask(QUEUED, &[b"WATCH", key]),
            ask(payload, &[b"DUMP", key]),
            ask(ttl, &[self.ttl_command(), key]),
        ]
    }
}

impl Value {
    /// Of the replies to DUMP and to the question for the time to live; None: there is no such key.
    fn of(payload: &[u8], ttl: &[u8]) -> Option<Self> {
        let is_there = payload.starts_with(b"$") && !payload.starts_with(b"$-") && ttl != b":-2\r\n";
        is_there.then(|| Self { payload: super::body(payload).to_vec(), ttl: frames::ttl(ttl) })
    }
}

impl Rename {
    fn add(&mut self, part: u16, reply: &[u8]) {
        self.pending = self.pending.saturating_sub(1);
        match part {
            RESULT => self.result = reply.to_vec(),
            _ if reply.first() == Some(&b'-') => _ = self.error.get_or_insert_with(|| reply.to_vec()),
            FROM => self.from.payload = reply.to_vec(),
            FROM_TTL => self.from.ttl = reply.to_vec(),
            TO => self.to.payload = reply.to_vec(),
            TO_TTL => self.to.ttl = reply.to_vec(),
            _ => {}
        }
    }

    /// All replies to the step are there.
    fn next(&mut self, map: &Topology, now: u64, bytes_max: usize) -> Next {
        let result = std::mem::take(&mut self.result);
        let outcome = Outcome::of(&result, self.error.take());
        match (self.step, outcome) {
            (Step::Look, Outcome::Refused(error) | Outcome::Unknown(error)) => {
                let error = failure::not_begun(&error);
                match (&self.written, &self.given_up) {
                    (None, _) => Next::End(error),
                    // The new name may still be there to be looked at.
                    (Some(_), None) => {
                        self.given_up = Some(error);
                        Next::Step(Step::Look)
                    }
                    (Some(_), Some(_)) => self.end(&error, Left::PerhapsWritten),
                }
            }
            (Step::Look, _) => self.looked(map, now, bytes_max),
            // One of the names is not as it was.
            (_, Outcome::Changed) => Next::Step(Step::Look),
            (Step::Restore, Outcome::Ran(replies)) => {
                let found = self.to.value();
                let before = match self.written.take() {
                    Some(written) if self.is_same(&written.now, &found) => written.before,
                    // What others made of it is what there was before.
                    written => {
                        self.mixed |= written.is_some();
                        found
                    }
                };
                let now = match replies.as_slice() {
                    [_, payload, ttl] => Value::of(payload, ttl),
                    _ => None,
                };
                self.written = Some(Written { before, now });
                Next::Step(Step::Delete)
            }
            (Step::Restore, Outcome::Unknown(error)) => self.end(&error, Left::PerhapsWritten),
            (Step::Restore, Outcome::Refused(error)) if self.written.is_none() => Next::End(error),
            (Step::Delete, Outcome::Ran(_)) => {
                Next::End(if self.overwrites { b"+OK\r\n".to_vec() } else { b":1\r\n".to_vec() })
            }
            (Step::Delete, Outcome::Unknown(error)) => self.end(&error, Left::PerhapsDeleted),
            (Step::Restore | Step::Delete, Outcome::Refused(error)) => {
                self.given_up.get_or_insert(error);
                Next::Step(Step::Look)
            }
            (Step::Undo, Outcome::Ran(_)) => {
                let reason = self.given_up.take().unwrap_or_default();
                if self.mixed { self.end(&reason, Left::Changed) } else { Next::End(reason) }
            }
            (Step::Undo, Outcome::Refused(error) | Outcome::Unknown(error)) => self.end(&error, Left::PerhapsWritten),
        }
    }

    /// Both names were looked at, or to undo only the new one.
    fn looked(&mut self, map: &Topology, now: u64, bytes_max: usize) -> Next {
        let there = self.to.value();
        let is_ours = self.written.as_ref().is_some_and(|written| self.is_same(&written.now, &there));
        let bytes = self.from.payload.len() + self.to.payload.len();
        let reason = match () {
            () if let Some(reason) = self.given_up.clone() => Some(reason),
            () if self.from.value().is_none() => Some(b"-ERR no such key\r\n".to_vec()),
            () if !self.overwrites && there.is_some() && !is_ours => Some(b":0\r\n".to_vec()),
            () if self.looks >= LOOKS_MAX || now >= self.until => Some(failure::rename_outrun(self.looks)),
            () if bytes > bytes_max => {
                let why = failure::too_large(bytes, bytes_max);
                let (from, to) = ((&*self.from.key, self.from.shard), (&*self.to.key, self.to.shard));
                let text = failure::cannot_gather(from, to, &why, failure::REMEDY, map);
                Some(format!("-{text}\r\n").into_bytes())
            }
            () => None,
        };
        match reason {
            None => Next::Step(Step::Restore),
            Some(reason) if self.written.is_none() => Next::End(reason),
            Some(reason) if is_ours && self.looks < LOOKS_MAX + UNDOS_MAX => {
                self.given_up = Some(reason);
                Next::Step(Step::Undo)
            }
            Some(reason) => self.end(&reason, Left::Changed),
        }
    }

    /// Whether the new name still holds what was written there. Times that pass are not compared.
    fn is_same(&self, written: &Option<Value>, there: &Option<Value>) -> bool {
        match (written, there) {
            (Some(one), Some(other)) if !self.to.has_absolute => one.payload == other.payload,
            _ => written == there,
        }
    }

    fn end(&self, reason: &[u8], left: Left) -> Next {
        Next::End(failure::half_renamed(reason, &self.from.key, &self.to.key, left))
    }

    /// The requests of a step to the side on which it runs, with the part that each reply is.
    fn frames(&self, step: Step) -> Vec<(u16, Vec<u8>)> {
        let (from, to) = (&self.from, &self.to);
        let dump =
            [(QUEUED, frames::frame(&[b"DUMP", &to.key])), (QUEUED, frames::frame(&[to.ttl_command(), &to.key]))];
        let restore = |payload: &[u8], ttl: &[u8], absolute: Option<&'static [u8]>| {
            let words = [&b"RESTORE"[..], &to.key, ttl, payload, b"REPLACE"];
            (QUEUED, frames::frame(&words.into_iter().chain(absolute).collect::<Vec<_>>()))
        };
        let mut all = vec![(QUEUED, frames::frame(&[b"MULTI"]))];
        match step {
            Step::Look => return Vec::new(),
            Step::Restore => {
                let value = from.value();
                let (payload, ttl) = value.as_ref().map_or((&[][..], &[][..]), |value| (&value.payload, &value.ttl));
                all.push(restore(payload, ttl, from.absolute()));
                all.extend(dump);
            }
            Step::Delete => all.push((QUEUED, frames::frame(&[b"UNLINK", &from.key]))),
            Step::Undo => all.push(match self.written.as_ref().and_then(|written| written.before.as_ref()) {
                Some(before) => restore(&before.payload, &before.ttl, to.absolute()),
                None => (QUEUED, frames::frame(&[b"UNLINK", &to.key])),
            }),
        }
        all.push((RESULT, frames::frame(&[b"EXEC"])));
        all
    }
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The replies in EXEC's array.
    Ran(Vec<Vec<u8>>),
    /// A watched name was changed: nothing ran.
    Changed,
    /// Nothing ran, for this reason.
    Refused(Vec<u8>),
    /// Nobody can say whether it ran, for this reason.
    Unknown(Vec<u8>),
}

impl Outcome {
    /// Of EXEC's reply, and the first error before it.
    fn of(result: &[u8], error: Option<Vec<u8>>) -> Self {
        match result.first() {
            Some(b'-') if failure::is_uncertain(result) => Self::Unknown(result.to_vec()),
            Some(b'-') => Self::Refused(error.unwrap_or_else(|| result.to_vec())),
            _ if matches!(result, b"*-1\r\n" | b"_\r\n") => Self::Changed,
            _ if let Some(error) = error => Self::Refused(error),
            // A look has no EXEC.
            None => Self::Ran(Vec::new()),
            Some(_) => {
                let replies: Vec<Vec<u8>> = elements(result).map(<[u8]>::to_vec).collect();
                // The first of them is what the step is for.
                match replies.first().filter(|reply| reply.first() == Some(&b'-')) {
                    Some(error) => Self::Refused(error.clone()),
                    None => Self::Ran(replies),
                }
            }
        }
    }
}

impl Engine {
    /// RENAME or RENAMENX of a key to a name on another shard.
    pub(super) fn rename(&mut self, id: u32, overwrites: bool, request: &Request<'_>) -> Flow {
        let client = &self.clients[id as usize];
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let (generation, db, args) = (client.generation, client.db, request.args);
        let shards = [1, 2].map(|at| self.topology.shard_of(args.at(at)));
        if let Some(why) = self.unreadable(shards[0], shards[1]) {
            let (from, to) = ((args.at(1), shards[0]), (args.at(2), shards[1]));
            let remedy = self.remedy(&[from.0, to.0]);
            let text = failure::cannot_gather(from, to, &why, &remedy, &self.topology);
            self.advise_of(args, advice::Outcome::Refused);
            self.metrics.cross_shard[CROSS_REFUSED].inc();
            return self.answer_error(id, text);
        }
        let mut conns = [NONE; 2];
        for (conn, shard) in conns.iter_mut().zip(shards) {
            *conn = match self.lease(id, shard, Proto::Resp2, db, false) {
                Ok(conn) => conn,
                Err(flow) => {
                    // The one that was taken before has nothing to answer.
                    self.lease_answered(conns[0]);
                    return flow;
                }
            };
        }
        self.metrics.cross_shard[CROSS_GATHERED].inc();
        self.advise_of(args, advice::Outcome::Gathered);
        let side = |at: usize| Side {
            key: args.at(at + 1).to_vec(),
            shard: shards[at],
            conn: conns[at],
            has_absolute: frames::has_absolute(&self.shards[shards[at].0 as usize]),
            payload: Vec::new(),
            ttl: Vec::new(),
        };
        let (from, to) = (side(0), side(1));
        for conn in conns {
            self.conns[conn as usize].purpose = Use::Lease { client: TRANSACTION, keep: true };
        }
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        let rename = Rename {
            client: id,
            generation,
            seq: client.open(State::Wait, Class::Split, self.now),
            overwrites,
            until: self.now + self.options.request_timeout,
            from,
            to,
            looks: 0,
            step: Step::Look,
            pending: 0,
            error: None,
            result: Vec::new(),
            written: None,
            mixed: false,
            given_up: None,
        };
        let index = self.renames.insert(Box::new(rename)) as u32;
        self.rename_step(index, Step::Look);
        Flow::Taken
    }

    /// A reply to one of the requests of a rename, or what stands for it.
    #[cold]
    pub(in crate::engine) fn moved(&mut self, index: u32, part: u16, reply: &[u8]) {
        let Some(rename) = self.renames.get_mut(index as usize) else { return };
        rename.add(part, reply);
        if rename.pending == 0 {
            self.rename_on(index);
        }
    }

    /// All replies to a step are there.
    fn rename_on(&mut self, index: u32) {
        let (now, bytes_max) = (self.now, self.options.gather_bytes_max);
        match self.renames[index as usize].next(&self.topology, now, bytes_max) {
            Next::Step(step) => self.rename_step(index, step),
            Next::End(reply) => self.end_rename(index, &reply),
        }
    }

    fn rename_step(&mut self, index: u32, step: Step) {
        let rename = &mut self.renames[index as usize];
        rename.step = step;
        let (from, to) = (rename.from.conn, rename.to.conn);
        match step {
            Step::Look => {
                rename.looks += 1;
                let (old, new) = (rename.from.questions(FROM, FROM_TTL), rename.to.questions(TO, TO_TTL));
                // To undo, the old name does not matter.
                let both = rename.given_up.is_none();
                for (conn, frames) in [(from, old), (to, new)].iter().skip(usize::from(!both)) {
                    self.ask_mover(index, *conn, frames);
                }
            }
            Step::Delete => {
                let frames = rename.frames(step);
                self.ask_mover(index, from, &frames);
            }
            Step::Restore | Step::Undo => {
                let frames = rename.frames(step);
                self.ask_mover(index, to, &frames);
            }
        }
        if self.renames[index as usize].pending == 0 {
            self.rename_on(index);
        }
    }

    /// Asks over one of the leases; one that broke is an error of the step.
    fn ask_mover(&mut self, index: u32, conn: u32, frames: &[(u16, Vec<u8>)]) {
        let rename = &mut self.renames[index as usize];
        if !is_alive(self.conns.get(conn as usize)) {
            let side = if conn == rename.from.conn { &rename.from } else { &rename.to };
            let text = failure::down(self.topology.shard(side.shard), "its connection broke between two steps");
            rename.error.get_or_insert_with(|| format!("-{text}\r\n").into_bytes());
            return;
        }
        rename.pending += frames.len();
        for (part, frame) in frames {
            self.expect(conn, MOVER, index, *part, false);
            self.conns[conn as usize].out.push(frame);
        }
    }

    /// The leases go back, and the client gets its answer if it is still there.
    fn end_rename(&mut self, index: u32, reply: &[u8]) {
        let rename = self.renames.remove(index as usize);
        for conn in [rename.from.conn, rename.to.conn] {
            if is_alive(self.conns.get(conn as usize)) {
                self.expect(conn, NOBODY, 0, 0, false);
                self.conns[conn as usize].out.write(|out| write(out, &["UNWATCH"]));
                self.conns[conn as usize].purpose = Use::Lease { client: TRANSACTION, keep: false };
            }
        }
        let client = self.clients.get(rename.client as usize);
        if client.is_some_and(|client| client.generation == rename.generation) {
            self.finish_with(rename.client, rename.seq, reply);
        }
    }

    /// A lease broke on which a name may be watched.
    pub(in crate::engine) fn mover_lost(&mut self, conn: u32) {
        for (_, rename) in &mut self.renames {
            for side in [&mut rename.from, &mut rename.to] {
                if side.conn == conn {
                    side.conn = NONE;
                }
            }
        }
    }
}

/// A connection that is being given up takes no more questions.
fn is_alive(conn: Option<&Conn>) -> bool {
    conn.is_some_and(|conn| !conn.link.is_shut())
}

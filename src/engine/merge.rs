//! Several servers' replies become one. Pure: parts in, the client's reply out, or the next question.
//!
//! Pieces that only move are cut out by our scanner; what must be understood is read in
//! `merge/value.rs`. With a single shard its reply is the answer, byte for byte, wherever it does
//! not speak of what is the proxy's.

mod config;
mod info;
mod logs;
mod slowlog;
mod streams;
mod value;

use std::collections::{BTreeMap, VecDeque};
use std::mem;

pub(super) use streams::Streams;

pub(super) use slowlog::Slowlog;

use super::client::Answer;
use super::gather::Gather;
use super::local::NO_CLIENT;
use super::proxy::Proxy;
use super::request::{Request, composite};
use super::session::{Piece, Prepared};
use super::waiting::{Words, body};
use crate::command::{Every, Flags};
use crate::resp::{Args, Proto, Reply, ReplyScanner, Scanned, elements, integer, request};
use crate::topology::{ShardId, Topology};

/// An answer that is made of parts.
#[derive(Debug)]
pub(super) struct Merge {
    kind: Kind,
    /// Replies still to come.
    pending: usize,
    /// By part; empty where none came, or none is needed.
    parts: Vec<Vec<u8>>,
    /// The command may have changed something on the shards that did not fail.
    writes: bool,
}

/// How parts become an answer.
#[derive(Debug)]
pub(super) enum Kind {
    /// Integers, summed.
    Sum {
        total: i64,
    },
    /// All must say OK.
    Pairs,
    /// Numbers of clients that the workers killed: one will do.
    Killed {
        total: i64,
    },
    /// SCRIPT EXISTS: a body is there when every shard has it, or when the proxy can bring it.
    Exists {
        known: Vec<bool>,
    },
    /// SLOWLOG GET or LEN.
    Slowlog(Box<Slowlog>),
    /// CLIENT LIST of each worker; the ids that were asked for, in their order, if any were.
    Lines {
        wanted: Vec<i64>,
    },
    /// Does one of the workers know the client that CLIENT TRACKING in `frame` names?
    Redirect {
        frame: Vec<u8>,
    },
    /// Every shard is to track.
    Tracked,
    /// Arrays whose elements go back to the places of their keys; the part that each key went to.
    Values {
        owners: Vec<u16>,
    },
    /// Pairs of a name and a number, put back in order as values are; what is to be added to each number.
    NumSub {
        owners: Vec<u16>,
        corrections: Vec<i64>,
    },
    /// One part, whose cursor is rewritten: the shard's place, and where an ended scan goes on.
    Scan {
        place: u64,
        next: u64,
    },
    /// A transaction that was sent as one batch.
    Exec(Exec),
    /// The parties of a transaction over shards take its commands.
    Prepare(Box<Prepared>),
    /// They carry it out.
    Commit(Box<Prepared>),
    /// Values of several shards are brought to one, step by step.
    Gather(Box<Gather>),
    /// A shard per step until one has a key.
    RandomKey {
        left: Vec<ShardId>,
    },
    /// XREAD, XREADGROUP, step by step.
    Streams(Box<Streams>),
    /// Requests that are still to be tried, one after the other.
    Pops {
        left: VecDeque<(ShardId, Vec<u8>)>,
    },
    /// CONFIG SET, step by step.
    Change(Box<config::Change>),
    Every {
        every: Every,
        args: Vec<Vec<u8>>,
    },
}

/// Part numbers of a transaction's batch.
pub(super) const EXEC_QUEUED: u16 = 0;
pub(super) const EXEC_RESULT: u16 = 1;

#[derive(Debug)]
pub(super) struct Exec {
    /// What the server said when it did not take a command.
    pub(super) refused: Option<String>,
    /// How the reply is made of the server's; None: it is the server's.
    pub(super) pieces: Option<Vec<Piece>>,
    pub(super) proto: Proto,
    /// The client's database once the transaction ran.
    pub(super) db: Option<u32>,
}

/// What a complete set of parts asks for.
pub(super) enum Finish {
    Reply(Vec<u8>),
    /// A transaction's reply, and the database that the client is in when it ran.
    Executed {
        reply: Vec<u8>,
        db: Option<u32>,
        /// How the client's reply is made of it, when it ran.
        pieces: Option<Vec<Piece>>,
        proto: Proto,
    },
    /// All parties took their commands, or one did not.
    Prepared(Box<Prepared>),
    /// All that were told to have carried it out, or not.
    Committed(Box<Prepared>),
    /// All replies to a step are there.
    Gathered(Box<Gather>),
    /// Another round: a frame for each shard; part by part the replies are `merge`'s.
    Ask {
        questions: Vec<(ShardId, Vec<u8>)>,
        need: Need,
        merge: Box<Merge>,
    },
    /// The worker that knows the client, by its part.
    Redirect {
        frame: Vec<u8>,
        part: Option<usize>,
    },
    /// All shards track, but for one that said otherwise.
    Tracked {
        error: Option<Vec<u8>>,
    },
    /// Nothing is there: the client waits.
    Wait(Box<Words>),
}

/// Which shards must be connected for another round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// All of those asked, or none is.
    All,
    /// Whoever is there is asked.
    Each,
}

/// Why an all-shard command is not carried out.
pub(super) fn refusal(every: Every, args: Args<'_>) -> Option<String> {
    (every == Every::ConfigSet).then(|| config::refusal(args))?
}

/// Ones and zeros, each the least that any shard says, but one for what is `known`.
fn all_true(reply: &mut Reply<'_>, parts: &[Vec<u8>], known: &[bool]) {
    let said: Vec<Vec<i64>> = parts.iter().map(|part| elements(part).map(number).collect()).collect();
    let count = said.iter().map(Vec::len).min().unwrap_or(0);
    reply.array(count);
    for at in 0..count {
        let least = said.iter().map(|part| part[at]).min().unwrap_or(0);
        reply.integer(if known.get(at) == Some(&true) { 1 } else { least });
    }
}

/// The reply to an all-shard command that asks for nothing of the servers'.
pub(super) fn own(every: Every, args: Args<'_>, proto: Proto, proxy: impl FnOnce() -> Proxy) -> Option<Vec<u8>> {
    let words: Vec<Vec<u8>> = args.iter().skip(1).map(<[u8]>::to_vec).collect();
    (every == Every::Info && info::is_own(&words)).then(|| {
        let mut out = Vec::new();
        Reply::new(&mut out, proto).verbatim(info::own(&proxy()));
        out
    })
}

impl Kind {
    /// The way to merge an all-shard command, and the request to send when it is not the client's own.
    pub(super) fn of_every(every: Every, request: &Request<'_>, shards: usize) -> (Self, Option<Vec<u8>>) {
        match every {
            Every::Sum => (Self::Sum { total: 0 }, None),
            Every::RandomKey if shards > 1 => {
                let mut frame = Vec::new();
                crate::resp::request(&mut frame, &["DBSIZE"]);
                (Self::RandomKey { left: Vec::new() }, Some(frame))
            }
            Every::ConfigSet if shards > 1 || refusal(every, request.args).is_some() => {
                match config::Change::new(request.args) {
                    Some((change, frame)) => (Self::Change(Box::new(change)), Some(frame)),
                    None => (Self::Every { every: Every::Same, args: Vec::new() }, None),
                }
            }
            _ => (Self::Every { every, args: request.args.iter().map(<[u8]>::to_vec).collect() }, None),
        }
    }
}

impl Kind {
    /// The way to merge one command of a transaction that ran on all shards: it takes one round.
    pub(super) fn in_transaction(every: Every, args: Vec<Vec<u8>>) -> Self {
        match every {
            Every::Sum | Every::SlowlogLen => Self::Sum { total: 0 },
            Every::ConfigSet => Self::Every { every: Every::Same, args },
            _ => Self::Every { every, args },
        }
    }
}

impl Merge {
    pub(super) fn new(kind: Kind, pending: usize, writes: bool) -> Self {
        let parts = match kind {
            Kind::Exec(_) => 2,
            Kind::Prepare(_) | Kind::Commit(_) | Kind::Gather(_) => 0,
            _ => pending,
        };
        Self { kind, pending, parts: vec![Vec::new(); parts], writes }
    }

    /// So many of the parts are not asked for, and stay empty.
    pub(super) fn without(mut self, absent: usize) -> Self {
        self.pending -= absent;
        self
    }

    /// Of an answer that tells of the servers: who cannot tell any more is left out, if others can.
    fn forget_the_lost(&mut self) {
        let failed = |part: &Vec<u8>| part.is_empty() || part.first() == Some(&b'-');
        if !self.parts.iter().all(failed) {
            self.parts.iter_mut().filter(|part| failed(part)).for_each(Vec::clear);
        }
    }

    /// Whether shards that were asked may have changed something when others did not.
    pub(super) fn writes(every: Every, flags: Flags) -> bool {
        flags.has(Flags::WRITE) || matches!(every, Every::Same | Every::Texts)
    }

    /// Whether the answer speaks of the proxy too.
    pub(super) fn concerns_proxy(&self) -> bool {
        matches!(
            self.kind,
            Kind::Every { every: Every::Info | Every::ConfigGet | Every::LatencyHistogram, .. } | Kind::Change(_)
        )
    }

    /// A transaction over shards whose parties are told to carry it out.
    pub(super) fn is_commit(&self) -> bool {
        matches!(self.kind, Kind::Commit(_))
    }

    /// Whether what it was given, or may have been given in an earlier step, was read from a shard.
    pub(super) fn holds_replies(&self) -> bool {
        !matches!(self.kind, Kind::Every { every: Every::Wait | Every::Kill, .. })
    }

    /// Takes one part; true when it was the last.
    pub(super) fn add(&mut self, part: u16, answer: &Answer<'_>) -> bool {
        let bytes = answer.bytes();
        self.pending -= 1;
        let error = bytes.first() == Some(&b'-');
        match &mut self.kind {
            Kind::Sum { total } | Kind::Killed { total } if !error => *total = total.wrapping_add(number(bytes)),
            Kind::Pairs if !error => {}
            Kind::Prepare(prepared) => prepared.queued(part, bytes),
            Kind::Commit(prepared) => prepared.executed(part, bytes),
            Kind::Gather(gather) => gather.add(part, bytes),
            Kind::Exec(exec) if part == EXEC_QUEUED => {
                if error && exec.refused.is_none() {
                    exec.refused = Some(text(bytes));
                }
            }
            _ => {
                if let Some(place) = self.parts.get_mut(part as usize) {
                    *place = bytes.to_vec();
                }
            }
        }
        self.pending == 0
    }

    /// `proxy` may be empty unless the answer [concerns](Self::concerns_proxy) it; what an operator
    /// should hear of is left in `news`.
    pub(super) fn finish(mut self, proto: Proto, map: &Topology, proxy: &Proxy, news: &mut Vec<String>) -> Finish {
        let kind = mem::replace(&mut self.kind, Kind::Pairs);
        if matches!(kind, Kind::Every { every: Every::Info | Every::ConfigGet, .. }) {
            self.forget_the_lost();
        }
        let parts = &self.parts;
        let one_error = |kind: &Kind| match kind {
            Kind::Slowlog(slowlog) if slowlog.is_heard() => None,
            // Any shard that says OK has done it; a transaction's result stands for itself.
            Kind::Exec(_)
            | Kind::Prepare(_)
            | Kind::Commit(_)
            | Kind::Gather(_)
            | Kind::Change(_)
            | Kind::Tracked
            | Kind::Streams(_)
            | Kind::Every { every: Every::Kill, .. } => None,
            Kind::Every { every: Every::Reports, .. } if parts.iter().any(|part| part.first() != Some(&b'-')) => {
                parts.iter().find(|part| part.first() == Some(&b'-') && !logs::says_nothing(part))
            }
            _ => parts.iter().find(|part| part.first() == Some(&b'-')),
        };
        if let Some(error) = one_error(&kind) {
            return Finish::Reply(self.failed(error, &kind, map));
        }
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, proto);
        match kind {
            Kind::Sum { total } => _ = reply.integer(total),
            Kind::Pairs => _ = reply.status("OK"),
            Kind::Exists { known } => all_true(&mut reply, parts, &known),
            Kind::Killed { total: 0 } => _ = reply.error(NO_CLIENT),
            Kind::Killed { .. } => _ = reply.status("OK"),
            Kind::Redirect { frame } => {
                let part = parts.iter().position(|part| elements(part).next().is_some());
                return Finish::Redirect { frame, part };
            }
            Kind::Tracked => {
                let error = parts.iter().find(|part| part.first() == Some(&b'-')).cloned();
                return Finish::Tracked { error };
            }
            Kind::Lines { wanted } => _ = reply.verbatim(lines(parts, &wanted)),
            Kind::Values { owners } => values(&mut reply, &owners, parts),
            Kind::NumSub { owners, corrections } => numbers(&mut reply, &owners, &corrections, parts),
            Kind::Scan { place, next } => scan(&mut reply, place, next, &parts[0]),
            Kind::Exec(exec) => return executed(exec, mem::take(&mut self.parts)),
            Kind::Prepare(prepared) => return Finish::Prepared(prepared),
            Kind::Commit(prepared) => return Finish::Committed(prepared),
            Kind::Gather(gather) => return Finish::Gathered(gather),
            Kind::RandomKey { left } => return random_key(left, parts, proto),
            Kind::Streams(streams) => return streams.advance(parts, proto),
            Kind::Pops { left } => return streams::pops(left, &parts[0]),
            Kind::Slowlog(slowlog) => return slowlog.advance(parts, proto, map),
            Kind::Change(change) => return change.advance(parts, proto, map, proxy),
            Kind::Every { every, args } => self.every(every, &args, &mut reply, Around { proto, map, proxy }, news),
        }
        Finish::Reply(out)
    }

    fn every(&self, every: Every, args: &[Vec<u8>], reply: &mut Reply<'_>, around: Around<'_>, news: &mut Vec<String>) {
        let parts = &self.parts;
        let Around { proto, map, proxy } = around;
        let home = map.home().0 as usize;
        match every {
            Every::Info => {
                let texts: Vec<String> = parts.iter().map(|part| value::text(part, proto)).collect();
                reply.verbatim(info::merged(&texts, home, args.get(1..).unwrap_or_default(), proxy));
            }
            Every::ConfigGet => config::get(reply, parts, proto, map, proxy, news),
            Every::LatencyHistogram => {
                logs::latency_histogram(reply, args.get(2..).unwrap_or_default(), &proxy.calls, parts, proto);
            }
            // One shard speaks for itself.
            _ if parts.len() == 1 => _ = reply.raw(&parts[0]),
            Every::SlowlogGet => Slowlog::get(reply, args.get(2).map(Vec::as_slice), parts, proto),
            Every::LatencyLatest => logs::latency_latest(reply, parts, proto),
            Every::LatencyHistory => logs::latency_history(reply, parts, proto),
            Every::MemoryStats => logs::memory_stats(reply, parts, home, proto),
            Every::Reports => logs::reports(reply, parts, proto, map),
            Every::Min | Every::Wait => _ = reply.integer(parts.iter().map(|part| number(part)).min().unwrap_or(0)),
            Every::Concat => {
                let count = parts.iter().map(|part| elements(part).count()).sum();
                reply.array(count);
                for element in parts.iter().flat_map(|part| elements(part)) {
                    reply.raw(element);
                }
            }
            Every::AllTrue => all_true(reply, parts, &[]),
            Every::Kill => {
                // The one that had something to kill, or why it could not.
                let ran = parts.iter().find(|part| part.first() == Some(&b'+'));
                let ran = ran.or_else(|| parts.iter().find(|part| !part.starts_with(b"-NOTBUSY")));
                _ = reply.raw(ran.unwrap_or(&parts[0]));
            }
            Every::Texts if parts.iter().any(|part| *part != parts[0]) => {
                let each = parts.iter().zip(map.shards());
                let said: Vec<String> = each.map(|(part, shard)| format!("{}: {}", shard.name, text(part))).collect();
                reply.status(&said.join("; "));
            }
            _ => _ = reply.raw(&parts[0]),
        }
    }

    /// The one error that the client gets. What may have been changed elsewhere is said.
    fn failed(&self, error: &[u8], kind: &Kind, map: &Topology) -> Vec<u8> {
        let done = |part: &&Vec<u8>| part.first() != Some(&b'-');
        let all = !self.parts.iter().take(map.shards().len()).any(|part| done(&part));
        if !self.writes || all {
            return error.to_vec();
        }
        let text = match kind {
            Kind::Every { .. } => {
                let ran = self.parts.iter().zip(map.shards()).filter(|(part, _)| done(part));
                let names: Vec<&str> = ran.map(|(_, shard)| shard.name.as_str()).collect();
                let refused = self.parts.iter().zip(map.shards()).filter(|(part, _)| !done(part));
                let peers = self.parts.iter().skip(map.shards().len()).filter(|part| !done(part));
                let said: Vec<String> = refused
                    .map(|(part, shard)| format!("shard {} ({}) answered: {}", shard.name, shard.endpoint, text(part)))
                    .chain(peers.map(|part| text(part)))
                    .collect();
                format!("SHARDPARTIAL it ran on {}; {}", names.join(", "), said.join("; "))
            }
            _ => format!("{} (other shards may have applied their part)", text(error)),
        };
        let mut out = Vec::new();
        Reply::new(&mut out, Proto::Resp2).error(&text);
        out
    }
}

/// The workers' clients: as they were asked for, else by their ids.
pub(super) fn lines(parts: &[Vec<u8>], wanted: &[i64]) -> Vec<u8> {
    let mut known = BTreeMap::new();
    for part in parts {
        let fields: Vec<&[u8]> = elements(part).collect();
        known.extend(fields.chunks_exact(2).map(|pair| (number(pair[0]), body(pair[1]))));
    }
    let all: Vec<i64> = if wanted.is_empty() { known.keys().copied().collect() } else { wanted.to_vec() };
    all.iter().filter_map(|id| known.get(id).copied()).collect::<Vec<_>>().concat()
}

/// What stands around a set of parts.
#[derive(Clone, Copy)]
struct Around<'a> {
    proto: Proto,
    map: &'a Topology,
    proxy: &'a Proxy,
}

/// The integer of a reply `:n`.
fn number(reply: &[u8]) -> i64 {
    integer(line(reply)).unwrap_or(0)
}

/// The first line of a reply, without its type.
fn line(reply: &[u8]) -> &[u8] {
    let end = reply.iter().position(|byte| *byte == b'\r').unwrap_or(reply.len());
    reply.get(1..end).unwrap_or(&[])
}

fn text(reply: &[u8]) -> String {
    String::from_utf8_lossy(line(reply)).into_owned()
}

/// Each key's value comes from its part, in the order in which the part was asked.
fn values(reply: &mut Reply<'_>, owners: &[u16], parts: &[Vec<u8>]) {
    let header = |part: &Vec<u8>| part.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut at: Vec<usize> = parts.iter().map(header).collect();
    reply.reserve(parts.iter().map(Vec::len).sum());
    reply.array(owners.len());
    for owner in owners {
        let owner = *owner as usize;
        let rest = &parts[owner][at[owner]..];
        match ReplyScanner::default().scan(rest) {
            Ok(Scanned::Frame { len }) => {
                reply.raw(&rest[..len]);
                at[owner] += len;
            }
            _ => _ = reply.null(),
        }
    }
}

/// Names and numbers in order, each number corrected.
fn numbers(reply: &mut Reply<'_>, owners: &[u16], corrections: &[i64], parts: &[Vec<u8>]) {
    let mut merged = Vec::new();
    values(&mut Reply::new(&mut merged, Proto::Resp2), owners, parts);
    let mut fields = elements(&merged);
    reply.array(owners.len());
    for correction in corrections {
        reply.raw(fields.next().unwrap_or(b"$-1\r\n"));
        reply.integer((number(fields.next().unwrap_or_default()) + correction).max(0));
    }
}

fn scan(reply: &mut Reply<'_>, place: u64, next: u64, part: &[u8]) {
    let mut fields = elements(part);
    let (cursor, keys) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let digits = cursor.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    let cursor = integer(digits.strip_suffix(b"\r").unwrap_or(digits)).and_then(|cursor| u64::try_from(cursor).ok());
    let cursor = match cursor {
        // This shard is through: on to the next one, or to the end.
        Some(0) => Some(next),
        Some(cursor) => composite(cursor, place),
        None => None,
    };
    match cursor {
        Some(cursor) => _ = reply.array(2).bulk(cursor.to_string()).raw(keys),
        None => _ = reply.error("ERR a server's scan cursor is too large to pass on"),
    }
}

/// First the shards' sizes, then a key of a shard drawn by its size; the others follow if it has none.
fn random_key(left: Vec<ShardId>, parts: &[Vec<u8>], proto: Proto) -> Finish {
    let mut left = left;
    if parts.len() > 1 {
        let sizes: Vec<u64> = parts.iter().map(|part| number(part).max(0) as u64).collect();
        let total: u64 = sizes.iter().sum();
        if total == 0 {
            let mut out = Vec::new();
            Reply::new(&mut out, proto).null();
            return Finish::Reply(out);
        }
        let mut at = draw(total, parts.as_ptr() as u64);
        let first = sizes.iter().position(|size| {
            let here = at < *size;
            at = at.wrapping_sub(if here { 0 } else { *size });
            here
        });
        let first = first.unwrap_or(0);
        left = (0..sizes.len()).map(|n| ShardId(((first + n) % sizes.len()) as u16)).collect();
    } else if !matches!(parts[0].as_slice(), b"$-1\r\n" | b"_\r\n") || left.is_empty() {
        return Finish::Reply(parts[0].clone());
    }
    let shard = left.remove(0);
    let mut frame = Vec::new();
    request(&mut frame, &["RANDOMKEY"]);
    let merge = Box::new(Merge::new(Kind::RandomKey { left }, 1, false));
    Finish::Ask { questions: vec![(shard, frame)], need: Need::All, merge }
}

/// A number below `total` that differs from call to call.
fn draw(total: u64, salt: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(salt);
    if total == 0 { 0 } else { hasher.finish() % total }
}

/// A key of a shard drawn by the size of its database: of each shard the size and a key, or null.
pub(super) fn drawn<'a>(shards: &[(&'a [u8], &'a [u8])]) -> &'a [u8] {
    let keyed = |shard: &&(&[u8], &[u8])| matches!(shard.1.first(), Some(b'$')) && !shard.1.starts_with(b"$-1");
    let size = |shard: &(&[u8], &[u8])| number(shard.0).max(1) as u64;
    let mut at = draw(shards.iter().filter(keyed).map(size).sum(), shards.as_ptr() as u64);
    let first = shards.iter().filter(keyed).find(|shard| {
        let here = at < size(shard);
        at = at.saturating_sub(size(shard));
        here
    });
    first.or(shards.first()).map_or(b"$-1\r\n", |shard| shard.1)
}

/// The reply to EXEC: the server's own; what the proxy has to put into it is put there when it ran.
fn executed(exec: Exec, mut parts: Vec<Vec<u8>>) -> Finish {
    let Exec { refused, pieces, proto, db } = exec;
    let reply = parts.pop().unwrap_or_default();
    if let Some(refused) = refused
        && reply.starts_with(b"-EXECABORT")
    {
        let mut out = Vec::new();
        Reply::new(&mut out, Proto::Resp2).error(format!("EXECABORT Transaction discarded because of: {refused}"));
        return Finish::Executed { reply: out, db: None, pieces: None, proto };
    }
    if !reply.starts_with(b"*") || reply.starts_with(b"*-1") {
        return Finish::Executed { reply, db: None, pieces: None, proto };
    }
    Finish::Executed { reply, db, pieces, proto }
}

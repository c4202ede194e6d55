//! What stands between MULTI and EXEC: each command is checked, cut for its shards and kept; at EXEC
//! it is laid on the connections of those who take part, and its reply put together in its place.
//!
//! ```text
//! queue:     frame -> Step { where it runs }          +QUEUED
//! lay:       Step  -> frames on the parties' connections, Piece { how its reply is made }
//! assemble:  Piece -> one element of EXEC's array
//! ```

use std::ops::Range;

use crate::advice::Outcome;
use crate::command::{Every, Flags, Keys, Local, Route, Session as Verb, Split};
use crate::engine::functions::uses_functions;
use crate::engine::merge::{self, Finish, Kind, Merge};
use crate::engine::pubsub::Joined;
use crate::engine::request::{Flow, Request};
use crate::engine::scripts::Sha;
use crate::engine::{CROSS_REFUSED, Engine};
use crate::resp::{Args, Proto, Reply, RequestScanner, elements, integer, request};
use crate::route::{self, Plan, Rules};
use crate::topology::ShardId;

/// Commands that wait for EXEC.
#[derive(Debug)]
pub(in crate::engine) struct Multi {
    /// Their frames, those for several shards cut already.
    pub(super) frames: Vec<u8>,
    pub(super) steps: Vec<Step>,
    /// The shards on which they run, in ascending order.
    pub(super) parties: Vec<ShardId>,
    /// Known bodies that are named in them: the servers get them first.
    pub(super) scripts: Vec<Sha>,
    /// Every step is one frame with one reply, which stands as it is.
    pub(super) plain: bool,
    /// Something that others hear of at once, or whose messages follow its reply: all that the client did
    /// before comes first.
    pub(super) announces: bool,
    /// The database of the last SELECT among them.
    pub(super) db: Option<u32>,
    /// One of them may change data.
    pub(in crate::engine) writes: bool,
    /// A command was refused: EXEC will be.
    pub(in crate::engine) spoiled: bool,
    /// As they came, while somebody monitors.
    pub(in crate::engine) shown: Vec<Vec<u8>>,
}

/// One command of a transaction; its bytes are a part of [`Multi::frames`].
#[derive(Debug)]
pub(super) struct Step {
    bytes: Range<usize>,
    place: Place,
}

/// Where a step runs.
#[derive(Debug)]
pub(in crate::engine) enum Place {
    /// On any shard that takes part.
    Any,
    One(ShardId),
    /// On all that take part, the same on each (SELECT).
    Each,
    Split(Box<Cut>),
    Every {
        every: Every,
        writes: bool,
    },
    /// On the shard that the cursor names; the shard's place in the order of scans, and the next one.
    Scan {
        shard: ShardId,
        place: u64,
        next: u64,
    },
    /// On the channel's shard if that one takes part, else on any: subscribers hear all.
    Publish(Verb, ShardId),
    /// Answered by the proxy when the transaction ran.
    Local(Local),
    /// Subscriptions, and questions about them.
    Pubsub(Verb),
    /// What Redis answers at EXEC.
    Error(&'static str),
}

/// A command whose keys are on several shards.
#[derive(Debug)]
pub(in crate::engine) struct Cut {
    split: Split,
    parts: Vec<(ShardId, Range<usize>)>,
    /// The part that each key went to.
    owners: Vec<u16>,
    writes: bool,
}

/// How one element of EXEC's reply is made; parties are numbered in ascending order of shards.
#[derive(Debug)]
pub(in crate::engine) enum Piece {
    /// The next reply of this party.
    One(u16),
    /// The next reply of each; all say the same.
    Each,
    Merged {
        parties: Vec<u16>,
        kind: Kind,
        writes: bool,
    },
    /// Of each party the size of its database and a key of it: a key drawn by size.
    Drawn,
    Own(Vec<u8>),
    Local(Local, Vec<u8>),
    Pubsub(Verb, Vec<u8>),
}

/// A shard that takes part in a transaction, and the connection that is used for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Party {
    pub(super) shard: ShardId,
    /// [`NONE`](crate::engine::NONE) once it broke.
    pub(super) conn: u32,
}

impl Default for Multi {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            steps: Vec::new(),
            parties: Vec::new(),
            scripts: Vec::new(),
            plain: true,
            announces: false,
            db: None,
            writes: false,
            spoiled: false,
            shown: Vec::new(),
        }
    }
}

impl Multi {
    /// Commands that wait for EXEC.
    pub(in crate::engine) fn len(&self) -> usize {
        self.steps.len()
    }

    /// What they measure.
    pub(in crate::engine) fn bytes(&self) -> usize {
        self.frames.len() + self.steps.len() * size_of::<Step>() + self.scripts.len() * size_of::<Sha>()
    }

    fn joins(&mut self, shard: ShardId) {
        if let Err(at) = self.parties.binary_search(&shard) {
            self.parties.insert(at, shard);
        }
    }

    /// Keeps what `write` writes; says where it stands.
    fn keep(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.frames.len();
        write(&mut self.frames);
        start..self.frames.len()
    }
}

impl Engine {
    /// A command between MULTI and EXEC.
    pub(super) fn queue(&mut self, id: u32, request: &Request<'_>) -> Flow {
        // The values would be there only after the other commands have to be.
        let rules = Rules { gather: false, ..self.rules(true) };
        let (args, mut keys) = (request.args, Vec::new());
        let mut plan = route::plan(request.id, request.row, args, &self.topology, rules, &mut keys);
        if plan == Plan::Apart {
            self.advise_ahead(request, rules);
            plan =
                route::plan(request.id, request.row, args, &self.topology, Rules { apart: false, ..rules }, &mut keys);
        }
        let keyless = keys.is_empty() && request.row.keys == Keys::None;
        let several = self.shards.len() > 1;
        let mut script = None;
        let place = match plan {
            Plan::One(_) if keyless => Place::Any,
            Plan::One(shard) => Place::One(shard),
            Plan::Script(shard) => {
                if uses_functions(request.row)
                    && let Some(flow) = self.functions_first(id, [shard].into_iter())
                {
                    return flow;
                }
                script = self.learn_script(request);
                Place::One(shard)
            }
            Plan::Local(Local::Ping | Local::Echo | Local::Time) => Place::Any,
            Plan::Local(Local::Select) => match self.database(request) {
                Ok(_) => Place::Each,
                // The server says what is wrong with it, in its place.
                Err(_) => Place::Any,
            },
            // It concerns the connections that the transaction's commands travel on.
            Plan::Local(Local::ClientCaching) if self.tracking(id).is_some() => Place::Each,
            Plan::Local(what) => Place::Local(what),
            Plan::Session(Verb::Block) => match route::one_shard(args, &keys, &self.topology) {
                Ok(shard) => Place::One(shard),
                Err(refusal) => return self.refuse(id, refusal, args),
            },
            Plan::Session(verb @ (Verb::Publish | Verb::ShardPublish)) => {
                Place::Publish(verb, self.topology.shard_of(args.at(1)))
            }
            Plan::Session(Verb::Unwatch) => Place::Any,
            Plan::Session(Verb::Monitor) => Place::Error("ERR MONITOR isn't allowed for DENY BLOCKING client"),
            Plan::Session(verb) => Place::Pubsub(verb),
            Plan::Every(Every::Scan) => match self.scan_at(args) {
                Some((shard, place, next)) => Place::Scan { shard, place, next },
                None => Place::Error("ERR invalid cursor"),
            },
            Plan::Every(every) => {
                if let Some(text) = merge::refusal(every, args) {
                    return self.answer_error(id, &text);
                }
                if several && !self.options.prepared {
                    let name = request.row.name.to_uppercase().replace('|', " ");
                    let text = format!(
                        "CROSSSLOT {name} concerns every shard and cannot be part of a transaction: [commands] \
                         cross_shard_transactions is \"refuse\""
                    );
                    return self.answer_error(id, &text);
                }
                Place::Every { every, writes: Merge::writes(every, request.row.flags) }
            }
            // What one shard says decides what the next is asked.
            Plan::Gather(_) | Plan::Split(Split::Streams | Split::First) => {
                return self.refuse_several(id, args, &keys);
            }
            Plan::Split(_) if !self.options.prepared => return self.refuse_several(id, args, &keys),
            Plan::Split(split) => {
                let writes = request.row.flags.has(Flags::WRITE);
                Place::Split(Box::new(Cut { split, parts: Vec::new(), owners: Vec::new(), writes }))
            }
            Plan::Refuse(refusal) => return self.refuse(id, refusal, args),
            // Not twice.
            Plan::Apart => Place::Any,
        };
        if let Some(text) = self.busy_place(&place, &keys, request) {
            return self.answer_error(id, text);
        }
        let first = keys.first().copied().or(request.row.keys.single().map(|at| at as u32));
        let key = first.map_or(&[][..], |at| args.at(at as usize));
        let flow = self.enqueue(id, place, key, &keys, request);
        if let (Some(script), Some(multi)) = (script, &mut self.clients[id as usize].session_mut().multi) {
            multi.scripts.push(script);
        }
        self.metrics.requests[request.id.0 as usize].inc();
        flow
    }

    /// The BUSY of a shard on which a command would run; what is always allowed is not refused.
    fn busy_place(&self, place: &Place, keys: &[u32], request: &Request<'_>) -> Option<Vec<u8>> {
        if request.row.flags.has(Flags::ALLOW_BUSY) {
            return None;
        }
        match place {
            Place::One(shard) | Place::Scan { shard, .. } => self.busy_text(*shard),
            Place::Split(_) => {
                keys.iter().find_map(|key| self.busy_text(self.topology.shard_of(request.args.at(*key as usize))))
            }
            Place::Every { .. } => (0..self.shards.len()).find_map(|index| self.busy_text(ShardId(index as u16))),
            _ => self.busy_text(self.topology.home()),
        }
    }

    /// The keys at `keys`, which are on several shards, cannot be.
    fn refuse_several(&mut self, id: u32, args: Args<'_>, keys: &[u32]) -> Flow {
        match route::one_shard(args, keys, &self.topology) {
            Err(refusal) => self.refuse(id, refusal, args),
            Ok(_) => Flow::Taken,
        }
    }

    /// Puts a command into the transaction that the client is building, to be run at `place`; `key` is
    /// its first key, `keys` are the positions of all, when there are several to speak of.
    pub(in crate::engine) fn enqueue(
        &mut self,
        id: u32,
        place: Place,
        key: &[u8],
        keys: &[u32],
        request: &Request<'_>,
    ) -> Flow {
        let bytes_max = self.options.query_bytes_max;
        let shards = self.shards.len() as u16;
        let writes = self.may_write(request.row, request.args);
        let session = self.clients[id as usize].session_mut();
        let watched = session.watch.map(|watch| watch.shard);
        let Some(multi) = &mut session.multi else { return Flow::Taken };
        if let Place::One(shard) | Place::Scan { shard, .. } = place
            && !self.options.prepared
        {
            let other = multi.parties.first().copied().or(watched).filter(|other| *other != shard);
            if let Some(other) = other {
                let anchor = session.anchor.clone();
                let keys = [anchor.as_slice(), key];
                let map = &self.topology;
                let text = format!(
                    "CROSSSLOT the transaction has keys on {} and on {}: {}",
                    map.shard(other).name,
                    map.shard(shard).name,
                    self.remedy(&keys)
                );
                self.metrics.cross_shard[CROSS_REFUSED].inc();
                self.advise(&keys, b"MULTI", Outcome::Refused);
                return self.answer_error(id, &text);
            }
            if multi.parties.is_empty() && watched.is_none() {
                session.anchor = key.to_vec();
            }
        }
        if multi.bytes() + request.frame.len() > bytes_max {
            return self.answer_error(id, "ERR the transaction is larger than the query buffer limit");
        }
        let args = request.args;
        let mut place = place;
        let bytes = match &mut place {
            Place::Split(cut) => {
                let start = multi.frames.len();
                cut.fill(args, keys, &self.topology, multi);
                start..multi.frames.len()
            }
            Place::Scan { .. } => {
                let cursor = (integer(args.at(1)).unwrap_or(0) >> super::super::request::CURSOR_SHARD_BITS).to_string();
                let words: Vec<&[u8]> =
                    [args.at(0), cursor.as_bytes()].into_iter().chain(args.iter().skip(2)).collect();
                multi.keep(|out| crate::resp::request(out, &words))
            }
            _ => multi.keep(|out| out.extend_from_slice(request.frame)),
        };
        match &place {
            Place::One(shard) | Place::Scan { shard, .. } => multi.joins(*shard),
            Place::Split(cut) => cut.parts.iter().for_each(|(shard, _)| multi.joins(*shard)),
            Place::Every { .. } => multi.parties = (0..shards).map(ShardId).collect(),
            Place::Each if request.row.route == Route::Local(Local::Select) => {
                multi.db = integer(args.at(1)).and_then(|db| u32::try_from(db).ok());
            }
            Place::Each => {}
            Place::Publish(..) | Place::Pubsub(_) => multi.announces = true,
            Place::Any | Place::Local(_) | Place::Error(_) => {}
        }
        multi.plain &= matches!(place, Place::Any | Place::One(_) | Place::Each);
        multi.writes |= writes;
        multi.steps.push(Step { bytes, place });
        self.answer(id, |reply| _ = reply.status("QUEUED"))
    }

    /// Writes the steps to the connections of `parties` as parts of slot `seq`, numbered by `part`;
    /// says how each reply is made, and how many replies are to come.
    pub(super) fn lay(
        &mut self,
        id: u32,
        seq: u32,
        multi: Multi,
        parties: &[Party],
        part: impl Fn(usize) -> u16,
        slow: bool,
    ) -> (Vec<Piece>, usize) {
        let Multi { frames, steps, .. } = multi;
        let (mut pieces, mut sent) = (Vec::with_capacity(steps.len()), 0);
        let proto = self.clients[id as usize].proto;
        let mut send = |engine: &mut Self, party: usize, frame: &[u8]| {
            engine.expect(parties[party].conn, id, seq, part(party), slow);
            engine.conns[parties[party].conn as usize].out.push(frame);
            sent += 1;
        };
        let of = |shard: ShardId| parties.iter().position(|party| party.shard == shard).unwrap_or(0);
        for Step { bytes, place } in steps {
            let frame = &frames[bytes];
            let piece = match place {
                Place::Any => {
                    send(self, 0, frame);
                    Piece::One(0)
                }
                Place::One(shard) => {
                    send(self, of(shard), frame);
                    Piece::One(of(shard) as u16)
                }
                Place::Each => {
                    (0..parties.len()).for_each(|party| send(self, party, frame));
                    Piece::Each
                }
                Place::Split(cut) => {
                    let numbers: Vec<u16> = cut.parts.iter().map(|(shard, _)| of(*shard) as u16).collect();
                    for (number, (_, bytes)) in numbers.iter().zip(&cut.parts) {
                        send(self, *number as usize, &frames[bytes.clone()]);
                    }
                    let kind = match cut.split {
                        Split::Values => Kind::Values { owners: cut.owners },
                        Split::Pairs => Kind::Pairs,
                        _ => Kind::Sum { total: 0 },
                    };
                    Piece::Merged { parties: numbers, kind, writes: cut.writes }
                }
                Place::Every { every: Every::RandomKey, .. } if parties.len() > 1 => {
                    let mut size = Vec::new();
                    request(&mut size, &["DBSIZE"]);
                    for party in 0..parties.len() {
                        send(self, party, &size);
                        send(self, party, frame);
                    }
                    Piece::Drawn
                }
                Place::Every { every, writes } => {
                    match self.with_args(frame, |engine, args| merge::own(every, args, proto, || engine.proxy())) {
                        Some(Some(own)) => Piece::Own(own),
                        _ => {
                            (0..parties.len()).for_each(|party| send(self, party, frame));
                            let words = |args: Args<'_>| args.iter().map(<[u8]>::to_vec).collect();
                            let args = self.with_args(frame, |_, args| words(args)).unwrap_or_default();
                            Piece::Merged {
                                parties: (0..parties.len() as u16).collect(),
                                kind: Kind::in_transaction(every, args),
                                writes,
                            }
                        }
                    }
                }
                Place::Scan { shard, place, next } => {
                    send(self, of(shard), frame);
                    Piece::Merged { parties: vec![of(shard) as u16], kind: Kind::Scan { place, next }, writes: false }
                }
                Place::Publish(verb, shard) => {
                    let party = of(shard);
                    send(self, party, frame);
                    let shard = parties[party].shard;
                    let more = self.with_args(frame, |engine, args| engine.receivers(verb, shard, args.at(1)));
                    match more {
                        None | Some(0) => Piece::One(party as u16),
                        Some(total) => {
                            Piece::Merged { parties: vec![party as u16], kind: Kind::Sum { total }, writes: false }
                        }
                    }
                }
                Place::Local(what) => Piece::Local(what, frame.to_vec()),
                Place::Pubsub(verb @ (Verb::PubsubNumSub | Verb::PubsubShardNumSub)) => {
                    send(self, 0, frame);
                    let shard = parties[0].shard;
                    let corrections = self.with_args(frame, |engine, args| {
                        args.iter().skip(2).map(|channel| engine.receivers(verb, shard, channel)).collect::<Vec<_>>()
                    });
                    let corrections = corrections.unwrap_or_default();
                    let kind = Kind::NumSub { owners: vec![0; 2 * corrections.len()], corrections };
                    Piece::Merged { parties: vec![0], kind, writes: false }
                }
                Place::Pubsub(verb) => Piece::Pubsub(verb, frame.to_vec()),
                Place::Error(text) => {
                    let mut own = Vec::new();
                    Reply::new(&mut own, Proto::Resp2).error(text);
                    Piece::Own(own)
                }
            };
            pieces.push(piece);
        }
        (pieces, sent)
    }

    /// Puts EXEC's reply together from the parties' own, each an array.
    pub(super) fn assemble(
        &mut self,
        id: u32,
        pieces: Vec<Piece>,
        results: &[Vec<u8>],
        proto: Proto,
        joined: &mut Option<Joined>,
    ) -> Vec<u8> {
        let mut replies: Vec<_> = results.iter().map(|result| elements(result)).collect();
        let mut next = |party: usize| replies.get_mut(party).and_then(Iterator::next).unwrap_or(b"$-1\r\n");
        let mut out = Vec::with_capacity(results.iter().map(Vec::len).sum::<usize>() + 16);
        Reply::new(&mut out, proto).array(pieces.len());
        for piece in pieces {
            match piece {
                Piece::One(party) => out.extend_from_slice(next(party as usize)),
                Piece::Each => {
                    let first = next(0).to_vec();
                    (1..results.len()).for_each(|party| _ = next(party));
                    out.extend_from_slice(&first);
                }
                Piece::Merged { parties, kind, writes } => {
                    let parts: Vec<&[u8]> = parties.iter().map(|party| next(*party as usize)).collect();
                    out.extend_from_slice(&self.merged(kind, &parts, writes, proto));
                }
                Piece::Drawn => {
                    let pairs: Vec<(&[u8], &[u8])> =
                        (0..results.len()).map(|party| (next(party), next(party))).collect();
                    out.extend_from_slice(merge::drawn(&pairs));
                }
                Piece::Own(bytes) => out.extend_from_slice(&bytes),
                Piece::Local(what, frame) => out.extend_from_slice(&self.told(id, what, &frame)),
                Piece::Pubsub(verb, frame) => {
                    let told = self.with_args(&frame, |engine, args| engine.subscribed_inside(id, verb, args, joined));
                    out.extend_from_slice(&told.unwrap_or_else(|| b"$-1\r\n".to_vec()));
                }
            }
        }
        out
    }

    /// Several shards' replies to one command, as one.
    fn merged(&mut self, kind: Kind, parts: &[&[u8]], writes: bool, proto: Proto) -> Vec<u8> {
        let mut merge = Merge::new(kind, parts.len(), writes);
        for (number, part) in parts.iter().enumerate() {
            merge.add(number as u16, &crate::engine::client::Answer::Copied(part));
        }
        match self.finished(merge, proto) {
            Finish::Reply(bytes) => bytes,
            _ => b"$-1\r\n".to_vec(),
        }
    }

    /// The arguments of a frame that was kept.
    fn with_args<T>(&mut self, frame: &[u8], then: impl FnOnce(&mut Self, Args<'_>) -> T) -> Option<T> {
        let mut spans = Vec::new();
        RequestScanner::default().scan(frame, &self.options.limits, true, &mut spans).ok()?;
        Some(then(self, Args::new(frame, &spans)))
    }
}

impl Cut {
    /// Writes one frame per shard, each behind the other.
    fn fill(&mut self, args: Args<'_>, keys: &[u32], map: &crate::topology::Topology, multi: &mut Multi) {
        let mut counts: Vec<(ShardId, usize)> = Vec::new();
        for key in keys {
            let shard = map.shard_of(args.at(*key as usize));
            let part = counts.iter().position(|part| part.0 == shard).unwrap_or_else(|| {
                counts.push((shard, 0));
                counts.len() - 1
            });
            counts[part].1 += 1;
            self.owners.push(part as u16);
        }
        let words = if self.split == Split::Pairs { 2 } else { 1 };
        for (part, (shard, count)) in counts.into_iter().enumerate() {
            let bytes = multi.keep(|out| {
                let mut line = Reply::new(out, Proto::Resp2);
                line.array(1 + count * words).raw(args.raw(0, 1));
                for (key, _) in keys.iter().zip(&self.owners).filter(|(_, owner)| **owner == part as u16) {
                    line.raw(args.raw(*key as usize, words));
                }
            });
            self.parts.push((shard, bytes));
        }
    }
}

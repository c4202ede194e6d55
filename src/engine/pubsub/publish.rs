//! PUBLISH, and the questions of PUBSUB.
//!
//! A message goes to its channel's shard only: every subscriber hears every shard. Where a server
//! counts receivers, a worker is one per subscription, whatever number of clients it stands for; its
//! clients are put in its place. Another proxy's worker still counts as one.

use super::super::client::{Park, State};
use super::super::merge::{Kind as MergeKind, Merge};
use super::super::request::{Flow, Request};
use super::super::{Engine, NONE};
use super::glob;
use super::hub::Kind;
use crate::command::Class;
use crate::resp::{Args, request as frame};
use crate::topology::ShardId;

impl Engine {
    /// After all that the client did before, so that what it announces is there. Messages to one
    /// shard keep their order on its connection and need not wait for each other.
    pub(super) fn publish(&mut self, id: u32, kind: Kind, request: &Request<'_>) -> Flow {
        let channel = request.args.at(1);
        let shard = self.topology.shard_of(channel);
        let conn = self.conn_to(id, shard);
        let client = &self.clients[id as usize];
        if !client.slots.is_empty() && client.published != (conn, client.next_seq()) {
            return Flow::Parked(Park::Empty);
        }
        if conn == NONE {
            // It may have waited for subscribers; the next one has its own to wait for.
            self.hub.publishers.remove(&id);
            return self.answer_down(id, shard, Class::Session);
        }
        if self.hub.must_wait(id, kind, channel) {
            // Who subscribed without waiting for the answer hears it, as from a single server.
            return Flow::Parked(Park::Room);
        }
        if self.is_full(conn) {
            return self.wait_for(id, conn);
        }
        let state = match self.correction(shard, kind, channel) {
            0 => State::Wait,
            total => State::Merge(Box::new(Merge::new(MergeKind::Sum { total }, 1, false))),
        };
        let client = &mut self.clients[id as usize];
        let seq = client.open(state, Class::Session, self.now);
        client.published = (conn, client.next_seq());
        self.send(conn, id, seq, 0, request);
        Flow::Taken
    }

    /// Each channel is asked of its own shard.
    pub(super) fn numsub(&mut self, id: u32, kind: Kind, request: &Request<'_>) -> Flow {
        if request.args.len() == 2 {
            return self.answer(id, |reply| _ = reply.array(0));
        }
        let mut parts: Vec<(ShardId, u32, Vec<&[u8]>)> = Vec::new();
        let (mut owners, mut corrections) = (Vec::new(), Vec::new());
        for channel in request.args.iter().skip(2) {
            let shard = self.topology.shard_of(channel);
            let part = parts.iter().position(|part| part.0 == shard).unwrap_or_else(|| {
                parts.push((shard, NONE, vec![request.args.at(0), request.args.at(1)]));
                parts.len() - 1
            });
            parts[part].2.push(channel);
            // The name and the number come from the same part.
            owners.extend([part as u16; 2]);
            corrections.push(self.subscribers(shard, kind, channel));
        }
        for part in &mut parts {
            let client = &self.clients[id as usize];
            part.1 = self.shared(part.0, client.proto, client.db);
            if part.1 == NONE {
                return self.answer_down(id, part.0, Class::Session);
            }
            if self.is_full(part.1) {
                return self.wait_for(id, part.1);
            }
        }
        let merge = Merge::new(MergeKind::NumSub { owners, corrections }, parts.len(), false);
        let seq = self.clients[id as usize].open(State::Merge(Box::new(merge)), Class::Session, self.now);
        for (part, (_, conn, args)) in parts.into_iter().enumerate() {
            self.expect(conn, id, seq, part as u16, false);
            self.conns[conn as usize].out.write(|out| frame(out, &args));
        }
        Flow::Taken
    }

    /// The channels of all clients of the process.
    pub(super) fn channels(&mut self, id: u32, kind: Kind, request: &Request<'_>) -> Flow {
        if let Some(text) = is_wrong_use(request.args) {
            return self.answer_error(id, &text);
        }
        let names = self.names(kind, request.args);
        self.answer(id, |reply| {
            reply.array(names.len());
            names.iter().for_each(|name| _ = reply.bulk(name));
        })
    }

    /// The patterns of all clients of the process, each once.
    pub(super) fn numpat(&mut self, id: u32) -> Flow {
        let count = self.patterns();
        self.answer(id, |reply| _ = reply.integer(count))
    }

    pub(super) fn patterns(&self) -> i64 {
        match &self.options.board {
            Some(board) => board.names(Kind::Pattern).len() as i64,
            None => self.hub.topics[Kind::Pattern as usize].len() as i64,
        }
    }

    /// The channels of this kind that the request asks for.
    pub(super) fn names(&self, kind: Kind, args: Args<'_>) -> Vec<Vec<u8>> {
        let pattern = (args.len() == 3).then(|| args.at(2));
        let wanted = |name: &&[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        if let Some(board) = &self.options.board {
            return board.names(kind).iter().map(|name| &**name).filter(wanted).map(<[u8]>::to_vec).collect();
        }
        let names = self.hub.topics[kind as usize].keys().map(|name| &**name).filter(wanted);
        names.map(<[u8]>::to_vec).collect()
    }

    /// What is to be added to the number of subscribers that the shard reports.
    pub(super) fn subscribers(&self, shard: ShardId, kind: Kind, channel: &[u8]) -> i64 {
        let own = if self.is_exact(shard) { self.hub.own(kind, channel) } else { 0 };
        own + self.options.board.as_ref().map_or(0, |board| board.others(self.options.worker, shard, kind, channel))
    }

    /// What is to be added to the number of receivers that the shard reports.
    pub(super) fn correction(&self, shard: ShardId, kind: Kind, channel: &[u8]) -> i64 {
        let own = if self.is_exact(shard) { self.hub.correction(kind, channel) } else { 0 };
        let Some(board) = &self.options.board else { return own };
        let worker = self.options.worker;
        let matching = if kind == Kind::Channel { board.others_matching(worker, shard, channel) } else { 0 };
        own + board.others(worker, shard, kind, channel) + matching
    }

    /// The server counts all of this worker's subscriptions, if it has any.
    fn is_exact(&self, shard: ShardId) -> bool {
        self.hub.lines.get(shard.0 as usize).is_none_or(super::hub::Line::is_restored)
    }
}

/// PUBSUB CHANNELS with more than a pattern.
pub(super) fn is_wrong_use(args: Args<'_>) -> Option<String> {
    let asked = String::from_utf8_lossy(args.at(1));
    let text = || format!("ERR unknown subcommand or wrong number of arguments for '{asked}'. Try PUBSUB HELP.");
    (args.len() > 3).then(text)
}

//! Commands on keys of several shards that do not wait, or not yet: XREAD and XREADGROUP asked of all
//! shards, LMPOP and ZMPOP of one after the other.

use super::words::Words;
use crate::command::Class;
use crate::engine::client::{Park, State};
use crate::engine::merge::{Kind, Merge, Streams};
use crate::engine::request::{Flow, Request};
use crate::engine::{Engine, NONE};
use crate::resp::request as frame;
use crate::topology::ShardId;

impl Engine {
    /// XREAD, XREADGROUP.
    pub(in crate::engine) fn split_streams(&mut self, id: u32, keys: &[u32], request: &Request<'_>) -> Flow {
        match Words::of(request.row, request.args, keys) {
            Ok(words) => self.ask_streams(id, Streams::new(words, false, |key| self.topology.shard_of(key))),
            // Any server says what is wrong with it.
            Err(_) => {
                let shard = self.topology.shard_of(request.args.at(keys[0] as usize));
                self.forward(id, shard, request)
            }
        }
    }

    pub(in crate::engine) fn ask_streams(&mut self, id: u32, streams: Streams) -> Flow {
        let questions = streams.questions();
        let exclusive = streams.has_steps();
        self.ask_steps(id, questions, exclusive, |_| Kind::Streams(Box::new(streams)))
    }

    /// LMPOP, ZMPOP: neighbours on one shard are asked together.
    pub(in crate::engine) fn split_pops(&mut self, id: u32, keys: &[u32], request: &Request<'_>) -> Flow {
        let args = request.args;
        let mut runs: Vec<(ShardId, Vec<&[u8]>)> = Vec::new();
        for key in keys {
            let name = args.at(*key as usize);
            let shard = self.topology.shard_of(name);
            match runs.last_mut() {
                Some(run) if run.0 == shard => run.1.push(name),
                _ => runs.push((shard, vec![name])),
            }
        }
        let rest: Vec<&[u8]> = args.iter().skip(2 + keys.len()).collect();
        if rest.is_empty() {
            // Any server says that the end is missing; a part of the keys may be too few arguments.
            return self.forward(id, runs[0].0, request);
        }
        let question = |(shard, names): (ShardId, Vec<&[u8]>)| {
            let (mut out, count) = (Vec::new(), names.len().to_string());
            frame(&mut out, &[&[args.at(0), count.as_bytes()], names.as_slice(), rest.as_slice()].concat());
            (shard, out)
        };
        let questions = runs.into_iter().map(question).collect();
        self.ask_steps(id, questions, true, |left| Kind::Pops { left: left.into() })
    }

    /// Asks all that stands in `questions`, or with [`Kind::Pops`] the first of them.
    fn ask_steps(
        &mut self,
        id: u32,
        mut questions: Vec<(ShardId, Vec<u8>)>,
        exclusive: bool,
        kind: impl FnOnce(Vec<(ShardId, Vec<u8>)>) -> Kind,
    ) -> Flow {
        // Later steps travel on the shared connections: what is in flight on a lease comes first.
        if self.watched_conn(id) != NONE && !self.clients[id as usize].slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let mut conns = Vec::with_capacity(questions.len());
        for (shard, _) in &questions {
            let conn = self.conn_to(id, *shard);
            if conn == NONE {
                return self.answer_down(id, *shard, Class::Split);
            }
            if self.is_full(conn) {
                return self.wait_for(id, conn);
            }
            conns.push(conn);
        }
        let mut left = Vec::new();
        let kind = kind({
            left.clone_from(&questions);
            left.remove(0);
            left
        });
        if matches!(kind, Kind::Pops { .. }) {
            questions.truncate(1);
        }
        let merge = Merge::new(kind, questions.len(), false);
        let client = &mut self.clients[id as usize];
        client.exclusive |= exclusive;
        let seq = client.open(State::Merge(Box::new(merge)), Class::Split, self.now);
        for (part, ((_, frame), conn)) in questions.iter().zip(conns).enumerate() {
            self.expect(conn, id, seq, part as u16, false);
            self.conns[conn as usize].out.push(frame);
        }
        Flow::Taken
    }
}

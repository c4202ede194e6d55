//! What becomes of requests while a script runs too long on a shard.
//!
//! A server reads nothing more from the connection that brought the script, but answers BUSY on all
//! others. So when a script, or whatever else may take long, has been at the head of a shared connection
//! for a while, nothing more is written to it (`Link::Stalled`) and the server is asked on a connection of
//! its own. Once that is answered BUSY, what was held back and whatever comes gets the same answer
//! (`Link::Busy`): nothing of it has left. The script's reply, or a PONG, ends it.

use std::collections::VecDeque;
use std::mem;

use super::client::{Answer, Park, State};
use super::conn::{ENGINE, Link, MOVER, PEER, Tag, Use, WAITER};
use super::request::{Flow, Request};
use super::{Engine, NONE};
use crate::command::{Class, Flags, Local, Route};
use crate::resp::{Proto, request};
use crate::topology::ShardId;

/// How long a reply that may take long is awaited before others are held back, in microseconds.
const STALLED_AFTER: u64 = 20_000;
/// Marks the engine's questions that are probes, as the part that their answer is.
pub(super) const PROBE: u16 = 1;

/// What the engine knows about a shard's being busy.
#[derive(Debug)]
pub(super) struct Probe {
    /// The connection that asks; [`NONE`] before it was ever needed.
    conn: u32,
    /// It has asked and was not answered yet.
    asked: bool,
    /// The server's BUSY, as it came.
    pub(super) said: Option<Vec<u8>>,
}

impl Default for Probe {
    fn default() -> Self {
        Self { conn: NONE, asked: false, said: None }
    }
}

impl Engine {
    /// To be called with every tick: holds back what would be written behind a long script, and asks.
    pub(super) fn busy_tick(&mut self) {
        let mut ask = Vec::new();
        for (_, conn) in &mut self.conns {
            let since = conn.fifo.front().filter(|head| head.slow).map(|head| head.at.max(conn.heard));
            let late = since.is_some_and(|since| self.now.saturating_sub(since) >= STALLED_AFTER);
            match conn.link {
                // With a frame cut in two it has to go on: the server would take the rest for another request.
                Link::Up if late && conn.purpose == Use::Shared && conn.out.is_empty() => conn.link = Link::Stalled,
                Link::Stalled | Link::Busy => {}
                Link::Up | Link::Down | Link::Knocking | Link::Connecting | Link::Greeting => continue,
            }
            if !ask.contains(&conn.shard) {
                ask.push(conn.shard);
            }
        }
        ask.into_iter().for_each(|shard| self.probe(shard));
    }

    fn probe(&mut self, shard: ShardId) {
        let probe = &self.shards[shard.0 as usize].probe;
        if probe.asked || self.conns.get(probe.conn as usize).is_some_and(|conn| conn.link.is_down()) {
            return;
        }
        let conn = match probe.conn {
            NONE => self.conn_new(shard, Proto::Resp2, 0, Use::Probe),
            conn => conn,
        };
        let probe = &mut self.shards[shard.0 as usize].probe;
        (probe.conn, probe.asked) = (conn, true);
        self.expect(conn, ENGINE, 0, PROBE, false);
        let state = &mut self.conns[conn as usize];
        // Before its limit is reached the script lets the server answer nothing at all.
        state.patient = true;
        state.out.write(|out| request(out, &["PING"]));
    }

    /// The answer to a probe, or the error that stands for it.
    pub(super) fn probed(&mut self, shard: ShardId, reply: &[u8]) {
        self.shards[shard.0 as usize].probe.asked = false;
        if reply.starts_with(b"-BUSY") { self.busy(shard, reply) } else { self.not_busy(shard) }
    }

    fn busy(&mut self, shard: ShardId, reply: &[u8]) {
        self.shards[shard.0 as usize].probe.said = Some(reply.to_vec());
        let mut unsent = Vec::new();
        for (_, conn) in self.conns.iter_mut().filter(|(_, conn)| conn.shard == shard && conn.link == Link::Stalled) {
            conn.link = Link::Busy;
            let sent = conn.fifo.iter().take_while(|tag| tag.offset < conn.out.taken()).count();
            unsent.extend(conn.fifo.split_off(sent));
            // Bodies that were to be loaded ahead are among what is dropped.
            conn.scripts.clear();
            conn.out.discard();
            self.resume.append(&mut conn.waiters);
        }
        for tag in unsent {
            match tag.client {
                ENGINE => self.told_engine(tag, shard, reply),
                WAITER => self.heard(tag.seq, tag.part, reply),
                PEER => self.owed_answered(tag.seq, reply),
                MOVER => self.moved(tag.seq, tag.part, reply),
                client if client < MOVER => self.complete(tag, Answer::Copied(reply)),
                _ => {}
            }
        }
    }

    /// The script has ended: what was held back goes out.
    pub(super) fn not_busy(&mut self, shard: ShardId) {
        self.shards[shard.0 as usize].probe.said = None;
        let held = |link| matches!(link, Link::Stalled | Link::Busy);
        let mine = self.conns.iter().filter(|(_, conn)| conn.shard == shard && held(conn.link));
        for id in mine.map(|(id, _)| id as u32).collect::<Vec<_>>() {
            self.conns[id as usize].link = Link::Up;
            self.mark_conn(id);
            self.release_waiters(id);
        }
    }

    /// What the server says while it is busy, without the byte that marks an error.
    pub(super) fn busy_text(&self, shard: ShardId) -> Option<Vec<u8>> {
        let said = self.shards[shard.0 as usize].probe.said.as_ref()?;
        said.strip_prefix(b"-").and_then(|said| said.strip_suffix(b"\r\n")).map(<[u8]>::to_vec)
    }

    /// The same of the shard that answers what has no key, if `request` is not always allowed.
    pub(super) fn busy_home(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let spared = request.row.flags.has(Flags::ALLOW_BUSY) || request.row.route == Route::Local(Local::Ringway);
        if spared { None } else { self.busy_text(self.topology.home()) }
    }

    /// A request to a shard whose shared connection takes none.
    #[cold]
    pub(super) fn unreachable(&mut self, id: u32, shard: ShardId, request: &Request<'_>) -> Flow {
        if self.shards[shard.0 as usize].probe.said.is_none() || !request.row.flags.has(Flags::ALLOW_BUSY) {
            return self.answer_down(id, shard, request.row.class());
        }
        // FUNCTION STATS: what a busy server answers all the same.
        if !self.clients[id as usize].slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let proto = self.clients[id as usize].proto;
        match self.lease(id, shard, proto, 0, false) {
            Ok(conn) => {
                let client = &mut self.clients[id as usize];
                client.exclusive = true;
                let seq = client.open(State::Wait, Class::Session, self.now);
                self.send(conn, id, seq, 0, request);
                Flow::Taken
            }
            Err(flow) => flow,
        }
    }

    /// A new connection's greeting was answered BUSY: so is what it was made for.
    pub(super) fn greeted_busy(&mut self, id: u32, reply: &[u8]) {
        let conn = &mut self.conns[id as usize];
        let (waiting, rest): (VecDeque<Tag>, _) =
            mem::take(&mut conn.fifo).into_iter().partition(|tag| tag.client < MOVER);
        conn.fifo = rest;
        waiting.into_iter().for_each(|tag| self.complete(tag, Answer::Copied(reply)));
    }
}

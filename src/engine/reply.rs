//! A reply's journey: take it off its connection, give it to its slot, let the client's replies out
//! in order. Also what happens when no reply comes.

use std::mem;

use super::busy::PROBE;
use super::client::{Answer, State, Turn};
use super::conn::{Conn, ENGINE, GREETING, MOVER, PEER, Tag, Use, WAITER};
use super::local::READERS;
use super::merge::{Finish, Merge, Need};
use super::out::LARGE_BYTES;
use super::proxy::Proxy;
use super::{Engine, NONE, TOLD_MAX, failure};
use crate::command::Class;
use crate::resp::{Proto, ReplyError, ReplyScanner, Scanned};
use crate::topology::ShardId;

impl Engine {
    /// A server sent `bytes`.
    pub fn conn_bytes(&mut self, id: u32, bytes: &[u8]) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        conn.heard = now;
        if !conn.inbox.is_empty() {
            conn.inbox.keep(bytes);
            return self.conn_unbox(id);
        }
        match self.replies(id, bytes, false) {
            Ok((used, need)) => {
                if used < bytes.len()
                    && let Some(conn) = self.conns.get_mut(id as usize)
                {
                    conn.inbox.needs(need);
                    conn.inbox.keep(&bytes[used..]);
                    self.make_way(id);
                }
            }
            Err(error) => self.conn_broken(id, error),
        }
    }

    /// `count` bytes of a large reply were received where [`conn_direct`](Self::conn_direct) said.
    pub fn conn_filled(&mut self, id: u32, count: usize) {
        if let Some(conn) = self.conns.get_mut(id as usize) {
            conn.heard = self.now;
            conn.inbox.filled(count);
            self.conn_unbox(id);
        }
    }

    fn conn_unbox(&mut self, id: u32) {
        let conn = &mut self.conns[id as usize];
        if !conn.inbox.is_ripe() {
            return;
        }
        let mut inbox = mem::take(&mut conn.inbox);
        loop {
            match self.replies(id, inbox.bytes(), true) {
                Ok((used, 0)) => {
                    inbox.consume(used);
                    // A large reply is complete at the front.
                    let Ok(Scanned::Frame { len }) = ReplyScanner::default().scan(inbox.bytes()) else { break };
                    let answer = Answer::Owned(inbox.take(len));
                    self.reply(id, answer);
                    // What follows on a connection that is over is nobody's, and no other's either.
                    if !self.conns.get(id as usize).is_some_and(Conn::is_open) && self.is_over(id) {
                        return;
                    }
                    if inbox.is_empty() {
                        break;
                    }
                }
                Ok((used, need)) => {
                    inbox.consume(used);
                    inbox.needs(need);
                    break;
                }
                Err(error) => return self.conn_broken(id, error),
            }
        }
        if let Some(conn) = self.conns.get_mut(id as usize) {
            conn.inbox = inbox;
            self.make_way(id);
        }
    }

    /// Gives the replies at the front of `bytes` to their slots; says how many bytes they were and
    /// how many the next one needs. In an inbox it stops at a large one and needs 0.
    fn replies(&mut self, id: u32, bytes: &[u8], boxed: bool) -> Result<(usize, usize), ReplyError> {
        let mut scanner = mem::take(&mut self.conns[id as usize].scanner);
        let mut used = 0;
        while used < bytes.len() {
            if scanner.is_idle() {
                let taken = self.straight_replies(id, &bytes[used..]);
                if taken > 0 {
                    used += taken;
                    continue;
                }
            }
            match scanner.scan(&bytes[used..])? {
                Scanned::Frame { len } if boxed && len >= LARGE_BYTES => return Ok((used, 0)),
                Scanned::Frame { len } => {
                    self.reply(id, Answer::Copied(&bytes[used..used + len]));
                    used += len;
                    // What follows a broken connection's last reply is nobody's.
                    if !self.conns.get(id as usize).is_some_and(Conn::is_open) && self.is_over(id) {
                        return Ok((bytes.len(), 1));
                    }
                }
                Scanned::Partial { need } => {
                    self.conns[id as usize].scanner = scanner;
                    return Ok((used, need));
                }
            }
        }
        Ok((used, 1))
    }

    /// One whole reply.
    fn reply(&mut self, id: u32, answer: Answer<'_>) {
        let conn = &mut self.conns[id as usize];
        if answer.bytes().first() == Some(&b'>') {
            // Nobody subscribed on a connection that carries requests.
            match conn.purpose {
                Use::Track => {
                    let shard = conn.shard;
                    self.invalidated(shard, answer.bytes());
                }
                Use::Private { .. } | Use::Sink { .. } => self.pushed(id, answer.bytes()),
                _ => {}
            }
            return;
        }
        let Some(tag) = conn.fifo.pop_front() else {
            return self.unasked(id, &answer);
        };
        if tag.client == GREETING {
            return self.greeted(id, answer.bytes());
        }
        self.tally.backend(conn.shard, tag.at, &self.metrics);
        let waited_for = !conn.waiters.is_empty();
        let leased = conn.purpose != Use::Shared && conn.fifo.is_empty();
        let shard = conn.shard;
        match tag.client {
            client if client < MOVER => self.complete(tag, answer),
            ENGINE => self.told_engine(tag, shard, answer.bytes()),
            WAITER => self.heard(tag.seq, tag.part, answer.bytes()),
            PEER => self.owed_answered(tag.seq, answer.bytes()),
            MOVER => self.moved(tag.seq, tag.part, answer.bytes()),
            _ => {}
        }
        if waited_for {
            self.release_waiters(id);
        }
        if leased {
            self.lease_answered(id);
        }
    }

    /// A reply came on a connection that is not simply open: whether that was its last one.
    #[cold]
    fn is_over(&mut self, id: u32) -> bool {
        match self.conns.get(id as usize) {
            Some(conn) if conn.is_linked() => {
                // What the server was busy with has ended.
                let shard = conn.shard;
                self.not_busy(shard);
                false
            }
            _ => true,
        }
    }

    /// The answer to one of the engine's own questions, or the error that stands for it.
    #[cold]
    pub(super) fn told_engine(&mut self, tag: Tag, shard: ShardId, reply: &[u8]) {
        match tag.part {
            PROBE => self.probed(shard, reply),
            READERS => self.told_of_readers(reply),
            0 => self.looked_up(tag.seq, reply),
            part => self.told_of_functions(ShardId(tag.seq as u16), shard, part, reply),
        }
    }

    /// Nobody waits for this: it is a message, or the connection is not to be trusted.
    #[cold]
    fn unasked(&mut self, id: u32, answer: &Answer<'_>) {
        let conn = &self.conns[id as usize];
        let (shard, first) = (conn.shard, answer.bytes().first().copied().unwrap_or(0));
        if conn.purpose != Use::Hub || !self.hub_reply(shard, answer) {
            self.conn_broken(id, ReplyError::UnknownType(first));
        }
    }

    /// Gives a part of an answer to its slot; a client that is gone gets nothing.
    pub(super) fn complete(&mut self, tag: Tag, answer: Answer<'_>) {
        let Some(client) = self.clients.get_mut(tag.client as usize) else { return };
        if client.generation != tag.generation {
            return;
        }
        let Some(slot) = client.slot(tag.seq) else { return };
        match &mut slot.state {
            State::Wait => {
                let (class, at) = (slot.class, slot.at);
                self.settle(tag.client, tag.seq, answer, class, at);
            }
            State::Merge(merge) => {
                if merge.add(tag.part, &answer)
                    && let State::Merge(merge) = mem::replace(&mut slot.state, State::Wait)
                {
                    self.finish(tag.client, tag.seq, *merge);
                }
            }
            State::Stashed { .. } | State::Held(_) => {}
        }
    }

    /// All parts are there.
    fn finish(&mut self, id: u32, seq: u32, merge: Merge) {
        let proto = self.clients[id as usize].proto;
        match self.finished(merge, proto) {
            Finish::Reply(bytes) => self.finish_with(id, seq, &bytes),
            Finish::Executed { reply, db, pieces, proto } => match pieces {
                Some(pieces) => self.executed(id, seq, pieces, &[reply], proto, db),
                None => {
                    if let Some(db) = db {
                        self.moved_to(id, db);
                    }
                    self.finish_with(id, seq, &reply);
                }
            },
            Finish::Prepared(prepared) => self.prepared(id, seq, prepared),
            Finish::Committed(prepared) => self.committed(id, seq, prepared),
            Finish::Gathered(gather) => self.gathered(id, seq, gather),
            Finish::Wait(words) => {
                let Some(slot) = self.clients[id as usize].slot(seq) else { return };
                let since = slot.at;
                self.wait_in(id, seq, *words, since, false);
                self.end_if_half_closed(id);
            }
            Finish::Redirect { frame, part } => self.redirect_found(id, seq, &frame, part),
            Finish::Tracked { error } => self.tracking_set(id, seq, error.as_deref()),
            Finish::Ask { questions, need, merge } => self.ask(id, seq, &questions, need, merge),
        }
    }

    /// What a merge that has all its parts says; what an operator should hear of is kept.
    pub(super) fn finished(&mut self, merge: Merge, proto: Proto) -> Finish {
        let proxy = if merge.concerns_proxy() {
            self.tally.settle(&self.metrics);
            self.proxy()
        } else {
            Proxy::default()
        };
        let mut news = Vec::new();
        let finish = merge.finish(proto, &self.topology, &proxy, &mut news);
        for line in news {
            if self.told.len() < TOLD_MAX && !self.told.contains(&line) {
                self.told.push(line.clone());
                self.news.push(line);
            }
        }
        finish
    }

    pub(super) fn finish_with(&mut self, id: u32, seq: u32, bytes: &[u8]) {
        let Some(slot) = self.clients[id as usize].slot(seq) else { return };
        let (class, at) = (slot.class, slot.at);
        self.settle(id, seq, Answer::Copied(bytes), class, at);
    }

    /// The next step of an answer that takes several: the same slot waits on. Who cannot be asked is
    /// a part that failed.
    fn ask(&mut self, id: u32, seq: u32, questions: &[(ShardId, Vec<u8>)], need: Need, merge: Box<Merge>) {
        let client = &mut self.clients[id as usize];
        let (proto, db, generation) = (client.proto, client.db, client.generation);
        let Some(slot) = client.slot(seq) else { return };
        slot.state = State::Merge(merge);
        let mut conns = Vec::with_capacity(questions.len());
        for (shard, _) in questions {
            conns.push(match self.private(id, *shard) {
                Some(private) => private,
                None => self.shared(*shard, proto, db),
            });
        }
        let down = conns.iter().position(|conn| *conn == NONE);
        for (part, (conn, (shard, frame))) in conns.into_iter().zip(questions).enumerate() {
            let missing = match down {
                Some(at) if need == Need::All => Some(questions[at].0),
                _ => (conn == NONE).then_some(*shard),
            };
            let part = part as u16;
            if let Some(missing) = missing {
                let text = self.gone_between_steps(missing);
                let tag = Tag { client: id, generation, seq, part, slow: false, at: self.now, offset: 0 };
                self.complete(tag, Answer::Copied(&text));
            } else {
                self.expect(conn, id, seq, part, true);
                self.conns[conn as usize].out.push(frame);
            }
        }
    }

    /// A slot has its whole answer.
    fn settle(&mut self, id: u32, seq: u32, answer: Answer<'_>, class: Class, at: u64) {
        self.tally.class(class, at, &self.metrics);
        if answer.bytes().first() == Some(&b'-') {
            self.metrics.errors[failure::kind(answer.bytes())].inc();
            self.watch_refused(id, seq);
            let text = answer.bytes().get(1..).unwrap_or_default();
            if self.options.close_on_shard_errors && failure::is_of_absence(text) {
                self.close_before(id, seq);
            }
        }
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        if client.settle(seq, answer, &mut self.pool) == Turn::Later {
            return;
        }
        if client.may_go_on() {
            self.resume.push((id, client.generation));
        }
        if client.out.is_empty() {
            self.close_if_finished(id);
        } else if !client.dirty {
            client.dirty = true;
            self.dirty_clients.push(id);
        }
    }
}

//! A reply's journey: take it off its connection, give it to its slot, let the client's replies out
//! in order. Also what happens when no reply comes.

use std::mem;

use super::client::{Answer, Park, State};
use super::conn::{Conn, ENGINE, GREETING, Link, NOBODY, Tag, Use};
use super::merge::{Finish, Merge, Need};
use super::out::LARGE_BYTES;
use super::proxy::Proxy;
use super::{Engine, Fault, NONE, Order, TOLD_MAX, failure};
use crate::metrics::BackendError;
use crate::resp::{Proto, ReplyError, ReplyScanner, Scanned, elements, integer, request};
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
                }
            }
            Err(error) => self.conn_broken(id, error),
        }
    }

    /// `count` bytes of a large reply were received where [`conn_direct`](Self::conn_direct) said.
    pub fn conn_filled(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(id as usize) {
            conn.heard = self.now;
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
                    // The reply may have been the last that anybody wanted of this connection.
                    if inbox.is_empty() || !self.conns.contains(id as usize) {
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
        }
    }

    /// Gives the replies at the front of `bytes` to their slots; says how many bytes they were and
    /// how many the next one needs. In an inbox it stops at a large one and needs 0.
    fn replies(&mut self, id: u32, bytes: &[u8], boxed: bool) -> Result<(usize, usize), ReplyError> {
        let mut scanner = mem::take(&mut self.conns[id as usize].scanner);
        let mut used = 0;
        while used < bytes.len() {
            match scanner.scan(&bytes[used..])? {
                Scanned::Frame { len } if boxed && len >= LARGE_BYTES => return Ok((used, 0)),
                Scanned::Frame { len } => {
                    self.reply(id, Answer::Copied(&bytes[used..used + len]));
                    used += len;
                    // What follows a broken connection's last reply is nobody's.
                    if !self.conns.get(id as usize).is_some_and(Conn::is_linked) {
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
    #[inline(always)]
    fn reply(&mut self, id: u32, answer: Answer<'_>) {
        let conn = &mut self.conns[id as usize];
        if answer.bytes().first() == Some(&b'>') {
            // Nobody subscribed on a connection that carries requests.
            return;
        }
        let Some(tag) = conn.fifo.pop_front() else {
            return self.unasked(id, &answer);
        };
        if tag.client == GREETING {
            return self.greeted(id, answer.bytes());
        }
        let backend = &self.metrics.backends[conn.shard.0 as usize];
        backend.duration.observe_us(self.now - tag.at);
        let waited_for = !conn.waiters.is_empty();
        let leased = conn.purpose != Use::Shared && conn.fifo.is_empty();
        match tag.client {
            ENGINE => self.looked_up(tag.seq, answer.bytes()),
            client if client < ENGINE => self.complete(tag, answer),
            _ => {}
        }
        if waited_for {
            self.release_waiters(id);
        }
        if leased {
            self.lease_answered(id);
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
    #[inline]
    pub(super) fn complete(&mut self, tag: Tag, answer: Answer<'_>) {
        let Some(client) = self.clients.get_mut(tag.client as usize) else { return };
        if client.generation != tag.generation {
            return;
        }
        let Some(slot) = client.slot(tag.seq) else { return };
        match &mut slot.state {
            State::Wait => {
                let (class, at) = (slot.class, slot.at);
                self.settle(tag.client, tag.seq, answer, class as usize, at);
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
        let proxy = if merge.concerns_proxy() { self.proxy() } else { Proxy::default() };
        let mut news = Vec::new();
        let finish = merge.finish(proto, &self.topology, &proxy, &mut news);
        for line in news {
            if self.told.len() < TOLD_MAX && !self.told.contains(&line) {
                self.told.push(line.clone());
                self.news.push(line);
            }
        }
        match finish {
            Finish::Reply(bytes) => self.finish_with(id, seq, &bytes),
            Finish::Executed { reply, db } => {
                if let Some(db) = db {
                    self.clients[id as usize].db = db;
                }
                self.finish_with(id, seq, &reply);
            }
            Finish::Ask { questions, need, merge } => self.ask(id, seq, &questions, need, merge),
        }
    }

    pub(super) fn finish_with(&mut self, id: u32, seq: u32, bytes: &[u8]) {
        let Some(slot) = self.clients[id as usize].slot(seq) else { return };
        let (class, at) = (slot.class, slot.at);
        self.settle(id, seq, Answer::Copied(bytes), class as usize, at);
    }

    /// The next step of an answer that takes several: the same slot waits on. Who cannot be asked is
    /// a part that failed.
    fn ask(&mut self, id: u32, seq: u32, questions: &[(ShardId, Vec<u8>)], need: Need, merge: Box<Merge>) {
        let client = &mut self.clients[id as usize];
        let (proto, db, generation) = (client.proto, client.db, client.generation);
        let Some(slot) = client.slot(seq) else { return };
        slot.state = State::Merge(merge);
        let conns: Vec<u32> = questions.iter().map(|(shard, _)| self.shared(*shard, proto, db)).collect();
        let down = conns.iter().position(|conn| *conn == NONE);
        for (part, (conn, (shard, frame))) in conns.into_iter().zip(questions).enumerate() {
            let missing = match down {
                Some(at) if need == Need::All => Some(questions[at].0),
                _ => (conn == NONE).then_some(*shard),
            };
            let part = part as u16;
            if let Some(missing) = missing {
                let trouble = "it went away between two steps of the command";
                let text = failure::down(self.topology.shard(missing), trouble);
                let tag = Tag { client: id, generation, seq, part, slow: false, at: self.now, offset: 0 };
                self.complete(tag, Answer::Copied(format!("-{text}\r\n").as_bytes()));
            } else {
                self.expect(conn, id, seq, part, true);
                self.conns[conn as usize].out.push(frame);
            }
        }
    }

    /// A slot has its whole answer.
    #[inline(always)]
    fn settle(&mut self, id: u32, seq: u32, answer: Answer<'_>, class: usize, at: u64) {
        self.metrics.durations[class].observe_us(self.now - at);
        if answer.bytes().first() == Some(&b'-') {
            self.metrics.errors[failure::kind(answer.bytes())].inc();
        }
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.settle(seq, answer, &mut self.pool);
        if client.exclusive && client.slots.is_empty() {
            client.exclusive = false;
            if let Some(session) = &mut client.session {
                session.blocked = NONE;
            }
        }
        match client.park {
            Park::No | Park::Held | Park::Room => {}
            Park::Empty if !client.slots.is_empty() => {}
            Park::Empty | Park::Window => self.resume.push((id, client.generation)),
        }
        if client.out.is_empty() {
            self.close_if_finished(id);
        } else if !client.dirty {
            client.dirty = true;
            self.dirty_clients.push(id);
        }
    }

    // The life of a connection.

    /// The socket is connected: the greeting goes first.
    pub fn conn_connected(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let credentials = &self.options.credentials[conn.shard.0 as usize];
        let mut hello = vec!["HELLO", if conn.proto == Proto::Resp3 { "3" } else { "2" }];
        if let Some(password) = &credentials.password {
            hello.extend(["AUTH", credentials.username.as_deref().unwrap_or("default"), password]);
        }
        let select = ["SELECT".to_owned(), conn.db.to_string()];
        conn.greeting.clear();
        conn.greeting.write(|out| {
            request(out, &hello);
            if conn.db != 0 {
                request(out, &select);
            }
        });
        conn.greetings_left = if conn.db == 0 { 1 } else { 2 };
        for _ in 0..conn.greetings_left {
            conn.fifo.push_front(Tag {
                client: GREETING,
                generation: 0,
                seq: 0,
                part: 0,
                slow: false,
                at: self.now,
                offset: 0,
            });
        }
        conn.link = Link::Greeting;
        conn.heard = self.now;
        let backend = &self.metrics.backends[conn.shard.0 as usize];
        backend.connections.inc();
        if conn.was_up {
            backend.reconnects.inc();
        }
        self.mark_conn(id);
    }

    /// One reply to the greeting.
    fn greeted(&mut self, id: u32, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            let said = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            self.conn_lost(id, Fault::Auth, &format!("it answered the greeting with '{said}'"));
            return self.reconnect(id);
        }
        let conn = &mut self.conns[id as usize];
        let fields: Vec<&[u8]> = elements(reply).collect();
        let version = fields.chunks(2).find(|pair| pair[0].ends_with(b"\r\nversion\r\n"));
        if let Some([_, version]) = version {
            let text = version.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
            self.shards[conn.shard.0 as usize].version = Some(String::from_utf8_lossy(text).trim_end().to_owned());
        }
        let number = fields.chunks(2).find(|pair| pair[0].ends_with(b"\r\nid\r\n"));
        if let Some([_, number]) = number {
            let digits = number.strip_prefix(b":").and_then(|number| number.strip_suffix(b"\r\n"));
            conn.server_id = digits.and_then(integer).unwrap_or(0);
        }
        conn.greetings_left -= 1;
        if conn.greetings_left == 0 {
            conn.link = Link::Up;
            conn.was_up = true;
            if conn.purpose == Use::Shared && conn.proto == Proto::Resp2 && conn.db == 0 {
                self.metrics.backends[conn.shard.0 as usize].up.set(1);
            }
            let (hub, shard) = (conn.purpose == Use::Hub, conn.shard);
            self.mark_conn(id);
            if hub {
                self.hub_up(shard);
            }
        }
    }

    /// The socket could not be connected, or broke. Everybody who waits for it is told.
    pub fn conn_lost(&mut self, id: u32, fault: Fault, trouble: &str) {
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let shard = conn.shard;
        let backend = &self.metrics.backends[shard.0 as usize];
        backend.fail(match fault {
            Fault::Connect => BackendError::Connect,
            Fault::Lost => BackendError::Lost,
            Fault::Timeout => BackendError::Timeout,
            Fault::Protocol => BackendError::Protocol,
            Fault::Auth => BackendError::Auth,
        });
        if matches!(conn.link, Link::Up | Link::Greeting) {
            backend.connections.dec();
        }
        let base = conn.purpose == Use::Shared && conn.proto == Proto::Resp2 && conn.db == 0;
        if base {
            backend.up.set(0);
        }
        let was_up = conn.link == Link::Up;
        let sent = conn.out.taken();
        conn.trouble = trouble.to_owned();
        // A server that was there a moment ago gets one chance to be back at once.
        conn.link = if was_up && !matches!(conn.purpose, Use::Lease { .. }) { Link::Connecting } else { Link::Down };
        conn.patient = false;
        conn.out.clear();
        conn.greeting.clear();
        conn.inbox = super::inbox::Inbox::default();
        conn.scanner = ReplyScanner::default();
        let fifo = mem::take(&mut conn.fifo);
        self.resume.append(&mut conn.waiters);
        let shard = self.topology.shard(shard).clone();
        for tag in fifo {
            if tag.client == GREETING {
                continue;
            }
            let text = if tag.offset < sent { failure::lost(&shard, trouble) } else { failure::down(&shard, trouble) };
            let text = format!("-{text}\r\n");
            match tag.client {
                ENGINE => self.looked_up(tag.seq, text.as_bytes()),
                client if client < ENGINE => self.complete(tag, Answer::Copied(text.as_bytes())),
                _ => {}
            }
        }
        let conn = &self.conns[id as usize];
        match conn.purpose {
            Use::Shared => {}
            Use::Lease { .. } => self.lease_lost(id),
            Use::Hub => self.hub_lost(conn.shard),
        }
    }

    /// The driver is to give up the socket; a lease is forgotten already.
    fn reconnect(&mut self, id: u32) {
        if self.conns.contains(id as usize) {
            self.orders.push_back(Order::Reconnect { conn: id });
        }
    }

    /// The server does not speak RESP, or speaks unasked.
    #[cold]
    fn conn_broken(&mut self, id: u32, error: ReplyError) {
        self.conn_lost(id, Fault::Protocol, &format!("protocol error: {error}"));
        self.reconnect(id);
    }

    // Time.

    /// To be called some ten times a second: tells those who waited too long, and tidies up.
    pub fn tick(&mut self) {
        self.end_pause_in_time();
        let mut late = Vec::new();
        let mut mute = Vec::new();
        for (id, conn) in &mut self.conns {
            if conn.patient {
                continue;
            }
            let patience = |tag: &Tag| {
                if tag.slow { self.options.script_timeout } else { self.options.request_timeout }
            };
            for tag in &mut conn.fifo {
                let waited = self.now.saturating_sub(tag.at);
                if waited < self.options.request_timeout {
                    break;
                }
                if tag.client <= ENGINE && waited >= patience(tag) {
                    late.push((*tag, conn.shard));
                    tag.client = NOBODY;
                }
            }
            if let Some(head) = conn.fifo.front()
                && self.now.saturating_sub(head.at.max(conn.heard)) >= 2 * patience(head)
            {
                mute.push(id as u32);
            }
        }
        for (tag, shard) in late {
            self.metrics.backends[shard.0 as usize].fail(BackendError::Timeout);
            let waited = if tag.slow { self.options.script_timeout } else { self.options.request_timeout };
            let text = failure::timeout(self.topology.shard(shard), waited / 1000);
            let text = format!("-{text}\r\n");
            match tag.client {
                ENGINE => self.looked_up(tag.seq, text.as_bytes()),
                _ => self.complete(tag, Answer::Copied(text.as_bytes())),
            }
        }
        self.hub_tick();
        mute.extend(self.silent_lines());
        for id in mute {
            self.conn_lost(id, Fault::Timeout, "it did not answer any more");
            self.reconnect(id);
        }
        for (index, backend) in self.metrics.backends.iter().enumerate() {
            let here = self.conns.iter().filter(|(_, conn)| conn.shard.0 as usize == index);
            backend.inflight.set(here.map(|(_, conn)| conn.fifo.len() as i64).sum());
        }
        let buffered: usize = self.clients.iter().map(|(_, client)| client.buffered()).sum::<usize>()
            + self.conns.iter().map(|(_, conn)| conn.out.len() + conn.inbox.len()).sum::<usize>();
        self.metrics.buffered_bytes.set(buffered as i64);
    }

    /// To be called every few seconds: gives back memory that a burst left behind.
    pub fn tidy(&mut self) {
        self.pool.clear();
        self.spans.shrink_to(64);
        self.keys.shrink_to(64);
        for (_, client) in &mut self.clients {
            client.shrink();
        }
    }
}

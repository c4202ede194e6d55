//! Subscriptions: what any client of this worker wants is subscribed once on every shard, over one
//! connection per shard (its [`Line`](hub::Line)), and each message is copied to all who want it.
//!
//! ```text
//! SUBSCRIBE  -> join -> ask every line that is up -> wait for their replies -> confirm to the client
//! message    -> the topic's clients -> into the `out` of each, between two replies
//! line is up -> ask for everything again
//! ```
//!
//! A client gets no message of a channel before its confirmation, and a message that is published
//! after the confirmation on a shard that is connected is not missed: a PUBLISH that comes after
//! SUBSCRIBE, and before its confirmation, waits for that. A SUBSCRIBE waits for no confirmation before it.
//! A client that does not read is closed: a server's connection never waits for it.

mod board;
mod glob;
mod hub;
mod inside;
mod publish;
#[cfg(test)]
mod tests;

use std::mem;

use bytes::Bytes;

use super::client::{Answer, End, Park, State};
use super::conn::{Link, Use};
use super::request::{Flow, Request};
use super::session::Session;
use super::{Engine, Order};
use crate::command::{Class, Local, Route, Session as Verb};
use crate::resp::{Args, Proto, Reply, elements, request as frame};
use crate::route::is_reserved;
use crate::topology::ShardId;
pub use board::Board;
pub(super) use hub::{Hub, Joined, Subscriptions};
use hub::{Kind, Name, UNKNOWN, Waiting};

/// When a subscriber that does not read is closed: Redis' `client-output-buffer-limit pubsub`. A
/// limit of 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// At once.
    pub hard_bytes_max: usize,
    /// After it was over this for `soft_time` microseconds.
    pub soft_bytes_max: usize,
    pub soft_time: u64,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { hard_bytes_max: 32 << 20, soft_bytes_max: 8 << 20, soft_time: 60_000_000 }
    }
}

impl Engine {
    /// Subscribers that were closed because they did not read.
    #[must_use]
    pub fn subscribers_dropped(&self) -> u64 {
        self.hub.dropped
    }

    pub(super) fn pubsub(&mut self, id: u32, verb: Verb, request: &Request<'_>) -> Flow {
        match verb {
            Verb::Subscribe => self.subscribe(id, Kind::Channel, request),
            Verb::PatternSubscribe => self.subscribe(id, Kind::Pattern, request),
            Verb::ShardSubscribe => self.subscribe(id, Kind::Shard, request),
            Verb::Unsubscribe => self.unsubscribe(id, Kind::Channel, request),
            Verb::PatternUnsubscribe => self.unsubscribe(id, Kind::Pattern, request),
            Verb::ShardUnsubscribe => self.unsubscribe(id, Kind::Shard, request),
            Verb::Publish => self.publish(id, Kind::Channel, request),
            Verb::ShardPublish => self.publish(id, Kind::Shard, request),
            Verb::PubsubNumSub => self.numsub(id, Kind::Channel, request),
            Verb::PubsubShardNumSub => self.numsub(id, Kind::Shard, request),
            Verb::PubsubChannels => self.channels(id, Kind::Channel, request),
            Verb::PubsubShardChannels => self.channels(id, Kind::Shard, request),
            Verb::PubsubNumPat => self.numpat(id),
            _ => self.answer_error(id, "ERR this command is not available through Ringway yet"),
        }
    }

    /// What a subscribed client that speaks RESP2 may not do, or does in another way.
    #[cold]
    pub(super) fn subscribed_only(&mut self, id: u32, request: &Request<'_>) -> Option<Flow> {
        match request.row.route {
            route if is_of_subscriptions(route) => None,
            Route::Local(Local::Quit | Local::Reset) => None,
            Route::Local(Local::Ping) if request.args.len() > 2 => None,
            Route::Local(Local::Ping) => {
                Some(self.answer(id, |reply| _ = reply.array(2).bulk("pong").bulk(request.args.at(1))))
            }
            _ => {
                self.monitors.rejected = true;
                let exec = request.row.route == Route::Session(Verb::Exec);
                let word = if exec { "EXECABORT Transaction discarded because of:" } else { "ERR" };
                let text = format!(
                    "{word} Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                     in this context",
                    request.row.name
                );
                Some(self.answer_error(id, &text))
            }
        }
    }

    // Clients.

    fn subscribe(&mut self, id: u32, kind: Kind, request: &Request<'_>) -> Flow {
        if self.awaits_replies(id) {
            return Flow::Parked(Park::Empty);
        }
        self.open_lines();
        let (mut reply, mut added) = (Vec::new(), Vec::new());
        self.join(id, kind, request.args, &mut reply, &mut added);
        let targets = self.targets();
        self.confirm(id, reply, targets, added)
    }

    /// Joins the topics that are named, and says so.
    fn join(&mut self, id: u32, kind: Kind, args: Args<'_>, reply: &mut Vec<u8>, added: &mut Joined) {
        for name in args.iter().skip(1) {
            if !self.clients[id as usize].session_mut().subscriptions.names[kind as usize].contains(name) {
                let (name, first) = self.hub.join(kind, name, id);
                if first {
                    self.ask_all(kind, &name, true);
                }
                self.post(kind, &name);
                let session = self.clients[id as usize].session_mut();
                session.subscriptions.names[kind as usize].insert(name.clone());
                added.push((kind, name));
            }
            self.confirmation(id, kind, kind.joins(), Some(name), reply);
        }
    }

    /// How far every shard has to get until all that was asked is so.
    fn targets(&self) -> Vec<u64> {
        let targets =
            self.hub.lines.iter().enumerate().map(|(shard, line)| match self.conns[line.conn as usize].link {
                Link::Up | Link::Stalled | Link::Busy => line.end,
                Link::Connecting | Link::Greeting => UNKNOWN,
                // A server that is there will be connected in a moment; one that is not is not waited for.
                Link::Down | Link::Knocking if self.is_shard_up(shard) => UNKNOWN,
                Link::Down | Link::Knocking => 0,
            });
        targets.collect()
    }

    /// Whether anything but confirmations is to come for the client. Those are not waited for: what it
    /// asked for behind them is so at once, as on a single server, for all who publish from then on.
    fn awaits_replies(&self, id: u32) -> bool {
        let client = &self.clients[id as usize];
        client.slots.len() > client.session.as_ref().map_or(0, |session| session.subscriptions.confirming)
    }

    fn unsubscribe(&mut self, id: u32, kind: Kind, request: &Request<'_>) -> Flow {
        if self.awaits_replies(id) {
            return Flow::Parked(Park::Empty);
        }
        let mut reply = Vec::new();
        self.part(id, kind, request.args, &mut reply);
        // So that whoever publishes afterwards is not told of a receiver that is none any more.
        let targets = self.hub.lines.iter().map(|line| line.end).collect();
        self.confirm(id, reply, targets, Vec::new())
    }

    /// Leaves the topics that are named, or all, and says so.
    fn part(&mut self, id: u32, kind: Kind, args: Args<'_>, reply: &mut Vec<u8>) {
        let mut names: Vec<Name> = args.iter().skip(1).map(Name::from).collect();
        if names.is_empty() {
            let session = self.clients[id as usize].session.as_ref();
            names.extend(session.iter().flat_map(|session| &session.subscriptions.names[kind as usize]).cloned());
        }
        if names.is_empty() {
            self.confirmation(id, kind, kind.leaves(), None, reply);
        }
        for name in &names {
            let session = self.clients[id as usize].session.as_mut();
            if session.is_some_and(|session| session.subscriptions.names[kind as usize].remove(name)) {
                self.leave(id, kind, name);
            }
            self.confirmation(id, kind, kind.leaves(), Some(name), reply);
        }
    }

    /// RESET: nothing is said of what it ends.
    pub(super) fn unsubscribe_all(&mut self, id: u32) {
        let Some(session) = self.clients[id as usize].session.as_mut() else { return };
        let subscriptions = mem::take(&mut session.subscriptions);
        self.leave_all(id, &subscriptions);
    }

    /// The client is gone.
    pub(super) fn end_subscriptions(&mut self, id: u32, session: &Session) {
        self.leave_all(id, &session.subscriptions);
    }

    fn leave_all(&mut self, id: u32, subscriptions: &Subscriptions) {
        for kind in Kind::ALL {
            for name in &subscriptions.names[kind as usize] {
                self.leave(id, kind, name);
            }
        }
    }

    fn leave(&mut self, id: u32, kind: Kind, name: &Name) {
        if self.hub.leave(kind, name, id) {
            self.ask_all(kind, name, false);
        }
        self.post(kind, name);
    }

    /// Lets the other workers know how many of this one's clients are subscribed to the name.
    fn post(&self, kind: Kind, name: &Name) {
        if let Some(board) = &self.options.board {
            board.set(self.options.worker, kind, name, self.hub.members(kind, name));
        }
    }

    /// Lets them know whether this one's clients hear the shard.
    fn post_line(&self, shard: usize) {
        if let Some(board) = &self.options.board {
            board.hears(self.options.worker, ShardId(shard as u16), self.hub.lines[shard].is_restored());
        }
    }

    /// One confirmation, with the client's count as it is now.
    fn confirmation(&self, id: u32, kind: Kind, what: &str, name: Option<&[u8]>, out: &mut Vec<u8>) {
        let client = &self.clients[id as usize];
        let count = client.session.as_ref().map_or(0, |session| session.subscriptions.count(kind));
        let mut reply = Reply::new(out, client.proto);
        reply.push(3).bulk(what);
        match name {
            Some(name) => reply.bulk(name),
            None => reply.null(),
        };
        reply.integer(count as i64);
    }

    /// Gives the client its confirmations when every shard has got as far as its target.
    fn confirm(&mut self, id: u32, reply: Vec<u8>, targets: Vec<u64>, added: Joined) -> Flow {
        let ready = targets.iter().zip(&self.hub.lines).all(|(target, line)| line.heard() >= *target);
        let client = &mut self.clients[id as usize];
        if ready {
            self.drop_plain_session(id);
            // CLIENT REPLY does not concern what is pushed.
            let mute = mem::replace(&mut self.clients[id as usize].mute, false);
            let flow = self.answer(id, |out| _ = out.raw(&reply));
            self.clients[id as usize].mute = mute;
            return flow;
        }
        let subscriptions = &mut client.session_mut().subscriptions;
        subscriptions.pending.extend_from_slice(&added);
        subscriptions.confirming += 1;
        let (generation, at) = (client.generation, self.now);
        let seq = client.open(State::Wait, Class::Session, at);
        if let Some(slot) = client.slot(seq) {
            slot.mute = false;
        }
        let (refused, early) = (None, Vec::new());
        self.hub.queue.push_back(Waiting { client: id, generation, seq, at, reply, targets, added, refused, early });
        Flow::Taken
    }

    /// Confirms to all who need not wait any longer.
    fn confirm_ready(&mut self) {
        while let Some(waiting) = self.hub.next_ready() {
            self.confirmed(&waiting);
        }
        for id in self.hub.released() {
            self.resume.extend(self.clients.get(id as usize).map(|client| (id, client.generation)));
        }
    }

    fn confirmed(&mut self, waiting: &Waiting) {
        let id = waiting.client;
        let same = |client: &&mut super::client::Client| client.generation == waiting.generation;
        let Some(client) = self.clients.get_mut(id as usize).filter(same) else { return };
        let subscriptions = &mut client.session_mut().subscriptions;
        subscriptions.settle(&waiting.added);
        if let Some(error) = &waiting.refused {
            let added = &waiting.added;
            added.iter().for_each(|(kind, name)| _ = subscriptions.names[*kind as usize].remove(name));
            added.iter().for_each(|(kind, name)| self.leave(id, *kind, name));
            self.finish_with(id, waiting.seq, error);
        } else {
            self.finish_with(id, waiting.seq, &waiting.reply);
            if let Some(client) = self.clients.get_mut(id as usize).filter(|_| !waiting.early.is_empty()) {
                client.out.push(&waiting.early);
                self.mark_client(id);
            }
        }
        if self.clients.contains(id as usize) {
            self.drop_plain_session(id);
        }
    }

    // Servers.

    /// A connection to every shard, at the first subscription.
    fn open_lines(&mut self) {
        for index in self.hub.lines.len()..self.shards.len() {
            let conn = self.conn_new(ShardId(index as u16), Proto::Resp2, 0, Use::Hub);
            let base = self.conns.get(self.shards[index].shared[0] as usize);
            if base.is_some_and(|base| base.link.is_down()) {
                self.conns[conn as usize].link = Link::Down;
            }
            self.hub.line_new(conn);
            self.post_line(index);
        }
    }

    fn is_shard_up(&self, index: usize) -> bool {
        self.conns.get(self.shards[index].shared[0] as usize).is_some_and(|conn| conn.link.is_up())
    }

    /// Subscribes or unsubscribes on every shard whose line is up; the others are asked when theirs is.
    fn ask_all(&mut self, kind: Kind, name: &Name, join: bool) {
        for shard in 0..self.hub.lines.len() {
            if self.conns[self.hub.lines[shard].conn as usize].link == Link::Up {
                self.ask_one(shard, kind, name, join);
            }
        }
    }

    /// One name at a time: one question has one reply, also when it is an error.
    fn ask_one(&mut self, shard: usize, kind: Kind, name: &Name, join: bool) {
        let verb = if join { kind.joins() } else { kind.leaves() };
        let conn = self.hub.lines[shard].conn;
        self.conns[conn as usize].out.write(|out| frame(out, &[verb.as_bytes(), name]));
        self.asked(shard, join.then(|| (kind, name.clone())));
    }

    fn asked(&mut self, shard: usize, what: Option<(Kind, Name)>) {
        let line = &mut self.hub.lines[shard];
        if line.asked.is_empty() {
            line.since = self.now;
        }
        line.asked.push_back(what);
        line.end += 1;
        let conn = line.conn;
        self.mark_conn(conn);
    }

    /// A line is connected: everything is subscribed again.
    pub(super) fn hub_up(&mut self, shard: ShardId) {
        let shard = shard.0 as usize;
        if shard >= self.hub.lines.len() {
            return;
        }
        for kind in Kind::ALL {
            let names: Vec<Name> = self.hub.topics[kind as usize].keys().cloned().collect();
            names.iter().for_each(|name| self.ask_one(shard, kind, name, true));
        }
        self.hub.restored(shard);
        self.post_line(shard);
        self.confirm_ready();
    }

    pub(super) fn hub_lost(&mut self, shard: ShardId) {
        let shard = shard.0 as usize;
        if shard < self.hub.lines.len() {
            self.hub.lost(shard);
            self.post_line(shard);
        }
        self.confirm_ready();
    }

    /// What came over a line: a message, or the reply to the oldest question; false when it is neither.
    pub(super) fn hub_reply(&mut self, shard: ShardId, answer: &Answer<'_>) -> bool {
        let mut fields = elements(answer.bytes()).map(body);
        let kind = match fields.next() {
            Some(b"message") => Kind::Channel,
            Some(b"pmessage") => Kind::Pattern,
            Some(b"smessage") => Kind::Shard,
            _ => return self.hub_answered(shard, answer.bytes()),
        };
        let name = fields.next().unwrap_or_default();
        // A pattern stands before the channel that it matched.
        let channel = if kind == Kind::Pattern { fields.next().unwrap_or_default() } else { name };
        let is_event = channel.starts_with(b"__key");
        if !(is_event && is_of_a_copy(channel, fields.next().unwrap_or_default())) {
            self.deliver(kind, name, answer);
        }
        true
    }

    fn hub_answered(&mut self, shard: ShardId, reply: &[u8]) -> bool {
        let Some(line) = self.hub.lines.get_mut(shard.0 as usize) else { return false };
        let Some(asked) = line.asked.pop_front() else { return false };
        line.since = self.now;
        if line.heard() == line.restored {
            self.post_line(shard.0 as usize);
        }
        if let Some((kind, name)) = asked
            && reply.first() == Some(&b'-')
        {
            self.hub.refused(kind, &name, reply);
        }
        self.confirm_ready();
        true
    }

    /// Copies a message to everybody who is subscribed to `name`.
    fn deliver(&mut self, kind: Kind, name: &[u8], message: &Answer<'_>) {
        let Some(members) = self.hub.topics[kind as usize].get_mut(name) else { return };
        let members = mem::take(members);
        let mut pushed = None;
        let mut slow = Vec::new();
        for id in &members {
            let Some(client) = self.clients.get_mut(*id as usize) else { continue };
            let Some(session) = client.session.as_ref().filter(|_| client.end == End::Open) else { continue };
            if session.subscriptions.awaits(kind, name) {
                let same = |waiting: &&mut Waiting| {
                    (waiting.client, waiting.generation) == (*id, client.generation)
                        && waiting.added.iter().any(|(of, added)| *of == kind && **added == *name)
                };
                let waiting = self.hub.queue.iter_mut().rfind(same);
                if let Some(early) = waiting.map(|waiting| &mut waiting.early) {
                    early.extend_from_slice(if client.proto == Proto::Resp3 { b">" } else { b"*" });
                    early.extend_from_slice(message.bytes().get(1..).unwrap_or_default());
                    if early.len() > self.options.subscribers.hard_bytes_max {
                        slow.push(*id);
                    }
                }
                continue;
            }
            client.out.equip(&mut self.pool);
            match (client.proto, message) {
                (Proto::Resp2, Answer::Copied(bytes)) => client.out.push(bytes),
                (Proto::Resp2, Answer::Owned(bytes)) => client.out.hand_over(bytes.clone()),
                (Proto::Resp3, Answer::Copied(bytes)) => {
                    client.out.push(b">");
                    client.out.push(bytes.get(1..).unwrap_or_default());
                }
                (Proto::Resp3, Answer::Owned(bytes)) => {
                    let frame = pushed.get_or_insert_with(|| {
                        let mut frame = bytes.to_vec();
                        frame[0] = b'>';
                        Bytes::from(frame)
                    });
                    client.out.hand_over(frame.clone());
                }
            }
            if self.is_too_slow(*id) {
                slow.push(*id);
            }
            self.mark_client(*id);
        }
        if let Some(place) = self.hub.topics[kind as usize].get_mut(name) {
            *place = members;
        }
        slow.into_iter().for_each(|id| self.drop_subscriber(id));
    }

    /// Closes a client that does not read, whatever waits for it.
    #[cold]
    pub(super) fn drop_subscriber(&mut self, id: u32) {
        self.hub.dropped += 1;
        self.unsubscribe_all(id);
        self.clients[id as usize].end = End::Closing;
        self.orders.push_back(Order::DropClient { client: id });
    }

    /// Whether the client, to whom something was told just now, is to be closed.
    pub(super) fn is_too_slow(&mut self, id: u32) -> bool {
        let (limits, now) = (self.options.subscribers, self.now);
        let client = &mut self.clients[id as usize];
        let (len, generation) = (client.out.len(), client.generation);
        let since = &mut client.session_mut().subscriptions.slow_since;
        let was_slow = since.is_some();
        if limits.are_broken(len, since, now) {
            return true;
        }
        if !was_slow && since.is_some() {
            self.hub.slow.push((id, generation));
        }
        false
    }

    // Time.

    pub(super) fn hub_tick(&mut self) {
        let timeout = self.options.request_timeout;
        // A server that does not answer is not waited for longer than for any reply.
        while self.hub.queue.front().is_some_and(|waiting| self.heard_by.saturating_sub(waiting.at) >= timeout) {
            let waiting = self.hub.pop();
            waiting.iter().for_each(|waiting| self.confirmed(waiting));
        }
        self.confirm_ready();
        for (id, generation) in mem::take(&mut self.hub.slow) {
            let Some(client) = self.clients.get_mut(id as usize).filter(|client| client.generation == generation)
            else {
                continue;
            };
            let Some(session) = client.session.as_mut() else { continue };
            let since = &mut session.subscriptions.slow_since;
            if self.options.subscribers.are_broken(client.out.len(), since, self.now) {
                self.drop_subscriber(id);
            } else if since.is_some() {
                self.hub.slow.push((id, generation));
            }
        }
        for shard in 0..self.hub.lines.len() {
            let line = &self.hub.lines[shard];
            let conn = &self.conns[line.conn as usize];
            // Nothing may come for hours on a line that is fine: it is asked whether it is.
            if conn.link == Link::Up && line.asked.is_empty() && self.now.saturating_sub(conn.heard) >= timeout {
                let conn = line.conn;
                self.conns[conn as usize].out.write(|out| frame(out, &["PING"]));
                self.asked(shard, None);
            }
        }
    }

    /// The lines that were asked and say nothing at all.
    pub(super) fn silent_lines(&self) -> impl Iterator<Item = u32> + '_ {
        let timeout = self.options.request_timeout;
        self.hub.lines.iter().filter_map(move |line| {
            let heard = self.conns[line.conn as usize].heard.max(line.since);
            (!line.asked.is_empty() && self.heard_by.saturating_sub(heard) >= 2 * timeout).then_some(line.conn)
        })
    }
}

impl OutputLimits {
    /// Whether a client with `len` bytes of output is to be closed; `since` is when it got over the
    /// soft limit.
    fn are_broken(&self, len: usize, since: &mut Option<u64>, now: u64) -> bool {
        if self.hard_bytes_max > 0 && len > self.hard_bytes_max {
            return true;
        }
        if self.soft_bytes_max == 0 || len <= self.soft_bytes_max {
            *since = None;
            return false;
        }
        now.saturating_sub(*since.get_or_insert(now)) > self.soft_time
    }
}

/// SUBSCRIBE, UNSUBSCRIBE, and the like.
pub(super) fn is_of_subscriptions(route: Route) -> bool {
    let Route::Session(verb) = route else { return false };
    matches!(
        verb,
        Verb::Subscribe
            | Verb::PatternSubscribe
            | Verb::ShardSubscribe
            | Verb::Unsubscribe
            | Verb::PatternUnsubscribe
            | Verb::ShardUnsubscribe
    )
}

/// Whether a keyspace notification speaks of a copy that the proxy made for a moment.
/// <https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/>
fn is_of_a_copy(channel: &[u8], text: &[u8]) -> bool {
    match channel.strip_prefix(b"__keyspace@") {
        Some(space) => space.windows(3).position(|end| end == b"__:").is_some_and(|at| is_reserved(&space[at + 3..])),
        None => channel.starts_with(b"__keyevent@") && is_reserved(text),
    }
}

/// What a bulk string holds.
fn body(element: &[u8]) -> &[u8] {
    let start = element.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    element.get(start..element.len().saturating_sub(2)).unwrap_or_default()
}

//! Invalidations: from a shard to the client that is to hear of them, wherever it is.
//!
//! What a client reads and what it hears must keep their order, else it would keep what is out of date:
//! a push goes behind every reply that came before it and waits in the client's ring.

use std::mem;

use super::super::client::{End, State};
use super::super::conn::{Link, Use};
use super::super::peers::Message;
use super::super::waiting::body;
use super::super::{Engine, Order};
use super::Tracking;
use crate::resp::{Proto, Reply, elements};

/// How long the other shards' word is waited for when one forgot everything: one FLUSHALL is one message.
const FLUSH_PATIENCE: u64 = 150_000;
/// Copies of gathered commands come and go under such names; nobody reads them.
const OWN_KEYS: &[u8] = b"__ringway:";
const EVERYTHING: &[u8] = b"_\r\n";

/// What a client is to forget that another worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The worker and the client that track.
    pub(super) from: u16,
    pub(super) source: u64,
    /// The client that is to hear of it.
    pub(super) target: u64,
    /// The keys, as an array; [`EVERYTHING`].
    pub(super) keys: Vec<u8>,
}

impl Engine {
    /// A server says unasked that something changed.
    pub(in crate::engine) fn pushed(&mut self, conn: u32, push: &[u8]) {
        let state = &self.conns[conn as usize];
        let (Use::Private { client, .. } | Use::Sink { client }) = state.purpose else { return };
        let shard = state.shard.0 as usize;
        let mut fields = elements(push);
        if fields.next().map(body) != Some(b"invalidate") {
            return;
        }
        let keys = fields.next().unwrap_or_default();
        if !keys.starts_with(b"*") || keys.starts_with(b"*-") {
            return self.shard_forgot(client, shard);
        }
        let theirs: Vec<&[u8]> = elements(keys).filter(|key| !body(key).starts_with(OWN_KEYS)).collect();
        if theirs.is_empty() {
            return;
        }
        let mut array = Vec::with_capacity(keys.len());
        let mut reply = Reply::new(&mut array, Proto::Resp2);
        reply.array(theirs.len());
        theirs.iter().for_each(|key| _ = reply.raw(key));
        self.deliver_changes(client, &array);
    }

    /// A shard forgot everything; the client hears of it once, when all did or no other is going to.
    fn shard_forgot(&mut self, id: u32, shard: usize) {
        let now = self.now;
        let Some(tracking) = self.tracking_mut(id) else { return };
        tracking.flushed[shard] = true;
        let first = tracking.flushed_since.is_none();
        tracking.flushed_since.get_or_insert(now);
        let Some(tracking) = self.tracking(id) else { return };
        let there = |conn: &u32| self.conns[*conn as usize].link == Link::Up;
        let missing = tracking.conns.iter().zip(&tracking.flushed).any(|(conn, flushed)| there(conn) && !flushed);
        if !missing {
            self.forget_everything(id);
        } else if first {
            let generation = self.clients[id as usize].generation;
            self.tracked.flushes.push((id, generation));
        }
    }

    /// The client must not use anything that it read before.
    pub(super) fn forget_everything(&mut self, id: u32) {
        let Some(tracking) = self.tracking_mut(id) else { return };
        tracking.flushed.fill(false);
        tracking.flushed_since = None;
        self.deliver_changes(id, EVERYTHING);
    }

    /// To be called with every tick.
    pub(in crate::engine) fn tracking_tick(&mut self) {
        for (id, generation) in mem::take(&mut self.tracked.flushes) {
            if self.clients.get(id as usize).is_none_or(|client| client.generation != generation) {
                continue;
            }
            match self.tracking(id).and_then(|tracking| tracking.flushed_since) {
                Some(since) if self.now.saturating_sub(since) >= FLUSH_PATIENCE => self.forget_everything(id),
                Some(_) => self.tracked.flushes.push((id, generation)),
                None => {}
            }
        }
        for (to, news) in mem::take(&mut self.tracked.owed) {
            self.orders.push_back(Order::Send { to, message: Message::Invalidate(news) });
        }
    }

    /// To whoever hears of changes for the client.
    fn deliver_changes(&mut self, id: u32, keys: &[u8]) {
        let source = self.clients[id as usize].about.id;
        let Some(Tracking { mode, elsewhere, .. }) = self.tracking(id) else { return };
        let (target, elsewhere) = (mode.redirect, *elsewhere);
        match target.map(|target| (target, self.find_client(target))) {
            None => self.push_to(id, keys, false),
            Some((_, Some(at))) => self.push_to(at, keys, true),
            Some((target, None)) => match elsewhere {
                Some(to) => {
                    let news = News { from: self.options.worker, source, target, keys: keys.to_vec() };
                    self.orders.push_back(Order::Send { to, message: Message::Invalidate(news) });
                }
                None => self.redirect_gone(source),
            },
        }
    }

    /// A client of this worker is to hear of what one of another worker's read.
    pub(in crate::engine) fn told_of_changes(&mut self, news: &News) {
        match self.find_client(news.target) {
            Some(at) => self.push_to(at, &news.keys, true),
            None => {
                let message = Message::RedirectGone { source: news.source };
                self.orders.push_back(Order::Send { to: news.from, message });
            }
        }
    }

    /// The other worker takes no more: its client has to forget everything as soon as it can be told.
    pub(in crate::engine) fn changes_lost(&mut self, to: u16, news: &News) {
        let lost = News { keys: EVERYTHING.to_vec(), ..news.clone() };
        if !self.tracked.owed.iter().any(|(worker, owed)| *worker == to && *owed == lost) {
            self.tracked.owed.push((to, lost));
        }
    }

    /// The client that was to hear of changes is gone, and the one that reads is told so if it can be.
    pub(in crate::engine) fn redirect_gone(&mut self, source: u64) {
        let Some(id) = self.find_client(source) else { return };
        let target = self.redirection(id);
        let Some(tracking) = self.tracking_mut(id) else { return };
        tracking.broken = true;
        if self.clients[id as usize].proto == Proto::Resp3 {
            let mut push = Vec::new();
            Reply::new(&mut push, Proto::Resp3).push(2).bulk("tracking-redir-broken").integer(target);
            self.push(id, &push);
        }
    }

    /// What the client is to forget, in the form in which it can hear of it.
    fn push_to(&mut self, id: u32, keys: &[u8], redirected: bool) {
        let client = &self.clients[id as usize];
        let subscribed = client.session.as_ref().is_some_and(|session| !session.subscriptions.is_empty());
        let mut push = Vec::with_capacity(keys.len() + 64);
        match client.proto {
            Proto::Resp3 => _ = Reply::new(&mut push, Proto::Resp3).push(2).bulk("invalidate").raw(keys),
            // As a message, whatever it is that it subscribed to.
            Proto::Resp2 if redirected && subscribed => {
                let keys = if keys == EVERYTHING { b"$-1\r\n" } else { keys };
                Reply::new(&mut push, Proto::Resp2).array(3).bulk("message").bulk("__redis__:invalidate").raw(keys);
            }
            Proto::Resp2 => return,
        }
        self.push(id, &push);
        if subscribed && self.is_too_slow(id) {
            self.drop_subscriber(id);
        }
    }

    fn push(&mut self, id: u32, push: &[u8]) {
        let now = self.now;
        let client = &mut self.clients[id as usize];
        if client.end != End::Open {
            return;
        }
        client.out.equip(&mut self.pool);
        let came_before = |state: &State| match state {
            State::Wait => false,
            State::Stashed { .. } | State::Held(_) => true,
            State::Merge(merge) => merge.holds_replies(),
        };
        if client.slots.iter().any(|slot| came_before(&slot.state)) {
            client.push_behind(push, now);
        } else {
            client.out.push(push);
        }
        self.mark_client(id);
    }

    /// The client with this id, if it is this worker's.
    pub(super) fn find_client(&mut self, number: u64) -> Option<u32> {
        let is = |client: &super::super::client::Client| client.about.id == number;
        let known = self.tracked.targets.get(&number).copied();
        if let Some(at) = known.filter(|at| self.clients.get(*at as usize).is_some_and(is)) {
            return Some(at);
        }
        self.tracked.targets.remove(&number);
        let at = self.clients.iter().find(|(_, client)| is(client)).map(|(at, _)| at as u32)?;
        self.tracked.targets.insert(number, at);
        Some(at)
    }
}

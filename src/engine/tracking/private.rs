//! Private connections: one per shard for a client that tracks, and with REDIRECT a sink beside each,
//! a connection of which the server thinks that it is the one to be told.
//!
//! They count as leases. One that breaks is connected again, and tracks again before anything else.

use std::mem;

use super::super::client::State;
use super::super::conn::{Conn, Link, NOBODY, Use};
use super::super::merge::{Kind, Merge};
use super::super::request::{Flow, Request};
use super::super::{Engine, Fault, Order, failure};
use super::{Caching, Mode, Tracking};
use crate::command::{Class, Every};
use crate::resp::{Proto, request};
use crate::topology::ShardId;

impl Engine {
    /// Connections to every shard, or none when one of them has no room.
    pub(super) fn open_privates(&mut self, id: u32, mode: Mode) -> Result<(), String> {
        let need = if mode.redirect.is_some() { 2 } else { 1 };
        for index in 0..self.shards.len() {
            self.make_room(ShardId(index as u16), need)?;
        }
        let client = &self.clients[id as usize];
        let (proto, db) = (client.proto, client.db);
        let (mut conns, mut sinks) = (Vec::new(), Vec::new());
        for index in 0..self.shards.len() {
            let shard = ShardId(index as u16);
            self.shards[index].leases += need;
            let purpose = Use::Private { client: id, busy: false };
            let conn = if mode.redirect.is_none() {
                self.conn_new(shard, proto, db, purpose)
            } else {
                sinks.push(self.conn_new(shard, Proto::Resp3, 0, Use::Sink { client: id }));
                // A server has to know the sink before it can be named.
                self.conns.insert(Conn { waits_for_sink: true, ..Conn::new(shard, proto, db, purpose) }) as u32
            };
            conns.push(conn);
            let base = self.conns.get(self.shards[index].shared[0] as usize);
            if base.is_some_and(|base| base.link.is_down()) {
                self.conns[conn as usize].link = Link::Down;
            }
        }
        let shards = self.shards.len();
        let tracking = Tracking {
            mode,
            broken: false,
            elsewhere: None,
            caching: Caching::No,
            told: Vec::new(),
            conns,
            sinks,
            sinks_left: Vec::new(),
            asking: None,
            flushed: vec![false; shards],
            flushed_since: None,
        };
        self.clients[id as usize].session_mut().tracking = Some(Box::new(tracking));
        self.tracked.count += 1;
        self.metrics.clients_tracking.set(self.tracked.count);
        Ok(())
    }

    /// A sink for every shard of a client that tracks without any so far, or none.
    pub(super) fn open_sinks(&mut self, id: u32) -> Result<(), String> {
        for index in 0..self.shards.len() {
            self.make_room(ShardId(index as u16), 1)?;
        }
        let mut sinks = Vec::with_capacity(self.shards.len());
        for index in 0..self.shards.len() {
            self.shards[index].leases += 1;
            sinks.push(self.conn_new(ShardId(index as u16), Proto::Resp3, 0, Use::Sink { client: id }));
        }
        if let Some(tracking) = self.tracking_mut(id) {
            tracking.sinks = sinks;
        }
        Ok(())
    }

    /// Tells the shards what they are to do now, once every sink is connected or cannot be.
    pub(super) fn ask_with_sinks(&mut self, id: u32) {
        let Some(tracking) = self.tracking(id).filter(|tracking| tracking.asking.is_some()) else { return };
        let link = |conn: &u32| self.conns.get(*conn as usize).map(|conn| conn.link);
        if tracking
            .sinks
            .iter()
            .any(|sink| matches!(link(sink), Some(Link::Connecting | Link::Greeting | Link::Knocking)))
        {
            return;
        }
        // Without its sink a shard would tell nobody: it is asked anew when the sink is there.
        let lone = tracking.conns.iter().zip(&tracking.sinks).filter(|(_, sink)| link(sink) != Some(Link::Up));
        let lone: Vec<u32> = lone.map(|(conn, _)| *conn).collect();
        lone.into_iter().for_each(|conn| self.renew(conn, "there is no connection that hears of changes"));
        if let Some((seq, news)) = self.tracking_mut(id).and_then(|tracking| tracking.asking.take()) {
            self.ask_privates(id, seq, Some(&news));
        }
    }

    /// Idle leases make way; those that are held do not.
    fn make_room(&mut self, shard: ShardId, need: usize) -> Result<(), String> {
        let max = self.options.leases_max;
        while self.shards[shard.0 as usize].leases + need > max {
            match self.shards[shard.0 as usize].idle.pop() {
                Some(idle) => self.close_lease(idle),
                None => return Err(failure::no_lease(self.topology.shard(shard), max)),
            }
        }
        Ok(())
    }

    /// Waits until every private connection that is not down does as it is told; the slot has its answer then.
    pub(super) fn ask_privates(&mut self, id: u32, seq: u32, news: Option<&Mode>) {
        let conns = self.tracking(id).map_or_else(Vec::new, |tracking| tracking.conns.clone());
        let there: Vec<u32> = conns.into_iter().filter(|conn| self.conns[*conn as usize].link != Link::Down).collect();
        if there.is_empty() {
            return self.tracking_set(id, seq, None);
        }
        let frames: Vec<(u32, Vec<u8>)> = there
            .into_iter()
            .flat_map(|conn| self.news_for(conn, news).into_iter().map(move |frame| (conn, frame)))
            .collect();
        if let Some(slot) = self.clients[id as usize].slot(seq) {
            slot.state = State::Merge(Box::new(Merge::new(Kind::Tracked, frames.len(), false)));
        }
        for (part, (conn, frame)) in frames.into_iter().enumerate() {
            self.expect(conn, id, seq, part as u16, false);
            self.conns[conn as usize].out.push(&frame);
        }
    }

    /// PING of a client that tracks: its answer comes behind whatever a shard has said before, so that a client
    /// knows after it what it has to forget. None: there is no shard to ask.
    pub(in crate::engine) fn ping_privates(&mut self, id: u32, request: &Request<'_>) -> Option<Flow> {
        let is_up = |conn: &&u32| self.conns[**conn as usize].link == Link::Up;
        let conns: Vec<u32> = self.tracking(id)?.conns.iter().filter(is_up).copied().collect();
        if conns.is_empty() || !request.row.takes(request.args.len()) || request.args.len() > 2 {
            return None;
        }
        let kind = Kind::Every { every: Every::Same, args: Vec::new() };
        let merge = Merge::new(kind, conns.len(), false);
        let seq = self.clients[id as usize].open(State::Merge(Box::new(merge)), Class::Local, self.now);
        for (part, conn) in conns.into_iter().enumerate() {
            self.expect(conn, id, seq, part as u16, false);
            self.conns[conn as usize].out.push(request.frame);
        }
        Some(Flow::Taken)
    }

    /// As `ask_privates`, without waiting for it.
    pub(super) fn tell_privates(&mut self, id: u32, news: &Mode) {
        let conns = self.tracking(id).map_or_else(Vec::new, |tracking| tracking.conns.clone());
        for conn in conns {
            for frame in self.news_for(conn, Some(news)) {
                self.tell_private(conn, &frame);
            }
        }
    }

    fn tell_private(&mut self, conn: u32, frame: &[u8]) {
        if self.conns[conn as usize].link != Link::Down {
            self.expect(conn, NOBODY, 0, 0, false);
            self.conns[conn as usize].out.push(frame);
        }
    }

    /// What the private connection is to be told; before it is connected that is for the greeting to say, and a
    /// PING waits for it.
    fn news_for(&self, conn: u32, news: Option<&Mode>) -> Vec<Vec<u8>> {
        let state = &self.conns[conn as usize];
        match (news, state.purpose) {
            (Some(news), Use::Private { client, .. }) if state.is_linked() => {
                news.requests(self.redirect_at(client, state.shard).flatten())
            }
            _ => {
                let mut ping = Vec::new();
                request(&mut ping, &["PING"]);
                vec![ping]
            }
        }
    }

    /// What is said on a client's private connection to the shard before anything else; None: its sink is
    /// not there.
    pub(in crate::engine) fn greeting_of(&self, client: u32, shard: ShardId) -> Option<Vec<Vec<u8>>> {
        let Some(tracking) = self.tracking(client) else { return Some(Vec::new()) };
        Some(tracking.mode.requests(self.redirect_at(client, shard)?))
    }

    /// What the shard calls the client's sink, if there is to be one; None: it is not connected.
    fn redirect_at(&self, client: u32, shard: ShardId) -> Option<Option<i64>> {
        let sink = self.tracking(client)?.sinks.get(shard.0 as usize);
        let number =
            |sink: &u32| self.conns.get(*sink as usize).filter(|sink| sink.link == Link::Up).map(|sink| sink.server_id);
        sink.map_or(Some(None), |sink| number(sink).map(Some))
    }

    /// A sink is connected: so may the connection be whose changes it is told of. One that was before tries
    /// by itself.
    pub(in crate::engine) fn sink_up(&mut self, client: u32, shard: ShardId) {
        let Some(tracking) = self.tracking(client) else { return };
        let conn = tracking.conns[shard.0 as usize];
        if mem::take(&mut self.conns[conn as usize].waits_for_sink) {
            self.orders.push_back(Order::Connect { conn, shard });
        }
        self.ask_with_sinks(client);
    }

    /// A connection of a client that tracks broke: what the server remembered of it is gone.
    pub(in crate::engine) fn private_lost(&mut self, conn: u32, was_up: bool) {
        let state = &self.conns[conn as usize];
        match state.purpose {
            Use::Private { client, .. } => {
                self.party_lost(client, conn);
                if let Some(session) = self.clients.get_mut(client as usize).and_then(|client| client.session.as_mut())
                {
                    session.lose_watch_on(conn);
                }
                if was_up {
                    self.forget_everything(client);
                }
                if client == NOBODY {
                    self.close_private(conn);
                }
            }
            Use::Sink { client } if !was_up => self.ask_with_sinks(client),
            Use::Sink { client } => {
                // What is read until it is back would not be heard of.
                let shard = state.shard.0 as usize;
                let is_used = |tracking: &&Tracking| tracking.sinks.get(shard) == Some(&conn);
                if let Some(conn) = self.tracking(client).filter(is_used).map(|tracking| tracking.conns[shard]) {
                    self.renew(conn, "the connection that hears of changes broke");
                }
                self.ask_with_sinks(client);
            }
            _ => {}
        }
    }

    /// The connection is not what it should be: it is closed, and connected anew.
    pub(in crate::engine) fn renew(&mut self, conn: u32, why: &str) {
        if self.conns.get(conn as usize).is_some_and(Conn::is_linked) {
            self.conn_lost(conn, Fault::Lost, why);
            self.reconnect(conn);
        }
    }

    /// The client is in another database, or speaks another protocol, from now on.
    pub(in crate::engine) fn tell_privates_words(&mut self, id: u32, words: &[&str]) {
        let client = &self.clients[id as usize];
        let (proto, db) = (client.proto, client.db);
        let conns = self.tracking(id).map_or_else(Vec::new, |tracking| tracking.conns.clone());
        let mut frame = Vec::new();
        request(&mut frame, words);
        for conn in conns {
            let state = &mut self.conns[conn as usize];
            (state.proto, state.db) = (proto, db);
            self.tell_private(conn, &frame);
        }
    }

    /// Tracking is over: its connections are closed, but for one that watches keys, and for those on which a
    /// transaction is being carried out.
    pub(in crate::engine) fn untrack(&mut self, id: u32) {
        let tracking = self.clients.get_mut(id as usize).and_then(|client| client.session.as_mut()?.tracking.take());
        let Some(mut tracking) = tracking else { return };
        let watched = self.watched_conn(id);
        if let Some(at) = tracking.conns.iter().position(|conn| *conn == watched) {
            // It watches keys for the client, and goes on doing so as any lease would.
            tracking.conns.swap_remove(at);
            self.conns[watched as usize].purpose = Use::Lease { client: id, keep: true };
            let mut frame = Vec::new();
            request(&mut frame, &["CLIENT", "TRACKING", "OFF"]);
            self.tell_private(watched, &frame);
        }
        self.end_tracking(*tracking);
    }

    pub(in crate::engine) fn end_tracking(&mut self, tracking: Tracking) {
        self.tracked.count -= 1;
        self.metrics.clients_tracking.set(self.tracked.count);
        for conn in tracking.conns.into_iter().chain(tracking.sinks).chain(tracking.sinks_left) {
            let Some(state) = self.conns.get_mut(conn as usize) else { continue };
            match &mut state.purpose {
                Use::Private { client, busy: true } if !state.fifo.is_empty() => *client = NOBODY,
                _ => self.close_private(conn),
            }
        }
    }

    /// A private connection has answered everything.
    pub(in crate::engine) fn private_answered(&mut self, conn: u32) {
        match &mut self.conns[conn as usize].purpose {
            Use::Private { client: NOBODY, .. } => self.close_private(conn),
            Use::Private { busy, .. } => *busy = false,
            _ => {}
        }
    }

    pub(super) fn close_private(&mut self, conn: u32) {
        let Some(mut state) = self.conns.try_remove(conn as usize) else { return };
        self.shards[state.shard.0 as usize].leases -= 1;
        if state.is_linked() {
            self.metrics.backends[state.shard.0 as usize].connections.dec();
        }
        self.resume.append(&mut state.waiters);
        if !mem::take(&mut state.waits_for_sink) {
            self.orders.push_back(Order::Close { conn });
        }
    }
}

//! Leases: connections to a server that one client holds, for watched keys, for a command that waits
//! on the server, for a question that must not stand behind everybody's requests. They are given back
//! when they have answered everything and are as new, else closed.

use super::Session;
use crate::command::{Class, Every};
use crate::engine::client::{End, Park, State};
use crate::engine::conn::{Conn, ENGINE, NOBODY, Use};
use crate::engine::merge::{Kind, Merge};
use crate::engine::request::{Flow, Request};
use crate::engine::{Engine, NONE, Order, failure};
use crate::resp::Proto;
use crate::route;
use crate::topology::ShardId;

impl Engine {
    /// Runs a command that may wait on the server, alone on a lease.
    pub(in crate::engine) fn block(&mut self, id: u32, keys: &[u32], request: &Request<'_>) -> Flow {
        let client = &self.clients[id as usize];
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let (proto, db) = (client.proto, client.db);
        // Who would wait beside others waits as they do.
        let alone = match route::one_shard(request.args, keys, &self.topology) {
            Ok(shard)
                if (self.private(id, shard).is_some() || self.has_lease(shard, proto, db))
                    && !self.joins_waiters(id, request, keys) =>
            {
                Ok(shard)
            }
            other => {
                if let Some(flow) = self.wait(id, keys, request) {
                    self.end_if_half_closed(id);
                    return flow;
                }
                other
            }
        };
        // A server says what is wrong with the rest.
        let shard = alone.unwrap_or_else(|_| {
            let first = keys.first().map_or(&[][..], |key| request.args.at(*key as usize));
            self.topology.shard_of(first)
        });
        let client = &self.clients[id as usize];
        let watch = client.session.as_ref().and_then(|session| session.watch);
        let conn = match watch {
            Some(watch) if watch.shard == shard && watch.conn != NONE => watch.conn,
            _ => match self.private(id, shard) {
                Some(NONE) => return self.answer_down(id, shard, Class::Session),
                Some(private) => private,
                None => match self.lease(id, shard, proto, db, false) {
                    Ok(conn) => conn,
                    Err(flow) => return flow,
                },
            },
        };
        self.announce(id, conn);
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        client.session_mut().blocked = conn;
        let seq = client.open(State::Wait, Class::Session, self.now);
        self.send(conn, id, seq, 0, request);
        self.conns[conn as usize].patient = true;
        self.end_if_half_closed(id);
        Flow::Taken
    }

    /// A blocking command of a client that half-closed before it was looked at.
    pub(in crate::engine) fn end_if_half_closed(&mut self, id: u32) {
        if self.is_blocked(id) && self.clients[id as usize].end == End::HalfClosed {
            self.give_up_blocked(id);
        }
    }

    /// WAIT, SCRIPT KILL, FUNCTION KILL: one lease per shard, apart from everybody's requests.
    pub(in crate::engine) fn every_leased(&mut self, id: u32, every: Every, request: &Request<'_>) -> Flow {
        let client = &self.clients[id as usize];
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        // A busy server, the one that a KILL is for, lets nobody select a database.
        let (proto, db) = (client.proto, if every == Every::Kill { 0 } else { client.db });
        let count = self.shards.len();
        let mut conns = Vec::with_capacity(count);
        for index in 0..count {
            match self.lease(id, ShardId(index as u16), proto, db, false) {
                Ok(conn) => conns.push(conn),
                Err(flow) => {
                    conns.into_iter().for_each(|conn| self.lease_answered(conn));
                    return flow;
                }
            }
        }
        let args = request.args.iter().map(<[u8]>::to_vec).collect();
        let merge = Merge::new(Kind::Every { every, args }, count, false);
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        client.session_mut().blocked = conns.first().copied().unwrap_or(NONE);
        let seq = client.open(State::Merge(Box::new(merge)), Class::Every, self.now);
        for (part, conn) in conns.into_iter().enumerate() {
            if every == Every::Wait {
                // WAIT alone on a connection that wrote nothing answers at once, falsely.
                self.expect(conn, NOBODY, 0, 0, false);
                self.conns[conn as usize].out.write(|out| crate::resp::request(out, &["PING"]));
            }
            self.send(conn, id, seq, part as u16, request);
            self.conns[conn as usize].patient = true;
        }
        self.end_if_half_closed(id);
        Flow::Taken
    }

    /// Whether there is one to be had for a client that can wait without.
    fn has_lease(&self, shard: ShardId, proto: Proto, db: u32) -> bool {
        let state = &self.shards[shard.0 as usize];
        let fits = |conn: &u32| self.conns.get(*conn as usize).is_some_and(|c| c.proto == proto && c.db == db);
        state.leases < self.options.leases_max || state.idle.iter().any(fits) || !state.idle.is_empty()
    }

    /// A connection to `shard` for this client alone, or what the client gets instead.
    pub(in crate::engine) fn lease(
        &mut self,
        id: u32,
        shard: ShardId,
        proto: Proto,
        db: u32,
        keep: bool,
    ) -> Result<u32, Flow> {
        let base = self.shards[shard.0 as usize].shared[0];
        if self.conns.get(base as usize).is_none_or(|conn| conn.link.is_down()) {
            return Err(self.answer_down(id, shard, Class::Session));
        }
        let max = self.options.leases_max;
        let state = &mut self.shards[shard.0 as usize];
        let fits = |conn: &u32| self.conns.get(*conn as usize).is_some_and(|c| c.proto == proto && c.db == db);
        if let Some(at) = state.idle.iter().rposition(fits) {
            let conn = state.idle.swap_remove(at);
            self.conns[conn as usize].purpose = Use::Lease { client: id, keep };
            return Ok(conn);
        }
        if state.leases >= max {
            match state.idle.pop() {
                Some(other) => self.close_lease(other),
                None => {
                    let text = failure::no_lease(self.topology.shard(shard), max);
                    return Err(self.answer_error(id, &text));
                }
            }
        }
        self.shards[shard.0 as usize].leases += 1;
        Ok(self.conn_new(shard, proto, db, Use::Lease { client: id, keep }))
    }

    /// A lease has answered everything: whoever does not keep it gives it back.
    pub(in crate::engine) fn lease_answered(&mut self, conn: u32) {
        let Some(state) = self.conns.get_mut(conn as usize) else { return };
        if !state.fifo.is_empty() {
            return;
        }
        if let Use::Party(_) = state.purpose {
            return self.party_answered(conn);
        }
        // What blocked is answered, also when the lease is kept for keys that are watched.
        state.patient = false;
        if let Use::Private { .. } = state.purpose {
            return self.private_answered(conn);
        }
        if let Use::Lease { client, keep: false } = state.purpose
            && client < ENGINE
        {
            if state.tainted {
                return self.close_lease(conn);
            }
            state.purpose = Use::Lease { client: NOBODY, keep: false };
            let shard = state.shard;
            self.shards[shard.0 as usize].idle.push(conn);
        }
    }

    /// A lease broke; whoever waited on it was told.
    pub(in crate::engine) fn lease_lost(&mut self, conn: u32) {
        let Some(state) = self.conns.get(conn as usize) else { return };
        if let Use::Lease { client, .. } = state.purpose
            && let Some(client) = self.clients.get_mut(client as usize)
            && let Some(watch) = client.session.as_mut().and_then(|session| session.watch.as_mut())
            && watch.conn == conn
        {
            watch.conn = NONE;
        }
        if let Use::Lease { client, .. } = state.purpose {
            self.party_lost(client, conn);
            self.mover_lost(conn);
        }
        self.forget_lease(conn);
    }

    /// Ends a lease that nobody may inherit.
    pub(in crate::engine) fn close_lease(&mut self, conn: u32) {
        let Some(state) = self.conns.get(conn as usize) else { return };
        let backend = &self.metrics.backends[state.shard.0 as usize];
        if state.is_linked() {
            backend.connections.dec();
        }
        self.forget_lease(conn);
    }

    fn forget_lease(&mut self, conn: u32) {
        let shard = self.conn_over(conn);
        let state = &mut self.shards[shard.0 as usize];
        state.leases -= 1;
        state.idle.retain(|idle| *idle != conn);
        self.orders.push_back(Order::Close { conn });
    }

    /// The client goes: what it holds is not given to others.
    pub(in crate::engine) fn end_session(&mut self, id: u32, session: &Session) {
        if let Some(watch) = session.watch
            && let Some(conn) = self.conns.get(watch.conn as usize)
            && let Use::Lease { .. } = conn.purpose
        {
            self.close_lease(watch.conn);
        }
        self.end_prepared(id, session);
        if session.blocked != NONE {
            self.close_waiting(id);
        }
        if session.waiting != NONE {
            self.waiter_gone(session.waiting);
        }
    }

    /// Closes what the client's command waits on: WAIT has a lease on every shard, who tracks a private
    /// connection.
    fn close_waiting(&mut self, id: u32) {
        let waits = |conn: &Conn| matches!(conn.purpose, Use::Lease { client, .. } if client == id);
        let mine: Vec<u32> = self.conns.iter().filter(|(_, conn)| waits(conn)).map(|(conn, _)| conn as u32).collect();
        mine.into_iter().for_each(|conn| self.close_lease(conn));
        self.untrack(id);
    }

    /// The client waits on a lease for what may never come.
    pub(in crate::engine) fn is_blocked(&self, id: u32) -> bool {
        let session = self.clients.get(id as usize).and_then(|client| client.session.as_ref());
        if session.is_some_and(|session| session.waiting != NONE) {
            return true;
        }
        let lease = session.and_then(|session| self.conns.get(session.blocked as usize));
        lease.is_some_and(|lease| lease.patient)
    }

    /// A client that sends nothing more waits on a server: nobody can tell whether it is still there,
    /// so its command ends without an answer. What it was answered before is still written.
    pub(in crate::engine) fn give_up_blocked(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        client.end = End::Closing;
        // It waits alone; behind it there may be what shards have said unasked.
        let seq = client.oldest_seq();
        let session = client.session_mut();
        session.lose_watch();
        let waiting = session.waiting;
        if waiting != NONE {
            self.waiter_gone(waiting);
        }
        self.close_waiting(id);
        self.finish_with(id, seq, b"");
    }
}

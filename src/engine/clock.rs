//! What happens because time passes: requests that waited too long are answered, connections that
//! fell silent are given up, memory that a burst left behind is given back.

use super::client::{Answer, Client};
use super::conn::{Conn, ENGINE, GREETING, MOVER, NOBODY, PEER, Tag, WAITER};
use super::{Engine, Fault, NONE, Order, failure};
use crate::metrics::BackendError;

/// Places on a connection's FIFO that outlive a burst.
const FIFO_KEPT: usize = 256;

impl Engine {
    /// To be called some ten times a second: tells those who waited too long, and tidies up.
    pub fn tick(&mut self) {
        self.end_pause_in_time();
        self.end_questions();
        self.tell_those_behind();
        self.tracking_tick();
        self.end_waits_for_leases();
        let mut late = Vec::new();
        let mut mute = Vec::new();
        for (id, conn) in &mut self.conns {
            if conn.patient {
                continue;
            }
            let patience = |tag: &Tag| {
                if tag.slow { self.options.script_timeout } else { self.options.request_timeout }
            };
            let (earlier, moved) = (late.len(), conn.moved());
            // The greeting stands before requests that are older than it.
            for (place, tag) in conn.fifo.iter_mut().enumerate().filter(|(_, tag)| tag.client != GREETING) {
                if self.heard_by.saturating_sub(tag.at) < self.options.request_timeout {
                    break;
                }
                let since = moved.filter(|_| place == 0).unwrap_or(0).max(tag.at);
                // What an attempt takes must not be lost: its reply is waited for.
                if tag.client <= ENGINE && tag.client != WAITER && self.heard_by.saturating_sub(since) >= patience(tag)
                {
                    late.push((*tag, conn.shard));
                    tag.client = NOBODY;
                }
            }
            let heard = conn.heard.max(moved.unwrap_or(0));
            let silent = |head: &Tag| self.heard_by.saturating_sub(head.at.max(heard)) >= 2 * patience(head);
            // Whoever is told goes on over another connection: what is left here would run behind that.
            let overtaken = late.len() > earlier
                && !conn.out.is_empty()
                && self.shards[conn.shard.0 as usize].spares.contains(&(id as u32));
            if overtaken || conn.fifo.front().is_some_and(silent) {
                mute.push(id as u32);
            }
        }
        for (tag, shard) in late {
            self.metrics.backends[shard.0 as usize].fail(BackendError::Timeout);
            let waited = if tag.slow { self.options.script_timeout } else { self.options.request_timeout };
            let text = failure::timeout(self.topology.shard(shard), waited / 1000);
            let text = format!("-{text}\r\n");
            match tag.client {
                ENGINE => self.told_engine(tag, shard, text.as_bytes()),
                PEER => self.owed_answered(tag.seq, text.as_bytes()),
                MOVER => self.moved(tag.seq, tag.part, text.as_bytes()),
                _ => self.complete(tag, Answer::Copied(text.as_bytes())),
            }
        }
        self.advice_tick();
        self.busy_tick();
        self.hub_tick();
        self.waiting_tick();
        mute.extend(self.silent_lines());
        mute.extend(self.unanswered_greetings());
        for id in mute {
            let greeting = self.conns.get(id as usize).is_some_and(Conn::is_greeting);
            let trouble =
                if greeting { "it accepted the connection and did not answer" } else { "it did not answer any more" };
            self.conn_lost(id, Fault::Timeout, trouble);
            self.reconnect(id);
        }
        for (index, backend) in self.metrics.backends.iter().enumerate() {
            let here = self.conns.iter().filter(|(_, conn)| conn.shard.0 as usize == index);
            backend.inflight.set(here.map(|(_, conn)| conn.fifo.len() as i64).sum());
        }
        self.look_at_clients();
        self.heard_by = self.now;
    }

    /// Connections whose greeting nobody answers: the server hangs, or a script keeps it busy, which only
    /// another connection that is up can tell.
    fn unanswered_greetings(&self) -> Vec<u32> {
        let late = |id: u32, conn: &Conn| {
            let base = self.conns.get(self.shards[conn.shard.0 as usize].shared[0] as usize);
            let alive = !self.is_base(id) && base.is_some_and(|base| base.link.is_up());
            let patience = if alive { self.options.request_timeout } else { self.options.connect_timeout };
            let since = conn.fifo.front().map_or(self.now, |tag| tag.at);
            conn.is_greeting() && self.heard_by.saturating_sub(since) >= patience
        };
        self.conns
            .iter()
            .map(|(id, conn)| (id as u32, conn))
            .filter(|(id, conn)| late(*id, conn))
            .map(|(id, _)| id)
            .collect()
    }

    /// Closes clients that hold too much, or that have asked nothing for too long.
    fn look_at_clients(&mut self) {
        let (hard, idle) = (self.options.client_output_hard_bytes_max, self.options.client_idle);
        let mut buffered: usize = self.conns.iter().map(|(_, conn)| conn.out.len() + conn.inbox.len()).sum();
        for (id, client) in &self.clients {
            buffered += client.buffered();
            if client.unread() > hard {
                self.orders.push_back(Order::DropClient { client: id as u32 });
            } else if idle > 0 && client.is_idle() && self.now.saturating_sub(client.about.active) >= idle {
                self.orders.push_back(Order::CloseClient { client: id as u32 });
            }
        }
        self.metrics.buffered_bytes.set(buffered as i64);
        self.metrics.clients_blocked.set(self.blocked_clients());
    }

    /// Clients whose command waits, or is held back by a pause. What was not written to the server yet
    /// does not wait there: whoever sees the number may rely on being behind it.
    pub(super) fn blocked_clients(&self) -> i64 {
        let is_written =
            |conn: u32| self.conns.get(conn as usize).is_some_and(|conn| conn.link.is_up() && conn.out.is_empty());
        let waits = |client: &Client| {
            let session = client.session.as_ref();
            session.is_some_and(|session| session.waiting != NONE || is_written(session.blocked))
        };
        let is_there = |id: u32, generation| self.clients.get(id as usize).is_some_and(|c| c.generation == generation);
        let held = self.held.iter().filter(|(id, generation)| is_there(*id, *generation));
        (self.clients.iter().filter(|(_, client)| waits(client)).count() + held.count()) as i64
    }

    /// To be called every few seconds: gives back memory that a burst left behind.
    pub fn tidy(&mut self) {
        self.pool.clear();
        self.spans.shrink_to(64);
        self.keys.shrink_to(64);
        for (_, client) in &mut self.clients {
            client.shrink();
        }
        for (_, conn) in &mut self.conns {
            conn.out.shrink();
            if conn.fifo.is_empty() {
                conn.fifo.shrink_to(FIFO_KEPT);
            }
        }
    }
}

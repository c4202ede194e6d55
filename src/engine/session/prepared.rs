//! Transactions over several shards: prepared on each of them, then carried out on all at once.
//!
//! ```text
//! EXEC -> leases of all parties, or wait -> MULTI and commands to each -> every +QUEUED there
//!      -> EXEC to all at once -> arrays merged in the order of the commands
//!      '- watched keys: EXEC to their shard alone, then to the others
//! ```
//!
//! Until an EXEC is written nothing has run anywhere, and whatever goes wrong discards it everywhere:
//! a lease is either told DISCARD or closed. From then on the EXECs are on their way whether the client
//! is there or not. Connections are of a reserve that nobody else takes from, so that those who wait
//! for each other's keys or for an element cannot keep a transaction from running.

use std::mem;

use super::queued::{Party, Piece};
use super::{Session, Watch};
use crate::command::Class;
use crate::engine::client::Park;
use crate::engine::client::{End, State};
use crate::engine::conn::{Hold, NOBODY, TRANSACTION, Use};
use crate::engine::merge::{Kind, Merge};
use crate::engine::request::Flow;
use crate::engine::{CROSS_PREPARED, Engine, NONE, failure};
use crate::resp::{Proto, request};
use crate::topology::ShardId;

/// Connections to one shard that only transactions use.
#[derive(Debug, Default)]
pub(in crate::engine) struct Reserve {
    idle: Vec<u32>,
    /// All there are, idle or not.
    pub(in crate::engine) leases: usize,
}

/// A client whose EXEC waits for leases.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Queued {
    client: u32,
    generation: u32,
    since: u64,
}

/// A transaction whose parties take its commands, and then run them.
#[derive(Debug)]
pub(in crate::engine) struct Prepared {
    pieces: Vec<Piece>,
    proto: Proto,
    /// The database in which the client is once it ran.
    db: Option<u32>,
    /// The party that watches keys: it goes first.
    watched: Option<usize>,
    /// By party: what it said when it did not take a command, or was lost.
    refused: Vec<Option<Vec<u8>>>,
    /// By party: what it said to EXEC; empty before.
    results: Vec<Vec<u8>>,
}

impl Prepared {
    /// A reply to MULTI or to one of the commands.
    pub(in crate::engine) fn queued(&mut self, party: u16, reply: &[u8]) {
        if let (Some(b'-'), Some(refused)) = (reply.first(), self.refused.get_mut(party as usize)) {
            refused.get_or_insert_with(|| reply.to_vec());
        }
    }

    /// The reply to EXEC.
    pub(in crate::engine) fn executed(&mut self, party: u16, reply: &[u8]) {
        if let Some(result) = self.results.get_mut(party as usize) {
            *result = reply.to_vec();
        }
    }
}

/// An array: the transaction ran there.
fn ran(result: &[u8]) -> bool {
    result.starts_with(b"*") && !result.starts_with(b"*-1")
}

impl Engine {
    /// EXEC of a transaction in which `shards` take part, several of them, in ascending order.
    pub(super) fn exec_prepared(&mut self, id: u32, shards: &[ShardId]) -> Flow {
        if !self.clients[id as usize].slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        if mem::take(&mut self.clients[id as usize].session_mut().late) {
            let full = shards.iter().find(|shard| !self.has_party(**shard)).or(shards.first());
            let shard = full.map_or_else(|| self.topology.home(), |shard| *shard);
            let (max, waited) = (self.options.transaction_leases_max, self.options.request_timeout / 1000);
            let text = failure::no_party(self.topology.shard(shard), max, waited);
            return self.abort(id, text.as_bytes());
        }
        let down = |shard: &&ShardId| {
            let base = self.shards[shard.0 as usize].shared[0];
            self.conns.get(base as usize).is_none_or(|conn| conn.link.is_down())
        };
        let lost = |shard: &&ShardId| down(shard) || self.private(id, **shard) == Some(NONE);
        if let Some(shard) = shards.iter().find(lost).copied() {
            self.leave_queue(id);
            self.clients[id as usize].session_mut().multi = None;
            self.forget_watch(id);
            self.drop_plain_session(id);
            return self.answer_down(id, shard, Class::Session);
        }
        let Some(parties) = self.parties(id, shards) else { return Flow::Parked(Park::Held) };
        self.prepare(id, parties);
        Flow::Taken
    }

    /// A connection to each of `shards`, or to none: then the client waits in the queue.
    fn parties(&mut self, id: u32, shards: &[ShardId]) -> Option<Vec<Party>> {
        let client = &self.clients[id as usize];
        let (proto, db, generation) = (client.proto, client.db, client.generation);
        let watch = client.session.as_ref().and_then(|session| session.watch);
        let watches = |shard: ShardId| watch.is_some_and(|watch| watch.shard == shard);
        let privates: Vec<Option<u32>> = shards.iter().map(|shard| self.private(id, *shard)).collect();
        let first = self.transactions.front().is_none_or(|first| first.client == id);
        if privates.iter().all(Option::is_some) {
            let party = |(shard, conn): (&ShardId, Option<u32>)| Party { shard: *shard, conn: conn.unwrap_or(NONE) };
            return Some(shards.iter().zip(privates).map(party).collect());
        }
        if !first || !shards.iter().all(|shard| watches(*shard) || self.has_party(*shard)) {
            if !self.transactions.iter().any(|queued| queued.client == id) {
                self.transactions.push_back(Queued { client: id, generation, since: self.now });
            }
            return None;
        }
        self.leave_queue(id);
        let one = |shard: &ShardId| {
            let watched = watch.filter(|watch| watch.shard == *shard);
            let conn = watched.map_or_else(|| self.party(id, *shard, proto, db), |watch| watch.conn);
            Party { shard: *shard, conn }
        };
        Some(shards.iter().map(one).collect())
    }

    fn has_party(&self, shard: ShardId) -> bool {
        let reserve = &self.shards[shard.0 as usize].reserve;
        !reserve.idle.is_empty() || reserve.leases < self.options.transaction_leases_max
    }

    /// A connection of the reserve, of which there is one to be had.
    fn party(&mut self, id: u32, shard: ShardId, proto: Proto, db: u32) -> u32 {
        let purpose = Use::Party(Hold::Client(id));
        let reserve = &mut self.shards[shard.0 as usize].reserve;
        let fits = |conn: &u32| self.conns.get(*conn as usize).is_some_and(|c| c.proto == proto && c.db == db);
        if let Some(at) = reserve.idle.iter().rposition(fits) {
            let conn = reserve.idle.swap_remove(at);
            self.conns[conn as usize].purpose = purpose;
            return conn;
        }
        if reserve.leases >= self.options.transaction_leases_max
            && let Some(other) = reserve.idle.pop()
        {
            self.close_party(other);
        }
        self.shards[shard.0 as usize].reserve.leases += 1;
        self.conn_new(shard, proto, db, purpose)
    }

    /// Sends MULTI and each party's commands.
    fn prepare(&mut self, id: u32, parties: Vec<Party>) {
        self.metrics.cross_shard[CROSS_PREPARED].inc();
        let client = &mut self.clients[id as usize];
        let (proto, seq) = (client.proto, client.next_seq());
        let multi = client.session_mut().multi.take().unwrap_or_default();
        let watched = client.session_mut().watch.map(|watch| watch.shard);
        let db = multi.db;
        for (number, party) in parties.iter().enumerate() {
            multi.scripts.iter().for_each(|script| self.load_ahead(party.conn, script));
            self.announce(id, party.conn);
            self.expect(party.conn, id, seq, number as u16, false);
            self.conns[party.conn as usize].out.write(|out| request(out, &["MULTI"]));
        }
        let (pieces, sent) = self.lay(id, seq, multi, &parties, |number| number as u16, false);
        let prepared = Prepared {
            pieces,
            proto,
            db,
            watched: parties.iter().position(|party| Some(party.shard) == watched),
            refused: vec![None; parties.len()],
            results: vec![Vec::new(); parties.len()],
        };
        let merge = Merge::new(Kind::Prepare(Box::new(prepared)), sent + parties.len(), true);
        let client = &mut self.clients[id as usize];
        client.open(State::Merge(Box::new(merge)), Class::Session, self.now);
        client.exclusive = true;
        client.session_mut().parties = parties;
    }

    /// Every party has answered everything, or is lost.
    pub(in crate::engine) fn prepared(&mut self, id: u32, seq: u32, mut prepared: Box<Prepared>) {
        let parties = self.clients[id as usize].session_mut().parties.clone();
        for (party, refused) in parties.iter().zip(&mut prepared.refused) {
            if party.conn == NONE {
                refused.get_or_insert_with(|| self.gone(party.shard));
            }
        }
        if let Some(refused) = prepared.refused.iter().flatten().next() {
            let text = failure::not_prepared(refused);
            self.discard_parties(id);
            return self.conclude(id, seq, &text);
        }
        match prepared.watched {
            Some(watched) => self.commit(id, seq, prepared, &[watched]),
            None => self.commit(id, seq, prepared, &(0..parties.len()).collect::<Vec<_>>()),
        }
    }

    /// Sends EXEC to these parties, all at once. Their connections are nobody's from here on, and are
    /// given back when they have answered.
    fn commit(&mut self, id: u32, seq: u32, prepared: Box<Prepared>, who: &[usize]) {
        let moved = prepared.db.is_some();
        let client = &mut self.clients[id as usize];
        let parties = client.session_mut().parties.clone();
        if let Some(slot) = client.slot(seq) {
            slot.state = State::Merge(Box::new(Merge::new(Kind::Commit(prepared), who.len(), true)));
        }
        for number in who {
            let conn = parties[*number].conn;
            self.expect(conn, id, seq, *number as u16, true);
            self.conns[conn as usize].out.write(|out| request(out, &["EXEC"]));
            if moved {
                self.select_again(conn);
            }
            self.let_go(id, conn);
        }
    }

    /// A transaction may have moved the connection to another database than its own.
    pub(super) fn select_again(&mut self, conn: u32) {
        let db = self.conns[conn as usize].db.to_string();
        self.expect(conn, NOBODY, 0, 0, true);
        self.conns[conn as usize].out.write(|out| request(out, &["SELECT", &db]));
    }

    /// The connection is given back once it has answered everything, whatever becomes of the client.
    fn let_go(&mut self, id: u32, conn: u32) {
        let state = &mut self.conns[conn as usize];
        state.purpose = match state.purpose {
            Use::Lease { .. } => Use::Lease { client: TRANSACTION, keep: false },
            Use::Private { client, .. } => Use::Private { client, busy: true },
            _ => Use::Party(Hold::Leaving),
        };
        let session = self.clients[id as usize].session_mut();
        session.watch = session.watch.filter(|watch| watch.conn != conn);
    }

    /// Those that were sent EXEC have answered it.
    pub(in crate::engine) fn committed(&mut self, id: u32, seq: u32, mut prepared: Box<Prepared>) {
        let parties = self.clients[id as usize].session_mut().parties.clone();
        let waiting: Vec<usize> = (0..parties.len()).filter(|at| prepared.results[*at].is_empty()).collect();
        if let (Some(watched), false) = (prepared.watched, waiting.is_empty()) {
            let result = mem::take(&mut prepared.results[watched]);
            if !ran(&result) {
                self.discard_parties(id);
                let others = waiting.iter().map(|at| self.topology.shard(parties[*at].shard).name.as_str());
                let text = failure::watched_first(&result, &others.collect::<Vec<_>>());
                return self.conclude(id, seq, &text);
            }
            prepared.results[watched] = result;
            let (there, lost): (Vec<usize>, Vec<usize>) = waiting.iter().partition(|at| parties[**at].conn != NONE);
            for at in lost {
                prepared.results[at] = self.gone(parties[at].shard);
            }
            if !there.is_empty() {
                return self.commit(id, seq, prepared, &there);
            }
        }
        let results = mem::take(&mut prepared.results);
        if results.iter().all(|result| ran(result)) {
            let Prepared { pieces, proto, db, .. } = *prepared;
            return self.executed(id, seq, pieces, &results, proto, db);
        }
        let said = parties.iter().zip(&results).map(|(party, result)| (self.topology.shard(party.shard), &result[..]));
        let text = match () {
            () if results.iter().any(|result| ran(result)) => failure::partly_executed(said, ran),
            () => failure::not_executed(said, failure::is_uncertain),
        };
        self.conclude(id, seq, &text);
    }

    /// A transaction ran: its reply is made, and what it changed of the client holds.
    pub(in crate::engine) fn executed(
        &mut self,
        id: u32,
        seq: u32,
        pieces: Vec<Piece>,
        results: &[Vec<u8>],
        proto: Proto,
        db: Option<u32>,
    ) {
        if self.clients[id as usize].session.as_ref().is_some_and(|session| session.orphan) {
            return self.conclude(id, seq, b"");
        }
        if let Some(db) = db {
            self.moved_to(id, db);
        }
        let mut joined = None;
        let reply = self.assemble(id, pieces, results, proto, &mut joined);
        if let Some(joined) = joined {
            self.clients[id as usize].session_mut().parties.clear();
            return self.confirm_executed(id, seq, reply, joined);
        }
        self.conclude(id, seq, &reply);
    }

    /// The client gets its answer; one that is gone is forgotten.
    fn conclude(&mut self, id: u32, seq: u32, reply: &[u8]) {
        if let Some(session) = &mut self.clients[id as usize].session {
            session.parties.clear();
            if session.orphan {
                self.untrack(id);
                self.clients.remove(id as usize);
                return;
            }
        }
        self.finish_with(id, seq, reply);
        if self.clients.contains(id as usize) {
            self.drop_plain_session(id);
        }
    }

    /// Nothing is to run: whoever has answered everything forgets the commands, others are closed.
    fn discard_parties(&mut self, id: u32) {
        let session = self.clients[id as usize].session_mut();
        session.watch = None;
        for Party { conn, .. } in session.parties.clone() {
            let Some(state) = self.conns.get(conn as usize).filter(|state| !state.link.is_down()) else { continue };
            let (clean, purpose) = (state.fifo.is_empty(), state.purpose);
            let lease = matches!(purpose, Use::Lease { .. });
            // A party that was sent EXEC, or is given back already, is no longer the client's.
            let mine = match state.purpose {
                Use::Party(Hold::Client(holder))
                | Use::Lease { client: holder, .. }
                | Use::Private { client: holder, busy: false } => holder == id,
                _ => false,
            };
            match () {
                () if !mine => {}
                () if clean => {
                    self.expect(conn, NOBODY, 0, 0, false);
                    self.conns[conn as usize].out.write(|out| request(out, &["DISCARD"]));
                    self.let_go(id, conn);
                }
                () if lease => self.close_lease(conn),
                () if matches!(purpose, Use::Private { .. }) => {
                    self.renew(conn, "a transaction on it was given up");
                }
                () => self.close_party(conn),
            }
        }
    }

    /// What stands for the answer of a party that was lost before it was sent EXEC.
    fn gone(&self, shard: ShardId) -> Vec<u8> {
        let text = failure::down(self.topology.shard(shard), "its connection broke before EXEC was sent");
        format!("-{text}\r\n").into_bytes()
    }

    // Connections.

    /// A connection of the reserve has answered everything.
    pub(super) fn party_answered(&mut self, conn: u32) {
        let state = &mut self.conns[conn as usize];
        if state.purpose == Use::Party(Hold::Leaving) {
            state.purpose = Use::Party(Hold::Nobody);
            let shard = state.shard;
            self.shards[shard.0 as usize].reserve.idle.push(conn);
            self.wake_transaction();
        }
    }

    /// A connection broke on which `client`'s transaction may have been prepared.
    pub(in crate::engine) fn party_lost(&mut self, client: u32, conn: u32) {
        let session = self.clients.get_mut(client as usize).and_then(|client| client.session.as_mut());
        let parties = session.map(|session| &mut session.parties).into_iter().flatten();
        parties.filter(|party| party.conn == conn).for_each(|party| party.conn = NONE);
    }

    /// The reserve has lost a connection.
    pub(in crate::engine) fn reserve_lost(&mut self, conn: u32) {
        if let Some(Use::Party(Hold::Client(client))) = self.conns.get(conn as usize).map(|state| state.purpose) {
            self.party_lost(client, conn);
        }
        self.forget_party(conn);
    }

    fn close_party(&mut self, conn: u32) {
        let Some(state) = self.conns.get(conn as usize) else { return };
        if state.is_linked() {
            self.metrics.backends[state.shard.0 as usize].connections.dec();
        }
        self.forget_party(conn);
    }

    fn forget_party(&mut self, conn: u32) {
        let shard = self.conn_over(conn);
        let reserve = &mut self.shards[shard.0 as usize].reserve;
        reserve.leases -= 1;
        reserve.idle.retain(|idle| *idle != conn);
        self.orders.push_back(crate::engine::Order::Close { conn });
        self.wake_transaction();
    }

    // Those who wait.

    /// Whoever has waited longest looks again.
    fn wake_transaction(&mut self) {
        if let Some(first) = self.transactions.front() {
            self.resume.push((first.client, first.generation));
        }
    }

    /// The client does not wait for leases, or not any more.
    pub(super) fn leave_queue(&mut self, id: u32) {
        let before = self.transactions.len();
        self.transactions.retain(|queued| queued.client != id);
        if self.transactions.len() < before {
            self.wake_transaction();
        }
    }

    /// To be called with every tick: nobody waits for leases for ever.
    pub(in crate::engine) fn end_waits_for_leases(&mut self) {
        let (now, patience) = (self.now, self.options.request_timeout);
        let late = |first: &Queued| now.saturating_sub(first.since) >= patience;
        while let Some(first) = self.transactions.front().copied().filter(late) {
            self.transactions.pop_front();
            let client = self.clients.get_mut(first.client as usize);
            if let Some(client) = client.filter(|client| client.generation == first.generation) {
                client.session_mut().late = true;
            }
            self.resume.push((first.client, first.generation));
            self.wake_transaction();
        }
    }

    // The client's end.

    /// The client goes while the watched shard alone was sent EXEC: the others still have to be told
    /// what to do. It stays as an orphan until they are.
    pub(in crate::engine) fn is_committing(&self, id: u32) -> bool {
        let Some(client) = self.clients.get(id as usize) else { return false };
        let Some(session) = &client.session else { return false };
        let is_held = |party: &Party| {
            let conn = self.conns.get(party.conn as usize);
            let held = [Use::Party(Hold::Client(id)), Use::Private { client: id, busy: false }];
            conn.is_some_and(|conn| held.contains(&conn.purpose))
        };
        let begun = || client.slots.iter().any(|slot| matches!(&slot.state, State::Merge(merge) if merge.is_commit()));
        session.parties.iter().any(is_held) && begun()
    }

    /// The client is gone, but its transaction is carried through.
    pub(in crate::engine) fn orphan(&mut self, id: u32) {
        let client = &mut self.clients[id as usize];
        client.end = End::Closing;
        client.park = Park::Held;
        client.inbox = crate::engine::inbox::Inbox::default();
        let session = client.session_mut();
        session.orphan = true;
        // Nobody hears what it asked to be told of.
        if mem::take(&mut session.monitors) {
            self.end_monitor(id);
        }
        self.unsubscribe_all(id);
    }

    /// The client goes: what it prepared is not carried out. Parties that were sent EXEC are no longer
    /// its own.
    pub(super) fn end_prepared(&mut self, id: u32, session: &Session) {
        self.leave_queue(id);
        for Party { conn, .. } in &session.parties {
            if self.conns.get(*conn as usize).is_some_and(|conn| conn.purpose == Use::Party(Hold::Client(id))) {
                self.close_party(*conn);
            }
        }
    }
}

/// The shards of a transaction: those of its keys and the one of its watched keys.
pub(super) fn with_watch(parties: &[ShardId], watch: Option<Watch>) -> Vec<ShardId> {
    let mut all = parties.to_vec();
    all.extend(watch.map(|watch| watch.shard));
    all.sort_unstable();
    all.dedup();
    all
}

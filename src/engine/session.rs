//! What most clients never do: transactions, watched keys, blocking commands, logging in.
//!
//! A transaction needs no connection of its own: its commands are kept until EXEC and then queued as
//! one uninterrupted batch. WATCH and blocking commands do; a *lease* is a connection that one client
//! holds and gives back clean. Before and after what runs on a lease the client's replies are all
//! awaited, so its requests keep their order over both connections.

mod lease;
mod prepared;
mod queued;

use super::client::{Client, Park, State};
use super::conn::{NOBODY, Use};
use super::merge::{EXEC_QUEUED, EXEC_RESULT, Exec, Kind, Merge};
use super::pubsub::{Subscriptions, is_of_subscriptions};
use super::request::{Flow, Request};
use super::tracking::Tracking;
use super::{CROSS_REFUSED, Engine, NONE, failure};
use crate::advice::Outcome;
use crate::command::{Class, Flags, Local, Route, Session as Verb};
use crate::resp::{Proto, integer, request};
use crate::route;
use crate::topology::ShardId;
pub(super) use prepared::{Prepared, Queued, Reserve};
use queued::Party;
pub(super) use queued::{Multi, Piece, Place};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) authenticated: bool,
    /// Between MULTI and EXEC.
    pub(super) multi: Option<Multi>,
    watch: Option<Watch>,
    /// The lease on which a blocking command runs.
    pub(super) blocked: u32,
    /// Its place among those that wait together.
    pub(super) waiting: u32,
    /// A key on the shard that the transaction is bound to: what ADVISE shows beside one elsewhere.
    anchor: Vec<u8>,
    /// CLIENT REPLY SKIP: the next request is not answered.
    pub(super) skip: bool,
    pub(super) subscriptions: Subscriptions,
    /// It is told of every request.
    pub(super) monitors: bool,
    pub(super) tracking: Option<Box<Tracking>>,
    /// The shards on which its transaction is being carried out.
    parties: Vec<Party>,
    /// It waited too long for leases: EXEC says so.
    late: bool,
    /// The client is gone, and its transaction is carried through.
    orphan: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            authenticated: true,
            multi: None,
            watch: None,
            blocked: NONE,
            waiting: NONE,
            anchor: Vec::new(),
            skip: false,
            subscriptions: Subscriptions::default(),
            monitors: false,
            tracking: None,
            parties: Vec::new(),
            late: false,
            orphan: false,
        }
    }
}

impl Session {
    /// The lease that watches keys is gone: EXEC will say so.
    pub(super) fn lose_watch(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.conn = NONE;
        }
    }

    /// The same if it is this one.
    pub(super) fn lose_watch_on(&mut self, conn: u32) {
        if self.watch.is_some_and(|watch| watch.conn == conn) {
            self.lose_watch();
        }
    }

    /// A command of it waits.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked != NONE || self.waiting != NONE
    }

    /// Nothing in it differs from having none.
    fn is_plain(&self) -> bool {
        self.authenticated
            && self.multi.is_none()
            && self.watch.is_none()
            && !self.is_blocked()
            && !self.skip
            && self.subscriptions.is_empty()
            && self.subscriptions.confirming == 0
            && !self.monitors
            && self.tracking.is_none()
            && self.parties.is_empty()
            && !self.late
    }
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    shard: ShardId,
    /// The lease; [`NONE`] once it broke.
    conn: u32,
    /// The slot of the WATCH that was the first.
    first: u32,
}

impl Engine {
    /// What a client in a special state may not do, or does in another way; None: carry on.
    #[cold]
    pub(super) fn in_session(&mut self, id: u32, request: &Request<'_>) -> Option<Flow> {
        let client = &mut self.clients[id as usize];
        let session = client.session.as_mut()?;
        if !session.authenticated {
            if !request.row.flags.has(Flags::NO_AUTH) {
                let text = match request.row.route {
                    Route::Session(Verb::Exec) => {
                        "EXECABORT Transaction discarded because of: NOAUTH Authentication required."
                    }
                    _ => "NOAUTH Authentication required.",
                };
                self.monitors.rejected = true;
                return Some(self.answer_error(id, text));
            }
            return None;
        }
        if session.subscriptions.confirming > 0 && !is_of_subscriptions(request.row.route) {
            return Some(Flow::Parked(Park::Empty));
        }
        if session.tracking.is_some()
            && let Some(flow) = self.caching_ahead(id, request)
        {
            return Some(flow);
        }
        let client = &mut self.clients[id as usize];
        let session = client.session.as_mut()?;
        if session.skip {
            session.skip = false;
            if request.row.route == Route::Local(Local::ClientReply) && session.multi.is_none() {
                // It has no reply of its own, or one that is given all the same; what it says stays said.
                return self.reply_after_skip(id, request);
            }
            client.mute = true;
            // The request itself is carried out; only its reply is not given.
            let args = request.args;
            let flow = self.unmuted(id, request, args);
            return Some(flow);
        }
        if !session.subscriptions.is_empty()
            && client.proto == Proto::Resp2
            && let Some(flow) = self.subscribed_only(id, request)
        {
            return Some(flow);
        }
        let data = Flags(Flags::READONLY.0 | Flags::WRITE.0 | Flags::MAY_REPLICATE.0);
        if self.clients[id as usize].session.as_ref()?.monitors && request.row.flags.has(data) {
            self.monitors.rejected = true;
            return Some(self.answer_error(id, "ERR Replica can't interact with the keyspace"));
        }
        self.clients[id as usize].session.as_ref()?.multi.as_ref()?;
        match request.row.route {
            Route::Session(Verb::Exec | Verb::Discard | Verb::Multi | Verb::Watch)
            | Route::Local(Local::Quit | Local::Reset) => None,
            _ if request.row.flags.has(Flags::NO_MULTI) => {
                self.monitors.rejected = true;
                Some(self.answer_error(id, "ERR Command not allowed inside a transaction"))
            }
            _ => Some(self.queue(id, request)),
        }
    }

    /// CLIENT REPLY right behind CLIENT REPLY SKIP.
    fn reply_after_skip(&mut self, id: u32, request: &Request<'_>) -> Option<Flow> {
        let args = request.args;
        if args.is(2, "on") || args.is(2, "off") || args.is(2, "skip") {
            self.drop_plain_session(id);
            return None;
        }
        // The error of a wrong one is what is skipped.
        self.clients[id as usize].mute = true;
        Some(self.unmuted(id, request, args))
    }

    /// Carries out one request without a reply.
    fn unmuted(&mut self, id: u32, request: &Request<'_>, args: crate::resp::Args<'_>) -> Flow {
        self.drop_plain_session(id);
        let flow = self.request(id, request.frame, request.owned, args);
        let client = &mut self.clients[id as usize];
        client.mute = false;
        if flow != Flow::Taken {
            client.session_mut().skip = true;
        }
        flow
    }

    /// The connection for a client that may hold a lease on the shard.
    #[cold]
    pub(super) fn conn_in_session(&mut self, id: u32, shard: ShardId) -> u32 {
        if let Some(conn) = self.private(id, shard) {
            self.announce(id, conn);
            return conn;
        }
        let client = &self.clients[id as usize];
        match client.session.as_ref().and_then(|session| session.watch) {
            Some(watch) if watch.shard == shard => watch.conn,
            _ => self.shared(shard, client.proto, client.db),
        }
    }

    pub(super) fn session(&mut self, id: u32, verb: Verb, keys: &[u32], request: &Request<'_>) -> Flow {
        match verb {
            Verb::Multi => self.multi(id),
            Verb::Exec => self.exec(id, request),
            Verb::Discard => self.discard(id),
            Verb::Watch => self.watch(id, request),
            Verb::Unwatch => self.unwatch(id, request),
            Verb::Block => self.block(id, keys, request),
            Verb::Monitor => self.monitor(id, request),
            _ => self.pubsub(id, verb, request),
        }
    }

    fn multi(&mut self, id: u32) -> Flow {
        let session = self.clients[id as usize].session_mut();
        if session.multi.is_some() {
            return self.answer(id, |reply| _ = reply.error("ERR MULTI calls can not be nested"));
        }
        session.multi = Some(Multi::default());
        self.answer(id, |reply| _ = reply.status("OK"))
    }

    fn exec(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let client = &mut self.clients[id as usize];
        let (proto, db) = (client.proto, client.db);
        let Some(session) = client.session.as_mut().filter(|session| session.multi.is_some()) else {
            return self.answer(id, |reply| _ = reply.error("ERR EXEC without MULTI"));
        };
        let watch = session.watch;
        if self.must_finish_watch(id) {
            return Flow::Parked(Park::Empty);
        }
        if let Some(text) = self.exec_busy(id) {
            return self.abort(id, &[b"EXECABORT Transaction discarded because of: ", text.as_slice()].concat());
        }
        let Some(multi) = &self.clients[id as usize].session_mut().multi else { return Flow::Taken };
        if multi.spoiled {
            return self.abort(id, b"EXECABORT Transaction discarded because of previous errors.");
        }
        let (shards, announces) = (prepared::with_watch(&multi.parties, watch), multi.announces);
        if let Some(Watch { shard, conn: NONE, .. }) = watch {
            let text = failure::watch_lost(self.topology.shard(shard));
            return self.abort(id, text.as_bytes());
        }
        if shards.len() > 1 {
            return self.exec_prepared(id, &shards);
        }
        if announces && !self.clients[id as usize].slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let shard = shards.first().map_or_else(|| self.topology.home(), |shard| *shard);
        let conn = match (watch, self.private(id, shard)) {
            (Some(watch), _) => watch.conn,
            (None, Some(private)) => private,
            (None, None) => self.shared(shard, proto, db),
        };
        if conn == NONE {
            self.clients[id as usize].session_mut().multi = None;
            self.drop_plain_session(id);
            return self.answer_down(id, shard, Class::Session);
        }
        if self.is_full(conn) {
            return self.wait_for(id, conn);
        }
        let multi = self.clients[id as usize].session_mut().multi.take().unwrap_or_default();
        let (db, plain, seq) = (multi.db, multi.plain, self.clients[id as usize].next_seq());
        multi.scripts.iter().for_each(|script| self.load_ahead(conn, script));
        self.announce(id, conn);
        self.expect(conn, id, seq, EXEC_QUEUED, true);
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, &["MULTI"]));
        let (pieces, sent) = if plain {
            for _ in 0..multi.len() {
                self.expect(conn, id, seq, EXEC_QUEUED, true);
            }
            self.conns[conn as usize].out.push(&multi.frames);
            (None, multi.len())
        } else {
            let (pieces, sent) = self.lay(id, seq, multi, &[Party { shard, conn }], |_| EXEC_QUEUED, true);
            (Some(pieces), sent)
        };
        self.expect(conn, id, seq, EXEC_RESULT, true);
        self.conns[conn as usize].out.push(request.frame);
        if db.is_some() {
            self.select_again(conn);
        }
        // Until it is answered the database is not known, nor what else it changed of the client, nor is
        // the lease free.
        let client = &mut self.clients[id as usize];
        client.exclusive |= db.is_some() || !plain || watch.is_some();
        let merge = Merge::new(Kind::Exec(Exec { refused: None, pieces, proto, db }), sent + 2, true);
        client.open(State::Merge(Box::new(merge)), Class::Session, self.now);
        if watch.is_some() {
            self.free_watch(id);
        }
        self.drop_plain_session(id);
        Flow::Taken
    }

    /// The BUSY of a shard on which the client's transaction would run.
    fn exec_busy(&self, id: u32) -> Option<Vec<u8>> {
        let multi = self.clients[id as usize].session.as_ref()?.multi.as_ref()?;
        let home = [self.topology.home()];
        let shards = if multi.parties.is_empty() { &home } else { multi.parties.as_slice() };
        shards.iter().find_map(|shard| self.busy_text(*shard))
    }

    /// An EXEC that cannot be: it ends the transaction all the same, as in Redis.
    pub(super) fn abort(&mut self, id: u32, text: &[u8]) -> Flow {
        if self.must_finish_watch(id) {
            return Flow::Parked(Park::Empty);
        }
        // It may have waited for leases, and lost the one that watches keys meanwhile.
        self.leave_queue(id);
        if let Some(session) = &mut self.clients[id as usize].session {
            (session.multi, session.late) = (None, false);
        }
        self.forget_watch(id);
        self.drop_plain_session(id);
        self.answer_error(id, text)
    }

    fn discard(&mut self, id: u32) -> Flow {
        if self.must_finish_watch(id) {
            return Flow::Parked(Park::Empty);
        }
        let session = self.clients[id as usize].session_mut();
        if session.multi.take().is_none() {
            self.drop_plain_session(id);
            return self.answer(id, |reply| _ = reply.error("ERR DISCARD without MULTI"));
        }
        self.forget_watch(id);
        self.drop_plain_session(id);
        self.answer(id, |reply| _ = reply.status("OK"))
    }

    fn watch(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let client = &self.clients[id as usize];
        let session = client.session.as_ref();
        if session.is_some_and(|session| session.multi.is_some()) {
            return self.answer(id, |reply| _ = reply.error("ERR WATCH inside MULTI is not allowed"));
        }
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let watched = session.and_then(|session| session.watch);
        let (proto, db) = (client.proto, client.db);
        let keys: Vec<u32> = (1..request.args.len() as u32).collect();
        let shard = match route::one_shard(request.args, &keys, &self.topology) {
            Ok(shard) => shard,
            Err(refusal) => return self.refuse(id, refusal, request.args),
        };
        // The key watched first, and those that another tag parts from it.
        let anchor = session.filter(|session| session.watch.is_some()).map(|session| session.anchor.clone());
        let anchor = anchor.as_deref().unwrap_or_else(|| request.args.at(1));
        let parted = self.parted_from(anchor, request.args.iter().skip(1));
        let conn = match watched {
            Some(watch) if watch.shard != shard => {
                let map = &self.topology;
                let text = format!(
                    "CROSSSLOT watched keys are on {} and on {}: {}",
                    map.shard(watch.shard).name,
                    map.shard(shard).name,
                    self.remedy(&parted)
                );
                self.metrics.cross_shard[CROSS_REFUSED].inc();
                self.advise(&parted, b"WATCH", Outcome::Refused);
                return self.answer_error(id, &text);
            }
            Some(Watch { conn: NONE, .. }) => {
                return self.answer_error(id, failure::watch_lost(self.topology.shard(shard)));
            }
            Some(watch) => watch.conn,
            None => match self.private(id, shard) {
                Some(NONE) => return self.answer_down(id, shard, Class::Session),
                Some(private) => private,
                None => match self.lease(id, shard, proto, db, true) {
                    Ok(conn) => conn,
                    Err(flow) => return flow,
                },
            },
        };
        if parted.len() > 1 && self.topology.is_alone() {
            self.advise(&parted, b"WATCH", Outcome::Refused);
        }
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        let seq = client.open(State::Wait, Class::Session, self.now);
        if watched.is_none() {
            let session = client.session_mut();
            session.anchor = request.args.at(1).to_vec();
            session.watch = Some(Watch { shard, conn, first: seq });
        }
        self.send(conn, id, seq, 0, request);
        Flow::Taken
    }

    /// An error is the answer in this slot: when that was the client's first WATCH, it watches nothing.
    pub(super) fn watch_refused(&mut self, id: u32, seq: u32) {
        let session = self.clients.get(id as usize).and_then(|client| client.session.as_ref());
        if session.and_then(|session| session.watch).is_none_or(|watch| watch.first != seq) {
            return;
        }
        self.forget_watch(id);
        self.drop_plain_session(id);
    }

    fn unwatch(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let watch = self.clients[id as usize].session.as_ref().and_then(|session| session.watch);
        match watch {
            Some(Watch { conn, .. }) if conn != NONE => {
                if !self.clients[id as usize].slots.is_empty() {
                    return Flow::Parked(Park::Empty);
                }
                let client = &mut self.clients[id as usize];
                client.exclusive = true;
                let seq = client.open(State::Wait, Class::Session, self.now);
                self.send(conn, id, seq, 0, request);
                self.free_watch(id);
                self.drop_plain_session(id);
                Flow::Taken
            }
            _ => {
                self.forget_watch(id);
                self.drop_plain_session(id);
                self.answer(id, |reply| _ = reply.status("OK"))
            }
        }
    }

    /// The lease that watches keys for the client, if there is one.
    pub(super) fn watched_conn(&self, id: u32) -> u32 {
        let session = self.clients[id as usize].session.as_ref();
        session.and_then(|session| session.watch).map_or(NONE, |watch| watch.conn)
    }

    /// The client's lease is about to be given back, and has replies to come: what follows would
    /// overtake them on another connection.
    fn must_finish_watch(&self, id: u32) -> bool {
        let client = &self.clients[id as usize];
        !client.slots.is_empty() && client.session.as_ref().is_some_and(|session| session.watch.is_some())
    }

    /// Lets go of watched keys without an answer to anybody.
    pub(super) fn forget_watch(&mut self, id: u32) {
        let Some(session) = self.clients[id as usize].session.as_mut() else { return };
        // A connection that has just broken has nobody to be told.
        let is_there = |watch: &Watch| self.conns.get(watch.conn as usize).is_some_and(|conn| !conn.link.is_down());
        let Some(Watch { conn, .. }) = session.watch.filter(is_there) else {
            session.watch = None;
            return;
        };
        self.expect(conn, NOBODY, 0, 0, false);
        self.conns[conn as usize].out.write(|out| request(out, &["UNWATCH"]));
        self.free_watch(id);
    }

    /// The lease is given back once it has answered what is queued on it.
    fn free_watch(&mut self, id: u32) {
        let Some(session) = self.clients[id as usize].session.as_mut() else { return };
        if let Some(watch) = session.watch.take()
            && let Some(conn) = self.conns.get_mut(watch.conn as usize)
            && let Use::Lease { .. } = conn.purpose
        {
            conn.purpose = Use::Lease { client: id, keep: false };
        }
    }

    /// A client whose state is an ordinary one again goes the short way.
    pub(super) fn drop_plain_session(&mut self, id: u32) {
        let client: &mut Client = &mut self.clients[id as usize];
        if client.session.as_ref().is_some_and(|session| session.is_plain()) {
            client.session = None;
        }
    }

    /// RESET and the like: no transaction, no watched keys.
    pub(super) fn reset_session(&mut self, id: u32) {
        self.forget_watch(id);
        self.unsubscribe_all(id);
        self.untrack(id);
        let mut monitors = false;
        if let Some(session) = self.clients[id as usize].session.as_mut() {
            session.multi = None;
            session.skip = false;
            monitors = std::mem::take(&mut session.monitors);
        }
        if monitors {
            self.end_monitor(id);
        }
        self.drop_plain_session(id);
    }

    /// The database that a SELECT names.
    pub(super) fn database(&self, request: &Request<'_>) -> Result<u32, &'static str> {
        let number = integer(request.args.at(1)).ok_or("ERR value is not an integer or out of range")?;
        u32::try_from(number)
            .ok()
            .filter(|number| *number < self.options.databases)
            .ok_or("ERR DB index is out of range")
    }
}

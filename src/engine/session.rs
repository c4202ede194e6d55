//! What most clients never do: transactions, watched keys, blocking commands, logging in.
//!
//! A transaction needs no connection of its own: its commands are kept until EXEC and then queued as
//! one uninterrupted batch. WATCH and blocking commands do; a *lease* is a connection that one client
//! holds and gives back clean. Before and after what runs on a lease the client's replies are all
//! awaited, so its requests keep their order over both connections.

mod lease;

use super::client::{Client, Park, State};
use super::conn::{NOBODY, Use};
use super::merge::{EXEC_QUEUED, EXEC_RESULT, Exec, Kind, Merge};
use super::pubsub::Subscriptions;
use super::request::{Flow, Request};
use super::{Engine, NONE, failure};
use crate::command::{Class, Flags, Local, Route, Session as Verb};
use crate::resp::{Proto, integer, request};
use crate::route::{self, Plan, Rules};
use crate::topology::ShardId;

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
    }
}

/// Commands that wait for EXEC.
#[derive(Debug, Default)]
pub(super) struct Multi {
    /// The frames to send, one behind the other.
    frames: Vec<u8>,
    sent: usize,
    /// Commands that the proxy answers itself when EXEC ran, by their places.
    local: Vec<(usize, Local, Vec<u8>)>,
    /// Where the keys live, once there was one.
    shard: Option<ShardId>,
    /// The database of the last SELECT among them.
    db: Option<u32>,
    /// One of them may change data.
    pub(super) writes: bool,
    /// A command was refused: EXEC will be.
    pub(super) spoiled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    shard: ShardId,
    /// The lease; [`NONE`] once it broke.
    conn: u32,
}

impl Multi {
    /// Commands that wait for EXEC.
    pub(super) fn len(&self) -> usize {
        self.sent + self.local.len()
    }

    /// What they measure.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() + self.local.iter().map(|(_, _, frame)| frame.len()).sum::<usize>()
    }
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
                return Some(self.answer_error(id, text));
            }
            return None;
        }
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
        self.clients[id as usize].session.as_ref()?.multi.as_ref()?;
        match request.row.route {
            Route::Session(Verb::Exec | Verb::Discard | Verb::Multi | Verb::Watch)
            | Route::Local(Local::Quit | Local::Reset) => None,
            _ if request.row.flags.has(Flags::NO_MULTI) => {
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

    /// A command between MULTI and EXEC.
    fn queue(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let rules = Rules { keyless_scripts: self.options.keyless_scripts };
        let mut keys = Vec::new();
        let plan = route::plan(request.id, request.row, request.args, &self.topology, rules, &mut keys);
        let keyless = keys.is_empty() && request.row.keys == crate::command::Keys::None;
        let mut local = None;
        let mut db = None;
        let shard = match plan {
            Plan::One(_) if keyless => None,
            Plan::One(shard) => Some(shard),
            Plan::Local(Local::Ping | Local::Echo | Local::Time) => None,
            Plan::Local(Local::Select) => match self.database(request) {
                Ok(number) => {
                    db = Some(number);
                    None
                }
                // The server says what is wrong with it, in its place.
                Err(_) => None,
            },
            Plan::Local(what) => {
                local = Some(what);
                None
            }
            Plan::Session(Verb::Block) => match route::one_shard(request.args, &keys, &self.topology) {
                Ok(shard) => Some(shard),
                Err(refusal) => return self.refuse(id, refusal, request.args),
            },
            Plan::Session(Verb::Publish | Verb::ShardPublish | Verb::Unwatch) => None,
            Plan::Every(every) if self.shards.len() == 1 => match super::merge::refusal(every, request.args) {
                None => Some(ShardId(0)),
                Some(text) => return self.answer_error(id, &text),
            },
            Plan::Every(_) | Plan::Session(_) => {
                let name = request.row.name.to_uppercase().replace('|', " ");
                let text = format!("CROSSSLOT {name} concerns every shard and cannot be part of a transaction");
                return self.answer_error(id, &text);
            }
            Plan::Split(_) => {
                return match route::one_shard(request.args, &keys, &self.topology) {
                    Err(refusal) => self.refuse(id, refusal, request.args),
                    Ok(_) => Flow::Taken,
                };
            }
            Plan::Refuse(refusal) => return self.refuse(id, refusal, request.args),
        };
        let first = keys.first().copied().or(request.row.keys.single().map(|at| at as u32));
        let key = first.map_or(&[][..], |at| request.args.at(at as usize));
        let flow = self.enqueue(id, shard, key, local, db, request);
        self.metrics.requests[request.id.0 as usize].inc();
        flow
    }

    /// Puts a command into the transaction that the client is building: to be sent to `shard`, where
    /// `key` lives, or to any, or answered by the proxy.
    pub(super) fn enqueue(
        &mut self,
        id: u32,
        shard: Option<ShardId>,
        key: &[u8],
        local: Option<Local>,
        db: Option<u32>,
        request: &Request<'_>,
    ) -> Flow {
        let bytes_max = self.options.query_bytes_max;
        let session = self.clients[id as usize].session_mut();
        let watched = session.watch.map(|watch| watch.shard);
        let Some(multi) = &mut session.multi else { return Flow::Taken };
        if let Some(shard) = shard {
            let other = multi.shard.or(watched).filter(|other| *other != shard);
            if let Some(other) = other {
                let map = &self.topology;
                let text = format!(
                    "CROSSSLOT the transaction has keys on {} and on {}: give them one hash tag such as {{tag}}, or \
                     add a [[colocate]] rule",
                    map.shard(other).name,
                    map.shard(shard).name
                );
                let anchor = session.anchor.clone();
                self.metrics.cross_shard[0].inc();
                self.advise(&anchor, key, b"MULTI");
                return self.answer_error(id, &text);
            }
            if multi.shard.is_none() && watched.is_none() {
                session.anchor = key.to_vec();
            }
            multi.shard = Some(shard);
        }
        if multi.frames.len() + request.frame.len() > bytes_max {
            return self.answer_error(id, "ERR the transaction is larger than the query buffer limit");
        }
        match local {
            Some(what) => multi.local.push((multi.sent + multi.local.len(), what, request.frame.to_vec())),
            None => {
                multi.frames.extend_from_slice(request.frame);
                multi.sent += 1;
                multi.db = db.or(multi.db);
                multi.writes |= request.row.flags.has(Flags::WRITE) || request.row.flags.has(Flags::MAY_REPLICATE);
            }
        }
        self.answer(id, |reply| _ = reply.status("QUEUED"))
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
        let multi = self.clients[id as usize].session_mut().multi.take().unwrap_or_default();
        if multi.spoiled {
            return self.abort(id, b"EXECABORT Transaction discarded because of previous errors.");
        }
        let shard = watch.map(|watch| watch.shard).or(multi.shard).unwrap_or_else(|| self.topology.home());
        if let Some(Watch { conn: NONE, .. }) = watch {
            self.forget_watch(id);
            self.drop_plain_session(id);
            let text = failure::watch_lost(self.topology.shard(shard));
            return self.answer_error(id, &text);
        }
        let conn = watch.map_or_else(|| self.shared(shard, proto, db), |watch| watch.conn);
        if conn == NONE {
            self.drop_plain_session(id);
            return self.answer_down(id, shard, Class::Session);
        }
        if self.is_full(conn) {
            self.clients[id as usize].session_mut().multi = Some(multi);
            return self.wait_for(id, conn);
        }
        let local = multi.local.iter().map(|(place, what, frame)| (*place, self.told(id, *what, frame))).collect();
        let exec = Exec { refused: None, local, db: multi.db };
        let merge = Merge::new(Kind::Exec(exec), multi.sent + 2, true);
        let client = &mut self.clients[id as usize];
        let seq = client.open(State::Merge(Box::new(merge)), Class::Session, self.now);
        // Until it is answered the database is not known, nor is the lease free.
        client.exclusive = multi.db.is_some() || watch.is_some();
        self.expect(conn, id, seq, EXEC_QUEUED, true);
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, &["MULTI"]));
        for _ in 0..multi.sent {
            self.expect(conn, id, seq, EXEC_QUEUED, true);
        }
        self.conns[conn as usize].out.push(&multi.frames);
        self.expect(conn, id, seq, EXEC_RESULT, true);
        self.conns[conn as usize].out.push(request.frame);
        if multi.db.is_some() {
            let db = self.conns[conn as usize].db.to_string();
            self.expect(conn, NOBODY, 0, 0, true);
            self.conns[conn as usize].out.write(|out| crate::resp::request(out, &["SELECT", &db]));
        }
        if watch.is_some() {
            self.free_watch(id);
        }
        self.drop_plain_session(id);
        Flow::Taken
    }

    /// An EXEC that cannot be: it ends the transaction all the same, as in Redis.
    pub(super) fn abort(&mut self, id: u32, text: &[u8]) -> Flow {
        if self.must_finish_watch(id) {
            return Flow::Parked(Park::Empty);
        }
        if let Some(session) = &mut self.clients[id as usize].session {
            session.multi = None;
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
        let conn = match watched {
            Some(watch) if watch.shard != shard => {
                let map = &self.topology;
                let text = format!(
                    "CROSSSLOT watched keys are on {} and on {}: give them one hash tag such as {{tag}}, or add a \
                     [[colocate]] rule",
                    map.shard(watch.shard).name,
                    map.shard(shard).name
                );
                let anchor = session.map_or_else(Vec::new, |session| session.anchor.clone());
                self.metrics.cross_shard[0].inc();
                self.advise(&anchor, request.args.at(1), b"WATCH");
                return self.answer_error(id, &text);
            }
            Some(Watch { conn: NONE, .. }) => {
                return self.answer_error(id, failure::watch_lost(self.topology.shard(shard)));
            }
            Some(watch) => watch.conn,
            None => match self.lease(id, shard, proto, db, true) {
                Ok(conn) => conn,
                Err(flow) => return flow,
            },
        };
        let client = &mut self.clients[id as usize];
        if watched.is_none() {
            client.session_mut().anchor = request.args.at(1).to_vec();
        }
        client.session_mut().watch = Some(Watch { shard, conn });
        client.exclusive = true;
        let seq = client.open(State::Wait, Class::Session, self.now);
        self.send(conn, id, seq, 0, request);
        Flow::Taken
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
        let Some(Watch { conn, .. }) = session.watch.filter(|watch| watch.conn != NONE) else {
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
        if let Some(session) = self.clients[id as usize].session.as_mut() {
            session.multi = None;
            session.skip = false;
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

//! CLIENT TRACKING: a client that caches what it reads, and hears of changes.
//!
//! ```text
//! client   -> private connection to each shard -> the shard remembers what was read over it
//! shard    -> `invalidate` on that connection  -> the client, behind the replies that came before it
//!          -> with REDIRECT: on its sink       -> the client that is to hear of it, on whichever worker
//! ```
//!
//! A server tracks a connection's reads, so a client that tracks has connections of its own from then
//! on, and everything it asks of a shard travels there. One that breaks takes the shard's memory with
//! it: the client is told to forget everything, as after FLUSHALL.

mod options;
mod private;
mod push;

use std::collections::HashMap;
use std::mem;

use super::client::{Park, State};
use super::conn::NOBODY;
use super::merge::{Kind, Merge};
use super::request::{Flow, Request};
use super::{Engine, NONE};
use crate::command::Class;
use crate::resp::{Args, Proto, Reply, RequestScanner};
use crate::topology::ShardId;
use options::{Change, Mode};
pub(super) use push::News;

/// One client's tracking.
#[derive(Debug)]
pub(super) struct Tracking {
    mode: Mode,
    /// The client that hears of changes instead is gone.
    broken: bool,
    /// The worker of the client that hears of changes instead, if that is not this one.
    elsewhere: Option<u16>,
    caching: Caching,
    /// Connections that were told CLIENT CACHING for the request at hand.
    told: Vec<u32>,
    /// By shard: what its requests travel on.
    conns: Vec<u32>,
    /// By shard: who is told of changes instead; empty without REDIRECT.
    sinks: Vec<u32>,
    /// Those of before, until the shards have heard that it was to hear for itself from now on.
    sinks_left: Vec<u32>,
    /// What the shards are to be told as soon as its sinks are connected, and the slot that waits for it.
    asking: Option<(u32, Mode)>,
    /// Shards that forgot everything, and since when the client is not told yet.
    flushed: Vec<bool>,
    flushed_since: Option<u64>,
}

/// How far CLIENT CACHING has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caching {
    No,
    /// It concerns the next request.
    Next,
    /// It concerns the request at hand.
    Now,
    /// The request is on its way; what it asks in later steps is concerned too.
    Spent,
}

/// What all clients that track have in common.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// Clients that track.
    pub(super) count: i64,
    /// Those whose shards forgot, with their generations, until they are told.
    flushes: Vec<(u32, u32)>,
    /// Where clients that hear for others were found last.
    pub(super) targets: HashMap<u64, u32>,
    /// Clients of other workers that could not be told: they have to forget everything.
    owed: Vec<(u16, News)>,
}

impl Engine {
    pub(super) fn client_tracking(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let client = &mut self.clients[id as usize];
        if !client.slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        // Other workers may know the client that it names.
        let peers = self.peers() > 0;
        let change = match self.change(id, request.args, peers) {
            Ok(change) => change,
            Err(text) => return self.answer_error(id, text),
        };
        let elsewhere = change.mode.redirect.filter(|target| self.find_client(*target).is_none());
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        let seq = client.open(State::Wait, Class::Local, self.now);
        let Some(target) = elsewhere else {
            self.track(id, seq, change, None);
            return Flow::Taken;
        };
        let count = self.peers();
        if let Some(slot) = self.clients[id as usize].slot(seq) {
            let kind = Kind::Redirect { frame: request.frame.to_vec() };
            slot.state = State::Merge(Box::new(Merge::new(kind, count, false)));
        }
        let mut question = Vec::new();
        crate::resp::request(&mut question, &["CLIENT", "LIST", "ID", &target.to_string()]);
        self.ask_peers(id, seq, 0, &question);
        Flow::Taken
    }

    /// The other workers were asked for the client that is to hear of changes: the `part`th has it.
    pub(super) fn redirect_found(&mut self, id: u32, seq: u32, frame: &[u8], part: Option<usize>) {
        let elsewhere = part.and_then(|part| self.others().nth(part));
        let mut spans = Vec::new();
        let scanned = RequestScanner::default().scan(frame, &self.options.limits, true, &mut spans);
        match scanned.map(|_| self.change(id, Args::new(frame, &spans), elsewhere.is_some())) {
            Ok(Ok(change)) => self.track(id, seq, change, elsewhere),
            Ok(Err(text)) => self.finish_with(id, seq, &[b"-", &text[..], b"\r\n"].concat()),
            // It was read before.
            Err(_) => self.finish_with(id, seq, b"$-1\r\n"),
        }
    }

    fn change(&self, id: u32, args: Args<'_>, elsewhere: bool) -> Result<Change, Vec<u8>> {
        let here = |number: i64| self.clients.iter().any(|(_, client)| client.about.id as i64 == number);
        Change::read(args, self.mode(id), |number| here(number) || elsewhere && number > 0)
    }

    fn mode(&self, id: u32) -> Option<&Mode> {
        self.tracking(id).map(|tracking| &tracking.mode)
    }

    pub(super) fn tracking(&self, id: u32) -> Option<&Tracking> {
        self.clients.get(id as usize)?.session.as_ref()?.tracking.as_deref()
    }

    fn tracking_mut(&mut self, id: u32) -> Option<&mut Tracking> {
        self.clients.get_mut(id as usize)?.session.as_mut()?.tracking.as_deref_mut()
    }

    /// Turns tracking on or off; the slot `seq` is answered once every shard that is there does it. The
    /// client that hears of changes may be worker `elsewhere`'s.
    fn track(&mut self, id: u32, seq: u32, change: Change, elsewhere: Option<u16>) {
        match self.set_tracking(id, change, elsewhere, true) {
            Err(text) => self.finish_with(id, seq, format!("-{text}\r\n").as_bytes()),
            Ok(Some(news)) => {
                if let Some(tracking) = self.tracking_mut(id) {
                    tracking.asking = Some((seq, news));
                }
                self.ask_with_sinks(id);
            }
            Ok(None) => self.ask_privates(id, seq, None),
        }
    }

    /// What its private connections are still to be told.
    fn set_tracking(
        &mut self,
        id: u32,
        change: Change,
        elsewhere: Option<u16>,
        waits: bool,
    ) -> Result<Option<Mode>, String> {
        if !change.on {
            self.untrack(id);
            return Ok(None);
        }
        match self.tracking_mut(id) {
            Some(tracking) if tracking.mode.redirect.is_some() && change.mode.redirect.is_none() => {
                tracking.sinks_left.append(&mut tracking.sinks);
            }
            Some(tracking) if tracking.mode.redirect.is_none() && change.mode.redirect.is_some() => {
                if waits {
                    self.open_sinks(id)?;
                } else {
                    // What was read so far is tracked by connections that are given up.
                    self.forget_everything(id);
                    self.untrack(id);
                }
            }
            _ => {}
        }
        let news = change.news();
        let known = self.tracking(id).is_some();
        match self.tracking_mut(id) {
            Some(tracking) => (tracking.mode, tracking.broken) = (change.mode, false),
            None => self.open_privates(id, change.mode)?,
        }
        if let Some(tracking) = self.tracking_mut(id) {
            tracking.elsewhere = elsewhere;
        }
        Ok(known.then_some(news))
    }

    /// The same between MULTI and EXEC: nobody waits for the shards, nor are other workers asked.
    pub(super) fn tracking_inside(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let change = self.change(id, args, false)?;
        if let Some(news) = self.set_tracking(id, change, None, false)? {
            self.tell_privates(id, &news);
        }
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    /// Every shard does it, or one does not: then it is off.
    pub(super) fn tracking_set(&mut self, id: u32, seq: u32, error: Option<&[u8]>) {
        if error.is_some() {
            self.untrack(id);
        }
        if let Some(tracking) = self.tracking_mut(id) {
            mem::take(&mut tracking.sinks_left).into_iter().for_each(|sink| self.close_private(sink));
        }
        self.finish_with(id, seq, error.unwrap_or(b"+OK\r\n"));
        if self.clients.contains(id as usize) {
            self.drop_plain_session(id);
        }
    }

    pub(super) fn client_caching(&mut self, id: u32, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        Mode::caching(self.mode(id), args)?;
        if let Some(tracking) = self.tracking_mut(id) {
            tracking.caching = Caching::Next;
            tracking.told.clear();
        }
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    /// It was said in a transaction, which is over.
    pub(super) fn caching_over(&mut self, id: u32) {
        if let Some(tracking) = self.tracking_mut(id)
            && tracking.caching == Caching::Next
        {
            tracking.caching = Caching::Spent;
        }
    }

    pub(super) fn tracking_info(&self, id: u32, reply: &mut Reply<'_>) {
        let tracking = self.tracking(id);
        let caching = tracking.is_some_and(|tracking| tracking.caching != Caching::No);
        let broken = tracking.is_some_and(|tracking| tracking.broken);
        Mode::info(self.mode(id), caching, broken, reply);
    }

    /// CLIENT GETREDIR, and `redir` of CLIENT LIST.
    pub(super) fn redirection(&self, id: u32) -> i64 {
        self.mode(id).map_or(-1, |mode| mode.redirect.unwrap_or(0) as i64)
    }

    /// Redis' letters: it tracks, whoever was to hear of it is gone, everything of a prefix.
    pub(super) fn tracking_flags(&self, id: u32) -> [bool; 3] {
        let tracking = self.tracking(id);
        let is = |what: fn(&Tracking) -> bool| tracking.is_some_and(what);
        [is(|_| true), is(|tracking| tracking.broken), is(|tracking| tracking.mode.bcast)]
    }

    /// A request of a client that tracks: what CLIENT CACHING said of the one before is over, what it said
    /// of this one holds now. None: carry on.
    pub(super) fn caching_ahead(&mut self, id: u32, request: &Request<'_>) -> Option<Flow> {
        let tracking = self.tracking_mut(id)?;
        if tracking.caching == Caching::Spent {
            tracking.caching = Caching::No;
            tracking.told.clear();
        }
        // As in Redis, CLIENT itself is not the next command.
        if tracking.caching != Caching::Next || request.row.name.starts_with("client") {
            return None;
        }
        tracking.caching = Caching::Now;
        let flow = self.request(id, request.frame, request.owned, request.args);
        let session = self.clients.get(id as usize).and_then(|client| client.session.as_ref());
        let in_multi = session.is_some_and(|session| session.multi.is_some());
        if let Some(tracking) = self.tracking_mut(id) {
            tracking.caching = if flow == Flow::Taken && !in_multi { Caching::Spent } else { Caching::Next };
        }
        Some(flow)
    }

    /// The private connection to a shard, if the client has one.
    pub(super) fn private(&self, id: u32, shard: ShardId) -> Option<u32> {
        let conn = *self.tracking(id)?.conns.get(shard.0 as usize)?;
        let down = |conn: &u32| self.conns[*conn as usize].link.is_down();
        Some(if down(&conn) { NONE } else { conn })
    }

    /// The next request on the private connection is the one of which CLIENT CACHING spoke.
    pub(super) fn announce(&mut self, id: u32, conn: u32) {
        let told = |tracking: &Tracking| tracking.told.contains(&conn);
        if conn != NONE && !self.tracking(id).is_none_or(told) {
            self.announce_again(id, conn);
        }
    }

    /// The same for one more request on it.
    pub(super) fn announce_again(&mut self, id: u32, conn: u32) {
        let Some(tracking) = self.tracking_mut(id) else { return };
        if !matches!(tracking.caching, Caching::Now | Caching::Spent) {
            return;
        }
        tracking.told.push(conn);
        let word = if tracking.mode.optin { "YES" } else { "NO" };
        self.expect(conn, NOBODY, 0, 0, false);
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, &["CLIENT", "CACHING", word]));
    }
}

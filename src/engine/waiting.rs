//! Clients that wait for keys of several shards, or beside others who do: readiness without taking.
//!
//! ```text
//! client   -> waiter  -> a place in the queue of each of its spots (database, kind, key)
//! name     -> its spots; armed: the tracking connection of its shard hears of the next change
//! change   -> the spot's oldest waiter tries, without blocking, on the shared connection
//! success  -> the client's reply; the next in the queue tries
//! nothing  -> when the name was armed before the attempt: idle until the next change
//! ```
//!
//! A waiter first tries its keys in their order, as the command itself would; from then on it is tried
//! where something changed. One attempt is under way per spot and per waiter. Nothing is asked of
//! anybody while nothing changes, but for a look once a second at what fires no invalidation. What
//! was taken for a client that is gone is put back.

mod lines;
mod parts;
mod spots;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use slab::Slab;

use super::client::State;
use super::conn::Link;
use super::merge::Streams;
use super::request::{Flow, Request};
use super::{Engine, NONE, Order, failure};
use crate::command::Class;
use crate::resp::Proto;
use crate::topology::ShardId;
pub(super) use words::{Form, Kind, Name, Words, body, is_id, is_nil};
use words::{Wrong, error};

/// Microseconds between two looks at what fires no invalidation.
const SWEEP: u64 = 1_000_000;
/// Put-backs that wait for their shard's return.
const RETURNS_MAX: usize = 1024;

/// All that waits in one worker.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Waiters so far: their order.
    number: u64,
    waiters: Slab<Waiter>,
    spots: Slab<Spot>,
    index: HashMap<Place, u32>,
    /// Keys that somebody waits for.
    names: BTreeMap<Name, Named>,
    questions: Slab<Question>,
    /// By time: when a waiter gives up.
    deadlines: BTreeSet<(u64, u32)>,
    /// Spots that may go on, in the order in which they may.
    agenda: VecDeque<u32>,
    /// Spots that are looked at again with the next tick.
    later: Vec<u32>,
    /// Spots in [`Turn::Wait`].
    retries: Vec<u32>,
    /// What is to be put back, and could not be sent.
    returns: VecDeque<Return>,
    /// Tracking connections by shard; empty until somebody waits.
    lines: Vec<u32>,
    swept: u64,
    /// Where the sweep goes on.
    sweep_from: Option<Name>,
    /// The alarm that the driver was asked for; 0: none.
    alarm: u64,
}

/// A client that waits.
#[derive(Debug)]
struct Waiter {
    /// Its place in every queue.
    number: u64,
    client: u32,
    seq: u32,
    proto: Proto,
    db: u32,
    words: Words,
    /// One per key, each once.
    spots: Vec<u32>,
    /// Keys that were not tried yet begin here; None: all were, once.
    fresh: Option<usize>,
    /// The attempt under way.
    asked: Option<u32>,
    deadline: Option<u64>,
}

/// Whose elements compete for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    db: u32,
    kind: Kind,
    name: Name,
}

#[derive(Debug)]
struct Spot {
    place: Place,
    shard: ShardId,
    /// By number: the waiters, and which of its keys this is to each.
    queue: BTreeMap<u64, (u32, usize)>,
    state: Turn,
    /// The attempt, or the putting back, that is under way.
    busy: Option<u32>,
    /// Something changed while it was busy.
    again: bool,
    /// There was more when the name was armed: no need to ask between two attempts.
    rich: bool,
}

/// What is to be done at a spot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    /// There may be something.
    Try,
    /// Nothing was there, but the next change would not be heard of yet.
    Arm,
    /// Nothing is there, or what is there is of another type (the server's error); a change will be
    /// heard of.
    Idle(Option<Vec<u8>>),
    /// The server could not say; it is asked again with the next sweep.
    Wait,
}

/// A key that somebody waits for, in whichever database.
#[derive(Debug)]
struct Named {
    shard: ShardId,
    armed: Armed,
    spots: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    No,
    /// The request is under way.
    Asked,
    Yes,
}

/// What a server was asked on behalf of those who wait.
#[derive(Debug)]
enum Question {
    Try(Attempt),
    Arm(Name),
    /// Several names at once: is any of them there?
    Sweep(Vec<Name>),
    /// CLIENT TRACKING ON.
    Track,
    Return(Return),
}

#[derive(Debug)]
struct Attempt {
    spot: u32,
    /// None once the client has gone.
    waiter: Option<u32>,
    key: usize,
    /// The name was armed before: nothing found is a safe answer.
    armed: bool,
    /// What the key is, where a wrong type may be that of another one.
    of_type: Vec<u8>,
    /// What undoes it.
    words: Words,
    proto: Proto,
}

/// Elements on their way back.
#[derive(Debug)]
struct Return {
    shard: ShardId,
    db: u32,
    spot: u32,
    frames: [Vec<u8>; 2],
    /// Which of the frames was sent.
    round: usize,
}

impl Engine {
    /// Whether this command must wait with others rather than on a connection of its own: an element
    /// goes to those on a connection first, and they may not overtake.
    pub(super) fn joins_waiters(&self, id: u32, request: &Request<'_>, keys: &[u32]) -> bool {
        if self.waiting.index.is_empty() {
            return false;
        }
        let Ok(words) = Words::of(request.row, request.args, keys) else { return false };
        let (db, kind) = (self.clients[id as usize].db, words.kind(u64::MAX));
        let place = |name: &Name| Place { db, kind: kind.clone(), name: name.clone() };
        words.keys.iter().any(|name| self.waiting.index.contains_key(&place(name)))
    }

    /// A blocking command whose client waits with others; None when it is not understood.
    pub(super) fn wait(&mut self, id: u32, keys: &[u32], request: &Request<'_>) -> Option<Flow> {
        let words = match Words::of(request.row, request.args, keys) {
            Ok(words) => words,
            Err(Wrong::Text(text)) => return Some(self.answer_error(id, text)),
            Err(Wrong::Words) => return None,
        };
        if let Form::Read | Form::Group = words.form {
            let older = self.joins_waiters(id, request, keys);
            return Some(self.ask_streams(id, Streams::new(words, older, |key| self.topology.shard_of(key))));
        }
        let at = self.now;
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        let seq = client.open(State::Wait, Class::Session, at);
        self.wait_in(id, seq, words, at, true);
        Some(Flow::Taken)
    }

    /// The client's slot `seq` waits from now on; `fresh`: its keys were not looked at yet.
    pub(super) fn wait_in(&mut self, id: u32, seq: u32, words: Words, since: u64, fresh: bool) {
        self.open_tracking();
        let client = &mut self.clients[id as usize];
        let (proto, db) = (client.proto, client.db);
        let deadline = words.patience.map(|patience| since.saturating_add(patience));
        let waiting = &mut self.waiting;
        waiting.number += 1;
        let number = waiting.number;
        let kind = words.kind(number);
        let keys = words.keys.clone();
        let waiter = Waiter {
            number,
            client: id,
            seq,
            proto,
            db,
            words,
            spots: Vec::new(),
            fresh: fresh.then_some(0),
            asked: None,
            deadline,
        };
        let at = waiting.waiters.insert(waiter) as u32;
        client.session_mut().waiting = at;
        if let Some(deadline) = deadline {
            waiting.deadlines.insert((deadline, at));
        }
        for (key, name) in keys.iter().enumerate() {
            let place = Place { db, kind: kind.clone(), name: name.clone() };
            let spot = self.spot(place);
            let waiting = &mut self.waiting;
            waiting.spots[spot as usize].queue.entry(number).or_insert((at, key));
            let waiter = &mut waiting.waiters[at as usize];
            if !waiter.spots.contains(&spot) {
                waiter.spots.push(spot);
            }
            waiting.agenda.push_back(spot);
        }
        self.set_alarm();
        self.work();
    }

    /// The waiter leaves all queues; what was taken for it meanwhile is put back.
    fn end_wait(&mut self, at: u32) -> Option<Waiter> {
        let waiting = &mut self.waiting;
        let waiter = waiting.waiters.try_remove(at as usize)?;
        if let Some(deadline) = waiter.deadline {
            waiting.deadlines.remove(&(deadline, at));
        }
        if let Some(Question::Try(attempt)) = waiter.asked.and_then(|asked| waiting.questions.get_mut(asked as usize)) {
            attempt.waiter = None;
        }
        for spot in &waiter.spots {
            if let Some(known) = waiting.spots.get_mut(*spot as usize) {
                known.queue.remove(&waiter.number);
                waiting.agenda.push_back(*spot);
            }
        }
        if let Some(session) = self.clients.get_mut(waiter.client as usize).and_then(|client| client.session.as_mut())
            && session.waiting == at
        {
            session.waiting = NONE;
        }
        Some(waiter)
    }

    /// The client of waiter `at` is gone, or wants nothing any more.
    pub(super) fn waiter_gone(&mut self, at: u32) {
        self.end_wait(at);
        self.work();
    }

    /// The waiter has its answer.
    fn answer_waiter(&mut self, at: u32, reply: &[u8]) {
        let Some(waiter) = self.end_wait(at) else { return };
        self.finish_with(waiter.client, waiter.seq, reply);
        if self.clients.contains(waiter.client as usize) {
            self.drop_plain_session(waiter.client);
        }
    }

    /// CLIENT UNBLOCK.
    pub(super) fn unblock_waiter(&mut self, at: u32, by_error: bool) {
        let Some(waiter) = self.waiting.waiters.get(at as usize) else { return };
        let nothing = Words::nothing(waiter.proto).to_vec();
        let reply = if by_error { error("UNBLOCKED client unblocked via CLIENT UNBLOCK") } else { nothing };
        self.answer_waiter(at, &reply);
        self.work();
    }

    /// The time has come that [`Order::Alarm`] asked for.
    pub fn alarm(&mut self) {
        self.waiting.alarm = 0;
        self.end_waits();
    }

    /// Times that are over, and what is looked at from time to time.
    pub(super) fn waiting_tick(&mut self) {
        self.end_waits();
        let later = std::mem::take(&mut self.waiting.later);
        self.waiting.agenda.extend(later);
        if self.now.saturating_sub(self.waiting.swept) >= SWEEP {
            self.waiting.swept = self.now;
            for at in std::mem::take(&mut self.waiting.retries) {
                self.hint(at);
            }
            self.send_returns();
            self.sweep();
        }
        self.work();
    }

    /// Those whose time is over get nothing; one whose attempt is under way waits for its end.
    fn end_waits(&mut self) {
        let over: Vec<u32> = self.waiting.deadlines.range(..=(self.now, u32::MAX)).map(|(_, waiter)| *waiter).collect();
        for at in over {
            let Some(waiter) = self.waiting.waiters.get(at as usize) else { continue };
            if waiter.asked.is_none() {
                let nothing = Words::nothing(waiter.proto);
                self.answer_waiter(at, nothing);
            }
        }
        self.work();
        self.set_alarm();
    }

    /// Ticks are too coarse for short timeouts.
    fn set_alarm(&mut self) {
        let next = self.waiting.deadlines.range((self.now + 1, 0)..).next();
        let Some((at, _)) = next.filter(|(at, _)| self.waiting.alarm == 0 || *at < self.waiting.alarm) else { return };
        self.waiting.alarm = *at;
        self.orders.push_back(Order::Alarm { at: *at });
    }

    /// Sends elements back whose shard was away.
    fn send_returns(&mut self) {
        for back in std::mem::take(&mut self.waiting.returns) {
            self.give_back(back);
        }
    }

    /// Sends what undoes an attempt, or keeps it for later.
    fn give_back(&mut self, back: Return) {
        let conn = self.shared(back.shard, Proto::Resp2, back.db);
        if conn == NONE {
            return self.keep_return(back);
        }
        let frame = back.frames[back.round].clone();
        let spot = back.spot;
        let question = self.waiting.questions.insert(Question::Return(back)) as u32;
        if let Some(spot) = self.waiting.spots.get_mut(spot as usize) {
            spot.busy.get_or_insert(question);
        }
        self.ask_server(conn, question, 1, &frame);
    }

    fn keep_return(&mut self, back: Return) {
        if self.waiting.returns.len() < RETURNS_MAX {
            return self.waiting.returns.push_back(back);
        }
        let shard = self.topology.shard(back.shard);
        self.tell_once(format!("elements that clients had left behind could not be put back: shard {}", shard.name));
    }

    /// What a server said when elements came back.
    fn returned(&mut self, question: u32, mut back: Return, reply: &[u8]) {
        let spot = back.spot;
        if let Some(known) = self.waiting.spots.get_mut(spot as usize)
            && known.busy == Some(question)
        {
            known.busy = None;
            known.again = false;
            known.state = Turn::Try;
            self.waiting.agenda.push_back(spot);
        }
        if reply.first() != Some(&b'-') {
            return;
        }
        if reply.windows(9).any(|word| word == b"WRONGTYPE") {
            let name = self.topology.shard(back.shard).name.clone();
            return self.tell_once(format!(
                "an element that a client had left behind was not put back: its key has another type now, on shard {name}"
            ));
        }
        // A user who may run no scripts may push; a server that is busy or loading is asked again.
        back.round += 1;
        if back.round < back.frames.len() {
            return self.give_back(back);
        }
        back.round = 0;
        self.keep_return(back);
    }

    /// Queues a question on a connection.
    fn ask_server(&mut self, conn: u32, question: u32, part: u16, frame: &[u8]) {
        self.expect(conn, super::conn::WAITER, question, part, false);
        self.conns[conn as usize].out.push(frame);
    }

    /// A reply to one of the questions.
    #[cold]
    pub(super) fn heard(&mut self, question: u32, part: u16, reply: &[u8]) {
        if part == 0 {
            if let Some(Question::Try(attempt)) = self.waiting.questions.get_mut(question as usize) {
                attempt.of_type = reply.to_vec();
            }
            return;
        }
        match self.waiting.questions.try_remove(question as usize) {
            Some(Question::Try(attempt)) => self.tried(question, &attempt, reply),
            Some(Question::Arm(name)) => self.armed(&name, reply),
            Some(Question::Sweep(names)) => self.swept(names, reply),
            Some(Question::Track) => self.tracking_answered(reply),
            Some(Question::Return(back)) => self.returned(question, back, reply),
            None => {}
        }
        self.work();
    }

    /// The connection broke; `sent`: the question had left.
    #[cold]
    pub(super) fn unheard(&mut self, question: u32, part: u16, sent: bool, text: &str) {
        if part == 0 {
            return;
        }
        match self.waiting.questions.try_remove(question as usize) {
            Some(Question::Try(attempt)) => self.try_lost(question, &attempt, sent, text),
            // Its spots are told when the line is lost as a whole.
            Some(Question::Arm(_) | Question::Sweep(_) | Question::Track) | None => {}
            Some(Question::Return(back)) => {
                if let Some(spot) = self.waiting.spots.get_mut(back.spot as usize)
                    && spot.busy == Some(question)
                {
                    spot.busy = None;
                    self.waiting.agenda.push_back(back.spot);
                }
                if sent {
                    let name = self.topology.shard(back.shard).name.clone();
                    self.tell_once(format!("the connection broke while elements were put back on shard {name}"));
                } else {
                    self.keep_return(back);
                }
            }
        }
        self.work();
    }

    /// A shared connection to the shard is there (again).
    #[cold]
    pub(super) fn waiting_up(&mut self, shard: ShardId) {
        if self.waiting.names.is_empty() && self.waiting.returns.is_empty() {
            return;
        }
        let spots = self.waiting.spots.iter().filter(|(_, spot)| spot.shard == shard && spot.state == Turn::Try);
        let spots: Vec<u32> = spots.map(|(at, _)| at as u32).collect();
        self.waiting.agenda.extend(spots);
        self.send_returns();
        self.work();
    }

    fn is_line_up(&self, shard: ShardId) -> bool {
        let conn = self.waiting.lines.get(shard.0 as usize).and_then(|conn| self.conns.get(*conn as usize));
        conn.is_some_and(|conn| conn.link == Link::Up)
    }

    /// Attempts that nobody waits for any more, and elements on their way back.
    pub(super) fn unsettled(&self) -> usize {
        let left = |question: &Question| match question {
            Question::Try(attempt) => attempt.waiter.is_none(),
            Question::Return(_) => true,
            _ => false,
        };
        self.waiting.returns.len() + self.waiting.questions.iter().filter(|(_, question)| left(question)).count()
    }

    fn lost_text(&self, shard: ShardId, trouble: &str) -> Vec<u8> {
        error(&failure::lost(self.topology.shard(shard), trouble))
    }
}

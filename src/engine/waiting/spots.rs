//! The queues: who is tried next, and what an attempt tells the others.

use super::words::{Form, Words, error, is_nil};
use super::{Armed, Attempt, Name, Named, Place, Question, Return, Spot, Turn};
use crate::engine::conn::Link;
use crate::engine::{Engine, NONE, failure};

const GONE: &str = "UNBLOCKED the stream key no longer exists";
const NO_GROUP: &str = "NOGROUP the consumer group this client was blocked on no longer exists";

impl Engine {
    /// The spot for this place, made when there is none.
    pub(super) fn spot(&mut self, place: Place) -> u32 {
        if let Some(spot) = self.waiting.index.get(&place) {
            return *spot;
        }
        let shard = self.topology.shard_of(&place.name);
        let waiting = &mut self.waiting;
        let spot = Spot {
            place: place.clone(),
            shard,
            queue: std::collections::BTreeMap::new(),
            state: Turn::Try,
            busy: None,
            again: false,
            rich: false,
        };
        let at = waiting.spots.insert(spot) as u32;
        let named = waiting.names.entry(place.name.clone());
        named.or_insert_with(|| Named { shard, armed: Armed::No, spots: Vec::new() }).spots.push(at);
        waiting.index.insert(place, at);
        at
    }

    /// Nobody waits here and nothing is under way.
    fn drop_spot(&mut self, at: u32) {
        let waiting = &mut self.waiting;
        let Some(spot) = waiting.spots.try_remove(at as usize) else { return };
        waiting.index.remove(&spot.place);
        if let Some(named) = waiting.names.get_mut(&spot.place.name) {
            named.spots.retain(|known| *known != at);
            if named.spots.is_empty() {
                waiting.names.remove(&spot.place.name);
            }
        }
    }

    /// Goes on at every spot where something happened.
    pub(super) fn work(&mut self) {
        while let Some(at) = self.waiting.agenda.pop_front() {
            self.step(at);
        }
    }

    fn step(&mut self, at: u32) {
        let Some(spot) = self.waiting.spots.get(at as usize) else { return };
        if spot.busy.is_some() {
            return;
        }
        if spot.queue.is_empty() {
            return self.drop_spot(at);
        }
        match spot.state.clone() {
            Turn::Try => self.attempt(at),
            Turn::Arm => {
                let name = spot.place.name.clone();
                if !self.is_line_up(spot.shard) && self.has_fresh(at) {
                    // Whoever has not tried yet does not wait for that.
                    self.waiting.spots[at as usize].state = Turn::Try;
                    return self.attempt(at);
                }
                self.arm(&name);
            }
            Turn::Idle(wrong) => self.tell_fresh(at, wrong.as_deref()),
            Turn::Wait if self.has_fresh(at) => self.attempt(at),
            Turn::Wait => {}
        }
    }

    fn has_fresh(&self, at: u32) -> bool {
        self.waiting.spots[at as usize].queue.values().any(|(waiter, _)| self.is_fresh_at(*waiter, at))
    }

    /// The waiter's first look at this key is due.
    fn is_fresh_at(&self, waiter: u32, spot: u32) -> bool {
        let waiter = &self.waiting.waiters[waiter as usize];
        waiter.fresh.is_some_and(|key| waiter.spots.get(key) == Some(&spot))
    }

    /// The oldest waiter whose turn it can be, and which of its keys this is.
    fn turn(&self, at: u32) -> Option<(u32, usize)> {
        let may = |(waiter, _): &&(u32, usize)| {
            let known = &self.waiting.waiters[*waiter as usize];
            known.asked.is_none() && (known.fresh.is_none() || self.is_fresh_at(*waiter, at))
        };
        self.waiting.spots[at as usize].queue.values().find(may).copied()
    }

    /// Whoever's turn it is tries.
    fn attempt(&mut self, at: u32) {
        let Some((waiter, key)) = self.turn(at) else { return };
        let shard = self.waiting.spots[at as usize].shard;
        // When several of its keys may have something, the first one is wanted.
        let spots = &self.waiting.waiters[waiter as usize].spots;
        let ready = |spot: &&u32| {
            let known = &self.waiting.spots[**spot as usize];
            known.state == Turn::Try && known.busy.is_none() && self.turn(**spot).is_some_and(|turn| turn.0 == waiter)
        };
        if let Some(first) = spots.iter().take_while(|spot| **spot != at).find(ready).copied() {
            self.attempt(first);
            if self.waiting.waiters.get(waiter as usize).is_none_or(|waiter| waiter.asked.is_some()) {
                return;
            }
        }
        if self.pause.is_some() {
            return self.waiting.later.push(at);
        }
        let known = &self.waiting.waiters[waiter as usize];
        let (proto, db) = (known.proto, known.db);
        let words = known.words.clone();
        let conn = self.shared(shard, proto, db);
        if conn == NONE {
            // Who waits already goes on waiting, and is tried when the shard is back.
            let base = self.shards[shard.0 as usize].shared[0];
            let trouble = self.conns.get(base as usize).map_or("", |conn| conn.trouble.as_str());
            let text = error(&failure::down(self.topology.shard(shard), trouble));
            return self.tell_fresh(at, Some(&text));
        }
        if self.is_full(conn) {
            return self.waiting.later.push(at);
        }
        let frame = words.attempt(key);
        let name = words.keys[key].clone();
        let armed = self.waiting.names.get(&name).is_some_and(|named| named.armed == Armed::Yes);
        let form = words.form;
        let attempt = Attempt { spot: at, waiter: Some(waiter), key, armed, of_type: Vec::new(), words, proto };
        let question = self.waiting.questions.insert(Question::Try(attempt)) as u32;
        self.waiting.waiters[waiter as usize].asked = Some(question);
        let spot = &mut self.waiting.spots[at as usize];
        (spot.busy, spot.again) = (Some(question), false);
        if let Form::Group | Form::Move = form {
            let mut ask = Vec::new();
            crate::resp::request(&mut ask, &[b"TYPE", &*name]);
            self.ask_server(conn, question, 0, &ask);
        }
        self.ask_server(conn, question, 1, &frame);
    }

    /// What an attempt brought.
    pub(super) fn tried(&mut self, question: u32, attempt: &Attempt, reply: &[u8]) {
        let at = attempt.spot;
        let Some(spot) = self.waiting.spots.get_mut(at as usize) else { return };
        if spot.busy == Some(question) {
            spot.busy = None;
        }
        if let Some(waiter) = attempt.waiter.and_then(|waiter| self.waiting.waiters.get_mut(waiter as usize)) {
            waiter.asked = None;
        }
        self.waiting.agenda.push_back(at);
        let answer = &attempt.words.said(attempt.key, reply);
        if is_nil(answer) {
            return self.found_nothing(at, attempt, None);
        }
        if answer.first() == Some(&b'-') {
            return self.found_error(at, attempt, answer);
        }
        match attempt.waiter {
            Some(waiter) => {
                self.answer_waiter(waiter, answer);
                self.found_something(at);
            }
            None => {
                let name = &attempt.words.keys[attempt.key];
                let (shard, db) = (self.waiting.spots[at as usize].shard, self.waiting.spots[at as usize].place.db);
                match attempt.words.undo(name, answer) {
                    Some(frames) => self.give_back(Return { shard, db, spot: at, frames, round: 0 }),
                    None => self.found_something(at),
                }
            }
        }
    }

    /// Somebody was served: is there more?
    fn found_something(&mut self, at: u32) {
        let waiting = &mut self.waiting;
        let Some(spot) = waiting.spots.get_mut(at as usize) else { return };
        let armed = waiting.names.get(&spot.place.name).map_or(Armed::No, |named| named.armed);
        spot.state = if armed == Armed::Yes || spot.rich || spot.again { Turn::Try } else { Turn::Arm };
        spot.again = false;
    }

    /// Nothing was there for anybody at this spot; `wrong`: something of another type was.
    fn found_nothing(&mut self, at: u32, attempt: &Attempt, wrong: Option<&[u8]>) {
        let waiting = &mut self.waiting;
        let Some(spot) = waiting.spots.get_mut(at as usize) else { return };
        let armed = waiting.names.get(&spot.place.name).map_or(Armed::No, |named| named.armed);
        spot.rich = false;
        spot.state = match armed {
            _ if spot.again => Turn::Try,
            Armed::Yes if attempt.armed => Turn::Idle(wrong.map(<[u8]>::to_vec)),
            // It was armed while the attempt was under way: once more.
            Armed::Yes => Turn::Try,
            Armed::No | Armed::Asked => Turn::Arm,
        };
        spot.again = false;
        self.tell_fresh(at, wrong);
        self.after_attempt(attempt);
    }

    fn found_error(&mut self, at: u32, attempt: &Attempt, answer: &[u8]) {
        let of_type = attempt.of_type.as_slice();
        let fresh = attempt.waiter.is_some_and(|waiter| self.is_fresh_at(waiter, at));
        let wrong = answer.starts_with(b"-WRONGTYPE");
        if let (Form::Group, Some(waiter), false) = (attempt.words.form, attempt.waiter, fresh)
            && (wrong || answer.starts_with(b"-NOGROUP"))
        {
            let text = error(if of_type == b"+stream\r\n" { NO_GROUP } else { GONE });
            self.answer_waiter(waiter, &text);
            return self.found_something(at);
        }
        if let (Form::Move, Some(waiter)) = (attempt.words.form, attempt.waiter)
            && of_type == b"+list\r\n"
        {
            // The other list is none: that is this client's affair.
            self.answer_waiter(waiter, answer);
            return self.found_something(at);
        }
        if wrong {
            return self.found_nothing(at, attempt, Some(answer));
        }
        // Busy, loading, out of memory: those who wait go on waiting, and it is tried again.
        if let Some(spot) = self.waiting.spots.get_mut(at as usize) {
            spot.state = Turn::Wait;
            self.waiting.retries.push(at);
        }
        self.tell_fresh(at, Some(answer));
        self.after_attempt(attempt);
    }

    /// The waiter is free for its other keys, or has waited long enough.
    fn after_attempt(&mut self, attempt: &Attempt) {
        let Some(at) = attempt.waiter else { return };
        let Some(waiter) = self.waiting.waiters.get(at as usize) else { return };
        if waiter.deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.answer_waiter(at, Words::nothing(attempt.proto));
        }
        let spots = waiter.spots.clone();
        self.waiting.agenda.extend(spots);
    }

    /// Those who look at this key for the first time go on to their next one, or get the error.
    fn tell_fresh(&mut self, at: u32, wrong: Option<&[u8]>) {
        let Some(spot) = self.waiting.spots.get(at as usize) else { return };
        let fresh: Vec<u32> =
            spot.queue.values().map(|(waiter, _)| *waiter).filter(|waiter| self.is_fresh_at(*waiter, at)).collect();
        for waiter in fresh {
            if let Some(wrong) = wrong {
                self.answer_waiter(waiter, wrong);
                continue;
            }
            let known = &mut self.waiting.waiters[waiter as usize];
            let next = known.fresh.map_or(0, |key| key + 1);
            known.fresh = (next < known.spots.len()).then_some(next);
            let spots = known.spots.clone();
            self.waiting.agenda.extend(spots);
        }
    }

    /// The connection broke with an attempt under way.
    pub(super) fn try_lost(&mut self, question: u32, attempt: &Attempt, sent: bool, trouble: &str) {
        let at = attempt.spot;
        let Some(spot) = self.waiting.spots.get_mut(at as usize) else { return };
        let shard = spot.shard;
        if spot.busy == Some(question) {
            spot.busy = None;
        }
        spot.state = Turn::Try;
        self.waiting.agenda.push_back(at);
        let Some(waiter) = attempt.waiter else { return };
        if let Some(waiter) = self.waiting.waiters.get_mut(waiter as usize) {
            waiter.asked = None;
        }
        // A read takes nothing: it is simply done again.
        if sent && attempt.words.form != Form::Read {
            let text = self.lost_text(shard, trouble);
            return self.answer_waiter(waiter, &text);
        }
        self.after_attempt(attempt);
    }

    /// The name's next change will be heard of, once the shard has answered.
    pub(super) fn arm(&mut self, name: &Name) {
        let Some(named) = self.waiting.names.get_mut(name) else { return };
        if named.armed != Armed::No {
            return;
        }
        let conn = self.waiting.lines.get(named.shard.0 as usize).copied().unwrap_or(NONE);
        if self.conns.get(conn as usize).is_none_or(|conn| conn.link != Link::Up) {
            return;
        }
        named.armed = Armed::Asked;
        let mut frame = Vec::new();
        crate::resp::request(&mut frame, &[b"EXISTS", &**name]);
        let question = self.waiting.questions.insert(Question::Arm(name.clone())) as u32;
        self.ask_server(conn, question, 1, &frame);
    }

    /// The shard will tell; what it says of the key concerns database 0.
    pub(super) fn armed(&mut self, name: &Name, reply: &[u8]) {
        let waiting = &mut self.waiting;
        let Some(named) = waiting.names.get_mut(name) else { return };
        let refused = reply.first() == Some(&b'-');
        named.armed = if refused { Armed::No } else { Armed::Yes };
        for at in named.spots.clone() {
            let Some(spot) = waiting.spots.get_mut(at as usize) else { continue };
            if refused {
                waiting.retries.push(at);
                continue;
            }
            let missing = spot.place.db == 0 && reply == b":0\r\n";
            spot.rich = spot.place.db == 0 && !missing;
            match (&spot.state, spot.busy) {
                (_, Some(_)) => spot.again = true,
                (Turn::Arm, None) if missing && !matches!(spot.place.kind, super::Kind::Group(_)) => {
                    spot.state = Turn::Idle(None);
                }
                (Turn::Arm, None) => spot.state = Turn::Try,
                _ => {}
            }
            waiting.agenda.push_back(at);
        }
    }

    /// Something about the key changed, in some database.
    pub(super) fn changed(&mut self, name: &[u8]) {
        let waiting = &mut self.waiting;
        let Some(named) = waiting.names.get_mut(name) else { return };
        if named.armed == Armed::Yes {
            named.armed = Armed::No;
        }
        for at in named.spots.clone() {
            self.hint(at);
        }
    }

    /// There may be something at the spot.
    pub(super) fn hint(&mut self, at: u32) {
        let Some(spot) = self.waiting.spots.get_mut(at as usize) else { return };
        if spot.busy.is_some() {
            spot.again = true;
        } else {
            spot.state = Turn::Try;
        }
        self.waiting.agenda.push_back(at);
    }
}

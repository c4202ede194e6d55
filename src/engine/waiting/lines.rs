//! The tracking connections: one per shard, on which the server says which of the keys that were
//! asked for has changed. It says so once, without the database; a key that changed is asked for
//! again. What fires nothing (SWAPDB, XGROUP DESTROY) is found by a look once a second.

use std::ops::Bound;

use super::words::body;
use super::{Armed, Kind, Name, Question, Turn};
use crate::engine::conn::Use;
use crate::engine::{Engine, NONE, TOLD_MAX};
use crate::resp::{Proto, elements, request};
use crate::topology::ShardId;

/// Names that one look is about; with more of them the looks go round.
const SWEEP_NAMES: usize = 256;
/// Attempts that one look may make without having asked.
const SWEEP_TRIES: usize = 32;

impl Engine {
    /// A connection to every shard, when somebody waits for the first time.
    pub(super) fn open_tracking(&mut self) {
        for index in self.waiting.lines.len()..self.shards.len() {
            let conn = self.conn_new(ShardId(index as u16), Proto::Resp3, 0, Use::Track);
            self.waiting.lines.push(conn);
        }
    }

    /// The connection is greeted.
    #[cold]
    pub(in crate::engine) fn track_up(&mut self, shard: ShardId) {
        let conn = self.waiting.lines.get(shard.0 as usize).copied().unwrap_or(NONE);
        if conn == NONE {
            return;
        }
        let question = self.waiting.questions.insert(Question::Track) as u32;
        let mut frame = Vec::new();
        request(&mut frame, &["CLIENT", "TRACKING", "ON"]);
        self.ask_server(conn, question, 1, &frame);
        // Nobody knows what happened meanwhile.
        self.changed_all(shard);
        self.work();
    }

    /// The connection broke: nothing is heard of until it is back.
    #[cold]
    pub(in crate::engine) fn track_lost(&mut self, shard: ShardId) {
        let waiting = &mut self.waiting;
        for named in waiting.names.values_mut().filter(|named| named.shard == shard) {
            named.armed = Armed::No;
            for at in &named.spots {
                let Some(spot) = waiting.spots.get_mut(*at as usize) else { continue };
                if let Turn::Idle(_) = spot.state {
                    spot.state = Turn::Arm;
                }
                waiting.agenda.push_back(*at);
            }
        }
        self.work();
    }

    /// What CLIENT TRACKING ON was answered.
    pub(super) fn tracking_answered(&mut self, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            let said = String::from_utf8_lossy(body(reply)).into_owned();
            self.tell_once(format!(
                "a shard refuses CLIENT TRACKING ('{said}'): blocked clients are served once a second"
            ));
        }
    }

    /// A message of the tracking connection.
    #[cold]
    pub(in crate::engine) fn invalidated(&mut self, shard: ShardId, message: &[u8]) {
        let mut fields = elements(message);
        if fields.next().map(body) != Some(b"invalidate") {
            return;
        }
        let names = fields.next().unwrap_or_default();
        if names.first() == Some(&b'*') {
            for name in elements(names) {
                self.changed(body(name));
            }
        } else {
            self.changed_all(shard);
        }
        self.work();
    }

    /// All keys of the shard may have changed.
    fn changed_all(&mut self, shard: ShardId) {
        let here = self.waiting.names.iter().filter(|(_, named)| named.shard == shard);
        let names: Vec<Name> = here.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.changed(&name);
        }
    }

    /// Looks at some of the names, a few requests in all. Names of database 0 for which nobody reads
    /// streams are asked for together, which arms them as well; the others are tried.
    pub(super) fn sweep(&mut self) {
        let from = self.waiting.sweep_from.take().map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.waiting.names.range::<Name, _>((from, Bound::Unbounded));
        let names: Vec<Name> = range.take(SWEEP_NAMES).map(|(name, _)| name.clone()).collect();
        if names.len() == SWEEP_NAMES {
            self.waiting.sweep_from = names.last().cloned();
        }
        let mut together: Vec<Vec<Name>> = vec![Vec::new(); self.shards.len()];
        let mut tries = 0;
        for name in names {
            let Some(named) = self.waiting.names.get(&name) else { continue };
            let spots = named.spots.clone();
            let place = |at: &u32| self.waiting.spots.get(*at as usize).map(|spot| &spot.place);
            let asks = |at: &u32| {
                place(at).is_some_and(|place| place.db == 0 && matches!(place.kind, Kind::List | Kind::Sorted))
            };
            let shard = named.shard;
            let (asked, mut tried): (Vec<u32>, Vec<u32>) = spots.iter().partition(|at| asks(at));
            // Their arming is not answered: nobody knows whether a change would be heard of.
            let unheard = |at: &&u32| self.waiting.spots.get(**at as usize).is_some_and(|spot| spot.state == Turn::Arm);
            tried.extend(asked.iter().filter(unheard));
            if !asked.is_empty() && self.is_line_up(shard) {
                together[shard.0 as usize].push(name);
            } else {
                self.hint_some(&asked, &mut tries);
            }
            self.hint_some(&tried, &mut tries);
        }
        for (shard, names) in together.into_iter().enumerate() {
            if names.is_empty() {
                continue;
            }
            let conn = self.waiting.lines[shard];
            let mut frame = Vec::new();
            let args: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(names.iter().map(|name| &**name)).collect();
            request(&mut frame, &args);
            let question = self.waiting.questions.insert(Question::Sweep(names)) as u32;
            self.ask_server(conn, question, 1, &frame);
        }
    }

    fn hint_some(&mut self, spots: &[u32], tries: &mut usize) {
        for at in spots {
            if *tries < SWEEP_TRIES {
                *tries += 1;
                self.hint(*at);
            }
        }
    }

    /// Some of the names are there: each is asked for by itself.
    pub(super) fn swept(&mut self, names: Vec<Name>, reply: &[u8]) {
        if reply == b":0\r\n" || reply.first() == Some(&b'-') {
            return;
        }
        for name in names {
            let Some(named) = self.waiting.names.get_mut(&name) else { continue };
            if named.armed == Armed::Yes {
                named.armed = Armed::No;
            }
            for at in named.spots.clone() {
                if let Some(spot) = self.waiting.spots.get_mut(at as usize)
                    && let Turn::Idle(_) = spot.state
                    && spot.busy.is_none()
                {
                    spot.state = Turn::Arm;
                    self.waiting.agenda.push_back(at);
                }
            }
        }
    }

    /// A line for the log, once.
    pub(in crate::engine) fn tell_once(&mut self, line: String) {
        if self.told.len() < TOLD_MAX && !self.told.contains(&line) {
            self.told.push(line.clone());
            self.news.push(line);
        }
    }
}

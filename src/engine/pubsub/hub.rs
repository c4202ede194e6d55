//! What one worker's clients are subscribed to, and what its connections to the servers have said.
//!
//! ```text
//! topics: channel -> its clients           one subscription upstream for all of them, on every shard
//! lines:  shard -> [asked, asked, ...]     each question has one reply, in order: positions say how far
//! queue:  waiting clients, oldest first    each with the position that every shard has to reach
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::glob;

/// A channel or a pattern.
pub(super) type Name = Arc<[u8]>;

/// Topics that one request subscribed a client to.
pub(in crate::engine) type Joined = Vec<(Kind, Name)>;

/// The three kinds of subscriptions; a kind's number is its place in [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// What a server calls a subscription, as a command and in its confirmation.
    pub(super) const fn joins(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    pub(super) const fn leaves(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }
}

/// What one client is subscribed to.
#[derive(Debug, Default)]
pub(in super::super) struct Subscriptions {
    pub(super) names: [BTreeSet<Name>; 3],
    /// Asked for and not confirmed to the client, oldest first: it gets no message of these yet.
    pub(super) pending: Joined,
    /// Confirmations of any kind that the client waits for.
    pub(in super::super) confirming: usize,
    /// Since when its output is over the soft limit.
    pub(super) slow_since: Option<u64>,
}

impl Subscriptions {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.names.iter().all(BTreeSet::is_empty)
    }

    /// How many channels, patterns and shard channels there are.
    pub(in super::super) fn sizes(&self) -> (usize, usize, usize) {
        (self.names[0].len(), self.names[1].len(), self.names[2].len())
    }

    /// What Redis counts in the confirmations of this kind.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.names[0].len() + self.names[1].len(),
            Kind::Shard => self.names[2].len(),
        }
    }

    /// What the oldest request subscribed to is confirmed, or refused.
    pub(super) fn settle(&mut self, joined: &Joined) {
        self.confirming = self.confirming.saturating_sub(1);
        self.pending.drain(..joined.len().min(self.pending.len()));
    }

    pub(super) fn awaits(&self, kind: Kind, name: &[u8]) -> bool {
        self.pending.iter().any(|(of, known)| *of == kind && **known == *name)
    }
}

/// A position that no line has reached: it is known when the connection is up.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// The connection to one shard.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) conn: u32,
    /// Questions whose replies are to come; what they subscribe to, if they do.
    pub(super) asked: VecDeque<Option<(Kind, Name)>>,
    /// Questions ever asked.
    pub(super) end: u64,
    /// When the oldest of `asked` could first have been answered.
    pub(super) since: u64,
    /// Once the replies got here the server has all that was wanted when it was connected.
    pub(super) restored: u64,
}

impl Line {
    /// Replies ever heard, or given up.
    pub(super) fn heard(&self) -> u64 {
        self.end - self.asked.len() as u64
    }

    pub(super) fn is_restored(&self) -> bool {
        self.heard() >= self.restored
    }
}

/// A client whose confirmation waits for the servers'.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) client: u32,
    pub(super) generation: u32,
    pub(super) seq: u32,
    pub(super) at: u64,
    /// All of the client's confirmations.
    pub(super) reply: Vec<u8>,
    /// By shard.
    pub(super) targets: Vec<u64>,
    /// What it is newly subscribed to.
    pub(super) added: Joined,
    /// A server's error, which is the answer then.
    pub(super) refused: Option<Vec<u8>>,
    /// Messages that came meanwhile from shards which were quicker than others: they count it among
    /// their receivers.
    pub(super) early: Vec<u8>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Hub {
    /// By shard; empty until somebody subscribes.
    pub(super) lines: Vec<Line>,
    /// The clients of each name, by [`Kind`]; never an empty list.
    pub(super) topics: [HashMap<Name, Vec<u32>>; 3],
    pub(super) queue: VecDeque<Waiting>,
    /// Confirmations that were ever taken from the queue: its front is this one's number.
    confirmed: u64,
    /// Clients with a message for somebody who waits, and the number that `confirmed` has to reach.
    pub(in super::super) publishers: HashMap<u32, u64>,
    /// Clients over the soft limit, and their generations.
    pub(super) slow: Vec<(u32, u32)>,
    /// Clients closed because they did not read.
    pub(super) dropped: u64,
}

impl Hub {
    pub(super) fn line_new(&mut self, conn: u32) {
        self.lines.push(Line { conn, asked: VecDeque::new(), end: 0, since: 0, restored: UNKNOWN });
    }

    /// Adds a client to a name; true when it is the first one.
    pub(super) fn join(&mut self, kind: Kind, name: &[u8], client: u32) -> (Name, bool) {
        let topics = &mut self.topics[kind as usize];
        let known = topics.get_key_value(name).map(|(name, _)| name.clone());
        let first = known.is_none();
        let name = known.unwrap_or_else(|| Name::from(name));
        topics.entry(name.clone()).or_default().push(client);
        (name, first)
    }

    /// Takes a client from a name; true when it was the last one.
    pub(super) fn leave(&mut self, kind: Kind, name: &[u8], client: u32) -> bool {
        let topics = &mut self.topics[kind as usize];
        let Some(members) = topics.get_mut(name) else { return false };
        if let Some(at) = members.iter().position(|member| *member == client) {
            members.remove(at);
        }
        if members.is_empty() {
            topics.remove(name);
            return true;
        }
        false
    }

    /// The oldest waiting client, if every shard got as far as it needs.
    pub(super) fn next_ready(&mut self) -> Option<Waiting> {
        let front = self.queue.front()?;
        let ready = front.targets.iter().zip(&self.lines).all(|(target, line)| line.heard() >= *target);
        if ready { self.pop() } else { None }
    }

    /// The oldest waiting client, whom nobody lets wait any longer.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        self.confirmed += u64::from(!self.queue.is_empty());
        self.queue.pop_front()
    }

    /// Whether a client's message has to wait for subscribers that asked before it came.
    pub(super) fn must_wait(&mut self, client: u32, kind: Kind, channel: &[u8]) -> bool {
        if self.queue.is_empty() && self.publishers.is_empty() {
            return false;
        }
        let until = self.publishers.get(&client).copied().or_else(|| {
            let hears = |(of, name): &(Kind, Name)| match of {
                Kind::Pattern => kind == Kind::Channel && glob::matches(name, channel),
                _ => *of == kind && **name == *channel,
            };
            let last = self.queue.iter().rposition(|waiting| waiting.added.iter().any(hears))?;
            Some(self.confirmed + last as u64 + 1)
        });
        match until {
            Some(until) if until > self.confirmed => {
                self.publishers.insert(client, until);
                true
            }
            _ => {
                self.publishers.remove(&client);
                false
            }
        }
    }

    /// Clients whose messages need not wait any longer.
    pub(super) fn released(&self) -> impl Iterator<Item = u32> + '_ {
        self.publishers.iter().filter(|(_, until)| **until <= self.confirmed).map(|(client, _)| *client)
    }

    /// The shard's connection was lost: nobody waits for what it was asked.
    pub(super) fn lost(&mut self, shard: usize) {
        let line = &mut self.lines[shard];
        line.asked.clear();
        line.restored = UNKNOWN;
        for waiting in &mut self.queue {
            waiting.targets[shard] = 0;
        }
    }

    /// The shard's connection is up and was asked for everything again.
    pub(super) fn restored(&mut self, shard: usize) {
        let line = &mut self.lines[shard];
        line.restored = line.end;
        for waiting in &mut self.queue {
            let target = &mut waiting.targets[shard];
            *target = if *target == UNKNOWN { line.end } else { *target };
        }
    }

    /// A server refused a subscription: whoever waits for it is told.
    pub(super) fn refused(&mut self, kind: Kind, name: &Name, error: &[u8]) {
        for waiting in &mut self.queue {
            if waiting.added.iter().any(|(of, known)| *of == kind && known == name) {
                waiting.refused.get_or_insert_with(|| error.to_vec());
            }
        }
    }

    pub(super) fn members(&self, kind: Kind, name: &[u8]) -> usize {
        self.topics[kind as usize].get(name).map_or(0, Vec::len)
    }

    /// What is to be added to a server's number of subscribers of one name: this worker is one of them
    /// there, and stands for all of its clients here.
    pub(super) fn own(&self, kind: Kind, name: &[u8]) -> i64 {
        self.topics[kind as usize].get(name).map_or(0, |members| more(members))
    }

    /// The same for the receivers of a message.
    pub(super) fn correction(&self, kind: Kind, name: &[u8]) -> i64 {
        let own = self.own(kind, name);
        if kind != Kind::Channel {
            return own;
        }
        let patterns = self.topics[Kind::Pattern as usize].iter();
        own + patterns
            .filter(|(pattern, _)| glob::matches(pattern, name))
            .map(|(_, members)| more(members))
            .sum::<i64>()
    }
}

/// Clients beyond the one that the server knows of.
fn more(members: &[u32]) -> i64 {
    members.len() as i64 - 1
}

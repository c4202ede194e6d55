//! Who asked for what, which server did it, and what it said: the truth that clients' replies are
//! compared with. Each key of each request carries a token that no other has.

use std::collections::{HashMap, HashSet};

/// What a client asked for under one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    pub(crate) client: u64,
    pub(crate) resp3: bool,
    pub(crate) db: u32,
    /// The shard of its key, if it has one.
    pub(crate) shard: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    next: u64,
    issued: HashMap<u64, Issued>,
    /// What the client is to see for the token, once a server ran it.
    executed: HashMap<u64, Vec<u8>>,
    /// The client was told that these were not executed.
    never: HashSet<u64>,
    /// Of each of these lists of groups, at least one group was not executed.
    partly: Vec<Vec<Vec<u64>>>,
    /// Ran after a later request of the same client: right only if the client was told that it got lost.
    late: HashMap<u64, u64>,
    /// By client and shard: the latest token that ran.
    last: HashMap<(u64, usize), u64>,
    /// Of each of these lists all ran, or none.
    wholes: Vec<Vec<u64>>,
    /// Servers do what they are told: only clients go.
    pub(crate) reliable: bool,
    /// Elements that were put back.
    pub(crate) returned: u64,
    pub(crate) wrong: Vec<String>,
}

impl Ledger {
    pub(crate) fn issue(&mut self, issued: Issued) -> u64 {
        self.next += 1;
        self.issued.insert(self.next, issued);
        self.next
    }

    pub(crate) fn blame(&mut self, what: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }

    pub(crate) fn client_of(&self, token: u64) -> Option<u64> {
        self.issued.get(&token).map(|issued| issued.client)
    }

    pub(crate) fn shard_of(&self, token: u64) -> Option<usize> {
        self.issued.get(&token).and_then(|issued| issued.shard)
    }

    /// A server ran `token`, over a connection of this kind, and says `reply`.
    pub(crate) fn execute(&mut self, token: u64, shard: usize, resp3: bool, db: u32, reply: &[u8]) {
        let Some(issued) = self.issued.get(&token).copied() else {
            return self.blame(format!("shard {shard} ran {token}, which nobody asked for"));
        };
        if issued.shard.is_some_and(|owner| owner != shard) {
            self.blame(format!("{token} ran on shard {shard}: {issued:?}"));
        }
        if issued.db != db || issued.resp3 != resp3 {
            self.blame(format!("{token} ran in database {db}, RESP3 {resp3}: {issued:?}"));
        }
        if self.executed.insert(token, reply.to_vec()).is_some() {
            self.blame(format!("{token} ran twice"));
        }
        if self.never.contains(&token) {
            self.blame(format!("{token} ran after its client was told that it did not"));
        }
        let last = self.last.entry((issued.client, shard)).or_insert(0);
        if *last > token {
            self.late.insert(token, *last);
        } else {
            *last = token;
        }
    }

    /// What was taken for `token` is back: it is as if it had never been asked.
    pub(crate) fn returned(&mut self, token: u64) {
        self.returned += 1;
        if self.executed.remove(&token).is_none() {
            self.blame(format!("{token} was put back, and had not been taken"));
        }
    }

    pub(crate) fn said(&self, token: u64) -> Option<&[u8]> {
        self.executed.get(&token).map(Vec::as_slice)
    }

    /// A client was told that nothing of this ran.
    pub(crate) fn not_executed(&mut self, tokens: &[u64]) {
        for token in tokens {
            self.never.insert(*token);
            if self.executed.contains_key(token) {
                self.blame(format!("{token} ran, and its client was told that it did not"));
            }
        }
    }

    /// A client was told that at least one of these parts did not run.
    pub(crate) fn not_all_executed(&mut self, groups: Vec<Vec<u64>>) {
        self.partly.push(groups);
    }

    /// A client got the servers' own answer for these.
    pub(crate) fn answered(&mut self, tokens: &[u64]) {
        for token in tokens {
            if let Some(later) = self.late.get(token).copied() {
                let (this, that) = (self.issued.get(token), self.issued.get(&later));
                self.blame(format!("{token} ran after {later}, which was asked later: {this:?}, {that:?}"));
            }
        }
    }

    /// A transaction: while servers can be relied on it runs as a whole or not at all.
    pub(crate) fn whole(&mut self, tokens: Vec<u64>) {
        if self.reliable {
            self.wholes.push(tokens);
        }
    }

    /// What can only be said when everything is over.
    pub(crate) fn close(&mut self) {
        for tokens in std::mem::take(&mut self.wholes) {
            let (ran, not): (Vec<u64>, Vec<u64>) =
                tokens.into_iter().partition(|token| self.executed.contains_key(token));
            if !ran.is_empty() && !not.is_empty() {
                self.blame(format!("of a transaction {ran:?} ran and {not:?} did not"));
            }
        }
        for groups in std::mem::take(&mut self.partly) {
            if groups.iter().all(|group| group.iter().any(|token| self.executed.contains_key(token))) {
                self.blame(format!("every part of {groups:?} ran, and one was said not to"));
            }
        }
    }
}

/// The tokens in a request: digits behind a `#` in its arguments.
pub(crate) fn tokens(args: &[Vec<u8>]) -> Vec<u64> {
    args.iter().filter_map(|arg| token(arg)).collect()
}

pub(crate) fn token(arg: &[u8]) -> Option<u64> {
    let at = arg.iter().take(64).position(|byte| *byte == b'#')?;
    std::str::from_utf8(&arg[at + 1..]).ok()?.parse().ok()
}

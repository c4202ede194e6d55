//! What the proxy answers itself, for a SLOWLOG that holds everything (`slowlog-log-slower-than 0`): no
//! server sees it, and nothing of it takes longer than that.

use std::collections::VecDeque;

use super::Engine;
use super::conn::NOBODY;
use super::request::Request;
use crate::command::Local;
use crate::resp::{Args, Proto, Reply, integer};

/// Entries that are kept; no server keeps more unless it is told to.
const ENTRIES_MAX: usize = 128;
/// Redis' limits of what an entry shows.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;

/// This worker's own entries.
#[derive(Debug, Default)]
pub(super) struct OwnLog {
    /// Everything is logged.
    all: bool,
    number: i64,
    /// The newest first, each a frame as a server writes it.
    entries: VecDeque<Vec<u8>>,
}

impl OwnLog {
    /// All entries as one array.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Proto::Resp2);
        reply.array(self.entries.len());
        self.entries.iter().for_each(|entry| _ = reply.raw(entry));
        out
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// SLOWLOG RESET.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

impl Engine {
    /// CONFIG SET says how slow is slow; the other workers hear of it too.
    pub(super) fn learn_slowness(&mut self, request: &Request<'_>) {
        if self.told_of_slowness(request.args) && self.peers() > 0 {
            self.ask_peers(NOBODY, 0, 0, request.frame);
        }
    }

    /// Whether a CONFIG SET is about it.
    pub(super) fn told_of_slowness(&mut self, args: Args<'_>) -> bool {
        let mut named = (2..args.len()).step_by(2).filter(|at| args.is(*at, "slowlog-log-slower-than"));
        let Some(value) = named.next_back().and_then(|at| integer(args.at(at + 1))) else { return false };
        self.own_log.all = value == 0;
        true
    }

    /// The proxy answers this request itself.
    pub(super) fn log_own(&mut self, id: u32, what: Local, request: &Request<'_>) {
        // Passwords are shown to nobody.
        if !self.own_log.all || matches!(what, Local::Auth | Local::Hello) {
            return;
        }
        let Some(about) = self.clients.get(id as usize).map(|client| &client.about) else { return };
        let time = (self.options.epoch + self.now) / 1_000_000;
        let mut frame = Vec::new();
        let mut reply = Reply::new(&mut frame, Proto::Resp2);
        reply.array(6).integer(self.own_log.number).integer(time as i64).integer(0);
        let (words, count) = (request.args, request.args.len());
        reply.array(count.min(WORDS_MAX));
        for word in words.iter().take(if count > WORDS_MAX { WORDS_MAX - 1 } else { count }) {
            match word.len().checked_sub(WORD_BYTES_MAX) {
                None | Some(0) => reply.bulk(word),
                Some(more) => {
                    let rest = format!("... ({more} more bytes)");
                    reply.bulk([&word[..WORD_BYTES_MAX], rest.as_bytes()].concat())
                }
            };
        }
        if count > WORDS_MAX {
            reply.bulk(format!("... ({} more arguments)", count - WORDS_MAX + 1));
        }
        reply.bulk(about.peer.as_bytes()).bulk(&about.name);
        self.own_log.number += 1;
        self.own_log.entries.push_front(frame);
        self.own_log.entries.truncate(ENTRIES_MAX);
    }
}

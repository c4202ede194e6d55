//! Functions on a shard that came back without them: restored from another shard before they are used.
//!
//! ```text
//! first FCALL or FUNCTION since the shard's connections broke
//!   -> FUNCTION LIST there -> something: on it goes
//!                          '> nothing: FUNCTION DUMP of one shard after the other -> FUNCTION RESTORE
//! ```
//!
//! Nothing is asked while nobody uses functions. A list that is not empty is never touched, and what is
//! restored replaces nothing (APPEND, a server's default).

use std::mem;

use super::client::Park;
use super::conn::ENGINE;
use super::request::Flow;
use super::waiting::body;
use super::{Engine, NONE};
use crate::command::Command;
use crate::resp::{Proto, request};
use crate::topology::ShardId;

/// Marks the engine's questions about functions, as the part that their answer is.
pub(super) const LIST: u16 = 2;
const DUMP: u16 = 3;
const RESTORE: u16 = 4;

/// A payload without functions: the version and the checksum that end every one.
const EMPTY_PAYLOAD_BYTES: usize = 10;

/// What the engine knows of a shard's functions.
#[derive(Debug, Default)]
pub(super) struct Functions {
    state: Known,
    /// Clients whose next request waits until it is known.
    waiters: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// It may have come back without them.
    #[default]
    No,
    Asked,
    Yes,
}

impl Functions {
    /// The server is, or may be, another one than before.
    pub(super) fn forget(&mut self) {
        if self.state == Known::Yes {
            self.state = Known::No;
        }
    }
}

/// Whether the command finds, or leaves, something else on a shard that lost its functions.
pub(super) fn uses_functions(row: &Command) -> bool {
    row.name.starts_with("fcall") || row.name.starts_with("function|") && row.name != "function|stats"
}

impl Engine {
    /// The client waits until each of the shards has its functions; None: all do, as far as can be told.
    pub(super) fn functions_first(&mut self, id: u32, shards: impl Iterator<Item = ShardId>) -> Option<Flow> {
        if self.shards.len() == 1 {
            return None;
        }
        for shard in shards {
            if self.shards[shard.0 as usize].functions.state == Known::No {
                self.ask_functions(shard, shard, LIST, &[b"FUNCTION", b"LIST"]);
            }
            let functions = &mut self.shards[shard.0 as usize].functions;
            if functions.state == Known::Asked {
                functions.waiters.push((id, self.clients[id as usize].generation));
                return Some(Flow::Parked(Park::Room));
            }
        }
        None
    }

    /// Asks `of` on behalf of `shard`; whether it could be asked.
    fn ask_functions(&mut self, shard: ShardId, of: ShardId, part: u16, words: &[&[u8]]) -> bool {
        let conn = self.shared(of, Proto::Resp2, 0);
        if conn == NONE || self.is_full(conn) {
            return false;
        }
        self.expect(conn, ENGINE, u32::from(shard.0), part, part == RESTORE);
        self.conns[conn as usize].out.write(|out| request(out, words));
        self.shards[shard.0 as usize].functions.state = Known::Asked;
        true
    }

    /// What `of` answered on behalf of `shard`.
    pub(super) fn told_of_functions(&mut self, shard: ShardId, of: ShardId, part: u16, reply: &[u8]) {
        let empty = match part {
            LIST => reply.starts_with(b"*0"),
            DUMP => !reply.starts_with(b"$") || body(reply).len() <= EMPTY_PAYLOAD_BYTES,
            _ => false,
        };
        let asked = match part {
            LIST if empty => self.dump_functions(shard, 0),
            DUMP if empty => self.dump_functions(shard, of.0 + 1),
            DUMP => self.ask_functions(shard, shard, RESTORE, &[b"FUNCTION", b"RESTORE", body(reply)]),
            _ => false,
        };
        if asked {
            return;
        }
        if part == RESTORE {
            self.restored_functions(shard, reply);
        }
        let lost = reply.starts_with(b"-SHARDLOST") || reply.starts_with(b"-SHARDDOWN");
        let functions = &mut self.shards[shard.0 as usize].functions;
        functions.state = if lost && shard == of { Known::No } else { Known::Yes };
        let mut waiters = mem::take(&mut functions.waiters);
        self.resume.append(&mut waiters);
    }

    /// Asks the next shard that can be asked, from number `from` on.
    fn dump_functions(&mut self, shard: ShardId, from: u16) -> bool {
        let mut others = (from..self.shards.len() as u16).map(ShardId).filter(|other| *other != shard);
        others.any(|other| self.ask_functions(shard, other, DUMP, &[b"FUNCTION", b"DUMP"]))
    }

    fn restored_functions(&mut self, shard: ShardId, reply: &[u8]) {
        let name = self.topology.shard(shard).name.clone();
        match reply.first() {
            Some(b'+') => {
                self.tell_once(format!("shard {name} had lost its functions: they were restored from another"));
            }
            // Another worker was faster.
            _ if reply.windows(14).any(|words| words == b"already exists") => {}
            _ => {
                let said = String::from_utf8_lossy(body(reply)).into_owned();
                self.tell_once(format!("shard {name} has lost its functions and does not take them back ('{said}')"));
            }
        }
    }
}

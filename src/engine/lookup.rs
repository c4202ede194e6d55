//! Commands that the table does not know: a module's, or a newer server's. The home shard is asked
//! what they are, and while it answers the client's next request waits.
//!
//! ```text
//! unknown name -> cached? -- no --> COMMAND INFO name -> home shard    (one question per name)
//!                    |                                       |
//!                    v                                       v
//!        routed by its keys, or refused <---- cached for a minute, waiting clients resumed
//! ```

mod spec;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::Bytes;

use super::client::End;
use super::conn::ENGINE;
use super::request::{Flow, Request};
use super::session::Place;
use super::{Engine, NONE, Order, Park, failure};
use crate::command::{self, Class, Command, CommandId, Flags, Keys, Route};
use crate::resp::{Args, Proto, elements, request};
use crate::route::{self, Refusal};
use spec::{Foreign, Positions};

/// Names that are remembered, known to the servers or not.
const NAMES_MAX: usize = 256;
/// Longer names are no command's.
const NAME_BYTES_MAX: usize = 64;
/// How long an answer counts.
const FRESH_US: u64 = 60_000_000;
/// How long it counts that the home shard could not say.
const FAILED_US: u64 = 1_000_000;

/// Rows that stand for commands without one; only their flags and their class are looked at.
static READ: Command = foreign_row(Flags::READONLY);
static WRITE: Command = foreign_row(Flags::WRITE);

/// What is known of names that the table does not have.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    names: HashMap<Vec<u8>, Entry>,
    /// The number of the next question.
    next: u32,
}

#[derive(Debug)]
struct Entry {
    /// When it was asked or answered.
    at: u64,
    known: Known,
}

#[derive(Clone, Debug)]
enum Known {
    /// The answer to question `seq` is awaited by these clients.
    Asked {
        seq: u32,
        waiters: Vec<(u32, u32)>,
    },
    /// No server's command.
    Absent,
    /// The home shard could not say, and this is the error that it gave.
    Failed(Vec<u8>),
    Foreign(Foreign),
}

impl Lookups {
    /// What is known of `name`, unless it is too old to count.
    fn find(&mut self, name: &[u8], now: u64) -> Option<&mut Known> {
        let entry = self.names.get_mut(name)?;
        let age = now.saturating_sub(entry.at);
        let fresh = match entry.known {
            Known::Asked { .. } => true,
            Known::Absent | Known::Foreign(_) => age < FRESH_US,
            Known::Failed(_) => age < FAILED_US,
        };
        fresh.then_some(&mut entry.known)
    }

    /// Room for one more name; false when every one that is remembered is being asked for.
    fn make_room(&mut self) -> bool {
        if self.names.len() < NAMES_MAX {
            return true;
        }
        let settled = self.names.iter().filter(|(_, entry)| !matches!(entry.known, Known::Asked { .. }));
        let oldest = settled.min_by_key(|(_, entry)| entry.at).map(|(name, _)| name.clone());
        oldest.is_some_and(|name| self.names.remove(&name).is_some())
    }
}

impl Engine {
    /// A request that names no row, or one that does not take so many arguments. As in Redis, what is
    /// wrong with a request is said even to clients that have not logged in.
    #[cold]
    pub(super) fn unresolved(
        &mut self,
        id: u32,
        refusal: Refusal,
        frame: &[u8],
        owned: Option<&Bytes>,
        args: Args<'_>,
    ) -> Flow {
        if refusal == Refusal::Unknown && is_http(args.at(0)) {
            return self.cut_off(id);
        }
        let client = &mut self.clients[id as usize];
        client.last = super::client::NO_COMMAND;
        // CLIENT REPLY SKIP is about any next request.
        let skipped = client.session.as_mut().is_some_and(|session| std::mem::take(&mut session.skip));
        client.mute |= skipped;
        let flow = self.look_up(id, refusal, frame, owned, args);
        if skipped {
            let client = &mut self.clients[id as usize];
            client.mute = false;
            if flow == Flow::Taken {
                self.drop_plain_session(id);
            } else {
                client.session_mut().skip = true;
            }
        }
        flow
    }

    /// Closes a client at once, whatever it still waits for.
    fn cut_off(&mut self, id: u32) -> Flow {
        let client = &mut self.clients[id as usize];
        client.end = End::Closing;
        client.out.clear();
        self.orders.push_back(Order::CloseClient { client: id });
        Flow::Taken
    }

    fn look_up(&mut self, id: u32, refusal: Refusal, frame: &[u8], owned: Option<&Bytes>, args: Args<'_>) -> Flow {
        let name = match refusal {
            Refusal::Unknown => args.at(0).to_ascii_lowercase(),
            Refusal::UnknownSubcommand(parent) => {
                [command::row(parent).name.as_bytes(), b"|", &args.at(1).to_ascii_lowercase()].concat()
            }
            _ => return self.refuse(id, refusal, args),
        };
        // Servers look up `config|get` in one word, but do not take it so.
        let in_one = refusal == Refusal::Unknown && name.contains(&b'|');
        let short = name.len() <= NAME_BYTES_MAX && !name.is_empty();
        let plausible = short && name.iter().all(u8::is_ascii_graphic) && !in_one;
        let client = &self.clients[id as usize];
        if !plausible || !client.is_authenticated() {
            return self.refuse(id, refusal, args);
        }
        let waiter = (id, client.generation);
        match self.lookups.find(&name, self.now) {
            None => self.ask_home(id, name, refusal, args),
            Some(Known::Absent) => self.refuse(id, refusal, args),
            Some(Known::Failed(text)) => {
                let text = text.clone();
                self.answer_error(id, text)
            }
            Some(Known::Asked { waiters, .. }) => {
                waiters.push(waiter);
                Flow::Parked(Park::Held)
            }
            Some(Known::Foreign(foreign)) => {
                let foreign = foreign.clone();
                let row = if foreign.reads { &READ } else { &WRITE };
                let request = Request { frame, owned, args, id: CommandId(u16::MAX), row };
                self.foreign(id, &name, &foreign, &request)
            }
        }
    }

    /// Asks the home shard what `name` is. While that one is down nobody can say, so it is not said
    /// that the command is unknown.
    fn ask_home(&mut self, id: u32, name: Vec<u8>, refusal: Refusal, args: Args<'_>) -> Flow {
        let home = self.topology.home();
        let conn = self.shared(home, Proto::Resp2, 0);
        if conn == NONE {
            return self.answer_down(id, home, Class::Local);
        }
        if self.is_full(conn) {
            return self.wait_for(id, conn);
        }
        if !self.lookups.make_room() {
            return self.refuse(id, refusal, args);
        }
        let seq = self.lookups.next;
        self.lookups.next = seq.wrapping_add(1);
        self.expect(conn, ENGINE, seq, 0, false);
        self.conns[conn as usize].out.write(|out| request(out, &[b"COMMAND", &b"INFO"[..], &name]));
        let waiters = vec![(id, self.clients[id as usize].generation)];
        self.lookups.names.insert(name, Entry { at: self.now, known: Known::Asked { seq, waiters } });
        Flow::Parked(Park::Held)
    }

    /// The answer to question `seq`, or the error that stands for it.
    #[cold]
    pub(super) fn looked_up(&mut self, seq: u32, reply: &[u8]) {
        let asked = |entry: &&mut Entry| matches!(entry.known, Known::Asked { seq: this, .. } if this == seq);
        let Some(entry) = self.lookups.names.values_mut().find(asked) else { return };
        let known = match reply {
            [b'-', text @ ..] => {
                let text = text.strip_suffix(b"\r\n").unwrap_or(text);
                // The proxy's own errors speak of a command that may have run; the client's did not.
                let ours = text.starts_with(b"SHARD");
                let home = self.topology.shard(self.topology.home());
                let down = || failure::down(home, "it was asked what this command is and did not answer");
                Known::Failed(if ours { down().into_bytes() } else { text.to_vec() })
            }
            _ => elements(reply).next().and_then(Foreign::parse).map_or(Known::Absent, Known::Foreign),
        };
        entry.at = self.now;
        if let Known::Asked { mut waiters, .. } = std::mem::replace(&mut entry.known, known) {
            self.resume.append(&mut waiters);
        }
    }

    /// A command that the servers know.
    fn foreign(&mut self, id: u32, name: &[u8], foreign: &Foreign, request: &Request<'_>) -> Flow {
        let args = request.args;
        let shown = String::from_utf8_lossy(name);
        if !foreign.takes(args.len()) {
            return self.answer_error(id, format!("ERR wrong number of arguments for '{shown}' command"));
        }
        if self.unusual
            && let Some(flow) = self.held_back(id, request.row, request.args)
        {
            return flow;
        }
        self.seen(id, request, |engine| engine.foreign_placed(id, &shown, foreign, request))
    }

    /// The same, where its keys are.
    fn foreign_placed(&mut self, id: u32, shown: &str, foreign: &Foreign, request: &Request<'_>) -> Flow {
        let args = request.args;
        let mut keys = Vec::new();
        let shard = match foreign.keys(args, &mut keys) {
            // The request's own words are wrong: any server says how.
            Positions::Malformed => self.topology.home(),
            Positions::Unknown => {
                let text = format!(
                    "ERR '{shown}' does not say where its keys are, so its shard cannot be told: an admin sends it \
                     with RINGWAY SHARD <name> {}",
                    shown.to_uppercase().replace('|', " ")
                );
                return self.answer_error(id, text);
            }
            Positions::Known if keys.is_empty() => match self.keyless(shown) {
                Some(shard) => shard,
                None => {
                    let text = format!(
                        "ERR '{shown}' names no key, and one shard's answer could be partial: an admin sends it with \
                         RINGWAY SHARD <name> {}, or [commands] keyless names the shard that answers it",
                        shown.to_uppercase().replace('|', " ")
                    );
                    return self.answer_error(id, text);
                }
            },
            Positions::Known => match route::one_shard(args, &keys, &self.topology) {
                Ok(shard) => shard,
                Err(refusal) => return self.refuse(id, refusal, args),
            },
        };
        if let Some(reserved) = route::reserved(args, &keys) {
            return self.refuse(id, reserved, args);
        }
        let in_multi = self.clients[id as usize].session.as_ref().is_some_and(|session| session.multi.is_some());
        match () {
            () if in_multi && foreign.no_multi => self.answer_error(id, "ERR Command not allowed inside a transaction"),
            () if in_multi => {
                let key = keys.first().map_or(&[][..], |at| args.at(*at as usize));
                self.enqueue(id, Place::One(shard), key, &[], request)
            }
            () if foreign.blocks && !keys.is_empty() => self.block(id, &keys, request),
            () => self.forward(id, shard, request),
        }
    }

    /// The shard that the configuration names for a command without keys, or for its container.
    fn keyless(&self, name: &str) -> Option<crate::topology::ShardId> {
        let container = name.split('|').next().unwrap_or(name);
        self.options.keyless.get(name).or_else(|| self.options.keyless.get(container)).copied()
    }
}

const fn foreign_row(flags: Flags) -> Command {
    Command { name: "unknown", arity: -1, flags, keys: Keys::None, route: Route::Keys, children: &[] }
}

/// The first words of a browser's lines, which a page can make it send to any port: as in Redis, such a
/// client gets no answer.
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:")
}

//! CLIENT PAUSE, UNPAUSE and UNBLOCK: who may not go on, and who has waited enough.
//!
//! A paused client is not refused anything: its next request stays where it was received, in order,
//! and its socket is hardly read. The pause is this worker's.

use super::super::client::{NO_COMMAND, Park, State};
use super::super::conn::{Link, Use};
use super::super::request::{Flow, Request};

use super::super::{Engine, NONE};
use super::NO_INTEGER;
use crate::command::{Class, Command, CommandId, Flags, Route, Session as Verb};
use crate::resp::{Args, Proto, Reply, integer};

const NO_TIMEOUT: &str = "ERR timeout is not an integer or out of range";
const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
const NO_MODE: &str = "ERR CLIENT PAUSE mode must be WRITE or ALL";
const NO_REASON: &str = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";

/// CLIENT PAUSE is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Pause {
    /// When it ends, in microseconds of the worker's clock.
    until: u64,
    held: Held,
}

/// What a pause holds back; the later one holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Writes,
    All,
}

impl Engine {
    pub(super) fn client_pause(&mut self, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let held = match args.len() {
            3 => Held::All,
            4 if args.is(3, "all") => Held::All,
            4 if args.is(3, "write") => Held::Writes,
            4 => return Err(NO_MODE.into()),
            _ => return Err(wrong_use("PAUSE")),
        };
        let ms = integer(args.at(2)).ok_or(NO_TIMEOUT)?;
        let ms = u64::try_from(ms).map_err(|_| NEGATIVE_TIMEOUT)?;
        let until = self.now.saturating_add(ms.saturating_mul(1000));
        // As in Redis, a second pause never makes the first one weaker.
        self.pause = Some(match self.pause {
            None => Pause { until, held },
            Some(pause) => Pause { until: pause.until.max(until), held: pause.held.max(held) },
        });
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    /// Lets everybody go on.
    pub(super) fn end_pause(&mut self) {
        self.pause = None;
        self.resume.append(&mut self.held);
    }

    /// To be called with every tick.
    pub(in crate::engine) fn end_pause_in_time(&mut self) {
        if self.pause.is_some_and(|pause| self.now >= pause.until) {
            self.end_pause();
        }
    }

    /// Whether the client's next request waits for the pause's end.
    pub(in crate::engine) fn is_held(&self, id: u32) -> bool {
        self.pause.is_some() && self.held.iter().any(|held| *held == (id, self.clients[id as usize].generation))
    }

    /// While there is a pause: what becomes of a request that it concerns; None: carry on.
    #[cold]
    pub(in crate::engine) fn held_back(&mut self, id: u32, row: &Command) -> Option<Flow> {
        let pause = self.pause?;
        if self.now >= pause.until {
            self.end_pause();
            return None;
        }
        let client = &self.clients[id as usize];
        if !client.is_authenticated() {
            return None;
        }
        let writes = row.flags.has(Flags::WRITE) || row.flags.has(Flags::MAY_REPLICATE);
        let multi = client.session.as_ref().and_then(|session| session.multi.as_ref());
        let executes = row.route == Route::Session(Verb::Exec) && multi.is_some_and(|multi| multi.writes);
        if pause.held == Held::All || writes || executes {
            self.held.push((id, client.generation));
            return Some(Flow::Parked(Park::Held));
        }
        None
    }

    /// The server ends the wait of a blocked client: it alone knows whether an element is on its way
    /// to that client already, and which reply the command gives.
    pub(super) fn client_unblock(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let args = request.args;
        let reason = match args.len() {
            3 => "TIMEOUT",
            4 if args.is(3, "timeout") => "TIMEOUT",
            4 if args.is(3, "error") => "ERROR",
            4 => return self.answer_error(id, NO_REASON),
            _ => return self.answer_error(id, wrong_use("UNBLOCK")),
        };
        let Some(number) = integer(args.at(2)) else { return self.answer_error(id, NO_INTEGER) };
        if let Some(waiter) = self.waiting_client(number) {
            self.unblock_waiter(waiter, reason == "ERROR");
            return self.answer(id, |reply| _ = reply.integer(1));
        }
        let conn = self.blocked_conn(number);
        let Some(lease) = self.conns.get(conn as usize) else {
            return self.answer(id, |reply| _ = reply.integer(0));
        };
        let (shard, server_id) = (lease.shard, lease.server_id.to_string());
        if lease.link != Link::Up {
            // The command has not left yet, so nothing can be lost.
            self.give_up_wait(conn, reason == "ERROR");
            return self.answer(id, |reply| _ = reply.integer(1));
        }
        let client = &self.clients[id as usize];
        let shared = self.shared(shard, client.proto, client.db);
        if shared == NONE {
            return self.answer_down(id, shard, Class::Local);
        }
        if self.is_full(shared) {
            return self.wait_for(id, shared);
        }
        let seq = self.clients[id as usize].open(State::Wait, Class::Local, self.now);
        self.expect(shared, id, seq, 0, false);
        let words = ["CLIENT", "UNBLOCK", &server_id, reason];
        self.conns[shared as usize].out.write(|out| crate::resp::request(out, &words));
        Flow::Taken
    }

    /// Client `number`'s place among those that wait together.
    fn waiting_client(&self, number: i64) -> Option<u32> {
        let (_, client) = self.clients.iter().find(|(_, client)| client.about.id as i64 == number)?;
        client.session.as_ref().map(|session| session.waiting).filter(|waiting| *waiting != NONE)
    }

    /// The lease on which client `number` waits, or [`NONE`].
    fn blocked_conn(&self, number: i64) -> u32 {
        let client = self.clients.iter().find(|(_, client)| client.about.id as i64 == number);
        // WAIT is on every shard at once: no single one can end it.
        let every = |last: CommandId| last != NO_COMMAND && matches!(crate::command::row(last).route, Route::Every(_));
        let client = client.map(|(_, client)| client).filter(|client| !every(client.last));
        client.and_then(|client| client.session.as_ref()).map_or(NONE, |session| session.blocked)
    }

    /// Answers a command that waits for its lease to be connected, and closes the lease.
    fn give_up_wait(&mut self, conn: u32, error: bool) {
        let lease = &mut self.conns[conn as usize];
        let Use::Lease { client, .. } = lease.purpose else { return };
        let tags: Vec<_> = lease.fifo.iter().filter(|tag| tag.client == client).copied().collect();
        let Some(waiting) = self.clients.get(client as usize) else { return };
        let nil: &[u8] = if waiting.proto == Proto::Resp3 { b"_\r\n" } else { b"*-1\r\n" };
        let reply: &[u8] = if error { b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n" } else { nil };
        let watches = self.watched_conn(client) == conn;
        if watches {
            self.clients[client as usize].session_mut().lose_watch();
        }
        self.close_lease(conn);
        for tag in tags {
            self.complete(tag, super::super::client::Answer::Copied(reply));
        }
    }
}

fn wrong_use(subcommand: &str) -> Vec<u8> {
    format!("ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try CLIENT HELP.").into()
}

//! CLIENT PAUSE, UNPAUSE and UNBLOCK: who may not go on, and who has waited enough.
//!
//! A paused client is not refused anything: its next request stays where it was received, in order,
//! and its socket is hardly read.

use super::super::client::{NO_COMMAND, Park, State};
use super::super::conn::{ENGINE, Link, Use};
use super::super::merge::Kind;
use super::super::request::{Flow, Request};
use super::super::{Engine, NONE};
use super::NO_INTEGER;
use crate::command::{Class, Command, CommandId, Flags, Route, Session as Verb};
use crate::resp::{Args, Proto, Reply, elements, integer, request};

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

/// The functions that say of themselves that they write nothing: asked for once in a pause.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::engine) enum Readers {
    #[default]
    Unknown,
    Asked,
    Known(Vec<Vec<u8>>),
}

/// Marks the engine's question for them, as the part that the answer is.
pub(in crate::engine) const READERS: u16 = 5;

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
        self.look_for_unusual();
        Reply::new(out, Proto::Resp2).status("OK");
        Ok(())
    }

    /// Lets everybody go on.
    pub(super) fn end_pause(&mut self) {
        self.pause = None;
        self.readers = Readers::Unknown;
        self.look_for_unusual();
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
    pub(in crate::engine) fn held_back(&mut self, id: u32, row: &Command, args: Args<'_>) -> Option<Flow> {
        let pause = self.pause?;
        if self.now >= pause.until {
            self.end_pause();
            return None;
        }
        let client = &self.clients[id as usize];
        if !client.is_authenticated() {
            return None;
        }
        let writes = self.may_write(row, args);
        let multi = client.session.as_ref().and_then(|session| session.multi.as_ref());
        let executes = row.route == Route::Session(Verb::Exec) && multi.is_some_and(|multi| multi.writes);
        if pause.held == Held::All || writes || executes {
            let waiter = (id, client.generation);
            if row.name == "fcall" && self.readers == Readers::Unknown {
                self.ask_for_readers();
            }
            self.held.push(waiter);
            return Some(Flow::Parked(Park::Held));
        }
        None
    }

    /// Whether a request may change data: its row says so, or a script or a function of itself.
    pub(in crate::engine) fn may_write(&self, row: &Command, args: Args<'_>) -> bool {
        let reads = || match &self.readers {
            Readers::Known(names) if row.name == "fcall" => names.iter().any(|name| name == args.at(1)),
            _ => self.is_no_writes(row, args),
        };
        row.flags.has(Flags::WRITE) || (row.flags.has(Flags::MAY_REPLICATE) && !reads())
    }

    fn ask_for_readers(&mut self) {
        let conn = self.shared(self.topology.home(), Proto::Resp2, 0);
        if conn != NONE && !self.is_full(conn) {
            self.readers = Readers::Asked;
            self.expect(conn, ENGINE, 0, READERS, true);
            self.conns[conn as usize].out.write(|out| request(out, &["FUNCTION", "LIST"]));
        }
    }

    /// FUNCTION LIST was answered: whoever is held back is looked at again.
    pub(in crate::engine) fn told_of_readers(&mut self, reply: &[u8]) {
        if self.readers == Readers::Asked {
            self.readers = Readers::Known(readers(reply));
            self.resume.append(&mut self.held);
        }
    }

    /// The server ends the wait of a blocked client: it alone knows whether an element is on its way
    /// to that client already, and which reply the command gives.
    pub(super) fn client_unblock(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let seq = self.clients[id as usize].next_seq();
        let own = match self.unblock_here(request.args, id, seq) {
            Some(own) => own,
            // A server was asked, right behind this slot's number.
            None => {
                self.clients[id as usize].open(State::Wait, Class::Local, self.now);
                return Flow::Taken;
            }
        };
        match own.as_slice() {
            [b'-', text @ ..] => self.answer_error(id, text.strip_suffix(b"\r\n").unwrap_or(text)),
            b":0\r\n" if self.peers() > 0 => self.join_peers(id, Kind::Sum { total: 0 }, &own, request),
            _ => self.answer(id, |reply| _ = reply.raw(&own)),
        }
    }

    /// The reply, as far as this worker's clients are concerned; None: a server was asked, and its reply is for
    /// `client` and `seq`.
    pub(in crate::engine) fn unblock_here(&mut self, args: Args<'_>, client: u32, seq: u32) -> Option<Vec<u8>> {
        let error = |text: &[u8]| Some([b"-", text, b"\r\n"].concat());
        let reason = match args.len() {
            3 => "TIMEOUT",
            4 if args.is(3, "timeout") => "TIMEOUT",
            4 if args.is(3, "error") => "ERROR",
            4 => return error(NO_REASON.as_bytes()),
            _ => return error(&wrong_use("UNBLOCK")),
        };
        let Some(number) = integer(args.at(2)) else { return error(NO_INTEGER.as_bytes()) };
        if let Some(waiter) = self.waiting_client(number) {
            self.unblock_waiter(waiter, reason == "ERROR");
            return Some(b":1\r\n".to_vec());
        }
        let conn = self.blocked_conn(number);
        let Some(lease) = self.conns.get(conn as usize) else { return Some(b":0\r\n".to_vec()) };
        let (shard, server_id) = (lease.shard, lease.server_id.to_string());
        if lease.link != Link::Up {
            // The command has not left yet, so nothing can be lost.
            self.give_up_wait(conn, reason == "ERROR");
            return Some(b":1\r\n".to_vec());
        }
        // It may stand behind more than there is room for: the wait would outlast that.
        let shared = self.shared(shard, Proto::Resp2, 0);
        if shared == NONE {
            return error(self.down_text(shard).as_bytes());
        }
        // It may be answered before the server hears this, and would then be another client's.
        self.conns[conn as usize].tainted = true;
        self.expect(shared, client, seq, 0, false);
        let words = ["CLIENT", "UNBLOCK", &server_id, reason];
        self.conns[shared as usize].out.write(|out| crate::resp::request(out, &words));
        None
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

/// The names of the functions with the flag `no-writes` in a FUNCTION LIST.
fn readers(list: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for function in elements(list).flat_map(|library| field(library, "functions")).flat_map(elements) {
        let flags = field(function, "flags").into_iter().flat_map(elements);
        if flags.into_iter().any(|flag| flag.ends_with(b"no-writes\r\n"))
            && let Some(name) = field(function, "name")
            && let Some(line) = name.windows(2).position(|pair| pair == b"\r\n")
        {
            names.push(name[line + 2..].strip_suffix(b"\r\n").unwrap_or_default().to_vec());
        }
    }
    names
}

/// A field of a map, as RESP2 writes it.
fn field<'a>(map: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let parts: Vec<&[u8]> = elements(map).collect();
    let is = |key: &[u8]| key.strip_suffix(b"\r\n").is_some_and(|key| key.ends_with(format!("\r\n{name}").as_bytes()));
    parts.chunks_exact(2).find(|pair| is(pair[0])).map(|pair| pair[1])
}

fn wrong_use(subcommand: &str) -> Vec<u8> {
    format!("ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try CLIENT HELP.").into()
}

#[cfg(test)]
mod tests {
    use super::readers;
    use crate::engine::tests::Rig;

    const LIST: &str = "*1\r\n*6\r\n$12\r\nlibrary_name\r\n$1\r\nl\r\n$6\r\nengine\r\n$3\r\nLUA\r\n$9\r\nfunctions\r\n*2\r\n\
        *6\r\n$4\r\nname\r\n$2\r\nro\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*1\r\n+no-writes\r\n\
        *6\r\n$4\r\nname\r\n$2\r\nrw\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*1\r\n+allow-stale\r\n";

    #[test]
    fn functions_that_write_nothing_are_found_in_their_list() {
        assert_eq!(readers(LIST.as_bytes()), [b"ro"]);
        assert_eq!(readers(b"*0\r\n"), [b""; 0]);
        assert_eq!(readers(b"-ERR no\r\n"), [b""; 0]);
    }

    #[test]
    fn a_pause_of_writes_lets_functions_pass_that_write_nothing() {
        let mut rig = Rig::of(1);
        let (admin, reader, writer) = (rig.client(), rig.client(), rig.client());
        rig.send(admin, "CLIENT PAUSE 1000 WRITE");
        rig.send(writer, "FCALL rw 0");
        rig.send(reader, "FCALL ro 0");
        assert_eq!(rig.asked(0), ["FUNCTION LIST"]);
        rig.tell(0, LIST);
        assert_eq!(rig.asked(0), ["FCALL ro 0"]);
        rig.send(reader, "EVAL return 0");
        assert_eq!(rig.asked(0), ["FCALL ro 0"], "a script without a word may write");
        rig.send(admin, "CLIENT UNPAUSE");
        assert_eq!(rig.asked(0).len(), 3);
    }
}

//! MONITOR: every request of every client, told to admins who ask for it, in Redis' words.
//!
//! ```text
//! request, while somebody monitors -> carried out -> a line -> monitors here
//!                                                      '-> Message::Lines -> monitors on other workers
//! ```
//!
//! Nobody looks for monitors while there are none: the request's one rare check (`Engine::unusual`)
//! leads here. What a script calls is not seen, since it happens on a server. A monitor that does not
//! read is closed at a subscriber's limits.

use std::fmt::Write;
use std::mem;

use bytes::Bytes;

use super::client::{End, Park, State};
use super::merge::{Kind, Merge};
use super::peers::Message;
use super::request::{Flow, Request};
use super::session::Multi;
use super::{Engine, Order};
use crate::command::{Class, Flags, Local, Route, Session as Verb};
use crate::resp::{Args, RequestScanner, integer};

const REDACTED: &[u8] = b"(redacted)";

/// Who monitors.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    /// This worker's, with their generations and the slots in which they are told OK.
    clients: Vec<(u32, u32, u32)>,
    /// Other workers that have some.
    peers: Vec<u16>,
    /// Those that did not take lines: their monitors are to be closed.
    behind: Vec<u16>,
    /// The request at hand is not carried out, so that nobody is told of it.
    pub(super) rejected: bool,
}

impl Monitors {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.peers.is_empty()
    }
}

impl Engine {
    /// To be called whenever a pause or a monitor comes or goes.
    pub(super) fn look_for_unusual(&mut self) {
        self.unusual = self.pause.is_some() || !self.monitors.is_empty();
    }

    /// A request while there is a pause, or somebody monitors.
    #[cold]
    pub(super) fn unusually(&mut self, id: u32, request: &Request<'_>) -> Flow {
        if let Some(flow) = self.held_back(id, request.row, request.args) {
            return flow;
        }
        self.seen(id, request, |engine| {
            // Nothing is unusual any more.
            engine.unusual = false;
            let flow = engine.request(id, request.frame, request.owned, request.args);
            engine.look_for_unusual();
            flow
        })
    }

    /// Carries the request out, and tells those who monitor.
    pub(super) fn seen(&mut self, id: u32, request: &Request<'_>, carry_out: impl FnOnce(&mut Self) -> Flow) -> Flow {
        let client = &mut self.clients[id as usize];
        let known = client.is_authenticated() || request.row.flags.has(Flags::NO_AUTH);
        if self.monitors.is_empty() || !known || !is_shown(request) {
            return carry_out(self);
        }
        let multi = client.session.as_ref().and_then(|session| session.multi.as_ref());
        let before = multi.map(Multi::len);
        let runs = multi.filter(|multi| request.row.route == Route::Session(Verb::Exec) && !multi.spoiled);
        let queued = runs.map_or_else(Vec::new, |multi| multi.shown.clone());
        self.monitors.rejected = false;
        let flow = carry_out(self);
        let rejected = mem::take(&mut self.monitors.rejected);
        let Some(client) = self.clients.get_mut(id as usize).filter(|_| flow == Flow::Taken && !rejected) else {
            return flow;
        };
        let mut db = client.db;
        let multi = client.session.as_mut().and_then(|session| session.multi.as_mut());
        match (before, multi) {
            // What is queued is told when it is carried out.
            (Some(before), Some(multi)) => {
                if multi.len() > before {
                    multi.shown.push(request.frame.to_vec());
                }
            }
            _ => {
                for frame in &queued {
                    let mut spans = Vec::new();
                    if RequestScanner::default().scan(frame, &self.options.limits, true, &mut spans).is_ok() {
                        let args = Args::new(frame, &spans);
                        if args.is(0, "select") {
                            db = integer(args.at(1)).and_then(|db| u32::try_from(db).ok()).unwrap_or(db);
                        }
                        self.show(id, db, args);
                    }
                }
                self.show(id, db, request.args);
            }
        }
        flow
    }

    /// Tells everybody who monitors.
    fn show(&mut self, id: u32, db: u32, args: Args<'_>) {
        let line = line(self.options.epoch + self.now, db, &self.clients[id as usize].about.peer, args);
        for to in self.monitors.peers.clone() {
            let waiting = self.orders.iter_mut().rev().take(self.options.facts.threads).find_map(|order| match order {
                Order::Send { to: worker, message: Message::Lines { lines, .. } } if *worker == to => Some(lines),
                _ => None,
            });
            match waiting {
                Some(lines) => lines.extend_from_slice(&line),
                None => {
                    let message = Message::Lines { from: self.options.worker, lines: line.clone() };
                    self.orders.push_back(Order::Send { to, message });
                }
            }
        }
        self.show_here(&line);
    }

    /// Lines for this worker's monitors.
    fn show_here(&mut self, lines: &[u8]) {
        let large = (lines.len() >= super::out::LARGE_BYTES).then(|| Bytes::copy_from_slice(lines));
        let mut slow = Vec::new();
        for (id, generation, seq) in self.monitors.clients.clone() {
            let Some(client) = self.clients.get_mut(id as usize).filter(|client| client.generation == generation)
            else {
                continue;
            };
            // Its OK comes first.
            if client.end != End::Open || client.slot(seq).is_some() {
                continue;
            }
            client.out.equip(&mut self.pool);
            match &large {
                Some(bytes) => client.out.hand_over(bytes.clone()),
                None => client.out.push(lines),
            }
            if self.is_too_slow(id) {
                slow.push(id);
            }
            self.mark_client(id);
        }
        slow.into_iter().for_each(|id| self.drop_subscriber(id));
    }

    pub(super) fn monitor(&mut self, id: u32, request: &Request<'_>) -> Flow {
        if let Err(text) = self.check_admin(id, "MONITOR") {
            return self.answer_error(id, text);
        }
        if self.clients[id as usize].session.as_ref().is_some_and(|session| session.monitors) {
            // As in Redis, it is not even answered.
            return Flow::Taken;
        }
        if !self.clients[id as usize].slots.is_empty() {
            return Flow::Parked(Park::Empty);
        }
        let peers = self.peers();
        let client = &mut self.clients[id as usize];
        client.session_mut().monitors = true;
        let (generation, seq) = (client.generation, client.next_seq());
        self.monitors.clients.push((id, generation, seq));
        self.look_for_unusual();
        if peers == 0 {
            return self.answer(id, |reply| _ = reply.status("OK"));
        }
        let client = &mut self.clients[id as usize];
        client.exclusive = true;
        client.open(State::Merge(Box::new(Merge::new(Kind::Pairs, peers, false))), Class::Session, self.now);
        self.ask_peers(id, seq, 0, request.frame);
        Flow::Taken
    }

    /// The client is gone, or RESET.
    pub(super) fn end_monitor(&mut self, id: u32) {
        self.monitors.clients.retain(|(client, ..)| *client != id);
        if self.monitors.clients.is_empty() {
            self.call_off();
        }
        self.look_for_unusual();
    }

    /// Other workers need not tell of anything.
    fn call_off(&mut self) {
        let from = self.options.worker;
        for to in self.others() {
            self.orders.push_back(Order::Send { to, message: Message::NoLines { from } });
        }
    }

    /// Worker `to` has somebody who monitors.
    pub(super) fn monitored_by(&mut self, to: u16) {
        if !self.monitors.peers.contains(&to) {
            self.monitors.peers.push(to);
        }
        self.look_for_unusual();
    }

    pub(super) fn not_monitored_by(&mut self, to: u16) {
        self.monitors.peers.retain(|peer| *peer != to);
        self.monitors.behind.retain(|peer| *peer != to);
        self.look_for_unusual();
    }

    /// Another worker's clients asked for something.
    pub(super) fn lines_from(&mut self, from: u16, lines: &[u8]) {
        if self.monitors.clients.is_empty() {
            // It did not hear that nobody wants to know.
            let message = Message::NoLines { from: self.options.worker };
            self.orders.push_back(Order::Send { to: from, message });
        }
        self.show_here(lines);
    }

    /// Worker `to` takes no more lines, so its monitors miss some.
    pub(super) fn lines_lost(&mut self, to: u16) {
        self.monitors.peers.retain(|peer| *peer != to);
        if !self.monitors.behind.contains(&to) {
            self.monitors.behind.push(to);
        }
        self.look_for_unusual();
    }

    /// To be called with every tick.
    pub(super) fn tell_those_behind(&mut self) {
        for to in mem::take(&mut self.monitors.behind) {
            self.orders.push_back(Order::Send { to, message: Message::LinesLost { to } });
        }
    }

    /// Lines of another worker never came: a monitor that misses some is closed, as a slow one is.
    pub(super) fn close_monitors(&mut self) {
        for (id, ..) in mem::take(&mut self.monitors.clients) {
            self.drop_subscriber(id);
        }
        self.call_off();
        self.look_for_unusual();
    }
}

/// What concerns the administration is not shown; it may hold secrets.
fn is_shown(request: &Request<'_>) -> bool {
    let shard = request.row.route == Route::Local(Local::Ringway) && request.args.is(1, "shard");
    !shard && !request.row.flags.has(Flags::ADMIN) && request.row.route != Route::Local(Local::Quit)
}

/// A request as MONITOR tells of it.
fn line(micros: u64, db: u32, peer: &str, args: Args<'_>) -> Vec<u8> {
    let mut text = format!("+{}.{:06} [{db} ", micros / 1_000_000, micros % 1_000_000);
    match peer.strip_suffix(":0").filter(|path| path.starts_with('/')) {
        // Writing to a String cannot fail.
        Some(path) => _ = write!(text, "unix:{path}"),
        None => text.push_str(peer),
    }
    let mut line = text.into_bytes();
    line.push(b']');
    let auth = args.is(0, "auth");
    let hello = (2..args.len()).find(|at| args.is(0, "hello") && args.is(*at, "auth"));
    for (at, arg) in args.iter().enumerate() {
        let secret = auth && at > 0 || hello.is_some_and(|hello| at == hello + 1 || at == hello + 2);
        line.extend_from_slice(b" \"");
        quote(if secret { REDACTED } else { arg }, &mut line);
        line.push(b'"');
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Bytes as Redis quotes them.
fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            7 => out.extend_from_slice(b"\\a"),
            8 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, request};

    fn check(words: &[&[u8]], expected: &str) {
        let (mut frame, mut spans) = (Vec::new(), Vec::new());
        request(&mut frame, words);
        RequestScanner::default().scan(&frame, &Limits::default(), true, &mut spans).unwrap();
        let line = line(1_700_000_000_000_042, 3, "/run/x.sock:0", Args::new(&frame, &spans));
        assert_eq!(String::from_utf8(line).unwrap(), format!("+1700000000.000042 [3 unix:/run/x.sock] {expected}\r\n"));
    }

    #[test]
    fn bytes_are_quoted_and_secrets_are_not_told() {
        check(&[b"SET", b"", b"a\\\"\r\n\t\x07\x08\x00\x7f\xff'"], r#""SET" "" "a\\\"\r\n\t\a\b\x00\x7f\xff'""#);
        check(&[b"Auth", b"user", b"pass"], r#""Auth" "(redacted)" "(redacted)""#);
        check(
            &[b"HELLO", b"3", b"setname", b"n", b"auth", b"user", b"pass", b"SETNAME", b"m"],
            r#""HELLO" "3" "setname" "n" "auth" "(redacted)" "(redacted)" "SETNAME" "m""#,
        );
    }
}

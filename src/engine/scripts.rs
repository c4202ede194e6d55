//! The memory of scripts: a body that one shard was given is known to all of them.
//!
//! A client that once sent EVAL or SCRIPT LOAD goes on with EVALSHA, on whatever shard its keys are and
//! whatever became of the server behind it. Before the first EVALSHA of a body on a connection SCRIPT
//! LOAD goes ahead on it, and its reply is dropped: to answer a NOSCRIPT afterwards would change the order.

use std::collections::{HashMap, VecDeque};

use sha1::{Digest, Sha1};

use super::conn::{Conn, NOBODY};
use super::functions::uses_functions;
use super::request::{Flow, Request};
use super::{Engine, NONE};
use crate::command::Command;
use crate::resp::Args;
use crate::topology::ShardId;

/// Bytes of all bodies; the oldest are forgotten first.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies that are remembered, however small.
const BODIES_MAX: usize = 32 * 1024;
/// Bodies that a connection is known to have carried; with one more all are taken to be new to it.
const CARRIED_MAX: usize = 8 * 1024;
/// Bytes of a body that other workers are told of: they wait in memory until they are read.
const TOLD_BYTES_MAX: usize = 64 * 1024;

/// A body's SHA-1 in lower-case hexadecimal digits, as EVALSHA names it.
pub(super) type Sha = [u8; 40];

#[derive(Debug, Default)]
pub(super) struct Scripts {
    bodies: HashMap<Sha, Vec<u8>>,
    /// In the order in which they were learnt.
    order: VecDeque<Sha>,
    bytes: usize,
}

impl Scripts {
    /// The body's name, and whether it was not known before.
    fn learn(&mut self, body: &[u8]) -> (Sha, bool) {
        let sha = sha(body);
        let new = body.len() <= BYTES_MAX && !self.bodies.contains_key(&sha);
        if new {
            self.bytes += body.len();
            self.bodies.insert(sha, body.to_vec());
            self.order.push_back(sha);
            while (self.bytes > BYTES_MAX || self.order.len() > BODIES_MAX)
                && let Some(oldest) = self.order.pop_front()
            {
                self.bytes -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
            }
        }
        (sha, new)
    }
}

fn sha(body: &[u8]) -> Sha {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut sha = [0; 40];
    for (pair, byte) in sha.chunks_exact_mut(2).zip(Sha1::digest(body)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    sha
}

/// The server behind the connection gets the body.
fn carry(conn: &mut Conn, sha: Sha) {
    if conn.scripts.len() >= CARRIED_MAX {
        conn.scripts.clear();
    }
    conn.scripts.insert(sha);
}

fn is_no_writes(body: &[u8]) -> bool {
    let first = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let flags = first.strip_prefix(b"#!").into_iter().flat_map(|words| words.split(|byte| *byte == b' '));
    let mut flags = flags.filter_map(|word| word.strip_prefix(b"flags=")).flat_map(|flags| flags.split(|b| *b == b','));
    flags.any(|flag| flag == b"no-writes")
}

impl Engine {
    /// EVAL, EVALSHA and their kin go to one shard, which gets to know the body first.
    #[cold]
    pub(super) fn script(&mut self, id: u32, shard: ShardId, request: &Request<'_>) -> Flow {
        if uses_functions(request.row)
            && let Some(flow) = self.functions_first(id, [shard].into_iter())
        {
            return flow;
        }
        let named = self.learn_script(request);
        let conn = match self.private(id, shard) {
            // What CLIENT CACHING said goes behind the body.
            Some(private) => private,
            None => self.conn_to(id, shard),
        };
        match named {
            Some(sha) if conn != NONE && !self.is_full(conn) => self.load_ahead(conn, &sha),
            _ => {}
        }
        let flow = self.forward(id, shard, request);
        if flow == Flow::Taken
            && named.is_none()
            && request.row.name.starts_with("eval")
            && let Some(conn) = self.conns.get_mut(conn as usize)
        {
            // It has the body from here on.
            carry(conn, sha(request.args.at(1)));
        }
        flow
    }

    /// Remembers the body that the request brings, or says which known one it names.
    pub(super) fn learn_script(&mut self, request: &Request<'_>) -> Option<Sha> {
        match request.row.name {
            "eval" | "eval_ro" => {
                self.learn_and_tell(request.args.at(1));
                None
            }
            "script|load" => {
                self.learn_and_tell(request.args.at(2));
                None
            }
            "script|flush" => {
                self.forget_scripts();
                None
            }
            "evalsha" | "evalsha_ro" => {
                let sha: Sha = request.args.at(1).to_ascii_lowercase().try_into().ok()?;
                self.scripts.bodies.contains_key(&sha).then_some(sha)
            }
            _ => None,
        }
    }

    /// Which of the bodies that SCRIPT EXISTS names any shard would get before it is asked to run them.
    pub(super) fn known_scripts(&self, args: Args<'_>) -> Vec<bool> {
        let is_known = |name: &[u8]| {
            let sha: Option<Sha> = name.to_ascii_lowercase().try_into().ok();
            sha.is_some_and(|sha| self.scripts.bodies.contains_key(&sha))
        };
        args.iter().skip(2).map(is_known).collect()
    }

    /// The script that the request brings or names says of itself that it writes nothing:
    /// `#!lua flags=no-writes`.
    pub(super) fn is_no_writes(&self, row: &Command, args: Args<'_>) -> bool {
        let body = match row.name {
            "eval" => Some(args.at(1)),
            "evalsha" => {
                let sha: Option<Sha> = args.at(1).to_ascii_lowercase().try_into().ok();
                sha.and_then(|sha| self.scripts.bodies.get(&sha)).map(Vec::as_slice)
            }
            _ => None,
        };
        body.is_some_and(is_no_writes)
    }

    /// Remembers a body; one that was not known is news to the other workers too.
    fn learn_and_tell(&mut self, body: &[u8]) {
        let (_, new) = self.scripts.learn(body);
        if new && body.len() <= TOLD_BYTES_MAX && self.peers() > 0 {
            let mut frame = Vec::new();
            crate::resp::request(&mut frame, &[&b"SCRIPT"[..], b"LOAD", body]);
            self.ask_peers(NOBODY, 0, 0, &frame);
        }
    }

    /// Another worker's client brought a body.
    pub(super) fn told_of_script(&mut self, body: &[u8]) {
        self.scripts.learn(body);
    }

    /// SCRIPT FLUSH, here or on another worker.
    pub(super) fn forget_scripts(&mut self) {
        self.scripts = Scripts::default();
        self.conns.iter_mut().for_each(|(_, conn)| conn.scripts.clear());
    }

    /// Loads a known body on a connection that has not carried it yet.
    pub(super) fn load_ahead(&mut self, conn: u32, sha: &Sha) {
        if self.conns[conn as usize].scripts.contains(sha) || !self.scripts.bodies.contains_key(sha) {
            return;
        }
        self.expect(conn, NOBODY, 0, 0, true);
        let state = &mut self.conns[conn as usize];
        carry(state, *sha);
        if let Some(body) = self.scripts.bodies.get(sha) {
            state.out.write(|out| crate::resp::request(out, &[&b"SCRIPT"[..], b"LOAD", body]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_named_by_its_digest() {
        assert_eq!(sha(b"return 1"), *b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    #[test]
    fn a_script_says_that_it_writes_nothing() {
        for (body, expected) in [
            ("#!lua flags=no-writes\nreturn 1", true),
            ("#!lua name=x flags=allow-stale,no-writes\nreturn 1", true),
            ("#!lua\nreturn 'flags=no-writes'", false),
            ("return 1 -- #!lua flags=no-writes", false),
            ("#!lua flags=no-writes-at-all\n", false),
        ] {
            assert_eq!(is_no_writes(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn the_oldest_bodies_are_forgotten_first() {
        let mut scripts = Scripts::default();
        let body = |number: u8| vec![number; BYTES_MAX / 4];
        let names: Vec<Sha> = (0..6).map(|number| scripts.learn(&body(number)).0).collect();
        let known: Vec<bool> = names.iter().map(|name| scripts.bodies.contains_key(name)).collect();
        assert_eq!(known, [false, false, true, true, true, true]);
        assert_eq!(scripts.learn(&body(5)), (names[5], false));
        assert_eq!(scripts.learn(&vec![9; BYTES_MAX + 1]), (sha(&vec![9; BYTES_MAX + 1]), false));
        assert_eq!(scripts.bytes, BYTES_MAX);
        (0..BODIES_MAX + 10).for_each(|number| _ = scripts.learn(number.to_string().as_bytes()));
        assert_eq!((scripts.bodies.len(), scripts.order.len()), (BODIES_MAX, BODIES_MAX));
    }
}

//! One connection's other end: a server that understands just enough, answers in order, and writes
//! into the ledger what it ran. Its replies carry the requests' tokens, so no two are alike.

use std::collections::VecDeque;

use super::ledger::{Ledger, token, tokens};
use super::random::Random;

/// What a server does wrong, once, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Drop,
    Duplicate,
    Swap,
    Foreign,
    /// Two letters of a body change places.
    Garble,
}

pub(crate) struct Server {
    shard: usize,
    resp3: bool,
    db: u32,
    /// Bytes that arrived and are not used.
    pub(crate) input: VecDeque<u8>,
    /// Bytes on their way to the proxy.
    pub(crate) output: VecDeque<u8>,
    watching: Option<u64>,
    multi: Option<Vec<Vec<Vec<u8>>>>,
    refused: bool,
    /// A command that blocks, and until when.
    blocked: Option<(Vec<Vec<u8>>, u64)>,
    /// It tells of changes of these keys, once.
    tracks: bool,
    armed: Vec<Vec<u8>>,
    /// A reply that is held back to come after the next one.
    swapped: Option<Vec<u8>>,
}

impl Server {
    pub(crate) fn new(shard: usize) -> Self {
        Self {
            shard,
            resp3: false,
            db: 0,
            input: VecDeque::new(),
            output: VecDeque::new(),
            watching: None,
            multi: None,
            refused: false,
            blocked: None,
            tracks: false,
            armed: Vec::new(),
            swapped: None,
        }
    }

    /// Answers up to `count` requests. A planted fault is taken when it is done.
    pub(crate) fn serve(
        &mut self,
        count: usize,
        now: u64,
        ledger: &mut Ledger,
        random: &mut Random,
        fault: &mut Option<Fault>,
    ) -> usize {
        let mut served = 0;
        if !self.armed.is_empty() && random.once_in(4) {
            let name = self.armed.swap_remove(random.within(0..self.armed.len()));
            self.output.extend([b">2\r\n$10\r\ninvalidate\r\n*1\r\n", bulk(&name).as_slice()].concat());
        }
        while served < count {
            let reply = if let Some((args, until)) = self.blocked.take() {
                if now < until {
                    self.blocked = Some((args, until));
                    break;
                }
                self.unblocked(&args, ledger, random)
            } else {
                let Some(args) = self.next() else { break };
                let name = String::from_utf8_lossy(&args[0]).to_uppercase();
                if matches!(name.as_str(), "BLPOP" | "WAIT") && self.multi.is_none() && !random.once_in(3) {
                    let longest = if random.once_in(8) { 2_000_000 } else { 100_000 };
                    self.blocked = Some((args, now + random.within(0..longest) as u64));
                    continue;
                }
                self.answer(&name, args, ledger, random)
            };
            served += 1;
            self.say(reply, fault, random);
        }
        served
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.input.is_empty() && self.blocked.is_none()
    }

    fn say(&mut self, reply: Vec<u8>, fault: &mut Option<Fault>, random: &mut Random) {
        let telling = reply.windows(2).any(|pair| pair == b"v#");
        if let Some(first) = self.swapped.take() {
            self.output.extend(reply);
            self.output.extend(first);
            return;
        }
        match *fault {
            Some(kind) if telling && random.once_in(40) => {
                *fault = None;
                match kind {
                    Fault::Drop => {}
                    Fault::Duplicate => {
                        self.output.extend(reply.iter().copied());
                        self.output.extend(reply);
                    }
                    Fault::Swap => self.swapped = Some(reply),
                    Fault::Foreign => self.output.extend(b"$7\r\nv#00001\r\n"),
                    Fault::Garble => {
                        let mut reply = reply;
                        let at = reply.len() - 3;
                        reply[at] ^= 1;
                        self.output.extend(reply);
                    }
                }
            }
            _ => self.output.extend(reply),
        }
    }

    /// The next whole request.
    fn next(&mut self) -> Option<Vec<Vec<u8>>> {
        let bytes = self.input.make_contiguous();
        let mut at = 0;
        let number = |at: &mut usize, mark: u8| -> Option<usize> {
            let end = *at + bytes.get(*at..)?.iter().position(|byte| *byte == b'\n')?;
            assert_eq!(bytes[*at], mark, "a malformed request reached a server");
            let number = std::str::from_utf8(&bytes[*at + 1..end - 1]).ok()?.parse().ok();
            *at = end + 1;
            number
        };
        let count = number(&mut at, b'*')?;
        let mut args = Vec::with_capacity(count);
        for _ in 0..count {
            let len = number(&mut at, b'$')?;
            args.push(bytes.get(at..at + len)?.to_vec());
            at += len + 2;
        }
        if at > bytes.len() {
            return None;
        }
        self.input.drain(..at);
        Some(args)
    }

    fn answer(&mut self, name: &str, args: Vec<Vec<u8>>, ledger: &mut Ledger, random: &mut Random) -> Vec<u8> {
        for token in tokens(&args) {
            let client = ledger.client_of(token);
            let others = self.watching.filter(|watcher| client != Some(*watcher));
            if let Some(watcher) = others {
                ledger.blame(format!("{token} runs on a connection that client {watcher} watches keys on"));
            }
        }
        match name {
            "HELLO" => {
                self.resp3 = args[1] == b"3";
                let head: &[u8] = if self.resp3 { b"%2\r\n" } else { b"*4\r\n" };
                [head, b"$7\r\nversion\r\n$5\r\n7.0.1\r\n$2\r\nid\r\n:7\r\n"].concat()
            }
            "COMMAND" => b"*1\r\n*-1\r\n".to_vec(),
            "MULTI" => {
                self.multi = Some(Vec::new());
                self.refused = false;
                b"+OK\r\n".to_vec()
            }
            "EXEC" => self.exec(ledger, random),
            "DISCARD" => {
                if self.multi.take().is_none() {
                    ledger.blame("DISCARD without MULTI".to_owned());
                }
                self.watching = None;
                b"+OK\r\n".to_vec()
            }
            _ if self.multi.is_some() => {
                // A server may refuse to queue anything, and is not to be asked twice for one thing.
                if random.once_in(60) {
                    self.refused = true;
                    return b"-OOM command not allowed\r\n".to_vec();
                }
                self.multi.get_or_insert_default().push(args);
                b"+QUEUED\r\n".to_vec()
            }
            _ => self.run(name, &args, ledger, random),
        }
    }

    fn exec(&mut self, ledger: &mut Ledger, random: &mut Random) -> Vec<u8> {
        let queued = self.multi.take();
        let watched = self.watching.take().is_some();
        let Some(queued) = queued else { return b"-ERR EXEC without MULTI\r\n".to_vec() };
        if self.refused {
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n".to_vec();
        }
        if !ledger.reliable && random.once_in(40) {
            return b"-READONLY it writes nothing\r\n".to_vec();
        }
        if watched && random.once_in(3) {
            return if self.resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() };
        }
        let clients: Vec<_> =
            queued.iter().flat_map(|args| tokens(args)).filter_map(|token| ledger.client_of(token)).collect();
        if clients.windows(2).any(|pair| pair[0] != pair[1]) {
            ledger.blame(format!("one transaction of several clients: {clients:?}"));
        }
        let mut reply = format!("*{}\r\n", queued.len()).into_bytes();
        for args in queued {
            let name = String::from_utf8_lossy(&args[0]).to_uppercase();
            reply.extend(self.run(&name, &args, ledger, random));
        }
        reply
    }

    /// A pop that does not wait: only what it takes is worth a line.
    fn attempt(&mut self, args: &[Vec<u8>], ledger: &mut Ledger, random: &mut Random) -> Vec<u8> {
        if random.once_in(2) {
            return if self.resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() };
        }
        let token = tokens(args).first().copied().unwrap_or(0);
        let element = bulk(format!("v#{token}").as_bytes());
        let reply = [b"*2\r\n", bulk(&args[1]).as_slice(), &element].concat();
        ledger.execute(token, self.shard, self.resp3, self.db, &reply);
        element
    }

    /// What a blocking command says in the end.
    fn unblocked(&mut self, args: &[Vec<u8>], ledger: &mut Ledger, random: &mut Random) -> Vec<u8> {
        let name = String::from_utf8_lossy(&args[0]).to_uppercase();
        self.run(&name, args, ledger, random)
    }

    fn run(&mut self, name: &str, args: &[Vec<u8>], ledger: &mut Ledger, random: &mut Random) -> Vec<u8> {
        if self.tracks && name == "EXISTS" {
            self.armed.extend_from_slice(&args[1..]);
            let some = random.within(0..args.len());
            return if random.once_in(10) { b"-BUSY\r\n".to_vec() } else { format!(":{some}\r\n").into_bytes() };
        }
        if name == "LPOP" {
            return self.attempt(args, ledger, random);
        }
        if name == "CLIENT" {
            self.tracks = true;
            return b"+OK\r\n".to_vec();
        }
        if name == "EVAL" && args.len() == 5 {
            token(&args[4]).into_iter().for_each(|token| ledger.returned(token));
            return b"$-1\r\n".to_vec();
        }
        let tokens = tokens(args);
        let first = tokens.first().copied().unwrap_or(0);
        let (shard, resp3, db) = (self.shard, self.resp3, self.db);
        let mut record = |token: u64, reply: &[u8]| ledger.execute(token, shard, resp3, db, reply);
        if !tokens.is_empty() && name != "SCAN" && random.once_in(50) {
            let reply = format!("-ERR v#{first} is refused\r\n").into_bytes();
            tokens.iter().for_each(|token| record(*token, &reply));
            return reply;
        }

        match name {
            "SELECT" => {
                self.db = String::from_utf8_lossy(&args[1]).parse().unwrap_or(99);
                b"+OK\r\n".to_vec()
            }
            "PING" => b"+PONG\r\n".to_vec(),
            "UNWATCH" => {
                self.watching = None;
                b"+OK\r\n".to_vec()
            }
            // The sum over shards tells which of them were asked, and how often.
            "DBSIZE" => format!(":{}\r\n", 7 * 1000_u64.pow(shard as u32)).into_bytes(),
            "WAIT" => b":5\r\n".to_vec(),
            "ECHO" => {
                let reply = bulk(&args[1]);
                record(first, &reply);
                reply
            }
            "WATCH" => {
                self.watching = ledger.client_of(first);
                let reply = format!("+OK v#{first}\r\n").into_bytes();
                ledger.execute(first, shard, resp3, db, &reply);
                reply
            }
            "SET" => {
                let reply = format!("+OK v#{first} {}\r\n", args[2].len()).into_bytes();
                record(first, &reply);
                reply
            }
            "MSET" => {
                tokens.iter().for_each(|token| record(*token, b"+OK\r\n"));
                b"+OK\r\n".to_vec()
            }
            "MGET" => {
                let mut reply = format!("*{}\r\n", tokens.len()).into_bytes();
                for token in &tokens {
                    let value = self.value(*token, random);
                    record(*token, &value);
                    reply.extend(value);
                }
                reply
            }
            "DEL" | "EXISTS" => {
                let number = random.within(0..100);
                for token in &tokens {
                    let share = if *token == first { number } else { 0 };
                    record(*token, format!(":{share}\r\n").as_bytes());
                }
                format!(":{number}\r\n").into_bytes()
            }
            "BLPOP" => {
                let reply = match random.within(0..3) {
                    0 if resp3 => b"_\r\n".to_vec(),
                    0 => b"*-1\r\n".to_vec(),
                    _ => [b"*2\r\n", bulk(&args[1]).as_slice(), &bulk(format!("v#{first}").as_bytes())].concat(),
                };
                record(first, &reply);
                reply
            }
            "SCAN" => {
                let cursor = if random.once_in(3) { 0 } else { random.within(1..1_000_000) };
                let keys = format!("*1\r\n{}", String::from_utf8_lossy(&bulk(format!("v#{first}").as_bytes())));
                let shown = match cursor {
                    0 => (shard + 1) % super::SHARDS,
                    _ => cursor << 10 | shard,
                };
                let reply = |cursor: usize| {
                    let cursor = cursor.to_string();
                    format!("*2\r\n${}\r\n{cursor}\r\n{keys}", cursor.len()).into_bytes()
                };
                record(first, &reply(shown));
                reply(cursor)
            }
            "GET" | "EVAL" => {
                let reply = self.value(first, random);
                record(first, &reply);
                reply
            }
            _ => format!("-ERR a server does not know {name}\r\n").into_bytes(),
        }
    }

    /// A null, or a body of any size that starts with the token.
    fn value(&self, token: u64, random: &mut Random) -> Vec<u8> {
        let len = match random.within(0..40) {
            0..4 => return if self.resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() },
            4 => random.within(16_000..50_000),
            5..10 => random.within(500..3000),
            _ => random.within(0..60),
        };
        let mut body = format!("v#{token}").into_bytes();
        body.resize(body.len() + len, b'.');
        bulk(&body)
    }
}

pub(crate) fn bulk(body: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

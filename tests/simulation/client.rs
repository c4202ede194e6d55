//! A client: what it asks, as pipelines of every kind, and whether what it reads answers that.

use std::collections::VecDeque;

use ringway::resp::request;
use ringway::topology::Topology;

use super::judge::{Outcome, frame_len, judge, shown};
use super::ledger::{Issued, Ledger};
use super::random::Random;
use super::server::bulk;

/// The reply that a request must get, unless a server failed it.
#[derive(Debug)]
pub(crate) enum Expect {
    Exact(Vec<u8>),
    Prefix(&'static str),
    /// What the server said for this token.
    Token(u64),
    Values(Vec<u64>),
    Sum(Vec<u64>),
    Pairs(Vec<u64>),
    /// What each command of a transaction must get.
    Exec(Vec<Self>),
    /// What a server said for one of these, which alone was executed.
    Any(Vec<u64>),
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) expect: Expect,
    /// Its tokens, by shard.
    pub(crate) groups: Vec<Vec<u64>>,
    /// It needs a server, so it may get an error of the proxy's.
    pub(crate) may_fail: bool,
    /// It may wait: a client that half-closes is not owed an answer.
    pub(crate) blocks: bool,
    /// The database that the client is in when it succeeds.
    pub(crate) db: Option<u32>,
}

/// A transaction that is being sent.
#[derive(Default)]
struct Multi {
    base: usize,
    /// Its keys are on any shards.
    wide: bool,
    items: Vec<Expect>,
    tokens: Vec<u64>,
    db: Option<u32>,
    spoiled: bool,
}

/// How its requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Open,
    /// It said QUIT, or nonsense.
    Leaving,
    /// It sends nothing more.
    HalfClosed,
}

pub(crate) struct Client {
    number: u64,
    resp3: bool,
    db: u32,
    multi: Option<Multi>,
    /// The key that it watches.
    watched: Option<usize>,
    pub(crate) life: Life,
    pub(crate) pending: VecDeque<Pending>,
    /// It sends nothing before everything is answered.
    barrier: bool,
    /// Bytes on their way to the proxy.
    pub(crate) outgoing: VecDeque<u8>,
    /// Bytes that the proxy wrote and it did not read.
    pub(crate) socket: VecDeque<u8>,
    received: Vec<u8>,
    pub(crate) asked: u64,
    pub(crate) failed: u64,
    /// The latest error that a server's failure gave it.
    pub(crate) trouble: String,
}

impl Client {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            resp3: false,
            db: 0,
            multi: None,
            watched: None,
            life: Life::Open,
            pending: VecDeque::new(),
            barrier: false,
            outgoing: VecDeque::new(),
            socket: VecDeque::new(),
            received: Vec::new(),
            asked: 0,
            failed: 0,
            trouble: String::new(),
        }
    }

    pub(crate) fn may_ask(&self) -> bool {
        self.life == Life::Open && self.pending.len() < 40 && (!self.barrier || self.pending.is_empty())
    }

    /// Sends a few requests.
    pub(crate) fn ask(&mut self, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        self.barrier = false;
        for _ in 0..1 + random.within(0..8) {
            match self.multi {
                Some(_) => self.ask_in_multi(map, ledger, random),
                None => self.ask_one(map, ledger, random),
            }
            if self.life != Life::Open || self.barrier {
                break;
            }
        }
    }

    fn ask_one(&mut self, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        let base = random.within(0..6);
        match random.within(0..64) {
            0..14 => self.keyed(&["GET"], base, &[], map, ledger, random),
            14..22 => {
                let value = value(random);
                self.keyed(&["SET"], base, &[&value], map, ledger, random);
            }
            22..30 => self.split("MGET", map, ledger, random),
            30..34 => self.split("MSET", map, ledger, random),
            34..37 => self.split("DEL", map, ledger, random),
            37..39 => self.split("EXISTS", map, ledger, random),
            39 => self.exact(&["PING"], b"+PONG\r\n", random),
            40 | 41 => {
                let value = value(random);
                self.exact(&["ECHO", &value], &bulk(value.as_bytes()), random);
            }
            42 => {
                self.db = random.within(0..3) as u32;
                let db = self.db.to_string();
                self.exact(&["SELECT", &db], b"+OK\r\n", random);
            }
            43 | 44 => {
                let wide = random.once_in(2);
                self.multi = Some(Multi { base: self.watched.unwrap_or(base), wide, ..Multi::default() });
                self.exact(&["MULTI"], b"+OK\r\n", random);
            }
            45 | 46 => {
                let base = *self.watched.get_or_insert(base);
                self.keyed(&["WATCH"], base, &[], map, ledger, random);
            }
            47 => {
                self.watched = None;
                self.send(&["UNWATCH"], random);
                self.push(Expect::Prefix("+OK\r\n"), Vec::new(), true);
            }
            48 => {
                self.keyed(&["BLPOP"], base, &["0"], map, ledger, random);
                self.last().blocks = true;
            }
            49 => {
                let keys: Vec<(String, u64)> =
                    (0..1 + random.within(0..4)).map(|_| self.key(random.within(0..6), map, ledger)).collect();
                let mut args: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
                args.insert(0, "BLPOP");
                args.push("0");
                self.send(&args, random);
                let tokens: Vec<u64> = keys.iter().map(|(_, token)| *token).collect();
                self.push(Expect::Any(tokens.clone()), tokens.into_iter().map(|token| vec![token]).collect(), true);
                self.last().blocks = true;
            }
            50 | 51 => self.keyed(&["EVAL", "return 1", "1"], base, &[], map, ledger, random),
            52 => {
                let token = self.issue(None, ledger);
                self.send(&["EVAL", "return 1", "0", &format!("x#{token}")], random);
                self.push(Expect::Token(token), vec![vec![token]], true);
            }
            53 | 54 => {
                let place = random.within(0..super::SHARDS);
                let token = self.issue(Some(place), ledger);
                let cursor = (random.within(0..1000) << 10 | place).to_string();
                self.send(&["SCAN", &cursor, "MATCH", &format!("x#{token}")], random);
                self.push(Expect::Token(token), vec![vec![token]], true);
            }
            55 => {
                self.send(&["dbsize"], random);
                self.push(Expect::Exact(b":7007007\r\n".to_vec()), Vec::new(), true);
            }
            56 => {
                self.resp3 = !self.resp3;
                let (version, head) = if self.resp3 { ("3", "%7\r\n") } else { ("2", "*14\r\n") };
                self.send(&["HELLO", version], random);
                self.push(Expect::Prefix(head), Vec::new(), false);
            }
            57 => self.unheard(base, map, ledger, random),
            58 => {
                self.send(&["WAIT", "0", "100"], random);
                self.push(Expect::Exact(b":5\r\n".to_vec()), Vec::new(), true);
                self.last().blocks = true;
            }
            59 => {
                let name = format!("NOSUCH{}", random.within(0..5));
                self.send(&[&name], random);
                self.push(Expect::Prefix("-ERR unknown command"), Vec::new(), true);
            }
            60 => {
                self.exact(&["GET"], b"-ERR wrong number of arguments for 'get' command\r\n", random);
                self.outgoing.extend(b"\r\n*0\r\n");
            }
            61 if random.once_in(3) => {
                (self.resp3, self.db, self.watched) = (false, 0, None);
                self.exact(&["RESET"], b"+RESET\r\n", random);
            }
            62 if random.once_in(6) => {
                self.exact(&["QUIT"], b"+OK\r\n", random);
                self.life = Life::Leaving;
            }
            63 if random.once_in(6) => {
                let (nonsense, text) = *random.pick(&[
                    ("*2\r\n$3\r\nGET\r\n$x\r\n", "invalid bulk length"),
                    ("*99999999999\r\n", "invalid multibulk length"),
                    ("*1\r\n+GET\r\n", "expected '$', got '+'"),
                    ("get \"a\r\n", "unbalanced quotes in request"),
                ]);
                self.outgoing.extend(nonsense.as_bytes());
                let expected = format!("-ERR Protocol error: {text}\r\n").into_bytes();
                self.push(Expect::Exact(expected), Vec::new(), false);
                self.life = Life::Leaving;
                // It is never looked at.
                self.send(&["SET", "a#0", "b"], random);
            }
            _ => self.keyed(&["GET"], base, &[], map, ledger, random),
        }
    }

    fn ask_in_multi(&mut self, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        let Some(mut multi) = self.multi.take() else { return };
        let db = self.db;
        let selected = multi.db.unwrap_or(db);
        let base = if multi.wide { random.within(0..6) } else { multi.base };
        match random.within(0..16) {
            0..6 => {
                let (key, token) = {
                    self.db = selected;
                    self.key(base, map, ledger)
                };
                self.db = db;
                match random.within(0..3) {
                    0 => self.send(&["GET", &key], random),
                    1 => self.send(&["SET", &key, &value(random)], random),
                    _ => self.send(&["DEL", &key], random),
                }
                multi.items.push(Expect::Token(token));
                multi.tokens.push(token);
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            6 => {
                self.send(&["PING"], random);
                multi.items.push(Expect::Exact(b"+PONG\r\n".to_vec()));
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            7 => {
                self.send(&["CLIENT", "GETNAME"], random);
                let null: &[u8] = if self.resp3 { b"_\r\n" } else { b"$-1\r\n" };
                multi.items.push(Expect::Exact(null.to_vec()));
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            8 if random.once_in(3) => {
                let db = random.within(0..3) as u32;
                multi.db = Some(db);
                self.send(&["SELECT", &db.to_string()], random);
                multi.items.push(Expect::Exact(b"+OK\r\n".to_vec()));
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            9 if random.once_in(3) => {
                multi.spoiled = true;
                self.exact(&["GET"], b"-ERR wrong number of arguments for 'get' command\r\n", random);
            }
            10 if random.once_in(2) => {
                self.watched = None;
                return self.exact(&["DISCARD"], b"+OK\r\n", random);
            }
            14 if multi.wide => {
                self.db = selected;
                let name = random.pick(&["MGET", "MSET", "DEL"]);
                let (args, all) = self.several(name, map, ledger, random);
                self.db = db;
                self.send(&args.iter().map(String::as_str).collect::<Vec<_>>(), random);
                multi.tokens.extend(&all);
                multi.items.push(several(name, all));
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            15 if multi.wide => {
                self.send(&["DBSIZE"], random);
                multi.items.push(Expect::Exact(b":7007007\r\n".to_vec()));
                self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            }
            11.. => return self.exec(multi, ledger, random),
            _ => {}
        }
        self.multi = Some(multi);
    }

    /// A transaction on all shards.
    pub(crate) fn transact(&mut self, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        self.exact(&["MULTI"], b"+OK\r\n", random);
        let mut multi = Multi::default();
        for base in 0..6 {
            let (key, token) = self.key(base, map, ledger);
            self.send(&["GET", &key], random);
            self.push(Expect::Prefix("+QUEUED\r\n"), Vec::new(), false);
            multi.items.push(Expect::Token(token));
            multi.tokens.push(token);
        }
        self.exec(multi, ledger, random);
    }

    /// A transaction on any shards, whole; now and then with a key that is watched.
    pub(crate) fn trade(&mut self, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        if self.multi.is_some() || self.barrier {
            return;
        }
        if self.watched.is_none() && random.once_in(3) {
            let base = *self.watched.insert(random.within(0..6));
            self.keyed(&["WATCH"], base, &[], map, ledger, random);
        }
        self.exact(&["MULTI"], b"+OK\r\n", random);
        self.multi = Some(Multi { base: 0, wide: true, ..Multi::default() });
        while self.multi.is_some() && self.life == Life::Open && !self.barrier {
            self.ask_in_multi(map, ledger, random);
        }
    }

    fn exec(&mut self, multi: Multi, ledger: &mut Ledger, random: &mut Random) {
        self.watched = None;
        if multi.spoiled {
            let text = b"-EXECABORT Transaction discarded because of previous errors.\r\n";
            return self.exact(&["EXEC"], text, random);
        }
        self.send(&["EXEC"], random);
        ledger.whole(multi.tokens.clone());
        self.push(Expect::Exec(multi.items), vec![multi.tokens], true);
        self.last().db = multi.db;
        // Which database it is in then only the answer tells.
        self.barrier = multi.db.is_some();
    }

    /// Watches a key of `shard`.
    pub(crate) fn watch(&mut self, shard: usize, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        let here = |base: &usize| map.shard_of(format!("{{c{}k{base}}}", self.number).as_bytes()).0 as usize == shard;
        let base = (0..1000).find(here).expect("every shard has keys");
        self.keyed(&["WATCH"], base, &[], map, ledger, random);
    }

    /// CLIENT REPLY in its forms: what is asked under it gets no answer.
    fn unheard(&mut self, base: usize, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        let silent = |this: &mut Self, ledger: &mut Ledger, random: &mut Random| {
            let (key, _) = this.key(base, map, ledger);
            this.send(&["GET", &key], random);
        };
        match random.within(0..3) {
            0 => {
                self.send(&["CLIENT", "REPLY", "SKIP"], random);
                silent(self, ledger, random);
            }
            1 => {
                self.send(&["CLIENT", "REPLY", "SKIP"], random);
                self.send(&["CLIENT", "REPLY", "SKIP"], random);
                silent(self, ledger, random);
            }
            _ => {
                if random.once_in(2) {
                    self.send(&["CLIENT", "REPLY", "SKIP"], random);
                }
                self.send(&["CLIENT", "REPLY", "OFF"], random);
                for _ in 0..random.within(0..4) {
                    silent(self, ledger, random);
                }
                self.exact(&["CLIENT", "REPLY", "ON"], b"+OK\r\n", random);
            }
        }
    }

    /// A request with one key: `words`, the key, `rest`.
    fn keyed(
        &mut self,
        words: &[&str],
        base: usize,
        rest: &[&str],
        map: &Topology,
        ledger: &mut Ledger,
        random: &mut Random,
    ) {
        let (key, token) = self.key(base, map, ledger);
        let args: Vec<&str> = words.iter().copied().chain([key.as_str()]).chain(rest.iter().copied()).collect();
        self.send(&args, random);
        self.push(Expect::Token(token), vec![vec![token]], true);
    }

    fn split(&mut self, name: &str, map: &Topology, ledger: &mut Ledger, random: &mut Random) {
        let (args, all) = self.several(name, map, ledger, random);
        let mut groups = vec![Vec::new(); super::SHARDS];
        all.iter().for_each(|token| groups[ledger.shard_of(*token).unwrap_or(0)].push(*token));
        groups.retain(|group| !group.is_empty());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.send(&args, random);
        self.push(several(name, all), groups, true);
    }

    /// A request for keys on any shards, and their tokens.
    fn several(
        &mut self,
        name: &str,
        map: &Topology,
        ledger: &mut Ledger,
        random: &mut Random,
    ) -> (Vec<String>, Vec<u64>) {
        let (mut args, mut all) = (vec![name.to_owned()], Vec::new());
        for _ in 0..1 + random.within(0..7) {
            let (key, token) = self.key(random.within(0..6), map, ledger);
            all.push(token);
            args.push(key);
            if name == "MSET" {
                args.push("v".repeat(random.within(0..300)));
            }
        }
        (args, all)
    }

    /// A key that no other request names, on the shard of `base`.
    fn key(&mut self, base: usize, map: &Topology, ledger: &mut Ledger) -> (String, u64) {
        let tag = format!("{{c{}k{base}}}", self.number);
        let shard = map.shard_of(tag.as_bytes()).0 as usize;
        let token = self.issue(Some(shard), ledger);
        (format!("{tag}#{token}"), token)
    }

    fn issue(&mut self, shard: Option<usize>, ledger: &mut Ledger) -> u64 {
        ledger.issue(Issued { client: self.number, resp3: self.resp3, db: self.db, shard })
    }

    fn exact(&mut self, args: &[&str], reply: &[u8], random: &mut Random) {
        self.send(args, random);
        self.push(Expect::Exact(reply.to_vec()), Vec::new(), false);
    }

    /// Writes the request, now and then as a line.
    fn send(&mut self, args: &[&str], random: &mut Random) {
        self.asked += 1;
        let plain = |arg: &&str| !arg.is_empty() && arg.len() < 100 && !arg.contains(' ');
        let mut frame = Vec::new();
        if random.once_in(15) && args.iter().all(plain) {
            frame.extend_from_slice(args.join(" ").as_bytes());
            frame.extend_from_slice(b"\r\n");
        } else {
            request(&mut frame, args);
        }
        self.outgoing.extend(frame);
    }

    fn push(&mut self, expect: Expect, groups: Vec<Vec<u64>>, may_fail: bool) {
        self.pending.push_back(Pending { expect, groups, may_fail, blocks: false, db: None });
    }

    fn last(&mut self) -> &mut Pending {
        self.pending.back_mut().expect("a request was sent")
    }

    // What comes back.

    /// Reads `count` bytes from its socket and judges every whole reply.
    pub(crate) fn read(&mut self, count: usize, ledger: &mut Ledger) {
        self.received.extend(self.socket.drain(..count));
        let mut used = 0;
        while let Some(len) = frame_len(&self.received[used..]) {
            let reply = self.received[used..used + len].to_vec();
            used += len;
            let Some(pending) = self.pending.pop_front() else {
                return ledger.blame(format!("client {} got a reply too many: {}", self.number, shown(&reply)));
            };
            match judge(&pending, &reply, ledger) {
                Ok(Outcome::Failed) => {
                    self.failed += 1;
                    self.trouble = shown(&reply);
                }
                Ok(Outcome::Done) => self.db = pending.db.unwrap_or(self.db),
                Ok(Outcome::Undone) => {}
                Err(why) => {
                    let number = self.number;
                    ledger.blame(format!("client {number}: {why}\n  {pending:?}\n  got {}", shown(&reply)));
                }
            }
        }
        self.received.drain(..used);
    }

    /// Everything that it was owed came.
    pub(crate) fn is_content(&self) -> bool {
        self.pending.is_empty() && self.received.is_empty() && self.outgoing.is_empty()
    }
}

fn several(name: &str, all: Vec<u64>) -> Expect {
    match name {
        "MGET" => Expect::Values(all),
        "MSET" => Expect::Pairs(all),
        _ => Expect::Sum(all),
    }
}

/// A body; a few are large.
fn value(random: &mut Random) -> String {
    let len = match random.within(0..20) {
        0 => random.within(16_000..60_000),
        1..4 => random.within(500..5000),
        _ => random.within(0..40),
    };
    "x".repeat(len)
}

//! A request's journey: read it, look it up, plan it, send it. `Engine::request` is the spine.

use std::mem;

use bytes::Bytes;

use super::client::{End, Park, State};
use super::functions::uses_functions;
use super::merge::{self, Kind, Merge};
use super::out::LARGE_BYTES;
use super::{CROSS_REFUSED, Engine, NONE, Order, failure};
use crate::advice::Outcome;
use crate::command::{Class, Command, CommandId, Every, Flags, Split};
use crate::resp::{Args, Proto, ProtocolError, Reply, RequestScanner, Scan, Span, integer, request, split_inline};
use crate::route::{self, Plan, Refusal, Rules};
use crate::topology::ShardId;

/// Shards that one scan cursor can tell apart, in its low bits.
pub(super) const CURSOR_SHARD_BITS: u32 = 10;
/// Cursors stay below 2^53: some clients hold them as doubles.
const CURSOR_BITS: u32 = 53;

/// A request at hand: its bytes, its arguments, and the row that it names.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) frame: &'a [u8],
    /// The same bytes when they are large and can be handed over.
    pub(super) owned: Option<&'a Bytes>,
    pub(super) args: Args<'a>,
    pub(super) id: CommandId,
    pub(super) row: &'static Command,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is answered, or will be.
    Taken,
    /// It was not touched and is to be looked at again.
    Parked(Park),
}

/// Why the engine stopped reading a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Partial {
        need: usize,
    },
    Parked,
    /// A large request is complete and can be handed over.
    Large {
        len: usize,
    },
    Closed,
}

impl Engine {
    /// The client sent `bytes`.
    pub fn client_bytes(&mut self, id: u32, bytes: &[u8]) {
        self.metrics.bytes_in.add(bytes.len() as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.about.active = self.now;
        if !client.inbox.is_empty() || client.park != Park::No {
            client.inbox.keep(bytes);
            return self.unbox(id);
        }
        let (used, stop) = self.requests(id, bytes, false);
        let client = &mut self.clients[id as usize];
        if used < bytes.len() && stop != Stop::Closed {
            if let Stop::Partial { need } = stop {
                client.inbox.needs(need);
            }
            client.inbox.keep(&bytes[used..]);
        }
    }

    /// `count` bytes of a large request were received where [`client_direct`](Self::client_direct) said.
    pub fn client_filled(&mut self, id: u32, count: usize) {
        self.metrics.bytes_in.add(count as u64);
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        client.about.active = self.now;
        client.inbox.filled(count);
        self.unbox(id);
    }

    /// Looks again at what a parked client sent; whether its socket may be read again.
    pub(super) fn client_resumed(&mut self, id: u32) -> bool {
        if let Some(park) = self.must_wait(id) {
            // Whatever it waited for is there; now it waits for something else.
            self.clients[id as usize].park = park;
            return false;
        }
        let client = &mut self.clients[id as usize];
        client.park = Park::No;
        client.inbox.needs(0);
        self.unbox(id);
        self.close_if_finished(id);
        // Also when it waits again: what it still may send is little, but its hanging up has to be seen.
        self.client_wants(id)
    }

    /// Uses what the client's inbox holds.
    fn unbox(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(id as usize) else { return };
        if client.park != Park::No || !client.inbox.is_ripe() {
            return;
        }
        let mut inbox = mem::take(&mut client.inbox);
        loop {
            if let Some(whole) = inbox.whole.take() {
                match self.whole(id, &whole) {
                    Stop::Parked => {
                        inbox.whole = Some(whole);
                        break;
                    }
                    Stop::Closed => return,
                    _ => {}
                }
            }
            let (used, stop) = self.requests(id, inbox.bytes(), true);
            inbox.consume(used);
            match stop {
                Stop::Partial { need } => {
                    inbox.needs(need);
                    break;
                }
                Stop::Large { len } => inbox.whole = Some(inbox.take(len)),
                Stop::Parked => break,
                Stop::Closed => return,
            }
        }
        self.clients[id as usize].inbox = inbox;
    }

    /// Carries out the requests at the front of `bytes`; says how many bytes they were and why it
    /// stopped. Large ones are left to the caller when the bytes are in an inbox.
    fn requests(&mut self, id: u32, bytes: &[u8], boxed: bool) -> (usize, Stop) {
        let limits = self.options.limits;
        let mut spans = mem::take(&mut self.spans);
        let mut scanner = mem::take(&mut self.clients[id as usize].scanner);
        let mut used = 0;
        let stop = loop {
            if let Some(park) = self.must_wait(id) {
                let client = &mut self.clients[id as usize];
                if client.end == End::Closing {
                    break Stop::Closed;
                }
                client.park = park;
                break Stop::Parked;
            }
            if scanner.is_idle() {
                match self.straight_requests(id, &bytes[used..]) {
                    0 if used == bytes.len() => break Stop::Partial { need: 1 },
                    0 => {}
                    taken => {
                        used += taken;
                        continue;
                    }
                }
            }
            let rest = &bytes[used..];
            let authenticated = self.clients[id as usize].is_authenticated();
            let (len, flow) = match scanner.scan(rest, &limits, authenticated, &mut spans) {
                Ok(Scan::Frame { len, .. }) if boxed && len >= LARGE_BYTES => break Stop::Large { len },
                Ok(Scan::Frame { len, canonical: true }) => {
                    let frame = &rest[..len];
                    (len, self.request(id, frame, None, Args::new(frame, &spans)))
                }
                Ok(Scan::Frame { len, canonical: false }) => {
                    let args: Vec<&[u8]> = Args::new(rest, &spans).iter().collect();
                    (len, self.rewritten(id, &args))
                }
                Ok(Scan::Inline { len }) => match split_inline(&rest[..len]) {
                    Ok(words) => (len, self.rewritten(id, &words)),
                    Err(error) => {
                        self.protocol_error(id, error);
                        break Stop::Closed;
                    }
                },
                Ok(Scan::Partial { need }) if need > self.options.query_bytes_max => {
                    self.protocol_error(id, ProtocolError::RequestTooBig);
                    break Stop::Closed;
                }
                Ok(Scan::Partial { need }) => break Stop::Partial { need },
                Err(error) => {
                    self.protocol_error(id, error);
                    break Stop::Closed;
                }
            };
            match flow {
                Flow::Taken => used += len,
                Flow::Parked(park) => {
                    self.clients[id as usize].park = park;
                    break Stop::Parked;
                }
            }
        };
        self.spans = spans;
        self.clients[id as usize].scanner = scanner;
        (used, stop)
    }

    /// Carries out one complete large request, whose bytes can be handed over.
    fn whole(&mut self, id: u32, frame: &Bytes) -> Stop {
        if self.clients[id as usize].end == End::Closing {
            return Stop::Closed;
        }
        let mut spans = Vec::new();
        let canonical = match RequestScanner::default().scan(frame, &self.options.limits, true, &mut spans) {
            Ok(Scan::Frame { canonical, .. }) => canonical,
            _ => return Stop::Closed,
        };
        let args = Args::new(frame, &spans);
        let flow = if canonical {
            self.request(id, frame, Some(frame), args)
        } else {
            self.rewritten(id, &args.iter().collect::<Vec<_>>())
        };
        match flow {
            Flow::Taken => Stop::Partial { need: 0 },
            Flow::Parked(park) => {
                self.clients[id as usize].park = park;
                Stop::Parked
            }
        }
    }

    /// Carries out a request that did not come in the form in which servers are to see it.
    #[cold]
    fn rewritten<A: AsRef<[u8]>>(&mut self, id: u32, args: &[A]) -> Flow {
        let (mut frame, mut spans) = (Vec::new(), Vec::<Span>::new());
        request(&mut frame, args);
        match RequestScanner::default().scan(&frame, &self.options.limits, true, &mut spans) {
            Ok(_) => self.request(id, &frame, None, Args::new(&frame, &spans)),
            Err(_) => Flow::Taken,
        }
    }

    /// The spine: row, plan, and what the plan says.
    #[inline]
    pub(super) fn request(&mut self, id: u32, frame: &[u8], owned: Option<&Bytes>, args: Args<'_>) -> Flow {
        if args.is_empty() {
            return Flow::Taken;
        }
        let (command, row) = match route::resolve(args) {
            Ok(found) => found,
            Err(refusal) => return self.unresolved(id, refusal, frame, owned, args),
        };
        let request = Request { frame, owned, args, id: command, row };
        self.clients[id as usize].last = command;
        if self.unusual {
            return self.unusually(id, &request);
        }
        // Before the session, which would put it into a transaction.
        if !self.options.deny.is_empty()
            && self.options.deny.contains(&command)
            && self.clients[id as usize].is_authenticated()
        {
            return self.deny(id, &request);
        }
        if self.clients[id as usize].session.is_some()
            && let Some(flow) = self.in_session(id, &request)
        {
            return flow;
        }
        let rules = self.rules(true);
        let mut keys = mem::take(&mut self.keys);
        let flow = match route::plan(command, row, args, &self.topology, rules, &mut keys) {
            Plan::One(shard) => self.forward(id, shard, &request),
            Plan::Script(shard) => self.script(id, shard, &request),
            Plan::Split(split) => self.split(id, split, &keys, &request),
            Plan::Gather(how) => self.gather(id, how, &keys, &request),
            Plan::Every(every) => self.every(id, every, &request),
            Plan::Local(local) => self.local(id, local, &request),
            Plan::Session(session) => self.session(id, session, &keys, &request),
            Plan::Refuse(refusal) => self.refuse(id, refusal, args),
            Plan::Apart => self.alone(id, &mut keys, &request),
        };
        self.keys = keys;
        if flow == Flow::Taken {
            self.tally.request(command, &self.metrics);
        }
        flow
    }

    /// A request whose keys are on one shard because there is no other.
    #[cold]
    fn alone(&mut self, id: u32, keys: &mut Vec<u32>, request: &Request<'_>) -> Flow {
        let flow = match route::plan(request.id, request.row, request.args, &self.topology, self.rules(false), keys) {
            Plan::Script(shard) => self.script(id, shard, request),
            Plan::Session(session) => self.session(id, session, keys, request),
            _ => self.forward(id, self.topology.home(), request),
        };
        if flow == Flow::Taken {
            self.advise_ahead(request, self.rules(true));
        }
        flow
    }

    /// How requests are planned; whether those are told whose keys a second shard would part.
    #[inline(always)]
    pub(super) fn rules(&self, apart: bool) -> Rules {
        Rules { keyless_scripts: self.options.keyless_scripts, gather: self.options.gather, apart }
    }

    /// Sends the request to one shard as it is.
    pub(super) fn forward(&mut self, id: u32, shard: ShardId, request: &Request<'_>) -> Flow {
        let conn = self.conn_to(id, shard);
        if conn == NONE {
            return self.unreachable(id, shard, request);
        }
        if self.is_full(conn) {
            return self.wait_for(id, conn);
        }
        let client = &mut self.clients[id as usize];
        let seq = client.open(State::Wait, request.row.class(), self.now);
        self.send(conn, id, seq, 0, request);
        Flow::Taken
    }

    /// The connection on which the client's requests to `shard` travel, all of them, so that they keep
    /// their order: the lease that watches keys there, or the shared one. [`NONE`]: not connected.
    pub(super) fn conn_to(&mut self, id: u32, shard: ShardId) -> u32 {
        let client = &self.clients[id as usize];
        match &client.session {
            None => self.shared(shard, client.proto, client.db),
            Some(_) => self.conn_in_session(id, shard),
        }
    }

    /// Queues the request's bytes on a connection; the reply is part `part` of the client's slot `seq`.
    pub(super) fn send(&mut self, conn: u32, client: u32, seq: u32, part: u16, request: &Request<'_>) {
        let slow = request.row.flags.has(Flags::NO_MANDATORY_KEYS);
        self.expect(conn, client, seq, part, slow);
        let out = &mut self.conns[conn as usize].out;
        match request.owned {
            Some(bytes) => {
                out.hand_over(bytes.clone());
                self.make_way(conn);
            }
            None => out.push(request.frame),
        }
    }

    /// The next request on `conn` is answered to this slot; its bytes must be queued right behind.
    pub(super) fn expect(&mut self, conn: u32, client: u32, seq: u32, part: u16, slow: bool) {
        let generation = self.clients.get(client as usize).map_or(0, |client| client.generation);
        self.conns[conn as usize].expect(client, generation, seq, part, slow, self.now);
        self.mark_conn(conn);
    }

    /// One part per shard: `keys` are the positions of the keys.
    fn split(&mut self, id: u32, split: Split, keys: &[u32], request: &Request<'_>) -> Flow {
        match split {
            Split::Streams => return self.split_streams(id, keys, request),
            Split::First => return self.split_pops(id, keys, request),
            Split::Values | Split::Pairs | Split::Sum => {}
        }
        let args = request.args;
        // Which part each key belongs to, and each part's shard, connection and number of keys.
        let mut owners: Vec<u16> = Vec::with_capacity(keys.len());
        let mut parts: Vec<(ShardId, u32, usize)> = Vec::with_capacity(self.shards.len().min(keys.len()));
        for key in keys {
            let shard = self.topology.shard_of(args.at(*key as usize));
            let part = match parts.iter().position(|part| part.0 == shard) {
                Some(part) => part,
                None => {
                    parts.push((shard, NONE, 0));
                    parts.len() - 1
                }
            };
            parts[part].2 += 1;
            owners.push(part as u16);
        }
        for part in &mut parts {
            part.1 = self.conn_to(id, part.0);
            if part.1 == NONE {
                return self.answer_down(id, part.0, request.row.class());
            }
            if self.is_full(part.1) {
                return self.wait_for(id, part.1);
            }
        }
        let (count, seq) = (parts.len(), self.clients[id as usize].next_seq());
        let words = if split == Split::Pairs { 2 } else { 1 };
        for (part, (_, conn, len)) in parts.iter().enumerate() {
            self.expect(*conn, id, seq, part as u16, false);
            self.conns[*conn as usize].out.write(|out| {
                Reply::new(out, Proto::Resp2).array(1 + len * words).raw(args.raw(0, 1));
            });
        }
        for (key, owner) in keys.iter().zip(&owners) {
            self.conns[parts[*owner as usize].1 as usize].out.push(args.raw(*key as usize, words));
        }
        let kind = match split {
            Split::Values => Kind::Values { owners },
            Split::Pairs => Kind::Pairs,
            _ => Kind::Sum { total: 0 },
        };
        let merge = Merge::new(kind, count, request.row.flags.has(Flags::WRITE));
        self.clients[id as usize].open(State::Merge(Box::new(merge)), Class::Split, self.now);
        Flow::Taken
    }

    /// The request goes to every shard; nothing is sent unless all are connected.
    fn every(&mut self, id: u32, every: Every, request: &Request<'_>) -> Flow {
        match every {
            Every::Scan => return self.scan(id, request),
            Every::Wait | Every::Kill => return self.every_leased(id, every, request),
            _ => {}
        }
        let proto = self.clients[id as usize].proto;
        if let Some(own) = merge::own(every, request.args, proto, || self.proxy()) {
            return self.answer(id, |reply| _ = reply.raw(&own));
        }
        if uses_functions(request.row)
            && let Some(flow) = self.functions_first(id, (0..self.shards.len() as u16).map(ShardId))
        {
            return flow;
        }
        let conns = match self.all_conns(id, every, request) {
            Ok(conns) => conns,
            Err(flow) => return flow,
        };
        self.learn_script(request);
        let writes = Merge::writes(every, request.row.flags);
        let (mut kind, mut frame) = Kind::of_every(every, request, self.topology.shards().len());
        match every {
            Every::AllTrue => kind = Kind::Exists { known: self.known_scripts(request.args) },
            Every::SlowlogGet | Every::SlowlogLen if self.shards.len() > 1 || !self.own_log.is_empty() => {
                if let Some((slowlog, question)) = merge::Slowlog::new(request.args, self.own_log.frame()) {
                    (kind, frame) = (Kind::Slowlog(Box::new(slowlog)), Some(question));
                }
            }
            Every::ConfigSet => self.learn_slowness(request),
            _ => {}
        }
        // Each worker remembers of its own what these are about.
        let shared = matches!(request.row.name, "script|flush" | "slowlog|reset" | "config|resetstat");
        let peers = if shared { self.peers() } else { 0 };
        match request.row.name {
            "slowlog|reset" => self.own_log.clear(),
            "config|resetstat" => self.reset_calls(),
            _ => {}
        }
        let absent = conns.iter().filter(|conn| **conn == NONE).count();
        let merge = Merge::new(kind, conns.len() + peers, writes).without(absent);
        let seq = self.clients[id as usize].open(State::Merge(Box::new(merge)), Class::Every, self.now);
        for (part, conn) in conns.into_iter().enumerate().filter(|(_, conn)| *conn != NONE) {
            self.expect(conn, id, seq, part as u16, true);
            self.conns[conn as usize].out.push(frame.as_deref().unwrap_or(request.frame));
        }
        if peers > 0 {
            self.ask_peers(id, seq, self.shards.len() as u16, request.frame);
        }
        Flow::Taken
    }

    /// A shared connection to every shard, or what the client gets instead. What only tells of the servers
    /// is told of those that are there: client libraries ask for it before anything else.
    fn all_conns(&mut self, id: u32, every: Every, request: &Request<'_>) -> Result<Vec<u32>, Flow> {
        let partial = matches!(every, Every::Info | Every::ConfigGet);
        let mut conns = Vec::with_capacity(self.shards.len());
        for index in 0..self.shards.len() {
            let shard = ShardId(index as u16);
            let conn = self.conn_to(id, shard);
            if conn == NONE && !partial {
                return Err(self.answer_down(id, shard, request.row.class()));
            }
            if conn != NONE && self.is_full(conn) {
                return Err(self.wait_for(id, conn));
            }
            conns.push(conn);
        }
        if conns.iter().all(|conn| *conn == NONE) {
            return Err(self.answer_down(id, self.topology.home(), request.row.class()));
        }
        Ok(conns)
    }

    /// SCAN goes from shard to shard; the cursor's low bits say which one is at work.
    fn scan(&mut self, id: u32, request: &Request<'_>) -> Flow {
        let Some((shard, place, next)) = self.scan_at(request.args) else {
            return self.answer_error(id, "ERR invalid cursor");
        };
        let conn = self.conn_to(id, shard);
        if conn == NONE {
            return self.answer_down(id, shard, request.row.class());
        }
        if self.is_full(conn) {
            return self.wait_for(id, conn);
        }
        let merge = Merge::new(Kind::Scan { place, next }, 1, false);
        let seq = self.clients[id as usize].open(State::Merge(Box::new(merge)), Class::Every, self.now);
        self.expect(conn, id, seq, 0, false);
        let mut args: Vec<&[u8]> = request.args.iter().collect();
        let cursor = (integer(request.args.at(1)).unwrap_or(0) >> CURSOR_SHARD_BITS).to_string();
        args[1] = cursor.as_bytes();
        self.conns[conn as usize].out.write(|out| crate::resp::request(out, &args));
        Flow::Taken
    }

    /// The shard that a cursor names, its place in the order of scans, and the one that follows it.
    pub(super) fn scan_at(&self, args: Args<'_>) -> Option<(ShardId, u64, u64)> {
        let cursor = integer(args.at(1)).and_then(|cursor| u64::try_from(cursor).ok())?;
        if cursor >= 1 << CURSOR_BITS {
            return None;
        }
        let order = self.scan_order();
        let place = cursor & ((1 << CURSOR_SHARD_BITS) - 1);
        let shard = order.get(place as usize)?;
        let next = if place as usize + 1 < order.len() { place + 1 } else { 0 };
        Some((*shard, place, next))
    }

    /// The shards in an order that does not depend on the order of the configuration.
    fn scan_order(&self) -> Vec<ShardId> {
        let shards = self.topology.shards();
        let mut order: Vec<ShardId> = (0..shards.len() as u16).map(ShardId).collect();
        order.sort_by(|a, b| shards[a.0 as usize].name.cmp(&shards[b.0 as usize].name));
        order
    }

    /// The client's next request waits for this, if for anything.
    #[inline]
    pub(super) fn must_wait(&self, id: u32) -> Option<Park> {
        let client = &self.clients[id as usize];
        if client.end == End::Closing {
            return Some(Park::Held);
        }
        if client.exclusive {
            return Some(Park::Empty);
        }
        let idle = client.slots.is_empty() && client.out.is_empty();
        let full = client.slots.len() >= self.options.client_inflight_max
            || client.undelivered() >= self.options.client_output_bytes_max;
        // Once parked, it takes half of the room to go on.
        let half = client.park == Park::Window
            && (client.slots.len() * 2 > self.options.client_inflight_max
                || client.undelivered() * 2 > self.options.client_output_bytes_max);
        ((full || half) && !idle).then_some(Park::Window)
    }

    pub(super) fn is_full(&self, conn: u32) -> bool {
        self.conns[conn as usize].is_full(&self.options)
    }

    /// The client goes on when there is room on `conn`.
    #[cold]
    pub(super) fn wait_for(&mut self, id: u32, conn: u32) -> Flow {
        let generation = self.clients[id as usize].generation;
        self.conns[conn as usize].waiters.push((id, generation));
        Flow::Parked(Park::Room)
    }

    /// Answers in order, with what `write` writes.
    pub(super) fn answer(&mut self, id: u32, write: impl FnOnce(&mut Reply<'_>)) -> Flow {
        let client = &mut self.clients[id as usize];
        client.out.equip(&mut self.pool);
        client.answer(write, self.now);
        self.metrics.durations[Class::Local as usize].observe_us(0);
        self.mark_client(id);
        Flow::Taken
    }

    /// Answers an error, which also spoils a transaction that is being queued.
    pub(super) fn answer_error(&mut self, id: u32, text: impl AsRef<[u8]>) -> Flow {
        self.metrics.errors[failure::kind_of_text(text.as_ref())].inc();
        if let Some(session) = &mut self.clients[id as usize].session
            && let Some(multi) = &mut session.multi
        {
            multi.spoiled = true;
        }
        if self.options.close_on_shard_errors && failure::is_of_absence(text.as_ref()) {
            let next = self.clients[id as usize].next_seq();
            self.close_before(id, next);
            self.close_if_finished(id);
            return Flow::Taken;
        }
        self.answer(id, |reply| _ = reply.error(text))
    }

    #[cold]
    pub(super) fn answer_down(&mut self, id: u32, shard: ShardId, class: Class) -> Flow {
        if let Some(text) = self.busy_text(shard) {
            return self.answer_error(id, text);
        }
        let text = self.down_text(shard);
        self.metrics.durations[class as usize].observe_us(0);
        self.answer_error(id, &text)
    }

    /// Why nothing can be sent to the shard.
    pub(super) fn down_text(&self, shard: ShardId) -> String {
        let base = self.shards[shard.0 as usize].shared[0];
        let trouble = self.conns.get(base as usize).map_or("", |conn| conn.trouble.as_str());
        failure::down(self.topology.shard(shard), trouble)
    }

    /// What stands for the reply of a shard that is to be asked in a later step, and cannot be any more.
    pub(super) fn gone_between_steps(&self, shard: ShardId) -> Vec<u8> {
        let said = self.shards[shard.0 as usize].probe.said.clone();
        said.unwrap_or_else(|| {
            let trouble = "it went away between two steps of the command";
            format!("-{}\r\n", failure::down(self.topology.shard(shard), trouble)).into_bytes()
        })
    }

    #[cold]
    pub(super) fn refuse(&mut self, id: u32, refusal: Refusal, args: Args<'_>) -> Flow {
        self.monitors.rejected = true;
        let mut remedy = String::new();
        if let Refusal::CrossSlot { first, second } = refusal {
            self.metrics.cross_shard[CROSS_REFUSED].inc();
            let mut keys = self.parted(args);
            if keys.len() < 2 {
                // Only a server knows this command's keys.
                keys = vec![args.at(first as usize), args.at(second as usize)];
            }
            remedy = self.remedy(&keys);
            self.advise(&keys, args.at(0), Outcome::Refused);
        }
        let text = failure::refusal(refusal, args, &self.topology, &remedy);
        if matches!(refusal, Refusal::Arity(id) if crate::command::row(id).name == "exec") {
            return self.abort(id, &text);
        }
        self.answer_error(id, &text)
    }

    #[cold]
    fn deny(&mut self, id: u32, request: &Request<'_>) -> Flow {
        self.monitors.rejected = true;
        let client = &mut self.clients[id as usize];
        // CLIENT REPLY SKIP is about any next request.
        let skipped = client.session.as_mut().is_some_and(|session| mem::take(&mut session.skip));
        client.mute |= skipped;
        let name = request.row.name;
        let flow = self.answer_error(id, format!("NOPERM the command '{name}' is denied by [commands] deny"));
        if skipped {
            self.clients[id as usize].mute = false;
            self.drop_plain_session(id);
        }
        flow
    }

    /// The client does not speak RESP: it is told so, behind the replies that it still gets, and closed.
    #[cold]
    fn protocol_error(&mut self, id: u32, error: ProtocolError) {
        self.answer_error(id, format!("ERR Protocol error: {error}"));
        self.hang_up(id);
    }

    /// The client gets its replies up to this slot's, without it, and is closed then.
    #[cold]
    pub(super) fn close_before(&mut self, id: u32, seq: u32) {
        let client = &mut self.clients[id as usize];
        client.mute_from(seq);
        client.end = End::Closing;
    }

    /// No more requests; closed as soon as the client has got every reply.
    pub(super) fn hang_up(&mut self, id: u32) {
        self.clients[id as usize].end = End::Closing;
        self.close_if_finished(id);
    }

    #[inline]
    pub(super) fn close_if_finished(&mut self, id: u32) {
        if self.clients.get(id as usize).is_some_and(super::client::Client::is_finished) {
            self.orders.push_back(Order::CloseClient { client: id });
        }
    }
}

/// The cursor that a client sees, for a server's cursor on the shard at `place`; None when it would
/// not fit.
pub(super) fn composite(cursor: u64, place: u64) -> Option<u64> {
    (cursor < 1 << (CURSOR_BITS - CURSOR_SHARD_BITS)).then_some(cursor << CURSOR_SHARD_BITS | place)
}

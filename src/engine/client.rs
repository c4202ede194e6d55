//! One client of the proxy: its requests in flight, in order, and the replies that wait their turn.
//!
//! ```text
//! slots:  [ Wait | Stashed | Wait | Merge ]      one per request, oldest first
//!           ^ head_seq: only this one's reply may go out; the others are kept until it has
//! ```

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use super::Options;
use super::inbox::Inbox;
use super::merge::Merge;
use super::out::{LARGE_BYTES, Out, Pool};
use super::session::Session;
use crate::command::{Class, CommandId};
use crate::resp::{Proto, Reply, RequestScanner};

/// A reply, as it comes from a server's connection.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    Copied(&'a [u8]),
    Owned(Bytes),
}

impl Answer<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// One request in flight.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// When the request was complete, in microseconds of the worker's clock.
    pub(super) at: u64,
    pub(super) class: Class,
    /// The client asked for no reply (CLIENT REPLY).
    pub(super) mute: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// One server's reply is the answer.
    Wait,
    /// Answered, but not next in order: its bytes are in the stash.
    Stashed { start: u32, len: u32 },
    /// The same for a large reply.
    Held(Box<Bytes>),
    /// Several parts make the answer.
    Merge(Box<Merge>),
}

/// Whether an answer was next in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Next,
    /// It waits for those before it: nothing has changed for anybody.
    Later,
}

/// A slot that has its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) turn: Turn,
    pub(super) class: Class,
    /// When its request was complete.
    pub(super) at: u64,
}

/// Why a client's next request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    No,
    /// Too many requests in flight or bytes undelivered.
    Window,
    /// The next request needs all earlier replies first.
    Empty,
    /// A connection to a server has no room; it says when it has.
    Room,
    /// CLIENT PAUSE, or a look-up that is under way.
    Held,
}

/// Whether a client sends more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// It sends nothing more; what it sent is carried out and answered.
    HalfClosed,
    /// Nothing more is read; it is closed once every reply is written.
    Closing,
}

#[derive(Debug)]
pub(super) struct Client {
    /// Tells this client from earlier ones in the same place: late replies to those are dropped.
    pub(super) generation: u32,
    /// The number of the oldest slot; the others follow.
    head_seq: u32,
    pub(super) slots: VecDeque<Slot>,
    pub(super) out: Out,
    stash: Vec<u8>,
    stashed: u32,
    /// What a reply of this client measures, lately.
    reply_bytes: u32,
    pub(super) inbox: Inbox,
    pub(super) scanner: RequestScanner,
    pub(super) proto: Proto,
    pub(super) db: u32,
    pub(super) park: Park,
    pub(super) dirty: bool,
    /// The connection and the slot behind the last message published: while the next slot is that
    /// one, everything in flight is on that connection.
    pub(super) published: (u32, u32),
    /// Until the ring is empty no further request is looked at.
    pub(super) exclusive: bool,
    pub(super) end: End,
    pub(super) mute: bool,
    /// The row of its latest request; [`NO_COMMAND`] before the first and after an unknown one.
    pub(super) last: CommandId,
    /// Everything that most clients do not have: transactions, subscriptions, a failed login.
    pub(super) session: Option<Box<Session>>,
    pub(super) about: Box<About>,
}

/// No row has this number.
pub(super) const NO_COMMAND: CommandId = CommandId(u16::MAX);

/// What CLIENT LIST tells.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub id: u64,
    pub peer: String,
    pub local: String,
    pub name: Vec<u8>,
    pub user: String,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    /// When it connected, in microseconds of the worker's clock.
    pub since: u64,
    /// When it last asked for something, or took some of an answer.
    pub active: u64,
    /// Connected over a unix socket or loopback.
    pub trusted: bool,
    pub no_evict: bool,
    pub no_touch: bool,
}

/// What a reply is taken to measure before one was seen: a client that asks for a thousand large
/// values with its first breath gets some of them first.
const UNKNOWN_REPLY_BYTES: u32 = 8 * 1024;

impl Client {
    pub(super) fn new(generation: u32, about: About) -> Self {
        Self {
            generation,
            head_seq: 0,
            slots: VecDeque::new(),
            out: Out::default(),
            stash: Vec::new(),
            stashed: 0,
            reply_bytes: UNKNOWN_REPLY_BYTES,
            inbox: Inbox::default(),
            scanner: RequestScanner::default(),
            proto: Proto::Resp2,
            db: 0,
            park: Park::No,
            dirty: false,
            published: (u32::MAX, 0),
            exclusive: false,
            end: End::Open,
            mute: false,
            last: NO_COMMAND,
            session: None,
            about: Box::new(about),
        }
    }

    /// The rare half of the client, made when it is first needed.
    pub(super) fn session_mut(&mut self) -> &mut Session {
        self.session.get_or_insert_default()
    }

    #[inline]
    pub(super) fn is_authenticated(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.authenticated)
    }

    /// It has sent all that it will, and has got all that it asked for.
    #[inline]
    pub(super) fn is_finished(&self) -> bool {
        self.slots.is_empty()
            && self.out.is_empty()
            && match self.end {
                End::Open => false,
                End::HalfClosed => self.park == Park::No,
                End::Closing => true,
            }
    }

    /// Writes an answer of the proxy's own behind everything that is still to come.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Reply<'_>), at: u64) {
        let proto = self.proto;
        if self.slots.is_empty() {
            if !self.mute {
                self.out.write(|out| write(&mut Reply::new(out, proto)));
            }
            return;
        }
        let start = self.stash.len();
        write(&mut Reply::new(&mut self.stash, proto));
        let state = State::Stashed { start: start as u32, len: (self.stash.len() - start) as u32 };
        self.stashed += 1;
        self.open(state, Class::Local, at);
    }

    /// Writes what nobody asked for behind everything that is in flight.
    pub(super) fn push_behind(&mut self, bytes: &[u8], at: u64) {
        let start = self.stash.len() as u32;
        self.stash.extend_from_slice(bytes);
        self.stashed += 1;
        let seq = self.open(State::Stashed { start, len: bytes.len() as u32 }, Class::Local, at);
        // CLIENT REPLY does not concern it.
        if let Some(slot) = self.slot(seq) {
            slot.mute = false;
        }
    }

    /// Opens the next slot and returns its number.
    #[inline]
    pub(super) fn open(&mut self, state: State, class: Class, at: u64) -> u32 {
        let seq = self.next_seq();
        self.slots.push_back(Slot { state, at, class, mute: self.mute });
        seq
    }

    /// Nothing from slot `seq` on goes out.
    pub(super) fn mute_from(&mut self, seq: u32) {
        self.mute = true;
        let index = seq.wrapping_sub(self.head_seq) as usize;
        self.slots.iter_mut().skip(index).for_each(|slot| slot.mute = true);
    }

    /// The number of the slot that is opened next.
    #[inline]
    pub(super) fn next_seq(&self) -> u32 {
        self.head_seq.wrapping_add(self.slots.len() as u32)
    }

    /// The number of the oldest slot.
    pub(super) fn oldest_seq(&self) -> u32 {
        self.head_seq
    }

    /// The slot numbered `seq`, while it is in flight.
    #[inline]
    pub(super) fn slot(&mut self, seq: u32) -> Option<&mut Slot> {
        self.slots.get_mut(seq.wrapping_sub(self.head_seq) as usize)
    }

    /// The same for a small reply that is the whole answer; None: it is not, or nobody wants it.
    #[inline(always)]
    pub(super) fn settle_plain(&mut self, seq: u32, reply: &[u8], pool: &mut Pool) -> Option<Settled> {
        let index = seq.wrapping_sub(self.head_seq) as usize;
        let slot = self.slots.get_mut(index).filter(|slot| matches!(slot.state, State::Wait) && !slot.mute)?;
        let (class, at) = (slot.class, slot.at);
        self.reply_bytes = (self.reply_bytes - self.reply_bytes / 8) + reply.len() as u32 / 8;
        if index > 0 {
            if self.stash.capacity() == 0 {
                self.stash = pool.take();
            }
            let (start, len) = (self.stash.len() as u32, reply.len() as u32);
            self.stash.extend_from_slice(reply);
            mem::forget(mem::replace(&mut slot.state, State::Stashed { start, len }));
            self.stashed += 1;
            return Some(Settled { turn: Turn::Later, class, at });
        }
        mem::forget(self.slots.pop_front());
        self.out.equip(pool);
        self.out.push(reply);
        self.head_seq = self.head_seq.wrapping_add(1);
        if self.stashed > 0 {
            self.unstash();
        }
        Some(Settled { turn: Turn::Next, class, at })
    }

    /// Puts the answer of slot `seq` where it belongs: out, if it is next in order, else aside.
    #[inline(always)]
    pub(super) fn settle(&mut self, seq: u32, answer: Answer<'_>, pool: &mut Pool) -> Turn {
        let index = seq.wrapping_sub(self.head_seq) as usize;
        let len = answer.bytes().len();
        self.reply_bytes = (self.reply_bytes - self.reply_bytes / 8).saturating_add((len / 8) as u32);
        if index == 0 {
            self.out.equip(pool);
            let Some(slot) = self.slots.pop_front() else { return Turn::Later };
            if !slot.mute {
                match answer {
                    Answer::Copied(bytes) => self.out.push(bytes),
                    Answer::Owned(bytes) => self.out.hand_over(bytes),
                }
            }
            // A slot that only waited owns nothing: the compiler need not look.
            if matches!(slot.state, State::Wait) {
                mem::forget(slot);
            }
            self.head_seq = self.head_seq.wrapping_add(1);
            if self.stashed > 0 {
                self.unstash();
            }
            return Turn::Next;
        }
        let Some(slot) = self.slots.get_mut(index) else { return Turn::Later };
        let state = match answer {
            Answer::Copied(bytes) => {
                if self.stash.capacity() == 0 {
                    self.stash = pool.take();
                }
                let start = self.stash.len() as u32;
                self.stash.extend_from_slice(bytes);
                State::Stashed { start, len: len as u32 }
            }
            Answer::Owned(bytes) => State::Held(Box::new(bytes)),
        };
        let old = mem::replace(&mut slot.state, state);
        if matches!(old, State::Wait) {
            mem::forget(old);
        }
        self.stashed += 1;
        Turn::Later
    }

    /// Whether the client, which waits for earlier replies, may go on now that the oldest slots were
    /// answered.
    #[inline]
    pub(super) fn may_go_on(&mut self) -> bool {
        if self.exclusive && self.slots.is_empty() {
            self.exclusive = false;
            if let Some(session) = &mut self.session {
                session.blocked = super::NONE;
            }
        }
        match self.park {
            Park::No | Park::Held | Park::Room => false,
            Park::Empty => self.slots.is_empty(),
            Park::Window => true,
        }
    }

    /// Moves out every answer that is next in order.
    #[inline(never)]
    fn unstash(&mut self) {
        while let Some(slot) = self.slots.front_mut() {
            match &mut slot.state {
                State::Stashed { start, len } => {
                    if !slot.mute {
                        self.out.push(&self.stash[*start as usize..][..*len as usize]);
                    }
                }
                State::Held(bytes) => {
                    if !slot.mute {
                        self.out.hand_over(mem::take(bytes));
                    }
                }
                State::Wait | State::Merge(_) => break,
            }
            self.slots.pop_front();
            self.head_seq = self.head_seq.wrapping_add(1);
            self.stashed -= 1;
        }
        if self.stashed == 0 {
            self.stash.clear();
        } else if self.stash.len() > 4 * LARGE_BYTES {
            self.compact();
        }
    }

    /// Drops the bytes of answers that are out, once they are most of the stash.
    fn compact(&mut self) {
        let live: usize = self.slots.iter().map(|slot| slot.stashed_bytes()).sum();
        if live * 2 > self.stash.len() {
            return;
        }
        let old = mem::replace(&mut self.stash, Vec::with_capacity(live * 2));
        for slot in &mut self.slots {
            if let State::Stashed { start, len } = &mut slot.state {
                let bytes = &old[*start as usize..][..*len as usize];
                *start = self.stash.len() as u32;
                self.stash.extend_from_slice(bytes);
            }
        }
    }

    /// Bytes that wait to be delivered, or will soon.
    #[inline]
    pub(super) fn undelivered(&self) -> usize {
        self.out.len() + self.stash.len() + self.slots.len() * self.reply_bytes as usize
    }

    /// How many requests a client that need not wait may surely make before that is asked again.
    #[inline]
    pub(super) fn room(&self, options: &Options) -> usize {
        const MANY: usize = 64;
        let fits = self.slots.len() + MANY <= options.client_inflight_max
            && self.undelivered() + MANY * self.reply_bytes as usize <= options.client_output_bytes_max;
        if fits { MANY } else { 1 }
    }

    /// Bytes that this client makes the proxy hold.
    pub(super) fn buffered(&self) -> usize {
        self.out.len() + self.stash.len() + self.inbox.len()
    }

    /// Bytes of replies that it could read.
    pub(super) fn unread(&self) -> usize {
        self.out.len() + self.stash.len()
    }

    /// It waits for nothing: no reply, no message, no pause's end. A reply that is still to be written counts
    /// from then on.
    pub(super) fn is_idle(&self) -> bool {
        let told = |session: &Session| session.monitors || !session.subscriptions.is_empty();
        let held = matches!(self.park, Park::Held | Park::Room);
        self.slots.is_empty() && !held && !self.dirty && !self.session.as_ref().is_some_and(|session| told(session))
    }

    /// Nothing in flight, nothing to write: buffers go to those who need some.
    #[inline]
    pub(super) fn rest(&mut self, pool: &mut Pool) {
        self.out.retire(pool);
        if self.stash.capacity() > 0 && self.stashed == 0 {
            pool.give(mem::take(&mut self.stash));
        }
    }

    /// Gives back what a burst made larger than an idle client needs.
    pub(super) fn shrink(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > 8 {
            self.slots = VecDeque::new();
        }
    }
}

impl Slot {
    fn stashed_bytes(&self) -> usize {
        match self.state {
            State::Stashed { len, .. } => len as usize,
            _ => 0,
        }
    }
}

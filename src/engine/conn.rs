//! One connection to a server: what is to be written, and whose replies are to come, in order.

use std::collections::{HashSet, VecDeque};

use super::Options;
use super::inbox::Inbox;
use super::out::Out;
use super::scripts::Sha;
use crate::resp::{Proto, ReplyScanner};
use crate::topology::ShardId;

/// Replies that nobody waits for any more, or never did.
pub(super) const NOBODY: u32 = u32::MAX;
/// Replies to what the proxy itself asked for before the connection may be used.
pub(super) const GREETING: u32 = u32::MAX - 1;
/// Replies to the engine's own questions; the tag's `seq` says which one.
pub(super) const ENGINE: u32 = u32::MAX - 2;
/// Stands for the client on a lease whose transaction is carried through whatever becomes of the client.
pub(super) const TRANSACTION: u32 = u32::MAX - 3;
/// Replies to what is asked for clients that wait; the tag's `seq` says what it was.
pub(super) const WAITER: u32 = u32::MAX - 4;
/// Replies that a client of another worker waits for; the tag's `seq` says which one.
pub(super) const PEER: u32 = u32::MAX - 5;
/// Replies to what moves a key to another shard; the tag's `seq` says which one. The lowest of these:
/// whatever is below is a client.
pub(super) const MOVER: u32 = u32::MAX - 6;

/// Whose reply comes next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) client: u32,
    pub(super) generation: u32,
    pub(super) seq: u32,
    pub(super) part: u16,
    /// It may take longer than other requests (scripts).
    pub(super) slow: bool,
    /// When it was queued, in microseconds of the worker's clock.
    pub(super) at: u64,
    /// Where its request starts in all that was ever queued: whether it was sent can be told.
    pub(super) offset: u64,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Everybody's requests to this shard.
    Shared,
    /// Held by one client, or idle when `client` is [`NOBODY`].
    Lease { client: u32, keep: bool },
    /// One shard's part of transactions over several shards.
    Party(Hold),
    /// Subscriptions of all clients of this worker.
    Hub,
    /// Says which of the keys that clients wait for have changed.
    Track,
    /// All requests of one client that tracks what it reads; [`NOBODY`]'s is closed once it has answered
    /// everything. `busy`: a transaction is carried out on it whatever becomes of the client.
    Private { client: u32, busy: bool },
    /// Told of changes of what one client reads elsewhere.
    Sink { client: u32 },
    /// Asks whether the server is busy.
    Probe,
}

/// Who holds a connection that only transactions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Nobody,
    /// This client's transaction is prepared on it.
    Client(u32),
    /// Nobody any more, once it has answered everything.
    Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// No socket; the last attempt failed or none was made. Requests are refused.
    Down,
    /// The same, and an attempt is as far as the greeting: who accepts connections need not answer.
    Knocking,
    /// A script runs on it and the server says BUSY: requests are refused with that.
    Busy,
    /// On its way, and nothing speaks against it: requests wait.
    Connecting,
    /// The socket is there; the greeting's replies are awaited.
    Greeting,
    Up,
    /// A script has run on it for a while: nothing more is written, and the server is asked elsewhere.
    Stalled,
}

impl Link {
    /// Requests are refused at once.
    #[inline]
    pub(super) fn is_shut(self) -> bool {
        self.is_down() || self == Self::Busy
    }

    /// Nothing speaks for the server.
    #[inline]
    pub(super) fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Knocking)
    }

    /// The socket is there and was greeted.
    pub(super) fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Stalled | Self::Busy)
    }
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) shard: ShardId,
    pub(super) proto: Proto,
    pub(super) db: u32,
    pub(super) purpose: Use,
    pub(super) link: Link,
    pub(super) out: Out,
    /// Written before anything in `out`.
    pub(super) greeting: Out,
    pub(super) greetings_left: u32,
    pub(super) fifo: VecDeque<Tag>,
    /// Requests that were queued and are not counted yet.
    pub(super) asked: u64,
    pub(super) inbox: Inbox,
    pub(super) scanner: ReplyScanner,
    pub(super) dirty: bool,
    /// A blocking command is under way: silence is no fault.
    pub(super) patient: bool,
    /// When the last byte came.
    pub(super) heard: u64,
    /// When the last bytes of requests went.
    pub(super) sent: u64,
    /// Clients whose next request waits for room here.
    pub(super) waiters: Vec<(u32, u32)>,
    /// Why it is not up, for the error's text.
    pub(super) trouble: String,
    /// It was up before: the next time is a reconnect.
    pub(super) was_up: bool,
    /// Bodies that went to the server over it.
    pub(super) scripts: HashSet<Sha>,
    /// What the server calls this connection (its CLIENT ID).
    pub(super) server_id: i64,
    /// An admin's own words went over it, or it is to be unblocked: nobody may inherit it.
    pub(super) tainted: bool,
    /// It is not to be connected before its client's sink is.
    pub(super) waits_for_sink: bool,
}

impl Conn {
    pub(super) fn new(shard: ShardId, proto: Proto, db: u32, purpose: Use) -> Self {
        Self {
            shard,
            proto,
            db,
            purpose,
            link: Link::Connecting,
            out: Out::default(),
            greeting: Out::default(),
            greetings_left: 0,
            fifo: VecDeque::new(),
            asked: 0,
            inbox: Inbox::default(),
            scanner: ReplyScanner::default(),
            dirty: false,
            patient: false,
            heard: 0,
            sent: 0,
            waiters: Vec::new(),
            trouble: "no connection was made yet".to_owned(),
            was_up: false,
            scripts: HashSet::new(),
            server_id: 0,
            tainted: false,
            waits_for_sink: false,
        }
    }

    /// There is a socket.
    #[inline]
    pub(super) fn is_linked(&self) -> bool {
        self.is_greeting() || self.link.is_up()
    }

    /// The greeting is still to be answered.
    pub(super) fn is_greeting(&self) -> bool {
        matches!(self.link, Link::Greeting | Link::Knocking)
    }

    /// Replies that come are anybody's: there is a socket, and nothing special about it.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.link == Link::Up || self.is_greeting()
    }

    /// The next request is answered to this slot; its bytes must be queued right behind.
    #[inline(always)]
    pub(super) fn expect(&mut self, client: u32, generation: u32, seq: u32, part: u16, slow: bool, now: u64) {
        self.asked += 1;
        self.fifo.push_back(Tag { client, generation, seq, part, slow, at: now, offset: self.out.end() });
    }

    /// When the request at the front, or the reply to it, last moved on, if it is under way: a large one is no
    /// silence, however long it takes.
    pub(super) fn moved(&self) -> Option<u64> {
        let end = self.fifo.get(1).map_or(self.out.end(), |next| next.offset);
        match () {
            () if !self.inbox.is_empty() => Some(self.heard),
            () if self.out.taken() < end => Some(self.sent),
            () => None,
        }
    }

    /// It takes no further request for now.
    #[inline]
    pub(super) fn is_full(&self, options: &Options) -> bool {
        self.out.len() > options.backend_buffer_bytes_max || self.fifo.len() >= options.backend_inflight_max
    }

    /// What may be written now.
    pub(super) fn writable(&mut self) -> Option<&mut Out> {
        match self.link {
            Link::Up => Some(&mut self.out),
            Link::Greeting | Link::Knocking => Some(&mut self.greeting),
            Link::Down | Link::Connecting | Link::Stalled | Link::Busy => None,
        }
    }
}

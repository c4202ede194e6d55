//! The other workers of the process: what concerns every client is asked of each of them.
//!
//! ```text
//! CLIENT LIST -> own lines, part 0 of a slot -> Ask to each peer -> its lines, parts 1.. -> one reply
//! ```
//!
//! A question is the command itself, its answer a frame; both travel as messages that the driver
//! carries, never on the path of a request for keys. Who does not answer in time, or cannot be told,
//! is a part that failed: nobody waits for a worker that is stuck.

use std::collections::BTreeMap;

use slab::Slab;

use super::client::Answer;
use super::conn::{PEER, Tag};
use super::tracking::News;
use super::{Engine, Order, failure};
use crate::command::{Local, Route};
use crate::resp::{Args, RequestScanner};
use crate::route;

/// What one worker's engine has for another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the command in `frame` means among the receiver's clients; wants one [`Answer`](Self::Answer).
    Ask { from: u16, number: u64, frame: Vec<u8> },
    /// The receiver's question `number` is answered with a whole reply.
    Answer { number: u64, reply: Vec<u8> },
    /// What the sender's clients asked for, for the receiver's monitors.
    Lines { from: u16, lines: Vec<u8> },
    /// Lines were lost on their way to worker `to`, the receiver.
    LinesLost { to: u16 },
    /// What a client of the receiver is to forget.
    Invalidate(News),
    /// The client that was to hear of what the receiver's client `source` reads is gone.
    RedirectGone { source: u64 },
    /// Nobody monitors at the sender any more.
    NoLines { from: u16 },
}

/// What this worker asked and was asked.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Questions so far: their numbers.
    number: u64,
    /// Those without an answer, the oldest first.
    asked: BTreeMap<u64, Asked>,
    /// Those of others that wait for a server: who asked, and under which number.
    pub(super) owed: Slab<(u16, u64)>,
}

/// The place that an answer is for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    client: u32,
    generation: u32,
    seq: u32,
    part: u16,
    at: u64,
}

impl Engine {
    /// How many other workers there are.
    pub(super) fn peers(&self) -> usize {
        self.options.facts.threads.saturating_sub(1)
    }

    /// Their numbers.
    pub(super) fn others(&self) -> impl Iterator<Item = u16> + use<> {
        let me = self.options.worker;
        (0..self.options.facts.threads as u16).filter(move |worker| *worker != me)
    }

    /// Asks every other worker; their answers are the parts from `part` on of the client's slot `seq`.
    pub(super) fn ask_peers(&mut self, client: u32, seq: u32, part: u16, frame: &[u8]) {
        let generation = self.clients.get(client as usize).map_or(0, |client| client.generation);
        let me = self.options.worker;
        for (to, part) in self.others().zip(part..) {
            self.peers.number += 1;
            let number = self.peers.number;
            self.peers.asked.insert(number, Asked { client, generation, seq, part, at: self.now });
            let message = Message::Ask { from: me, number, frame: frame.to_vec() };
            self.orders.push_back(Order::Send { to, message });
        }
    }

    /// Another worker has something for this one.
    pub fn message(&mut self, message: Message) {
        match message {
            Message::Ask { from, number, frame } => self.asked_by(from, number, &frame),
            Message::Answer { number, reply } => self.peer_answered(number, &reply),
            Message::Lines { from, lines } => self.lines_from(from, &lines),
            Message::LinesLost { .. } => self.close_monitors(),
            Message::Invalidate(news) => self.told_of_changes(&news),
            Message::RedirectGone { source } => self.redirect_gone(source),
            Message::NoLines { from } => self.not_monitored_by(from),
        }
    }

    /// The message could not be delivered: the other worker takes no more.
    pub fn undelivered(&mut self, to: u16, message: &Message) {
        match message {
            Message::Ask { number, .. } => self.peer_answered(*number, &failure::peer_silent("takes no more messages")),
            Message::Lines { .. } | Message::LinesLost { .. } => self.lines_lost(to),
            Message::Invalidate(news) => self.changes_lost(to, news),
            // Whoever asked gives up in time, and whoever sends lines for nobody is told again.
            Message::Answer { .. } | Message::NoLines { .. } | Message::RedirectGone { .. } => {}
        }
    }

    /// To be called with every tick: whoever waits for too long gets an error.
    pub(super) fn end_questions(&mut self) {
        let timeout = self.options.request_timeout;
        while let Some((number, asked)) = self.peers.asked.first_key_value()
            && self.now.saturating_sub(asked.at) >= timeout
        {
            let text = failure::peer_silent(&format!("did not answer within {} ms", timeout / 1000));
            self.peer_answered(*number, &text);
        }
    }

    fn peer_answered(&mut self, number: u64, reply: &[u8]) {
        let Some(Asked { client, generation, seq, part, at }) = self.peers.asked.remove(&number) else { return };
        self.complete(Tag { client, generation, seq, part, slow: false, at, offset: 0 }, Answer::Copied(reply));
    }

    /// A server answered what another worker's client asked.
    pub(super) fn owed_answered(&mut self, owed: u32, reply: &[u8]) {
        if let Some((from, number)) = self.peers.owed.try_remove(owed as usize) {
            self.answer_peer(from, number, reply.to_vec());
        }
    }

    pub(super) fn answer_peer(&mut self, to: u16, number: u64, reply: Vec<u8>) {
        self.orders.push_back(Order::Send { to, message: Message::Answer { number, reply } });
    }

    /// A client of another worker asks.
    fn asked_by(&mut self, from: u16, number: u64, frame: &[u8]) {
        let mut spans = Vec::new();
        let scanned = RequestScanner::default().scan(frame, &self.options.limits, true, &mut spans);
        let args = Args::new(frame, &spans);
        let reply = match scanned.ok().and_then(|_| route::resolve(args).ok()) {
            Some((_, row)) if row.route == Route::Local(Local::ClientUnblock) => {
                // A server may have to say whether it could be.
                let owed = self.peers.owed.insert((from, number)) as u32;
                if let Some(reply) = self.unblock_here(args, PEER, owed) {
                    self.owed_answered(owed, &reply);
                }
                return;
            }
            Some((_, row)) => match row.route {
                Route::Local(what) => self.tell_peer(what, args),
                _ => self.heard_of(from, row.name, args),
            },
            None => b"+OK\r\n".to_vec(),
        };
        self.answer_peer(from, number, reply);
    }

    /// A command that another worker carries out concerns what this one remembers.
    fn heard_of(&mut self, from: u16, name: &str, args: Args<'_>) -> Vec<u8> {
        match name {
            "script|flush" => self.forget_scripts(),
            "slowlog|reset" => self.own_log.clear(),
            "config|resetstat" => self.reset_calls(),
            "config|set" => _ = self.told_of_slowness(args),
            "script|load" => self.told_of_script(args.at(2)),
            "monitor" => self.monitored_by(from),
            _ => {}
        }
        b"+OK\r\n".to_vec()
    }
}

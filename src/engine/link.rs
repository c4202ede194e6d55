//! The life of a connection to a server: greeted before it is used, and when it breaks, everybody who
//! waits for it is told whether the request may have run.

use std::mem;

use super::client::Answer;
use super::conn::{ENGINE, GREETING, Link, MOVER, PEER, Tag, Use, WAITER};
use super::inbox::Inbox;
use super::{Engine, Fault, Order, failure};
use crate::metrics::BackendError;
use crate::resp::{Proto, ReplyError, ReplyScanner, elements, integer, request};

impl Engine {
    /// The socket is connected: the greeting goes first.
    pub fn conn_connected(&mut self, id: u32) {
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let (purpose, shard) = (conn.purpose, conn.shard);
        let tracking = match purpose {
            Use::Private { client, .. } => self.greeting_of(client, shard),
            _ => Some(Vec::new()),
        };
        let Some(tracking) = tracking else {
            self.conn_lost(id, Fault::Connect, "the connection that hears of changes is not there");
            return self.reconnect(id);
        };
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let credentials = &self.options.credentials[conn.shard.0 as usize];
        let mut hello = vec!["HELLO", if conn.proto == Proto::Resp3 { "3" } else { "2" }];
        if let Some(password) = &credentials.password {
            hello.extend(["AUTH", credentials.username.as_deref().unwrap_or("default"), password]);
        }
        let select = ["SELECT".to_owned(), conn.db.to_string()];
        conn.greeting.clear();
        conn.greeting.write(|out| {
            request(out, &hello);
            if conn.db != 0 {
                request(out, &select);
            }
            tracking.iter().for_each(|frame| out.extend_from_slice(frame));
        });
        conn.greetings_left = if conn.db == 0 { 1 } else { 2 } + tracking.len() as u32;
        for _ in 0..conn.greetings_left {
            conn.fifo.push_front(Tag {
                client: GREETING,
                generation: 0,
                seq: 0,
                part: 0,
                slow: false,
                at: self.now,
                offset: 0,
            });
        }
        conn.link = if conn.link == Link::Down { Link::Knocking } else { Link::Greeting };
        conn.heard = self.now;
        let backend = &self.metrics.backends[conn.shard.0 as usize];
        backend.connections.inc();
        if conn.was_up {
            backend.reconnects.inc();
        }
        self.mark_conn(id);
    }

    /// One reply to the greeting.
    pub(super) fn greeted(&mut self, id: u32, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            let said = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            let busy = reply.starts_with(b"-BUSY");
            if busy {
                self.greeted_busy(id, reply);
            }
            self.conn_lost(
                id,
                if busy { Fault::Connect } else { Fault::Auth },
                &format!("it answered the greeting with '{said}'"),
            );
            return self.reconnect(id);
        }
        let base = self.is_base(id);
        let conn = &mut self.conns[id as usize];
        let fields: Vec<&[u8]> = elements(reply).collect();
        let version = fields.chunks(2).find(|pair| pair[0].ends_with(b"\r\nversion\r\n"));
        if let Some([_, version]) = version {
            let text = version.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
            self.shards[conn.shard.0 as usize].version = Some(String::from_utf8_lossy(text).trim_end().to_owned());
        }
        let is_valkey =
            fields.chunks(2).any(|pair| pair[0].ends_with(b"\r\nserver\r\n") && pair[1..] == [b"$6\r\nvalkey\r\n"]);
        self.shards[conn.shard.0 as usize].is_valkey = is_valkey;
        let number = fields.chunks(2).find(|pair| pair[0].ends_with(b"\r\nid\r\n"));
        if let Some([_, number]) = number {
            let digits = number.strip_prefix(b":").and_then(|number| number.strip_suffix(b"\r\n"));
            conn.server_id = digits.and_then(integer).unwrap_or(0);
        }
        conn.greetings_left -= 1;
        if conn.greetings_left == 0 {
            conn.link = Link::Up;
            conn.was_up = true;
            if base {
                self.metrics.backends[conn.shard.0 as usize].up.set(1);
            }
            let (purpose, shard) = (conn.purpose, conn.shard);
            self.mark_conn(id);
            match purpose {
                Use::Hub => self.hub_up(shard),
                Use::Track => self.track_up(shard),
                Use::Shared => {
                    self.waiting_up(shard);
                    self.spare_up(id);
                }
                Use::Sink { client } => self.sink_up(client, shard),
                Use::Lease { .. } | Use::Party(_) | Use::Private { .. } | Use::Probe => {}
            }
            // Whoever took it may have let go of it before it was connected.
            self.lease_answered(id);
        }
    }

    /// The socket could not be connected, or broke. Everybody who waits for it is told.
    pub fn conn_lost(&mut self, id: u32, fault: Fault, trouble: &str) {
        let base = self.is_base(id);
        let Some(conn) = self.conns.get_mut(id as usize) else { return };
        let shard = conn.shard;
        let backend = &self.metrics.backends[shard.0 as usize];
        backend.fail(match fault {
            Fault::Connect => BackendError::Connect,
            Fault::Lost => BackendError::Lost,
            Fault::Timeout => BackendError::Timeout,
            Fault::Protocol => BackendError::Protocol,
            Fault::Auth => BackendError::Auth,
        });
        if conn.is_linked() {
            backend.connections.dec();
        }
        if base {
            backend.up.set(0);
        }
        let was_up = conn.link.is_up();
        let sent = conn.out.taken();
        conn.trouble = trouble.to_owned();
        // A server that was there a moment ago gets one chance to be back at once.
        let ends = matches!(conn.purpose, Use::Lease { .. } | Use::Party(_));
        conn.link = if was_up && !ends { Link::Connecting } else { Link::Down };
        conn.patient = false;
        conn.scripts.clear();
        conn.out.clear();
        conn.greeting.clear();
        conn.inbox = Inbox::default();
        conn.scanner = ReplyScanner::default();
        let fifo = mem::take(&mut conn.fifo);
        self.shards[shard.0 as usize].functions.forget();
        self.resume.append(&mut conn.waiters);
        let at = shard;
        let shard = self.topology.shard(shard).clone();
        for tag in fifo {
            if tag.client == GREETING {
                continue;
            }
            let text = if tag.offset < sent { failure::lost(&shard, trouble) } else { failure::down(&shard, trouble) };
            let text = format!("-{text}\r\n");
            match tag.client {
                ENGINE => self.told_engine(tag, at, text.as_bytes()),
                WAITER => self.unheard(tag.seq, tag.part, tag.offset < sent, trouble),
                PEER => self.owed_answered(tag.seq, text.as_bytes()),
                MOVER => self.moved(tag.seq, tag.part, text.as_bytes()),
                client if client < MOVER => self.complete(tag, Answer::Copied(text.as_bytes())),
                _ => {}
            }
        }
        // Who was told may have had no more use for it.
        let Some(conn) = self.conns.get(id as usize) else { return };
        match conn.purpose {
            Use::Shared => self.not_busy(at),
            Use::Probe => {}
            Use::Lease { .. } => self.lease_lost(id),
            Use::Party(_) => self.reserve_lost(id),
            Use::Hub => self.hub_lost(conn.shard),
            Use::Track => self.track_lost(conn.shard),
            Use::Private { .. } | Use::Sink { .. } => self.private_lost(id, was_up),
        }
    }

    /// The driver is to give up the socket; a lease is forgotten already.
    pub(super) fn reconnect(&mut self, id: u32) {
        if self.conns.contains(id as usize) {
            self.orders.push_back(Order::Reconnect { conn: id });
        }
    }

    /// The server does not speak RESP, or speaks unasked.
    #[cold]
    pub(super) fn conn_broken(&mut self, id: u32, error: ReplyError) {
        self.conn_lost(id, Fault::Protocol, &format!("protocol error: {error}"));
        self.reconnect(id);
    }
}

//! The straight way: what nearly all requests are, one key and one shard's reply, and a client and a
//! connection in no unusual state. It is the spine's way with everything else left out, in loops that
//! hold what they work on; at the first thing that is not plain they stop, and the spine goes on.
//!
//! Whatever has to see every request stands in [`Engine::goes_straight`], or it sees few.

use super::Engine;
use super::client::{Client, Park, State, Turn};
use super::conn::{Link, Use};
use super::out::LARGE_BYTES;
use crate::command;
use crate::resp::{Plain, plain_reply};
use crate::route::is_reserved;

impl Engine {
    /// Nothing of the client's, and nothing of the proxy's, wants a say in its requests.
    #[inline]
    fn goes_straight(&self, client: &Client) -> bool {
        client.session.is_none() && client.db == 0 && !self.unusual && self.options.deny.is_empty()
    }

    /// Sends what goes straight of the requests at the front of `bytes`, of a client that need not
    /// wait; says how many bytes that was. After none it is for others to say why, after some the
    /// client may have to wait.
    #[inline(never)]
    pub(super) fn straight_requests(&mut self, id: u32, bytes: &[u8]) -> usize {
        if !self.goes_straight(&self.clients[id as usize]) {
            return 0;
        }
        let client = &mut self.clients[id as usize];
        let mut used = 0;
        for _ in 0..client.room(&self.options) {
            let Some(request) = Plain::of(&bytes[used..]) else { break };
            let Some(command) = command::one_key(request.name, request.count) else { break };
            if is_reserved(request.key) {
                break;
            }
            if request.len >= LARGE_BYTES || request.len as i64 > self.options.limits.bulk_bytes_max {
                break;
            }
            let shard = self.topology.shard_of(request.key);
            let conn_id = self.shards[shard.0 as usize].shared[client.proto as usize];
            let Some(conn) = self.conns.get_mut(conn_id as usize) else { break };
            if conn.link.is_shut() || conn.is_full(&self.options) {
                break;
            }
            let seq = client.open(State::Wait, command.class, self.now);
            conn.expect(id, client.generation, seq, 0, false, self.now);
            conn.out.push(&bytes[used..used + request.len]);
            if !conn.dirty {
                conn.dirty = true;
                self.dirty_conns.push(conn_id);
            }
            client.last = command.id;
            self.tally.request(command.id, &self.metrics);
            used += request.len;
        }
        used
    }

    /// Gives what goes straight of the replies at the front of `bytes` to their slots; says how many
    /// bytes that was.
    #[inline(never)]
    pub(super) fn straight_replies(&mut self, id: u32, bytes: &[u8]) -> usize {
        let conn = &mut self.conns[id as usize];
        if conn.purpose != Use::Shared || conn.link != Link::Up || !conn.waiters.is_empty() {
            return 0;
        }
        let mut used = 0;
        while let Some(len) = plain_reply(&bytes[used..])
            && len < LARGE_BYTES
            && let Some(tag) = conn.fifo.pop_front()
        {
            let reply = &bytes[used..used + len];
            let client = self.clients.get_mut(tag.client as usize).filter(|client| client.generation == tag.generation);
            let Some((client, settled)) = client.and_then(|client| {
                let settled = client.settle_plain(tag.seq, reply, &mut self.pool)?;
                Some((client, settled))
            }) else {
                conn.fifo.push_front(tag);
                break;
            };
            if settled.turn == Turn::Next {
                if (client.exclusive || client.park != Park::No) && client.may_go_on() {
                    self.resume.push((tag.client, client.generation));
                }
                if !client.dirty {
                    client.dirty = true;
                    self.dirty_clients.push(tag.client);
                }
            }
            self.tally.backend(conn.shard, tag.at, &self.metrics);
            self.tally.class(settled.class, settled.at, &self.metrics);
            used += len;
        }
        used
    }
}

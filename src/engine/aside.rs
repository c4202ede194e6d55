//! A large frame occupies the connection that everybody shares, for as long as its bytes travel. Another
//! connection takes its place for that time, so that only those wait who asked before.
//!
//! ```text
//! shared:  a [GET huge | GET x | ...]      b takes over: whoever stands on a's FIFO asks nothing
//! spares:  b [ ]                           more until it is answered, so nobody overtakes himself
//! ```
//! The connection that was occupied is a spare itself once it has answered everything. If it takes so long
//! that somebody is told so, he is free to go on: what is not sent by then is never sent (`tick`).

use super::conn::{Conn, Link, MOVER, Use};
use super::{Engine, NONE};
use crate::resp::Proto;
use crate::topology::ShardId;

/// A frame with this much still to travel occupies its connection.
pub(super) const APART_BYTES: usize = 1024 * 1024;
/// Spare connections to one shard, of all protocols and databases.
const SPARES_MAX: usize = 4;

impl Engine {
    /// If the connection is occupied while everybody's requests go over it, they go over another one
    /// from now on, or as soon as there is one.
    pub(super) fn make_way(&mut self, id: u32) {
        let Some(conn) = self.conns.get(id as usize).filter(|conn| is_occupied(conn)) else { return };
        let (shard, proto, db) = (conn.shard, conn.proto, conn.db);
        if conn.purpose != Use::Shared || self.shared_known(shard, proto, db) != id {
            return;
        }
        let spares = &self.shards[shard.0 as usize].spares;
        let alike =
            |spare: &&u32| self.conns.get(**spare as usize).is_some_and(|conn| (conn.proto, conn.db) == (proto, db));
        let rests = |spare: &&u32| self.conns.get(**spare as usize).is_some_and(is_resting);
        let comes = |spare: &u32| self.conns.get(*spare as usize).is_some_and(|conn| conn.link != Link::Up);
        match spares.iter().filter(alike).find(rests).copied() {
            Some(spare) => self.take_over(id, spare),
            // One is on its way, or it would be one too many.
            None if spares.len() >= SPARES_MAX || spares.iter().filter(alike).any(comes) => {}
            None => {
                let spare = self.conn_new(shard, proto, db, Use::Shared);
                self.shards[shard.0 as usize].spares.push(spare);
            }
        }
    }

    /// A shared connection was greeted: it may be the one that somebody waits for.
    pub(super) fn spare_up(&mut self, id: u32) {
        let conn = &self.conns[id as usize];
        let shared = self.shared_known(conn.shard, conn.proto, conn.db);
        if shared != id {
            self.make_way(shared);
        }
    }

    /// Whether it is the connection that says whether its shard can be used.
    pub(super) fn is_base(&self, id: u32) -> bool {
        self.conns.get(id as usize).is_some_and(|conn| self.shards[conn.shard.0 as usize].shared[0] == id)
    }

    fn take_over(&mut self, id: u32, spare: u32) {
        let conn = &mut self.conns[id as usize];
        let state = &mut self.shards[conn.shard.0 as usize];
        state.spares.retain(|other| *other != spare);
        state.spares.push(id);
        if conn.db == 0 {
            state.shared[conn.proto as usize] = spare;
        } else {
            state.others.insert((conn.proto, conn.db), spare);
        }
        // Who waits for room here has it there.
        self.resume.append(&mut conn.waiters);
        for tag in conn.fifo.iter().filter(|tag| tag.client < MOVER) {
            if let Some(client) = self.clients.get_mut(tag.client as usize)
                && client.generation == tag.generation
                && !client.slots.is_empty()
            {
                client.exclusive = true;
            }
        }
    }

    fn shared_known(&self, shard: ShardId, proto: Proto, db: u32) -> u32 {
        let state = &self.shards[shard.0 as usize];
        if db == 0 {
            return state.shared[proto as usize];
        }
        state.others.get(&(proto, db)).copied().unwrap_or(NONE)
    }
}

/// A large frame is on its way, to the server or from it.
fn is_occupied(conn: &Conn) -> bool {
    conn.link == Link::Up && (conn.out.len() >= APART_BYTES || conn.inbox.missing() >= APART_BYTES)
}

fn is_resting(conn: &Conn) -> bool {
    conn.link == Link::Up && conn.fifo.is_empty() && conn.out.is_empty() && conn.inbox.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Rig;

    fn shared(rig: &Rig) -> u32 {
        rig.engine.shards[0].shared[0]
    }

    #[test]
    fn behind_a_large_reply_only_those_wait_who_asked_before() {
        let mut rig = Rig::of(1);
        let (a, b, c) = (rig.client(), rig.client(), rig.client());
        rig.send(a, "GET huge");
        rig.send(c, "GET x");
        let first = shared(&rig);
        let reply = format!("${}\r\n{}\r\n", 2 * APART_BYTES, "v".repeat(2 * APART_BYTES)).into_bytes();
        rig.engine.conn_bytes(first, &reply[..1000]);
        rig.settle();
        let second = shared(&rig);
        assert_ne!(first, second, "another connection took over");
        rig.send(b, "GET y");
        rig.engine.conn_bytes(second, b"$1\r\ny\r\n");
        assert_eq!(rig.got(b), "$1\r\ny\r\n");
        // They would be answered before what they asked earlier.
        rig.send(a, "GET z");
        rig.send(c, "GET w");
        assert_eq!(rig.asked(0), ["GET huge", "GET x", "GET y"]);
        rig.engine.conn_bytes(first, &reply[1000..]);
        rig.engine.conn_bytes(first, b"$1\r\nx\r\n");
        assert_eq!(rig.got(a).len(), reply.len());
        assert_eq!(rig.got(c), "$1\r\nx\r\n");
        assert_eq!(rig.asked(0)[3..], ["GET w", "GET z"]);
        rig.engine.conn_bytes(second, b"$1\r\nw\r\n$1\r\nz\r\n");
        assert_eq!((rig.got(a), rig.got(c)), ("$1\r\nz\r\n".to_owned(), "$1\r\nw\r\n".to_owned()));
        // The next time the first one takes over, and no third one is made.
        rig.send(a, "GET huge");
        rig.engine.conn_bytes(second, &reply[..1000]);
        assert_eq!(shared(&rig), first);
    }

    #[test]
    fn a_large_request_is_stepped_around() {
        let mut rig = Rig::of(1);
        let (a, b) = (rig.client(), rig.client());
        let first = shared(&rig);
        let value = "v".repeat(2 * APART_BYTES);
        let mut request = Vec::new();
        crate::resp::request(&mut request, &["SET", "huge", &value]);
        for piece in request.chunks(60_000) {
            rig.engine.client_bytes(a, piece);
        }
        // Some of it is written: the rest waits for the socket.
        rig.engine.conn_out(first).unwrap().advance(1000);
        while let Some(order) = rig.engine.next_order() {
            if let crate::engine::Order::Connect { conn, .. } = order {
                rig.engine.conn_connected(conn);
                rig.engine.conn_bytes(conn, b"*0\r\n");
            }
        }
        assert_ne!(shared(&rig), first);
        rig.engine.client_bytes(b, b"*2\r\n$3\r\nGET\r\n$1\r\ny\r\n");
        let second = shared(&rig);
        assert_eq!(rig.engine.conn_out(second).map(|out| out.len()), Some(20));
        rig.engine.conn_bytes(second, b"$1\r\ny\r\n");
        assert_eq!(rig.engine.client_out(b).map(|out| out.len()), Some(7));
    }

    #[test]
    fn what_was_given_up_half_sent_does_not_run_behind_what_came_later() {
        let mut rig = Rig::of(1);
        let client = rig.client();
        let first = shared(&rig);
        let mut request = Vec::new();
        crate::resp::request(&mut request, &["SET", "k", &"v".repeat(2 * APART_BYTES)]);
        request.chunks(60_000).for_each(|piece| rig.engine.client_bytes(client, piece));
        rig.engine.conn_out(first).unwrap().advance(1000);
        while let Some(order) = rig.engine.next_order() {
            if let crate::engine::Order::Connect { conn, .. } = order {
                rig.engine.conn_connected(conn);
                rig.engine.conn_bytes(conn, b"*0\r\n");
            }
        }
        let second = shared(&rig);
        assert_ne!(second, first);
        rig.engine.set_now(6_000_000);
        rig.ticks();
        assert_eq!(rig.engine.conns[first as usize].out.len(), 0, "the rest is never sent");
        assert_eq!(rig.engine.next_order(), Some(crate::engine::Order::Reconnect { conn: first }));
        assert!(rig.got(client).starts_with("-SHARDTIMEOUT "));
        rig.send(client, "DEL k");
        assert_eq!(rig.engine.conn_out(second).map(|out| out.len()), Some(20));
    }

    #[test]
    fn small_frames_have_one_connection() {
        let mut rig = Rig::of(1);
        let client = rig.client();
        let first = shared(&rig);
        rig.send(client, "GET x");
        rig.engine.conn_bytes(first, b"$5000\r\nabc");
        rig.settle();
        assert_eq!((shared(&rig), rig.engine.shards[0].spares.len()), (first, 0));
    }
}

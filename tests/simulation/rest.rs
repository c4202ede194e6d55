//! What holds when a game is over: nothing is left, and everything can be had again.

use super::{ClientIo, SHARDS, TICK, World};

impl World {
    /// Nothing is left in a proxy that nobody uses.
    pub(crate) fn rest(&mut self) {
        // The next tick counts what is on its way.
        self.pass(TICK);
        self.until("every server is idle and connected", |world| {
            let answered = world.metrics.backends.iter().all(|backend| backend.inflight.value() == 0);
            answered
                && world.conns.values().all(|io| io.server.as_ref().is_some_and(|s| s.is_idle() && s.output.is_empty()))
        });
        for _ in 0..200 {
            self.step();
            self.pass(10_000);
        }
        // Servers tell of changes unasked: what one of them has begun to say is heard to its end.
        self.until("what was said unasked is heard", |world| {
            world.conns.values().all(|io| io.server.as_ref().is_some_and(|s| s.output.is_empty()))
        });
        self.pass(TICK);
        if !self.ledger.wrong.is_empty() {
            return;
        }
        for (shard, backend) in self.metrics.backends.iter().enumerate() {
            let here = self.conns.values().filter(|io| io.shard == shard).count() as i64;
            let found = (backend.inflight.value(), backend.connections.value(), backend.up.value());
            if found != (0, here, 1) {
                self.ledger.blame(format!("shard {shard} has in flight, connections, up: {found:?}, not 0, {here}, 1"));
            }
        }
        let left = (self.metrics.clients.value(), self.metrics.buffered_bytes.value());
        if left != (0, 0) {
            self.ledger.blame(format!("clients and buffered bytes are left: {left:?}"));
        }
    }

    /// Every lease can be had again.
    pub(crate) fn leases(&mut self) {
        if !self.ledger.wrong.is_empty() {
            return;
        }
        // Many connections take many steps, which are not to be many seconds.
        self.pace = 1000;
        let max = self.leases_max;
        let mut watchers = Vec::new();
        for shard in 0..SHARDS {
            for _ in 0..max {
                let id = self.open();
                let io = self.clients.get_mut(&id).unwrap();
                io.client.watch(shard, &self.map, &mut self.ledger, &mut self.random);
                watchers.push(id);
            }
        }
        self.until("every watcher has its lease", |world| world.clients.values().all(|io| io.client.is_content()));
        for io in self.clients.values().filter(|io| io.client.failed > 0) {
            self.ledger.blame(format!("a lease cannot be had again: {}", io.client.trouble));
        }
        watchers.into_iter().for_each(|id| self.vanish(id));
        // And so can those of transactions.
        let mut traders = Vec::new();
        for _ in 0..4 {
            let id = self.open();
            let io = self.clients.get_mut(&id).unwrap();
            io.client.transact(&self.map, &mut self.ledger, &mut self.random);
            traders.push(id);
            self.until("the transaction is answered", |world| world.clients.values().all(|io| io.client.is_content()));
        }
        // A server may still refuse its EXEC.
        let stuck = |io: &&ClientIo| io.client.failed > 0 && !io.client.trouble.contains("READONLY");
        for io in self.clients.values().filter(stuck) {
            self.ledger.blame(format!("a transaction's lease cannot be had again: {}", io.client.trouble));
        }
        traders.into_iter().for_each(|id| self.vanish(id));
    }
}

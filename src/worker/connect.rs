//! Keeps connections to servers: connects, and when one breaks, connects again. The attempts are made on the
//! control thread, where nobody is kept waiting by names that are looked up.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{ConnIo, Name, Standing, Worker, at, put};
use crate::engine::Fault;
use crate::socket::{Lookup, Socket};
use crate::topology::{Endpoint, ShardId};

/// How long anything may take, and how long it is waited between two attempts.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one connection.
    pub connect: Duration,
    /// The first pause after an attempt that failed; it doubles from one to the next.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

/// How a connection is made.
pub(super) struct Dial {
    name: String,
    endpoint: Endpoint,
    /// What it is for, in a word for the log.
    purpose: &'static str,
    pause: Duration,
    /// That it is not connected was told.
    quiet: bool,
    lookup: Lookup,
    /// The attempt that is under way, and its number.
    attempt: Option<(u64, AbortHandle)>,
}

impl Dial {
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(super) fn give_up(self) {
        if let Some((_, attempt)) = self.attempt {
            attempt.abort();
        }
    }
}

/// What became of an attempt to connect.
#[derive(Debug)]
pub(super) struct Dialed {
    conn: u32,
    number: u64,
    lookup: Lookup,
    socket: Result<Socket, String>,
}

impl Worker {
    pub(super) fn connect(&mut self, conn: u32, shard: ShardId) {
        let shard = self.engine.topology().shard(shard);
        let dial = Dial {
            name: shard.name.clone(),
            endpoint: shard.endpoint.clone(),
            purpose: self.engine.conn_purpose(conn),
            pause: self.patience.pause_min,
            quiet: false,
            lookup: Lookup::default(),
            attempt: None,
        };
        put(&mut self.conns, conn, ConnIo { socket: None, dial, standing: Standing::default() });
        self.attempt(conn, Duration::ZERO);
    }

    fn attempt(&mut self, conn: u32, pause: Duration) {
        let Some(io) = at(&mut self.conns, conn) else { return };
        self.dials += 1;
        let (number, patience) = (self.dials, self.patience.connect);
        let (endpoint, mut lookup) = (io.dial.endpoint.clone(), mem::take(&mut io.dial.lookup));
        let (dialer, bell) = (self.dialer.clone(), Arc::clone(&self.bell));
        let attempt = self.control.spawn(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let socket = match timeout(patience, Socket::connect(&endpoint, &mut lookup)).await {
                Ok(socket) => socket.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no connection within {} ms", patience.as_millis())),
            };
            if dialer.send(Dialed { conn, number, lookup, socket }).await.is_ok() {
                bell.ring();
            }
        });
        io.dial.attempt = Some((number, attempt.abort_handle()));
    }

    /// An attempt is over.
    pub(super) fn dialed(&mut self, Dialed { conn, number, lookup, socket }: Dialed) {
        let Some(io) = at(&mut self.conns, conn) else { return };
        if io.dial.attempt.as_ref().is_none_or(|(under_way, _)| *under_way != number) {
            return;
        }
        (io.dial.attempt, io.dial.lookup) = (None, lookup);
        let registered = socket.and_then(|mut socket| {
            let registered = socket.register(self.poll.registry(), Name::Conn(conn).token());
            registered.map(|()| socket).map_err(|error| error.to_string())
        });
        match registered {
            Ok(socket) => {
                (io.standing.hung_up, io.standing.full) = (false, false);
                io.socket = Some(socket);
                self.engine.conn_connected(conn);
            }
            Err(trouble) => {
                self.engine.conn_lost(conn, Fault::Connect, &trouble);
                self.wait_and_connect(conn, &trouble);
            }
        }
    }

    /// The connection broke, and may have been given up or begun again since.
    pub(super) fn connect_again(&mut self, conn: u32) {
        let Some(io) = at(&mut self.conns, conn) else { return };
        if io.socket.is_some() || io.dial.attempt.is_some() {
            return;
        }
        let (was_up, trouble) = self.engine.conn_history(conn);
        if was_up {
            io.dial.pause = self.patience.pause_min;
        }
        self.wait_and_connect(conn, &trouble);
    }

    fn wait_and_connect(&mut self, conn: u32, reason: &str) {
        let Some(io) = at(&mut self.conns, conn) else { return };
        if !self.engine.has_conn(conn) {
            return;
        }
        let dial = &mut io.dial;
        // Once per outage, not once per attempt.
        if !mem::replace(&mut dial.quiet, true) {
            let Dial { name, endpoint, purpose, .. } = dial;
            warn!(backend = name, address = %endpoint, connection = purpose, reason, "backend is not connected");
        }
        let pause = jittered(dial.pause);
        dial.pause = (dial.pause * 2).min(self.patience.pause_max);
        self.attempt(conn, pause);
    }

    /// After an outage that was told of.
    pub(super) fn tell_of_return(&mut self, conn: u32) {
        if let Some(io) = at(&mut self.conns, conn)
            && self.engine.is_conn_up(conn)
            && mem::take(&mut io.dial.quiet)
        {
            let Dial { name, endpoint, purpose, .. } = &io.dial;
            info!(backend = name, address = %endpoint, connection = purpose, "backend is connected again");
        }
    }
}

/// Half to all of `pause`, so that many proxies do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause / 2 + pause * random as u32 / 1024
}

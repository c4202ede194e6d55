//! Keeps one connection to a server: connects, reads until it breaks, and connects again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Worker;
use crate::engine::Fault;
use crate::socket::{Lookup, Socket};
use crate::topology::Endpoint;

/// How long anything may take, and how long it is waited between two attempts.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one connection.
    pub connect: Duration,
    /// The first pause after an attempt that failed; it doubles from one to the next.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

/// Ends when the engine has forgotten the connection, or its task is aborted.
pub(super) async fn keep(worker: Rc<RefCell<Worker>>, id: u32, name: String, endpoint: Endpoint, patience: Patience) {
    let mut pause = patience.pause_min;
    let purpose = worker.borrow().engine.conn_purpose(id);
    let (mut quiet, mut lookup) = (false, Lookup::default());
    loop {
        let trouble = match timeout(patience.connect, Socket::connect(&endpoint, &mut lookup)).await {
            Ok(Ok(socket)) => {
                if worker.borrow_mut().connected(id, socket).is_none() {
                    return;
                }
                poll_fn(|cx| {
                    let mut worker = worker.borrow_mut();
                    let polled = worker.read_conn(id, cx);
                    // After its end the number may be another connection's.
                    if quiet && polled.is_pending() && worker.engine.is_conn_up(id) {
                        info!(backend = name, address = %endpoint, connection = purpose, "backend is connected again");
                        quiet = false;
                    }
                    polled
                })
                .await;
                // Whoever closed the connection in there aborted this task, which ends where it waits; the
                // number may be another connection's by now.
                yield_now().await;
                let (was_up, trouble) = worker.borrow().engine.conn_history(id);
                if was_up {
                    pause = patience.pause_min;
                }
                trouble
            }
            Ok(Err(error)) => worker.borrow_mut().failed(id, &error.to_string()),
            Err(_) => {
                worker.borrow_mut().failed(id, &format!("no connection within {} ms", patience.connect.as_millis()))
            }
        };
        if !worker.borrow().engine.has_conn(id) {
            return;
        }
        // Once per outage, not once per attempt.
        if !quiet {
            warn!(backend = name, address = %endpoint, connection = purpose, reason = trouble, "backend is not connected");
            quiet = true;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(patience.pause_max);
    }
}

impl Worker {
    /// The socket is there; None when nobody wants it any more.
    fn connected(&mut self, id: u32, socket: Socket) -> Option<()> {
        let io = self.conns.get_mut(id as usize)?.as_mut()?;
        io.socket = Some(socket);
        self.stale = true;
        self.look_at_the_clock();
        self.engine.conn_connected(id);
        self.after();
        Some(())
    }

    fn failed(&mut self, id: u32, trouble: &str) -> String {
        self.engine.conn_lost(id, Fault::Connect, trouble);
        self.after();
        trouble.to_owned()
    }
}

/// Half to all of `pause`, so that many proxies do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause / 2 + pause * random as u32 / 1024
}

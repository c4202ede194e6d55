//! What every integration test stands on: real redis-server processes, the proxy under test, and a
//! blocking client with a reader of its own (an oracle must not share code with what it checks).
//!
//! Everything started here dies with the test binary, even when that is killed. Servers listen on
//! ports that the kernel gave, and keep their files below cargo's `target/tmp`.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of the support")]
#![allow(unused_imports, reason = "each test binary uses a part of the support")]

mod client;
mod fake;
mod process;
mod proxy;
mod redis;
mod seed;
mod value;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use client::{Client, request};
pub use fake::{Answer, Fake};
pub use process::{Process, scratch};
pub use proxy::{Guard, Proxy, ProxyOptions};
pub use redis::{Redis, shards};
pub use seed::Random;
pub use value::{Value, raw_reply};

/// One request of words.
pub fn say(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>())
}

/// What `line` answers, as a test prints it; `check(&mut client, "GET a", "$-1")`.
#[track_caller]
pub fn check(client: &mut Client, line: &str, expected: &str) {
    assert_eq!(format!("{:?}", say(client, line)), expected, "{line}");
}

/// How long a test waits for anything that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until `condition` gives something; `None` when the time is over.
pub fn poll<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        interval(Duration::from_millis(3));
    }
}

/// Waits until `condition` holds and panics with `what` when it does not in time.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let held = poll(PATIENCE, || condition().then_some(()));
    assert!(held.is_some(), "in vain for {PATIENCE:?}: {what}");
}

/// Says that it is over when it is dropped, also by a panic, so that nobody goes on for ever.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The pause between two questions of a poll, or between two requests of a paced load.
#[allow(clippy::disallowed_methods, reason = "the one place that sleeps: between two questions of a poll")]
pub fn interval(time: Duration) {
    std::thread::sleep(time);
}

//! What wakes a worker that sleeps until the kernel has news of its sockets.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Poll, Waker};

use super::traffic::Name;

/// Rung by whoever put something into one of the worker's queues.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
    /// It rang and nobody has looked yet: ringing again would cost a system call for nothing.
    rung: AtomicBool,
}

impl Bell {
    /// The bell of the worker that sleeps on `poll`.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        Ok(Self { waker: Waker::new(poll.registry(), Name::Bell.token())?, rung: AtomicBool::new(false) })
    }

    /// What was queued before this is seen by the worker.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // It fails only for a worker that is gone.
            _ = self.waker.wake();
        }
    }

    /// The worker is about to look into its queues.
    pub(super) fn heard(&self) {
        // Not a store: what was queued before an earlier ring has to be seen, too.
        self.rung.swap(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::Events;

    use super::*;

    /// Whether the worker would wake up now.
    fn wakes(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn it_wakes_once_until_it_was_heard() {
        let mut poll = Poll::new().unwrap();
        let bell = Bell::new(&poll).unwrap();
        assert!(!wakes(&mut poll));
        bell.ring();
        assert!(wakes(&mut poll));
        bell.ring();
        assert!(!wakes(&mut poll), "nobody has looked yet");
        bell.heard();
        bell.ring();
        assert!(wakes(&mut poll));
    }
}

//! What one wake-up counts, before it goes to the metrics' cells. Requests that arrive together are
//! mostly alike, and so are the times that they took: a run of them is one observation with a count.
//!
//! The cells are right again whenever the driver takes what is to be written, so that nobody has seen
//! a reply that is not counted.

use std::mem;

use crate::command::{Class, CommandId};
use crate::metrics::WorkerMetrics;
use crate::topology::ShardId;

/// Runs that are still going on.
#[derive(Debug)]
pub(super) struct Tally {
    /// Microseconds of the driver's clock.
    now: u64,
    /// Requests taken, of one row.
    requests: Run<CommandId>,
    /// Replies of one shard to what was asked at one time.
    backend: Run<(ShardId, u64)>,
    /// Answers of one class to what was asked at one time.
    class: Run<(Class, u64)>,
}

/// How often in a row the same was seen.
#[derive(Debug)]
struct Run<T> {
    what: T,
    count: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            now: 0,
            requests: Run { what: CommandId(0), count: 0 },
            backend: Run { what: (ShardId(0), 0), count: 0 },
            class: Run { what: (Class::Read, 0), count: 0 },
        }
    }
}

impl Tally {
    /// A request of this row was taken.
    #[inline(always)]
    pub(super) fn request(&mut self, command: CommandId, cells: &WorkerMetrics) {
        if !self.requests.goes_on(command) {
            self.end_requests(cells);
            self.requests = Run { what: command, count: 1 };
        }
    }

    /// A shard answered what it was asked at `at`.
    #[inline(always)]
    pub(super) fn backend(&mut self, shard: ShardId, at: u64, cells: &WorkerMetrics) {
        if !self.backend.goes_on((shard, at)) {
            self.end_backend(cells);
            self.backend = Run { what: (shard, at), count: 1 };
        }
    }

    /// A request that was complete at `at` is answered.
    #[inline(always)]
    pub(super) fn class(&mut self, class: Class, at: u64, cells: &WorkerMetrics) {
        if !self.class.goes_on((class, at)) {
            self.end_class(cells);
            self.class = Run { what: (class, at), count: 1 };
        }
    }

    /// Everything that was counted goes to the cells.
    pub(super) fn settle(&mut self, cells: &WorkerMetrics) {
        self.end_requests(cells);
        self.end_backend(cells);
        self.end_class(cells);
    }

    /// The same, before it gets later: what was counted took until now.
    pub(super) fn set_now(&mut self, now: u64, cells: &WorkerMetrics) {
        self.settle(cells);
        self.now = now;
    }

    #[inline(never)]
    fn end_requests(&mut self, cells: &WorkerMetrics) {
        cells.requests[self.requests.what.0 as usize].add(mem::take(&mut self.requests.count));
    }

    #[inline(never)]
    fn end_backend(&mut self, cells: &WorkerMetrics) {
        let Run { what: (shard, at), count } = &mut self.backend;
        if *count > 0 {
            cells.backends[shard.0 as usize].duration.observe_many(self.now - *at, mem::take(count));
        }
    }

    #[inline(never)]
    fn end_class(&mut self, cells: &WorkerMetrics) {
        let Run { what: (class, at), count } = &mut self.class;
        if *count > 0 {
            cells.durations[*class as usize].observe_many(self.now - *at, mem::take(count));
        }
    }
}

impl<T: Copy + PartialEq> Run<T> {
    #[inline(always)]
    fn goes_on(&mut self, what: T) -> bool {
        let goes_on = self.what == what;
        self.count += u64::from(goes_on);
        goes_on
    }
}

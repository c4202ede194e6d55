//! Random numbers from a printed seed: a failure can be run again with `RINGWAY_TEST_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64: small, and good enough to choose test cases.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The seed of this run: `RINGWAY_TEST_SEED`, else the clock; printed so that it can be given.
    pub fn of_this_run(test: &str) -> Self {
        let given = std::env::var("RINGWAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given
            .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64));
        println!("{test}: RINGWAY_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream, for another thread.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    #[allow(clippy::should_implement_trait, reason = "numbers without an end, never an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

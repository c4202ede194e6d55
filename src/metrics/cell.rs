//! The cells: a counter, a gauge and a histogram with exactly one writer each.
//!
//! Writing is a relaxed load and a relaxed store, not an atomic addition: the worker that owns the
//! cell is its only writer, so no lock prefix is paid for. A reader on another thread sees some
//! recent value of each cell, which is all that a scrape needs.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows. One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down. One writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Durations in buckets whose upper bounds double from 16 us to 16.8 s, and one above. One writer.
#[derive(Debug, Default)]
pub struct Histogram {
    /// `buckets[i]` counts what is at most [`Histogram::bound`]`(i)` and more than the bound before.
    buckets: [Counter; Histogram::BUCKETS + 1],
    /// Microseconds.
    sum: Counter,
}

impl Counter {
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.value().wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    #[inline]
    pub fn add(&self, n: i64) {
        self.set(self.value().wrapping_add(n));
    }

    #[inline]
    pub fn sub(&self, n: i64) {
        self.set(self.value().wrapping_sub(n));
    }

    #[inline]
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histogram {
    /// Buckets with a finite bound; one more holds what is above the last.
    pub const BUCKETS: usize = 21;

    const FIRST_SHIFT: u32 = 4;

    #[inline]
    pub fn observe(&self, took: Duration) {
        // Seconds in u64 and at most 1e9 nanoseconds: wraps after half a million years.
        self.observe_us(took.as_secs().wrapping_mul(1_000_000) + u64::from(took.subsec_micros()));
    }

    /// Counts a duration of `us` microseconds.
    #[inline]
    pub fn observe_us(&self, us: u64) {
        self.observe_many(us, 1);
    }

    /// Counts `count` durations of `us` microseconds each.
    #[inline]
    pub fn observe_many(&self, us: u64, count: u64) {
        // Bounds are inclusive: 16 us and less is bucket 0, 17 to 32 us is bucket 1, and so on.
        let octave = u64::BITS - (us.saturating_sub(1) >> Self::FIRST_SHIFT).leading_zeros();
        self.buckets[(octave as usize).min(Self::BUCKETS)].add(count);
        self.sum.add(us.wrapping_mul(count));
    }

    /// The upper bound of bucket `index` in microseconds, inclusive.
    #[must_use]
    pub const fn bound(index: usize) -> u64 {
        1 << (index + Self::FIRST_SHIFT as usize)
    }

    /// How many are in each bucket, the one without a bound last.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets.iter().map(Counter::value)
    }

    /// All durations in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum.value()
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which bucket a duration of `us` is counted in.
    fn bucket(us: u64) -> usize {
        let histogram = Histogram::default();
        histogram.observe_us(us);
        assert_eq!(histogram.sum_us(), us);
        histogram.counts().position(|count| count == 1).unwrap()
    }

    #[test]
    fn bounds_are_inclusive_powers_of_two() {
        for index in 0..Histogram::BUCKETS {
            assert_eq!(bucket(Histogram::bound(index)), index);
            assert_eq!(bucket(Histogram::bound(index) + 1), index + 1);
        }
        assert_eq!(Histogram::bound(0), 16);
        assert_eq!(Histogram::bound(Histogram::BUCKETS - 1), 16_777_216);
    }

    #[test]
    fn extremes_have_a_bucket() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 0);
        assert_eq!(bucket(u64::MAX), Histogram::BUCKETS);
    }

    #[test]
    fn durations_count_in_microseconds() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_nanos(16_999));
        histogram.observe(Duration::new(2, 5_000));
        assert_eq!(histogram.sum_us(), 16 + 2_000_005);
        assert_eq!(histogram.count(), 2);
    }

    #[test]
    fn a_gauge_goes_below_zero_and_back() {
        let gauge = Gauge::default();
        gauge.sub(3);
        assert_eq!(gauge.value(), -3);
        gauge.add(5);
        gauge.dec();
        gauge.inc();
        assert_eq!(gauge.value(), 2);
    }
}

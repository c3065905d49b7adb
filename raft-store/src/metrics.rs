//! What the store counts, as plain atomics: the master exports them.
//!
//! What always holds: counting never blocks and never fails. Units are in the names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const BUCKETS: usize = 40;

/// A histogram whose buckets end at powers of two: 1, 2, 4, …
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        let bucket = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn record_us(&self, duration: Duration) {
        self.record(duration.as_micros() as u64);
    }

    /// Sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Upper bounds (inclusive) and how many values are at most that, as Prometheus wants them.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let sums = counts.scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        sums.enumerate().map(|(exponent, sum)| (1 << exponent, sum)).collect()
    }
}

/// All counters of one store.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Time of one sync to the device, in µs.
    pub sync_us: Histogram,
    /// Operations that one sync made durable.
    pub sync_operations: Histogram,
    /// From an append's arrival to its acknowledgement, in µs.
    pub append_us: Histogram,
    /// Bytes of keys and values given to sled.
    pub written_bytes: AtomicU64,
    /// Log entries written.
    pub entries_written: AtomicU64,
    /// Log entries purged from disk.
    pub entries_purged: AtomicU64,
    /// Log entries that had to be read from disk, not from memory.
    pub entries_read: AtomicU64,
    /// Bytes of the recent log entries in memory.
    pub recent_bytes: AtomicU64,
    /// Time of one entry's apply, in µs.
    pub apply_us: Histogram,
    /// Time for which apply stood still while a snapshot's image was taken, in µs.
    pub image_us: Histogram,
    /// Time of writing one snapshot, in µs.
    pub snapshot_us: Histogram,
    /// Size of the newest snapshot.
    pub snapshot_bytes: AtomicU64,
    /// Index at which the newest snapshot stands.
    pub snapshot_index: AtomicU64,
    writing_since: Mutex<Option<Instant>>,
    synced_at: Mutex<Option<Instant>>,
}

impl Metrics {
    /// For how long the write that is under way has been going on: a stalled disk shows here first.
    pub fn stalled_for(&self) -> Duration {
        self.writing_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// For how long nothing was synced, while nothing is being written; zero while something is.
    pub fn quiet_for(&self) -> Duration {
        if self.writing_since.lock().is_some() {
            return Duration::ZERO;
        }
        self.synced_at.lock().map_or(Duration::MAX, |at| at.elapsed())
    }

    /// The process did not run until `now`: the write that is under way counts from there.
    pub fn forgive(&self, now: Instant) {
        if let Some(since) = self.writing_since.lock().as_mut() {
            *since = now.max(*since);
        }
    }

    pub(crate) fn writing(&self, since: Option<Instant>) {
        *self.writing_since.lock() = since;
    }

    pub(crate) fn synced(&self, took: Duration, operations: u64) {
        *self.synced_at.lock() = Some(Instant::now());
        self.sync_us.record_us(took);
        self.sync_operations.record(operations);
    }

    pub(crate) fn appended(&self, took: Duration) {
        self.append_us.record_us(took);
    }

    pub(crate) fn applied(&self, took: Duration) {
        self.apply_us.record_us(took);
    }

    pub(crate) fn image_taken(&self, took: Duration) {
        self.image_us.record_us(took);
    }

    pub(crate) fn snapshot_written(&self, took: Duration) {
        self.snapshot_us.record_us(took);
    }

    pub(crate) fn snapshot_is(&self, index: u64, bytes: u64) {
        self.snapshot_index.store(index, Ordering::Relaxed);
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_that_ends_at_or_above_them() {
        let histogram = Histogram::default();
        [0, 1, 2, 3, 4, 5, u64::MAX / 2].iter().for_each(|value| histogram.record(*value));
        let below = |bound| histogram.cumulative().iter().find(|(upper, _)| *upper == bound).map(|(_, count)| *count);
        assert_eq!([below(1), below(2), below(4), below(8)], [Some(2), Some(3), Some(5), Some(6)]);
        assert_eq!(histogram.count(), 7);
    }
}

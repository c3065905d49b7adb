//! Cluster time: what the leader stamps on entries.
//!
//! What always holds: it never goes back, no wall clock enters, and a new leader continues where the log stands. Every
//! master notes how far cluster time is ahead of its own monotonic clock whenever it applies an entry; the largest
//! difference seen is its best knowledge, so time goes on between entries and over failovers without a jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use steersman_world::Clock;
use tokio::time::Instant;

/// This master's estimate of cluster time.
pub struct ClusterClock {
    clock: Arc<dyn Clock>,
    origin: Instant,
    /// Cluster time minus local monotonic time, in ms.
    offset_ms: AtomicI64,
    last_ms: AtomicU64,
}

impl ClusterClock {
    /// Starts at cluster time 0 until the first entry is seen.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let origin = clock.now();
        Self { clock, origin, offset_ms: AtomicI64::new(0), last_ms: AtomicU64::new(0) }
    }

    /// When this process began.
    #[cfg(feature = "seeded-bugs")]
    pub fn origin(&self) -> Instant {
        self.origin
    }

    fn local_ms(&self) -> i64 {
        i64::try_from((self.clock.now() - self.origin).as_millis()).unwrap_or(i64::MAX)
    }

    /// An entry stamped with `cluster_ms` was applied just now.
    pub fn observe(&self, cluster_ms: u64) {
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("time-goes-back") {
            return;
        }
        let offset = i64::try_from(cluster_ms).unwrap_or(i64::MAX).saturating_sub(self.local_ms());
        self.offset_ms.fetch_max(offset, Ordering::Relaxed);
        self.last_ms.fetch_max(cluster_ms, Ordering::Relaxed);
    }

    /// Cluster time now, in ms; never less than it ever was.
    pub fn now_ms(&self) -> u64 {
        let estimate = self.local_ms().saturating_add(self.offset_ms.load(Ordering::Relaxed));
        let estimate = u64::try_from(estimate).unwrap_or(0);
        self.last_ms.fetch_max(estimate, Ordering::Relaxed).max(estimate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_world::RealClock;

    #[tokio::test(start_paused = true)]
    async fn p10_continues_from_the_log_and_never_goes_back() {
        let clock = ClusterClock::new(Arc::new(RealClock));
        clock.observe(5_000);
        assert_eq!(clock.now_ms(), 5_000);
        tokio::time::advance(std::time::Duration::from_millis(250)).await;
        assert_eq!(clock.now_ms(), 5_250);
        clock.observe(5_100); // stamped earlier, applied later: knowledge does not shrink
        assert_eq!(clock.now_ms(), 5_250);
        clock.observe(9_000);
        assert_eq!(clock.now_ms(), 9_000);
    }
}

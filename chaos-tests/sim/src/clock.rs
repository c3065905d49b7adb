//! A node's clocks: monotonic time that may drift, wall time that may jump.
//!
//! What always holds: monotonic time never goes back, whatever the drift becomes. tokio's own timers run on the one true
//! clock: a drift shows wherever the product reads its clock, not in how long it sleeps.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use steersman_world::Clock;
use tokio::time::Instant;

/// Unix time in ms at which every simulation begins: an arbitrary fixed date, only ever shown.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// A clock that may drift is always ahead of tokio's by something, however slow it runs for a while: the product may sleep
/// until an instant of its own clock, and one that tokio's clock has passed already would be no sleep at all.
const AHEAD: Duration = Duration::from_secs(2);

struct Rate {
    since: Instant,
    local: Instant,
    ppm: i64,
    /// The latest time that anybody was told.
    told: Instant,
}

/// The clocks of one node.
pub struct NodeClock {
    began: Instant,
    rate: Mutex<Rate>,
    wall_ms: AtomicI64,
}

impl NodeClock {
    /// Right clocks of a node whose monotonic time may come to drift, the wall clock ahead by so many ms.
    pub fn new(wall_shift_ms: u64) -> Self {
        Self::ahead(AHEAD, wall_shift_ms)
    }

    /// Clocks of a node that waits for instants of its own clock to the millisecond: its monotonic time is tokio's, and must
    /// not drift.
    pub fn steady(wall_shift_ms: u64) -> Self {
        Self::ahead(Duration::ZERO, wall_shift_ms)
    }

    fn ahead(by: Duration, wall_shift_ms: u64) -> Self {
        let now = Instant::now();
        let local = now + by;
        let wall_ms = AtomicI64::new((EPOCH_MS + wall_shift_ms) as i64);
        Self { began: now, rate: Mutex::new(Rate { since: now, local, ppm: 0, told: local }), wall_ms }
    }

    /// From now on it gains so many µs per second.
    pub fn drift(&self, ppm: i64) {
        let local = self.now();
        *self.rate.lock() = Rate { since: Instant::now(), local, ppm, told: local };
    }

    /// The wall clock jumps.
    pub fn jump(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Instant {
        let mut rate = self.rate.lock();
        let passed = rate.since.elapsed().as_micros() as i64;
        let now = rate.local + Duration::from_micros((passed + passed * rate.ppm / 1_000_000) as u64);
        rate.told = rate.told.max(now);
        rate.told
    }

    fn wall_ms(&self) -> u64 {
        (self.wall_ms.load(Ordering::Relaxed) + self.began.elapsed().as_millis() as i64).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drift_shows_on_the_clock_and_never_turns_it_back() {
        let clock = NodeClock::new(0);
        let before = clock.now();
        clock.drift(-500_000);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.now() - before, Duration::from_secs(1));
        clock.drift(1_000_000);
        assert_eq!(clock.now() - before, Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now() - before, Duration::from_secs(3));
    }
}

//! A node's clocks: monotonic time that may drift, wall time that may jump.
//!
//! What always holds: monotonic time never goes back, whatever the drift becomes. tokio's own timers run on the one true
//! clock: a drift shows wherever the product reads its clock, not in how long it sleeps.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use steersman_world::Clock;
use tokio::time::Instant;

/// Unix time at which every simulation begins: an arbitrary fixed date, only ever shown.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// A node's clock is always ahead of tokio's by something, however slow it runs for a while: the product may sleep until an
/// instant of its own clock, and one that tokio's clock has passed already would be no sleep at all.
const AHEAD: Duration = Duration::from_secs(2);

struct Rate {
    since: Instant,
    local: Instant,
    ppm: i64,
}

/// The clocks of one node.
pub struct NodeClock {
    began: Instant,
    rate: Mutex<Rate>,
    wall_ms: AtomicI64,
}

impl NodeClock {
    /// Right clocks, the wall clock ahead by so many ms.
    pub fn new(wall_shift_ms: u64) -> Self {
        let now = Instant::now();
        let local = now + AHEAD;
        let wall_ms = AtomicI64::new(EPOCH_MS + wall_shift_ms as i64);
        Self { began: now, rate: Mutex::new(Rate { since: now, local, ppm: 0 }), wall_ms }
    }

    /// From now on it gains so many µs per second.
    pub fn drift(&self, ppm: i64) {
        let local = self.now();
        *self.rate.lock() = Rate { since: Instant::now(), local, ppm };
    }

    /// The wall clock jumps.
    pub fn jump(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Instant {
        let rate = self.rate.lock();
        let passed = rate.since.elapsed().as_micros() as i64;
        rate.local + Duration::from_micros((passed + passed * rate.ppm / 1_000_000) as u64)
    }

    fn wall_ms(&self) -> u64 {
        (self.wall_ms.load(Ordering::Relaxed) + self.began.elapsed().as_millis() as i64).max(0) as u64
    }
}

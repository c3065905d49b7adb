//! Time as a parameter. Monotonic time decides; wall time is only shown.

use std::time::{SystemTime, UNIX_EPOCH};

/// The two clocks a node may read.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time of this process. Under simulation this is simulated time.
    fn now(&self) -> tokio::time::Instant;
    /// Unix time in milliseconds, for people only: it may jump.
    fn wall_ms(&self) -> u64;
}

/// The machine's own clocks (monotonic time through tokio, so that paused test time works too).
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

//! How long this worker may believe that the master still believes in it.
//!
//! The master's lease begins when a heartbeat arrives; the worker's begins when that heartbeat was SENT and is shorter by
//! [`MARGIN_PERCENT`], which pays for clocks that run at different rates and for the time that a hard kill takes. So it
//! always ends first. What always holds: only an acknowledgement renews it, and never to an earlier end. Monotonic time
//! only; a machine that was suspended is covered for processes by their keeper, whose clock counts the sleep too.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The worker's lease is shorter than the master's by this share.
pub const MARGIN_PERCENT: u32 = 20;

/// The part of a master's lease that the worker uses.
pub(crate) fn usable(lease: Duration) -> Duration {
    lease * (100 - MARGIN_PERCENT) / 100
}

/// Shared by the session, which renews it, and the runner, which obeys it.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    deadline: Mutex<Option<Instant>>,
}

impl Lease {
    /// A heartbeat (or Hello) sent at `sent` was acknowledged under a master's lease of `lease`.
    pub fn renew(&self, sent: Instant, lease: Duration) {
        let until = sent + usable(lease);
        let mut deadline = self.deadline.lock();
        if deadline.is_none_or(|old| old < until) {
            *deadline = Some(until);
        }
    }

    /// When it ends; `None` before the first renewal.
    pub fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock()
    }

    /// Whether it has ended, or never began.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_none_or(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn p09_it_ends_before_the_masters() {
        let lease = Lease::default();
        let sent = Instant::now();
        assert!(lease.expired(sent));
        tokio::time::advance(Duration::from_millis(700)).await;
        lease.renew(sent, Duration::from_secs(10));
        assert_eq!(lease.deadline().unwrap(), sent + Duration::from_secs(8));
        assert!(!lease.expired(sent + Duration::from_millis(7_999)));
        assert!(lease.expired(sent + Duration::from_secs(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn p09_a_late_acknowledgement_does_not_shorten_it() {
        let lease = Lease::default();
        let sent = Instant::now();
        lease.renew(sent + Duration::from_secs(2), Duration::from_secs(10));
        lease.renew(sent, Duration::from_secs(10));
        assert_eq!(lease.deadline().unwrap(), sent + Duration::from_secs(10));
    }
}

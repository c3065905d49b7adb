//! Seeds that once found something, with what was wrong.

/// Seed, and what it found.
pub const REGRESSIONS: &[(u64, &str)] =
    &[(2, "a leader built an append that begins after purged entries; the follower's master would have stopped")];

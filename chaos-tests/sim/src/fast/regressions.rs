//! Seeds that once found something, with what was wrong.

/// Seed, and what it found.
pub const REGRESSIONS: &[(u64, &str)] = &[];

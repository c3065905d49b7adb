//! Bounds of the replicated state, replicated themselves. Each has its reason here.

use serde::{Deserialize, Serialize};

/// How much the state may hold. Changed by a command in the log, never by a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Unfinished tasks: memory of every master (~200 bytes each).
    pub tasks_unfinished_max: u64,
    /// Finished tasks that are kept.
    pub tasks_finished_kept_max: u64,
    /// How long a finished task is kept, in ms.
    pub tasks_finished_kept_ms: u64,
    /// Replies remembered for retries.
    pub replies_kept_max: u64,
    /// How long a reply is remembered, in ms.
    pub replies_kept_ms: u64,
    /// Events kept for the stream.
    pub events_kept_max: u64,
    /// Registered workers, offline ones included.
    pub workers_max: u64,
    /// How long an offline worker that holds nothing stays in the registry, in ms.
    pub workers_offline_kept_ms: u64,
    /// Slots of one worker.
    pub capacity_max: u32,
    /// How long a silent worker is believed, in ms.
    pub lease_ms: u32,
    /// Attempts that are remembered in one task: the first and the last ones.
    pub attempts_kept_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tasks_unfinished_max: 10_000_000,
            tasks_finished_kept_max: 200_000,
            tasks_finished_kept_ms: 24 * 3_600_000,
            replies_kept_max: 200_000,
            replies_kept_ms: 15 * 60_000,
            events_kept_max: 200_000,
            workers_max: 100_000,
            workers_offline_kept_ms: 24 * 3_600_000,
            capacity_max: 100_000,
            lease_ms: 10_000,
            attempts_kept_max: 10,
        }
    }
}

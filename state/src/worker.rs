//! What the registry says of workers: labels, resources, statuses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Key-value pairs, sorted by key.
pub type Labels = BTreeMap<String, String>;
/// Countable resources by name, e.g. `gpu = 2`.
pub type Resources = BTreeMap<String, u64>;

/// What an operator sees. Derived: nothing stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WorkerStatus {
    /// Takes work.
    Online,
    /// Online and full.
    Busy,
    /// Finishes what it has.
    Draining,
    /// Kept out by an operator.
    Maintenance,
    /// Left, or lost.
    Offline,
}

/// Why a worker is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OfflineReason {
    /// It said goodbye.
    Left,
    /// Its lease ran out.
    LeaseExpired,
    /// An operator evicted it.
    Evicted,
}

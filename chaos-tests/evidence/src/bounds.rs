//! What a run must have shown before its verdicts may be good.
//!
//! What always holds: a bound that is not met makes a verdict unknown (too little was seen) or bad (a deadline that the
//! product promises was missed), never good. The default demands nothing.

use std::collections::BTreeMap;

/// How much must have been seen, and how fast the cluster must recover.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// Nobody but the recorded clients submitted, cancelled or changed anything. False on a cluster with other users, where
    /// tasks that nobody here submitted and cancels that nobody here asked for prove nothing.
    pub closed: bool,
    /// Everything that was submitted has to be finished at the end of the run.
    pub drained: bool,
    /// Completed (`ok`) operations of each kind that there must be at least: `submit`, `cancel`, `read`, `read_stale`,
    /// `read_workers`, `set_mode`, `membership`.
    pub ops_min: BTreeMap<String, u64>,
    /// Things that each checker must have looked at, by its name.
    pub examined_min: BTreeMap<String, u64>,
    /// Workers whose lease ran out.
    pub lease_expiries_min: u64,
    /// Snapshots that a master took over from another.
    pub snapshot_installs_min: u64,
    /// Leaders elected, the first one included.
    pub elections_min: u64,
    /// Classes of fault that must have been in force at least once, besides those that the run itself set out to install.
    pub faults: Vec<String>,
    /// After the last fault ended, a write must succeed within so many µs.
    pub recovery_us: Option<u64>,
    /// After the last fault ended, the queue must be empty within so many µs.
    pub drain_us: Option<u64>,
    /// A worker that was reachable for so many µs on end (lease + takeover) may not be declared lost.
    pub punish_after_us: Option<u64>,
    /// Attempts of a task that a read tells at most (the product's `attempts_kept_max`): the first and the latest ones.
    pub attempts_kept: usize,
    /// Configurations that the search for a linearization keeps at a time, per key. Beyond that the verdict is unknown.
    pub search_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::none()
    }
}

impl Bounds {
    /// No demands: only what is surely wrong is bad, and little evidence is no reason for doubt.
    pub fn none() -> Self {
        Self {
            closed: true,
            drained: false,
            ops_min: BTreeMap::new(),
            examined_min: BTreeMap::new(),
            lease_expiries_min: 0,
            snapshot_installs_min: 0,
            elections_min: 0,
            faults: Vec::new(),
            recovery_us: None,
            drain_us: None,
            punish_after_us: None,
            // The product's default; the run's workload sets no other.
            attempts_kept: 10,
            // 16 concurrent operations of one key, each in or out; some 20 MiB.
            search_max: 1 << 16,
        }
    }

    /// Demands so many completed operations of a kind.
    #[must_use]
    pub fn ops(mut self, kind: &str, min: u64) -> Self {
        self.ops_min.insert(kind.to_owned(), min);
        self
    }

    /// Demands that a checker looked at so many things.
    #[must_use]
    pub fn examined(mut self, checker: &str, min: u64) -> Self {
        self.examined_min.insert(checker.to_owned(), min);
        self
    }
}

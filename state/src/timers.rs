//! What is due when: one set, ordered by cluster time. Derived: every timer can be found again from the tables.

use std::collections::BTreeSet;

use crate::ids::{TaskId, WorkerId};

/// What a timer is for. The order decides between timers of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A backoff is over.
    Backoff(TaskId),
    /// A task's deadline passes.
    Deadline(TaskId),
    /// What still runs on a draining worker is given back.
    Drain(WorkerId),
    /// A load level has held long enough.
    Load(WorkerId),
    /// An offline worker leaves the registry.
    Forget(WorkerId),
}

/// All timers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Timers(BTreeSet<(u64, Due)>);

impl Timers {
    pub fn set(&mut self, at_ms: u64, due: Due) {
        self.0.insert((at_ms, due));
    }

    pub fn clear(&mut self, at_ms: u64, due: Due) {
        self.0.remove(&(at_ms, due));
    }

    /// Cluster time of the earliest.
    pub fn next_ms(&self) -> Option<u64> {
        self.0.first().map(|&(at_ms, _)| at_ms)
    }

    /// Takes the earliest that is due.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Due> {
        if self.next_ms()? > now_ms {
            return None;
        }
        self.0.pop_first().map(|(_, due)| due)
    }
}

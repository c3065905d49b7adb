//! The brake on mass failure: if too many workers fall silent within a window, the fault is likelier between them and the
//! masters than in all of them, and running their tasks a second time elsewhere would make it worse.
//!
//! What always holds: only leases that ran out count; what an operator does to a worker does not. While the brake holds, a
//! silent worker keeps its tasks and gets no new ones; nobody is declared lost but by an operator's word. It does not know
//! who is right: it waits for workers to come back, or for the operator.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::WorkerId;

/// How many workers may be lost before that is a mass failure. Replicated, changed by a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakePolicy {
    /// Share of the workers that may be lost within the window, in percent. 100: there is no brake.
    pub share_percent: u32,
    /// Losses count for so long, in ms of cluster time.
    pub window_ms: u64,
    /// So many may be lost in any case: a share of few workers is no number to act upon.
    pub workers_min: u32,
}

impl Default for BrakePolicy {
    /// Reasons: `docs/decisions/0014`.
    fn default() -> Self {
        Self { share_percent: 30, window_ms: 60_000, workers_min: 2 }
    }
}

impl BrakePolicy {
    /// So many of `population` workers may be lost within the window.
    pub fn allowed(&self, population: u64) -> u64 {
        (population.saturating_mul(self.share_percent.into()) / 100).max(self.workers_min.into())
    }
}

/// Since when, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Engaged {
    /// Cluster time.
    pub since_ms: u64,
    /// By an operator: it does not release itself.
    pub manual: bool,
}

/// What the brake knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Brake {
    pub policy: BrakePolicy,
    /// Workers whose leases ran out within the window and that have not come back, and when (cluster time). While the
    /// brake holds, the window stands still.
    pub lost: BTreeMap<WorkerId, u64>,
    /// Silent workers that keep what they have.
    pub held: BTreeSet<WorkerId>,
    pub engaged: Option<Engaged>,
    /// After an operator's release it does not engage by itself until this cluster time.
    pub released_until_ms: u64,
}

impl Brake {
    /// Losses outside of the window count no more.
    pub fn advance(&mut self, now_ms: u64) {
        if self.engaged.is_none() {
            let window_ms = self.policy.window_ms;
            self.lost.retain(|_, at_ms| at_ms.saturating_add(window_ms) > now_ms);
        }
    }

    /// Whether the next loss would be one too many. `living` counts all workers that are not offline, that one included.
    pub fn is_next_too_many(&self, living: u64, now_ms: u64) -> bool {
        let off = self.policy.share_percent >= 100 || now_ms < self.released_until_ms;
        let lost = self.lost.len() as u64;
        !off && lost + 1 > self.policy.allowed(living + lost)
    }

    /// Whether so many are back that the rest is an ordinary failure. An operator's brake never is.
    pub fn may_release(&self, living: u64) -> bool {
        let lost = self.lost.len() as u64;
        let few = lost + self.held.len() as u64 <= self.policy.allowed(living + lost);
        self.engaged.is_some_and(|engaged| !engaged.manual) && (few || self.policy.share_percent >= 100)
    }

    /// Nothing but the policy: for a state that begins a new life.
    pub fn reset(&mut self) {
        *self = Self { policy: self.policy, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_failures_are_allowed_and_a_share_of_many_is_too_many() {
        let allowed = |population| BrakePolicy::default().allowed(population);
        assert_eq!([1, 2, 5, 9, 10, 20, 100].map(allowed), [2, 2, 2, 2, 3, 6, 30]);
        let off = Brake { policy: BrakePolicy { share_percent: 100, ..BrakePolicy::default() }, ..Brake::default() };
        assert!(!off.is_next_too_many(1, 0));
    }
}

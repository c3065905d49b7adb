//! Remembered replies: what makes a retry harmless.
//!
//! What always holds: a request id that is remembered is answered from here and has no second effect. Replies are kept
//! in order, by count and age; a reply with many results counts as more than one, for memory is what the count bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::effect::Reply;
use crate::ids::RequestId;
use crate::limits::Limits;

/// So many results in one reply weigh as much as another reply.
const RESULTS_PER_WEIGHT: u64 = 8;

/// One remembered reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub id: RequestId,
    /// Cluster time.
    pub at_ms: u64,
    pub reply: Reply,
}

impl Kept {
    fn weight(&self) -> u64 {
        let results = match &self.reply {
            Reply::Cancelled(results) => results.len(),
            Reply::Retried(results) => results.len(),
            Reply::SessionOpened(opened) => opened.drop.len() + opened.config.labels.len(),
            _ => 0,
        };
        1 + results as u64 / RESULTS_PER_WEIGHT
    }
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    chain: Chain<Kept>,
    /// Position counted from the first reply ever.
    index: BTreeMap<RequestId, u64>,
    /// Position of the oldest that is kept.
    first: u64,
    weight: u64,
}

impl Replies {
    pub fn get(&self, id: &RequestId) -> Option<&Reply> {
        let position = self.index.get(id)?.checked_sub(self.first)?;
        self.chain.get(position as usize).map(|kept| &kept.reply)
    }

    /// Adds one whose id is not in it.
    pub fn push(&mut self, kept: Kept) {
        self.index.insert(kept.id, self.first + self.chain.len() as u64);
        self.weight += kept.weight();
        self.chain.push(kept);
    }

    /// Forgets at most `most` of those that are too many or too old. The newest always stays.
    pub fn trim(&mut self, limits: &Limits, now_ms: u64, most: usize) {
        for _ in 0..most {
            let Some(oldest) = self.chain.front() else { return };
            let old = oldest.at_ms.saturating_add(limits.replies_kept_ms) <= now_ms;
            let many = self.weight > limits.replies_kept_max && self.chain.len() > 1;
            if !old && !many {
                return;
            }
            self.weight -= oldest.weight();
            self.index.remove(&oldest.id);
            self.first += 1;
            self.chain.drop_front();
        }
    }

    /// Cluster time at which the oldest was remembered.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.chain.front().map(|kept| kept.at_ms)
    }

    /// A consistent copy.
    pub fn image(&self) -> Chain<Kept> {
        self.chain.clone()
    }

    /// Whether the index leads to each reply and nowhere else.
    pub fn index_holds(&self) -> bool {
        let found = self.chain.iter().all(|kept| self.get(&kept.id) == Some(&kept.reply));
        let weight: u64 = self.chain.iter().map(Kept::weight).sum();
        found && self.index.len() == self.chain.len() && weight == self.weight
    }
}

//! The pending tasks of one requirement class, highest priority first and oldest first within a priority.
//!
//! What always holds: neighbouring ids of one priority are one range, so that a large array is one entry.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::ids::TaskId;

/// An ordered set of (priority, task), kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// (priority, first id) to last id, inclusive.
    map: BTreeMap<(Reverse<i32>, u64), u64>,
}

impl Ranges {
    /// Adds `first..=last`, of which none is in it.
    pub fn insert(&mut self, priority: i32, first: u64, last: u64) {
        let priority = Reverse(priority);
        let last = match last.checked_add(1).and_then(|next| self.map.remove(&(priority, next))) {
            Some(end) => end,
            None => last,
        };
        let before = self.map.range_mut(..(priority, first)).next_back();
        match before {
            Some((key, end)) if key.0 == priority && end.checked_add(1) == Some(first) => *end = last,
            _ => {
                self.map.insert((priority, first), last);
            }
        }
    }

    /// Takes one out. Says whether it was in it.
    pub fn remove(&mut self, priority: i32, id: u64) -> bool {
        let priority = Reverse(priority);
        let Some((&key, &last)) = self.map.range(..=(priority, id)).next_back() else { return false };
        if key.0 != priority || last < id {
            return false;
        }
        match key.1 == id {
            true => self.map.remove(&key),
            false => self.map.insert(key, id - 1),
        };
        if id < last {
            self.map.insert((priority, id + 1), last);
        }
        true
    }

    /// Who goes first.
    pub fn first(&self) -> Option<(Reverse<i32>, TaskId)> {
        self.map.first_key_value().map(|(key, _)| (key.0, TaskId(key.1)))
    }

    /// How many go before this one.
    pub fn rank(&self, priority: i32, id: u64) -> u64 {
        let before = self.map.range(..(Reverse(priority), id));
        before
            .map(|(key, &last)| if key.0.0 == priority { last.min(id - 1) - key.1 + 1 } else { last - key.1 + 1 })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;
    use crate::ids::TaskId;

    proptest! {
        #[test]
        fn equals_a_plain_set(steps in prop::collection::vec((any::<bool>(), -1..2i32, 1..40u64), 1..200)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (add, priority, id) in steps {
                let key = (Reverse(priority), TaskId(id));
                if !add {
                    prop_assert_eq!(ranges.remove(priority, id), model.remove(&key));
                } else if model.insert(key) {
                    ranges.insert(priority, id, id);
                }
                prop_assert_eq!(ranges.first(), model.first().copied());
                prop_assert_eq!(ranges.rank(priority, id), model.range(..key).count() as u64);
            }
            let mut fresh = Ranges::default();
            model.iter().rev().for_each(|(priority, id)| fresh.insert(priority.0, id.0, id.0));
            prop_assert_eq!(fresh, ranges);
        }
    }

    #[test]
    fn a_million_neighbours_are_one_entry() {
        let mut ranges = Ranges::default();
        ranges.insert(0, 1, 500_000);
        ranges.insert(0, 500_001, 1_000_000);
        assert_eq!((ranges.map.len(), ranges.rank(0, 1_000_000)), (1, 999_999));
    }
}

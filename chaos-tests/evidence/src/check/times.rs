//! Between log and clock: at what time an entry can have been committed, and which entries an operation can have seen.
//!
//! What always holds: only linearizable operations with an answer are believed; a retry of a request bounds nothing that its
//! first try could have done earlier.

use std::collections::HashSet;

use crate::history::{History, Op};

/// Bounds from all operations of a history.
#[derive(Debug, Default)]
pub struct Times {
    /// By time of completion: the highest index that was answered until then.
    answered: Vec<(u64, u64)>,
    /// By time of invocation: the lowest index that is answered to anything invoked from then on.
    following: Vec<(u64, u64)>,
    /// By index: no entry from there on was proposed before that time.
    not_before: Vec<(u64, u64)>,
    /// By index: every entry up to there was committed at that time.
    not_after: Vec<(u64, u64)>,
}

impl Times {
    /// Looks at all operations and arrivals of events.
    pub fn of(history: &History) -> Self {
        let seen: Vec<(&Op, u64)> = history.ops.iter().filter_map(|op| Some((op, op.index()?))).collect();
        let fresh = seen.iter().filter(|(op, _)| op.is_linearizable());
        let mut times = Self {
            answered: fresh.clone().map(|(op, index)| (op.over_us(), *index)).collect(),
            following: Vec::new(),
            not_before: first_tries(&history.ops).filter_map(|op| Some((op.index()?, op.began_us()))).collect(),
            not_after: seen.iter().map(|(op, index)| (*index, op.over_us())).collect(),
        };
        times.not_after.extend(history.events.iter().map(|batch| (batch.index, batch.at_us)));
        running(&mut times.answered, u64::max, false);
        // One that saw the past (`log-order` says so) bounds nobody's view.
        let sound = fresh.filter(|(op, index)| *index >= times.index_before(op.began_us()));
        times.following = sound.map(|(op, index)| (op.began_us(), *index)).collect();
        running(&mut times.following, u64::min, true);
        running(&mut times.not_before, u64::max, false);
        running(&mut times.not_after, u64::min, true);
        times
    }

    /// The highest index that was answered before `at_us`; 0 if none was.
    pub fn index_before(&self, at_us: u64) -> u64 {
        let upto = self.answered.partition_point(|(time, _)| *time < at_us);
        upto.checked_sub(1).map_or(0, |at| self.answered[at].1)
    }

    /// The lowest index that was answered to anything invoked after `at_us`; [`u64::MAX`] if nothing was.
    pub fn index_after(&self, at_us: u64) -> u64 {
        let from = self.following.partition_point(|(time, _)| *time <= at_us);
        self.following.get(from).map_or(u64::MAX, |(_, index)| *index)
    }

    /// The entry was not proposed before this time, in µs.
    pub fn not_before_us(&self, index: u64) -> u64 {
        let upto = self.not_before.partition_point(|(at, _)| *at <= index);
        upto.checked_sub(1).map_or(0, |at| self.not_before[at].1)
    }

    /// The entry was committed at this time, in µs; [`u64::MAX`] if nobody saw it.
    pub fn not_after_us(&self, index: u64) -> u64 {
        let from = self.not_after.partition_point(|(at, _)| *at < index);
        self.not_after.get(from).map_or(u64::MAX, |(_, time)| *time)
    }
}

/// Writes whose request id was not used before: what they did they did not do earlier.
pub fn first_tries(ops: &[Op]) -> impl Iterator<Item = &Op> {
    let mut seen = HashSet::new();
    ops.iter().filter(|op| op.is_write()).filter(move |op| op.request().is_none_or(|request| seen.insert(request)))
}

/// Sorts by the first part, and replaces each second part by the best of all up to it (or from it on).
fn running(list: &mut [(u64, u64)], best: fn(u64, u64) -> u64, backwards: bool) {
    list.sort_unstable();
    let mut so_far = None;
    let mut take = |item: &mut (u64, u64)| {
        item.1 = so_far.map_or(item.1, |known| best(known, item.1));
        so_far = Some(item.1);
    };
    if backwards { list.iter_mut().rev().for_each(&mut take) } else { list.iter_mut().for_each(&mut take) }
}

//! `healthy-punished`: a worker that was reachable for longer than lease and takeover is not declared lost.
//!
//! What always holds: a worker counts as reachable until somebody says that it is not. When the verdict fell is known only
//! between two times (what was answered before and after it), and the worker must have been reachable over all of that. A
//! cut so short that it costs one heartbeat at most is no excuse.

use std::collections::HashMap;

use super::{Facts, verdict};
use crate::record::Answer;
use crate::report::svg::time;
use crate::verdict::Verdict;

/// A cut shorter than this share of the window (lease and takeover) is none: three heartbeats fit a lease, which is a good part
/// of the window.
const EXCUSE_SHARE: u64 = 20;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let Some(window_us) = facts.bounds.punish_after_us else { return verdict("healthy-punished", 0, Vec::new()) };
    let (mut examined, mut problems) = (0, Vec::new());
    let (cuts, names) = (cuts(facts), names(facts));
    for (id, tale) in &facts.fold.workers {
        let told = Some(tale.name.as_str()).filter(|name| !name.is_empty());
        // Without its name nobody can say whether it was reachable.
        let Some(name) = told.or_else(|| names.get(id).copied()) else { continue };
        for (index, arrived_us) in &tale.lost {
            examined += 1;
            let from_us = facts.times.not_before_us(*index).saturating_sub(window_us);
            let to_us = facts.times.not_after_us(*index).min(*arrived_us);
            let excuses = |it: &(u64, u64)| it.0 < to_us && it.1 > from_us && it.1 - it.0 >= window_us / EXCUSE_SHARE;
            let cut = cuts.get(name).is_some_and(|cuts| cuts.iter().any(excuses));
            if !cut {
                let (from, to) = (time(from_us), time(to_us));
                problems.push(format!("worker {name} was lost at {index}, though reachable from {from} to {to}"));
            }
        }
    }
    verdict("healthy-punished", examined.max(facts.fold.workers.len() as u64), problems)
}

/// Names by id, as reads tell them.
fn names<'a>(facts: &Facts<'a>) -> HashMap<u64, &'a str> {
    let answers = facts.history.ops.iter().filter_map(|op| match op.answer() {
        Some(Answer::Workers { workers, .. }) => Some(workers),
        _ => None,
    });
    answers.flatten().map(|worker| (worker.id, worker.name.as_str())).collect()
}

/// Stretches in which each worker was not reachable, in µs.
fn cuts<'a>(facts: &Facts<'a>) -> HashMap<&'a str, Vec<(u64, u64)>> {
    let mut cuts: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for it in &facts.history.reach {
        let known = cuts.entry(&it.worker).or_default();
        match known.last_mut().filter(|last| last.1 == u64::MAX) {
            Some(last) if it.reachable => last.1 = it.at_us,
            None if !it.reachable => known.push((it.at_us, u64::MAX)),
            _ => {}
        }
    }
    cuts
}

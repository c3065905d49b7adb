//! `recovery`: after the last fault there is soon a leader that takes writes, and the queue drains.
//!
//! What always holds: a run that ended before its time was up is unknown, not bad.

use std::collections::BTreeSet;

use super::{Facts, unknown, verdict};
use crate::record::Phase;
use crate::report::svg::time;
use crate::verdict::{Finding, Verdict};

const NAME: &str = "recovery";

pub fn check(facts: &Facts<'_>) -> Verdict {
    let real = facts.history.faults.iter().filter(|fault| matches!(fault.phase, Phase::Began | Phase::Ended));
    let Some(healed_us) = real.map(|fault| fault.at_us).max() else {
        return verdict(NAME, 0, Vec::new());
    };
    let write = facts.bounds.recovery_us.map(|bound_us| first_write(facts, healed_us, bound_us));
    let drain = facts.bounds.drain_us.map(|bound_us| drained(facts, healed_us, bound_us));
    let mut doubt = None;
    let mut problems = Vec::new();
    for finding in write.into_iter().chain(drain) {
        match finding {
            Finding::Good => {}
            Finding::Bad(lines) => problems.extend(lines),
            Finding::Unknown(why) => doubt = Some(why),
        }
    }
    match doubt.filter(|_| problems.is_empty()) {
        Some(why) => unknown(NAME, 1, why),
        None => verdict(NAME, 1, problems),
    }
}

fn first_write(facts: &Facts<'_>, healed_us: u64, bound_us: u64) -> Finding {
    let writes = || facts.history.ops.iter().filter(|op| op.is_write());
    let done = writes().filter(|op| op.answer().is_some()).map(|op| op.over_us()).filter(|over| *over >= healed_us);
    let (healed, bound) = (time(healed_us), time(bound_us));
    match done.min() {
        Some(done_us) if done_us - healed_us <= bound_us => Finding::Good,
        Some(done_us) => Finding::Bad(vec![format!(
            "the last fault was over at {healed}; the first write succeeded {} later, {bound} were allowed",
            time(done_us - healed_us)
        )]),
        None if !writes().any(|op| op.began_us() >= healed_us) => {
            Finding::Unknown(format!("nobody tried to write after the last fault was over at {healed}"))
        }
        None if facts.history.end_us < healed_us.saturating_add(bound_us) => {
            Finding::Unknown(format!("the run ended before {bound} had passed since the last fault, without a write"))
        }
        None => Finding::Bad(vec![format!("no write succeeded after the last fault was over at {healed}")]),
    }
}

/// From the last fault, or from the last submit if that came later.
fn drained(facts: &Facts<'_>, healed_us: u64, bound_us: u64) -> Finding {
    let submits = facts.history.ops.iter().filter(|op| op.kind() == "submit" && op.answer().is_some());
    let from_us = submits.map(|op| op.over_us()).fold(healed_us, u64::max);
    // Events that were trimmed before a follower came back are told by nobody; a read still shows how the task ended.
    let shown: BTreeSet<u64> = facts
        .reads()
        .filter(|read| read.view.is_some_and(|view| view.state.is_final()))
        .map(|read| read.task)
        .collect();
    let unfinished = facts.fold.tasks.iter().filter(|(task, tale)| tale.finished.is_none() && !shown.contains(task));
    let last_us = facts.fold.tasks.values().filter_map(|tale| tale.finished).map(|it| it.2).max().unwrap_or(0);
    let bound = time(bound_us);
    match unfinished.clone().map(|(task, _)| task).min() {
        _ if facts.fold.tasks.is_empty() => Finding::Unknown("no event tells whether the queue drained".to_owned()),
        Some(_) if facts.history.end_us < from_us.saturating_add(bound_us) => {
            Finding::Unknown(format!("the run ended before the queue had {bound} to drain"))
        }
        Some(task) => {
            Finding::Bad(vec![format!("{} tasks are not finished at the end, the first: {task}", unfinished.count())])
        }
        None if last_us > from_us.saturating_add(bound_us) => {
            let took = time(last_us - from_us);
            Finding::Bad(vec![format!("the queue took {took} to drain, {bound} were allowed")])
        }
        None => Finding::Good,
    }
}

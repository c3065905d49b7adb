//! `event-stream`: followers get every event once, in order, the same as all others, and the fold is what reads show; and
//! `stale-reads`: an old answer is an old truth.
//!
//! What always holds: a read is compared with the fold from its index on, for its index is where it surely was; what the
//! followers did not get to see is not judged.

use super::{Facts, Read, verdict};
use crate::record::{Answer, TaskView};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut problems = facts.log.problems.clone();
    problems.extend(facts.fold.stream.iter().cloned());
    problems.extend(facts.reads().filter(|read| read.op.is_linearizable()).filter_map(|read| differs(facts, read)));
    problems.extend(untold(facts));
    problems.extend(workers(facts));
    verdict("event-stream", facts.log.delivered, problems)
}

/// Reads that were allowed to be old must show what was true at their index or later.
pub fn stale_reads(facts: &Facts<'_>) -> Verdict {
    let stale = || facts.reads().filter(|read| !read.op.is_linearizable());
    verdict("stale-reads", stale().count() as u64, stale().filter_map(|read| differs(facts, read)).collect())
}

fn differs(facts: &Facts<'_>, read: &Read<'_>) -> Option<String> {
    let tale = facts.fold.tasks.get(&read.task)?;
    let (task, index, op) = (read.task, read.index, read.op.invoke.op);
    let latest = facts.times.index_after(read.op.over_us());
    let wrong = match read.view {
        None => index >= tale.submitted,
        Some(view) => !tale.explains(view, index, latest),
    };
    let seen = read.view.map_or("no such task".to_owned(), told);
    wrong.then(|| {
        let points: Vec<String> = tale.points.iter().map(|it| format!("{}: {:?}", it.index, it.state)).collect();
        format!("task {task} read at {index} (operation {op}): {seen}; the events say {}", points.join(", "))
    })
}

/// A view in a few words.
pub fn told(view: &TaskView) -> String {
    let last = view.attempts.last().map(|last| {
        let ended = if last.ended { "over" } else { "open" };
        format!(", attempt {} on worker {} {ended}", last.token, last.worker)
    });
    format!("{:?}{}", view.state, last.unwrap_or_default())
}

/// Tasks that were read while the log is known, but whose submit is not in it.
fn untold(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for (first, count, from, to, op) in super::submits::acknowledged(facts).map(|it| it.whereabouts(facts)) {
        let known = facts.log.stretch(to).is_some_and(|(begin, _)| begin <= from);
        let was_there = |task: &u64| facts.reads_of(*task).iter().any(|read| read.view.is_some());
        let untold = (first..first + count).find(|task| !facts.fold.tasks.contains_key(task) && was_there(task));
        if let Some(task) = untold.filter(|_| known) {
            problems.push(format!("task {task} (operation {op}) exists, but no event up to {to} says so"));
        }
    }
    problems
}

/// A worker that is read as offline was told to be, and the other way round.
fn workers(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for op in &facts.history.ops {
        let Some(Answer::Workers { workers, index }) = op.answer() else { continue };
        let known = facts.log.stretch(*index).is_some();
        for worker in workers.iter().filter(|_| known) {
            let Some(tale) = facts.fold.workers.get(&worker.id) else { continue };
            let offline = worker.status == "offline";
            if !tale.may_be(offline, *index) {
                let (id, status, op) = (worker.id, &worker.status, op.invoke.op);
                problems.push(format!("worker {id} read at {index} (operation {op}) is {status}; the events deny it"));
            }
        }
    }
    problems
}

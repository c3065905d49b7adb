//! `double-hold`: a task is given to one worker at a time, no worker gets more than it has slots for, and one that is offline,
//! draining or in maintenance gets nothing new.
//!
//! What always holds: assignments are judged in log order, so that no clock matters.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Facts, verdict};
use crate::history::Op;
use crate::record::{Answer, WorkerView};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut problems = facts.fold.hold.clone();
    problems.extend(two_open(facts));
    problems.extend(two_workers(facts));
    problems.extend(two_logs(facts));
    for op in &facts.history.ops {
        if let Some(Answer::Workers { workers, .. }) = op.answer() {
            problems.extend(registry(op, workers, facts.bounds.closed));
        }
    }
    verdict("double-hold", facts.fold.assigned, problems)
}

fn two_open(facts: &Facts<'_>) -> Vec<String> {
    let open = |view: &crate::record::TaskView| view.attempts.iter().filter(|attempt| !attempt.ended).count();
    let two = facts.reads().filter(|read| read.view.is_some_and(|view| open(view) > 1));
    two.map(|read| format!("task {} has two open attempts (operation {})", read.task, read.op.invoke.op)).collect()
}

/// One token at two workers, by events and reads.
fn two_workers(facts: &Facts<'_>) -> Vec<String> {
    let mut at: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (task, tale) in &facts.fold.tasks {
        at.extend(tale.attempts.iter().map(|(token, worker)| ((*task, *token), *worker)));
    }
    let mut problems = Vec::new();
    for read in facts.reads() {
        for attempt in read.view.into_iter().flat_map(|view| &view.attempts) {
            let worker = *at.entry((read.task, attempt.token)).or_insert(attempt.worker);
            if worker != attempt.worker {
                let (token, other, op) = (attempt.token, attempt.worker, read.op.invoke.op);
                problems.push(format!("attempt {token} is at worker {worker} and at worker {other} (operation {op})"));
            }
        }
    }
    problems
}

/// One token run by two workers, by their own logs.
fn two_logs(facts: &Facts<'_>) -> Vec<String> {
    let (mut ran, mut problems) = (HashMap::new(), Vec::new());
    for it in &facts.history.intervals {
        let worker = *ran.entry(it.token).or_insert(&it.worker);
        if *worker != it.worker {
            problems.push(format!("attempt {} of task {} ran at {worker} and at {}", it.token, it.task, it.worker));
        }
    }
    problems
}

fn registry(op: &Op, workers: &[WorkerView], closed: bool) -> Vec<String> {
    let (mut living, id) = (HashSet::new(), op.invoke.op);
    let mut problems = Vec::new();
    for worker in workers.iter().filter(|worker| worker.status != "offline") {
        let WorkerView { name, used, capacity, .. } = worker;
        if !living.insert(name) {
            problems.push(format!("two living workers are called {name} (operation {id})"));
        }
        // Somebody else may have made a worker smaller than what it holds.
        if closed && used > capacity {
            problems.push(format!("worker {name} holds {used} attempts and has {capacity} slots (operation {id})"));
        }
    }
    problems
}

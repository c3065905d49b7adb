//! `one-outcome`: each task has at most one accepted outcome, and everybody who sees one sees the same.
//!
//! What always holds: outcomes are told by events, by reads, and by cancels that say that they ended a task.

use std::collections::{BTreeMap, HashMap};

use super::{Facts, verdict};
use crate::record::{Answer, Call, TaskState};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut problems = facts.fold.outcome.clone();
    let outcomes = outcomes(facts);
    problems.extend(outcomes.iter().filter(|(_, told)| told.len() > 1).map(|(task, told)| {
        let told: Vec<String> = told.iter().map(|(state, who)| format!("{state:?} ({who})")).collect();
        format!("task {task} has more than one outcome: {}", told.join(", "))
    }));
    problems.extend(unfinished_again(facts));
    verdict("one-outcome", outcomes.len() as u64, problems)
}

/// Every outcome of each task, with the first who told it.
fn outcomes(facts: &Facts<'_>) -> HashMap<u64, BTreeMap<TaskState, String>> {
    let mut out: HashMap<u64, BTreeMap<TaskState, String>> = HashMap::new();
    let mut tell = |task: u64, state: TaskState, who: String| {
        out.entry(task).or_default().entry(state).or_insert(who);
    };
    for (task, tale) in &facts.fold.tasks {
        if let Some((state, index, _)) = tale.finished {
            tell(*task, state, format!("event at {index}"));
        }
    }
    for op in &facts.history.ops {
        match (&op.invoke.call, op.answer()) {
            (Call::Read { task, .. }, Some(Answer::Task { task: Some(view), .. })) if view.state.is_final() => {
                tell(*task, view.state, format!("read by operation {}", op.invoke.op));
            }
            (Call::Cancel { task, .. }, Some(Answer::Cancelled { changed: true, .. })) => {
                tell(*task, TaskState::Cancelled, format!("cancelled by operation {}", op.invoke.op));
            }
            _ => {}
        }
    }
    out
}

/// Reads that surely come after the end and show no end.
fn unfinished_again(facts: &Facts<'_>) -> Vec<String> {
    let again = facts.reads().filter_map(|read| {
        let (state, at, _) = facts.fold.tasks.get(&read.task)?.finished?;
        let view = read.view.filter(|view| !view.state.is_final() && read.index >= at)?;
        let (task, index, op) = (read.task, read.index, read.op.invoke.op);
        Some(format!("task {task} was {state:?} at {at}, and {:?} at {index} (operation {op})", view.state))
    });
    again.collect()
}

//! `tokens`: they rise per task and in the whole cluster, belong to one task each, and only the open attempt is heard.
//!
//! What always holds: a read that leaves out attempts is good only if it leaves out those that the bounds allow: the first
//! and the latest ones are kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Facts, Read, verdict};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut problems = facts.fold.tokens.clone();
    let known = known(facts);
    problems.extend(shared(&known));
    problems.extend(facts.reads().filter_map(|read| rising(read).or_else(|| forgotten(facts, &known, read))));
    problems.extend(unassigned(facts));
    verdict("tokens", facts.fold.assigned.max(known.values().map(|tokens| tokens.len() as u64).sum()), problems)
}

/// All tokens of each task that anybody told of.
fn known(facts: &Facts<'_>) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut known: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (task, tale) in facts.fold.tasks.iter().filter(|(_, tale)| !tale.attempts.is_empty()) {
        known.entry(*task).or_default().extend(tale.attempts.iter().map(|(token, _)| *token));
    }
    for read in facts.reads() {
        let tokens = read.view.into_iter().flat_map(|view| view.attempts.iter().map(|attempt| attempt.token));
        known.entry(read.task).or_default().extend(tokens);
    }
    known
}

fn shared(known: &BTreeMap<u64, BTreeSet<u64>>) -> Vec<String> {
    let (mut owner, mut problems) = (HashMap::new(), Vec::new());
    for (task, tokens) in known {
        for token in tokens {
            if let Some(other) = owner.insert(*token, *task) {
                problems.push(format!("token {token} belongs to task {other} and to task {task}"));
            }
        }
    }
    problems
}

fn rising(read: &Read<'_>) -> Option<String> {
    let attempts = &read.view?.attempts;
    let pair = attempts.windows(2).find(|pair| pair[0].token >= pair[1].token)?;
    let (task, op) = (read.task, read.op.invoke.op);
    Some(format!("task {task} (operation {op}): token {} comes after token {}", pair[1].token, pair[0].token))
}

/// Attempts only grow: what anybody saw up to the last token of a read is in it, but for those that may be left out.
fn forgotten(facts: &Facts<'_>, known: &BTreeMap<u64, BTreeSet<u64>>, read: &Read<'_>) -> Option<String> {
    let seen: Vec<u64> = read.view?.attempts.iter().map(|attempt| attempt.token).collect();
    let last = seen.last()?;
    let expected: Vec<u64> = known.get(&read.task)?.range(..=last).copied().collect();
    let (task, op) = (read.task, read.op.invoke.op);
    let whole = seen == expected;
    let cut = seen.len() >= facts.bounds.attempts_kept
        && seen.first() == expected.first()
        && expected.ends_with(&seen[1..])
        && expected.len() > seen.len();
    (!whole && !cut).then(|| format!("task {task} (operation {op}) has attempts {seen:?}, but there were {expected:?}"))
}

/// Attempts that a worker ran although the log never assigned them. Tokens rise along the log, so one that lies between two of
/// a known stretch was assigned there; one that may belong to what was trimmed is believed.
fn unassigned(facts: &Facts<'_>) -> Vec<String> {
    let known = |token| facts.fold.tokens_known.iter().any(|(low, high)| (*low..=*high).contains(&token));
    let strange = facts.history.intervals.iter().filter(|it| {
        let tale = facts.fold.tasks.get(&it.task);
        let assigned = |token| tale.is_none_or(|tale| tale.attempts.iter().any(|attempt| attempt.0 == token));
        known(it.token) && !assigned(it.token)
    });
    strange
        .map(|it| format!("worker {} ran attempt {} of task {}, which nobody assigned", it.worker, it.token, it.task))
        .collect()
}

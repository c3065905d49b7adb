//! `idempotence`: one request id, one effect.
//!
//! What always holds: all answers to one request are the same, no two requests share a task, and the log holds no more
//! submits than requests that may have made them; so a submit of unknown outcome is there once or not at all.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::submits::{Acknowledged, by_request};
use super::{Facts, verdict};
use crate::history::Op;
use crate::record::{Answer, Call};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let ops = &facts.history.ops;
    let acknowledged = by_request(ops);
    let mut problems = answers(ops);
    problems.extend(shared(acknowledged.values()));
    problems.extend(counts(acknowledged.values()));
    if facts.bounds.closed {
        problems.extend(surplus(facts, &acknowledged));
    }
    let requests: HashSet<&str> = ops.iter().filter_map(Op::request).collect();
    verdict("idempotence", requests.len() as u64, problems)
}

/// Answers to one request that differ. Each has its own index: that of the entry that answered.
fn answers(ops: &[Op]) -> Vec<String> {
    let (mut first, mut problems) = (HashMap::new(), Vec::new());
    for op in ops {
        let (Some(request), Some(answer)) = (op.request(), op.answer()) else { continue };
        let (before, known) = *first.entry(request).or_insert((op, answer));
        if essence(known) != essence(answer) {
            let (one, two) = (before.invoke.op, op.invoke.op);
            problems.push(format!(
                "request {request} was answered with {} (operation {one}) and with {} (operation {two})",
                told(known),
                told(answer)
            ));
        }
    }
    problems
}

fn essence(answer: &Answer) -> (u64, u64, bool) {
    match answer {
        Answer::Submitted { first, count, .. } => (*first, *count, false),
        Answer::Cancelled { changed, .. } => (0, 0, *changed),
        Answer::Task { .. } | Answer::Workers { .. } | Answer::Done { .. } => (0, 0, false),
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Submitted { first, count, .. } => format!("{count} tasks from {first}"),
        Answer::Cancelled { changed, .. } => format!("changed = {changed}"),
        _ => "done".to_owned(),
    }
}

fn shared<'a>(acknowledged: impl Iterator<Item = &'a Acknowledged<'a>>) -> Vec<String> {
    let mut ranges: Vec<&Acknowledged<'_>> = acknowledged.collect();
    ranges.sort_by_key(|it| it.first);
    let pairs = ranges.windows(2).filter(|pair| pair[0].first + pair[0].count > pair[1].first);
    pairs
        .map(|pair| {
            let (one, two) = (pair[0].op.invoke.op, pair[1].op.invoke.op);
            format!("task {} belongs to two requests (operations {one} and {two})", pair[1].first)
        })
        .collect()
}

fn counts<'a>(acknowledged: impl Iterator<Item = &'a Acknowledged<'a>>) -> Vec<String> {
    let wrong = acknowledged.filter_map(|it| match &it.op.invoke.call {
        Call::Submit { count, .. } if *count != it.count => Some((it, count)),
        _ => None,
    });
    wrong
        .map(|(it, asked)| format!("operation {} submitted {asked} tasks and got {}", it.op.invoke.op, it.count))
        .collect()
}

/// Submits in the log that no request can have made: more of a size than requests of that size with unknown outcome.
fn surplus(facts: &Facts<'_>, acknowledged: &HashMap<&str, Acknowledged<'_>>) -> Vec<String> {
    let known: HashSet<(u64, u64)> = acknowledged.values().map(|it| (it.first, it.count)).collect();
    let mut unclaimed: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for (index, first, count) in
        facts.fold.submits.iter().filter(|(_, first, count)| !known.contains(&(*first, *count)))
    {
        unclaimed.entry(*count).or_default().push((*index, *first));
    }
    let open = open_requests(&facts.history.ops, acknowledged);
    let over = unclaimed.iter().filter(|(count, found)| found.len() > open.get(count).copied().unwrap_or(0));
    over.map(|(count, found)| {
        let may = open.get(count).copied().unwrap_or(0);
        let at: Vec<String> = found.iter().take(5).map(|(index, first)| format!("task {first} at {index}")).collect();
        let seen = found.len();
        format!("{seen} submits of {count} tasks in the log that nobody was told of (first: {}), but only {may} requests of unknown outcome can have made them", at.join(", "))
    })
    .collect()
}

/// Requests of unknown outcome, by number of tasks.
fn open_requests(ops: &[Op], acknowledged: &HashMap<&str, Acknowledged<'_>>) -> HashMap<u64, usize> {
    let mut open: HashMap<&str, u64> = HashMap::new();
    for op in ops.iter().filter(|op| op.unknown()) {
        if let Call::Submit { request, count } = &op.invoke.call {
            open.insert(request, *count);
        }
    }
    let mut out = HashMap::new();
    for (_, count) in open.iter().filter(|(request, _)| !acknowledged.contains_key(**request)) {
        *out.entry(*count).or_default() += 1;
    }
    out
}

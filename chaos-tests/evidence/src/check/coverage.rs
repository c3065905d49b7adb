//! `coverage`: whether enough was seen at all.
//!
//! What always holds: it is never bad. Too few operations, too few elections, a wanted fault that was skipped, or records
//! that can't be right make it unknown, and with it the run.

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::Bounds;
use crate::history::History;
use crate::record::{Event, Phase};
use crate::verdict::{Finding, Verdict};

/// Good if everything that was demanded was seen.
pub fn check(history: &History, bounds: &Bounds, others: &[Verdict]) -> Verdict {
    let mut missing: Vec<String> = history.malformed.iter().take(5).cloned().collect();
    missing.extend(operations(history, bounds));
    missing.extend(happenings(history, bounds));
    missing.extend(faults(history, bounds));
    missing.extend(others.iter().filter_map(|verdict| too_little(verdict, bounds)));
    let finding = if missing.is_empty() { Finding::Good } else { Finding::Unknown(missing.join("; ")) };
    Verdict { checker: "coverage".to_owned(), finding, examined: history.ops.len() as u64 }
}

fn operations(history: &History, bounds: &Bounds) -> Vec<String> {
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.answer().is_some()) {
        *done.entry(op.kind()).or_default() += 1;
    }
    let have = |kind: &str| done.get(kind).copied().unwrap_or(0);
    let few = bounds.ops_min.iter().filter(|(kind, min)| have(kind) < **min);
    few.map(|(kind, min)| format!("{} completed {kind} of {min} wanted", have(kind))).collect()
}

fn happenings(history: &History, bounds: &Bounds) -> Vec<String> {
    let mut lost = BTreeSet::new();
    let mut terms: BTreeSet<u64> = history.leads.iter().map(|leads| leads.term).collect();
    for batch in &history.events {
        for event in &batch.events {
            match event {
                Event::Worker { worker, change, .. } if change == "lost" => drop(lost.insert((batch.index, *worker))),
                Event::Leader { term, .. } => drop(terms.insert(*term)),
                _ => {}
            }
        }
    }
    let counts = [
        ("lease expiries", lost.len() as u64, bounds.lease_expiries_min),
        ("snapshot installs", history.installed.len() as u64, bounds.snapshot_installs_min),
        ("elections", terms.len() as u64, bounds.elections_min),
    ];
    let few = counts.iter().filter(|(_, have, min)| have < min);
    few.map(|(what, have, min)| format!("{have} {what} of {min} wanted")).collect()
}

fn faults(history: &History, bounds: &Bounds) -> Vec<String> {
    let began = |class: &str| history.faults.iter().any(|fault| fault.class == class && fault.phase == Phase::Began);
    let wanted: BTreeSet<&String> = history.run.faults_wanted.iter().chain(&bounds.faults).collect();
    let absent = wanted.iter().filter(|class| !began(class)).map(|class| format!("fault {class} was never in force"));
    let skipped = history.faults.iter().filter_map(|fault| match &fault.phase {
        Phase::Skipped { why } => Some(format!("fault {} was skipped: {why}", fault.class)),
        _ => None,
    });
    let skipped: BTreeSet<String> = skipped.collect();
    absent.chain(skipped).collect()
}

fn too_little(verdict: &Verdict, bounds: &Bounds) -> Option<String> {
    let min = bounds.examined_min.get(&verdict.checker).copied().unwrap_or(0);
    let Verdict { checker, examined, .. } = verdict;
    (*examined < min).then(|| format!("{checker} looked at {examined} of {min} wanted"))
}

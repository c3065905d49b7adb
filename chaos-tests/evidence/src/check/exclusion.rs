//! `exclusion`: of a task with `on_partition = stop`, no two attempts run at the same time.
//!
//! What always holds: intervals are the workers' own, on the one real clock of the run; an attempt whose end nobody logged
//! counts up to its latest sign of life, so that only a real overlap is bad.

use std::collections::HashMap;

use super::{Facts, verdict};
use crate::record::Interval;
use crate::report::svg::time;
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut tasks: HashMap<u64, Vec<&Interval>> = HashMap::new();
    let exclusive = facts.history.intervals.iter().filter(|it| it.exclusive);
    let examined = exclusive.clone().count() as u64;
    exclusive.for_each(|it| tasks.entry(it.task).or_default().push(it));
    let problems = tasks.values_mut().flat_map(|intervals| overlaps(intervals)).collect();
    verdict("exclusion", examined, problems)
}

fn overlaps(intervals: &mut [&Interval]) -> Vec<String> {
    intervals.sort_by_key(|it| it.from_us);
    let (mut problems, mut longest): (Vec<String>, Option<&Interval>) = (Vec::new(), None);
    for it in intervals.iter() {
        let other = longest.filter(|other| it.from_us < end_us(other) && !same(it, other));
        problems.extend(other.map(|other| told(other, it)));
        longest = longest.filter(|other| end_us(other) >= end_us(it)).or(Some(it));
    }
    problems
}

fn end_us(it: &Interval) -> u64 {
    it.to_us.unwrap_or(it.seen_us)
}

/// The same attempt, logged twice by its worker.
fn same(one: &Interval, other: &Interval) -> bool {
    (one.token, &one.worker) == (other.token, &other.worker)
}

fn told(one: &Interval, other: &Interval) -> String {
    let part = |it: &Interval| {
        let (from, to) = (time(it.from_us), time(end_us(it)));
        format!("attempt {} ran at {} from {from} to {to}", it.token, it.worker)
    };
    let both_us = end_us(one).min(end_us(other)) - other.from_us;
    format!("task {}: {} and {}: {} at the same time", one.task, part(one), part(other), time(both_us))
}

//! How often the core asks the allocator, per task: a guard against slow creep that no machine's noise can hide or fake.
//!
//! The bounds are what was counted when they were written, plus a tenth. Whoever makes a path cheaper lowers its bound; whoever
//! must make it dearer raises it and says why. The counts are of debug builds, too: the code allocates alike in both.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use allocation_counter::measure;
use common::feed::{Feed, success, workers};
use steersman_state::*;

/// Tasks of each measurement.
const TASKS: u32 = 10_240;
/// Tasks of one entry.
const ENTRY: u32 = 256;

fn spec(n: u32) -> TaskSpec {
    let argv = vec!["/bin/true".into(), n.to_string()];
    TaskSpec { work: Work::Command { argv, workdir: String::new(), stdin: vec![] }, ..common::spec("task") }
}

/// Counts what `work` allocates, per task of [`TASKS`].
fn per_task(work: impl FnOnce()) -> f64 {
    measure(work).count_total as f64 / f64::from(TASKS)
}

fn at_most(what: &str, counted: f64, bound: f64) {
    println!("{what}: {counted:.3} allocations a task, at most {bound}");
    assert!(counted <= bound, "{what}: {counted:.3} allocations a task, at most {bound} are allowed");
}

#[test]
fn a_task_of_an_array_is_submitted_almost_without_allocating() {
    let mut feed = Feed::default();
    let group = TaskGroup { spec: Arc::new(spec(1)), count: TASKS };
    let commands = vec![Command::Submit { groups: vec![group] }];
    at_most("submit of an array", per_task(|| drop(feed.apply(commands))), 0.021);
}

#[test]
fn a_single_task_is_submitted() {
    let mut feed = Feed::default();
    let entry = |part: u32| {
        let groups = (0..ENTRY).map(|n| TaskGroup { spec: Arc::new(spec(part * ENTRY + n)), count: 1 }).collect();
        vec![Command::Submit { groups }]
    };
    let entries: Vec<_> = (0..TASKS / ENTRY).map(entry).collect();
    at_most("submit of one", per_task(|| entries.into_iter().for_each(|entry| drop(feed.apply(entry)))), 0.038);
}

#[test]
fn a_task_is_placed_and_reported() {
    let mut feed = Feed::default();
    let mut runs = feed.apply(workers(2, ENTRY)).effects;
    let group = TaskGroup { spec: Arc::new(spec(1)), count: 2 * TASKS };
    runs.extend(feed.apply(vec![Command::Submit { groups: vec![group] }]).effects);
    let mut counted = 0;
    for _ in 0..TASKS / ENTRY {
        let part: Vec<_> = runs.drain(..ENTRY as usize).collect();
        let commands: Vec<_> = part.into_iter().filter_map(success).collect();
        let mut applied = None;
        counted += measure(|| applied = Some(feed.apply(commands))).count_total;
        runs.extend(applied.unwrap().effects);
    }
    at_most("report, and placement of the next", counted as f64 / f64::from(TASKS), 1.4);
}

#[test]
fn an_entry_is_encoded_and_decoded() {
    let groups = (0..TASKS).map(|n| TaskGroup { spec: Arc::new(spec(n)), count: 1 }).collect();
    let batch = Feed::default().batch(vec![Command::Submit { groups }]);
    let mut bytes = Vec::new();
    at_most("encoding", per_task(|| bytes = batch.encode()), 0.003);
    at_most("decoding", per_task(|| drop(Batch::decode(&bytes).unwrap())), 6.1);
}

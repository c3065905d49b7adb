//! What the core costs by itself, without log, disk and network: time per task from submit to report, and memory.
//!
//! Figures, not a verdict, so nothing runs it by itself:
//! `cargo test --release -p steersman-state --test cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::feed::{Feed, success, workers};
use steersman_state::*;

fn spec(n: u64) -> TaskSpec {
    let argv = vec!["/bin/true".into(), n.to_string()];
    let work = Work::Command { argv, workdir: String::new(), stdin: vec![] };
    TaskSpec { work, ..common::spec(&format!("task-{n}")) }
}

/// Resident memory in MB.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

/// Microseconds per task from assignment to report with so many tasks pending behind, in entries of 256 reports.
fn cycle(pending: u32, fleet: u32, capacity: u32) -> f64 {
    let mut feed = Feed::default();
    let mut runs = feed.apply(workers(fleet, capacity)).effects;
    let group = TaskGroup { spec: Arc::new(spec(1)), count: pending };
    runs.extend(feed.apply(vec![Command::Submit { groups: vec![group] }]).effects);
    let (mut done, mut busy) = (0, Duration::ZERO);
    while done < 100_000 {
        let part: Vec<_> = runs.drain(..runs.len().min(256)).collect();
        let mut commands: Vec<_> = part.into_iter().filter_map(success).collect();
        done += commands.len() as u32;
        let group = TaskGroup { spec: Arc::new(spec(1)), count: 256 };
        commands.push(Command::Submit { groups: vec![group] });
        let start = Instant::now();
        runs.extend(feed.apply(commands).effects);
        busy += start.elapsed();
    }
    busy.as_secs_f64() * 1e6 / f64::from(done)
}

#[test]
#[ignore = "prints figures that mean something in a release build only"]
fn what_the_core_costs() {
    memory();
    for (pending, fleet, capacity) in [(10_000, 2, 1_000), (300_000, 2, 1_000), (1_000_000, 10_000, 4)] {
        println!("{pending} pending, {fleet} workers: {:.2} us a task", cycle(pending, fleet, capacity));
    }
}

fn memory() {
    let before = resident_mb();
    let mut feed = Feed::default();
    let start = Instant::now();
    let group = TaskGroup { spec: Arc::new(spec(0)), count: 1_000_000 };
    feed.apply(vec![Command::Submit { groups: vec![group] }]);
    println!("an array of 1,000,000: {:?}, {} MB", start.elapsed(), resident_mb() - before);
    let before = resident_mb();
    let start = Instant::now();
    for part in 0..100 {
        let groups = (0..10_000).map(|n| TaskGroup { spec: Arc::new(spec(part * 10_000 + n)), count: 1 }).collect();
        feed.apply(vec![Command::Submit { groups }]);
    }
    println!("1,000,000 single tasks: {:?}, {} MB", start.elapsed(), resident_mb() - before);
    let start = Instant::now();
    let image = feed.state.image();
    println!("image of 2,000,000: {:?}", start.elapsed());
    let start = Instant::now();
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    println!("written: {:?}, {} MB", start.elapsed(), bytes.len() >> 20);
    let start = Instant::now();
    let again = State::read(&mut bytes.as_slice()).unwrap();
    println!("read: {:?}", start.elapsed());
    let start = Instant::now();
    println!("digest {:x}: {:?}", again.digest(), start.elapsed());
}

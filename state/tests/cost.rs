//! What the core costs by itself, without log, disk and network: time per task from submit to report, and memory.
//!
//! Figures, not a verdict, so nothing runs it by itself:
//! `cargo test --release -p steersman-state --test cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use steersman_state::*;

struct Feed {
    state: State,
    index: u64,
}

impl Feed {
    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let stamp =
            Stamp { term: 1, leader: MasterId(1), time_ms: self.index, wall_ms: self.index, entropy: self.index };
        let commands = commands.into_iter().map(|command| Envelope { request: None, command }).collect();
        self.state.apply(self.index, &Batch { stamp, commands })
    }
}

fn spec(n: u64) -> TaskSpec {
    let argv = vec!["/bin/true".into(), n.to_string()];
    let work = Work::Command { argv, workdir: String::new(), stdin: vec![] };
    TaskSpec { work, ..common::spec(&format!("task-{n}")) }
}

fn workers(count: u32, capacity: u32) -> Vec<Command> {
    let open = |n: u32| {
        let mut uid = [0; 16];
        uid[..4].copy_from_slice(&n.to_le_bytes());
        Command::OpenSession(OpenSession {
            name: format!("w{n}"),
            uid: WorkerUid(uid),
            incarnation: 1,
            host: "localhost".into(),
            port: 0,
            capacity,
            labels: Labels::new(),
            resources: Resources::new(),
            heartbeat_ms: 1_000,
            version: String::new(),
            held: vec![],
        })
    };
    (0..count).map(open).collect()
}

/// Resident memory in MB.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

/// The report that a run ended well.
fn success(effect: Effect) -> Option<Command> {
    let Effect::StartRun(run) = effect else { return None };
    let (outcome, message, result) = (Outcome::Succeeded, String::new(), vec![]);
    let news = News::Ended(Ended { outcome, exit_code: 0, message, result, ran_ms: 1 });
    let reports = vec![Report { token: run.token, task: run.task, news }];
    Some(Command::Reports { worker: run.worker, incarnation: 1, reports })
}

/// Microseconds per task from assignment to report with so many tasks pending behind, in entries of 256 reports.
fn cycle(pending: u32, fleet: u32, capacity: u32) -> f64 {
    let mut feed = Feed { state: State::new(), index: 0 };
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
    let mut feed = Feed { state: State::new(), index: 0 };
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

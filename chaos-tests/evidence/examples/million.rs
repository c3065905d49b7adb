//! How long the checkers take over a large history: 1,000,000 operations over 100,000 tasks, with faults, lost workers and
//! elections, made up so that everything in it is right.
//!
//! What always holds: the figure is printed, never asserted; the verdicts are asserted. Arguments: operations (default
//! 1,000,000), and a file that the report is written to.

use std::time::Instant;

use steersman_evidence::record::*;
use steersman_evidence::report::{Extra, render};
use steersman_evidence::{Bounds, History, all_good, check, summary};

/// Tasks have ten operations each: a submit, two reads of each attempt, one cancel in four.
const OPS_PER_TASK: u64 = 10;
const WORKERS: u64 = 5;

/// Writes a history as a cluster without faults of its own would leave it.
#[derive(Default)]
struct Scribe {
    records: Vec<Record>,
    op: u64,
    index: u64,
    token: u64,
    term: u64,
}

impl Scribe {
    fn call(&mut self, process: u64, at_us: u64, took_us: u64, call: Call, outcome: Outcome) {
        self.op += 1;
        let (op, master) = (self.op, Some(process % 3 + 1));
        self.records.push(Record::Invoke(Invoke { op, process, at_us, master, call }));
        self.records.push(Record::Complete(Complete { op, at_us: at_us + took_us, master, outcome }));
    }

    fn entry(&mut self, at_us: u64, events: Vec<Event>) -> u64 {
        self.index += 1;
        let (index, term) = (self.index, self.term);
        self.records.push(Record::Events(Events { follower: 1, at_us, master: None, index, term, events }));
        index
    }

    fn elect(&mut self, at_us: u64) {
        self.term += 1;
        let (term, master) = (self.term, self.term % 3 + 1);
        self.records.push(Record::Leads(Leads { at_us, master, term }));
        self.entry(at_us, vec![Event::Leader { term, master }]);
    }

    fn read(&mut self, task: u64, at_us: u64, state: TaskState, tokens: &[u64]) {
        let ended = !matches!(state, TaskState::Scheduled | TaskState::Running);
        let last = tokens.len();
        let view = |(at, token): (usize, &u64)| AttemptView {
            token: *token,
            worker: token % WORKERS,
            ended: ended || at + 1 < last,
        };
        let view = TaskView { state, attempts: tokens.iter().enumerate().map(view).collect() };
        let answer = Answer::Task { task: Some(view), index: self.index };
        self.call(task % 64 + 100, at_us, 800, Call::Read { task, stale: false }, Outcome::Ok { answer });
    }

    /// A task from its submit, which may take long, to its end: one attempt that is lost, one that ends it.
    fn task(&mut self, task: u64, at_us: u64, slow_us: u64) {
        let index = self.entry(at_us + 500, vec![Event::Submitted { first: task, count: 1 }]);
        let answer = Answer::Submitted { first: task, count: 1, index };
        let submit = Call::Submit { request: format!("{task:032x}"), count: 1 };
        self.call(task % 64, at_us.saturating_sub(slow_us), 900 + task % 700 + slow_us, submit, Outcome::Ok { answer });
        let mut tokens = Vec::new();
        for step in 0..2 {
            self.token += 1;
            let (token, worker) = (self.token, self.token % WORKERS);
            tokens.push(token);
            let begin = at_us + 2_000 + step * 4_000;
            self.entry(begin, vec![Event::Assigned { task, token, worker }, Event::Started { task, token }]);
            (0..3).for_each(|at| self.read(task, begin + 100 + at * 900, TaskState::Running, &tokens));
            let next = if step == 0 {
                Event::Retrying { task }
            } else {
                Event::Finished { task, state: TaskState::Succeeded }
            };
            self.entry(begin + 3_500, vec![Event::Ended { task, token }, next]);
        }
        let end = at_us + 10_000;
        (0..3).for_each(|at| self.read(task, end + at * 900, TaskState::Succeeded, &tokens));
    }
}

fn made(ops: u64) -> Vec<Record> {
    let tasks = ops / OPS_PER_TASK;
    let mut scribe = Scribe::default();
    let run = Run { format: FORMAT, kind: "chaos".into(), seed: 1, masters: 3, workers: WORKERS, ..Run::default() };
    scribe.records.push(Record::Run(run));
    for task in 1..=tasks {
        let at_us = task * 15_000;
        let minute = at_us / 60_000_000;
        if task == 1 || task.is_multiple_of(20_000) {
            scribe.elect(at_us - 10);
        }
        let slow_us = if at_us % 60_000_000 < 3_000_000 { 40_000 * (minute % 4) } else { 0 };
        scribe.task(task, at_us, slow_us);
        if task.is_multiple_of(4_000) {
            fault(&mut scribe.records, at_us, task / 4_000);
        }
    }
    scribe.records
}

fn fault(records: &mut Vec<Record>, at_us: u64, number: u64) {
    let classes = ["kill", "pause", "partition-one-sided", "slow-disk", "power-loss"];
    let class = classes[number as usize % classes.len()].to_owned();
    let target = format!("m{}", number % 3 + 1);
    let fault = |at_us, phase| Record::Fault(Fault { at_us, class: class.clone(), target: target.clone(), phase });
    records.extend([fault(at_us, Phase::Began), fault(at_us + 3_000_000, Phase::Ended)]);
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let ops = args.next().and_then(|ops| ops.parse().ok()).unwrap_or(1_000_000);
    let records = made(ops);
    let started = Instant::now();
    let history = History::from_records(records);
    println!("joined {} operations in {:.2} s", history.ops.len(), started.elapsed().as_secs_f64());
    let started = Instant::now();
    let verdicts = check(&history, &Bounds::none());
    println!("checked in {:.2} s\n{}", started.elapsed().as_secs_f64(), summary(&verdicts));
    assert!(all_good(&verdicts));
    let Some(path) = args.next() else { return Ok(()) };
    let started = Instant::now();
    let html = render(&history, &Bounds::none(), &verdicts, &Extra::default());
    println!("report of {} bytes in {:.2} s", html.len(), started.elapsed().as_secs_f64());
    std::fs::write(path, html)
}

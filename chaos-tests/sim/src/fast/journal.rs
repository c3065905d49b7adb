//! What the run writes down: records in the common format, with times of the one true clock of the simulation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use steersman_evidence::record::{Answer, Call, Complete, Fault, Invoke, Note, Outcome, Phase, Reach, Record};
use tokio::time::Instant;

/// Records, problems and counts of one run.
pub struct Journal {
    began: Instant,
    records: Mutex<Vec<Record>>,
    problems: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    ops: AtomicU64,
    ended_us: AtomicU64,
}

/// More of the same kind help nobody.
const PROBLEMS_MAX: usize = 40;

impl Journal {
    /// An empty one; its time begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            records: Mutex::default(),
            problems: Mutex::default(),
            counts: Mutex::default(),
            ops: AtomicU64::new(0),
            ended_us: AtomicU64::new(0),
        }
    }

    /// µs since the beginning of the run.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// The run is over: nothing that happens from now on belongs to it.
    pub fn stop(&self) {
        self.ended_us.store(self.now_us().max(1), Ordering::Relaxed);
    }

    /// When the run was over, in µs.
    pub fn ended_us(&self) -> u64 {
        self.ended_us.load(Ordering::Relaxed)
    }

    /// Writes a record down.
    pub fn push(&self, record: Record) {
        if self.ended_us() > 0 {
            return;
        }
        self.records.lock().push(record);
    }

    /// Counts something for the coverage.
    pub fn count(&self, name: &str) {
        *self.counts.lock().entry(name.to_owned()).or_default() += 1;
    }

    /// Something that must not be was seen from inside.
    pub fn problem(&self, what: String) {
        let mut problems = self.problems.lock();
        if problems.len() < PROBLEMS_MAX {
            problems.push(format!("at {:.3} s: {what}", self.now_us() as f64 / 1e6));
        }
    }

    /// A line for the timeline.
    pub fn note(&self, who: &str, text: impl Into<String>) {
        self.push(Record::Note(Note { at_us: self.now_us(), who: who.to_owned(), text: text.into() }));
    }

    /// A fault began or ended.
    pub fn fault(&self, class: &str, target: &str, phase: Phase) {
        if phase == Phase::Began {
            self.count(&format!("fault {class}"));
        }
        let fault = Fault { at_us: self.now_us(), class: class.to_owned(), target: target.to_owned(), phase };
        self.push(Record::Fault(fault));
    }

    /// Whether a worker could keep its lease from now on.
    pub fn reach(&self, worker: &str, reachable: bool) {
        self.push(Record::Reach(Reach { at_us: self.now_us(), worker: worker.to_owned(), reachable }));
    }

    /// A client asks for something; the number is for [`Journal::complete`].
    pub fn invoke(&self, process: u64, call: Call) -> u64 {
        let op = self.ops.fetch_add(1, Ordering::Relaxed) + 1;
        self.push(Record::Invoke(Invoke { op, process, at_us: self.now_us(), master: None, call }));
        op
    }

    /// And this is what came of it.
    pub fn complete(&self, op: u64, master: Option<u64>, outcome: Outcome) {
        let kind = match &outcome {
            Outcome::Ok { answer } => match answer {
                Answer::Submitted { .. } => "ok submit",
                Answer::Cancelled { .. } => "ok cancel",
                Answer::Task { .. } => "ok read",
                Answer::Workers { .. } => "ok read_workers",
                Answer::Done { .. } => "ok other",
            },
            Outcome::Fail { .. } => "failed operation",
            Outcome::Unknown { .. } => "unknown operation",
        };
        self.count(kind);
        self.push(Record::Complete(Complete { op, at_us: self.now_us(), master, outcome }));
    }

    /// A task on a page that was asked for at `invoked_us`, as an operation of its own.
    pub fn read_of_page(&self, process: u64, invoked_us: u64, task: u64, master: Option<u64>, outcome: Outcome) {
        let op = self.ops.fetch_add(1, Ordering::Relaxed) + 1;
        let call = Call::Read { task, stale: false };
        self.push(Record::Invoke(Invoke { op, process, at_us: invoked_us, master: None, call }));
        self.complete(op, master, outcome);
    }

    /// Everything, at the end.
    pub fn take(&self) -> (Vec<Record>, Vec<String>, BTreeMap<String, u64>) {
        let (mut records, mut problems, mut counts) = (self.records.lock(), self.problems.lock(), self.counts.lock());
        (std::mem::take(&mut *records), std::mem::take(&mut *problems), std::mem::take(&mut *counts))
    }
}

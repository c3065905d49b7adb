//! What a run writes down: records in the order in which they were seen, operations with their numbers, and counts of what was
//! covered.
//!
//! What always holds: all times are simulated time since the beginning; an operation gets its number when it is invoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use steersman_evidence::record::{Call, Complete, Fault, FencedWrite, Interval, Invoke, Note, Outcome, Phase, Record};

use steersman_evidence::answers::Told;

/// After a silence of so many µs an attempt did not run meanwhile: five signs of life are missing.
pub const SILENT_US: u64 = 100_000;

#[derive(Default)]
struct Book {
    records: Vec<Record>,
    ops: u64,
    coverage: BTreeMap<String, u64>,
    /// Ids of all tasks that an answer has named.
    tasks: Vec<u64>,
    /// Attempts under way, by token.
    open: BTreeMap<u64, Interval>,
    /// Highest token that the fenced register took, by task.
    fenced: BTreeMap<u64, u64>,
    /// What was seen inside that must never be.
    problems: Vec<String>,
}

/// Shared by everybody in the run.
#[derive(Clone, Default)]
pub struct Recorder {
    book: Arc<Mutex<Book>>,
    now_us: Arc<AtomicU64>,
}

impl Recorder {
    /// Simulated time in µs.
    pub fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed)
    }

    /// Time goes on.
    pub fn set_now(&self, now_us: u64) {
        self.now_us.store(now_us, Ordering::Relaxed);
        crate::machine_clock::set(now_us);
    }

    /// Writes down.
    pub fn push(&self, record: Record) {
        self.book.lock().records.push(record);
    }

    /// For the timeline.
    pub fn note(&self, who: impl Into<String>, text: impl Into<String>) {
        self.push(Record::Note(Note { at_us: self.now_us(), who: who.into(), text: text.into() }));
    }

    /// A fault began or ended.
    pub fn fault(&self, class: &str, target: &str, phase: Phase) {
        if phase == Phase::Began {
            self.count(&format!("fault {class}"));
        }
        let (class, target) = (class.to_owned(), target.to_owned());
        self.push(Record::Fault(Fault { at_us: self.now_us(), class, target, phase }));
    }

    /// Something that must never be.
    pub fn problem(&self, text: String) {
        if self.book.lock().problems.contains(&text) {
            return;
        }
        self.note("inside", format!("PROBLEM: {text}"));
        self.book.lock().problems.push(text);
    }

    /// What was covered once more.
    pub fn count(&self, name: &str) {
        *self.book.lock().coverage.entry(name.to_owned()).or_default() += 1;
    }

    /// How often.
    pub fn counted(&self, name: &str) -> u64 {
        self.book.lock().coverage.get(name).copied().unwrap_or(0)
    }

    /// An operation begins.
    pub fn invoke(&self, process: u64, master: Option<u64>, call: Call) -> u64 {
        let at_us = self.now_us();
        let mut book = self.book.lock();
        book.ops += 1;
        let op = book.ops;
        book.records.push(Record::Invoke(Invoke { op, process, at_us, master, call }));
        op
    }

    /// An operation ends.
    pub fn complete(&self, op: u64, kind: &str, (master, outcome): Told) {
        let how = match &outcome {
            Outcome::Ok { .. } => "ok",
            Outcome::Fail { .. } => "fail",
            Outcome::Unknown { .. } => "unknown",
        };
        self.count(&format!("{kind} {how}"));
        self.push(Record::Complete(Complete { op, at_us: self.now_us(), master, outcome }));
    }

    /// A task on a page that was asked for at `invoked_us`, as an operation of its own.
    pub fn read_of_page(&self, process: u64, invoked_us: u64, task: u64, (master, outcome): Told) {
        let at_us = self.now_us();
        let mut book = self.book.lock();
        book.ops += 1;
        let op = book.ops;
        let call = Call::Read { task, stale: false };
        book.records.push(Record::Invoke(Invoke { op, process, at_us: invoked_us, master: None, call }));
        book.records.push(Record::Complete(Complete { op, at_us, master, outcome }));
    }

    /// An answer named these tasks.
    pub fn learn_tasks(&self, first: u64, count: u64) {
        self.book.lock().tasks.extend(first..first + count);
    }

    /// The `back`-th latest task that is known.
    pub fn known_task(&self, back: u64) -> Option<u64> {
        let book = self.book.lock();
        book.tasks.len().checked_sub(1 + back as usize).map(|at| book.tasks[at])
    }

    /// An attempt begins to run.
    pub fn interval_began(&self, task: u64, token: u64, worker: &str, exclusive: bool) {
        let now = self.now_us();
        let interval =
            Interval { task, token, worker: worker.to_owned(), exclusive, from_us: now, to_us: None, seen_us: now };
        self.book.lock().open.insert(token, interval);
    }

    /// It lives. After a silence it did not run meanwhile: that was one interval, and this is the next.
    pub fn interval_alive(&self, token: u64) {
        let now = self.now_us();
        let mut book = self.book.lock();
        let Some(interval) = book.open.get_mut(&token) else { return };
        let before = interval.seen_us;
        interval.seen_us = now;
        if now - before > SILENT_US {
            let past = Interval { to_us: Some(before), seen_us: before, ..interval.clone() };
            interval.from_us = now;
            book.records.push(Record::Interval(past));
        }
    }

    /// It does not run any more. `at_us` is its last sign of life if it was stopped while it could not give one.
    pub fn interval_ended(&self, token: u64, at_us: u64) {
        let mut book = self.book.lock();
        if let Some(mut interval) = book.open.remove(&token) {
            (interval.to_us, interval.seen_us) = (Some(at_us), at_us);
            // One that was stopped in the very step in which its worker woke did not run.
            if interval.from_us < at_us {
                book.records.push(Record::Interval(interval));
            }
        }
    }

    /// Last sign of life of an attempt under way.
    pub fn interval_seen(&self, token: u64) -> Option<u64> {
        self.book.lock().open.get(&token).map(|interval| interval.seen_us)
    }

    /// A write to the fenced register. Returns whether it was taken.
    pub fn fenced_write(&self, key: u64, token: u64) -> bool {
        let at_us = self.now_us();
        let mut book = self.book.lock();
        let accepted = book.fenced.get(&key).is_none_or(|highest| token > *highest);
        if accepted {
            book.fenced.insert(key, token);
        }
        book.records.push(Record::FencedWrite(FencedWrite { at_us, key, token, accepted }));
        accepted
    }

    /// Everything, once the run is over.
    pub fn close(&self) -> (Vec<Record>, BTreeMap<String, u64>, Vec<String>) {
        let mut book = self.book.lock();
        let open = std::mem::take(&mut book.open);
        book.records.extend(open.into_values().map(Record::Interval));
        (std::mem::take(&mut book.records), std::mem::take(&mut book.coverage), std::mem::take(&mut book.problems))
    }
}

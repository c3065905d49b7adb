//! What a drill writes down: one history in the format of `steersman-evidence`, and a few figures that are looked at live.
//!
//! What always holds: all times are µs on one monotonic clock that begins with the drill; an operation is numbered and timed in one
//! step, so that numbers rise with time. `fail` is said only of what surely had no effect.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use steersman_client::v1::EventBatch;
use steersman_evidence::answers::{self, Told};
use steersman_evidence::record::{
    Call, Complete, Event, Events, Fault, Invoke, Leads, Note, Outcome, Phase, Reach, Record,
};

/// The drill's own follower of the event stream.
const FOLLOWER: u64 = 1;

/// A batch of events and when it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// In µs.
    pub at_us: u64,
    /// What.
    pub batch: EventBatch,
}

/// What a master was seen to be, from some moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// In µs.
    pub at_us: u64,
    /// Its id.
    pub master: u64,
    /// `leader`, `follower`, …, or `silent`.
    pub role: String,
    /// Its term; 0 while it is silent.
    pub term: u64,
    /// It says that it can serve.
    pub ready: bool,
}

/// A task on its way through the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// When it was submitted, in µs.
    pub began_us: u64,
    /// When the submit was acknowledged.
    pub acked_us: u64,
    /// When it was seen to be finished; absent if that was not seen.
    pub finished_us: Option<u64>,
}

/// What the guard looks at while a fault is in force.
#[derive(Debug, Default)]
pub struct Live {
    /// Of the latest acknowledged submit, in µs.
    pub acked_us: AtomicU64,
    /// Of the fault, in µs; 0 before it.
    pub struck_at_us: AtomicU64,
    /// Calls that failed after all their retries.
    pub errors: AtomicU64,
    /// Workers that were declared lost although nobody had touched them.
    pub false_lost: AtomicU64,
    /// Names of workers that the drill has struck; they may be lost.
    pub struck: Mutex<BTreeSet<String>>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The history.
    pub records: Vec<Record>,
    /// Events with all their details.
    pub events: Vec<Arrived>,
    /// Masters.
    pub sightings: Vec<Sighting>,
    /// Probes.
    pub probes: Vec<Probe>,
}

struct Inner {
    began: Instant,
    began_wall_us: u64,
    ops: AtomicU64,
    seen: Mutex<Seen>,
    live: Live,
}

/// Writes it all down. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

impl Recorder {
    /// The clock begins.
    pub fn new() -> Self {
        let began_wall_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let (ops, seen, live) = (AtomicU64::new(1), Mutex::default(), Live::default());
        Self(Arc::new(Inner { began: Instant::now(), began_wall_us, ops, seen, live }))
    }

    /// µs since the beginning.
    pub fn now_us(&self) -> u64 {
        self.0.began.elapsed().as_micros() as u64
    }

    /// Unix time of the beginning, in ms.
    pub fn began_wall_ms(&self) -> u64 {
        self.0.began_wall_us / 1_000
    }

    /// A moment of this machine's wall clock, in Unix µs, on the drill's clock.
    pub fn of_wall_us(&self, wall_us: u64) -> u64 {
        wall_us.saturating_sub(self.0.began_wall_us)
    }

    /// What the guard looks at.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Adds a record.
    pub fn push(&self, record: Record) {
        self.0.seen.lock().records.push(record);
    }

    /// Somebody asks for something. Returns the operation's number and time.
    pub fn invoke(&self, process: u64, call: Call) -> (u64, u64) {
        let mut seen = self.0.seen.lock();
        let (op, at_us) = (self.0.ops.fetch_add(1, Ordering::Relaxed), self.now_us());
        seen.records.push(Record::Invoke(Invoke { op, process, at_us, master: None, call }));
        (op, at_us)
    }

    /// What came of it. Returns when.
    pub fn complete(&self, op: u64, (master, outcome): Told) -> u64 {
        let at_us = self.now_us();
        if matches!(outcome, Outcome::Fail { .. } | Outcome::Unknown { .. }) {
            self.0.live.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.push(Record::Complete(Complete { op, at_us, master, outcome }));
        at_us
    }

    /// A fault began or ended.
    pub fn fault(&self, class: &str, target: &str, phase: Phase) -> u64 {
        let at_us = self.now_us();
        self.push(Record::Fault(Fault { at_us, class: class.to_owned(), target: target.to_owned(), phase }));
        at_us
    }

    /// A worker can or cannot keep its lease from now on.
    pub fn reach(&self, worker: &str, reachable: bool) {
        if !reachable {
            self.0.live.struck.lock().insert(worker.to_owned());
        }
        self.push(Record::Reach(Reach { at_us: self.now_us(), worker: worker.to_owned(), reachable }));
    }

    /// For the timeline.
    pub fn note(&self, text: impl Into<String>) {
        self.push(Record::Note(Note { at_us: self.now_us(), who: "drill".to_owned(), text: text.into() }));
    }

    /// A master was seen to be something else than before.
    pub fn sighted(&self, sighting: Sighting, first_of_term: bool) {
        let mut seen = self.0.seen.lock();
        if first_of_term {
            let Sighting { at_us, master, term, .. } = sighting;
            seen.records.push(Record::Leads(Leads { at_us, master, term }));
        }
        seen.sightings.push(sighting);
    }

    /// Events arrived.
    pub fn arrived(&self, batch: EventBatch) {
        let at_us = self.now_us();
        let events = batch.events.iter().map(answers::event).collect();
        let record = Events { follower: FOLLOWER, at_us, master: None, index: batch.index, term: batch.term, events };
        let mut seen = self.0.seen.lock();
        seen.records.push(Record::Events(record));
        seen.events.push(Arrived { at_us, batch });
    }

    /// Events that nobody can have any more.
    pub fn gap(&self, from: u64, to: u64) {
        let events = vec![Event::Gap { from, to }];
        let (at_us, follower) = (self.now_us(), FOLLOWER);
        self.push(Record::Events(Events { follower, at_us, master: None, index: to, term: 0, events }));
    }

    /// A probe is over.
    pub fn probed(&self, probe: Probe) {
        self.0.seen.lock().probes.push(probe);
    }

    /// Looks at what was seen until now.
    pub fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.0.seen.lock())
    }

    /// Takes everything.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.0.seen.lock())
    }
}

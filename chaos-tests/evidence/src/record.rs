//! Records: one line of JSON each, in the order in which they were written. The format of every history file.
//!
//! What always holds: all times are microseconds on the one monotonic clock of the run (its own beginning is 0), and an
//! operation that was invoked and never completed has an unknown outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the format; the first record of a file carries it.
pub const FORMAT: u32 = 1;

/// Anything that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Record {
    /// The first record: what run this is.
    Run(Run),
    /// A client asked for something.
    Invoke(Invoke),
    /// And this is what came of it. At most one per operation.
    Complete(Complete),
    /// Events of one log entry, as one follower of the event stream got them.
    Events(Events),
    /// An attempt as the worker process that ran it logged it.
    Interval(Interval),
    /// A write to the fenced register by an attempt.
    FencedWrite(FencedWrite),
    /// A digest of the replicated state at an index on a master.
    Digest(Digest),
    /// A master that was seen to lead.
    Leads(Leads),
    /// A worker that was cut off, stopped or dead from `at_us` on (`reachable: false`), or again able to reach a majority-side master.
    Reach(Reach),
    /// A fault that began or ended.
    Fault(Fault),
    /// A master that took over a whole snapshot from another.
    Installed(Installed),
    /// Anything else that a reader of the timeline should see.
    Note(Note),
}

impl Record {
    /// When it was seen; a run is seen at its beginning, an attempt when its latest sign of life was.
    pub fn at_us(&self) -> u64 {
        match self {
            Self::Run(_) => 0,
            Self::Invoke(it) => it.at_us,
            Self::Complete(it) => it.at_us,
            Self::Events(it) => it.at_us,
            Self::Interval(it) => it.to_us.unwrap_or(it.seen_us),
            Self::FencedWrite(it) => it.at_us,
            Self::Digest(it) => it.at_us,
            Self::Leads(it) => it.at_us,
            Self::Reach(it) => it.at_us,
            Self::Fault(it) => it.at_us,
            Self::Installed(it) => it.at_us,
            Self::Note(it) => it.at_us,
        }
    }
}

/// What run this is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// `chaos`, `sim`, `fast` or `drill`.
    pub kind: String,
    /// Everything random came from it.
    pub seed: u64,
    /// Version of the product.
    pub version: String,
    /// Masters at the beginning.
    pub masters: u64,
    /// Workers at the beginning.
    pub workers: u64,
    /// Unix time in ms of the beginning, to be shown.
    pub began_wall_ms: u64,
    /// Fault classes that the run set out to install.
    pub faults_wanted: Vec<String>,
    /// Free facts about the run: limits, timings, machine.
    pub facts: BTreeMap<String, String>,
}

/// A client asked for something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    /// Unique in the run, rising with `at_us`.
    pub op: u64,
    /// The logical client: it has at most one operation open at a time.
    pub process: u64,
    /// When.
    pub at_us: u64,
    /// Which master was asked, if one in particular.
    #[serde(default)]
    pub master: Option<u64>,
    /// What.
    pub call: Call,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "f")]
pub enum Call {
    /// New tasks, numbered in order. Two submits with the same `request` are one submit, retried.
    Submit {
        /// Request id, hex.
        request: String,
        /// How many tasks.
        count: u64,
    },
    /// Ends one task.
    Cancel {
        /// Request id, hex.
        request: String,
        /// Which.
        task: u64,
    },
    /// Reads one task. Linearizable unless `stale`.
    Read {
        /// Which.
        task: u64,
        /// The caller allowed an old answer.
        stale: bool,
    },
    /// Reads the registry of workers, linearizably.
    ReadWorkers {},
    /// Changes a worker's mode: `drain`, `active`, `maintenance`.
    SetMode {
        /// Request id, hex.
        request: String,
        /// Which worker, by name.
        worker: String,
        /// New mode.
        mode: String,
    },
    /// Adds, promotes or removes a master, or hands leadership over.
    Membership {
        /// `add`, `promote`, `remove`, `step_down`.
        change: String,
        /// Which master; 0 if any.
        master: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Complete {
    /// Which operation.
    pub op: u64,
    /// When.
    pub at_us: u64,
    /// Which master answered, if known.
    #[serde(default)]
    pub master: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It happened, between invocation and completion.
    Ok {
        /// The answer.
        answer: Answer,
    },
    /// It surely did not happen and never will.
    Fail {
        /// Stable code of the error, and text.
        error: String,
    },
    /// It may have happened, may yet happen, or never.
    Unknown {
        /// Stable code of the error, and text.
        error: String,
    },
}

/// What a successful call said. `index` is the log index of the change, or the one that a read saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// Of [`Call::Submit`].
    Submitted {
        /// Id of the first task; the others follow.
        first: u64,
        /// How many.
        count: u64,
        /// Log index.
        index: u64,
    },
    /// Of [`Call::Cancel`].
    Cancelled {
        /// Whether this call ended it; false if it had ended before.
        changed: bool,
        /// Log index.
        index: u64,
    },
    /// Of [`Call::Read`].
    Task {
        /// `None`: there is no such task.
        task: Option<TaskView>,
        /// Log index.
        index: u64,
    },
    /// Of [`Call::ReadWorkers`].
    Workers {
        /// All of them.
        workers: Vec<WorkerView>,
        /// Log index.
        index: u64,
    },
    /// Of the others.
    Done {
        /// Log index; 0 if the answer had none.
        index: u64,
    },
}

/// A task as a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its state.
    pub state: TaskState,
    /// Attempts that are still told, oldest first.
    pub attempts: Vec<AttemptView>,
}

/// An attempt as a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// Fencing token.
    pub token: u64,
    /// Which worker.
    pub worker: u64,
    /// Whether it has ended.
    pub ended: bool,
}

/// States of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a slot.
    Pending,
    /// Given to a worker.
    Scheduled,
    /// Runs there.
    Running,
    /// Waits for its next attempt.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly for good.
    Failed,
    /// Was cancelled.
    Cancelled,
}

impl TaskState {
    /// Never changes again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A worker as a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// `online`, `busy`, `draining`, `maintenance`, `offline`.
    pub status: String,
    /// Slots in use.
    pub used: u64,
    /// Slots.
    pub capacity: u64,
}

/// Events of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Which follower.
    pub follower: u64,
    /// When they arrived.
    pub at_us: u64,
    /// From which master, if known.
    #[serde(default)]
    pub master: Option<u64>,
    /// Log index.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
    /// The events, or a gap.
    pub events: Vec<Event>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Tasks `first .. first + count` exist.
    Submitted {
        /// First id.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A new attempt.
    Assigned {
        /// Task.
        task: u64,
        /// Token.
        token: u64,
        /// Worker.
        worker: u64,
    },
    /// The attempt runs.
    Started {
        /// Task.
        task: u64,
        /// Token.
        token: u64,
    },
    /// The attempt is over.
    Ended {
        /// Task.
        task: u64,
        /// Token.
        token: u64,
    },
    /// The task is over.
    Finished {
        /// Task.
        task: u64,
        /// How.
        state: TaskState,
    },
    /// The task waits for another attempt.
    Retrying {
        /// Task.
        task: u64,
    },
    /// Something changed about a worker.
    Worker {
        /// Worker id.
        worker: u64,
        /// Its name.
        name: String,
        /// `registered`, `resumed`, `draining`, `active`, `maintenance`, `lost`, `left`, `evicted`, `config`.
        change: String,
    },
    /// A reign began.
    Leader {
        /// Term.
        term: u64,
        /// Master.
        master: u64,
    },
    /// Everything of `from..=to` was trimmed before this follower got it.
    Gap {
        /// First index.
        from: u64,
        /// Last index.
        to: u64,
    },
    /// Anything else, by name.
    Other {
        /// Name.
        name: String,
    },
}

/// An attempt as the worker logged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Task.
    pub task: u64,
    /// Token.
    pub token: u64,
    /// Name of the worker.
    pub worker: String,
    /// The task's contract: `true` for `on_partition = stop`.
    pub exclusive: bool,
    /// When it began.
    pub from_us: u64,
    /// When it was over; `None` if nobody logged an end (then its latest sign of life is in `seen_us`).
    pub to_us: Option<u64>,
    /// Latest sign of life.
    pub seen_us: u64,
}

/// A write to the fenced register, which accepts only tokens that are higher than every accepted one of the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedWrite {
    /// When the register judged it.
    pub at_us: u64,
    /// The register's key: a task, usually.
    pub key: u64,
    /// Token of the attempt.
    pub token: u64,
    /// Whether the register took it.
    pub accepted: bool,
}

/// A digest of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// When.
    pub at_us: u64,
    /// Where.
    pub master: u64,
    /// At which applied index.
    pub index: u64,
    /// Hex.
    pub digest: String,
}

/// A master that was seen to lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leads {
    /// When.
    pub at_us: u64,
    /// Who.
    pub master: u64,
    /// In which term.
    pub term: u64,
}

/// Whether a worker could have kept its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// When.
    pub at_us: u64,
    /// Name of the worker.
    pub worker: String,
    /// Alive, running and able to reach a master that can reach a majority.
    pub reachable: bool,
}

/// A fault that began or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub at_us: u64,
    /// Class: `kill`, `power-loss`, `pause`, `partition-one-sided`, …
    pub class: String,
    /// On what: `m1`, `w2`, `m1>m2`, `all`.
    pub target: String,
    /// What happened.
    pub phase: Phase,
}

/// What happened to a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is in force.
    Began,
    /// It is healed.
    Ended,
    /// It could not be installed: the run's verdict can't be better than unknown.
    Skipped {
        /// Why.
        why: String,
    },
}

/// A master that took over a whole snapshot from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// When.
    pub at_us: u64,
    /// Which master.
    pub master: u64,
    /// The last log index that the snapshot holds; 0 if unknown.
    pub index: u64,
}

/// Anything else for the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at_us: u64,
    /// Who says it: `m1`, `w2`, `nemesis`, `client`.
    pub who: String,
    /// What.
    pub text: String,
}

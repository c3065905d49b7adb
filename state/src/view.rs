//! What readers get: owned, bounded copies of parts of the state.
//!
//! What always holds: a view is a plain value without a reference into the state, and every list has a bound. Times named
//! `…_at_ms` are cluster time, all other times are wall time and only to be shown.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::brake::BrakePolicy;
use crate::command::WorkerMode;
use crate::effect::{Event, LoadLevel};
use crate::ids::{TaskId, Token, WorkerId, WorkerUid};
use crate::task::{Outcome, TaskSpec, TaskState};
use crate::worker::{Labels, OfflineReason, Resources, WorkerStatus};

/// One task with its attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// What to run.
    pub spec: Arc<TaskSpec>,
    /// Where it stands.
    pub state: TaskState,
    /// Place in its array, from 0.
    pub array_index: u32,
    /// Wall time of the submit.
    pub submitted_ms: u64,
    /// Wall time of its end; 0 while it is unfinished.
    pub finished_ms: u64,
    /// Only while `Retrying`: cluster time at which it is pending again.
    pub next_attempt_at_ms: Option<u64>,
    /// Cluster time of its deadline, if it has one.
    pub deadline_at_ms: Option<u64>,
    /// The first and the last ones, oldest first; the last may be open.
    pub attempts: Vec<AttemptView>,
    /// How many there were in all.
    pub attempts_total: u32,
    /// Why it finished; absent while unfinished, and for a task that was cancelled before it ran.
    pub outcome: Option<Outcome>,
    /// Why it finished as it did, for people; empty while unfinished.
    pub reason: String,
    /// What a handler returned.
    pub result: Vec<u8>,
    /// The result was longer than the bound and is cut.
    pub result_truncated: bool,
    /// Log index of its last change.
    pub log_index: u64,
}

/// One attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    /// 1, 2, …
    pub number: u32,
    /// Fencing token.
    pub token: Token,
    /// Where.
    pub worker: WorkerId,
    /// Its name; empty if the worker is no longer registered.
    pub worker_name: String,
    /// Wall time of the assignment.
    pub assigned_ms: u64,
    /// Wall time at which the start became known; 0 if it never did.
    pub started_ms: u64,
    /// Wall time at which the end became known; 0 while open.
    pub ended_ms: u64,
    /// How long it ran by its worker's clock; 0 if not told.
    pub ran_ms: u64,
    /// Absent while open.
    pub outcome: Option<Outcome>,
    /// Exit code, or the signal's number.
    pub exit_code: i32,
    /// For people.
    pub message: String,
}

/// Which tasks a list shows. The default shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Empty: any.
    pub states: Vec<TaskState>,
    /// Empty: any.
    pub name_prefix: String,
    /// Worker of the open or last attempt.
    pub worker: Option<WorkerId>,
    /// Lowest id.
    pub id_from: Option<TaskId>,
    /// Highest id, inclusive.
    pub id_to: Option<TaskId>,
}

/// Tasks by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Waiting for a slot.
    pub pending: u64,
    /// Assigned.
    pub scheduled: u64,
    /// Running.
    pub running: u64,
    /// Waiting for a backoff.
    pub retrying: u64,
    /// Kept ones.
    pub succeeded: u64,
    /// Kept ones.
    pub failed: u64,
    /// Kept ones.
    pub cancelled: u64,
    /// Ever.
    pub submitted_total: u64,
    /// Ever.
    pub finished_total: u64,
}

impl TaskCounts {
    /// Pending, scheduled, running and retrying.
    pub fn unfinished(&self) -> u64 {
        self.pending + self.scheduled + self.running + self.retrying
    }
}

/// A range of tasks by what became of them: what a wait asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Finished well.
    pub succeeded: u64,
    /// Finished badly.
    pub failed: u64,
    /// Ended by a caller.
    pub cancelled: u64,
    /// Not finished.
    pub unfinished: u64,
    /// No longer kept, or never there.
    pub gone: u64,
}

/// Workers by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// With a free slot.
    pub online: u32,
    /// Full.
    pub busy: u32,
    /// Finishing what they have.
    pub draining: u32,
    /// Kept out.
    pub maintenance: u32,
    /// Left or lost.
    pub offline: u32,
    /// Slots of all that are not offline.
    pub capacity: u64,
    /// Of these in use.
    pub used: u64,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Who it is.
    pub uid: WorkerUid,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Slots.
    pub capacity: u32,
    /// Slots in use, stopping attempts included.
    pub used: u32,
    /// Effective labels.
    pub labels: Labels,
    /// What it offers.
    pub resources: Resources,
    /// What is taken.
    pub resources_used: Resources,
    /// For people.
    pub status: WorkerStatus,
    /// As an operator wants it.
    pub mode: WorkerMode,
    /// Only while offline.
    pub offline_reason: Option<OfflineReason>,
    /// An operator asked its process to end: `Some(true)` for now, `Some(false)` for after what runs.
    pub shutdown: Option<bool>,
    /// Cluster time at which what still runs is given back.
    pub drain_deadline_at_ms: Option<u64>,
    /// Its process.
    pub incarnation: u64,
    /// Its last session.
    pub session: u64,
    /// That session belongs to this reign and is open.
    pub connected: bool,
    /// Heartbeat interval.
    pub heartbeat_ms: u32,
    /// How long its silence is borne.
    pub lease_ms: u32,
    /// Raised by each change of config.
    pub config_version: u64,
    /// Wall time of its first registration.
    pub registered_ms: u64,
    /// Software version.
    pub version: String,
    /// Open attempts, stopping ones included. Empty in lists.
    pub attempts: Vec<Token>,
    /// Last announced load level.
    pub load: LoadLevel,
}

/// How the brake on mass failure stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrakeView {
    /// What it goes by.
    pub policy: BrakePolicy,
    /// Cluster time since which it holds; absent while it does not.
    pub engaged_since_ms: Option<u64>,
    /// An operator engaged it.
    pub manual: bool,
    /// Silent workers that keep their tasks: the first ones.
    pub held: Vec<WorkerId>,
    /// All of them.
    pub held_total: u64,
    /// Workers lost within the window that have not come back.
    pub lost: u64,
    /// So many may be lost within the window.
    pub allowed: u64,
}

/// Why a task stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Its state.
    pub state: TaskState,
    /// One sentence.
    pub summary: String,
    /// Pending tasks that go first among those with the same requirements.
    pub ahead_in_queue: u64,
    /// Registered workers.
    pub workers_total: u32,
    /// Worker by worker in the aggregate; filled while pending.
    pub reasons: Vec<ExplainReason>,
}

/// So many workers can't take it for this reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainReason {
    /// Stable word: full, draining, maintenance, offline, label, resource, not_connected, fits.
    pub reason: &'static str,
    /// How many; each worker is counted once, at the first reason that holds.
    pub workers: u32,
    /// For people.
    pub detail: String,
}

/// All events of one log entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventEntry {
    /// Log index: the name of these events.
    pub index: u64,
    /// Term of the reign that proposed it.
    pub term: u64,
    /// Cluster time.
    pub time_ms: u64,
    /// Wall time.
    pub wall_ms: u64,
    /// In order; never empty.
    pub events: Arc<[Event]>,
}

/// A piece of the event stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    /// Events of these indexes (inclusive) were asked for and are no longer kept.
    pub gap: Option<(u64, u64)>,
    /// In order of their index.
    pub entries: Vec<EventEntry>,
    /// Everything up to this index is delivered.
    pub upto: u64,
}

//! What can be asked of the state. Everything that changes it is one of these, in a [`Batch`], in the log.
//!
//! What always holds: enums are append-only (bincode numbers the variants), nothing here has behaviour beyond encoding,
//! and an encoded batch starts with [`FORMAT`], so that an unknown version stops the node instead of being guessed at.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::brake::BrakePolicy;
use crate::effect::ElectionReport;
use crate::ids::{MasterId, RequestId, TaskId, Token, WorkerId, WorkerUid};
use crate::limits::Limits;
use crate::task::{Outcome, TaskSpec};
use crate::worker::{Labels, Resources};

/// Version of an encoded batch: its first byte.
pub const FORMAT: u8 = 2;

/// One log entry: commands of many callers, applied in order, then expiry, then placement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// When, by whom.
    pub stamp: Stamp,
    /// What, in order. May be empty: time passes all the same.
    pub commands: Vec<Envelope>,
}

/// What the leader adds to each batch. `apply` takes time and randomness from here and from nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The term that the leader held when it proposed. A batch of an older reign is refused as a whole.
    pub term: u64,
    /// Who proposed.
    pub leader: MasterId,
    /// Cluster time in ms: never older than the state's, continued from there by a monotonic clock.
    pub time_ms: u64,
    /// Unix time in ms, kept to be shown.
    pub wall_ms: u64,
    /// Random bits for jitter.
    pub entropy: u64,
}

/// A command and, for a caller's mutation, the id that makes a retry harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Absent for what the leader itself proposes.
    pub request: Option<RequestId>,
    /// What.
    pub command: Command,
}

/// Everything that can change the state. Append only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// First command of a reign: no worker counts as connected until its session is opened again.
    BeginReign,
    /// Once in a cluster's life: its id and its limits. A second one is ignored.
    InitCluster {
        /// Random, chosen by the first leader (or given by the operator).
        cluster_id: String,
        /// Bounds of the replicated state.
        limits: Limits,
    },
    /// New tasks, numbered in order.
    Submit {
        /// Each group is `count` tasks that share a spec.
        groups: Vec<TaskGroup>,
    },
    /// Ends tasks; a running attempt is told to stop.
    Cancel {
        /// Which.
        tasks: Vec<TaskId>,
    },
    /// Submits failed or cancelled tasks anew, under new ids.
    Retry {
        /// Which.
        tasks: Vec<TaskId>,
    },
    /// A worker's session with this reign begins: registers it, or resumes it with what it holds.
    OpenSession(OpenSession),
    /// The session broke. The worker keeps its attempts but gets nothing new.
    CloseSession {
        /// Which worker.
        worker: WorkerId,
        /// The session of this incarnation.
        incarnation: u64,
        /// Number of the session, from [`crate::effect::SessionOpened::session`]: an old session's end closes no newer one.
        session: u64,
    },
    /// The lease ran out.
    WorkerLost {
        /// Which worker.
        worker: WorkerId,
        /// Only if it is still this incarnation.
        incarnation: u64,
        /// Only if no newer session was opened meanwhile.
        session: u64,
    },
    /// The worker said goodbye.
    WorkerLeft {
        /// Which worker.
        worker: WorkerId,
        /// Only if it is still this incarnation.
        incarnation: u64,
    },
    /// Drain, undrain, maintenance.
    SetWorkerMode {
        /// Which worker.
        worker: WorkerRef,
        /// New mode.
        mode: WorkerMode,
        /// For draining: after this long what still runs is given back; 0 means no deadline.
        deadline_ms: u64,
    },
    /// The operator declares a worker lost.
    EvictWorker {
        /// Which worker.
        worker: WorkerRef,
    },
    /// Changes a worker's replicated config.
    SetWorkerConfig {
        /// Which worker.
        worker: WorkerRef,
        /// New slots.
        capacity: Option<u32>,
        /// New heartbeat interval in ms.
        heartbeat_ms: Option<u32>,
        /// Labels to set.
        set_labels: Labels,
        /// Labels to remove.
        remove_labels: Vec<String>,
    },
    /// Asks a worker process to end.
    ShutdownWorker {
        /// Which worker.
        worker: WorkerRef,
        /// Without finishing what runs.
        now: bool,
    },
    /// What became of attempts, as told by the worker that ran them.
    Reports {
        /// Who tells.
        worker: WorkerId,
        /// In which life.
        incarnation: u64,
        /// What.
        reports: Vec<Report>,
    },
    /// Nothing but the passing of time: proposed when a timer is due.
    Tick,
    /// Replaces the limits.
    SetLimits(Limits),
    /// Switches on a newer meaning of `apply`, once every master can read it.
    SetFormatLevel(u32),
    /// Changes nothing: every master takes the digest of its state as it stands after this entry, to be compared.
    Audit,
    /// How the office changed hands: becomes an event and nothing else.
    ElectionReport(ElectionReport),
    /// How many workers may be lost before that is a mass failure.
    SetBrakePolicy(BrakePolicy),
    /// From now on no lease that runs out loses a worker, until an operator releases the brake.
    EngageBrake,
    /// Ends the brake: whoever is still silent is lost. It does not engage again by itself for the length of its window.
    ReleaseBrake,
}

/// `count` tasks with one spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskGroup {
    /// Shared by all of them.
    pub spec: Arc<TaskSpec>,
    /// At least 1.
    pub count: u32,
}

/// A worker as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerRef {
    /// By id.
    Id(WorkerId),
    /// By name: the newest worker that carried it.
    Name(String),
}

/// What an operator wants of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerMode {
    /// Takes work.
    Active,
    /// Finishes what it has, gets nothing new; back to active when a new process registers or by undrain.
    Drain,
    /// Like drain, and stays so over restarts of the worker until it is made active.
    Maintenance,
}

/// A worker introduces itself to a new reign, or again after its stream broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Unique among living workers.
    pub name: String,
    /// Who it is.
    pub uid: WorkerUid,
    /// Raised by each process start.
    pub incarnation: u64,
    /// Sessions that this process has asked for, this one included; 0 if it does not count them. One that is not above the
    /// last opened is a Hello that was overtaken on its way: what it says of `held` is old.
    pub opening: u64,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Slots it offers; replicated config wins once an operator has set it.
    pub capacity: u32,
    /// Labels it carries.
    pub labels: Labels,
    /// Countable resources it offers.
    pub resources: Resources,
    /// Heartbeat interval in ms that it asks for.
    pub heartbeat_ms: u32,
    /// Software version, for people.
    pub version: String,
    /// Every attempt that runs there or whose end is not yet acknowledged.
    pub held: Vec<Token>,
}

/// One attempt's news.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which attempt. Another token than the open one's is an echo and changes nothing.
    pub token: Token,
    /// Its task; 0 if the worker was told to stop an attempt that it never had.
    pub task: TaskId,
    /// What happened.
    pub news: News,
}

/// What a worker can say of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// It runs.
    Started,
    /// It is over.
    Ended(Ended),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// In one word.
    pub outcome: Outcome,
    /// Exit code for `Exited`, signal number for `Signaled`, else 0.
    pub exit_code: i32,
    /// For people.
    pub message: String,
    /// What a handler returned.
    pub result: Vec<u8>,
    /// How long it ran, by the worker's clock.
    pub ran_ms: u64,
}

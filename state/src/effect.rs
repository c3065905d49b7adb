//! What `apply` returns: replies for callers, effects for the leader, events for followers of the stream.
//!
//! Effects are values, done after commit, by the leader only, and repeatable. None is the only record of anything: what
//! still matters is found again in [`crate::State::outstanding`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{MasterId, TaskId, Token, WorkerId};
use crate::task::{Outcome, TaskSpec, TaskState};
use crate::worker::{Labels, OfflineReason};

/// All that one log entry brought about.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Cluster time of the state after this entry, in ms.
    pub time_ms: u64,
    /// One per command, in order.
    pub replies: Vec<Reply>,
    /// For the leader's outbox. Followers drop them.
    pub effects: Vec<Effect>,
    /// What happened, in order. Also kept in the state for the event stream.
    pub events: Arc<[Event]>,
}

/// The answer to one command. Remembered per request id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// Ids `first .. first + count`.
    Submitted {
        /// First id.
        first: TaskId,
        /// How many, contiguous.
        count: u64,
    },
    /// One per id asked for, in order.
    Cancelled(Vec<CancelResult>),
    /// One per id asked for, in order.
    Retried(Vec<RetryResult>),
    /// The session is open.
    SessionOpened(SessionOpened),
    /// The worker that was meant.
    Worker(WorkerId),
    /// All reports are taken; so many were echoes.
    Reported {
        /// Reports with a token that is not open: nothing changed.
        ignored: u32,
    },
    /// The caller's fault: nothing changed.
    Rejected(Rejection),
}

/// What became of one cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelResult {
    /// Which task.
    pub task: TaskId,
    /// Its state now; absent if there is no such task.
    pub state: Option<TaskState>,
}

/// What became of one retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryResult {
    /// Which task.
    pub task: TaskId,
    /// The id of its new life; absent if it does not exist or is not failed or cancelled.
    pub new: Option<TaskId>,
    /// Its state; absent if there is no such task.
    pub state: Option<TaskState>,
}

/// What a worker is told when its session opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// Its id.
    pub worker: WorkerId,
    /// Number of this session: rising per worker.
    pub session: u64,
    /// Held attempts that the cluster no longer wants.
    pub drop: Vec<Token>,
    /// Effective config.
    pub config: WorkerConfig,
}

/// A worker's effective config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// Raised by each change.
    pub version: u64,
    /// Slots.
    pub capacity: u32,
    /// In ms.
    pub heartbeat_ms: u32,
    /// In ms: how long a silent worker is believed.
    pub lease_ms: u32,
    /// All labels.
    pub labels: Labels,
}

/// The caller's turn: the request can't be done, now or by repeating it as it is. Replicated, an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// No worker of that id or name.
    #[error("no such worker: {0}")]
    WorkerNotFound(String),
    /// A living worker of that name has another identity.
    #[error("a worker named {name:?} is alive under another identity (worker {holder})")]
    DuplicateWorker {
        /// The name.
        name: String,
        /// Who holds it.
        holder: WorkerId,
    },
    /// Another process of this worker is newer.
    #[error("worker {worker} is known in incarnation {known}, newer than {given}")]
    StaleIncarnation {
        /// Which worker.
        worker: WorkerId,
        /// The incarnation in the registry.
        known: u64,
        /// The one that was given.
        given: u64,
    },
    /// Over a limit of the replicated state.
    #[error("{what}: {asked} asked, {have} there already, the limit is {limit}")]
    LimitExceeded {
        /// Name of the limit.
        what: String,
        /// How much was asked for.
        asked: u64,
        /// How much is there.
        have: u64,
        /// The bound.
        limit: u64,
    },
    /// Its state does not allow it.
    #[error("{0}")]
    Precondition(String),
    /// The leader that proposed it is deposed; proposed again by whoever leads now.
    #[error("proposed in term {given}, which is over (now {now})")]
    OldReign {
        /// Term of the proposal.
        given: u64,
        /// Term of the state.
        now: u64,
    },
    /// A value that no client of ours sends.
    #[error("{field}: {problem}")]
    Invalid {
        /// Field.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// What the leader does after commit. Repeatable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send an attempt to its worker.
    StartRun(Run),
    /// Tell a worker to stop an attempt.
    CancelRun {
        /// Where it runs.
        worker: WorkerId,
        /// Which attempt.
        token: Token,
    },
    /// Push a changed config.
    PushConfig {
        /// To whom.
        worker: WorkerId,
        /// The whole config.
        config: WorkerConfig,
    },
    /// Ask a worker process to end.
    ShutdownWorker {
        /// Whom.
        worker: WorkerId,
        /// Without finishing what runs.
        now: bool,
    },
    /// The worker is no longer believed: its session must end.
    EndSession {
        /// Whose.
        worker: WorkerId,
        /// For people.
        reason: OfflineReason,
    },
}

/// One attempt on its way to a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// To whom.
    pub worker: WorkerId,
    /// Which task.
    pub task: TaskId,
    /// Fencing token.
    pub token: Token,
    /// 1, 2, …
    pub attempt: u32,
    /// Place in its array.
    pub array_index: u32,
    /// What to run.
    pub spec: Arc<TaskSpec>,
}

/// What happened. Small, and enough to rebuild counts and states of tasks and workers by folding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// New tasks.
    TasksSubmitted {
        /// First id.
        first: TaskId,
        /// How many.
        count: u64,
    },
    /// An attempt was placed.
    TaskAssigned {
        /// Which task.
        task: TaskId,
        /// Its attempt.
        token: Token,
        /// Where.
        worker: WorkerId,
        /// 1, 2, …
        attempt: u32,
    },
    /// It runs.
    TaskStarted {
        /// Which task.
        task: TaskId,
        /// Its attempt.
        token: Token,
    },
    /// An attempt is over.
    AttemptEnded {
        /// Which task.
        task: TaskId,
        /// Its attempt.
        token: Token,
        /// How.
        outcome: Outcome,
        /// Exit code or signal.
        exit_code: i32,
    },
    /// Final.
    TaskFinished {
        /// Which task.
        task: TaskId,
        /// Final state.
        state: TaskState,
        /// Why; absent for a task that never ran.
        outcome: Option<Outcome>,
    },
    /// Another attempt follows.
    TaskRetrying {
        /// Which task.
        task: TaskId,
        /// After so long; 0 means at once.
        delay_ms: u64,
    },
    /// A worker registered, resumed, changed or went.
    WorkerChanged {
        /// Which.
        worker: WorkerId,
        /// What.
        change: WorkerChange,
    },
    /// A worker crossed a load threshold and stayed there.
    WorkerLoad {
        /// Which.
        worker: WorkerId,
        /// Where it is now.
        level: LoadLevel,
        /// Slots in use.
        used: u32,
        /// Slots.
        capacity: u32,
    },
    /// A reign began.
    LeaderElected {
        /// Its term.
        term: u64,
        /// Who.
        leader: MasterId,
    },
    /// Voters or learners changed.
    MembershipChanged {
        /// Voters now.
        voters: Vec<MasterId>,
        /// Learners now.
        learners: Vec<MasterId>,
    },
    /// Finished tasks fell out of retention.
    TasksTrimmed {
        /// How many.
        count: u64,
    },
    /// How the office changed hands, as its new holder measured it.
    ElectionReport(ElectionReport),
    /// The brake on mass failure began or ceased to hold.
    Brake(BrakeChange),
}

/// What the brake on mass failure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrakeChange {
    /// Silent workers keep their tasks from here on.
    Engaged {
        /// By an operator.
        manual: bool,
        /// Workers lost within the window, without the one that was too many.
        silent: u64,
        /// Workers that are not offline.
        workers: u64,
    },
    /// Leases count again.
    Released {
        /// By an operator.
        manual: bool,
        /// Silent workers that are lost with it.
        declared: u64,
    },
}

/// How the office changed hands, as the master that holds it now measured it. Nothing is decided by it.
///
/// Times are microseconds on that master's own monotonic clock. Their zero is the last append (a heartbeat is one) of the former leader that
/// it had accepted: the former leader may have worked on for up to a heartbeat and the way to here. Where no leader was heard, zero
/// is the suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionReport {
    /// The term that began.
    pub term: u64,
    /// Who leads in it.
    pub leader: MasterId,
    /// Whose appends were followed before; absent if there were none since this process started or held office.
    pub former: Option<MasterId>,
    /// What made it ask for votes.
    pub cause: ElectionCause,
    /// When that was noticed.
    pub suspected_us: u64,
    /// When it first asked for votes (or pre-votes).
    pub asked_us: u64,
    /// When the last vote came that was granted before it held the office.
    pub granted_us: u64,
    /// When it held the office.
    pub elected_us: u64,
    /// When the reign's first entry was committed and applied here: from then on it answers.
    pub committed_us: u64,
    /// When the first attempt went out to a worker; absent if none did before the report.
    pub dispatched_us: Option<u64>,
    /// When the last of the workers that count here had its session back; absent if none had.
    pub workers_back_us: Option<u64>,
    /// Workers that were believed when the reign began.
    pub workers_believed: u32,
    /// Workers that had their session back when the report was made.
    pub workers_back: u32,
    /// When the report was made.
    pub reported_us: u64,
    /// Unix time then, in ms, to be shown.
    pub reported_wall_ms: u64,
}

/// What made a master ask for votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElectionCause {
    /// The former leader handed over: planned.
    Handover,
    /// The leader's connection broke and the next connect was refused: its process is gone, its host lives.
    Reset,
    /// The leader fell silent until the election timer ran out.
    Timer,
    /// No leader was heard since this master started or held office itself.
    Start,
}

/// What happened to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerChange {
    /// First seen, or back after it was offline, or a new process.
    Registered {
        /// Its name.
        name: String,
        /// Its process.
        incarnation: u64,
    },
    /// Same process, new session.
    Resumed,
    /// Its session broke.
    Disconnected,
    /// New mode.
    Mode(crate::command::WorkerMode),
    /// New config.
    Config,
    /// Gone.
    Offline(OfflineReason),
    /// Silent beyond its lease, and kept with its tasks because the brake holds.
    Held,
}

/// A worker's load against its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LoadLevel {
    /// At most 0.2 (again normal from 0.3).
    Under,
    /// In between.
    Normal,
    /// At least 0.8 (again normal from 0.7).
    Over,
}

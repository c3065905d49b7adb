//! What a task is: its spec (immutable, shared by an array's tasks) and the words for its states and outcomes.

use serde::{Deserialize, Serialize};

use crate::worker::{Labels, Resources};

/// What to run and under which terms. Immutable once submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// For people; need not be unique.
    pub name: String,
    /// What runs.
    pub work: Work,
    /// Added to the attempt's environment, sorted by key.
    pub env: Labels,
    /// A worker must carry every one of them.
    pub require_labels: Labels,
    /// Taken from the worker while an attempt runs.
    pub require_resources: Resources,
    /// -1000..=1000, higher first.
    pub priority: i32,
    /// Per attempt; 0 means none.
    pub timeout_ms: u64,
    /// For the whole task, from submit; 0 means none.
    pub deadline_ms: u64,
    /// At least 1.
    pub max_attempts: u32,
    /// Delay before another attempt.
    pub backoff: Backoff,
    /// Which endings deserve another attempt.
    pub retry_on: RetryOn,
    /// What a cut-off worker does.
    pub on_partition: OnPartition,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace_ms: u64,
}

impl TaskSpec {
    /// Roughly how many bytes it takes in the log and in memory.
    pub fn weight(&self) -> usize {
        let pairs = |labels: &Labels| labels.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        let work = match &self.work {
            Work::Command { argv, workdir, stdin } => {
                argv.iter().map(|arg| arg.len() + 1).sum::<usize>() + workdir.len() + stdin.len()
            }
            Work::Handler { name, payload } => name.len() + payload.len(),
        };
        64 + self.name.len() + work + pairs(&self.env) + pairs(&self.require_labels)
    }
}

/// What an attempt executes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// A child process.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// Empty: the attempt's own directory.
        workdir: String,
        /// Fed to its standard input.
        stdin: Vec<u8>,
    },
    /// A named handler inside an embedding worker.
    Handler {
        /// Registered name.
        name: String,
        /// Passed to it.
        payload: Vec<u8>,
    },
}

/// Exponential backoff: `initial * factor^(n-1)`, at most `max`, of which a share is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Before the second attempt, in ms.
    pub initial_ms: u64,
    /// Never more, in ms.
    pub max_ms: u64,
    /// Growth per attempt, in thousandths (2000 doubles): integers, so that every replica computes the same.
    pub factor_permille: u32,
    /// Random share of the delay, in thousandths.
    pub jitter_permille: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_ms: 1_000, max_ms: 60_000, factor_permille: 2_000, jitter_permille: 200 }
    }
}

/// Which endings deserve another attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOn {
    /// The worker was lost, drained away or shut down.
    pub worker_lost: bool,
    /// The attempt's timeout.
    pub timeout: bool,
    /// Any exit code but 0, any signal, any handler error.
    pub any_failure: bool,
    /// These exit codes.
    pub exit_codes: Vec<i32>,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self { worker_lost: true, timeout: false, any_failure: false, exit_codes: Vec::new() }
    }
}

/// What a worker that is cut off does with a running attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnPartition {
    /// Goes on; the task may run twice at a time.
    #[default]
    Continue,
    /// Kills it before the lease ends.
    Stop,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// Waits for a slot.
    Pending,
    /// Assigned to a worker, not yet reported as started.
    Scheduled,
    /// The worker reported the start.
    Running,
    /// Waits for its backoff to end.
    Retrying,
    /// Finished well. Final.
    Succeeded,
    /// Finished badly, no attempt left. Final.
    Failed,
    /// Ended by a caller. Final.
    Cancelled,
}

impl TaskState {
    /// Final: it never changes again.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// How an attempt (and with the last one the task) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Exit code 0, or the handler returned a value.
    Succeeded,
    /// Another exit code.
    Exited,
    /// A signal that nobody of us sent.
    Signaled,
    /// The attempt's timeout.
    TimedOut,
    /// Could not be started: not found (127), not executable (126), unknown handler.
    CannotStart,
    /// The handler returned an error or panicked.
    HandlerError,
    /// The lease ran out, or the worker came back without the attempt.
    WorkerLost,
    /// A caller's cancel.
    Cancelled,
    /// The task's deadline.
    Deadline,
    /// `on_partition = stop`: the worker stopped it by itself.
    PartitionStop,
    /// The worker was shut down, or its drain deadline passed.
    WorkerShutdown,
}

//! The state itself: its parts, and the small reads.
//!
//! What always holds: `plan`, `timers` and the task counts are derived from the other parts; a snapshot holds only those
//! others, and [`State::derive`] finds the rest again.

use serde::{Deserialize, Serialize};

use crate::brake::Brake;
use crate::chain::Chain;
use crate::effect::Reply;
use crate::events::EventLog;
use crate::ids::{MasterId, RequestId, TaskId};
use crate::limits::Limits;
use crate::plan::Plan;
use crate::registry::Registry;
use crate::request::Replies;
use crate::table::{Table, Task};
use crate::task::TaskState;
use crate::timers::{Due, Timers};
use crate::view::TaskCounts;

/// A token is `epoch << EPOCH_SHIFT | counter`: room for 10^12 attempts between two restores.
const EPOCH_SHIFT: u32 = 40;
/// How long a load level must hold before it is announced, in ms of cluster time.
pub(crate) const LOAD_HOLD_MS: u64 = 5_000;
/// Retention wakes nobody more often than this (or an eighth of what is kept, if that is less), in ms.
const RETENTION_SLACK_MS: u64 = 60_000;

/// Everything that is replicated. Send and sync, not clonable: take an [`crate::Image`].
#[derive(Debug, Default)]
pub struct State {
    pub(crate) head: Head,
    pub(crate) tasks: Table,
    pub(crate) registry: Registry,
    /// Finished tasks in the order of their end.
    pub(crate) finished: Chain<Finished>,
    pub(crate) replies: Replies,
    pub(crate) events: EventLog,
    pub(crate) brake: Brake,
    pub(crate) plan: Plan,
    pub(crate) timers: Timers,
    pub(crate) counts: TaskCounts,
}

/// The small things.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub applied_index: u64,
    /// Highest term seen in any entry.
    pub term: u64,
    /// Term of the last reign that began.
    pub reign: Option<u64>,
    pub leader: Option<MasterId>,
    pub time_ms: u64,
    pub wall_ms: u64,
    pub cluster_id: Option<String>,
    pub limits: Limits,
    pub format_level: u32,
    pub last_task: u64,
    pub last_worker: u64,
    pub last_token: u64,
    pub last_session: u64,
    pub finished_total: u64,
    pub voters: Vec<MasterId>,
    pub learners: Vec<MasterId>,
}

/// A finished task in the order of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub task: TaskId,
    /// Cluster time of its end.
    pub at_ms: u64,
}

impl State {
    /// The state of a cluster in which nothing has happened.
    pub fn new() -> State {
        Self::default()
    }

    /// Index of the last entry that was applied.
    pub fn applied_index(&self) -> u64 {
        self.head.applied_index
    }

    /// Highest term of any applied entry.
    pub fn term(&self) -> u64 {
        self.head.term
    }

    /// Who began the last reign.
    pub fn leader(&self) -> Option<MasterId> {
        self.head.leader
    }

    /// Cluster time in ms: never goes back.
    pub fn time_ms(&self) -> u64 {
        self.head.time_ms
    }

    /// Wall time of the last batch in ms; only to be shown.
    pub fn wall_ms(&self) -> u64 {
        self.head.wall_ms
    }

    /// Absent until it was initialised.
    pub fn cluster_id(&self) -> Option<&str> {
        self.head.cluster_id.as_deref()
    }

    /// Bounds that are in force.
    pub fn limits(&self) -> &Limits {
        &self.head.limits
    }

    /// The meaning of `apply` that is switched on. A node whose [`crate::FORMAT_LEVEL`] is lower must stop.
    pub fn format_level(&self) -> u32 {
        self.head.format_level
    }

    /// Voting masters, as the log says.
    pub fn voters(&self) -> &[MasterId] {
        &self.head.voters
    }

    /// Masters that only learn, as the log says.
    pub fn learners(&self) -> &[MasterId] {
        &self.head.learners
    }

    /// The reply to a request, while it is remembered.
    pub fn remembered(&self, id: RequestId) -> Option<&Reply> {
        self.replies.get(&id)
    }

    /// Cluster time of the earliest thing that only time brings about. A time that has passed already means: propose an
    /// entry at once, for one entry's share of the work is bounded and some is left.
    pub fn next_timer_ms(&self) -> Option<u64> {
        let limits = &self.head.limits;
        let too_many = self.finished.len() as u64 > limits.tasks_finished_kept_max;
        let left = (too_many || self.plan.next().is_some()).then_some(self.head.time_ms);
        let finished = self.finished.front().map(|oldest| retention(oldest.at_ms, limits.tasks_finished_kept_ms));
        let replies = self.replies.oldest_ms().map(|oldest| retention(oldest, limits.replies_kept_ms));
        [left, finished, replies, self.timers.next_ms()].into_iter().flatten().min()
    }

    /// After an operator brought the state back from a snapshot file, into a new cluster: fencing tokens continue in a
    /// new epoch (`epoch`, or the next one if that is not newer), no session is open, terms may begin again, and events
    /// up to here count as trimmed.
    pub fn restored(mut self, epoch: u64) -> State {
        let next = (self.head.last_token >> EPOCH_SHIFT).saturating_add(1);
        self.head.last_token = epoch.max(next).min(u64::MAX >> EPOCH_SHIFT) << EPOCH_SHIFT;
        self.head.term = 0;
        self.head.reign = None;
        self.head.leader = None;
        self.events.clear(self.head.applied_index);
        self.brake.reset();
        for id in self.registry.ids() {
            if let Some(worker) = self.registry.get_mut(id) {
                worker.connected = false;
                self.plan.update(worker);
            }
        }
        self
    }

    /// Finds plan, timers and counts again from the tables.
    pub(crate) fn derive(&mut self) {
        (self.plan, self.timers) = (Plan::default(), Timers::default());
        let totals = (self.head.last_task, self.head.finished_total);
        self.counts = TaskCounts { submitted_total: totals.0, finished_total: totals.1, ..TaskCounts::default() };
        for worker in self.registry.iter() {
            self.plan.rematch(worker);
            for (at_ms, due) in worker_timers(worker, &self.head.limits) {
                self.timers.set(at_ms, due);
            }
        }
        for (id, task) in self.tasks.iter_mut() {
            *state_count(&mut self.counts, task.facts.state) += 1;
            if task.facts.state.is_finished() {
                continue;
            }
            task.class = self.plan.enter(&task.spec, 1, &self.registry);
            if task.facts.state == TaskState::Pending {
                self.plan.push(task.class, task.spec.priority, id, id);
            }
            task_timers(id, task).for_each(|(at_ms, due)| self.timers.set(at_ms, due));
        }
    }
}

/// When retention looks at its oldest again.
fn retention(oldest_ms: u64, kept_ms: u64) -> u64 {
    oldest_ms.saturating_add(kept_ms).saturating_add(RETENTION_SLACK_MS.min(kept_ms / 8))
}

/// The count that a state falls under.
pub(crate) fn state_count(counts: &mut TaskCounts, state: TaskState) -> &mut u64 {
    match state {
        TaskState::Pending => &mut counts.pending,
        TaskState::Scheduled => &mut counts.scheduled,
        TaskState::Running => &mut counts.running,
        TaskState::Retrying => &mut counts.retrying,
        TaskState::Succeeded => &mut counts.succeeded,
        TaskState::Failed => &mut counts.failed,
        TaskState::Cancelled => &mut counts.cancelled,
    }
}

/// The timers that an unfinished task should have.
pub(crate) fn task_timers(id: TaskId, task: &Task) -> impl Iterator<Item = (u64, Due)> + use<> {
    let backoff = (task.facts.state == TaskState::Retrying).then_some((task.facts.until_ms, Due::Backoff(id)));
    let deadline = task.deadline_at_ms().map(|at_ms| (at_ms, Due::Deadline(id)));
    backoff.into_iter().chain(deadline)
}

/// The timers that a worker should have.
pub(crate) fn worker_timers(
    worker: &crate::registry::Worker,
    limits: &Limits,
) -> impl Iterator<Item = (u64, Due)> + use<> {
    let id = worker.id;
    let drain = worker.drain_at_ms.map(|at_ms| (at_ms, Due::Drain(id)));
    let load = worker.load_next.map(|(_, since_ms)| (since_ms.saturating_add(LOAD_HOLD_MS), Due::Load(id)));
    let kept_ms = limits.workers_offline_kept_ms;
    let forget = worker.offline.map(|offline| (offline.since_ms.saturating_add(kept_ms), Due::Forget(id)));
    [drain, load, forget].into_iter().flatten()
}

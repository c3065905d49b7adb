//! Reads of the state: every view is built here.
//!
//! What always holds: a read changes nothing, and each has a bound on what it looks at or hands out.

use crate::effect::Effect;
use crate::ids::{TaskId, WorkerId};
use crate::registry::{Wish, Worker};
use crate::state::State;
use crate::table::{Attempt, Task};
use crate::task::{Outcome, TaskState};
use crate::view::{
    AttemptView, BrakeView, EventPage, ExplainReason, Explanation, Tally, TaskCounts, TaskFilter, TaskView,
    WorkerCounts, WorkerView,
};
use crate::worker::WorkerStatus;
use crate::{Requirements, WorkerRef};

/// Most tasks that one list looks at.
pub const SCAN_TASKS_MAX: usize = 100_000;

impl State {
    /// Everything that this worker should have been told and may not have: runs that are not reported as started,
    /// stops, and a shutdown. An attempt that is known to run needs no telling.
    pub fn outstanding(&self, worker: WorkerId) -> Vec<Effect> {
        let Some(known) = self.registry.get(worker) else { return Vec::new() };
        let attempts = known.open.iter().filter_map(|(&token, slot)| match slot.wish {
            Wish::GiveBack | Wish::Stop => Some(Effect::CancelRun { worker, token }),
            Wish::Run if self.task_state(slot.task) == Some(TaskState::Scheduled) => {
                self.start_run(worker, token, slot)
            }
            Wish::Run => None,
        });
        attempts.chain(known.shutdown.map(|now| Effect::ShutdownWorker { worker, now })).collect()
    }

    /// One task.
    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        self.tasks.get(id).map(|task| self.task_view(id, task))
    }

    /// Where one task stands.
    pub fn task_state(&self, id: TaskId) -> Option<TaskState> {
        self.tasks.get(id).map(|task| task.facts.state)
    }

    /// Tasks in the order of their ids, after `cursor`, at most `limit` (0 counts as 1). Returns where to go on, if
    /// there may be more: at most [`SCAN_TASKS_MAX`] tasks are looked at.
    pub fn list_tasks(
        &self,
        filter: &TaskFilter,
        cursor: Option<TaskId>,
        newest_first: bool,
        limit: usize,
    ) -> (Vec<TaskView>, Option<TaskId>) {
        let low = filter.id_from.unwrap_or(TaskId(0));
        let high = filter.id_to.unwrap_or(TaskId(u64::MAX));
        if newest_first {
            let start = cursor.map_or(high, |cursor| TaskId(cursor.0.saturating_sub(1)).min(high));
            let tasks = self.tasks.down_from(start).take_while(|(id, _)| *id >= low);
            return self.pick(tasks, filter, limit);
        }
        let start = cursor.map_or(low, |cursor| TaskId(cursor.0.saturating_add(1)).max(low));
        self.pick(self.tasks.up_from(start).take_while(|(id, _)| *id <= high), filter, limit)
    }

    fn pick<'a>(
        &self,
        mut tasks: impl Iterator<Item = (TaskId, &'a Task)>,
        filter: &TaskFilter,
        limit: usize,
    ) -> (Vec<TaskView>, Option<TaskId>) {
        let (mut found, mut last) = (Vec::new(), None);
        for (id, task) in tasks.by_ref().take(SCAN_TASKS_MAX) {
            last = Some(id);
            if passes(filter, task) {
                found.push(self.task_view(id, task));
            }
            if found.len() >= limit {
                break;
            }
        }
        let more = tasks.next().is_some();
        (found, last.filter(|_| more))
    }

    /// What became of `count` tasks from `first`: looks at each of them.
    pub fn tally(&self, first: TaskId, count: u64) -> Tally {
        let mut tally = Tally::default();
        let end = first.0.saturating_add(count);
        for (_, task) in self.tasks.up_from(first).take_while(|(id, _)| id.0 < end) {
            match task.facts.state {
                TaskState::Succeeded => tally.succeeded += 1,
                TaskState::Failed => tally.failed += 1,
                TaskState::Cancelled => tally.cancelled += 1,
                _ => tally.unfinished += 1,
            }
        }
        let there = tally.succeeded + tally.failed + tally.cancelled + tally.unfinished;
        tally.gone = (end - first.0).saturating_sub(there);
        tally
    }

    /// Tasks by state.
    pub fn counts(&self) -> TaskCounts {
        self.counts
    }

    /// The oldest task that is kept.
    pub fn first_task(&self) -> Option<TaskId> {
        self.tasks.iter().next().map(|(id, _)| id)
    }

    /// The newest id that was ever given, 0 for none.
    pub fn last_task_id(&self) -> TaskId {
        TaskId(self.head.last_task)
    }

    /// Workers by status.
    pub fn worker_counts(&self) -> WorkerCounts {
        let mut counts = WorkerCounts::default();
        for worker in self.registry.iter() {
            let count = match worker.status() {
                WorkerStatus::Online => &mut counts.online,
                WorkerStatus::Busy => &mut counts.busy,
                WorkerStatus::Draining => &mut counts.draining,
                WorkerStatus::Maintenance => &mut counts.maintenance,
                WorkerStatus::Offline => &mut counts.offline,
            };
            *count += 1;
            if worker.offline.is_none() {
                counts.capacity += u64::from(worker.capacity());
                counts.used += u64::from(worker.used());
            }
        }
        counts
    }

    /// One worker with its attempts.
    pub fn worker(&self, worker: WorkerId) -> Option<WorkerView> {
        let known = self.registry.get(worker)?;
        Some(WorkerView { attempts: known.open.keys().copied().collect(), ..self.worker_view(known) })
    }

    /// The worker that an operator means.
    pub fn find_worker(&self, worker: &WorkerRef) -> Option<WorkerId> {
        self.registry.find(worker)
    }

    /// Workers in the order of their ids, after `cursor`, at most `limit` (0 counts as 1), and where to go on.
    pub fn list_workers(&self, cursor: Option<WorkerId>, limit: usize) -> (Vec<WorkerView>, Option<WorkerId>) {
        let mut workers = self.registry.after(cursor.unwrap_or(WorkerId(0)));
        let found: Vec<_> = workers.by_ref().take(limit.max(1)).map(|worker| self.worker_view(worker)).collect();
        let more = workers.next().is_some();
        let last = found.last().map(|worker| worker.id).filter(|_| more);
        (found, last)
    }

    /// Every worker that is not offline, with its incarnation, its session and whether that is open: whom to watch.
    pub fn believed_workers(&self) -> Vec<(WorkerId, u64, u64, bool)> {
        let believed = self.registry.iter().filter(|worker| worker.offline.is_none());
        believed.map(|worker| (worker.id, worker.incarnation, worker.session, worker.connected)).collect()
    }

    /// Whether a worker is silent beyond its lease and kept because the brake holds: no further verdict is wanted.
    pub fn is_held(&self, worker: WorkerId) -> bool {
        self.brake.held.contains(&worker)
    }

    /// How the brake on mass failure stands, with at most `held_max` of the held workers.
    pub fn brake(&self, held_max: usize) -> BrakeView {
        let living = self.registry.iter().filter(|worker| worker.offline.is_none()).count() as u64;
        let (policy, now_ms) = (self.brake.policy, self.head.time_ms);
        let counts = |at_ms: &u64| self.brake.engaged.is_some() || at_ms.saturating_add(policy.window_ms) > now_ms;
        let lost = self.brake.lost.values().filter(|at_ms| counts(at_ms)).count() as u64;
        BrakeView {
            policy,
            engaged_since_ms: self.brake.engaged.map(|engaged| engaged.since_ms),
            manual: self.brake.engaged.is_some_and(|engaged| engaged.manual),
            held: self.brake.held.iter().take(held_max).copied().collect(),
            held_total: self.brake.held.len() as u64,
            lost,
            allowed: policy.allowed(living + lost),
        }
    }

    /// How long a worker is believed when it is silent, in ms.
    pub fn lease_ms(&self, worker: WorkerId) -> Option<u32> {
        self.registry.get(worker).map(|worker| worker.lease_ms(&self.head.limits))
    }

    /// Events of log index `index` and later: whole entries, until `max_events` are together (always at least one).
    pub fn events_from(&self, index: u64, max_events: usize) -> EventPage {
        self.events.page(index, max_events, self.head.applied_index)
    }

    /// The first log index whose events, if it had any, are kept.
    pub fn oldest_event_index(&self) -> u64 {
        self.events.trimmed_upto().saturating_add(1)
    }

    /// Why a task stands where it stands; for a pending one worker by worker in the aggregate.
    pub fn explain(&self, id: TaskId) -> Option<Explanation> {
        let task = self.tasks.get(id)?;
        let pending = task.facts.state == TaskState::Pending;
        let reasons = if pending { self.why_not(task) } else { Vec::new() };
        let ahead_in_queue = if pending { self.plan.ahead(task.class, task.spec.priority, id) } else { 0 };
        Some(Explanation {
            state: task.facts.state,
            summary: self.summary(task, ahead_in_queue, &reasons),
            ahead_in_queue,
            workers_total: self.registry.len() as u32,
            reasons,
        })
    }

    fn why_not(&self, task: &Task) -> Vec<ExplainReason> {
        let needs = self.plan.needs(task.class);
        let mut reasons: Vec<ExplainReason> = Vec::new();
        for worker in self.registry.iter() {
            let (reason, detail) = obstacle(worker, &needs);
            match reasons.iter_mut().find(|known| known.reason == reason) {
                Some(known) => known.workers += 1,
                None => reasons.push(ExplainReason { reason, workers: 1, detail }),
            }
        }
        reasons
    }

    fn summary(&self, task: &Task, ahead: u64, reasons: &[ExplainReason]) -> String {
        let attempt = task.attempts();
        let place = task.last().map_or(String::new(), |last| {
            let name = self.registry.get(last.worker).map_or("", |worker| &worker.name);
            format!("worker {} {name:?}", last.worker)
        });
        match task.facts.state {
            TaskState::Pending => pending_summary(ahead, reasons),
            TaskState::Scheduled => {
                format!("attempt {attempt} is assigned to {place}, which has not told of its start")
            }
            TaskState::Running => format!("attempt {attempt} runs on {place}"),
            TaskState::Retrying => {
                let left_ms = task.facts.until_ms.saturating_sub(self.head.time_ms);
                format!("attempt {} of {} follows in {left_ms} ms", attempt + 1, task.spec.max_attempts)
            }
            _ => reason(task),
        }
    }

    fn task_view(&self, id: TaskId, task: &Task) -> TaskView {
        let facts = &task.facts;
        let history = facts.history.as_deref();
        let attempts = history.into_iter().flat_map(|history| history.earlier.iter().chain([&history.last]));
        let finished = facts.state.is_finished();
        TaskView {
            id,
            spec: task.spec.clone(),
            state: facts.state,
            array_index: facts.array_index,
            submitted_ms: facts.submitted_ms,
            finished_ms: if finished { facts.until_ms } else { 0 },
            next_attempt_at_ms: (facts.state == TaskState::Retrying).then_some(facts.until_ms),
            deadline_at_ms: task.deadline_at_ms(),
            attempts: attempts.map(|attempt| self.attempt_view(attempt)).collect(),
            attempts_total: task.attempts(),
            outcome: facts.outcome,
            reason: if finished { reason(task) } else { String::new() },
            result: history.map(|history| history.result.to_vec()).unwrap_or_default(),
            result_truncated: history.is_some_and(|history| history.result_truncated),
            log_index: facts.log_index,
        }
    }

    fn attempt_view(&self, attempt: &Attempt) -> AttemptView {
        AttemptView {
            number: attempt.number,
            token: attempt.token,
            worker: attempt.worker,
            worker_name: self.registry.get(attempt.worker).map(|worker| worker.name.clone()).unwrap_or_default(),
            assigned_ms: attempt.assigned_ms,
            started_ms: attempt.started_ms,
            ended_ms: attempt.ended_ms,
            ran_ms: attempt.ran_ms,
            outcome: attempt.outcome,
            exit_code: attempt.exit_code,
            message: attempt.message.to_string(),
        }
    }

    fn worker_view(&self, worker: &Worker) -> WorkerView {
        WorkerView {
            id: worker.id,
            name: worker.name.clone(),
            uid: worker.uid,
            host: worker.host.clone(),
            port: worker.port,
            capacity: worker.capacity(),
            used: worker.used(),
            labels: worker.labels.clone(),
            resources: worker.resources.clone(),
            resources_used: worker.resources_used.clone(),
            status: worker.status(),
            mode: worker.mode,
            offline_reason: worker.offline.map(|offline| offline.reason),
            shutdown: worker.shutdown,
            drain_deadline_at_ms: worker.drain_at_ms,
            incarnation: worker.incarnation,
            session: worker.session,
            connected: worker.connected,
            heartbeat_ms: worker.heartbeat_ms(),
            lease_ms: worker.lease_ms(&self.head.limits),
            config_version: worker.config_version,
            registered_ms: worker.registered_ms,
            version: worker.version.clone(),
            attempts: Vec::new(),
            load: worker.load,
        }
    }
}

fn passes(filter: &TaskFilter, task: &Task) -> bool {
    (filter.states.is_empty() || filter.states.contains(&task.facts.state))
        && task.spec.name.starts_with(&filter.name_prefix)
        && filter.worker.is_none_or(|worker| task.last().is_some_and(|last| last.worker == worker))
}

/// The first thing that keeps a task from a worker.
fn obstacle(worker: &Worker, needs: &Requirements) -> (&'static str, String) {
    match worker.status() {
        WorkerStatus::Offline => return ("offline", "left or lost".into()),
        WorkerStatus::Maintenance => return ("maintenance", "kept out by an operator".into()),
        WorkerStatus::Draining => return ("draining", "finishes what it has".into()),
        WorkerStatus::Online | WorkerStatus::Busy => {}
    }
    let wrong = |(key, value): &(&String, &String)| worker.labels.get(*key) != Some(*value);
    if let Some((key, value)) = needs.labels.iter().find(wrong) {
        return ("label", format!("{key}={value} is required"));
    }
    let offers = |key: &String| worker.resources.get(key).copied().unwrap_or(0);
    if let Some((key, need)) = needs.resources.iter().find(|(key, need)| offers(key) < **need) {
        return ("resource", format!("{need} of {key} are required, {} offered", offers(key)));
    }
    match (worker.connected, worker.takes_work() && worker.has_free(needs)) {
        (false, _) => ("not_connected", "has no session with this leader".into()),
        (true, false) => ("full", "its slots or resources are taken".into()),
        (true, true) => ("fits", "takes it as soon as it is its turn".into()),
    }
}

fn pending_summary(ahead: u64, reasons: &[ExplainReason]) -> String {
    let workers = |reason: &ExplainReason| format!("{} {}", reason.workers, reason.reason.replace('_', " "));
    let all = reasons.iter().map(workers).collect::<Vec<_>>().join(", ");
    let never = |reason: &ExplainReason| matches!(reason.reason, "label" | "resource");
    match reasons {
        [] => "waits: no worker is registered".into(),
        _ if reasons.iter().all(never) => format!("no worker meets its requirements: {all}"),
        _ => format!("waits for a slot behind {ahead} others like it; workers: {all}"),
    }
}

/// Why a finished task finished as it did.
fn reason(task: &Task) -> String {
    let last = task.last();
    let code = last.map_or(0, |last| last.exit_code);
    let words = match task.facts.outcome {
        None => "cancelled before it ran".into(),
        Some(Outcome::Succeeded) => "succeeded".into(),
        Some(Outcome::Exited) => format!("exit code {code}"),
        Some(Outcome::Signaled) => format!("killed by signal {code}"),
        Some(Outcome::TimedOut) => format!("took longer than its timeout of {} ms", task.spec.timeout_ms),
        Some(Outcome::CannotStart) => "could not be started".into(),
        Some(Outcome::HandlerError) => "the handler returned an error".into(),
        Some(Outcome::WorkerLost) => "its worker was lost".into(),
        Some(Outcome::Cancelled) => "cancelled".into(),
        Some(Outcome::Deadline) => format!("its deadline of {} ms passed", task.spec.deadline_ms),
        Some(Outcome::PartitionStop) => "stopped by its cut-off worker".into(),
        Some(Outcome::WorkerShutdown) => "its worker was shut down".into(),
    };
    match last.filter(|last| !last.message.is_empty()) {
        Some(last) => format!("{words}: {}", last.message),
        None => words,
    }
}

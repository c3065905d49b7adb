//! The life of a task: submit, assign, end of an attempt, retry, cancel, end.
//!
//! What always holds: a finished task never changes again; an attempt that the cluster no longer wants keeps its slot
//! until its worker says that it is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::{Ended, TaskGroup};
use crate::effect::{CancelResult, Effect, Event, Rejection, Reply, RetryResult, Run};
use crate::ids::{TaskId, Token, WorkerId};
use crate::plan::{CLASSES_MAX, Pick};
use crate::registry::{Slot, Wish};
use crate::state::{Finished, state_count, task_timers};
use crate::table::{Attempt, Facts, Task};
use crate::task::{Backoff, OnPartition, Outcome, TaskSpec, TaskState};
use crate::timers::Due;

use super::{Answer, MESSAGE_BYTES_MAX, RESULT_BYTES_MAX, Step, check};

impl Step<'_> {
    pub(super) fn submit(&mut self, groups: &[TaskGroup]) -> Answer {
        let count = check::groups(groups)?;
        self.room_for(count, groups.iter().map(|group| &*group.spec))?;
        let first = TaskId(self.state.head.last_task + 1);
        let mut last: Option<&Arc<TaskSpec>> = None;
        for group in groups {
            // Equal neighbours share one spec: a caller's ten thousand equal tasks cost one.
            let spec = last.filter(|last| ***last == *group.spec).unwrap_or(&group.spec);
            self.add_tasks(spec, u64::from(group.count), 0);
            last = Some(spec);
        }
        self.events.push(Event::TasksSubmitted { first, count });
        Ok(Reply::Submitted { first, count })
    }

    fn room_for<'s>(&self, count: u64, specs: impl Iterator<Item = &'s TaskSpec>) -> Result<(), Rejection> {
        let limits = &self.state.head.limits;
        let (have, limit) = (self.state.counts.unfinished(), limits.tasks_unfinished_max);
        if have.saturating_add(count) > limit {
            let what = "tasks_unfinished_max".into();
            return Err(Rejection::LimitExceeded { what, asked: count, have, limit });
        }
        let demanding = |spec: &&TaskSpec| !spec.require_labels.is_empty() || !spec.require_resources.is_empty();
        let asked = self.state.plan.in_use_with(specs.filter(demanding));
        if asked > CLASSES_MAX {
            let what = "different requirements among unfinished tasks".into();
            return Err(Rejection::LimitExceeded { what, asked, have: 0, limit: CLASSES_MAX });
        }
        Ok(())
    }

    /// Adds tasks that share a spec, numbered from the next free id, and from `array_from` within their array.
    fn add_tasks(&mut self, spec: &Arc<TaskSpec>, count: u64, array_from: u32) {
        let class = self.state.plan.enter(spec, count, &self.state.registry);
        let first = TaskId(self.state.head.last_task + 1);
        let last = TaskId(self.state.head.last_task + count);
        let fresh = Facts {
            state: TaskState::Pending,
            outcome: None,
            array_index: array_from,
            submitted_at_ms: self.stamp.time_ms,
            submitted_ms: self.stamp.wall_ms,
            until_ms: 0,
            log_index: self.index,
            history: None,
        };
        let task = |offset: u64| {
            let array_index = array_from + offset as u32;
            Task { spec: spec.clone(), class, facts: Facts { array_index, ..fresh.clone() } }
        };
        self.state.tasks.append(first, count, task);
        if let Some(at_ms) = task(0).deadline_at_ms() {
            (first.0..=last.0).for_each(|id| self.state.timers.set(at_ms, Due::Deadline(TaskId(id))));
        }
        self.state.plan.push(class, spec.priority, first, last);
        self.state.head.last_task = last.0;
        self.state.counts.pending += count;
        self.state.counts.submitted_total += count;
    }

    pub(super) fn assign(&mut self, pick: Pick) {
        let Pick { class, priority, task: id, worker } = pick;
        self.state.plan.remove(class, priority, id);
        #[cfg(feature = "seeded-bugs")]
        if self.state.head.last_token.is_multiple_of(8) && steersman_bugs::planted("assign-twice") {
            self.state.plan.push(class, priority, id, id);
        }
        let Some(task) = self.state.tasks.get_mut(id) else { return };
        self.state.head.last_token += 1;
        let token = Token(self.state.head.last_token);
        let attempt = task.attempts() + 1;
        task.begin(open_attempt(attempt, token, worker, self.stamp.wall_ms), self.state.head.limits.attempts_kept_max);
        let (array_index, spec) = (task.facts.array_index, task.spec.clone());
        self.set_state(id, TaskState::Scheduled);
        let slot = Slot { task: id, needs: self.state.plan.needs(class), wish: Wish::Run };
        self.change_worker(worker, |worker| worker.take(token, slot));
        if let Some(worker) = self.state.registry.get(worker) {
            self.state.plan.update(worker);
        }
        self.events.push(Event::TaskAssigned { task: id, token, worker, attempt });
        self.effects.push(Effect::StartRun(Run { worker, task: id, token, attempt, array_index, spec }));
    }

    /// An open attempt whose slot is free (or stopping) is over: the task is finished, waits, or goes back to the queue.
    pub(super) fn end_attempt(&mut self, id: TaskId, ended: &Ended) {
        let Some((number, token)) = self.close_attempt(id, ended) else { return };
        let Some(task) = self.state.tasks.get(id) else { return };
        if ended.outcome == Outcome::Succeeded {
            return self.finish_task(id, TaskState::Succeeded, Some(Outcome::Succeeded));
        }
        let deserved = number < task.spec.max_attempts && deserves_retry(&task.spec, ended);
        let delay_ms = match lost_worker(ended.outcome) {
            true => 0,
            false => backoff_ms(&task.spec.backoff, number, self.stamp.entropy, token),
        };
        let again_ms = self.stamp.time_ms.saturating_add(delay_ms);
        if !deserved || task.deadline_at_ms().is_some_and(|deadline| again_ms >= deadline) {
            return self.finish_task(id, TaskState::Failed, Some(ended.outcome));
        }
        self.events.push(Event::TaskRetrying { task: id, delay_ms });
        match delay_ms {
            0 => self.requeue(id),
            _ => self.wait_until(id, again_ms),
        }
    }

    /// Writes the end of the open attempt into the task's history. Returns its number and token.
    fn close_attempt(&mut self, id: TaskId, ended: &Ended) -> Option<(u32, Token)> {
        let wall_ms = self.stamp.wall_ms;
        let task = self.state.tasks.get_mut(id)?;
        let open = task.open_mut()?;
        open.outcome = Some(ended.outcome);
        open.ended_ms = wall_ms;
        open.exit_code = ended.exit_code;
        open.message = cut(&ended.message).into();
        open.ran_ms = ended.ran_ms;
        if open.started_ms == 0 && ended.ran_ms > 0 {
            open.started_ms = wall_ms.saturating_sub(ended.ran_ms);
        }
        let (number, token) = (open.number, open.token);
        if let Some(history) = task.facts.history.as_deref_mut().filter(|_| ended.outcome == Outcome::Succeeded) {
            history.result_truncated = ended.result.len() > RESULT_BYTES_MAX;
            history.result = ended.result[..ended.result.len().min(RESULT_BYTES_MAX)].into();
        }
        let (outcome, exit_code) = (ended.outcome, ended.exit_code);
        self.events.push(Event::AttemptEnded { task: id, token, outcome, exit_code });
        Some((number, token))
    }

    fn requeue(&mut self, id: TaskId) {
        self.set_state(id, TaskState::Pending);
        if let Some(task) = self.state.tasks.get(id) {
            self.state.plan.push(task.class, task.spec.priority, id, id);
        }
    }

    fn wait_until(&mut self, id: TaskId, at_ms: u64) {
        self.set_state(id, TaskState::Retrying);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.facts.until_ms = at_ms;
            self.state.timers.set(at_ms, Due::Backoff(id));
        }
    }

    /// A backoff is over.
    pub(super) fn backoff_over(&mut self, id: TaskId) {
        if let Some(task) = self.state.tasks.get_mut(id).filter(|task| task.facts.state == TaskState::Retrying) {
            task.facts.until_ms = 0;
            self.requeue(id);
        }
    }

    pub(super) fn set_state(&mut self, id: TaskId, state: TaskState) {
        let Some(task) = self.state.tasks.get_mut(id) else { return };
        let old = std::mem::replace(&mut task.facts.state, state);
        task.facts.log_index = self.index;
        *state_count(&mut self.state.counts, old) -= 1;
        *state_count(&mut self.state.counts, state) += 1;
    }

    /// The last thing that happens to a task. It is in no queue, and has no open attempt and no backoff.
    fn finish_task(&mut self, id: TaskId, state: TaskState, outcome: Option<Outcome>) {
        self.set_state(id, state);
        let Some(task) = self.state.tasks.get_mut(id) else { return };
        if let Some(at_ms) = task.deadline_at_ms() {
            self.state.timers.clear(at_ms, Due::Deadline(id));
        }
        task.facts.until_ms = self.stamp.wall_ms;
        task.facts.outcome = outcome;
        self.state.plan.leave(std::mem::take(&mut task.class));
        self.state.finished.push(Finished { task: id, at_ms: self.stamp.time_ms });
        self.state.head.finished_total += 1;
        self.state.counts.finished_total += 1;
        self.events.push(Event::TaskFinished { task: id, state, outcome });
    }

    pub(super) fn cancel(&mut self, tasks: &[TaskId]) -> Reply {
        let result = |&task: &TaskId| {
            self.end_early(task, TaskState::Cancelled, Outcome::Cancelled);
            CancelResult { task, state: self.state.task_state(task) }
        };
        Reply::Cancelled(tasks.iter().map(result).collect())
    }

    /// A task's deadline has passed.
    pub(super) fn deadline_over(&mut self, id: TaskId) {
        self.end_early(id, TaskState::Failed, Outcome::Deadline);
    }

    /// Ends an unfinished task from outside; an open attempt is told to stop.
    fn end_early(&mut self, id: TaskId, state: TaskState, outcome: Outcome) {
        let Some(task) = self.state.tasks.get(id).filter(|task| !task.facts.state.is_finished()) else { return };
        let ran = task.attempts() > 0;
        match task.facts.state {
            TaskState::Pending => self.state.plan.remove(task.class, task.spec.priority, id),
            TaskState::Retrying => {
                task_timers(id, task).for_each(|(at_ms, due)| self.state.timers.clear(at_ms, due));
            }
            _ => self.stop_attempt(id, outcome, ""),
        }
        let outcome = (ran || outcome != Outcome::Cancelled).then_some(outcome);
        self.finish_task(id, state, outcome);
    }

    /// The open attempt is over as far as the task goes; its worker is told, and keeps the slot until it says so.
    fn stop_attempt(&mut self, id: TaskId, outcome: Outcome, message: &str) {
        let Some(open) = self.state.tasks.get(id).and_then(Task::open) else { return };
        let (worker, token) = (open.worker, open.token);
        self.close_attempt(id, &ending(outcome, message));
        self.tell_stop(worker, token, Wish::Stop);
    }

    fn tell_stop(&mut self, worker: WorkerId, token: Token, wish: Wish) {
        self.change_worker(worker, |worker| {
            if let Some(slot) = worker.open.get_mut(&token) {
                slot.wish = wish;
            }
        });
        self.effects.push(Effect::CancelRun { worker, token });
    }

    /// A draining worker's time is over for this attempt: the task runs elsewhere, at once or, if it must never run twice
    /// at a time, when the attempt's end is known.
    pub(super) fn take_back(&mut self, worker: WorkerId, token: Token, id: TaskId) {
        let waits = self.state.tasks.get(id).is_some_and(|task| task.spec.on_partition == OnPartition::Stop);
        if waits {
            return self.tell_stop(worker, token, Wish::GiveBack);
        }
        self.end_attempt(id, &ending(Outcome::WorkerShutdown, "the drain deadline passed"));
        self.tell_stop(worker, token, Wish::Stop);
    }

    pub(super) fn retry(&mut self, tasks: &[TaskId]) -> Answer {
        let retryable = |id: &TaskId| {
            let task = self.state.tasks.get(*id)?;
            let over = matches!(task.facts.state, TaskState::Failed | TaskState::Cancelled);
            over.then(|| (*id, task.spec.clone(), task.facts.array_index))
        };
        let unique: BTreeMap<_, _> =
            tasks.iter().filter_map(retryable).map(|(id, spec, index)| (id, (spec, index))).collect();
        let count = unique.len() as u64;
        self.room_for(count, unique.values().map(|(spec, _)| &**spec))?;
        let first = TaskId(self.state.head.last_task + 1);
        let mut new = BTreeMap::new();
        for (id, (spec, array_index)) in &unique {
            self.add_tasks(spec, 1, *array_index);
            new.insert(*id, TaskId(self.state.head.last_task));
        }
        if count > 0 {
            self.events.push(Event::TasksSubmitted { first, count });
        }
        let result =
            |&task: &TaskId| RetryResult { task, new: new.get(&task).copied(), state: self.state.task_state(task) };
        Ok(Reply::Retried(tasks.iter().map(result).collect()))
    }
}

fn open_attempt(number: u32, token: Token, worker: WorkerId, assigned_ms: u64) -> Attempt {
    let message = Box::default();
    let (started_ms, ended_ms, ran_ms) = (0, 0, 0);
    Attempt { number, token, worker, assigned_ms, started_ms, ended_ms, ran_ms, outcome: None, exit_code: 0, message }
}

/// An end that no worker reported.
pub(super) fn ending(outcome: Outcome, message: &str) -> Ended {
    Ended { outcome, exit_code: 0, message: message.into(), result: Vec::new(), ran_ms: 0 }
}

/// Cuts a message to its bound, at a character's end.
fn cut(message: &str) -> &str {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message;
    }
    let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    &message[..end]
}

/// The worker is to blame, not the task: another attempt need not wait.
fn lost_worker(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::WorkerLost | Outcome::WorkerShutdown | Outcome::PartitionStop)
}

fn deserves_retry(spec: &TaskSpec, ended: &Ended) -> bool {
    let on = &spec.retry_on;
    match ended.outcome {
        Outcome::WorkerLost | Outcome::WorkerShutdown | Outcome::PartitionStop => on.worker_lost,
        Outcome::TimedOut => on.timeout,
        Outcome::Exited | Outcome::CannotStart => on.any_failure || on.exit_codes.contains(&ended.exit_code),
        Outcome::Signaled | Outcome::HandlerError => on.any_failure,
        Outcome::Succeeded | Outcome::Cancelled | Outcome::Deadline => false,
    }
}

/// Delay after attempt `number`, in ms: grown, capped, and with its random share from the entry's entropy.
fn backoff_ms(backoff: &Backoff, number: u32, entropy: u64, token: Token) -> u64 {
    let mut delay = backoff.initial_ms.min(backoff.max_ms);
    for _ in 1..number {
        let grown = u128::from(delay) * u128::from(backoff.factor_permille) / 1_000;
        let next = u64::try_from(grown).unwrap_or(u64::MAX).min(backoff.max_ms);
        if next == delay {
            break;
        }
        delay = next;
    }
    let share = (u128::from(delay) * u128::from(backoff.jitter_permille.min(1_000)) / 1_000) as u64;
    let random = xxhash_rust::xxh3::xxh3_64_with_seed(&token.0.to_le_bytes(), entropy);
    delay - share + random % share.saturating_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_is_capped_and_never_overflows() {
        let plain = Backoff { initial_ms: 100, max_ms: 1_000, factor_permille: 2_000, jitter_permille: 0 };
        let delays: Vec<_> = (1..6).map(|number| backoff_ms(&plain, number, 7, Token(1))).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_000]);
        let jitter = Backoff { jitter_permille: 500, ..plain };
        let random: Vec<_> = (1..50).map(|token| backoff_ms(&jitter, 5, 7, Token(token))).collect();
        assert!(random.iter().all(|delay| (500..=1_000).contains(delay)), "{random:?}");
        assert!(random.iter().any(|delay| *delay < 700) && random.iter().any(|delay| *delay > 800), "{random:?}");
        let huge =
            Backoff { initial_ms: u64::MAX, max_ms: u64::MAX, factor_permille: u32::MAX, jitter_permille: u32::MAX };
        backoff_ms(&huge, u32::MAX, u64::MAX, Token(u64::MAX));
        let still = Backoff { initial_ms: 1, max_ms: u64::MAX, factor_permille: 1_001, jitter_permille: 0 };
        assert_eq!(backoff_ms(&still, u32::MAX, 0, Token(1)), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(cut(&long).len(), MESSAGE_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), MESSAGE_BYTES_MAX - 1);
    }
}

//! What only the passing of time brings about: backoffs, deadlines, drain deadlines, load levels, retention.
//!
//! What always holds: one entry's share of this work is bounded; what is left is due at once in the next.

use crate::effect::{Event, LoadLevel};
use crate::ids::WorkerId;
use crate::registry::Worker;
use crate::state::{LOAD_HOLD_MS, state_count};
use crate::timers::Due;

use super::Step;

/// Most timers that one entry fires.
const TIMERS_PER_ENTRY: usize = 50_000;
/// Most finished tasks, and most replies, that one entry forgets.
const TRIMS_PER_ENTRY: usize = 20_000;

impl Step<'_> {
    /// Fires what is due and trims what is kept too long.
    pub(super) fn expire(&mut self) {
        for _ in 0..TIMERS_PER_ENTRY {
            let Some(due) = self.state.timers.pop_due(self.stamp.time_ms) else { break };
            self.fire(due);
        }
        self.trim_tasks();
        self.state.replies.trim(&self.state.head.limits, self.stamp.time_ms, TRIMS_PER_ENTRY);
    }

    fn fire(&mut self, due: Due) {
        match due {
            Due::Backoff(task) => self.backoff_over(task),
            Due::Deadline(task) => self.deadline_over(task),
            Due::Drain(worker) => self.drain_over(worker),
            Due::Load(worker) => self.load_held(worker),
            Due::Forget(worker) => self.forget_worker(worker),
        }
    }

    /// Forgets finished tasks that are too many or too old, in the order in which they finished.
    fn trim_tasks(&mut self) {
        let (max, kept_ms) = {
            let limits = &self.state.head.limits;
            (limits.tasks_finished_kept_max, limits.tasks_finished_kept_ms)
        };
        let mut count = 0;
        while count < TRIMS_PER_ENTRY as u64 {
            let Some(oldest) = self.state.finished.front() else { break };
            let old = oldest.at_ms.saturating_add(kept_ms) <= self.stamp.time_ms;
            if !old && self.state.finished.len() as u64 <= max {
                break;
            }
            if let Some(task) = self.state.tasks.remove(oldest.task) {
                *state_count(&mut self.state.counts, task.facts.state) -= 1;
            }
            self.state.finished.drop_front();
            count += 1;
        }
        if count > 0 {
            self.events.push(Event::TasksTrimmed { count });
        }
    }

    /// Notes for every worker that was touched whether another load level has begun to hold.
    pub(super) fn settle_loads(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(worker) = self.state.registry.get(id) else { continue };
            let level = level(worker);
            let next = worker.load_next.map(|(next, _)| next);
            if next == (level != worker.load).then_some(level) {
                continue;
            }
            let since_ms = self.stamp.time_ms;
            let wanted = (level != worker.load).then_some((level, since_ms));
            let Some(worker) = self.state.registry.get_mut(id) else { continue };
            if let Some((_, old_ms)) = std::mem::replace(&mut worker.load_next, wanted) {
                self.state.timers.clear(old_ms.saturating_add(LOAD_HOLD_MS), Due::Load(id));
            }
            if wanted.is_some() {
                self.state.timers.set(since_ms.saturating_add(LOAD_HOLD_MS), Due::Load(id));
            }
        }
    }

    /// A load level has held long enough to be told.
    fn load_held(&mut self, id: WorkerId) {
        let Some(worker) = self.state.registry.get_mut(id) else { return };
        let Some((level, _)) = worker.load_next.take() else { return };
        worker.load = level;
        let (used, capacity) = (worker.used(), worker.capacity());
        self.events.push(Event::WorkerLoad { worker: id, level, used, capacity });
        self.touched.insert(id);
    }
}

/// Where a worker's load is, seen from the level that was last announced: over from 0.8 until 0.7, under from 0.2 until
/// 0.3. An offline worker has none.
fn level(worker: &Worker) -> LoadLevel {
    let (used, capacity) = (u64::from(worker.used()) * 10, u64::from(worker.capacity()));
    if worker.offline.is_some() {
        return LoadLevel::Normal;
    }
    match worker.load {
        LoadLevel::Over if used > capacity * 7 => LoadLevel::Over,
        LoadLevel::Under if used < capacity * 3 => LoadLevel::Under,
        _ if used >= capacity * 8 => LoadLevel::Over,
        _ if used <= capacity * 2 => LoadLevel::Under,
        _ => LoadLevel::Normal,
    }
}

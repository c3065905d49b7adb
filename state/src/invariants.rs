//! Everything that must hold between the parts of the state, checked from scratch in O(n).
//!
//! `apply` does not call it: tests, the simulation and `verify` do. It never repairs anything.

use std::collections::BTreeSet;

use crate::ids::{TaskId, Token};
use crate::image::Image;
use crate::plan::Plan;
use crate::registry::{Wish, Worker};
use crate::state::{State, state_count, task_timers, worker_timers};
use crate::table::Task;
use crate::task::TaskState;
use crate::timers::Timers;
use crate::view::TaskCounts;

/// Something that must hold does not. The node stops: going on would spread it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant broken: {0}")]
pub struct Violation(pub String);

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

/// A consistent copy of the state and of what is derived from it, to be checked while the state goes on.
pub struct Inspection {
    image: Image,
    plan: Plan,
    timers: Timers,
    counts: TaskCounts,
}

impl Inspection {
    /// The log index that it stands at.
    pub fn applied_index(&self) -> u64 {
        self.image.applied_index()
    }

    /// [`State::check`] of the state that it was taken from. The indexes of workers and replies are built anew for it.
    ///
    /// # Errors
    ///
    /// The first thing that does not hold.
    pub fn check(self) -> Result<(), Violation> {
        let mut state = self.image.rebuild();
        (state.plan, state.timers, state.counts) = (self.plan, self.timers, self.counts);
        state.check()
    }
}

impl State {
    /// A copy to be checked elsewhere, in O(tasks / 64 + workers + timers): for a live state that must not stand still.
    pub fn inspection(&self) -> Inspection {
        let (plan, timers, counts) = (self.plan.clone(), self.timers.clone(), self.counts);
        Inspection { image: self.image(), plan, timers, counts }
    }

    /// Checks everything that must hold between the parts of the state.
    ///
    /// # Errors
    ///
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), Violation> {
        ensure(self.tasks.counts_hold(), || "a chunk miscounts its tasks".into())?;
        ensure(self.registry.indexes_hold(), || "names or uids lead to the wrong workers".into())?;
        ensure(self.replies.index_holds(), || "the index of remembered replies is wrong".into())?;
        ensure(self.events.holds(), || "event indexes do not rise, or their count is wrong".into())?;
        self.tasks.iter().try_for_each(|(id, task)| self.check_task(id, task))?;
        self.check_workers()?;
        self.check_finished()?;
        self.check_brake()?;
        self.check_derived()
    }

    fn check_task(&self, id: TaskId, task: &Task) -> Result<(), Violation> {
        let state = task.facts.state;
        ensure(id.0 >= 1 && id.0 <= self.head.last_task, || format!("task {id} was never given out"))?;
        let assigned = matches!(state, TaskState::Scheduled | TaskState::Running);
        ensure(task.open().is_some() == assigned, || format!("task {id} is {state:?}: open {:?}", task.open()))?;
        let finished = state.is_finished();
        ensure(finished || task.facts.outcome.is_none(), || format!("task {id} is {state:?} with an outcome"))?;
        ensure(self.attempts_rise(task), || format!("the attempts of task {id} do not rise"))?;
        let Some(open) = task.open() else { return Ok(()) };
        let slot = self.registry.get(open.worker).and_then(|worker| worker.open.get(&open.token));
        let held = slot.is_some_and(|slot| slot.task == id && slot.wish != Wish::Stop);
        ensure(held, || format!("task {id}: worker {} does not hold token {}", open.worker, open.token))
    }

    fn attempts_rise(&self, task: &Task) -> bool {
        let Some(history) = task.facts.history.as_deref() else { return true };
        let all: Vec<_> = history.earlier.iter().chain([&history.last]).collect();
        let rising = all.windows(2).all(|pair| pair[0].number < pair[1].number && pair[0].token < pair[1].token);
        let closed = history.earlier.iter().all(|attempt| attempt.outcome.is_some());
        rising && closed && history.last.token.0 <= self.head.last_token
    }

    fn check_workers(&self) -> Result<(), Violation> {
        let (mut tokens, mut living) = (BTreeSet::new(), BTreeSet::new());
        for worker in self.registry.iter() {
            let (id, session) = (worker.id, worker.session);
            ensure(id.0 >= 1 && id.0 <= self.head.last_worker, || format!("worker {id} was never given out"))?;
            ensure(session <= self.head.last_session, || format!("worker {id} has a session of the future"))?;
            self.check_slots(worker, &mut tokens)?;
            if worker.offline.is_none() {
                ensure(living.insert(&worker.name), || format!("two living workers are named {:?}", worker.name))?;
                continue;
            }
            let idle = worker.open.is_empty() && !worker.connected && worker.drain_at_ms.is_none();
            ensure(idle, || format!("worker {id} is offline and holds something"))?;
        }
        Ok(())
    }

    fn check_slots(&self, worker: &Worker, tokens: &mut BTreeSet<Token>) -> Result<(), Violation> {
        for (&token, slot) in &worker.open {
            ensure(token.0 <= self.head.last_token, || format!("token {token} was never given out"))?;
            ensure(tokens.insert(token), || format!("token {token} is held twice"))?;
            let open = self.tasks.get(slot.task).and_then(Task::open).is_some_and(|open| open.token == token);
            ensure(open != (slot.wish == Wish::Stop), || format!("token {token}: {:?}, open: {open}", slot.wish))?;
        }
        Ok(())
    }

    /// Who is held is silent and not lost; who counts as lost is; nobody is held but by the brake.
    fn check_brake(&self) -> Result<(), Violation> {
        ensure(self.brake.engaged.is_some() || self.brake.held.is_empty(), || "held without a brake".into())?;
        for &id in &self.brake.held {
            let silent = self.registry.get(id).is_some_and(|worker| worker.offline.is_none() && !worker.connected);
            ensure(silent, || format!("worker {id} is held and is not silent"))?;
        }
        for &id in self.brake.lost.keys() {
            let lost = self.registry.get(id).is_some_and(|worker| worker.offline.is_some());
            ensure(lost, || format!("worker {id} counts as lost and is not"))?;
        }
        Ok(())
    }

    /// Every finished task is in the order of retention, once; times do not fall.
    fn check_finished(&self) -> Result<(), Violation> {
        let (mut seen, mut before_ms) = (BTreeSet::new(), 0);
        for finished in self.finished.iter() {
            let id = finished.task;
            ensure(seen.insert(id), || format!("task {id} finished twice"))?;
            let is_finished = self.tasks.get(id).is_some_and(|task| task.facts.state.is_finished());
            ensure(is_finished, || format!("task {id} counts as finished and is not"))?;
            ensure(before_ms <= finished.at_ms, || format!("task {id} finished before its predecessor"))?;
            before_ms = finished.at_ms;
        }
        let counts = &self.counts;
        let kept = counts.succeeded + counts.failed + counts.cancelled;
        ensure(kept == seen.len() as u64, || format!("{kept} finished tasks, {} in order", seen.len()))
    }

    /// Plan, timers and counts equal those that the tables give.
    fn check_derived(&self) -> Result<(), Violation> {
        let (mut plan, mut timers) = (Plan::default(), Timers::default());
        let mut counts = TaskCounts { submitted_total: self.head.last_task, ..TaskCounts::default() };
        counts.finished_total = self.head.finished_total;
        for worker in self.registry.iter() {
            plan.rematch(worker);
            worker_timers(worker, &self.head.limits).for_each(|(at_ms, due)| timers.set(at_ms, due));
        }
        for (id, task) in self.tasks.iter() {
            *state_count(&mut counts, task.facts.state) += 1;
            if task.facts.state.is_finished() {
                continue;
            }
            task_timers(id, task).for_each(|(at_ms, due)| timers.set(at_ms, due));
            let class = plan.enter(&task.spec, 1, &self.registry);
            if task.facts.state == TaskState::Pending {
                plan.push(class, task.spec.priority, id, id);
            }
        }
        ensure(counts == self.counts, || format!("counts are {:?}, should be {counts:?}", self.counts))?;
        ensure(timers == self.timers, || format!("timers are {:?}, should be {timers:?}", self.timers))?;
        let (is, should) = (self.plan.canonical(), plan.canonical());
        ensure(is == should, || format!("the plan is {is:?}, should be {should:?}"))
    }
}

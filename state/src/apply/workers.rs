//! The life of a worker: sessions, verdicts, and what operators want of it.
//!
//! What always holds: a session's command is heard only from the incarnation and session that it names, so that a late
//! verdict on an old session harms no newer one.

use std::collections::BTreeSet;

use crate::command::{OpenSession, WorkerMode, WorkerRef};
use crate::effect::{Effect, Event, Rejection, Reply, Run, SessionOpened, WorkerChange};
use crate::ids::{Token, WorkerId};
use crate::limits::Limits;
use crate::registry::{Offered, Offline, Overrides, Slot, Wish, Worker};
use crate::state::worker_timers;
use crate::task::{Outcome, TaskState};
use crate::timers::Due;
use crate::worker::{Labels, OfflineReason};

use super::tasks::ending;
use super::{Answer, Step, check};

impl Step<'_> {
    /// Changes a worker and remembers that plan and load have to look at it.
    pub(super) fn change_worker(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.state.registry.get_mut(id) {
            change(worker);
            self.touched.insert(id);
        }
    }

    fn tell(&mut self, worker: WorkerId, change: WorkerChange) {
        self.events.push(Event::WorkerChanged { worker, change });
    }

    fn find(&self, worker: &WorkerRef) -> Result<WorkerId, Rejection> {
        self.state.registry.find(worker).ok_or_else(|| {
            Rejection::WorkerNotFound(match worker {
                WorkerRef::Id(id) => id.to_string(),
                WorkerRef::Name(name) => format!("{name:?}"),
            })
        })
    }

    /// One that is not offline.
    fn find_living(&self, worker: &WorkerRef) -> Result<WorkerId, Rejection> {
        let id = self.find(worker)?;
        match self.state.registry.get(id).and_then(|worker| worker.offline) {
            Some(_) => Err(Rejection::Precondition(format!("worker {id} is offline"))),
            None => Ok(id),
        }
    }

    // -- sessions

    pub(super) fn open_session(&mut self, ask: &OpenSession) -> Answer {
        let known = self.state.registry.by_uid(&ask.uid);
        check::session(ask, known.is_some(), &self.state.head.limits)?;
        if let Some(holder) = self.state.registry.living(&ask.name).filter(|holder| Some(*holder) != known) {
            return Err(Rejection::DuplicateWorker { name: ask.name.clone(), holder });
        }
        let id = match known {
            Some(id) => self.resume(id, ask)?,
            None => self.register(ask)?,
        };
        let drop = self.not_open(id, &ask.held);
        let limits = &self.state.head.limits;
        let Some(worker) = self.state.registry.get(id) else { return Ok(Reply::Done) };
        let opened = SessionOpened { worker: id, session: worker.session, drop, config: worker.config(limits) };
        Ok(Reply::SessionOpened(opened))
    }

    fn register(&mut self, ask: &OpenSession) -> Result<WorkerId, Rejection> {
        let (have, limit) = (self.state.registry.len() as u64, self.state.head.limits.workers_max);
        if have >= limit {
            return Err(Rejection::LimitExceeded { what: "workers_max".into(), asked: 1, have, limit });
        }
        self.state.head.last_worker += 1;
        let id = WorkerId(self.state.head.last_worker);
        #[cfg(feature = "seeded-bugs")]
        let id = self.recycle_id(id);
        let worker = new_worker(id, ask, self.stamp.wall_ms);
        self.state.registry.insert(worker);
        self.connect(id, ask);
        self.tell(id, WorkerChange::Registered { name: ask.name.clone(), incarnation: ask.incarnation });
        Ok(id)
    }

    /// The id of a worker that is gone, or `fresh`.
    #[cfg(feature = "seeded-bugs")]
    fn recycle_id(&mut self, fresh: WorkerId) -> WorkerId {
        let gone = self.state.registry.iter().find(|worker| worker.offline.is_some()).map(|worker| worker.id);
        match gone.filter(|_| steersman_bugs::planted("reuse-worker-id")) {
            Some(gone) => {
                self.clear_timers(gone);
                self.forget_worker(gone);
                gone
            }
            None => fresh,
        }
    }

    fn resume(&mut self, id: WorkerId, ask: &OpenSession) -> Result<WorkerId, Rejection> {
        let Some(worker) = self.state.registry.get(id) else {
            return Err(Rejection::WorkerNotFound(id.to_string()));
        };
        let (known, offline) = (worker.incarnation, worker.offline);
        if ask.incarnation < known {
            return Err(Rejection::StaleIncarnation { worker: id, known, given: ask.incarnation });
        }
        let new_process = ask.incarnation > known;
        let opened = worker.opening;
        if !new_process && (1..=opened).contains(&ask.opening) {
            let message = format!("worker {id} has opened session {opened} since; Hello {} is late", ask.opening);
            return Err(Rejection::Precondition(message));
        }
        if offline.is_some() {
            self.clear_timers(id);
            self.change_worker(id, |worker| worker.offline = None);
        }
        if new_process {
            self.forget_process(id);
        }
        self.state.registry.rename(id, &ask.name);
        self.connect(id, ask);
        self.reconcile(id, ask, new_process);
        self.spoke(id);
        self.tell(
            id,
            match new_process || offline.is_some() {
                true => WorkerChange::Registered { name: ask.name.clone(), incarnation: ask.incarnation },
                false => WorkerChange::Resumed,
            },
        );
        Ok(id)
    }

    /// What operators asked of a process ends with it. Maintenance is asked of the worker.
    fn forget_process(&mut self, id: WorkerId) {
        self.clear_timers(id);
        self.change_worker(id, |worker| {
            worker.shutdown = None;
            if worker.mode == WorkerMode::Drain {
                worker.mode = WorkerMode::Active;
            }
            if worker.mode == WorkerMode::Active {
                worker.drain_at_ms = None;
            }
        });
        self.set_timers(id);
    }

    /// Takes over what the worker says of itself.
    fn connect(&mut self, id: WorkerId, ask: &OpenSession) {
        self.state.head.last_session += 1;
        let (session, limits) = (self.state.head.last_session, &self.state.head.limits);
        let offered = offered(ask, limits);
        let Some(worker) = self.state.registry.get_mut(id) else { return };
        let before = worker.config(limits);
        worker.session = session;
        worker.connected = true;
        worker.offline = None;
        worker.incarnation = ask.incarnation;
        worker.opening = ask.opening;
        worker.host.clone_from(&ask.host);
        worker.port = ask.port;
        worker.version.clone_from(&ask.version);
        worker.resources.clone_from(&ask.resources);
        worker.offered = offered;
        worker.derive();
        if worker.config(limits) != before {
            worker.config_version += 1;
        }
        self.state.plan.rematch(worker);
        self.touched.insert(id);
    }

    /// Compares what the registry says that a worker holds with what it says itself.
    fn reconcile(&mut self, id: WorkerId, ask: &OpenSession, new_process: bool) {
        let held: BTreeSet<Token> = ask.held.iter().copied().collect();
        let open = self.state.registry.get(id).map(|worker| worker.open.clone()).unwrap_or_default();
        for (token, slot) in open {
            let unsent = self.state.task_state(slot.task) == Some(TaskState::Scheduled);
            match held.contains(&token) {
                true if slot.wish != Wish::Run => self.effects.push(Effect::CancelRun { worker: id, token }),
                true => {}
                false if slot.wish == Wish::Stop => self.change_worker(id, |worker| drop(worker.free(token))),
                false if unsent && !new_process && slot.wish == Wish::Run => {
                    self.effects.extend(self.state.start_run(id, token, &slot))
                }
                false => self.attempt_gone(id, token, &slot, Outcome::WorkerLost, "the worker came back without it"),
            }
        }
        if let Some(now) = self.state.registry.get(id).and_then(|worker| worker.shutdown) {
            self.effects.push(Effect::ShutdownWorker { worker: id, now });
        }
    }

    /// A slot is free because its attempt is no more.
    fn attempt_gone(&mut self, worker: WorkerId, token: Token, slot: &Slot, outcome: Outcome, message: &str) {
        self.change_worker(worker, |worker| drop(worker.free(token)));
        if slot.wish != Wish::Stop {
            self.end_attempt(slot.task, &ending(outcome, message));
        }
    }

    /// Held attempts that the cluster does not know of.
    fn not_open(&self, id: WorkerId, held: &[Token]) -> Vec<Token> {
        let Some(worker) = self.state.registry.get(id) else { return held.to_vec() };
        let mut drop: Vec<_> = held.iter().copied().filter(|token| !worker.open.contains_key(token)).collect();
        drop.sort_unstable();
        drop.dedup();
        drop
    }

    pub(super) fn close_session(&mut self, id: WorkerId, incarnation: u64, session: u64) -> Answer {
        let worker = self.find(&WorkerRef::Id(id))?;
        let Some(worker) = self.state.registry.get(worker) else { return Ok(Reply::Done) };
        if worker.connected && (worker.incarnation, worker.session) == (incarnation, session) {
            self.change_worker(id, |worker| worker.connected = false);
            self.tell(id, WorkerChange::Disconnected);
        }
        Ok(Reply::Done)
    }

    // -- verdicts

    pub(super) fn worker_lost(&mut self, id: WorkerId, incarnation: u64, session: u64) -> Answer {
        self.find(&WorkerRef::Id(id))?;
        let meant = |worker: &&Worker| (worker.incarnation, worker.session) == (incarnation, session);
        if self.state.registry.get(id).filter(meant).is_some_and(|worker| worker.offline.is_none()) {
            self.silent(id);
        }
        Ok(Reply::Done)
    }

    pub(super) fn worker_left(&mut self, id: WorkerId, incarnation: u64) -> Answer {
        self.find(&WorkerRef::Id(id))?;
        let Some(worker) = self.state.registry.get(id) else { return Ok(Reply::Done) };
        if incarnation < worker.incarnation {
            let known = worker.incarnation;
            return Err(Rejection::StaleIncarnation { worker: id, known, given: incarnation });
        }
        if worker.offline.is_none() && worker.incarnation == incarnation {
            self.take_offline(id, OfflineReason::Left, Outcome::WorkerShutdown, "the worker left");
            self.gone(id);
        }
        Ok(Reply::Done)
    }

    pub(super) fn evict(&mut self, worker: &WorkerRef) -> Answer {
        let id = self.find_living(worker)?;
        self.take_offline(id, OfflineReason::Evicted, Outcome::WorkerLost, "the worker was evicted");
        self.gone(id);
        Ok(Reply::Worker(id))
    }

    pub(super) fn take_offline(&mut self, id: WorkerId, reason: OfflineReason, outcome: Outcome, message: &str) {
        let open = self.state.registry.get(id).map(|worker| worker.open.clone()).unwrap_or_default();
        self.clear_timers(id);
        let since_ms = self.stamp.time_ms;
        self.change_worker(id, |worker| {
            worker.connected = false;
            worker.shutdown = None;
            worker.drain_at_ms = None;
            worker.load = crate::effect::LoadLevel::Normal;
            worker.load_next = None;
            worker.offline = Some(Offline { reason, since_ms });
        });
        self.set_timers(id);
        self.tell(id, WorkerChange::Offline(reason));
        for (token, slot) in open {
            self.attempt_gone(id, token, &slot, outcome, message);
        }
        self.effects.push(Effect::EndSession { worker: id, reason });
    }

    /// An offline worker has been kept long enough.
    pub(super) fn forget_worker(&mut self, id: WorkerId) {
        if self.state.registry.get(id).is_some_and(|worker| worker.offline.is_some()) {
            self.state.registry.remove(id);
            self.state.brake.lost.remove(&id);
            self.state.plan.forget_worker(id);
        }
    }

    // -- what operators want

    pub(super) fn set_mode(&mut self, worker: &WorkerRef, mode: WorkerMode, deadline_ms: u64) -> Answer {
        let id = self.find(worker)?;
        let Some(worker) = self.state.registry.get(id) else { return Ok(Reply::Done) };
        let timed = mode != WorkerMode::Active && deadline_ms > 0 && worker.offline.is_none();
        let drain_at_ms = timed.then(|| self.stamp.time_ms.saturating_add(deadline_ms));
        let changed = worker.mode != mode;
        self.clear_timers(id);
        self.change_worker(id, |worker| (worker.mode, worker.drain_at_ms) = (mode, drain_at_ms));
        self.set_timers(id);
        if changed {
            self.tell(id, WorkerChange::Mode(mode));
        }
        Ok(Reply::Worker(id))
    }

    /// A drain deadline has passed: what still runs is given back.
    pub(super) fn drain_over(&mut self, id: WorkerId) {
        self.change_worker(id, |worker| worker.drain_at_ms = None);
        let Some(worker) = self.state.registry.get(id) else { return };
        let running = worker.open.iter().filter(|(_, slot)| slot.wish == Wish::Run);
        let running: Vec<_> = running.map(|(token, slot)| (*token, slot.task)).collect();
        running.into_iter().for_each(|(token, task)| self.take_back(id, token, task));
    }

    pub(super) fn set_config(
        &mut self,
        worker: &WorkerRef,
        capacity: Option<u32>,
        heartbeat_ms: Option<u32>,
        set_labels: &Labels,
        remove_labels: &[String],
    ) -> Answer {
        let id = self.find(worker)?;
        capacity.map_or(Ok(()), |capacity| check::capacity(capacity, &self.state.head.limits))?;
        heartbeat_ms.map_or(Ok(()), check::heartbeat)?;
        check::set_labels(set_labels)?;
        let Some(worker) = self.state.registry.get(id) else { return Ok(Reply::Done) };
        let mut set = worker.set.clone();
        set.capacity = capacity.or(set.capacity);
        set.heartbeat_ms = heartbeat_ms.or(set.heartbeat_ms);
        set.labels.extend(remove_labels.iter().map(|key| (key.clone(), None)));
        set.labels.extend(set_labels.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        if set.labels.len() > 2 * check::LABELS_MAX {
            return Err(check::invalid("set_labels", format!("more than {} changed labels", 2 * check::LABELS_MAX)));
        }
        self.take_config(id, set);
        Ok(Reply::Worker(id))
    }

    fn take_config(&mut self, id: WorkerId, set: Overrides) {
        let Some(worker) = self.state.registry.get_mut(id) else { return };
        let before = worker.config(&self.state.head.limits);
        worker.set = set;
        worker.derive();
        if worker.config(&self.state.head.limits) == before {
            return;
        }
        worker.config_version += 1;
        self.state.plan.rematch(worker);
        self.touched.insert(id);
        self.tell(id, WorkerChange::Config);
        self.push_config(id);
    }

    fn push_config(&mut self, id: WorkerId) {
        if let Some(worker) = self.state.registry.get(id).filter(|worker| worker.offline.is_none()) {
            let config = worker.config(&self.state.head.limits);
            self.effects.push(Effect::PushConfig { worker: id, config });
        }
    }

    pub(super) fn shutdown(&mut self, worker: &WorkerRef, now: bool) -> Answer {
        let id = self.find_living(worker)?;
        self.change_worker(id, |worker| worker.shutdown = Some(now || worker.shutdown == Some(true)));
        self.effects.push(Effect::ShutdownWorker { worker: id, now });
        Ok(Reply::Worker(id))
    }

    // -- limits changed

    /// The lease of every worker may have changed with the limits.
    pub(super) fn push_leases(&mut self, old: &Limits) {
        for id in self.state.registry.ids() {
            let Some(worker) = self.state.registry.get(id) else { continue };
            if worker.lease_ms(old) != worker.lease_ms(&self.state.head.limits) {
                self.change_worker(id, |worker| worker.config_version += 1);
                self.tell(id, WorkerChange::Config);
                self.push_config(id);
            }
        }
    }

    /// Offline workers are kept for another time from now on.
    pub(super) fn reset_forget_timers(&mut self, old_kept_ms: u64) {
        let kept_ms = self.state.head.limits.workers_offline_kept_ms;
        for worker in self.state.registry.iter() {
            let Some(offline) = worker.offline else { continue };
            self.state.timers.clear(offline.since_ms.saturating_add(old_kept_ms), Due::Forget(worker.id));
            self.state.timers.set(offline.since_ms.saturating_add(kept_ms), Due::Forget(worker.id));
        }
    }

    fn clear_timers(&mut self, id: WorkerId) {
        if let Some(worker) = self.state.registry.get(id) {
            let timers = worker_timers(worker, &self.state.head.limits);
            timers.for_each(|(at_ms, due)| self.state.timers.clear(at_ms, due));
        }
    }

    fn set_timers(&mut self, id: WorkerId) {
        if let Some(worker) = self.state.registry.get(id) {
            let timers = worker_timers(worker, &self.state.head.limits);
            timers.for_each(|(at_ms, due)| self.state.timers.set(at_ms, due));
        }
    }
}

impl crate::State {
    /// The effect that sends an attempt to its worker.
    pub(crate) fn start_run(&self, worker: WorkerId, token: Token, slot: &Slot) -> Option<Effect> {
        let task = self.tasks.get(slot.task)?;
        let attempt = task.open().filter(|open| open.token == token)?.number;
        let (array_index, spec) = (task.facts.array_index, task.spec.clone());
        Some(Effect::StartRun(Run { worker, task: slot.task, token, attempt, array_index, spec }))
    }
}

/// One that is known is clamped: it may hold work, and limits may have shrunk since it registered.
fn offered(ask: &OpenSession, limits: &Limits) -> Offered {
    let (low, high) = check::HEARTBEAT_MS.into_inner();
    Offered {
        capacity: ask.capacity.clamp(1, limits.capacity_max.max(1)),
        heartbeat_ms: ask.heartbeat_ms.clamp(low, high),
        labels: ask.labels.clone(),
    }
}

fn new_worker(id: WorkerId, ask: &OpenSession, registered_ms: u64) -> Worker {
    Worker {
        id,
        name: ask.name.clone(),
        uid: ask.uid,
        incarnation: ask.incarnation,
        opening: 0,
        session: 0,
        connected: false,
        host: String::new(),
        port: 0,
        version: String::new(),
        registered_ms,
        offered: Offered { capacity: 0, heartbeat_ms: 0, labels: Labels::new() },
        set: Overrides::default(),
        config_version: 0,
        resources: Default::default(),
        mode: WorkerMode::Active,
        drain_at_ms: None,
        shutdown: None,
        offline: None,
        load: crate::effect::LoadLevel::Normal,
        load_next: None,
        open: Default::default(),
        resources_used: Default::default(),
        labels: Labels::new(),
    }
}

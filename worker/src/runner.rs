//! The runner: which attempts are here, what is asked of them, what is reported of them.
//!
//! One task owns all of it; the session and the executors only send it messages, and it handles them in batches. What always
//! holds:
//! - a token runs at most once in this process: repeated assignments are recognised while it waits, runs, is unreported, and
//!   for a long while after;
//! - every assignment ends in exactly one report, unless the cluster dropped the attempt;
//! - no more than `capacity` attempts run; what is above (a slot whose old attempt is still being killed) waits its turn;
//! - attempts that stop on a partition neither start nor go on once the lease has ended.
//!
//! Nothing here is O(attempts) per event, waits, or touches a disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use steersman_proto::v1::{Outcome, RunningAttempt, task_spec::Work};
use steersman_proto::worker::v1::{
    AssignTasks, Ended, HealthReply, Reports as WireReports, ReportsAck, WorkerMessage, worker_message::Kind,
};
use steersman_world::Clock;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::executors::{Event, Executor, Held, Kill, Run, ended};
use crate::facts::Facts;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::reports::Reports;

/// A start is reported only if the attempt still runs after this: a short task costs one report.
pub const STARTED_AFTER: Duration = Duration::from_millis(20);
/// While ends wait to be read, what looks unfinished may be over: only this much later it is surely not short.
const STARTED_AFTER_BUSY: Duration = Duration::from_millis(500);
/// Assignments that may wait for a slot. The master assigns no more than the capacity, so this is far above need.
const WAITING_MAX: usize = 100_000;
/// Tokens remembered after their end was acknowledged, against late repetitions of their assignment.
const PAST_MAX: usize = 65_536;
/// After a shutdown's deadline: how long, beyond the grace, for the killed to end and their reports to be acknowledged.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// What the session sends.
pub(crate) enum Input {
    /// Asked before a session: every token that is held.
    Hold(oneshot::Sender<Vec<u64>>),
    /// A session is open.
    Welcome { outlet: Outlet, capacity: u32, drop_tokens: Vec<u64> },
    /// That session is closed.
    Closed { session: u64 },
    /// New attempts.
    Assign(AssignTasks),
    /// Ends attempts.
    Cancel(Vec<u64>),
    /// Reports were committed.
    Acknowledged(ReportsAck),
    /// Slots.
    Capacity(u32),
    /// Answers with what runs.
    Health { nonce: u64, reply: mpsc::Sender<WorkerMessage> },
    /// Ends when all is done or the time is over.
    Drain { deadline: Option<Duration> },
    /// Ends everything.
    Stop,
}

/// The way out of an open session.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    /// Which session.
    pub session: u64,
    /// Bounded: while it is full, reports gather here and go out in larger messages.
    pub bulk: mpsc::Sender<WorkerMessage>,
}

/// What executes.
#[derive(Clone)]
pub(crate) struct Executors {
    /// Named handlers.
    pub handlers: Arc<dyn Executor>,
    /// Commands; absent in a worker that runs only handlers.
    pub processes: Option<Arc<dyn Executor>>,
}

/// What the runner is given at birth.
pub(crate) struct Settings {
    pub clock: Arc<dyn Clock>,
    pub executors: Executors,
    pub lease: Arc<Lease>,
    pub metrics: Arc<Metrics>,
    pub facts: Arc<dyn Facts>,
    pub capacity: u32,
    pub kill_grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind_ {
    Handler,
    Process,
}

#[derive(Debug)]
struct Attempt {
    task_id: u64,
    kind: Kind_,
    /// Present while it waits for a slot.
    waiting: Option<Run>,
    since: Instant,
    pid: i32,
    /// The cluster no longer wants it: its end is not reported.
    dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { until: Option<Instant> },
    Stopping { give_up: Instant },
}

/// See the module.
pub(crate) struct Runner {
    /// When this process began.
    began: Instant,
    settings: Settings,
    attempts: BTreeMap<u64, Attempt>,
    waiting: VecDeque<u64>,
    running: usize,
    /// Running attempts that stop on a partition and are not yet being killed.
    stops: BTreeSet<u64>,
    /// Running for less than [`STARTED_AFTER`], oldest first.
    fresh: VecDeque<(Instant, u64)>,
    reports: Reports,
    /// Ends that the process executor must be told to forget once acknowledged.
    process_ends: BTreeSet<u64>,
    past: BTreeSet<u64>,
    past_order: VecDeque<u64>,
    outlet: Option<Outlet>,
    capacity: usize,
    phase: Phase,
}

// ---- birth and loop -------------------------------------------------------------------------------------------------

impl Runner {
    /// With the attempts that executors already hold.
    pub fn new(settings: Settings, held: Vec<Held>) -> Self {
        let mut runner = Self {
            capacity: settings.capacity as usize,
            began: settings.clock.now(),
            settings,
            attempts: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: 0,
            stops: BTreeSet::new(),
            fresh: VecDeque::new(),
            reports: Reports::default(),
            process_ends: BTreeSet::new(),
            past: BTreeSet::new(),
            past_order: VecDeque::new(),
            outlet: None,
            phase: Phase::Serving,
        };
        held.into_iter().for_each(|held| runner.adopt(held));
        runner
    }

    fn adopt(&mut self, held: Held) {
        if let Some(ended) = held.ended {
            self.process_ends.insert(held.token);
            self.reports.ended(held.token, held.task_id, ended);
            return;
        }
        let now = self.settings.clock.now();
        let since = now.checked_sub(held.ran).unwrap_or(now);
        self.running += 1;
        if held.stops_on_partition {
            self.stops.insert(held.token);
        }
        self.fresh.push_back((now, held.token));
        let attempt = Attempt {
            task_id: held.task_id,
            kind: Kind_::Process,
            waiting: None,
            since,
            pid: held.pid,
            dropped: false,
        };
        self.attempts.insert(held.token, attempt);
    }

    /// Runs until a shutdown is complete. Returns true if nothing was left behind.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut events: mpsc::UnboundedReceiver<Event>) -> bool {
        let (mut inputs_in, mut events_in) = (Vec::with_capacity(64), Vec::with_capacity(1_024));
        loop {
            let now = self.settings.clock.now();
            self.on_time(now, events.is_empty());
            self.send_reports(now);
            self.publish();
            if let Some(clean) = self.finished(now) {
                return self.goodbye(clean).await;
            }
            let wake = self.next_wake().unwrap_or(now + Duration::from_secs(3_600));
            tokio::select! {
                n = inputs.recv_many(&mut inputs_in, 64) => if n == 0 { return false },
                _ = events.recv_many(&mut events_in, 1_024) => {}
                () = tokio::time::sleep_until(wake) => {}
                () = room(self.outlet.as_ref()), if self.reports.wants_to_send() => {}
            }
            let now = self.settings.clock.now();
            events_in.drain(..).for_each(|event| self.on_event(event));
            inputs_in.drain(..).for_each(|input| self.on_input(input, now));
            self.start_waiting(now);
        }
    }

    async fn goodbye(self, clean: bool) -> bool {
        if let Some(outlet) = &self.outlet {
            let reason = if clean { "shutdown: nothing is left here" } else { "shutdown: the deadline has passed" };
            let goodbye = steersman_proto::worker::v1::Goodbye { reason: reason.into() };
            let sending = outlet.bulk.send(WorkerMessage { kind: Some(Kind::Goodbye(goodbye)) });
            let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
        }
        clean
    }

    fn publish(&self) {
        let metrics = &self.settings.metrics;
        metrics.running.set(self.running as i64);
        metrics.waiting.set(self.waiting.len() as i64);
        metrics.unacknowledged.set(self.reports.ended_len() as i64);
        metrics.capacity.set(self.capacity as i64);
    }
}

/// Ready when the session takes another message; never without a session.
async fn room(outlet: Option<&Outlet>) {
    match outlet {
        Some(outlet) if !outlet.bulk.is_closed() => drop(outlet.bulk.reserve().await),
        _ => std::future::pending().await,
    }
}

// ---- time -----------------------------------------------------------------------------------------------------------

impl Runner {
    fn on_time(&mut self, now: Instant, caught_up: bool) {
        self.report_starts(now, if caught_up { STARTED_AFTER } else { STARTED_AFTER_BUSY });
        self.reports.resend_due(now);
        self.obey_lease(now);
        if let Phase::Draining { until: Some(until) } = self.phase
            && until <= now
        {
            tracing::warn!(running = self.running, "the drain deadline has passed: what still runs is killed");
            self.stop_all(now);
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let fresh = self.fresh.front().map(|(since, _)| *since + STARTED_AFTER);
        let lease = if self.stops.is_empty() { None } else { self.settings.lease.deadline() };
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Draining { until } => until,
            Phase::Stopping { give_up } => Some(give_up),
        };
        [fresh, lease, phase, self.reports.next_due()].into_iter().flatten().min()
    }

    fn report_starts(&mut self, now: Instant, after: Duration) {
        while let Some(&(since, token)) = self.fresh.front() {
            if since + after > now {
                break;
            }
            self.fresh.pop_front();
            if let Some(attempt) = self.attempts.get(&token).filter(|attempt| !attempt.dropped) {
                self.reports.started(token, attempt.task_id);
            }
        }
    }

    /// P9: cut off for as long as the lease lasts means that the master may start these attempts elsewhere.
    fn obey_lease(&mut self, now: Instant) {
        // A lease that never began: attempts of an earlier process, whose lease the keeper knows and obeys.
        if self.stops.is_empty() || self.settings.lease.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("partition-stop-ignored") {
            return self.stops.clear();
        }
        let stops = std::mem::take(&mut self.stops);
        tracing::warn!(attempts = stops.len(), "cut off from the masters: attempts with on_partition=stop are killed");
        for token in stops {
            self.settings.metrics.partition_stops.inc();
            self.kill(token, Kill { outcome: Outcome::PartitionStop, hard: true });
        }
    }

    /// `Some(clean)` once a shutdown is complete.
    fn finished(&self, now: Instant) -> Option<bool> {
        let settled = self.attempts.is_empty() && self.reports.ended_len() == 0;
        match self.phase {
            Phase::Serving => None,
            Phase::Draining { .. } => settled.then_some(true),
            Phase::Stopping { give_up } => (settled || give_up <= now).then_some(settled),
        }
    }
}

// ---- the session ----------------------------------------------------------------------------------------------------

impl Runner {
    fn on_input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Hold(reply) => {
                let held: BTreeSet<u64> = self.attempts.keys().copied().chain(self.reports.ended_tokens()).collect();
                let _ = reply.send(held.into_iter().collect());
            }
            Input::Welcome { outlet, capacity, drop_tokens } => self.on_welcome(outlet, capacity, &drop_tokens),
            Input::Closed { session } => self.outlet = self.outlet.take().filter(|outlet| outlet.session != session),
            Input::Assign(assign) => self.on_assign(assign, now),
            Input::Cancel(tokens) => tokens.into_iter().for_each(|token| self.on_cancel(token)),
            Input::Acknowledged(ack) => self.on_acknowledged(&ack),
            Input::Capacity(capacity) => self.capacity = capacity as usize,
            Input::Health { nonce, reply } => self.on_health(nonce, &reply, now),
            Input::Drain { deadline } => self.on_drain(deadline, now),
            Input::Stop => self.stop_all(now),
        }
    }

    fn on_welcome(&mut self, outlet: Outlet, capacity: u32, drop_tokens: &[u64]) {
        self.outlet = Some(outlet);
        self.capacity = capacity as usize;
        drop_tokens.iter().for_each(|token| self.drop_attempt(*token));
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("reports-die-with-session") {
            self.reports = Reports::default();
        }
        self.reports.resend_all();
    }

    fn drop_attempt(&mut self, token: u64) {
        if self.reports.forget(token) {
            self.settle(&[token]);
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        tracing::info!(token, task = attempt.task_id, "the cluster no longer wants this attempt: it is killed");
        attempt.dropped = true;
        if attempt.waiting.is_some() {
            self.attempts.remove(&token);
            self.remember_past(token);
        } else {
            self.kill(token, Kill { outcome: Outcome::Cancelled, hard: true });
        }
    }

    fn on_assign(&mut self, assign: AssignTasks, now: Instant) {
        let specs: Vec<_> = assign.specs.into_iter().map(Arc::new).collect();
        for one in assign.assignments {
            self.settings.metrics.assigned.inc();
            let Some(spec) = specs.get(one.spec as usize).cloned() else {
                tracing::error!(token = one.token, "an assignment without its spec is ignored");
                continue;
            };
            let kill_grace = match spec.kill_grace_ms {
                0 => self.settings.kill_grace,
                ms => Duration::from_millis(ms),
            };
            let (token, task_id, array_index) = (one.token, one.task_id, one.array_index);
            self.assign(Run { token, task_id, attempt: one.attempt, array_index, spec, kill_grace }, now);
        }
    }

    fn assign(&mut self, run: Run, now: Instant) {
        let token = run.token;
        if self.attempts.contains_key(&token) || self.past.contains(&token) || self.reports.has_end(token) {
            self.settings.metrics.assigned_again.inc();
            self.reports.resend(token);
            return;
        }
        if let Some(refusal) = self.refusal() {
            self.settings.metrics.refused.inc();
            self.reports.ended(token, run.task_id, refusal);
            return;
        }
        let kind = if matches!(run.spec.work, Some(Work::Command(_))) { Kind_::Process } else { Kind_::Handler };
        let attempt = Attempt { task_id: run.task_id, kind, waiting: Some(run), since: now, pid: 0, dropped: false };
        self.attempts.insert(token, attempt);
        self.waiting.push_back(token);
    }

    fn refusal(&self) -> Option<Ended> {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return Some(ended(Outcome::WorkerShutdown, 0, "the worker is shutting down"));
        }
        if self.waiting.len() >= WAITING_MAX {
            tracing::error!(waiting = self.waiting.len(), "far more was assigned than this worker has slots for");
            return Some(ended(Outcome::WorkerLost, 0, "the worker's queue is full"));
        }
        None
    }

    fn on_cancel(&mut self, token: u64) {
        let Some(attempt) = self.attempts.get(&token) else {
            // Ended, or never here: the answer is the kept end, or an echo that frees the master from asking again.
            self.reports.resend(token);
            if !self.reports.has_end(token) && !self.past.contains(&token) {
                self.reports.ended(token, 0, ended(Outcome::Cancelled, 0, "it was not here"));
            }
            return;
        };
        if attempt.waiting.is_some() {
            self.end_waiting(token, ended(Outcome::Cancelled, 0, "before it was started"));
        } else {
            self.kill(token, Kill { outcome: Outcome::Cancelled, hard: false });
        }
    }

    fn end_waiting(&mut self, token: u64, ended: Ended) {
        if let Some(attempt) = self.attempts.remove(&token) {
            self.settings.metrics.count_end(ended.outcome());
            self.reports.ended(token, attempt.task_id, ended);
        }
    }

    fn on_acknowledged(&mut self, ack: &ReportsAck) {
        ack.started_tokens.iter().for_each(|token| self.reports.acknowledge_start(*token));
        let known: Vec<u64> = ack.tokens.iter().copied().filter(|token| self.reports.acknowledge_end(*token)).collect();
        self.settle(&known);
    }

    /// These ends need not be kept any more.
    fn settle(&mut self, tokens: &[u64]) {
        tokens.iter().for_each(|token| self.remember_past(*token));
        if self.process_ends.is_empty() {
            return;
        }
        let forget: Vec<u64> = tokens.iter().copied().filter(|token| self.process_ends.remove(token)).collect();
        if let Some(processes) = self.settings.executors.processes.as_ref().filter(|_| !forget.is_empty()) {
            processes.forget(&forget);
        }
    }

    fn remember_past(&mut self, token: u64) {
        self.past.insert(token);
        self.past_order.push_back(token);
        if self.past_order.len() > PAST_MAX
            && let Some(oldest) = self.past_order.pop_front()
        {
            self.past.remove(&oldest);
        }
    }

    fn on_health(&self, nonce: u64, reply: &mpsc::Sender<WorkerMessage>, now: Instant) {
        let running = self.attempts.iter().filter(|(_, attempt)| attempt.waiting.is_none());
        let running = running.map(|(token, attempt)| RunningAttempt {
            task_id: attempt.task_id,
            token: *token,
            running_ms: now.saturating_duration_since(attempt.since).as_millis() as u64,
            pid: attempt.pid,
        });
        let mut load = self.settings.facts.load();
        load.running = self.running as u32;
        load.uptime_ms = now.saturating_duration_since(self.began).as_millis() as u64;
        load.reports_unacknowledged = self.reports.ended_len() as u64;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let health = HealthReply { nonce, load: Some(load), running: running.collect(), version };
        // A full lane means that the session is stuck; the master asks again on the next one.
        let _ = reply.try_send(WorkerMessage { kind: Some(Kind::Health(health)) });
    }

    fn send_reports(&mut self, now: Instant) {
        let Some(outlet) = &self.outlet else { return };
        while self.reports.wants_to_send() {
            let Ok(permit) = outlet.bulk.try_reserve() else { return };
            let reports = self.reports.take(now);
            if reports.is_empty() {
                return;
            }
            self.settings.metrics.reports_sent.inc_by(reports.len() as u64);
            permit.send(WorkerMessage { kind: Some(Kind::Reports(WireReports { reports })) });
        }
    }
}

// ---- attempts -------------------------------------------------------------------------------------------------------

impl Runner {
    fn executor(&self, kind: Kind_) -> Option<&Arc<dyn Executor>> {
        match kind {
            Kind_::Handler => Some(&self.settings.executors.handlers),
            Kind_::Process => self.settings.executors.processes.as_ref(),
        }
    }

    fn start_waiting(&mut self, now: Instant) {
        while self.running < self.capacity {
            let Some(token) = self.waiting.pop_front() else { return };
            if let Some(run) = self.attempts.get_mut(&token).and_then(|attempt| attempt.waiting.take()) {
                self.start(run, now);
            }
        }
    }

    fn start(&mut self, run: Run, now: Instant) {
        let token = run.token;
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        attempt.since = now;
        let kind = attempt.kind;
        if run.stops_on_partition() && self.settings.lease.expired(now) {
            return self.end_waiting(token, ended(Outcome::PartitionStop, 0, "cut off before it was started"));
        }
        let Some(executor) = self.executor(kind) else {
            return self.end_waiting(token, ended(Outcome::CannotStart, 126, "this worker runs only handlers"));
        };
        let executor = executor.clone();
        self.running += 1;
        self.fresh.push_back((now, token));
        if run.stops_on_partition() {
            self.stops.insert(token);
        }
        executor.start(run);
    }

    fn kill(&mut self, token: u64, kill: Kill) {
        if kill.hard {
            self.stops.remove(&token);
        }
        if let Some(attempt) = self.attempts.get(&token)
            && let Some(executor) = self.executor(attempt.kind)
        {
            executor.kill(token, kill);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Spawned { token, pid } => {
                if let Some(attempt) = self.attempts.get_mut(&token) {
                    attempt.pid = pid;
                }
            }
            Event::Ended { token, ended } => self.on_ended(token, ended),
        }
    }

    fn on_ended(&mut self, token: u64, ended: Ended) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        self.running -= 1;
        self.stops.remove(&token);
        self.settings.metrics.count_end(ended.outcome());
        if attempt.kind == Kind_::Process {
            self.process_ends.insert(token);
        }
        if attempt.dropped {
            self.settle(&[token]);
        } else {
            self.reports.ended(token, attempt.task_id, ended);
        }
    }
}

// ---- shutdown -------------------------------------------------------------------------------------------------------

impl Runner {
    fn on_drain(&mut self, deadline: Option<Duration>, now: Instant) {
        let until = deadline.map(|deadline| now + deadline);
        match self.phase {
            Phase::Serving => {
                tracing::info!(running = self.running, "draining");
                self.phase = Phase::Draining { until };
            }
            // The earlier of two deadlines counts.
            Phase::Draining { until: old } => {
                let earliest = [old, until].into_iter().flatten().min();
                self.phase = Phase::Draining { until: earliest };
            }
            Phase::Stopping { .. } => {}
        }
    }

    fn stop_all(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.phase = Phase::Stopping { give_up: now + self.settings.kill_grace + GIVE_UP_AFTER };
        let tokens: Vec<(u64, bool)> =
            self.attempts.iter().map(|(token, attempt)| (*token, attempt.waiting.is_some())).collect();
        for (token, waiting) in tokens {
            if waiting {
                self.end_waiting(token, ended(Outcome::WorkerShutdown, 0, "before it was started"));
            } else {
                self.kill(token, Kill { outcome: Outcome::WorkerShutdown, hard: false });
            }
        }
    }
}

#[cfg(test)]
mod tests;

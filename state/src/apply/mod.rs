//! `apply`: one log entry at a time, commands in order, then what is due, then placement.
//!
//! What always holds: a command that is rejected has changed nothing; a batch of an older reign changes nothing at all;
//! nothing here depends on anything but the state and the entry.

mod brake;
mod check;
mod expiry;
mod reports;
mod tasks;
mod workers;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::command::{Batch, Command, Envelope, Stamp};
use crate::effect::{Applied, Effect, Event, Rejection, Reply};
use crate::ids::{MasterId, WorkerId};
use crate::limits::Limits;
use crate::request::Kept;
use crate::state::State;
use crate::view::EventEntry;

/// The newest meaning of `apply` that this software knows. Level 0 is where a cluster begins.
pub const FORMAT_LEVEL: u32 = 0;
/// Most tasks that one entry places: what is left is due at once in the next.
pub const PLACEMENTS_PER_ENTRY: usize = 20_000;
/// Most results bytes that are kept of one task.
pub const RESULT_BYTES_MAX: usize = 4 << 10;
/// Most bytes that are kept of an attempt's message.
pub const MESSAGE_BYTES_MAX: usize = 1 << 10;
/// Most tasks in one submit.
pub const SUBMIT_TASKS_MAX: u64 = 1_000_000;
/// Most groups in one submit.
pub const SUBMIT_GROUPS_MAX: usize = 10_000;

/// One entry on its way through the state.
struct Step<'a> {
    state: &'a mut State,
    index: u64,
    /// Its time is that of the state, which never goes back.
    stamp: Stamp,
    effects: Vec<Effect>,
    events: Vec<Event>,
    /// Workers whose slots, mode or connection changed: plan and load look at them once, at the end.
    touched: BTreeSet<WorkerId>,
}

type Answer = Result<Reply, Rejection>;

impl State {
    /// Applies one batch: commands in order, then what is due at its time, then placement.
    ///
    /// A batch of an older term than the state's is refused as a whole and changes nothing but [`State::applied_index`].
    /// A batch of a newer reign begins it, also without [`Command::BeginReign`].
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        self.head.applied_index = index;
        if batch.stamp.term < self.head.term {
            let old = Rejection::OldReign { given: batch.stamp.term, now: self.head.term };
            let replies = vec![Reply::Rejected(old); batch.commands.len()];
            return Applied { time_ms: self.head.time_ms, replies, ..Applied::default() };
        }
        let mut step = Step::new(self, index, batch.stamp);
        step.begin_reign();
        let replies = batch.commands.iter().map(|envelope| step.answer(envelope)).collect();
        step.expire();
        step.place();
        step.settle_loads();
        step.finish(replies)
    }

    /// Applies a raft entry without commands. No time passes.
    pub fn apply_blank(&mut self, index: u64, term: u64) -> Applied {
        self.head.applied_index = index;
        self.head.term = self.head.term.max(term);
        Applied { time_ms: self.head.time_ms, ..Applied::default() }
    }

    /// Applies a change of membership, so that it shows up in the event stream. No time passes.
    pub fn apply_membership(
        &mut self,
        index: u64,
        term: u64,
        voters: Vec<MasterId>,
        learners: Vec<MasterId>,
    ) -> Applied {
        let blank = self.apply_blank(index, term);
        if (&voters, &learners) == (&self.head.voters, &self.head.learners) {
            return blank;
        }
        (self.head.voters, self.head.learners) = (voters.clone(), learners.clone());
        let (time_ms, wall_ms, leader) = (self.head.time_ms, self.head.wall_ms, MasterId(0));
        let mut step = Step::new(self, index, Stamp { term, leader, time_ms, wall_ms, entropy: 0 });
        step.events.push(Event::MembershipChanged { voters, learners });
        step.finish(Vec::new())
    }
}

impl<'a> Step<'a> {
    fn new(state: &'a mut State, index: u64, mut stamp: Stamp) -> Self {
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("time-goes-back") {
            state.head.time_ms = stamp.time_ms;
        }
        stamp.time_ms = stamp.time_ms.max(state.head.time_ms);
        state.head.time_ms = stamp.time_ms;
        state.head.wall_ms = stamp.wall_ms;
        state.head.term = state.head.term.max(stamp.term);
        Self { state, index, stamp, effects: Vec::new(), events: Vec::new(), touched: BTreeSet::new() }
    }

    /// Keeps the events and hands everything back.
    fn finish(self, replies: Vec<Reply>) -> Applied {
        let Self { state, index, stamp, effects, events, .. } = self;
        let (term, time_ms, wall_ms) = (stamp.term, stamp.time_ms, stamp.wall_ms);
        if events.is_empty() {
            return Applied { time_ms, replies, effects, ..Applied::default() };
        }
        let events: Arc<[Event]> = events.into();
        state.events.push(EventEntry { index, term, time_ms, wall_ms, events: events.clone() });
        state.events.trim(state.head.limits.events_kept_max);
        Applied { time_ms, replies, effects, events }
    }

    /// The answer to one command: the remembered one, or what comes of doing it.
    fn answer(&mut self, envelope: &Envelope) -> Reply {
        if let Some(reply) = envelope.request.and_then(|id| self.state.replies.get(&id)) {
            return reply.clone();
        }
        let reply = self.command(&envelope.command).unwrap_or_else(Reply::Rejected);
        if let Some(id) = envelope.request {
            self.state.replies.push(Kept { id, at_ms: self.stamp.time_ms, reply: reply.clone() });
        }
        reply
    }

    fn command(&mut self, command: &Command) -> Answer {
        match command {
            // A newer reign has begun with the batch itself; within the reign it has no second effect.
            Command::BeginReign | Command::Tick | Command::Audit => Ok(Reply::Done),
            Command::InitCluster { cluster_id, limits } => self.init_cluster(cluster_id, limits),
            Command::Submit { groups } => self.submit(groups),
            Command::Cancel { tasks } => Ok(self.cancel(tasks)),
            Command::Retry { tasks } => self.retry(tasks),
            Command::OpenSession(ask) => self.open_session(ask),
            Command::CloseSession { worker, incarnation, session } => {
                self.close_session(*worker, *incarnation, *session)
            }
            Command::WorkerLost { worker, incarnation, session } => self.worker_lost(*worker, *incarnation, *session),
            Command::WorkerLeft { worker, incarnation } => self.worker_left(*worker, *incarnation),
            Command::SetWorkerMode { worker, mode, deadline_ms } => self.set_mode(worker, *mode, *deadline_ms),
            Command::EvictWorker { worker } => self.evict(worker),
            Command::SetWorkerConfig { worker, capacity, heartbeat_ms, set_labels, remove_labels } => {
                self.set_config(worker, *capacity, *heartbeat_ms, set_labels, remove_labels)
            }
            Command::ShutdownWorker { worker, now } => self.shutdown(worker, *now),
            Command::Reports { worker, incarnation, reports } => Ok(self.reports(*worker, *incarnation, reports)),
            Command::SetLimits(limits) => self.set_limits(limits),
            Command::SetFormatLevel(level) => self.set_format_level(*level),
            Command::SetBrakePolicy(policy) => self.set_brake_policy(*policy),
            Command::EngageBrake => self.engage_brake(),
            Command::ReleaseBrake => self.release_brake(),
            Command::ElectionReport(report) => {
                self.events.push(Event::ElectionReport(*report));
                Ok(Reply::Done)
            }
        }
    }

    /// If the stamp is of a newer reign: nobody is connected until its session is opened again.
    fn begin_reign(&mut self) {
        if self.state.head.reign.is_some_and(|reign| self.stamp.term <= reign) {
            return;
        }
        self.state.head.reign = Some(self.stamp.term);
        self.state.head.leader = Some(self.stamp.leader);
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("requests-remembered-by-leader-only") {
            self.state.replies = Default::default();
        }
        for id in self.state.registry.ids() {
            if self.state.registry.get(id).is_some_and(|worker| worker.connected) {
                self.change_worker(id, |worker| worker.connected = false);
            }
        }
        self.events.push(Event::LeaderElected { term: self.stamp.term, leader: self.stamp.leader });
    }

    fn init_cluster(&mut self, cluster_id: &str, limits: &Limits) -> Answer {
        if self.state.head.cluster_id.is_some() {
            return Ok(Reply::Done);
        }
        if cluster_id.is_empty() || cluster_id.len() > check::NAME_BYTES_MAX {
            return Err(check::invalid("cluster_id", format!("1 to {} bytes", check::NAME_BYTES_MAX)));
        }
        check::limits(limits)?;
        self.state.head.cluster_id = Some(cluster_id.to_owned());
        self.set_limits(limits)
    }

    fn set_limits(&mut self, limits: &Limits) -> Answer {
        check::limits(limits)?;
        let old = std::mem::replace(&mut self.state.head.limits, limits.clone());
        if old.workers_offline_kept_ms != limits.workers_offline_kept_ms {
            self.reset_forget_timers(old.workers_offline_kept_ms);
        }
        if old.lease_ms != limits.lease_ms {
            self.push_leases(&old);
        }
        Ok(Reply::Done)
    }

    /// Every replica takes the level, also one that does not know it: its node sees it and stops.
    fn set_format_level(&mut self, level: u32) -> Answer {
        let now = self.state.head.format_level;
        if level < now {
            return Err(Rejection::Precondition(format!("the format level is {now} already and never goes back")));
        }
        self.state.head.format_level = level;
        Ok(Reply::Done)
    }

    /// Gives pending tasks to free slots until no task has a worker.
    fn place(&mut self) {
        self.replan();
        for _ in 0..PLACEMENTS_PER_ENTRY {
            let Some(pick) = self.state.plan.next() else { return };
            self.assign(pick);
        }
    }

    /// Brings the plan up to date with the workers that were touched.
    fn replan(&mut self) {
        for &id in &self.touched {
            if let Some(worker) = self.state.registry.get(id) {
                self.state.plan.update(worker);
            }
        }
    }
}

//! What becomes of a worker whose lease ran out: lost, or held while the brake on mass failure holds.
//!
//! What always holds: the verdict is the state's, from what is in the log, so that a new leader finds the brake as it was.
//! A held worker is not connected, keeps its attempts, and is back as soon as its session is opened again.

use crate::brake::{BrakePolicy, Engaged};
use crate::effect::{BrakeChange, Effect, Event, Rejection, Reply, WorkerChange};
use crate::ids::WorkerId;
use crate::task::Outcome;
use crate::worker::OfflineReason;

use super::{Answer, Step, check};

impl Step<'_> {
    /// A lease ran out.
    pub(super) fn silent(&mut self, id: WorkerId) {
        let (now_ms, living) = (self.stamp.time_ms, self.living());
        self.state.brake.advance(now_ms);
        if self.state.brake.engaged.is_none() && self.state.brake.is_next_too_many(living, now_ms) {
            self.engage(false);
        }
        match self.state.brake.engaged {
            Some(_) => self.hold(id),
            None => self.lose(id),
        }
    }

    fn living(&self) -> u64 {
        self.state.registry.iter().filter(|worker| worker.offline.is_none()).count() as u64
    }

    fn engage(&mut self, manual: bool) {
        self.state.brake.engaged = Some(Engaged { since_ms: self.stamp.time_ms, manual });
        let (silent, workers) = (self.state.brake.lost.len() as u64, self.living());
        self.events.push(Event::Brake(BrakeChange::Engaged { manual, silent, workers }));
    }

    fn lose(&mut self, id: WorkerId) {
        self.state.brake.lost.insert(id, self.stamp.time_ms);
        self.take_offline(id, OfflineReason::LeaseExpired, Outcome::WorkerLost, "the worker's lease ran out");
    }

    fn hold(&mut self, id: WorkerId) {
        if !self.state.brake.held.insert(id) {
            return;
        }
        self.change_worker(id, |worker| worker.connected = false);
        self.events.push(Event::WorkerChanged { worker: id, change: WorkerChange::Held });
        // What is left of its session ends, so that it opens another one when it can.
        self.effects.push(Effect::EndSession { worker: id, reason: OfflineReason::LeaseExpired });
    }

    /// It speaks again.
    pub(super) fn spoke(&mut self, id: WorkerId) {
        self.state.brake.lost.remove(&id);
        self.state.brake.held.remove(&id);
        self.release_if_few();
    }

    /// An operator's word, or its own, ended it: no failure.
    pub(super) fn gone(&mut self, id: WorkerId) {
        if self.state.brake.held.remove(&id) {
            self.release_if_few();
        }
    }

    fn release_if_few(&mut self) {
        if self.state.brake.engaged.is_some() && self.state.brake.may_release(self.living()) {
            self.release(false);
        }
    }

    /// By an operator: whoever is still silent is lost. By itself: the others are coming back at this moment, so they get
    /// one more lease from the leader, and then another verdict.
    fn release(&mut self, manual: bool) {
        let held = std::mem::take(&mut self.state.brake.held);
        self.state.brake.engaged = None;
        let declared = if manual { held.len() as u64 } else { 0 };
        self.events.push(Event::Brake(BrakeChange::Released { manual, declared }));
        if manual {
            held.into_iter().for_each(|id| self.lose(id));
            self.state.brake.lost.clear();
            self.state.brake.released_until_ms = self.stamp.time_ms.saturating_add(self.state.brake.policy.window_ms);
        }
    }

    // -- what operators want

    pub(super) fn set_brake_policy(&mut self, policy: BrakePolicy) -> Answer {
        check::brake_policy(&policy)?;
        self.state.brake.policy = policy;
        self.release_if_few();
        Ok(Reply::Done)
    }

    pub(super) fn engage_brake(&mut self) -> Answer {
        match &mut self.state.brake.engaged {
            Some(engaged) => engaged.manual = true,
            None => self.engage(true),
        }
        Ok(Reply::Done)
    }

    pub(super) fn release_brake(&mut self) -> Answer {
        if self.state.brake.engaged.is_none() {
            return Err(Rejection::Precondition("the brake is not engaged".into()));
        }
        self.release(true);
        Ok(Reply::Done)
    }
}

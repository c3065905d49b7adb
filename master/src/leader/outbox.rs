//! The outbox: what `apply` asked to be done is put on the streams of the workers it concerns.
//!
//! What always holds: nothing here is the only record of anything. A worker without a session misses its effects and gets
//! them from `State::outstanding` when its session opens.

use steersman_state::effect::{BrakeChange, Effect, Event, LoadLevel, WorkerChange};
use steersman_state::ids::WorkerId;
use steersman_state::worker::OfflineReason;

use super::Reign;
use super::streams::Outgoing;

impl Reign {
    /// Hands the effects of one entry to the sessions, in order. Never blocks.
    pub fn post(&self, effects: &[Effect]) {
        if effects.is_empty() {
            return;
        }
        let now = self.office.world.clock.now();
        let sessions = self.sessions.read();
        for effect in effects {
            if let Some(session) = sessions.get(&addressee(effect)) {
                session.send(Outgoing::Effect(effect.clone(), now));
            }
        }
    }
}

impl Reign {
    /// Counts what one entry says of workers.
    pub fn count(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::WorkerChanged { change: WorkerChange::Offline(reason), .. } => {
                    self.office.metrics.worker_lost(match reason {
                        OfflineReason::Left => "left",
                        OfflineReason::LeaseExpired => "lease_expired",
                        OfflineReason::Evicted => "evicted",
                    });
                }
                Event::WorkerLoad { level, .. } => self.office.metrics.load_crossed(match level {
                    LoadLevel::Under => "under",
                    LoadLevel::Normal => "normal",
                    LoadLevel::Over => "over",
                }),
                Event::Brake(BrakeChange::Engaged { manual, silent, workers }) => {
                    tracing::error!(
                        manual,
                        silent,
                        workers,
                        "too many workers fell silent: the brake holds, their tasks stay with them"
                    );
                }
                Event::Brake(BrakeChange::Released { manual, declared }) => {
                    tracing::warn!(manual, declared, "the brake is released");
                }
                _ => {}
            }
        }
    }
}

fn addressee(effect: &Effect) -> WorkerId {
    match effect {
        Effect::StartRun(run) => run.worker,
        Effect::CancelRun { worker, .. }
        | Effect::PushConfig { worker, .. }
        | Effect::ShutdownWorker { worker, .. }
        | Effect::EndSession { worker, .. } => *worker,
    }
}

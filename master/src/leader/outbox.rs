//! The outbox: what `apply` asked to be done is put on the streams of the workers it concerns.
//!
//! What always holds: nothing here is the only record of anything. A worker without a session misses its effects and gets
//! them from `State::outstanding` when its session opens.

use steersman_state::effect::Effect;
use steersman_state::ids::WorkerId;

use super::Reign;
use super::streams::Outgoing;

impl Reign {
    /// Hands the effects of one entry to the sessions, in order. Never blocks.
    pub fn post(&self, effects: &[Effect]) {
        if effects.is_empty() {
            return;
        }
        let sessions = self.sessions.read();
        for effect in effects {
            if let Some(session) = sessions.get(&addressee(effect)) {
                session.send(Outgoing::Effect(effect.clone()));
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

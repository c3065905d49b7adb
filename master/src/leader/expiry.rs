//! Time passes: when a timer of the state is due (a backoff, a deadline, retention), an empty `Tick` brings it about.
//!
//! What always holds: nothing expires but through the log; entries that are proposed anyway carry time as well, so a busy
//! cluster needs no ticks.

use std::sync::Arc;
use std::time::Duration;

use steersman_state::command::Command;

use super::Reign;

/// Timers are not looked at more often: bounds the work at high rates, and the lateness of a timer.
const GRAIN: Duration = Duration::from_millis(5);
/// Without a timer, a look now and then.
const IDLE: Duration = Duration::from_secs(1);

/// Proposes a tick whenever one is due, for as long as the reign lasts.
pub async fn run(reign: Arc<Reign>) {
    let mut applied = reign.office.applied.clone();
    loop {
        tokio::time::sleep(GRAIN).await;
        let due = reign.office.state.read().next_timer_ms();
        let now = reign.office.clock.now_ms();
        match due {
            Some(due) if due <= now => tick(&reign).await,
            _ => {
                let wait = due.map_or(IDLE, |due| Duration::from_millis(due - now).min(IDLE));
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = applied.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

async fn tick(reign: &Reign) {
    if let Err(error) = reign.office.proposer.propose(None, Command::Tick).await {
        tracing::debug!(%error, "a tick was not committed");
    }
}

//! The heartbeat monitor: heartbeats stay in memory, verdicts go in the log.
//!
//! What always holds: a worker is declared lost only after a whole lease in which this leader ran and heard nothing of
//! it; time in which this process did not run (stopped, starved) does not count against anybody.

use std::sync::Arc;
use std::time::Duration;

use steersman_state::command::Command;
use steersman_state::ids::WorkerId;
use tokio::time::Instant;

use super::Reign;

/// Between two looks: a small share of the shortest sensible lease.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that comes later than this found the process stopped in between.
const PAUSE_MIN: Duration = Duration::from_millis(400);

/// Looks for workers whose lease ran out, for as long as the reign lasts.
pub async fn monitor(reign: Arc<Reign>) {
    let mut last_look = reign.office.world.clock.now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = reign.office.world.clock.now();
        forgive_pause(&reign, now - last_look);
        last_look = now;
        for (worker, incarnation, session) in silent(&reign, now) {
            judge(&reign, worker, incarnation, session).await;
        }
    }
}

fn forgive_pause(reign: &Reign, since_last_look: Duration) {
    if since_last_look < PAUSE_MIN {
        return;
    }
    tracing::warn!(paused_ms = since_last_look.as_millis() as u64, "this process did not run: leases are extended");
    for seen in reign.seen.lock().values_mut() {
        *seen += since_last_look;
    }
}

/// Believed workers that were not heard for a whole lease.
fn silent(reign: &Reign, now: Instant) -> Vec<(WorkerId, u64, u64)> {
    let state = reign.office.state.read();
    let mut seen = reign.seen.lock();
    let believed = state.believed_workers();
    let mut silent = Vec::new();
    for (worker, incarnation, session, _connected) in believed {
        let heard = *seen.entry(worker).or_insert(now);
        // Its verdict is in the log already, whoever led then. When the brake lets it go, a lease begins.
        if state.is_held(worker) {
            seen.insert(worker, now);
            continue;
        }
        let lease = state.lease_ms(worker).unwrap_or(u32::MAX);
        if now.saturating_duration_since(heard) > Duration::from_millis(u64::from(lease)) {
            silent.push((worker, incarnation, session));
        }
    }
    silent
}

async fn judge(reign: &Reign, worker: WorkerId, incarnation: u64, session: u64) {
    tracing::warn!(%worker, incarnation, "the worker's lease ran out");
    let verdict = Command::WorkerLost { worker, incarnation, session };
    match reign.office.proposer.propose(None, verdict).await {
        Ok(_) => {}
        Err(error) => tracing::warn!(%worker, %error, "declaring the worker lost failed; trying again"),
    }
}

//! The heartbeat monitor: heartbeats stay in memory, verdicts go in the log.
//!
//! What always holds: a worker is declared lost only after a whole lease in which this leader ran, could commit, and heard
//! nothing of it. Time in which this process did not run (stopped, starved) does not count against anybody, nor does time
//! without a quorum, in which no worker can open a session.

use std::sync::Arc;
use std::time::Duration;

use steersman_state::command::Command;
use steersman_state::ids::WorkerId;
use tokio::time::Instant;

use super::Reign;
use crate::config::RaftTiming;

/// Between two looks: a small share of the shortest sensible lease.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that comes later than this found the process stopped in between.
const PAUSE_MIN: Duration = Duration::from_millis(400);

/// From how long a silence of the quorum on openraft refuses to write: its leader lease.
pub fn quorum_silence(raft: &RaftTiming) -> Duration {
    Duration::from_millis(raft.election_max_ms)
}

/// Looks for workers whose lease ran out, for as long as the reign lasts.
pub async fn monitor(reign: Arc<Reign>) {
    let mut last_look = reign.office.world.clock.now();
    let mut alone = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = reign.office.world.clock.now();
        let since_last_look = now - last_look;
        last_look = now;
        let silence = reign.office.quorum.age().filter(|age| *age > reign.office.quorum_silence);
        if let Some(silence) = silence {
            forgive(&reign, if alone { since_last_look } else { silence });
            alone = true;
            continue;
        }
        alone = false;
        if since_last_look >= PAUSE_MIN {
            let paused_ms = since_last_look.as_millis() as u64;
            tracing::warn!(paused_ms, "this process did not run: leases are extended");
            forgive(&reign, since_last_look);
        }
        for (worker, incarnation, session) in silent(&reign, now) {
            judge(&reign, worker, incarnation, session).await;
        }
    }
}

/// So much time does not count. Nobody was heard in the future.
fn forgive(reign: &Reign, time: Duration) {
    let now = reign.office.world.clock.now();
    for seen in reign.seen.lock().values_mut() {
        *seen = (*seen + time).min(now);
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

//! The end of a run: everything heals, then what must come back has to come back within its bound.
//!
//! What always holds: nothing is judged before the last fault ended; after it there must be a leader, an empty queue and
//! equal replicas, each within a bound; and all masters, started once more, must come to the same state from their
//! snapshots and logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use steersman_proto::v1::WorkerMode;
use steersman_raft_store::CrashMode;
use steersman_world::{Entropy as _, SeededEntropy};
use tokio::time::Instant;

use super::client::{Client, group};
use super::hub::Hub;
use super::worker::Worker;
use super::{FOLLOWERS, panics};

/// A leader that commits, after the last fault.
pub const LEADER_WITHIN: Duration = Duration::from_secs(15);
/// An empty queue, after that.
pub const DRAINED_WITHIN: Duration = Duration::from_secs(180);
/// All masters at the same index, once nobody asks for anything.
const AGREED_WITHIN: Duration = Duration::from_secs(30);
/// All events at all followers, who may have gone to a master that was removed and hears nothing.
const HEARD_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the run. What does not come back in time is a problem of the run.
pub async fn end(hub: &Arc<Hub>, workers: &[Arc<Worker>], clients: tokio::task::JoinSet<()>) {
    heal(hub, workers);
    if !wait(LEADER_WITHIN, || hub.leader().is_some()).await {
        return hub.journal.problem(format!("no leader within {LEADER_WITHIN:?} after the last fault"));
    }
    clients.join_all().await;
    let operator = Client::new(hub, 700);
    let numbers = SeededEntropy::new(hub.plan.seed ^ 0xE2D);
    operator.submit(numbers.next_id(), vec![group(&numbers, 1, 100)]).await;
    for worker in workers {
        if !operator.set_mode(&worker.name, WorkerMode::Active, "active").await {
            hub.journal.note("operator", format!("{} could not be made active", worker.name));
        }
    }
    if !wait(DRAINED_WITHIN, || drained(hub)).await {
        let left = hub.leader().map(|(_, leader)| leader.node.state.read().counts());
        return hub.journal.problem(format!("the queue did not drain within {DRAINED_WITHIN:?}: {left:?}"));
    }
    agree(hub, "after the storm").await;
    if !wait(HEARD_WITHIN, || everything_is_heard(hub)).await {
        let heard = hub.heard.lock().clone();
        hub.journal.problem(format!("followers have not heard everything within {HEARD_WITHIN:?}: {heard:?}"));
    }
    read_everything(hub, &operator).await;
    hub.over.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    workers.iter().for_each(|worker| worker.kill());
    start_once_more(hub).await;
}

fn heal(hub: &Arc<Hub>, workers: &[Arc<Worker>]) {
    hub.calm.store(true, Ordering::Relaxed);
    if panics::seen().iter().any(|panic| panics::is_known(panic)) {
        // The assertion ended a task that sends to one follower, for the rest of that leader's term.
        hub.known().iter().for_each(|id| hub.kill(*id, CrashMode::KeepBatches(usize::MAX), false));
    }
    for id in hub.known() {
        hub.revive(id);
    }
    workers.iter().for_each(Worker::start);
    hub.journal.note("nemesis", "everything is healed");
}

async fn wait(limit: Duration, mut there: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !there() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

fn drained(hub: &Hub) -> bool {
    hub.leader().is_some_and(|(_, leader)| {
        let counts = leader.node.state.read().counts();
        counts.pending + counts.scheduled + counts.running + counts.retrying == 0
    })
}

fn everything_is_heard(hub: &Hub) -> bool {
    let Some((_, leader)) = hub.leader() else { return false };
    let (state, heard) = (leader.node.state.read(), hub.heard.lock());
    (1..=FOLLOWERS).all(|follower| {
        let next = heard.get(&follower).copied().unwrap_or(1);
        state.events_from(next, 1).entries.is_empty()
    })
}

/// All members are at the index that the leader has committed, with the same digest and whole invariants.
async fn agree(hub: &Arc<Hub>, when: &str) {
    let there = || {
        let (voters, learners) = hub.members();
        let Some((_, leader)) = hub.leader() else { return false };
        let index = leader.node.state.read().applied_index();
        let last = leader.raft.metrics().borrow_watched().last_log_index;
        let at = |id: &u64| {
            let bare = hub.life(*id).and_then(|life| life.up());
            bare.is_some_and(|bare| bare.node.state.read().applied_index() == index)
        };
        last == Some(index) && voters.iter().chain(&learners).all(at)
    };
    if !wait(AGREED_WITHIN, there).await {
        let ups = hub.ups();
        let at: Vec<_> = ups.iter().map(|(id, bare)| (*id, bare.node.state.read().applied_index())).collect();
        let what = format!("{when}: the masters are not at one index within {AGREED_WITHIN:?}: {at:?}");
        return hub.journal.problem(format!("{what}, members {:?}", hub.members()));
    }
    let (voters, _) = hub.members();
    let mut digests = Vec::new();
    for (id, bare) in hub.ups().iter().filter(|(id, _)| voters.contains(id)) {
        let state = bare.node.state.read();
        digests.push((state.applied_index(), state.digest()));
        if let Err(violation) = state.check() {
            hub.journal.problem(format!("{when}: m{id}: {violation}"));
        }
    }
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        hub.journal.problem(format!("{when}: replicas differ: {digests:x?}"));
    }
    let index = digests.first().map_or(0, |(index, _)| *index);
    if index < hub.truth.highest() {
        hub.journal.problem(format!("{when}: {} was applied once, now all are at {index}", hub.truth.highest()));
    }
    hub.journal.note("nemesis", format!("{when}: all agree at {index}"));
}

/// What was acknowledged must be there, by the state's own word and by reads of everything.
async fn read_everything(hub: &Arc<Hub>, operator: &Client) {
    let mut read = false;
    for _ in 0..10 {
        read = read || operator.read_all().await;
    }
    if !read {
        hub.journal.problem("nothing can be read after the storm".to_owned());
    }
    let Some((_, leader)) = hub.leader() else { return };
    let state = leader.node.state.read();
    for task in hub.tasks.lock().keys() {
        match state.task_state(steersman_state::TaskId(*task)) {
            Some(there) if there.is_finished() => {}
            other => hub.journal.problem(format!("task {task} was acknowledged and is {other:?} at the end")),
        }
    }
}

/// A power cut everywhere; from snapshots and logs everybody comes to the same state.
async fn start_once_more(hub: &Arc<Hub>) {
    let known = hub.known();
    for id in &known {
        let mode = hub.power_cut(*id);
        hub.kill(*id, mode, false);
    }
    known.iter().for_each(|id| hub.start(*id));
    if wait(LEADER_WITHIN, || hub.leader().is_some()).await {
        agree(hub, "after a power cut everywhere").await;
    } else {
        hub.journal.problem("no leader after the last power cut".to_owned());
    }
}

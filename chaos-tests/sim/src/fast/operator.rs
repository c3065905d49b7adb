//! What an operator does to the masters while the storm blows: hands leadership over, takes snapshots, adds, promotes and
//! removes masters.
//!
//! What always holds: a removed master is started again unless its removal was confirmed, and a confirmed one never comes
//! back under its id; there are never fewer than three voters by an operator's doing, nor more than five.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::ChangeMembers;
use steersman_evidence::record::{Answer, Call, Outcome};
use steersman_master::bare::Bare;
use steersman_raft_store::CrashMode;
use steersman_world::{Entropy as _, SeededEntropy};

use super::hub::{Asked, Hub};
use super::master::member;
use super::plan::CLIENTS_AT;

/// The operator as a process of the history.
const OPERATOR: u64 = 900;
/// One change.
const PATIENCE: Duration = Duration::from_secs(4);
/// Ids are given anew up to here: a run that adds more is not wanted.
const MASTERS_EVER_MAX: u64 = 9;

type Act = Box<dyn FnOnce(Arc<Bare>) -> BoxFuture<'static, Result<u64, String>> + Send>;

/// One change at the leader, recorded. `Some` with its index if it surely happened.
async fn change(hub: &Arc<Hub>, word: &str, master: u64, act: Act) -> Option<u64> {
    let (leader, _) = hub.leader()?;
    // A process has one operation open at a time; operators come and go.
    let process = OPERATOR + hub.next_fault();
    let op = hub.journal.invoke(process, Call::Membership { change: word.to_owned(), master });
    let asked = hub.ask(CLIENTS_AT + OPERATOR, leader, PATIENCE, act).await;
    let (outcome, index) = match asked {
        Asked::Answer(Ok(index)) => (Outcome::Ok { answer: Answer::Done { index } }, Some(index)),
        Asked::Answer(Err(error)) => (Outcome::Unknown { error }, None),
        Asked::Refused => (Outcome::Fail { error: "refused".to_owned() }, None),
        Asked::Silence => (Outcome::Unknown { error: "no answer".to_owned() }, None),
    };
    hub.journal.complete(op, Some(leader), outcome);
    index
}

/// Hands leadership to anybody, or to one in particular.
pub async fn transfer(hub: &Arc<Hub>, numbers: &SeededEntropy) {
    let known = hub.known();
    let to = (numbers.below(2) == 0).then(|| known[numbers.below(known.len() as u64) as usize]);
    let act: Act = Box::new(move |bare| {
        Box::pin(async move { bare.node.transfer(to).await.map(|_| 0).map_err(|error| error.to_string()) })
    });
    if change(hub, "step_down", to.unwrap_or(0), act).await.is_some() {
        hub.journal.count("leadership handed over");
    }
}

/// Takes a snapshot now.
pub async fn snapshot(hub: &Arc<Hub>, id: u64) {
    let act = |bare: Arc<Bare>| -> BoxFuture<'static, ()> {
        Box::pin(async move { drop(bare.raft.trigger().snapshot().await) })
    };
    hub.ask(CLIENTS_AT + OPERATOR, id, PATIENCE, act).await;
}

/// Starts a blank master, adds it as a learner and promotes it.
pub async fn add(hub: &Arc<Hub>, numbers: &SeededEntropy) {
    let (voters, learners) = hub.members();
    if let Some(learner) = learners.first().copied() {
        promote(hub, learner).await;
        return;
    }
    let id = hub.disks.lock().keys().next_back().map_or(1, |last| last + 1);
    if voters.len() >= 5 || voters.is_empty() || id > MASTERS_EVER_MAX {
        return;
    }
    hub.start(id);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let Some(bare) = hub.life(id).and_then(|life| life.up()) else { return };
    let node = member(id, &bare.store_id);
    drop(bare);
    let act: Act = Box::new(move |bare| {
        Box::pin(async move {
            let change = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
            let written = bare.raft.change_membership(change, true).await;
            written.map(|written| written.log_id.index()).map_err(|error| error.to_string())
        })
    });
    if change(hub, "add", id, act).await.is_none() {
        return;
    }
    tokio::time::sleep(Duration::from_millis(numbers.below(1_500))).await;
    promote(hub, id).await;
}

async fn promote(hub: &Arc<Hub>, id: u64) {
    let act: Act = Box::new(move |bare| {
        Box::pin(async move { bare.node.promote_master(id).await.map_err(|error| error.to_string()) })
    });
    if change(hub, "promote", id, act).await.is_some() {
        hub.journal.count("master promoted");
    }
}

/// Removes a voter that does not lead; once that is confirmed, its disk is wiped and its id never used again.
pub async fn remove(hub: &Arc<Hub>, numbers: &SeededEntropy) {
    let (voters, _) = hub.members();
    let leader = hub.leader().map(|(id, _)| id);
    let others: Vec<u64> = voters.iter().copied().filter(|id| Some(*id) != leader).collect();
    if voters.len() <= 3 || others.is_empty() {
        return;
    }
    let id = others[numbers.below(others.len() as u64) as usize];
    let act: Act = Box::new(move |bare| {
        Box::pin(async move { bare.node.remove_master(id).await.map_err(|error| error.to_string()) })
    });
    if change(hub, "remove", id, act).await.is_some() {
        hub.journal.count("master removed");
        hub.retired.lock().insert(id);
        hub.kill(id, CrashMode::LoseUnsynced, false);
    }
}

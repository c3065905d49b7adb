//! The operator: changes of membership, of office and of workers' modes, one after the other, each recorded as an operation.
//!
//! What always holds: a replacement is not given up before it is done; each change of the membership is asked for only while
//! the masters do not already say that it has happened.

use std::time::Duration;

use steersman_client::v1::{MasterAddress, WorkerMode};
use steersman_client::worker_ref;
use steersman_evidence::record::Call;
use steersman_world::Entropy as _;

use super::cast::Masters;
use super::clients::{Caller, Wishes, hex};
use steersman_evidence::answers;

/// Between two tries of a step.
const AGAIN: Duration = Duration::from_millis(300);

/// What an operator is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Hands the office to this master, 0 for any.
    StepDown(u64),
    /// Adds a master and makes it a voter.
    Add(u64),
    /// Removes a master.
    Remove(u64),
    /// Changes a worker's mode: `drain`, `maintenance`, `active`.
    Mode(String, &'static str),
}

/// Runs errands for ever.
pub async fn live(caller: Caller, wishes: Wishes, masters: Masters) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let next = wishes.errands.borrow_mut().pop_front();
        let Some(errand) = next else { continue };
        wishes.busy.set(true);
        match errand {
            Errand::StepDown(to) => step_down(&caller, to).await,
            Errand::Add(id) => add(&caller, id).await,
            Errand::Remove(id) => remove(&caller, &masters, id).await,
            Errand::Mode(worker, mode) => set_mode(&caller, &worker, mode).await,
        }
        wishes.busy.set(false);
    }
}

fn membership(change: &str, master: u64) -> Call {
    Call::Membership { change: change.to_owned(), master }
}

async fn step_down(caller: &Caller, to: u64) {
    let asking = async { answers::done(caller.client.step_down(to).await.as_ref().map(|_| 0)) };
    caller.operate("step-down", membership("step_down", to), asking).await;
}

/// Whether it is a member, and whether a voter, by the word of whoever has a leader. `None` if nobody knows.
async fn standing(caller: &Caller, id: u64) -> Option<(bool, bool)> {
    // The word of whoever is furthest: a master that was removed may not have heard of it.
    let answers = caller.client.info_all().await.into_iter().filter_map(|(_, answer)| answer.ok());
    let info = answers.filter(|info| info.ready).max_by_key(|info| info.applied_index)?;
    let found = info.masters.iter().find(|master| master.address.as_ref().is_some_and(|address| address.id == id));
    Some((found.is_some(), found.is_some_and(|master| master.voter)))
}

async fn add(caller: &Caller, id: u64) {
    let at = |port: u16| format!("m{id}:{port}");
    let address = MasterAddress { id, api: at(7400), raft: at(7401), http: at(7402) };
    loop {
        match standing(caller, id).await {
            Some((_, true)) => return caller.recorder.note("operator", format!("m{id} is a voter")),
            Some((true, false)) => {
                let asking =
                    async { answers::done(caller.client.promote_master(id).await.as_ref().map(|done| done.log_index)) };
                caller.operate("promote", membership("promote", id), asking).await;
            }
            Some((false, _)) => {
                let adding = caller.client.add_master(address.clone());
                let asking = async { answers::done(adding.await.as_ref().map(|done| done.log_index)) };
                caller.operate("add", membership("add", id), asking).await;
            }
            None => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn remove(caller: &Caller, masters: &Masters, id: u64) {
    loop {
        match standing(caller, id).await {
            Some((false, _)) => break,
            Some(_) => {
                // A leader is not removed: it hands over first, as the operator's page says.
                if caller.client.leader().is_some_and(|leader| leader.id == id) {
                    step_down(caller, 0).await;
                }
                let asking =
                    async { answers::done(caller.client.remove_master(id).await.as_ref().map(|done| done.log_index)) };
                caller.operate("remove", membership("remove", id), asking).await;
            }
            None => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
    caller.recorder.note("operator", format!("m{id} is no member any more"));
    if let Some(master) = masters.borrow_mut().get_mut(&id) {
        master.gone = true;
    }
}

async fn set_mode(caller: &Caller, worker: &str, mode: &str) {
    let wire = match mode {
        "drain" => WorkerMode::Drain,
        "maintenance" => WorkerMode::Maintenance,
        _ => WorkerMode::Active,
    };
    // What was active, and is to be again, must be so before the run can end.
    let tries = if mode == "active" { 100 } else { 1 };
    let id = caller.client.new_request_id();
    let deadline_ms = if mode == "drain" { 1 + caller.numbers.below(3_000) } else { 0 };
    let call = Call::SetMode { request: hex(id), worker: worker.to_owned(), mode: mode.to_owned() };
    for _ in 0..tries {
        let setting = caller.client.worker_set_mode_with_id(id, worker_ref(worker), wire, deadline_ms);
        let asking = async { answers::done(setting.await.as_ref().map(|done| done.log_index)) };
        let outcome = caller.operate("set-mode", call.clone(), asking).await;
        if matches!(outcome, steersman_evidence::record::Outcome::Ok { .. }) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

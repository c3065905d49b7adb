//! Workers that are drained or taken into maintenance, and opened again.
//!
//! What always holds: one worker at a time, so that the others do the work; at the end all of them are open again, however long
//! that takes the cluster.

use std::sync::Arc;

use steersman_client::v1::WorkerMode;
use steersman_client::worker_ref;
use steersman_evidence::record::{Call, Outcome};

use super::registers::AGAIN;
use crate::chaos::traffic::{Actor, Traffic};
use steersman_evidence::answers;

pub(super) async fn run(traffic: Arc<Traffic>, workers: Vec<String>) {
    let mut actor = Actor::new(&traffic.recorder);
    while traffic.pause(traffic.ms(4_000, 10_000)).await {
        let Some(worker) = workers.get(traffic.below(workers.len() as u64) as usize) else { return };
        let closed = if traffic.chance(70) { WorkerMode::Drain } else { WorkerMode::Maintenance };
        set(&traffic, &mut actor, worker, closed).await;
        traffic.pause(traffic.ms(1_000, 5_000)).await;
        set(&traffic, &mut actor, worker, WorkerMode::Active).await;
    }
}

/// Sets a mode, under one request id until it is known what became of it. A refusal is an answer; to be opened again is not
/// refused for long, and is asked for until it is done.
async fn set(traffic: &Traffic, actor: &mut Actor, worker: &str, mode: WorkerMode) {
    loop {
        let (id, request) = traffic.request();
        let mut tries = 0;
        let outcome = loop {
            let outcome = once(traffic, actor, (id, request.clone()), (worker, mode)).await;
            tries += 1;
            if !matches!(outcome, Outcome::Unknown { .. }) || tries == TRIES_MAX {
                break outcome;
            }
            tokio::time::sleep(AGAIN).await;
        };
        if mode != WorkerMode::Active || matches!(outcome, Outcome::Ok { .. }) || is_gone(&outcome) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tries under one request id: the time of all faults together.
const TRIES_MAX: u32 = 60;

/// A worker that the cluster does not know cannot be opened.
fn is_gone(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Fail { error } if error.contains(steersman_client::codes::WORKER_NOT_FOUND.reason))
}

async fn once(
    traffic: &Traffic,
    actor: &mut Actor,
    (id, request): (steersman_client::RequestId, String),
    (worker, mode): (&str, WorkerMode),
) -> Outcome {
    let word = match mode {
        WorkerMode::Drain => "drain",
        WorkerMode::Maintenance => "maintenance",
        WorkerMode::Active | WorkerMode::Unspecified => "active",
    };
    let call = Call::SetMode { request, worker: worker.to_owned(), mode: word.to_owned() };
    let (master, client) = traffic.targets.mixed(&traffic.entropy);
    let answer = async {
        let answer = client.worker_set_mode_with_id(id, worker_ref(worker), mode, 0).await;
        answers::done(answer.as_ref().map(|answer| answer.log_index))
    };
    actor.perform(master, call, answer).await
}

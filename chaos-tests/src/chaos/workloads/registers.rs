//! Registers: several processes submit, cancel and read the same tasks, at the leader and at whatever master comes along.
//!
//! What always holds: few operations are open on one task at a time (see [`crate::chaos::keys`]).

use std::sync::Arc;
use std::time::Duration;

use steersman_client::v1::{Consistency, GetTaskRequest, ListWorkersRequest, TaskSpec};
use steersman_evidence::record::{Call, Outcome};

use super::submit::Wish;
use crate::chaos::traffic::{Actor, Pace, Traffic};
use crate::chaos::work;
use crate::spec::nothing;
use steersman_evidence::answers;

/// Of 100 operations on a shared task.
const CANCELS: u64 = 3;
const STALE_READS: u64 = 22;
/// Of 100 turns while the pool is not full.
const SUBMITS: u64 = 25;
/// Reads of the whole registry per second.
const REGISTRY_RATE: f64 = 1.0;

/// One process.
pub(super) async fn run(traffic: Arc<Traffic>, rate: f64) {
    let mut actor = Actor::new(&traffic.recorder);
    let mut pace = Pace::new(rate);
    while pace.turn(&traffic).await {
        if traffic.keys.wants_more() && traffic.chance(SUBMITS) {
            share(&traffic, &mut actor).await;
        } else if traffic.chance(CANCELS) {
            cancel(&traffic, &mut actor).await;
        } else {
            read(&traffic, &mut actor).await;
        }
    }
}

/// Submits a task and shares it.
async fn share(traffic: &Traffic, actor: &mut Actor) {
    let wish = Wish::new(traffic, some_work(traffic), 1);
    if let Some(task) = wish.submit(actor, traffic.targets.mixed(&traffic.entropy)).await {
        traffic.keys.add(task);
    }
}

/// Long enough to be cancelled in every state, short enough that slots come free.
fn some_work(traffic: &Traffic) -> TaskSpec {
    match traffic.below(10) {
        0 | 1 => nothing(),
        2 => work::failing(),
        3 => work::sleep(traffic.ms(4_000, 9_000)),
        _ => work::sleep(traffic.ms(20, 3_000)),
    }
}

async fn cancel(traffic: &Traffic, actor: &mut Actor) {
    let Some(task) = traffic.keys.take(&traffic.entropy, true) else { return };
    let (id, request) = traffic.request();
    let (master, client) = traffic.targets.mixed(&traffic.entropy);
    let answer = async { answers::cancelled(&client.cancel_with_id(id, vec![task]).await) };
    let outcome = actor.perform(master, Call::Cancel { request, task }, answer).await;
    traffic.keys.give_back(task, matches!(outcome, Outcome::Unknown { .. }));
}

async fn read(traffic: &Traffic, actor: &mut Actor) {
    let Some(task) = traffic.keys.take(&traffic.entropy, false) else { return };
    let stale = traffic.chance(STALE_READS);
    let (master, client) = traffic.targets.mixed(&traffic.entropy);
    let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    let request = GetTaskRequest { id: task, consistency: consistency.into() };
    let answer = async { answers::read(&client.get_with(request).await) };
    actor.perform(master, Call::Read { task, stale }, answer).await;
    // A read has no effect, whatever became of it.
    traffic.keys.give_back(task, false);
}

/// Reads the registry of workers, over and over.
pub(super) async fn registry(traffic: Arc<Traffic>) {
    let mut actor = Actor::new(&traffic.recorder);
    let mut pace = Pace::new(REGISTRY_RATE);
    while pace.turn(&traffic).await {
        let (master, client) = traffic.targets.mixed(&traffic.entropy);
        let answer = async { answers::registry(&client.worker_list(ListWorkersRequest::default()).await) };
        actor.perform(master, Call::ReadWorkers {}, answer).await;
    }
}

/// Between two tries of what has to succeed in the end.
pub(super) const AGAIN: Duration = Duration::from_millis(300);

//! The fast engine: the production core, store, consensus, door, reigns and services of all masters on one paused clock, without
//! sockets and gRPC.
//!
//! What always holds: one seed, one history, byte for byte: one thread, one tokio runtime whose clock jumps from timer to
//! timer, randomness from the seed only. Messages travel over the engine's own links ([`links`]), masters live in scopes
//! that can be frozen and dropped as a whole ([`crate::scope`]), their disks forget what was not synced. Why it is built so:
//! `docs/decisions/0011`. What it leaves to the whole-stack engine: everything that HTTP/2 and TCP do, forwarding between
//! masters, real workers and clients, and how a blank master finds out whether it may take part.

mod client;
mod ending;
mod hub;
mod journal;
mod links;
mod master;
mod operator;
mod plan;
pub mod regressions;
mod storm;
mod watch;
mod wire;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steersman_evidence::record::{Record, Run};
use steersman_evidence::{Bounds, History, Verdict, check};
use tokio::runtime::RngSeed;
use tokio::task::JoinSet;

use self::hub::Hub;
use self::plan::Plan;
use self::worker::Worker;
use crate::panics;
use crate::run::{Options, Outcome};

/// Followers of the event stream.
const FOLLOWERS: u64 = 2;
/// A worker that could reach the masters for so long beyond its lease may not be lost: an election and a session.
const TAKEOVER_US: u64 = 5_000_000;

/// One run from a seed.
///
/// # Errors
/// Whatever keeps the run from being run at all; broken promises are verdicts.
pub fn run(seed: u64, options: &Options) -> anyhow::Result<Outcome> {
    panics::watch();
    steersman_raft_store::runtime::seed(Some(seed));
    steersman_raft_store::runtime::around(Some(crate::scope::around));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()?;
    let plan = Plan::draw(seed, options);
    let (hub, ran) = runtime.block_on(async {
        let hub = Hub::new(plan);
        let ran = weather_the_storm(&hub).await;
        (hub, ran)
    });
    let simulated_ms = hub.journal.ended_us() / 1_000;
    drop(runtime);
    steersman_raft_store::runtime::around(None);
    ran?;
    for panic in panics::seen() {
        if panics::is_known(&panic) {
            hub.journal.count("openraft asserted about purged entries");
        } else {
            hub.journal.problem(format!("a task panicked: {panic}"));
        }
    }
    Ok(judge(&hub, simulated_ms))
}

async fn weather_the_storm(hub: &Arc<Hub>) -> anyhow::Result<()> {
    hub.journal.push(Record::Run(about(&hub.plan)));
    hub.form().await?;
    let workers: Vec<Arc<Worker>> = (1..=hub.plan.workers).map(|number| Worker::new(hub, number)).collect();
    for worker in &workers {
        hub.journal.reach(&worker.name, true);
        worker.start();
    }
    let mut clients = JoinSet::new();
    for process in 1..=hub.plan.clients {
        clients.spawn(client::Client::new(hub, process).live());
    }
    for follower in 1..=FOLLOWERS {
        tokio::spawn(client::follow(hub.clone(), follower));
    }
    // The first leader takes office in fair weather.
    tokio::time::sleep(Duration::from_millis(800)).await;
    storm::Storm::new(hub, &workers).blow().await;
    ending::end(hub, &workers, clients).await;
    hub.journal.stop();
    Ok(())
}

fn about(plan: &Plan) -> Run {
    let facts = [
        ("snapshot_entries", plan.snapshot_entries.to_string()),
        ("lease_ms", plan.lease_ms.to_string()),
        ("events_max", plan.events_max.to_string()),
        ("fast_takeover", plan.fast_takeover.to_string()),
    ];
    Run {
        format: steersman_evidence::record::FORMAT,
        kind: "fast".to_owned(),
        seed: plan.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        masters: plan.masters,
        workers: plan.workers,
        began_wall_ms: crate::clock::EPOCH_MS + plan.wall_shift_ms,
        faults_wanted: plan.faults.iter().filter(|class| *class != "none").cloned().collect(),
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

fn judge(hub: &Hub, simulated_ms: u64) -> Outcome {
    let (records, problems, mut coverage) = hub.journal.take();
    let examined = coverage.get("digest compared").copied().unwrap_or(0);
    coverage.insert("terms".to_owned(), hub.truth.terms());
    let bounds = Bounds {
        drained: problems.is_empty(),
        recovery_us: Some(ending::LEADER_WITHIN.as_micros() as u64),
        drain_us: Some(ending::DRAINED_WITHIN.as_micros() as u64),
        punish_after_us: Some(hub.plan.lease_ms * 1_000 + TAKEOVER_US),
        ..Bounds::none()
    };
    let mut verdicts = vec![Verdict::of("inside", examined, problems)];
    verdicts.extend(check(&History::from_records(records.clone()), &bounds));
    let coverage: BTreeMap<String, u64> = coverage;
    Outcome { records, verdicts, coverage, simulated_ms }
}

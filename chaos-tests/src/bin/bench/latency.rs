//! From submit to finished, on an idle cluster, one task at a time.

use std::time::Instant;

use anyhow::{Result, ensure};
use steersman_chaos_tests::Cluster;
use steersman_chaos_tests::spec::{argv, one};
use steersman_client::Client;
use steersman_client::v1::TaskGroup;

use crate::bed;
use crate::limits::Limits;
use crate::plan::Plan;
use crate::report::Row;
use crate::stats::ms;

/// Clients that take turns: each reads at a master of its choice, so all masters get their part.
const CLIENTS: usize = 9;

/// The rows.
///
/// # Errors
/// If a task does not succeed.
pub async fn measure(plan: &Plan, limits: &Limits) -> Result<Vec<Row>> {
    let cluster = Cluster::start(bed::settings(2, 10)).await;
    let handler = tasks(&cluster, &one(bed::noop(Vec::new())), plan.latency_tries).await?;
    let process = tasks(&cluster, &one(argv(&["/bin/true"])), plan.latency_tries).await?;
    let command = commands(&cluster, plan.command_tries).await?;
    let (round, spawn) = (limits.round_ms(), limits.spawn_ms());
    let rounds = "two durable rounds (each: a sync and two bare calls)";
    Ok(vec![
        Row::new("no-op handler, submit to acknowledged", "ms", &handler.acknowledged)?
            .against("one durable round", round),
        Row::new("no-op handler, submit to finished", "ms", &handler.finished)?.against(rounds, 2.0 * round),
        Row::new("`/bin/true`, submit to finished", "ms", &process.finished)?
            .against("two durable rounds and one spawn", 2.0 * round + spawn),
        Row::new("`steersman run -- true` as a command", "ms", &command)?
            .against("two durable rounds and two spawns", 2.0 * (round + spawn)),
    ])
}

#[derive(Default)]
struct Taken {
    acknowledged: Vec<f64>,
    finished: Vec<f64>,
}

async fn tasks(cluster: &Cluster, groups: &[TaskGroup], tries: usize) -> Result<Taken> {
    let clients = (0..CLIENTS).map(|_| bed::client(cluster)).collect::<Result<Vec<Client>>>()?;
    let mut taken = Taken::default();
    // The first round of all clients only opens connections.
    for (at, client) in clients.iter().cycle().take(CLIENTS + tries).enumerate() {
        let began = Instant::now();
        let answer = client.submit(groups.to_vec()).await?;
        let acknowledged = began.elapsed();
        let totals = client.wait(answer.first_id, 1, None).await?;
        ensure!(totals.succeeded + totals.gone == 1, "task {} did not succeed: {totals:?}", answer.first_id);
        if at >= CLIENTS {
            taken.acknowledged.push(ms(acknowledged));
            taken.finished.push(ms(began.elapsed()));
        }
    }
    Ok(taken)
}

async fn commands(cluster: &Cluster, tries: usize) -> Result<Vec<f64>> {
    let cli = cluster.cli();
    let mut taken = Vec::new();
    for _ in 0..tries {
        let began = Instant::now();
        let said = cli.run(&["run", "--", "true"]).await;
        taken.push(ms(began.elapsed()));
        ensure!(said.code == 0, "`steersman run -- true` failed: {said:?}");
    }
    Ok(taken)
}

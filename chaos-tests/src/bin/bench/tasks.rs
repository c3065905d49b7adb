//! Tasks per second, from the first submit until a client has seen that all are finished.

use std::time::Instant;

use anyhow::{Result, ensure};
use steersman_chaos_tests::Cluster;
use steersman_chaos_tests::spec::{argv, group};
use steersman_client::Client;

use crate::bed::{self, Meter, Shape};
use crate::limits::Limits;
use crate::plan::Plan;
use crate::report::Row;
use crate::say;

const WORKERS: usize = 2;
/// Slots of each worker for tasks that do nothing.
const NOOP_SLOTS: [u32; 2] = [64, 512];
/// Slots of each worker for processes: few, and more than a machine of two cores can use.
const PROCESS_SLOTS: [u32; 2] = [4, 64];

/// The rows.
///
/// # Errors
/// If a task does not succeed.
pub async fn measure(plan: &Plan, limits: &Limits) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for slots in NOOP_SLOTS {
        let mut cluster = Cluster::start(bed::settings(WORKERS, slots)).await;
        for shape in [Shape::Array, Shape::Specs] {
            rows.push(noops(&mut cluster, plan, shape).await?);
        }
    }
    for slots in PROCESS_SLOTS {
        let mut cluster = Cluster::start(bed::settings(WORKERS, slots)).await;
        let row = processes(&mut cluster, plan).await?;
        rows.push(row.against("spawn and wait `/bin/true`, two at a time", limits.spawn_per_s()));
    }
    Ok(rows)
}

async fn noops(cluster: &mut Cluster, plan: &Plan, shape: Shape) -> Result<Row> {
    let (total, batch) = (plan.noop_tasks, plan.batch.min(plan.noop_tasks));
    let slots = cluster.settings.capacity;
    let what = format!("{total} no-op tasks, {} of {batch}, workers {WORKERS} × {slots} slots", shape.words());
    let client = bed::client(cluster)?;
    let (mut rates, mut submits) = (Vec::new(), Vec::new());
    let before = Meter::read(cluster).await?;
    for _ in 0..plan.repetitions {
        let began = Instant::now();
        let calls = bed::fill(&client, shape, total, batch).await?;
        submits.push(began.elapsed().as_secs_f64());
        bed::finish(&client, &calls).await?;
        rates.push(f64::from(total) / began.elapsed().as_secs_f64());
        say(&format!("  {what}: {:.0} per second", rates[rates.len() - 1]));
    }
    let done = f64::from(total) * rates.len() as f64;
    let costs = Meter::read(cluster).await?.since(&before, done);
    none_left(cluster, &client).await?;
    let submitting = ("ms of it until all were acknowledged".to_owned(), submits.iter().sum::<f64>() * 1e6 / done);
    Ok(Row::new(what, "per second", &rates)?.costing(costs).costing([submitting]))
}

async fn processes(cluster: &mut Cluster, plan: &Plan) -> Result<Row> {
    let (total, slots) = (plan.process_tasks, cluster.settings.capacity);
    let what = format!("{total} × `/bin/true`, one array, workers {WORKERS} × {slots} slots");
    let client = bed::client(cluster)?;
    let mut rates = Vec::new();
    let before = Meter::read(cluster).await?;
    for _ in 0..plan.repetitions {
        let began = Instant::now();
        let answer = client.submit(group(argv(&["/bin/true"]), total)).await?;
        ensure!(answer.count == u64::from(total), "{} of {total} tasks were taken", answer.count);
        bed::finish(&client, &[(answer.first_id, answer.count)]).await?;
        rates.push(f64::from(total) / began.elapsed().as_secs_f64());
        say(&format!("  {what}: {:.0} per second", rates[rates.len() - 1]));
    }
    let costs = Meter::read(cluster).await?.since(&before, f64::from(total) * rates.len() as f64);
    none_left(cluster, &client).await?;
    Ok(Row::new(what, "per second", &rates)?.costing(costs))
}

/// Info is what one master knows, so all have to have applied the same first.
async fn none_left(cluster: &Cluster, client: &Client) -> Result<()> {
    bed::whole(cluster).await;
    bed::none_left(client).await
}

//! What pending tasks cost in the memory of each master.

use anyhow::Result;
use steersman_chaos_tests::Cluster;

use crate::bed::{self, Shape};
use crate::plan::Plan;
use crate::report::Row;

/// What growth is told for.
const PER: f64 = 100_000.0;

/// The rows: one value for each master.
///
/// # Errors
/// If a submit fails.
pub async fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for shape in [Shape::Array, Shape::Specs] {
        rows.extend(of(shape, plan).await?);
    }
    Ok(rows)
}

async fn of(shape: Shape, plan: &Plan) -> Result<[Row; 3]> {
    let mut cluster = Cluster::start(bed::settings(0, 1)).await;
    bed::whole(&cluster).await;
    let before = bed::resident_mib(&mut cluster)?;
    bed::fill(&bed::client(&cluster)?, shape, plan.pending, plan.batch).await?;
    bed::whole(&cluster).await;
    let after = bed::resident_mib(&mut cluster)?;
    let scale = PER / f64::from(plan.pending);
    let growth: Vec<f64> = before.iter().zip(&after).map(|(before, after)| (after - before) * scale).collect();
    let (words, pending) = (shape.words(), plan.pending);
    Ok([
        Row::new(format!("a master before ({words})"), "MiB", &before)?,
        Row::new(format!("a master with {pending} pending tasks ({words})"), "MiB", &after)?,
        Row::new(format!("growth per 100,000 pending tasks ({words})"), "MiB", &growth)?,
    ])
}

//! Whether a snapshot of many pending tasks holds up submits: the same loop with snapshots and without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::Client;

use crate::bed::{self, Shape};
use crate::plan::Plan;
use crate::report::Row;
use crate::stats::ms;

/// Entries between snapshots of a cluster that never takes one here.
const NEVER: &str = "10000000";
/// Between two looks at the snapshot's index.
const LOOK: Duration = Duration::from_millis(25);

/// The rows.
///
/// # Errors
/// If a submit fails.
pub async fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let (without, _) = gaps(plan, NEVER).await?;
    let (with, taken) = gaps(plan, plan.gap_snapshot_entries).await?;
    let pending = plan.pending;
    let words = |kind: &str| format!("between two acknowledged submits, {pending} tasks pending, {kind}");
    let every = format!("a snapshot every {} entries ({taken} by the leader)", plan.gap_snapshot_entries);
    Ok(vec![Row::new(words("no snapshots"), "ms", &without)?, Row::new(words(&every), "ms", &with)?])
}

/// The gaps between the acknowledged submits of one caller, and how many snapshots the leader took meanwhile.
async fn gaps(plan: &Plan, entries: &'static str) -> Result<(Vec<f64>, u32)> {
    let master_keys = vec![("raft.snapshot_entries", entries), ("raft.keep_entries", "50")];
    let cluster = Cluster::start(Settings { master_keys, ..bed::settings(0, 1) }).await;
    let client = bed::client(&cluster)?;
    bed::fill(&client, Shape::Specs, plan.pending, plan.batch).await?;
    bed::whole(&cluster).await;
    let leader = cluster.wait_leader().await.leader;
    let (asked, stop) = (cluster.client_of(leader), AtomicBool::new(false));
    let submitting = async {
        let gaps = submit(&client, plan.gap_span).await;
        stop.store(true, Ordering::Relaxed);
        gaps
    };
    let (gaps, snapshots) = tokio::join!(submitting, snapshots(&asked, &stop));
    Ok((gaps?, snapshots))
}

/// How often the index of a master's snapshot changes until it is time to stop.
async fn snapshots(master: &Client, stop: &AtomicBool) -> u32 {
    let (mut last, mut changes) = (None, 0);
    while !stop.load(Ordering::Relaxed) {
        if let Ok(info) = master.info().await {
            changes += u32::from(last.is_some_and(|index| index != info.snapshot_index));
            last = Some(info.snapshot_index);
        }
        tokio::time::sleep(LOOK).await;
    }
    changes
}

async fn submit(client: &Client, span: Duration) -> Result<Vec<f64>> {
    let (began, groups) = (Instant::now(), bed::submit_of_256());
    let (mut last, mut gaps) = (began, Vec::new());
    while began.elapsed() < span {
        client.submit(groups.clone()).await?;
        gaps.push(ms(last.elapsed()));
        last = Instant::now();
    }
    Ok(gaps)
}

//! Clients that submit small tasks without a pause, and remember what was acknowledged.
//!
//! What always holds: an id is in [`LoadReport::acknowledged`] exactly if some submit was answered with it; a call that
//! failed after all the retries of the client is in [`LoadReport::failed`], never hidden.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use steersman_client::Client;
use steersman_client::v1::TaskGroup;
use tokio::task::JoinSet;

use crate::cluster::PATIENCE;
use crate::poll::until_now;

/// Between two submits of one client: a load that two cores carry next to five processes.
const PACE: Duration = Duration::from_millis(20);

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub struct LoadReport {
    /// Ids of all acknowledged tasks.
    pub acknowledged: Vec<u64>,
    /// Calls that failed, in words.
    pub failed: Vec<String>,
    /// The longest call.
    pub slowest: Duration,
    /// Calls that were answered.
    pub calls: u64,
}

/// Submitters at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    submitters: JoinSet<LoadReport>,
}

impl Load {
    /// Starts `submitters` that submit `groups` over and over.
    pub fn start(client: &Client, submitters: usize, groups: Vec<TaskGroup>) -> Self {
        let (stop, paused, calls) = (Arc::default(), Arc::default(), Arc::new(AtomicU64::new(0)));
        let mut set = JoinSet::new();
        for _ in 0..submitters {
            let signals = (Arc::clone(&stop), Arc::clone(&paused));
            set.spawn(submit_all(client.clone(), groups.clone(), signals, calls.clone()));
        }
        Self { stop, paused, calls, submitters: set }
    }

    /// From now on nobody submits, or everybody does again.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Waits until `more` further calls were answered.
    pub async fn answered(&self, more: u64) {
        let goal = self.calls.load(Ordering::Relaxed) + more;
        until_now(&format!("{more} more answers to the load"), PATIENCE, || {
            let calls = self.calls.load(Ordering::Relaxed);
            if calls >= goal { Ok(()) } else { Err(format!("{calls} of {goal}")) }
        })
        .await;
    }

    /// Stops and tells.
    ///
    /// # Panics
    /// If a submitter panicked.
    pub async fn stop(mut self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = LoadReport::default();
        while let Some(part) = self.submitters.join_next().await {
            let part = part.unwrap_or_else(|error| panic!("a submitter panicked: {error}"));
            all.acknowledged.extend(part.acknowledged);
            all.failed.extend(part.failed);
            all.slowest = all.slowest.max(part.slowest);
            all.calls += part.calls;
        }
        all.acknowledged.sort_unstable();
        all
    }
}

async fn submit_all(
    client: Client,
    groups: Vec<TaskGroup>,
    (stop, paused): (Arc<AtomicBool>, Arc<AtomicBool>),
    calls: Arc<AtomicU64>,
) -> LoadReport {
    let mut report = LoadReport::default();
    while !stop.load(Ordering::Relaxed) {
        if paused.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
            continue;
        }
        let began = Instant::now();
        match client.submit(groups.clone()).await {
            Ok(answer) => {
                report.acknowledged.extend(answer.first_id..answer.first_id + answer.count);
                report.calls += 1;
                calls.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => report.failed.push(error.to_string()),
        }
        report.slowest = report.slowest.max(began.elapsed());
        tokio::time::sleep(PACE).await;
    }
    report
}

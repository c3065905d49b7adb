//! How long nobody can submit when the leader ends: killed, frozen, or stepping down.
//!
//! What always holds: a gap is the time between two acknowledged submits of one client that submits without a pause, the
//! later of them after the fault; the cluster is whole again before the next fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use steersman_chaos_tests::poll::until_now;
use steersman_chaos_tests::{Cluster, PATIENCE};
use steersman_client::{Client, LeaderWatch, World};
use tokio::task::JoinSet;

use crate::bed;
use crate::plan::Plan;
use crate::report::Row;
use crate::say;
use crate::stats::ms;

/// Acknowledged before the fault, so that the gap has a beginning.
const BEFORE: usize = 50;
/// Acknowledged after a newer leader is known, so that the gap is over.
const AFTER: usize = 20;
/// Of the client with short tries: what the cluster itself takes shows behind the client's own patience.
const SHORT_TRY: Duration = Duration::from_millis(100);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// Asked to hand over.
    StepDown,
    /// SIGSTOP: its host still accepts connections.
    Freeze,
}

/// The rows.
///
/// # Errors
/// If a submit fails for good, or the office does not move.
pub async fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut cluster = Cluster::start(bed::settings(2, 10)).await;
    let user = bed::client(&cluster)?;
    let built = Client::builder(World::real()).addresses(cluster.addresses()).try_timeout(SHORT_TRY).build();
    let hasty = built?;
    let rows = [
        ("leader killed (SIGKILL)", Fault::Kill, plan.kills, &user),
        ("leader steps down", Fault::StepDown, plan.handovers, &user),
        ("leader frozen (SIGSTOP)", Fault::Freeze, plan.handovers, &user),
        ("leader frozen, client with tries of 100 ms", Fault::Freeze, plan.handovers, &hasty),
    ];
    let mut all = Vec::new();
    for (what, fault, trials, client) in rows {
        let mut gaps = Vec::new();
        for _ in 0..trials {
            gaps.push(trial(&mut cluster, fault, client).await?);
            say(&format!("  {what}: {:.1} ms", gaps[gaps.len() - 1]));
        }
        all.push(Row::new(what, "ms", &gaps)?);
    }
    Ok(all)
}

/// One fault; returns the gap in ms.
async fn trial(cluster: &mut Cluster, fault: Fault, client: &Client) -> Result<f64> {
    bed::whole(cluster).await;
    let reign = cluster.wait_leader().await;
    let watch = bed::client(cluster)?.watch_leader();
    let submitter = Submitter::start(client);
    submitter.acknowledged(BEFORE).await;
    let fault_at = Instant::now();
    match fault {
        Fault::Kill => cluster.kill_master(reign.leader),
        Fault::Freeze => cluster.master(reign.leader).process.signal(Signal::SIGSTOP),
        Fault::StepDown => drop(cluster.client().step_down(0).await?),
    }
    wait_newer(&watch, reign.term).await;
    submitter.acknowledged(submitter.count() + AFTER).await;
    match fault {
        Fault::Kill => cluster.start_master(reign.leader),
        Fault::Freeze => cluster.master(reign.leader).process.signal(Signal::SIGCONT),
        Fault::StepDown => {}
    }
    longest_gap(&submitter.stop().await?, fault_at)
}

async fn wait_newer(watch: &LeaderWatch, term: u64) {
    until_now("a newer leader", PATIENCE, || match watch.current() {
        view if view.leader.is_some() && view.term > term => Ok(()),
        view => Err(format!("{view:?}")),
    })
    .await;
}

/// The longest time between two answers of which the later came after the fault.
fn longest_gap(answers: &[Instant], fault: Instant) -> Result<f64> {
    ensure!(answers.first().is_some_and(|first| *first < fault), "nothing was acknowledged before the fault");
    let pairs = answers.windows(2).filter(|pair| pair[1] > fault);
    pairs.map(|pair| ms(pair[1] - pair[0])).max_by(f64::total_cmp).context("nothing was acknowledged after the fault")
}

/// One caller that submits without a pause.
struct Submitter {
    stop: Arc<AtomicBool>,
    answers: Arc<std::sync::Mutex<Vec<Instant>>>,
    task: JoinSet<Result<()>>,
}

impl Submitter {
    fn start(client: &Client) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::<std::sync::Mutex<Vec<Instant>>>::default());
        let mut task = JoinSet::new();
        let (client, stopped, noted) = (client.clone(), stop.clone(), answers.clone());
        task.spawn(async move {
            let groups = bed::submit_of_256();
            while !stopped.load(Ordering::Relaxed) {
                client.submit(groups.clone()).await?;
                noted.lock().map_err(|_| anyhow::anyhow!("a reader panicked"))?.push(Instant::now());
            }
            Ok(())
        });
        Self { stop, answers, task }
    }

    fn count(&self) -> usize {
        self.answers.lock().map_or(0, |answers| answers.len())
    }

    async fn acknowledged(&self, count: usize) {
        until_now(&format!("{count} acknowledged submits"), PATIENCE, || match self.count() {
            enough if enough >= count => Ok(()),
            few => Err(few.to_string()),
        })
        .await;
    }

    async fn stop(mut self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_next().await.context("the submitter is gone")???;
        let answers = self.answers.lock().map_err(|_| anyhow::anyhow!("the submitter panicked"))?;
        Ok(answers.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_gap_is_the_longest_one_that_ends_after_the_fault() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let answers = [at(0), at(90), at(100), at(101), at(140), at(145)];
        assert_eq!(longest_gap(&answers, at(95)).unwrap(), 39.0);
        assert!(longest_gap(&answers[..3], at(100)).is_err());
        assert!(longest_gap(&answers[1..], at(50)).is_err());
    }
}

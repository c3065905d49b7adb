//! Safety rails: what must hold before anything is broken, and when a cluster counts as whole again.
//!
//! What always holds: nothing is assumed; every voter is asked itself, and a refusal comes with the arithmetic.

use std::collections::BTreeMap;
use std::time::Duration;

use steersman_client::v1::{Consistency, InfoResponse, ListWorkersRequest, Page, Worker, WorkerStatus};
use steersman_client::{Client, codes};
use tokio::time::Instant;

use super::kind::Kind;
use crate::exit::{self, Failure, Outcome};
use crate::status::Picture;

/// A follower may be so many entries behind: less than a second's work.
const LAG_MAX: u64 = 1_000;
/// Between two looks at a cluster that mends.
const LOOK: Duration = Duration::from_millis(50);
/// A cluster that is not whole gets so long before a drill of it is refused.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// Workers that are looked at.
const WORKERS_MAX: u32 = 1_000;

/// The cluster at one moment.
pub struct Health {
    /// Every master.
    pub picture: Picture,
    /// Workers that are known, by name.
    pub workers: BTreeMap<String, Worker>,
}

impl Health {
    /// Asks everybody.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn take(client: &Client) -> Outcome<Self> {
        let picture = Picture::take(client).await;
        let page = Some(Page { page_size: WORKERS_MAX, page_token: String::new() });
        let request = ListWorkersRequest { page, consistency: Consistency::Linearizable.into(), ..Default::default() };
        let listed = client.worker_list(request).await?;
        let workers = listed.workers.into_iter().map(|worker| (worker.name.clone(), worker)).collect();
        Ok(Self { picture, workers })
    }

    /// The leader's own word.
    pub fn leader(&self) -> Option<&InfoResponse> {
        self.picture.leader()
    }

    /// Workers that take work.
    pub fn at_work(&self) -> impl Iterator<Item = &Worker> {
        self.workers
            .values()
            .filter(|worker| worker.connected && matches!(worker.status(), WorkerStatus::Online | WorkerStatus::Busy))
    }

    /// Free slots of all workers.
    pub fn free_slots(&self) -> u64 {
        self.at_work().map(|worker| u64::from(worker.capacity.saturating_sub(worker.used))).sum()
    }

    /// Why this cluster is not whole: a voter that does not answer, is not ready, or lags.
    pub fn troubles(&self) -> Vec<String> {
        let Some(leader) = self.leader() else { return vec![self.picture.summary()] };
        let leader_id = leader.self_.as_ref().map_or(0, |own| own.id);
        let mut troubles = Vec::new();
        for seen in self.picture.masters.iter().filter(|seen| seen.voter != Some(false)) {
            match &seen.answer {
                Err(error) => troubles.push(format!("master {} ({}): {}", seen.id, seen.address, error.message())),
                Ok(info) if !info.ready => troubles.push(format!("master {} is not ready", seen.id)),
                Ok(info) => {
                    let named = info.leader.as_ref().and_then(|told| told.leader.as_ref()).map_or(0, |told| told.id);
                    if named != leader_id {
                        troubles.push(format!("master {} follows master {named}, not {leader_id}", seen.id));
                    }
                    let lag = leader.committed_index.saturating_sub(info.applied_index);
                    if lag > LAG_MAX {
                        troubles.push(format!("master {} is {lag} entries behind, {LAG_MAX} are allowed", seen.id));
                    }
                }
            }
        }
        troubles
    }
}

/// As [`Health::take`], once the cluster is whole or has had [`SETTLE_MAX`] to become so: one slow answer on a busy machine is no
/// reason to refuse.
///
/// # Errors
/// As [`Health::take`].
pub async fn settled(client: &Client) -> Outcome<Health> {
    // What is still missing then is told by whoever checks.
    drop(whole_again(client, &[], Instant::now() + SETTLE_MAX).await);
    Health::take(client).await
}

/// Refuses what could cost the quorum or all workers.
///
/// # Errors
/// With the arithmetic.
pub fn check(health: &Health, kind: Kind) -> Outcome {
    let troubles = health.troubles();
    let (up, voters, needed) = health.picture.arithmetic();
    if !troubles.is_empty() {
        let message = format!("{kind} is refused, for the cluster is not whole: {}", troubles.join("; "));
        return Err(refused(message, "mend that first; see: steersman status"));
    }
    if kind != Kind::ClockJump && up.saturating_sub(1) < needed {
        let message = format!(
            "{kind} is refused: {up} of {voters} masters are up; with one less {} would be left, and {needed} are needed",
            up.saturating_sub(1)
        );
        return Err(refused(message, "drills need three masters or more: steersman dev --masters 3"));
    }
    let workers = health.at_work().count();
    let wanted = if kind.stops_workers() { 2 } else { 1 };
    if workers < wanted {
        let message = format!("{kind} is refused: {workers} workers take work, {wanted} are needed");
        return Err(refused(message, "see: steersman worker list"));
    }
    Ok(())
}

fn refused(message: String, hint: &str) -> Failure {
    Failure::coded(exit::REFUSED, &codes::FAILED_PRECONDITION, message).hint(hint)
}

/// Waits until every voter is up and every worker of before takes work again.
///
/// # Errors
/// What is still missing at `until`.
pub async fn whole_again(client: &Client, workers: &[String], until: Instant) -> Result<(), String> {
    let client = client.with_timeout(Duration::from_secs(2));
    loop {
        let missing = match Health::take(&client).await {
            Ok(health) => missing(&health, workers),
            Err(failure) => vec![failure.message],
        };
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(missing.join("; "));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn missing(health: &Health, workers: &[String]) -> Vec<String> {
    let at_work: Vec<&str> = health.at_work().map(|worker| worker.name.as_str()).collect();
    let away = workers.iter().filter(|name| !at_work.contains(&name.as_str()));
    health.troubles().into_iter().chain(away.map(|name| format!("worker {name} is not back"))).collect()
}

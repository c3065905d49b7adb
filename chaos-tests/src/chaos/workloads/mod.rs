//! The workloads, all at once: what clients of a cluster do, at a rate that can be set.
//!
//! What always holds: each ends soon after it is told to, with the operation that it has open; none of them judges an answer.

mod exclusive;
mod fenced;
mod floods;
mod followers;
mod idempotent;
mod modes;
mod registers;
mod submit;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::traffic::Traffic;

/// How much of everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Operations on registers per second, of all processes together.
    pub registers: f64,
    /// Processes that share them.
    pub register_processes: u32,
    /// Submits per second that are retried under one request id.
    pub idempotent: f64,
    /// Submits per second of tasks that write to the fenced register.
    pub fenced: f64,
    /// Submits per second of tasks that must not run twice at a time.
    pub exclusive: f64,
    /// Between two floods.
    pub flood_every: Duration,
    /// Tasks in a flood, from and to.
    pub flood_tasks: (u64, u64),
}

impl Rates {
    /// What adds up to about `total` operations per second.
    pub fn of(total: f64) -> Self {
        Self {
            registers: total * 0.87,
            // Enough that those which wait for an election do not slow down the others.
            register_processes: 16,
            idempotent: (total * 0.02).max(0.2),
            // Each is a process on this machine, which costs more than an operation.
            fenced: (total * 0.015).max(0.2),
            exclusive: (total * 0.006).max(0.2),
            flood_every: Duration::from_secs(120),
            flood_tasks: (500, 2_000),
        }
    }
}

/// Everything that goes on at the same time.
#[derive(Debug)]
pub struct Workloads {
    clients: JoinSet<()>,
    followers: JoinSet<()>,
    goal: watch::Sender<Option<u64>>,
}

impl Workloads {
    /// Starts them.
    pub fn start(traffic: &Arc<Traffic>, rates: &Rates, workers: &[String]) -> Self {
        let goal = watch::Sender::new(None);
        let mut clients = JoinSet::new();
        let of_one = rates.registers / f64::from(rates.register_processes.max(1));
        for _ in 0..rates.register_processes {
            clients.spawn(registers::run(traffic.clone(), of_one));
        }
        // Several tries make one submit, so two processes share the rate.
        (0..2).for_each(|_| drop(clients.spawn(idempotent::run(traffic.clone(), rates.idempotent / 2.0))));
        clients.spawn(fenced::run(traffic.clone(), rates.fenced));
        clients.spawn(exclusive::run(traffic.clone(), rates.exclusive));
        clients.spawn(floods::run(traffic.clone(), rates.flood_every, rates.flood_tasks));
        clients.spawn(modes::run(traffic.clone(), workers.to_vec()));
        clients.spawn(registers::registry(traffic.clone()));
        Self { clients, followers: followers::start(traffic, &goal), goal }
    }

    /// Waits until every client has ended, after the traffic was stopped.
    pub async fn clients_ended(&mut self) -> Vec<String> {
        ended(&mut self.clients).await
    }

    /// Waits until every follower has got everything up to `index`, but not longer than `patience`.
    pub async fn followers_ended(&mut self, index: u64, patience: Duration) -> Vec<String> {
        self.goal.send_replace(Some(index));
        let panics = tokio::time::timeout(patience, ended(&mut self.followers)).await;
        let late = self.followers.len();
        self.followers.shutdown().await;
        panics.unwrap_or_else(|_| vec![format!("{late} followers did not reach index {index} within {patience:?}")])
    }
}

/// What went wrong in them.
async fn ended(set: &mut JoinSet<()>) -> Vec<String> {
    let mut panics = Vec::new();
    while let Some(end) = set.join_next().await {
        panics.extend(end.err().map(|error| format!("a workload failed: {error}")));
    }
    panics
}

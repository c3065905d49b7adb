//! The storm: faults drawn from the seed, some at a time, each of which ends by itself, until the run is calm.
//!
//! What always holds: every fault begins and ends in the journal; when the storm is over nothing of it is in force. The
//! number of masters that fail at a time is not limited: safety must hold always, progress only afterwards.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use steersman_raft_store::CrashMode;
use steersman_world::{Entropy as _, SeededEntropy};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hub::Hub;
use super::links::{Trouble, Which};
use super::operator;
use super::plan::{CLIENTS_AT, WORKERS_AT};
use super::worker::Worker;

/// Faults in force at a time.
const AT_ONCE_MAX: usize = 3;

/// All classes, with how often each is drawn.
pub const CLASSES: &[(&str, u64)] = &[
    ("kill", 8),
    ("kill-leader", 6),
    ("kill-all", 2),
    ("power-loss", 8),
    ("power-loss-several", 3),
    ("power-loss-all", 2),
    ("pause", 7),
    ("partition", 5),
    ("partition-one-sided", 5),
    ("isolate-leader", 5),
    ("bridge", 3),
    ("flap", 3),
    ("delay", 4),
    ("loss", 4),
    ("duplicate", 5),
    ("reorder", 4),
    ("slow-disk", 4),
    ("stalled-disk", 3),
    ("failing-disk", 3),
    ("full-disk", 3),
    ("clock-jump", 3),
    ("clock-drift", 3),
    ("transfer", 5),
    ("snapshot", 5),
    ("add-master", 4),
    ("remove-master", 3),
    ("worker-kill", 5),
    ("worker-cut", 5),
    ("worker-pause", 4),
    ("worker-late", 3),
];

/// The storm of one run.
#[derive(Clone)]
pub struct Storm {
    /// The run.
    pub hub: Arc<Hub>,
    /// All workers.
    pub workers: Vec<Arc<Worker>>,
    numbers: Arc<SeededEntropy>,
    until: Instant,
}

impl Storm {
    /// A storm that lasts as long as the plan says, from now on.
    pub fn new(hub: &Arc<Hub>, workers: &[Arc<Worker>]) -> Self {
        let numbers = Arc::new(SeededEntropy::new(hub.plan.seed ^ 0x5702));
        let until = Instant::now() + Duration::from_secs(hub.plan.seconds);
        Self { hub: hub.clone(), workers: workers.to_vec(), numbers, until }
    }

    /// Blows until its time is over and every fault has ended.
    pub async fn blow(self) {
        let mut faults: JoinSet<()> = JoinSet::new();
        while Instant::now() < self.until {
            let gap = Duration::from_millis(150 + self.below(1_800));
            tokio::time::sleep(gap.min(self.until - Instant::now())).await;
            while faults.try_join_next().is_some() {}
            if faults.len() < AT_ONCE_MAX
                && let Some(class) = self.draw()
            {
                faults.spawn(self.clone().fault(class));
            }
        }
        while faults.join_next().await.is_some() {}
    }

    fn below(&self, n: u64) -> u64 {
        self.numbers.below(n)
    }

    fn draw(&self) -> Option<&'static str> {
        let wanted = &self.hub.plan.faults;
        let allowed = |class: &str| wanted.is_empty() || wanted.iter().any(|one| one == class);
        let allowed: Vec<_> = CLASSES.iter().filter(|(class, _)| allowed(class)).collect();
        let total: u64 = allowed.iter().map(|(_, weight)| weight).sum();
        let mut at = self.below(total);
        allowed.into_iter().find_map(|(class, weight)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit.then_some(*class)
        })
    }

    /// A fault's length: short ones are as likely as long ones, and none outlasts the storm.
    async fn hold(&self, most_ms: u64) {
        let ms = if self.below(2) == 0 { 20 + self.below(400) } else { 100 + self.below(most_ms) };
        let end = (Instant::now() + Duration::from_millis(ms)).min(self.until);
        tokio::time::sleep_until(end).await;
    }

    fn some_master(&self) -> u64 {
        let known = self.hub.known();
        known[self.below(known.len() as u64) as usize]
    }

    fn leader_or_any(&self) -> u64 {
        self.hub.leader().map_or_else(|| self.some_master(), |(id, _)| id)
    }

    fn some_worker(&self) -> Arc<Worker> {
        self.workers[self.below(self.workers.len() as u64) as usize].clone()
    }

    fn fault(self, class: &'static str) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match class {
                "kill" | "kill-leader" | "kill-all" => self.kill(class).await,
                "power-loss" | "power-loss-several" | "power-loss-all" => self.power_loss(class).await,
                "pause" => self.pause().await,
                "partition" | "partition-one-sided" | "isolate-leader" | "bridge" => self.partition(class).await,
                "flap" => self.flap().await,
                "delay" | "loss" | "duplicate" | "reorder" => self.weather(class).await,
                "slow-disk" | "stalled-disk" => self.slow_disk(class).await,
                "failing-disk" | "full-disk" => self.bad_disk(class).await,
                "clock-jump" | "clock-drift" => self.clock(class).await,
                "worker-kill" | "worker-cut" | "worker-pause" | "worker-late" => self.worker(class).await,
                _ => self.operate(class).await,
            }
        })
    }

    /// Processes die; their hosts keep what was written.
    async fn kill(&self, class: &'static str) {
        let targets = match class {
            "kill-all" => self.hub.known(),
            "kill-leader" => vec![self.leader_or_any()],
            _ => vec![self.some_master()],
        };
        self.down(class, targets, false, 2_500).await;
    }

    /// Hosts lose power; what was not synced is gone, or part of it.
    async fn power_loss(&self, class: &'static str) {
        let known = self.hub.known();
        let targets = match class {
            "power-loss-all" => known,
            "power-loss-several" => known.into_iter().filter(|_| self.below(2) == 0).collect(),
            _ => vec![self.leader_or_any()],
        };
        self.down(class, targets, true, 4_000).await;
    }

    async fn down(&self, class: &'static str, targets: Vec<u64>, dark: bool, most_ms: u64) {
        let targets: Vec<u64> = targets.into_iter().filter(|id| self.hub.life(*id).is_some()).collect();
        if targets.is_empty() {
            return;
        }
        let name = names(&targets);
        self.hub.began(class, &name);
        for id in &targets {
            let mode = if dark { self.hub.power_cut(*id) } else { CrashMode::KeepBatches(usize::MAX) };
            self.hub.kill(*id, mode, dark);
        }
        self.hold(most_ms).await;
        for id in &targets {
            if targets.len() > 1 {
                tokio::time::sleep(Duration::from_millis(self.below(300))).await;
            }
            self.hub.revive(*id);
        }
        self.hub.ended(class, &name);
    }

    async fn pause(&self) {
        let id = if self.below(2) == 0 { self.leader_or_any() } else { self.some_master() };
        let Some(life) = self.hub.life(id).filter(|life| life.scope.runs()) else { return };
        let name = format!("m{id}");
        self.hub.began("pause", &name);
        life.scope.freeze();
        self.hold(6_000).await;
        life.scope.thaw();
        self.hub.ended("pause", &name);
    }

    /// Cuts between masters; sometimes clients and workers are on one side too.
    async fn partition(&self, class: &'static str) {
        let (name, pairs) = self.cut(class);
        if pairs.is_empty() {
            return;
        }
        let number = self.hub.next_fault();
        self.hub.began(class, &name);
        let workers_too = pairs.iter().any(|(from, to)| (*from).max(*to) > WORKERS_AT);
        if workers_too {
            self.hub.all_disturbed(true);
        }
        self.hub.links.trouble(number, Which::Pairs(pairs), Trouble::Cut);
        self.hold(6_000).await;
        self.hub.links.heal(number);
        self.hub.ended(class, &name);
        if workers_too {
            self.hub.all_disturbed(false);
        }
    }

    fn cut(&self, class: &str) -> (String, BTreeSet<(u64, u64)>) {
        let known = self.hub.known();
        match class {
            "bridge" => {
                // Everybody sees the one in the middle, the two sides don't see each other.
                let middle = self.below(known.len() as u64) as usize;
                let mut rest = known.clone();
                let bridge = rest.remove(middle);
                let (left, right) = rest.split_at(rest.len() / 2);
                (format!("{}|m{bridge}|{}", names(left), names(right)), both_ways(left, right))
            }
            "isolate-leader" => {
                let leader = self.leader_or_any();
                let rest: Vec<u64> = known.into_iter().filter(|id| *id != leader).collect();
                (format!("m{leader}|rest"), both_ways(&[leader], &rest))
            }
            "partition-one-sided" => {
                let one = if self.below(2) == 0 { self.leader_or_any() } else { self.some_master() };
                let rest: Vec<u64> = known.into_iter().filter(|id| *id != one && self.below(3) > 0).collect();
                let out = self.below(2) == 0;
                let pairs = rest.iter().map(|id| if out { (one, *id) } else { (*id, one) }).collect();
                (if out { format!("m{one}>{}", names(&rest)) } else { format!("{}>m{one}", names(&rest)) }, pairs)
            }
            _ => {
                let (left, right): (Vec<u64>, Vec<u64>) = known.into_iter().partition(|_| self.below(2) == 0);
                let mut pairs = both_ways(&left, &right);
                if self.below(3) == 0 {
                    // The workers and clients are with the first side.
                    let others: Vec<u64> = self.others();
                    pairs.extend(both_ways(&others, &right));
                }
                (format!("{}|{}", names(&left), names(&right)), pairs)
            }
        }
    }

    fn others(&self) -> Vec<u64> {
        let workers = (1..=self.hub.plan.workers).map(|number| WORKERS_AT + number);
        workers.chain((1..=self.hub.plan.clients).map(|number| CLIENTS_AT + number)).collect()
    }

    /// A cut that comes and goes.
    async fn flap(&self) {
        let one = self.leader_or_any();
        let rest: Vec<u64> = self.hub.known().into_iter().filter(|id| *id != one).collect();
        let (number, name) = (self.hub.next_fault(), format!("m{one}|rest"));
        self.hub.began("flap", &name);
        for _ in 0..3 + self.below(8) {
            self.hub.links.trouble(number, Which::Pairs(both_ways(&[one], &rest)), Trouble::Cut);
            tokio::time::sleep(Duration::from_millis(30 + self.below(400))).await;
            self.hub.links.heal(number);
            tokio::time::sleep(Duration::from_millis(30 + self.below(400))).await;
        }
        self.hub.ended("flap", &name);
    }

    async fn weather(&self, class: &'static str) {
        let trouble = match class {
            "delay" => Trouble::Delay(1 + self.below(20), 20 + self.below(150)),
            "loss" => Trouble::Loss(10 + self.below(250)),
            "duplicate" => Trouble::Twice(50 + self.below(400)),
            _ => Trouble::Reorder(50 + self.below(400)),
        };
        let (number, name) = (self.hub.next_fault(), format!("{trouble:?}"));
        self.hub.began(class, &name);
        self.hub.all_disturbed(true);
        self.hub.links.trouble(number, Which::All, trouble);
        self.hold(8_000).await;
        self.hub.links.heal(number);
        self.hub.ended(class, &name);
        self.hub.all_disturbed(false);
    }

    async fn slow_disk(&self, class: &'static str) {
        let id = if self.below(2) == 0 { self.leader_or_any() } else { self.some_master() };
        let Some(disk) = self.hub.disks.lock().get(&id).cloned() else { return };
        let ms = if class == "slow-disk" { 1 + self.below(60) } else { 500 + self.below(3_000) };
        let name = format!("m{id}");
        self.hub.began(class, &name);
        disk.set_sync_delay(Duration::from_millis(ms));
        self.hold(6_000).await;
        disk.set_sync_delay(Duration::ZERO);
        self.hub.ended(class, &name);
    }

    /// Writes and syncs fail: the master stops, and starts again in vain until the disk is well.
    async fn bad_disk(&self, class: &'static str) {
        let id = self.some_master();
        if !self.hub.sick.lock().insert(id) {
            return;
        }
        let Some(disk) = self.hub.disks.lock().get(&id).cloned() else { return };
        let kind = if class == "full-disk" { ErrorKind::StorageFull } else { ErrorKind::Other };
        let name = format!("m{id}");
        self.hub.began(class, &name);
        disk.set_failure(Some(kind));
        self.hold(3_000).await;
        disk.set_failure(None);
        self.hub.ended(class, &name);
        // What failed on the way is told a moment later.
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        self.hub.sick.lock().remove(&id);
    }

    async fn clock(&self, class: &'static str) {
        let id = if self.below(2) == 0 { self.leader_or_any() } else { self.some_master() };
        let Some(clock) = self.hub.clocks.lock().get(&id).cloned() else { return };
        let name = format!("m{id}");
        self.hub.began(class, &name);
        if class == "clock-jump" {
            clock.jump(self.below(200_000_000) as i64 - 100_000_000);
        } else {
            // Within the margin that the worker's lease has for it.
            clock.drift(self.below(60_000) as i64 - 30_000);
            self.hold(10_000).await;
            clock.drift(0);
        }
        self.hub.ended(class, &name);
    }

    async fn worker(&self, class: &'static str) {
        let worker = self.some_worker();
        let name = worker.name.clone();
        self.hub.began(class, &name);
        self.hub.disturbed(&name, true);
        match class {
            "worker-kill" => {
                worker.kill();
                self.hold(6_000).await;
                worker.start();
            }
            "worker-cut" => {
                let masters = self.hub.known();
                let number = self.hub.next_fault();
                let pairs = match self.below(3) {
                    0 => masters.iter().map(|id| (worker.place, *id)).collect(),
                    1 => masters.iter().map(|id| (*id, worker.place)).collect(),
                    _ => both_ways(&masters, &[worker.place]),
                };
                self.hub.links.trouble(number, Which::Pairs(pairs), Trouble::Cut);
                self.hold(7_000).await;
                self.hub.links.heal(number);
            }
            "worker-pause" => {
                worker.freeze(true);
                self.hold(6_000).await;
                worker.freeze(false);
            }
            _ => {
                worker.report_late(100 + self.below(3_000));
                self.hold(8_000).await;
                worker.report_late(0);
            }
        }
        self.hub.ended(class, &name);
        self.hub.disturbed(&name, false);
    }

    /// What operators do at bad moments.
    async fn operate(&self, class: &'static str) {
        let target = match class {
            "snapshot" => self.some_master(),
            _ => self.leader_or_any(),
        };
        let name = format!("m{target}");
        self.hub.began(class, &name);
        match class {
            "transfer" => operator::transfer(&self.hub, &self.numbers).await,
            "snapshot" => operator::snapshot(&self.hub, target).await,
            "add-master" => operator::add(&self.hub, &self.numbers).await,
            _ => operator::remove(&self.hub, &self.numbers).await,
        }
        self.hub.ended(class, &name);
    }
}

fn both_ways(left: &[u64], right: &[u64]) -> BTreeSet<(u64, u64)> {
    left.iter().flat_map(|a| right.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

fn names(ids: &[u64]) -> String {
    ids.iter().map(|id| format!("m{id}")).collect::<Vec<_>>().join(",")
}

//! A master's lives: started on its disk, killed with what the disk keeps, frozen and thawed.
//!
//! What always holds: a killed life's tasks are dropped in the moment of the kill and its disk handles are dead; the next
//! life opens the same disk. A master that stops by itself though nobody harmed its disk is a problem of the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use steersman_evidence::record::{Fault, Phase, Record};
use steersman_master::Surroundings;
use steersman_master::bare::{self, Bare, led_term};
use steersman_raft_store::{CrashMode, MasterNode, MemDisk};
use steersman_world::{Entropy as _, SeededEntropy, Spawner, World};

use super::hub::{Hub, Life};
use super::watch::Witness;
use super::wire::{SimNet, Wires};
use crate::clock::NodeClock;
use crate::scope::{self, Scope};

/// A supervisor starts a stopped process again after so long.
const RESTART_MS: u64 = 400;

/// How a master's address looks in the membership.
pub fn member(id: u64, store: &str) -> MasterNode {
    let at = |port: u16| format!("m{id}:{port}");
    MasterNode { api: at(7400), raft: at(7401), http: at(7402), store: store.to_owned() }
}

impl Hub {
    /// Starts a master on its disk (an empty one at first), unless it lives already.
    pub fn start(self: &Arc<Self>, id: u64) {
        if self.lives.lock().contains_key(&id) || self.retired.lock().contains(&id) {
            return;
        }
        let disk = self.disks.lock().entry(id).or_insert_with(MemDisk::new).clone();
        let life = Arc::new(Life {
            id,
            number: self.next_life(),
            scope: Scope::new(),
            disk,
            bare: std::sync::OnceLock::new(),
            holds: Mutex::default(),
        });
        self.lives.lock().insert(id, life.clone());
        let hub = self.clone();
        let scope = life.scope.clone();
        scope.spawn(async move {
            if let Err(error) = hub.live(&life).await {
                hub.fell(&life, &format!("{error:#}"));
            }
        });
    }

    async fn live(self: &Arc<Self>, life: &Arc<Life>) -> anyhow::Result<()> {
        let (id, hub) = (life.id, self.clone());
        let wires = Wires { hub: hub.clone(), from: id };
        let witness = Witness::new(hub.clone(), id);
        let around = Spawner::surrounded(scope::around);
        let surroundings = Surroundings { disk: Arc::new(life.disk.clone()), raft: around.clone(), api: around };
        let config = self.plan.config(id, id > self.plan.masters)?;
        let ask = Arc::new(wires.clone());
        let bare = bare::open(config, self.world(life), surroundings, wires, ask, witness.clone()).await?;
        let bare = Arc::new(bare);
        let _ = witness.state.set(bare.node.state.clone());
        let _ = life.bare.set(bare.clone());
        self.journal.note(&format!("m{id}"), format!("up, life {}", life.number));
        self.watch_office(&bare, &witness).await
    }

    fn world(self: &Arc<Self>, life: &Life) -> World {
        let clock = {
            let mut clocks = self.clocks.lock();
            let shift = self.plan.wall_shift_ms;
            clocks.entry(life.id).or_insert_with(|| Arc::new(NodeClock::new(shift))).clone()
        };
        let entropy = Arc::new(SeededEntropy::new(self.plan.seed ^ (life.number << 20) ^ (life.id << 8)));
        let dark = self.dark.clone();
        World { clock, entropy, net: Arc::new(SimNet { hub: self.clone(), from: life.id, dark }) }
    }

    /// Notes the terms that this master leads, until it stops by itself.
    async fn watch_office(&self, bare: &Bare, witness: &Witness) -> anyhow::Result<()> {
        let (mut server, mut metrics, mut failed) =
            (bare.raft.server_metrics(), bare.raft.metrics(), bare.failed.clone());
        loop {
            if let Some(term) = led_term(&bare.raft) {
                witness.leads(term);
            }
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                let told = failed.borrow().as_ref().map(ToString::to_string);
                anyhow::bail!("Raft stopped: {}", told.unwrap_or_else(|| fatal.to_string()));
            }
            tokio::select! {
                biased;
                failed = failed.wait_for(Option::is_some) => {
                    let error = failed.ok().and_then(|error| error.as_ref().map(ToString::to_string));
                    anyhow::bail!("{}", error.unwrap_or_else(|| "the store is gone".to_owned()));
                }
                changed = server.changed() => anyhow::ensure!(changed.is_ok(), "Raft is gone"),
                changed = metrics.changed() => anyhow::ensure!(changed.is_ok(), "Raft is gone"),
            }
        }
    }

    /// A life ended by itself: a supervisor starts the next one.
    fn fell(self: &Arc<Self>, life: &Arc<Life>, why: &str) {
        let (hub, life) = (self.clone(), life.clone());
        let id = life.id;
        self.journal.count("stopped by itself");
        self.journal.note(&format!("m{id}"), format!("stopped by itself: {why}"));
        if !self.sick.lock().contains(&id) {
            self.journal.problem(format!("m{id} stopped by itself: {why}"));
        }
        let again = Duration::from_millis(RESTART_MS + self.numbers.below(RESTART_MS));
        tokio::spawn(async move {
            if hub.life(id).is_some_and(|now| now.number == life.number) {
                hub.kill(id, CrashMode::KeepBatches(usize::MAX), false);
            }
            tokio::time::sleep(again).await;
            hub.start(id);
        });
    }

    /// Ends a master's life. `dark`: its host loses power too, so that nobody sees a connection break.
    pub fn kill(&self, id: u64, mode: CrashMode, dark: bool) {
        let Some(life) = self.lives.lock().remove(&id) else { return };
        life.disk.crash(mode);
        if dark {
            self.dark.lock().insert(id);
            self.graves.lock().extend(std::mem::take(&mut *life.holds.lock()));
        }
        life.scope.kill();
        life.holds.lock().clear();
        self.journal.note(&format!("m{id}"), format!("killed: {mode:?}"));
    }

    /// Gives its host power again and starts it.
    pub fn revive(self: &Arc<Self>, id: u64) {
        self.dark.lock().remove(&id);
        self.start(id);
    }

    /// What a power cut leaves of the last writes, drawn anew each time.
    pub fn power_cut(&self, id: u64) -> CrashMode {
        let unsynced = self.disks.lock().get(&id).map(MemDisk::unsynced).unwrap_or_default();
        let batches = self.numbers.below(unsynced.len() as u64 + 1) as usize;
        match (self.numbers.below(3), unsynced.get(batches)) {
            (0, _) => CrashMode::LoseUnsynced,
            (1, Some(changes)) => {
                CrashMode::Torn { batches, changes: self.numbers.below(*changes as u64 + 1) as usize }
            }
            _ => CrashMode::KeepBatches(batches),
        }
    }

    /// Starts the first masters and forms the cluster.
    ///
    /// # Errors
    /// If they do not come up.
    pub async fn form(self: &Arc<Self>) -> anyhow::Result<()> {
        (1..=self.plan.masters).for_each(|id| self.start(id));
        for _ in 0..1_000 {
            let ups = self.ups();
            if ups.len() as u64 == self.plan.masters {
                let members: BTreeMap<u64, MasterNode> =
                    ups.iter().map(|(id, bare)| (*id, member(*id, &bare.store_id))).collect();
                return ups[0].1.raft.initialize(members).await.map_err(|error| anyhow::anyhow!("{error}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("the first masters do not come up")
    }

    /// The voters and learners that the leader knows.
    pub fn members(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let Some((_, leader)) = self.leader() else { return Default::default() };
        let (voters, learners): (Vec<_>, Vec<_>) = leader.node.status().members.into_iter().partition(|one| one.voter);
        let ids =
            |members: Vec<steersman_master::node::MemberView>| members.into_iter().map(|one| one.addr.id).collect();
        (ids(voters), ids(learners))
    }

    /// A fault on one thing that begins and ends in the journal.
    pub fn began(&self, class: &str, target: &str) {
        self.journal.fault(class, target, Phase::Began);
    }

    /// And its end.
    pub fn ended(&self, class: &str, target: &str) {
        let (at_us, class, target) = (self.journal.now_us(), class.to_owned(), target.to_owned());
        self.journal.push(Record::Fault(Fault { at_us, class, target, phase: Phase::Ended }));
    }
}

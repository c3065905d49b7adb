//! Who takes part: masters on simulated disks and workers, each on a host of its own, started again as often as it takes.
//!
//! What always holds: each life of a node draws its numbers from the seed, its name and the count of its lives; a node that
//! stops by itself leaves its exit code behind and stays down until somebody starts it again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use steersman_master::Surroundings;
use steersman_master::config::MasterConfig;
use steersman_master::node::Node;
use steersman_raft_store::MemDisk;
use steersman_worker::facts::NoFacts;
use steersman_worker::{Identity, Worker, WorkerConfig};
use steersman_world::{Entropy as _, SeededEntropy, Spawner};

use super::hosts::Hosts;
use super::recorder::Recorder;
use super::work::{HANDLER, Work};
use super::world::world;
use crate::clock::NodeClock;
use crate::scope::{self, Scope};

/// What the seed says about the cluster.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Everything else is drawn from it.
    pub seed: u64,
    /// Every wall clock is off by so much.
    pub wall_shift_ms: u64,
    /// Masters at the beginning: `1..=masters`.
    pub masters: u64,
    /// Workers: `1..=workers`.
    pub workers: u64,
    /// Slots of each worker.
    pub capacity: u32,
    /// How long a silent worker is believed.
    pub lease_ms: u64,
    /// Lines of each master's `[raft]` section.
    pub raft: String,
}

impl Setting {
    /// Draws it.
    pub fn draw(seed: u64, masters: Option<u64>, wall_shift_ms: u64) -> Self {
        let numbers = SeededEntropy::new(seed ^ 0x5E77_1265);
        let drawn = if numbers.below(3) == 0 { 5 } else { 3 };
        let heartbeats = [(60, 200, 300), (60, 200, 300), (100, 300, 600)];
        let (heartbeat, min, max) = heartbeats[numbers.below(3) as usize];
        let entries = [100, 100, 200, 1_000][numbers.below(4) as usize];
        let keep = [0, 20, 100][numbers.below(3) as usize];
        Self {
            seed,
            wall_shift_ms,
            masters: masters.unwrap_or(drawn),
            workers: 2 + numbers.below(4),
            capacity: 3 + numbers.below(4) as u32,
            lease_ms: 2_000 + 1_000 * numbers.below(3),
            raft: format!(
                "heartbeat_ms = {heartbeat}\nelection_min_ms = {min}\nelection_max_ms = {max}\n\
                 snapshot_entries = {entries}\nkeep_entries = {keep}\nfast_takeover = {}\n",
                numbers.below(4) > 0
            ),
        }
    }

    /// Where clients and workers begin to look: the initial masters.
    pub fn addresses(&self) -> Vec<String> {
        (1..=self.masters).map(|id| format!("m{id}:7400")).collect()
    }

    fn master_config(&self, id: u64) -> anyhow::Result<MasterConfig> {
        let join = id > self.masters;
        let mut text = format!("node_id = {id}\ninsecure = true\njoin = {join}\ndata_dir = \"unused\"\n[listen]\n");
        text += "api = \"0.0.0.0:7400\"\nraft = \"0.0.0.0:7401\"\nhttp = \"0.0.0.0:7402\"\n";
        write!(text, "[advertise]\napi = \"m{id}:7400\"\nraft = \"m{id}:7401\"\nhttp = \"m{id}:7402\"\n")?;
        for id in (1..=self.masters).filter(|_| !join) {
            write!(
                text,
                "[[masters]]\nid = {id}\napi = \"m{id}:7400\"\nraft = \"m{id}:7401\"\nhttp = \"m{id}:7402\"\n"
            )?;
        }
        write!(text, "[raft]\n{}", self.raft)?;
        write!(text, "[workers]\nheartbeat_ms = {}\nlease_ms = {}\n", self.lease_ms / 5, self.lease_ms)?;
        Ok(MasterConfig::parse(&text, "simulated")?)
    }
}

/// A node that stopped by itself.
#[derive(Debug, Clone)]
pub struct Exit {
    /// The exit code of its process.
    pub code: i32,
    /// What it said.
    pub text: String,
}

/// One master, over all its lives.
#[derive(Default)]
pub struct Master {
    /// Its disk.
    pub disk: MemDisk,
    /// Itself, while it runs.
    pub node: Option<Arc<Node>>,
    /// Why it stopped, if it did so by itself and nobody has looked yet.
    pub exit: Option<Exit>,
    /// So often it was started.
    pub lives: u64,
    /// Its host stands there and runs nothing.
    pub parked: bool,
    /// No part of the cluster any more, for good.
    pub gone: bool,
    /// Its disk was wiped: it must be refused.
    pub wiped: bool,
}

/// All of them, by id.
pub type Masters = Rc<RefCell<BTreeMap<u64, Master>>>;

/// What everybody on the stage needs.
#[derive(Clone)]
pub struct Stand {
    /// What the seed says.
    pub setting: Setting,
    /// Where everything is written down.
    pub recorder: Recorder,
    /// The hosts.
    pub hosts: Hosts,
}

/// Puts a master on its host and starts it.
pub fn host_master(sim: &mut turmoil::Sim<'_>, stand: &Stand, masters: &Masters, id: u64) {
    masters.borrow_mut().insert(id, Master::default());
    let (stand, masters) = (stand.clone(), masters.clone());
    sim.host(format!("m{id}"), move || {
        let (Stand { setting, recorder, hosts }, masters) = (stand.clone(), masters.clone());
        async move {
            if masters.borrow().get(&id).is_none_or(|master| master.parked) {
                return std::future::pending().await;
            }
            let (scope, clock) = hosts.begin(&format!("m{id}"), || NodeClock::new(setting.wall_shift_ms));
            let life = master_life(&setting, clock, &masters, id);
            if let Err(exit) = scope.contain(life).await
                && let Some(master) = masters.borrow_mut().get_mut(&id)
            {
                recorder.note(format!("m{id}"), format!("stops with exit code {}: {}", exit.code, exit.text));
                (master.exit, master.node) = (Some(exit), None);
            }
            Ok(())
        }
    });
}

async fn master_life(setting: &Setting, clock: Arc<NodeClock>, masters: &Masters, id: u64) -> Result<(), Exit> {
    let (disk, lives) = {
        let mut masters = masters.borrow_mut();
        let master = masters.entry(id).or_default();
        master.lives += 1;
        (master.disk.clone(), master.lives)
    };
    let world = world(setting.seed ^ (id << 32) ^ (lives << 48), clock);
    let around = Spawner::surrounded(scope::around);
    let surroundings = Surroundings { disk: Arc::new(disk), raft: around.clone(), api: around };
    let config = setting.master_config(id).map_err(|error| Exit { code: 78, text: format!("{error:#}") })?;
    let exit = |error: steersman_master::exit::NodeError| Exit { code: error.exit_code(), text: error.to_string() };
    let running = steersman_master::start(config, world, surroundings).await.map_err(exit)?;
    if let Some(master) = masters.borrow_mut().get_mut(&id) {
        master.node = Some(running.node.clone());
    }
    running.until(std::future::pending()).await.map_err(exit)
}

/// Puts a worker on its host and starts it.
pub fn host_worker(sim: &mut turmoil::Sim<'_>, stand: &Stand, id: u64) {
    let lives = Rc::new(RefCell::new(0_u64));
    let stand = stand.clone();
    sim.host(format!("w{id}"), move || {
        *lives.borrow_mut() += 1;
        let (stand, life) = (stand.clone(), *lives.borrow());
        async move {
            let (scope, clock) =
                stand.hosts.begin(&format!("w{id}"), || NodeClock::steady(stand.setting.wall_shift_ms));
            let living = worker_life(&stand, scope.clone(), clock, (id, life));
            if let Err(error) = scope.contain(living).await {
                stand.recorder.problem(format!("worker w{id} stops by itself: {error}"));
            }
            Ok(())
        }
    });
}

async fn worker_life(
    stand: &Stand,
    scope: Arc<Scope>,
    clock: Arc<NodeClock>,
    (id, life): (u64, u64),
) -> anyhow::Result<()> {
    let Stand { setting, recorder, .. } = stand;
    let config = WorkerConfig {
        name: format!("w{id}"),
        data_dir: "unused".into(),
        masters: setting.addresses(),
        capacity: setting.capacity,
        heartbeat_ms: (setting.lease_ms / 5) as u32,
        insecure: true,
        ..WorkerConfig::default()
    };
    let seed = setting.seed ^ (id << 40) ^ (life << 52) ^ 0x77;
    let uid = SeededEntropy::new(setting.seed ^ (id << 40)).next_id();
    let work = Work { worker: config.name.clone(), recorder: recorder.clone(), scope };
    let worker = Worker::builder(config, world(seed, clock))
        .spawner(Spawner::surrounded(scope::around))
        .handler(HANDLER, work)
        .identity(Identity::in_memory(uid, life))
        .facts(Arc::new(NoFacts))
        .build();
    worker.run(std::future::pending()).await?;
    Ok(())
}

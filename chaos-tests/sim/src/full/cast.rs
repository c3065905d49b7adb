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

use super::recorder::Recorder;
use super::work::{HANDLER, Work};
use super::world::{WallOffset, world};

/// What the seed says about the cluster.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Everything else is drawn from it.
    pub seed: u64,
    /// Every wall clock is off by so much.
    pub wall_shift_ms: i64,
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
            wall_shift_ms: wall_shift_ms as i64,
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
    /// Its wall clock.
    pub wall: WallOffset,
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

/// Puts a master on its host and starts it.
pub fn host_master(sim: &mut turmoil::Sim<'_>, setting: &Setting, recorder: &Recorder, masters: &Masters, id: u64) {
    masters.borrow_mut().insert(id, Master { wall: offset(setting), ..Master::default() });
    let (setting, recorder, masters) = (setting.clone(), recorder.clone(), masters.clone());
    sim.host(format!("m{id}"), move || {
        let (setting, recorder, masters) = (setting.clone(), recorder.clone(), masters.clone());
        async move {
            if masters.borrow().get(&id).is_none_or(|master| master.parked) {
                return std::future::pending().await;
            }
            if let Err(exit) = master_life(&setting, &recorder, &masters, id).await
                && let Some(master) = masters.borrow_mut().get_mut(&id)
            {
                recorder.note(format!("m{id}"), format!("stops with exit code {}: {}", exit.code, exit.text));
                (master.exit, master.node) = (Some(exit), None);
            }
            Ok(())
        }
    });
}

async fn master_life(setting: &Setting, recorder: &Recorder, masters: &Masters, id: u64) -> Result<(), Exit> {
    let (disk, wall, lives) = {
        let mut masters = masters.borrow_mut();
        let master = masters.entry(id).or_default();
        master.lives += 1;
        (master.disk.clone(), master.wall.clone(), master.lives)
    };
    let world = world(setting.seed ^ (id << 32) ^ (lives << 48), wall, recorder.clone());
    let surroundings = Surroundings { disk: Arc::new(disk), raft: Spawner::ambient(), api: Spawner::ambient() };
    let config = setting.master_config(id).map_err(|error| Exit { code: 78, text: format!("{error:#}") })?;
    let exit = |error: steersman_master::exit::NodeError| Exit { code: error.exit_code(), text: error.to_string() };
    let running = steersman_master::start(config, world, surroundings).await.map_err(exit)?;
    if let Some(master) = masters.borrow_mut().get_mut(&id) {
        master.node = Some(running.node.clone());
    }
    running.until(std::future::pending()).await.map_err(exit)
}

fn offset(setting: &Setting) -> WallOffset {
    let offset = WallOffset::default();
    offset.store(setting.wall_shift_ms, std::sync::atomic::Ordering::Relaxed);
    offset
}

/// Puts a worker on its host and starts it.
pub fn host_worker(sim: &mut turmoil::Sim<'_>, setting: &Setting, recorder: &Recorder, id: u64) {
    let lives = Rc::new(RefCell::new(0_u64));
    let (setting, recorder) = (setting.clone(), recorder.clone());
    sim.host(format!("w{id}"), move || {
        *lives.borrow_mut() += 1;
        let (setting, recorder, life) = (setting.clone(), recorder.clone(), *lives.borrow());
        async move {
            if let Err(error) = worker_life(&setting, &recorder, id, life).await {
                recorder.problem(format!("worker w{id} stops by itself: {error}"));
            }
            Ok(())
        }
    });
}

async fn worker_life(setting: &Setting, recorder: &Recorder, id: u64, life: u64) -> anyhow::Result<()> {
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
    let work = Work { worker: config.name.clone(), recorder: recorder.clone() };
    let worker = Worker::builder(config, world(seed, offset(setting), recorder.clone()))
        .handler(HANDLER, work)
        .identity(Identity::in_memory(uid, life))
        .facts(Arc::new(NoFacts))
        .build();
    worker.run(std::future::pending()).await?;
    Ok(())
}

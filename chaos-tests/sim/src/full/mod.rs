//! The production masters, workers and client in one thread, under simulated time, network and disks, from one seed.
//!
//! One process runs one seed: thread-local randomness and tokio's own are seeded at its start. What always holds: the same
//! seed gives the same history, byte for byte. What it does not do (yet): partitions, torn writes, slow disks.

mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use steersman_client::Client;
use steersman_master::config::MasterConfig;
use steersman_master::node::Node;
use steersman_master::{Running, Surroundings};
use steersman_proto::v1::{Handler as HandlerWork, TaskGroup, TaskSpec, task_spec};
use steersman_raft_store::{CrashMode, MemDisk};
use steersman_worker::{Handler, HandlerContext, HandlerError};
use steersman_world::{Entropy as _, SeededEntropy, Spawner};

pub use world::{elapsed, world};

const MASTERS: u64 = 3;
const WORKERS: u64 = 2;
/// Tasks of the run: enough to be in every state when the leader dies.
const TASKS: u64 = 120;
/// Far more simulated time than a run needs.
const LIMIT: Duration = Duration::from_secs(120);

/// What happened, as text, with simulated times.
#[derive(Clone, Default)]
struct History(Rc<RefCell<String>>);

impl History {
    fn note(&self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0.borrow_mut(), "{:>9.3} {what}", elapsed().as_secs_f64());
    }
}

/// The masters that run now, for looking inside once the run is over.
type Nodes = Rc<RefCell<BTreeMap<u64, Arc<Node>>>>;

/// Submits work to three masters, kills the leader in the middle, restarts it, and waits until everything is finished and
/// the masters agree. Returns the history.
///
/// # Errors
/// Whatever went wrong: a promise that was not kept, or a run that does not end.
pub fn run(seed: u64, wall_shift_ms: u64) -> anyhow::Result<String> {
    steersman_raft_store::runtime::seed(Some(seed));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(LIMIT)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4_096)
        .build();
    let (history, nodes) = (History::default(), Nodes::default());
    let disks: BTreeMap<u64, MemDisk> = (1..=MASTERS).map(|id| (id, MemDisk::new())).collect();
    for (id, disk) in &disks {
        host_master(&mut sim, seed, wall_shift_ms, *id, disk.clone(), nodes.clone());
    }
    let folder = tempfile::tempdir()?;
    for id in 1..=WORKERS {
        host_worker(&mut sim, seed, wall_shift_ms, id, folder.path().join(format!("w{id}")));
    }
    let done = Rc::new(RefCell::new(false));
    host_client(&mut sim, seed, wall_shift_ms, history.clone(), done.clone());
    let mut killer = Killer::new(seed);
    while !*done.borrow() {
        sim.step().map_err(|error| anyhow::anyhow!("seed {seed}: {error}"))?;
        killer.step(&mut sim, &nodes, &disks, &history);
        anyhow::ensure!(sim.elapsed() < LIMIT - Duration::from_secs(1), "seed {seed}: the run does not end");
    }
    anyhow::ensure!(killer.killed, "seed {seed}: the work was over before the leader was killed");
    for _ in 0..20_000 {
        if agreed(&nodes, &history, seed)? {
            let text = history.0.borrow().clone();
            return Ok(text);
        }
        sim.step().map_err(|error| anyhow::anyhow!("seed {seed}: {error}"))?;
        killer.step(&mut sim, &nodes, &disks, &history);
    }
    anyhow::bail!("seed {seed}: the masters did not reach the same index")
}

fn host_master(sim: &mut turmoil::Sim<'_>, seed: u64, shift: u64, id: u64, disk: MemDisk, nodes: Nodes) {
    let lives = Rc::new(RefCell::new(0_u64));
    sim.host(format!("m{id}"), move || {
        let (disk, nodes, lives) = (disk.clone(), nodes.clone(), lives.clone());
        async move {
            *lives.borrow_mut() += 1;
            let numbers = seed ^ (id << 32) ^ (*lives.borrow() << 48);
            let surroundings = Surroundings { disk: Arc::new(disk), raft: Spawner::ambient(), api: Spawner::ambient() };
            let running: Running =
                steersman_master::start(master_config(id)?, world(numbers, shift), surroundings).await?;
            nodes.borrow_mut().insert(id, running.node.clone());
            running.until(std::future::pending()).await?;
            Ok(())
        }
    });
}

fn master_config(id: u64) -> anyhow::Result<MasterConfig> {
    let mut text = format!("node_id = {id}\ninsecure = true\ndata_dir = \"unused\"\n[listen]\n");
    text += "api = \"0.0.0.0:7400\"\nraft = \"0.0.0.0:7401\"\nhttp = \"0.0.0.0:7402\"\n";
    for id in 1..=MASTERS {
        write!(text, "[[masters]]\nid = {id}\napi = \"m{id}:7400\"\nraft = \"m{id}:7401\"\nhttp = \"m{id}:7402\"\n")?;
    }
    text += "[raft]\nsnapshot_entries = 100\nkeep_entries = 20\n";
    Ok(MasterConfig::parse(&text, "simulated")?)
}

fn addresses() -> Vec<String> {
    (1..=MASTERS).map(|id| format!("m{id}:7400")).collect()
}

fn host_worker(sim: &mut turmoil::Sim<'_>, seed: u64, shift: u64, id: u64, folder: std::path::PathBuf) {
    sim.host(format!("w{id}"), move || {
        let folder = folder.clone();
        async move {
            let mut config = steersman_worker::config::WorkerConfig::default();
            config.name = format!("w{id}");
            config.data_dir = folder;
            config.masters = addresses();
            config.capacity = 4;
            config.insecure = true;
            let world = world(seed ^ (id << 40) ^ 0x77, shift);
            let worker = steersman_worker::Worker::builder(config, world).handler("nap", Nap).build();
            worker.run(std::future::pending()).await?;
            Ok(())
        }
    });
}

/// A handler that sleeps for as many ms as its payload says.
struct Nap;

impl Handler for Nap {
    fn run(&self, context: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        Box::pin(async move {
            let ms = context.payload.first().copied().unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
            Ok(Bytes::new())
        })
    }
}

fn host_client(sim: &mut turmoil::Sim<'_>, seed: u64, shift: u64, history: History, done: Rc<RefCell<bool>>) {
    sim.client("client", async move {
        let world = world(seed ^ 0xC11E, shift);
        let numbers = SeededEntropy::new(seed ^ 0x5EED);
        let client = Client::builder(world).addresses(addresses()).timeout(Duration::from_secs(60)).build()?;
        let mut submitted = 0;
        while submitted < TASKS {
            let count = (1 + numbers.below(5)).min(TASKS - submitted);
            let reply = client.submit(vec![group(count as u32, numbers.below(120) as u8)]).await?;
            history.note(format_args!("submitted {} +{} at {}", reply.first_id, reply.count, reply.log_index));
            submitted += reply.count;
            tokio::time::sleep(Duration::from_millis(numbers.below(120))).await;
        }
        let totals = client.wait(1, TASKS, Some(Duration::from_secs(60))).await?;
        history.note(format_args!("finished {} of {TASKS}", totals.succeeded));
        for id in 1..=TASKS {
            let task = client.get(id).await?.task.unwrap_or_default();
            let attempts: Vec<_> = task.attempts.iter().map(|a| (a.token, a.worker_id, a.outcome)).collect();
            history.note(format_args!("task {id} state {} attempts {attempts:?}", task.state));
        }
        *done.borrow_mut() = true;
        if totals.succeeded != TASKS {
            return Err(format!("only {} of {TASKS} tasks succeeded", totals.succeeded).into());
        }
        Ok(())
    });
}

fn group(count: u32, nap_ms: u8) -> TaskGroup {
    let handler = HandlerWork { name: "nap".to_owned(), payload: vec![nap_ms].into() };
    let work = Some(task_spec::Work::Handler(handler));
    TaskGroup { spec: Some(TaskSpec { work, ..TaskSpec::default() }), count }
}

/// Kills the leader while work is under way (the submits alone take about 2.4 s), and starts it again later.
struct Killer {
    kill_at: Duration,
    restart_at: Option<(u64, Duration)>,
    killed: bool,
}

impl Killer {
    fn new(seed: u64) -> Self {
        let numbers = SeededEntropy::new(seed ^ 0xDEAD);
        Self { kill_at: Duration::from_millis(600 + numbers.below(1_000)), restart_at: None, killed: false }
    }

    fn step(&mut self, sim: &mut turmoil::Sim<'_>, nodes: &Nodes, disks: &BTreeMap<u64, MemDisk>, history: &History) {
        let now = sim.elapsed();
        if !self.killed && now >= self.kill_at {
            let leader = nodes.borrow().iter().find(|(_, node)| node.reign().is_some()).map(|(id, _)| *id);
            if let Some(leader) = leader {
                self.killed = true;
                sim.crash(format!("m{leader}"));
                disks[&leader].crash(CrashMode::LoseUnsynced);
                nodes.borrow_mut().remove(&leader);
                self.restart_at = Some((leader, now + Duration::from_millis(1_500)));
                let _ = writeln!(history.0.borrow_mut(), "{:>9.3} killed leader m{leader}", now.as_secs_f64());
            }
        }
        if let Some((id, at)) = self.restart_at
            && now >= at
        {
            self.restart_at = None;
            sim.bounce(format!("m{id}"));
            let _ = writeln!(history.0.borrow_mut(), "{:>9.3} restarted m{id}", now.as_secs_f64());
        }
    }
}

/// Whether all masters are at the same index. Then they must have the same digest, and their invariants must hold.
fn agreed(nodes: &Nodes, history: &History, seed: u64) -> anyhow::Result<bool> {
    let nodes = nodes.borrow();
    let at = |node: &Arc<Node>| node.state.read().applied_index();
    let indexes: Vec<u64> = nodes.values().map(at).collect();
    if indexes.len() as u64 != MASTERS || indexes.windows(2).any(|pair| pair[0] != pair[1]) {
        return Ok(false);
    }
    let digests: Vec<u128> = nodes.values().map(|node| node.state.read().digest()).collect();
    let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
    anyhow::ensure!(same, "seed {seed}: replicas differ at index {}: {digests:x?}", indexes[0]);
    for node in nodes.values() {
        node.state.read().check().map_err(|violation| anyhow::anyhow!("seed {seed}: {violation}"))?;
    }
    let _ = writeln!(history.0.borrow_mut(), "agreed at {} on {:032x}", indexes[0], digests[0]);
    Ok(true)
}

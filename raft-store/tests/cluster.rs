//! openraft itself on these stores: elections, a blank master that catches up from a snapshot, power cuts, a restore.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{Config, Raft, RaftNetworkFactory, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use steersman_raft_store::*;
use steersman_state::{Batch, Envelope, MasterId, Rejection, Reply, Stamp};
use tempfile::TempDir;

type Node = Raft<TypeConfig, StateMachine>;

/// Who can be reached, in this process.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<u64, (Node, Control)>>>);

struct Wire {
    wires: Wires,
    to: u64,
}

impl Wire {
    fn peer(&self) -> Result<(Node, Control), Unreachable<TypeConfig>> {
        let peer = self.wires.0.lock().get(&self.to).cloned();
        peer.ok_or_else(|| unreachable(&std::io::Error::other("down")))
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> Unreachable<TypeConfig> {
    Unreachable::new(error)
}

impl RaftNetworkFactory<TypeConfig> for Wires {
    type Network = Wire;
    async fn new_client(&mut self, to: u64, _node: &MasterNode) -> Wire {
        Wire { wires: self.clone(), to }
    }
}

impl RaftNetworkV2<TypeConfig> for Wire {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (peer, _) = self.peer()?;
        Ok(peer.append_entries(rpc).await.map_err(|error| unreachable(&error))?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (peer, _) = self.peer()?;
        Ok(peer.vote(rpc).await.map_err(|error| unreachable(&error))?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        mut snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (peer, control) = self.peer()?;
        let mut receiver = control.receive_snapshot().unwrap();
        while let Some(piece) = snapshot.snapshot.next_chunk(1000).await.map_err(|error| unreachable(&error))? {
            receiver.write(&piece).await.map_err(|error| unreachable(&error))?;
        }
        let data = receiver.finish(snapshot.snapshot.crc()).await.map_err(|error| unreachable(&error))?;
        let arrived = Snapshot { meta: snapshot.meta, snapshot: data };
        Ok(peer.install_full_snapshot(vote, arrived).await.map_err(|error| unreachable(&error))?)
    }
}

fn config() -> Arc<Config> {
    let config = Config {
        heartbeat_interval: 60,
        election_timeout_min: 200,
        election_timeout_max: 300,
        enable_leader_restore: Some(false),
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(50),
        max_in_snapshot_log_to_keep: 10,
        ..Config::default()
    };
    Arc::new(config.validate().unwrap())
}

/// A running master.
struct Master {
    raft: Node,
    state: SharedState,
    control: Control,
}

async fn start(id: u64, disk: Arc<dyn Disk>, wires: &Wires) -> Master {
    let store = open_with(disk, Options { node_id: id, ..options() }).await.unwrap();
    let (state, control) = (store.state.clone(), store.control.clone());
    let raft = Raft::new(id, config(), wires.clone(), store.log, store.machine).await.unwrap();
    wires.0.lock().insert(id, (raft.clone(), control.clone()));
    Master { raft, state, control }
}

impl Master {
    async fn stop(self, id: u64, wires: &Wires) {
        wires.0.lock().remove(&id);
        self.raft.shutdown().await.unwrap();
        self.control.close().await.unwrap();
    }

    fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    fn tasks(&self) -> u64 {
        self.state.read().last_task_id().0
    }
}

async fn leader(masters: &BTreeMap<u64, Master>) -> &Master {
    eventually("a leader", || masters.values().any(Master::leads)).await;
    masters.values().find(|master| master.leads()).unwrap()
}

/// One task. Returns the index at which it was applied; nothing if it was refused, or if its fate is unknown.
async fn submit_one(master: &Master) -> Option<u64> {
    let term = master.raft.metrics().borrow_watched().current_term;
    let stamp = Stamp { term, leader: MasterId(1), time_ms: 1, wall_ms: 1, entropy: 1 };
    let batch = Batch { stamp, commands: vec![Envelope { request: None, command: submit(1) }] };
    let write = master.raft.client_write(Proposal::new(Arc::new(batch)));
    let answer = tokio::time::timeout(Duration::from_secs(5), write).await.ok()?.ok()?;
    let Replies(replies, index) = answer.data;
    assert_eq!((replies.len(), index), (1, answer.log_id.index()));
    match &replies[0] {
        Reply::Submitted { count: 1, .. } => Some(index),
        // The leader changed since the batch was stamped: refused, and that is an answer.
        Reply::Rejected(Rejection::OldReign { .. }) => None,
        other => panic!("{other:?}"),
    }
}

/// Submits until one is acknowledged; whoever did it has applied everything that was acknowledged before. Returns it and
/// how many were asked.
async fn submit_surely(masters: &BTreeMap<u64, Master>) -> (&Master, u64) {
    for asked in 1..200 {
        let lead = leader(masters).await;
        if submit_one(lead).await.is_some() {
            return (lead, asked);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no leader takes anything");
}

async fn initialized(disks: &BTreeMap<u64, Arc<dyn Disk>>, wires: &Wires) -> BTreeMap<u64, Master> {
    let mut masters = BTreeMap::new();
    for (id, disk) in disks {
        masters.insert(*id, start(*id, disk.clone(), wires).await);
    }
    let members: BTreeMap<u64, MasterNode> = disks.keys().map(|id| (*id, node(*id))).collect();
    masters[&1].raft.initialize(members).await.unwrap();
    masters
}

async fn agree(masters: &BTreeMap<u64, Master>, tasks: u64) {
    eventually("all masters have every task", || masters.values().all(|master| master.tasks() == tasks)).await;
    // Blank entries and memberships may still be on their way: equal states at equal indexes.
    eventually("equal digests", || {
        let states = masters.values().map(|master| {
            let state = master.state.read();
            (state.applied_index(), state.digest())
        });
        states.collect::<BTreeSet<_>>().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_blank_master_joins_from_a_snapshot_and_everything_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let disk = |id: u64| -> Arc<dyn Disk> { Arc::new(RealDisk::new(dir.path().join(id.to_string()))) };
    let wires = Wires::default();
    let mut masters = initialized(&(1..=3).map(|id| (id, disk(id))).collect(), &wires).await;
    let (lead, _) = submit_surely(&masters).await;
    for _ in 0..150 {
        submit_one(lead).await.unwrap();
    }
    let tasks = lead.tasks();
    let metrics = lead.raft.metrics();
    eventually("the log is purged", || metrics.borrow_watched().purged.is_some()).await;

    let fourth = start(4, disk(4), &wires).await;
    lead.raft.add_learner(4, node(4), true).await.unwrap();
    lead.raft.change_membership(BTreeSet::from([1, 2, 3, 4]), false).await.unwrap();
    // The log begins after what the newcomer needs, so only a snapshot can bring it up.
    let joined = fourth.raft.metrics();
    eventually("the newcomer has a snapshot", || joined.borrow_watched().snapshot.is_some()).await;
    masters.insert(4, fourth);
    agree(&masters, tasks).await;

    for (id, master) in std::mem::take(&mut masters) {
        master.stop(id, &wires).await;
    }
    for id in 1..=4 {
        masters.insert(id, start(id, disk(id), &wires).await);
    }
    assert!(masters.values().all(|master| master.tasks() >= 50), "a restart begins at the snapshot at least");
    let (lead, _) = submit_surely(&masters).await;
    assert!(lead.tasks() > tasks);
    agree(&masters, lead.tasks()).await;
    for (id, master) in masters {
        master.stop(id, &wires).await;
    }
}

/// Seeds of one run; `SEEDS=from..to` sweeps others.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("SEEDS").ok();
    let range = asked.as_deref().and_then(|asked| asked.split_once(".."));
    range.map_or(0..6, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

#[test]
fn p01_acknowledged_tasks_survive_power_cuts_of_all_masters_at_once() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime::seed(Some(seed));
        runtime.block_on(power_cuts());
    }
}

async fn power_cuts() {
    let disks: BTreeMap<u64, MemDisk> = (1..=3).map(|id| (id, MemDisk::new())).collect();
    let shared = |id: &u64| -> Arc<dyn Disk> { Arc::new(disks[id].clone()) };
    let mut wires = Wires::default();
    let mut masters = initialized(&disks.keys().map(|id| (*id, shared(id))).collect(), &wires).await;
    disks.values().for_each(|disk| disk.set_sync_delay(Duration::from_millis(2)));
    let mut acknowledged = 0;
    let mut asked = 0;
    for round in 0..15_u64 {
        let (lead, more) = submit_surely(&masters).await;
        asked += more;
        acknowledged += 1;
        for _ in 0..10 + round {
            asked += 1;
            acknowledged += u64::from(submit_one(lead).await.is_some());
        }
        // One more is under way when the power goes.
        asked += 1;
        let last = submit_one(lead);
        let cut = tokio::time::timeout(Duration::from_micros(700 * (round % 6)), last).await;
        acknowledged += u64::from(matches!(cut, Ok(Some(_))));
        disks.values().for_each(|disk| disk.crash(CrashMode::LoseUnsynced));
        wires = Wires::default();
        for master in std::mem::take(&mut masters).into_values() {
            let _ = master.raft.shutdown().await;
        }
        for id in disks.keys() {
            masters.insert(*id, start(*id, shared(id), &wires).await);
        }
        // A leader that was only just elected has not applied its whole log: it has once it takes something new.
        let (lead, more) = submit_surely(&masters).await;
        asked += more;
        acknowledged += 1;
        let found = lead.tasks();
        assert!(found >= acknowledged && found <= asked, "round {round}: {acknowledged} of {asked}, found {found}");
        agree(&masters, found).await;
    }
    assert!(acknowledged > 250, "only {acknowledged}");
}

#[tokio::test(start_paused = true)]
async fn masters_restored_from_a_snapshot_form_a_cluster() {
    let wires = Wires::default();
    let old = MemDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(old.clone());
    let masters = initialized(&BTreeMap::from([(1, shared)]), &wires).await;
    for _ in 0..7 {
        submit_surely(&masters).await;
    }
    let lead = &masters[&1];
    let tasks = lead.tasks();
    lead.raft.trigger().snapshot().await.unwrap();
    eventually("a snapshot", || lead.raft.metrics().borrow_watched().snapshot.is_some()).await;
    let mut saved = lead.control.snapshot().await.unwrap().unwrap().snapshot;
    let mut bytes = Vec::new();
    while let Some(piece) = saved.next_chunk(1 << 16).await.unwrap() {
        bytes.extend_from_slice(&piece);
    }

    let wires = Wires::default();
    let members: BTreeMap<u64, MasterNode> = [4, 5, 6].into_iter().map(|id| (id, node(id))).collect();
    let mut masters = BTreeMap::new();
    for id in [4, 5, 6] {
        let disk = MemDisk::new();
        let restore = Restore {
            node_id: id,
            members: members.clone(),
            cluster: "blue".into(),
            epoch: 2,
            store_id: id.into(),
            created_ms: 0,
        };
        let input = Box::new(std::io::Cursor::new(bytes.clone()));
        restore_on(Arc::new(disk.clone()), input, restore).await.unwrap();
        masters.insert(id, start(id, Arc::new(disk), &wires).await);
    }
    assert!(masters.values().all(|master| master.tasks() == tasks));
    let (lead, _) = submit_surely(&masters).await;
    agree(&masters, lead.tasks()).await;
}

//! What the store's tests share: opening, entries, batches, and waiting for acknowledgements.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _};
use openraft::type_config::TypeConfigExt as _;
use parking_lot::Mutex;
use steersman_raft_store::*;
use steersman_state::{
    Applied, Backoff, Batch, Command, Envelope, Limits, MasterId, OnPartition, RetryOn, Stamp, TaskGroup, TaskSpec,
    Work,
};
use tokio::sync::oneshot;

/// Hears everything and remembers it.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl ApplyObserver for Heard {
    fn applied(&self, index: u64, term: u64, applied: &Applied) {
        self.0.lock().push(format!("applied {index} in {term}: {} replies", applied.replies.len()));
    }

    fn installed(&self, index: u64) {
        self.0.lock().push(format!("installed {index}"));
    }
}

pub fn options() -> Options {
    Options { recent_bytes: 0, cache_bytes: 4 << 20, ..Options::new(1, None) }
}

pub async fn open_with(disk: Arc<dyn Disk>, options: Options) -> Result<Store, StoreError> {
    open(disk, options, Arc::new(Heard::default())).await
}

pub async fn reopen(disk: &MemDisk) -> Result<Store, StoreError> {
    open_with(Arc::new(disk.clone()), options()).await
}

/// An entry whose bytes only the log looks at.
pub fn raw(term: u64, index: u64, payload: &[u8]) -> Entry {
    let bytes = [&[steersman_state::command::FORMAT], payload].concat();
    Entry::new(log_id(term, index), EntryPayload::Normal(Proposal::from_bytes(Bytes::from(bytes)).unwrap()))
}

/// A batch of real commands.
pub fn commands(term: u64, index: u64, commands: Vec<Command>) -> Entry {
    let stamp = Stamp { term, leader: MasterId(1), time_ms: index * 10, wall_ms: 1_000 + index, entropy: index };
    let envelope = |command| Envelope { request: None, command };
    let batch = Batch { stamp, commands: commands.into_iter().map(envelope).collect() };
    Entry::new(log_id(term, index), EntryPayload::Normal(Proposal::new(Arc::new(batch))))
}

pub fn init(cluster: &str) -> Command {
    Command::InitCluster { cluster_id: cluster.to_owned(), limits: Limits::default() }
}

pub fn submit(count: u32) -> Command {
    let spec = TaskSpec {
        name: "t".into(),
        work: Work::Handler { name: "h".into(), payload: vec![1, 2, 3] },
        env: BTreeMap::new(),
        require_labels: BTreeMap::new(),
        require_resources: BTreeMap::new(),
        priority: 0,
        timeout_ms: 0,
        deadline_ms: 0,
        max_attempts: 1,
        backoff: Backoff::default(),
        retry_on: RetryOn::default(),
        on_partition: OnPartition::Continue,
        kill_grace_ms: 0,
    };
    Command::Submit { groups: vec![TaskGroup { spec: Arc::new(spec), count }] }
}

pub fn node(n: u64) -> MasterNode {
    MasterNode { raft: format!("127.0.0.1:{n}"), ..MasterNode::default() }
}

pub fn membership(term: u64, index: u64, voters: &[u64]) -> Entry {
    let nodes: BTreeMap<u64, MasterNode> = voters.iter().map(|n| (*n, node(*n))).collect();
    let voters = voters.iter().copied().collect::<BTreeSet<_>>();
    Entry::new(log_id(term, index), EntryPayload::Membership(Membership::new(vec![voters], nodes).unwrap()))
}

/// Appends without waiting: resolves once the store calls back.
pub async fn append_later(log: &mut LogStore, entries: Vec<Entry>) -> oneshot::Receiver<std::io::Result<()>> {
    let (done, wait) = TypeConfig::oneshot();
    log.append(entries, IoFlushed::signal(done)).await.unwrap();
    wait
}

pub async fn append(log: &mut LogStore, entries: Vec<Entry>) -> std::io::Result<()> {
    append_later(log, entries).await.await.unwrap()
}

pub async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

pub async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) -> std::io::Result<()> {
    machine.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

pub async fn build(machine: &mut StateMachine) -> Snapshot {
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
}

/// Polls until `check` holds, for at most ten seconds.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Called after each write of keys, and around each sync.
pub trait Probe: Send + Sync + 'static {
    fn wrote(&self, _batch: &KeyBatch) {}
    fn syncing(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
    fn synced(&self) {}
    /// Nothing is synced, and nobody is told.
    fn sync_is_a_lie(&self) -> bool {
        false
    }
}

/// A disk that tells a probe what happens to its keys.
pub struct Probed<P> {
    pub disk: Arc<dyn Disk>,
    pub probe: Arc<P>,
}

struct ProbedKeys<P> {
    keys: Box<dyn Keys>,
    probe: Arc<P>,
}

impl<P: Probe> Disk for Probed<P> {
    fn place(&self) -> String {
        self.disk.place()
    }
    fn lock(&self) -> Result<DiskLock, StoreError> {
        self.disk.lock()
    }
    fn has_keys(&self) -> bool {
        self.disk.has_keys()
    }
    fn open_keys(&self, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
        Ok(Box::new(ProbedKeys { keys: self.disk.open_keys(cache_bytes)?, probe: self.probe.clone() }))
    }
    fn read_file(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.disk.read_file(name)
    }
    fn open_file(&self, name: &str) -> std::io::Result<Box<dyn DiskFile>> {
        self.disk.open_file(name)
    }
    fn create_file(&self, name: &str) -> std::io::Result<Box<dyn DiskWriter>> {
        self.disk.create_file(name)
    }
    fn publish(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.publish(from, to)
    }
    fn remove_file(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove_file(name)
    }
    fn list(&self, folder: &str) -> std::io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn set_witness(&self, number: u64) -> std::io::Result<()> {
        self.disk.set_witness(number)
    }
    fn witness(&self) -> std::io::Result<u64> {
        self.disk.witness()
    }
    fn run(&self, name: &'static str, task: BoxFuture<'static, ()>) -> std::io::Result<()> {
        self.disk.run(name, task)
    }
    fn offload(&self, lane: Lane, job: Job) {
        self.disk.offload(lane, job);
    }
}

impl<P: Probe> Keys for ProbedKeys<P> {
    fn get(&self, key: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        self.keys.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> std::io::Result<()> {
        self.keys.scan(from, to, each)
    }
    fn write(&self, batch: KeyBatch) -> std::io::Result<()> {
        self.keys.write(batch.clone())?;
        self.probe.wrote(&batch);
        Ok(())
    }
    fn sync(&self) -> BoxFuture<'_, std::io::Result<()>> {
        async {
            self.probe.syncing().await;
            if !self.probe.sync_is_a_lie() {
                self.keys.sync().await?;
            }
            self.probe.synced();
            Ok(())
        }
        .boxed()
    }
    fn size_on_disk(&self) -> std::io::Result<u64> {
        self.keys.size_on_disk()
    }
}

//! The memory: openraft's log, vote, committed index, state machine and snapshots, on sled.
//!
//! What always holds: durable means *on the device*. One writer thread drains the queue, writes one sled batch, flushes
//! sled, calls `fdatasync` on sled's file, and only then acknowledges. The state lives in memory; snapshots are files of
//! their own. Every record is versioned and checksummed; damage stops the node with a named exit code, and nothing is ever
//! guessed. Nothing here runs on the threads that carry Raft's heartbeats. The disk is a seam ([`Disk`]): in a simulation
//! its twin ([`MemDisk`]) takes its place, without threads.
//!
//! What it does not do: talk to the network, decide when to snapshot, or know what a command means.

mod audit;
mod disk;
mod error;
pub mod exit;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod keys;
mod log;
mod machine;
pub mod metrics;
mod record;
mod recovery;
mod restore;
pub mod runtime;
mod snapshot;
mod types;
mod writer;

pub use audit::{Audited, LogFindings};
pub use disk::{CrashMode, Disk, DiskFile, DiskLock, DiskWriter, Engine, Job, KeyBatch, Keys, Lane, MemDisk, RealDisk};
pub use error::StoreError;
pub use identity::{Identity, IdentityRecord};
pub use log::{Health, LogReader, LogStore};
pub use machine::{ApplyObserver, SnapshotBuilder, StateMachine};
pub use metrics::Metrics;
pub use record::{PART_BYTES, RAFT_SCHEMA};
pub use restore::{Restore, restore_into, restore_on};
pub use snapshot::{SnapshotData, SnapshotHeader, SnapshotInfo, SnapshotReceiver, inspect_snapshot};
pub use types::{
    Entry, IoFlushed, LogId, MasterNode, Membership, Proposal, Replies, Snapshot, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, log_id,
};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};
use steersman_state::State;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::audit::Audits;
use crate::log::Shared;
use crate::machine::Machine;
use crate::recovery::{Recovered, recover};
use crate::writer::{Op, Writer};

/// The replicated state. Only the state machine writes to it; hold the read lock briefly, never across an await.
pub type SharedState = Arc<RwLock<State>>;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// This master's id. Another one's directory is refused.
    pub node_id: u64,
    /// The cluster that the directory must belong to, if that is known already.
    pub cluster: Option<String>,
    /// sled's cache. Its own default is 1 GiB.
    pub cache_bytes: u64,
    /// Recent log entries in memory; entries that are not yet written are always there, whatever their size.
    pub recent_bytes: usize,
    /// Names a new directory, and ties its identity file and its log together; drawn at random if absent. An existing
    /// directory keeps its own.
    pub store_id: Option<u128>,
    /// Unix time in ms, noted in a new directory for people.
    pub created_ms: u64,
}

impl Options {
    /// For master `node_id` of that cluster (if it is known already), with defaults for the rest.
    pub fn new(node_id: u64, cluster: Option<String>) -> Self {
        Self { node_id, cluster, cache_bytes: 64 << 20, recent_bytes: 32 << 20, store_id: None, created_ms: 0 }
    }
}

/// An open store.
pub struct Store {
    /// For openraft.
    pub log: LogStore,
    /// For openraft.
    pub machine: StateMachine,
    /// For everybody who reads.
    pub state: SharedState,
    /// Whose directory it is.
    pub identity: Identity,
    /// For the node around it.
    pub control: Control,
}

impl Store {
    /// `Some` once the store has failed, whatever openraft makes of it: the process should end with its exit code.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.control.failed()
    }

    /// Nothing was ever kept here: no vote, no entry, no snapshot.
    pub fn is_blank(&self) -> bool {
        let memory = self.control.shared.memory.lock();
        memory.vote.is_none() && memory.last.is_none() && self.control.machine.newest.lock().is_none()
    }
}

/// What a node does with its store besides giving it to openraft. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    machine: Arc<Machine>,
    ops: mpsc::UnboundedSender<Op>,
}

impl Control {
    /// `Some` once the store has failed; it never recovers.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.shared.health.watch()
    }

    /// What is counted.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.shared.metrics.clone()
    }

    /// How far the log was purged; nothing below can be read any more.
    pub fn purged_upto(&self) -> Option<u64> {
        self.shared.memory.lock().purged.as_ref().map(LogId::index)
    }

    /// The newest snapshot, if there is one: what an operator saves is its bytes.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let machine = self.machine.clone();
        offload(&self.shared.disk, Lane::Transfer, move || machine.current()).await
    }

    /// Begins to receive a snapshot.
    ///
    /// # Errors
    /// If the store has failed.
    pub fn receive_snapshot(&self) -> Result<SnapshotReceiver, StoreError> {
        self.shared.health.check()?;
        Ok(SnapshotReceiver::new(self.shared.disk.clone()))
    }

    /// From now on, for ever, the directory belongs to this cluster. Durable on return.
    ///
    /// # Errors
    /// If it belongs to another one, or the disk refuses.
    pub async fn bind_cluster(&self, cluster: &str) -> Result<(), StoreError> {
        self.ask(|done| Op::Bind { cluster: cluster.to_owned(), done: Some(done) }).await
    }

    /// A small write, synced through the one writer like any other: returns when the disk has done it. A directory that
    /// was never used is not written to.
    ///
    /// # Errors
    /// If the disk refuses, or the store has failed or is closed.
    pub async fn canary(&self) -> Result<(), StoreError> {
        self.ask(|done| Op::Canary { done }).await
    }

    /// Bytes that the log takes on disk.
    ///
    /// # Errors
    /// If that can't be told.
    pub async fn log_bytes_on_disk(&self) -> Result<u64, StoreError> {
        let keys = self.shared.keys.read().clone().ok_or(StoreError::Closed)?;
        let size = move || keys.size_on_disk().map_err(|error| StoreError::disk("measure", "log", error));
        offload(&self.shared.disk, Lane::Read, size).await
    }

    /// Writes what is still queued, syncs, and frees the directory. Shut openraft down first. Nothing can be read or
    /// written afterwards.
    ///
    /// # Errors
    /// If the last writes fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.ask(|done| Op::Close { done }).await
    }

    async fn ask(&self, op: impl FnOnce(writer::Done) -> Op) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.ops.send(op(done)).map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?
    }
}

/// Opens a data directory, creating it if need be: checks who owns it, checks every record of the log, and loads the
/// newest snapshot into the state. The observer hears of that snapshot before this returns.
///
/// # Errors
/// Everything that [`StoreError`] names: see [`StoreError::exit_code`].
pub async fn open(
    disk: Arc<dyn Disk>,
    options: Options,
    observer: Arc<dyn ApplyObserver>,
) -> Result<Store, StoreError> {
    let (opened, wait) = oneshot::channel();
    let on = disk.clone();
    // The same task recovers and then is the writer: what opened the keys is what drops them, and the lock after them.
    let task = Box::pin(async move {
        let recovered = match recover(&on, &options).await {
            Ok(recovered) => recovered,
            Err(error) => return drop(opened.send(Err(error))),
        };
        let (store, writer) = assemble(on, options, observer, recovered);
        if opened.send(Ok(store)).is_ok() {
            writer.run().await;
        }
    });
    disk.run("steersman-log", task).map_err(|error| StoreError::disk("start a thread for", disk.place(), error))?;
    wait.await.unwrap_or_else(|_| Err(StoreError::corrupt(disk.place(), "opening it panicked")))
}

fn assemble(
    disk: Arc<dyn Disk>,
    options: Options,
    observer: Arc<dyn ApplyObserver>,
    found: Recovered,
) -> (Store, Writer) {
    let (ops, queue) = mpsc::unbounded_channel();
    let (health, metrics) = (Health::new(), Arc::new(Metrics::default()));
    let state = machine::shared_state(found.state);
    if let Some(last) = &found.applying.last {
        observer.installed(last.index());
    }
    let shared = Arc::new(Shared {
        disk: disk.clone(),
        keys: RwLock::new(Some(found.keys.clone())),
        memory: Mutex::new(found.memory),
        health: health.clone(),
        metrics: metrics.clone(),
        queued_bytes: AtomicU64::new(0),
        drained: Notify::new(),
        recent_bytes_max: options.recent_bytes,
    });
    let machine = Arc::new(Machine {
        disk,
        state: state.clone(),
        applying: Mutex::new(found.applying),
        newest: found.newest,
        observer,
        identity: found.identity.clone(),
        bound: AtomicBool::new(false),
        audits: Audits::new(),
        ops: ops.clone(),
        health,
        metrics,
    });
    let control = Control { shared: shared.clone(), machine: machine.clone(), ops: ops.clone() };
    let log = LogStore::new(shared.clone(), ops);
    let store = Store { log, machine: StateMachine(machine), state, identity: found.identity.clone(), control };
    let writer = Writer {
        shared,
        keys: found.keys,
        identity: found.identity,
        queue,
        synced_end: found.position.seal.end,
        position: found.position,
        lock: found.lock,
        committed: None,
        unsettled: false,
    };
    (store, writer)
}

/// Runs a blocking job on one of the disk's lanes and waits for it.
pub(crate) async fn offload<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    lane: Lane,
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (done, wait) = oneshot::channel();
    disk.offload(lane, Box::new(move || drop(done.send(job()))));
    wait.await.unwrap_or_else(|_| Err(StoreError::Invariant("a job of the disk panicked".to_owned())))
}

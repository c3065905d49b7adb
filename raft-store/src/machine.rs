//! The state machine as openraft sees it: [`State`] in memory, behind one lock, and its snapshots on disk.
//!
//! What always holds: entries are applied in order, each under its own short write lock; the observer hears of them after
//! the lock is released and before their caller gets the reply; a snapshot's image is taken under a short read lock and
//! written by a thread of its own while apply goes on. The newest snapshot is on the device before an older one is
//! removed, and before openraft may purge what it covers. What it does not do: decide what a command means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use steersman_state::{Applied, FORMAT_LEVEL, Image, MasterId, State};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::audit::{self, Audits};
use crate::disk::{Disk, Lane};
use crate::error::StoreError;
use crate::identity::{Identity, another_cluster};
use crate::log::Health;
use crate::metrics::Metrics;
use crate::snapshot::{
    SnapshotData, SnapshotHeader, file_name, listing, read_snapshot, state_error, temporary_name, write_snapshot,
};
use crate::types::{Entry, LogId, Membership, Replies, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::writer::Op;
use crate::{SharedState, offload};

/// Hears what was applied, on openraft's own task: must return at once and must not block.
pub trait ApplyObserver: Send + Sync + 'static {
    /// Entry `index` was applied. Called in log order, with the state's lock released.
    fn applied(&self, index: u64, term: u64, applied: &Applied);

    /// A snapshot that stands at `index` replaced the state: everything up to there is applied, without effects.
    fn installed(&self, index: u64);
}

/// How far the state is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applying {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
}

impl Applying {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

/// What the state machine and its snapshot builders share.
pub(crate) struct Machine {
    pub disk: Arc<dyn Disk>,
    pub state: SharedState,
    /// Changed only while the state's write lock is held.
    pub applying: Mutex<Applying>,
    /// Name of the newest snapshot. Held while files are published and removed.
    pub newest: Mutex<Option<String>>,
    pub observer: Arc<dyn ApplyObserver>,
    pub identity: Identity,
    pub bound: AtomicBool,
    /// Digests of the state at the indexes of audits.
    pub audits: Arc<Audits>,
    pub ops: mpsc::UnboundedSender<Op>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
}

/// The state machine. Cheap to clone.
#[derive(Clone)]
pub struct StateMachine(pub(crate) Arc<Machine>);

impl Machine {
    /// Where the newest snapshot stands.
    pub fn snapshot_index(&self) -> Option<u64> {
        self.newest.lock().as_deref().and_then(index_of)
    }

    fn fail(&self, error: StoreError) -> io::Error {
        self.health.fail(&error);
        error.into()
    }

    fn apply(&self, entry: &Entry) -> Result<Applied, StoreError> {
        let index = entry.log_id.index();
        let term = entry.log_id.committed_leader_id().term;
        // Decoded before the lock is taken: readers wait for apply only.
        let batch = match &entry.payload {
            EntryPayload::Normal(proposal) => {
                let place = || format!("the batch of log entry {index}");
                Some(proposal.batch().map_err(|error| state_error(error, place()))?)
            }
            _ => None,
        };
        let audited = batch.as_ref().is_some_and(|batch| audit::asks(batch));
        let began = Instant::now();
        let mut state = self.state.write();
        let applied = match (&entry.payload, batch) {
            (EntryPayload::Membership(membership), _) => apply_membership(&mut state, index, term, membership),
            (_, Some(batch)) => state.apply(index, &batch),
            (_, None) => state.apply_blank(index, term),
        };
        let mut applying = self.applying.lock();
        applying.last = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            applying.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
        drop(applying);
        if !self.bound.load(Ordering::Relaxed) {
            self.bind(&state)?;
        }
        let (level, image) = (state.format_level(), audited.then(|| state.image()));
        drop(state);
        if level > FORMAT_LEVEL {
            // A newer meaning of apply was switched on: this version would give other answers than the others from here on.
            let place = format!("the state from log entry {index} on");
            return Err(StoreError::WrongVersion { place, found: level, known: FORMAT_LEVEL });
        }
        self.metrics.applied(began.elapsed());
        if let Some(image) = image {
            self.audits.take(&self.disk, image);
        }
        self.observer.applied(index, term, &applied);
        Ok(applied)
    }

    /// The first time that the state names its cluster, the identity file learns it.
    fn bind(&self, state: &State) -> Result<(), StoreError> {
        let Some(cluster) = state.cluster_id() else { return Ok(()) };
        match self.identity.cluster() {
            Some(bound) if bound != cluster => return Err(another_cluster(&self.disk.place(), &bound, cluster)),
            Some(_) => {}
            None => {
                // If the writer is gone, the next start binds.
                let _ = self.ops.send(Op::Bind { cluster: cluster.to_owned(), done: None });
            }
        }
        self.bound.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A consistent copy of what a snapshot holds.
    fn take(&self) -> Taken {
        let began = Instant::now();
        let state = self.state.read();
        let meta = self.applying.lock().meta();
        let taken = Taken { meta, cluster: state.cluster_id().map(str::to_owned), image: state.image() };
        drop(state);
        self.metrics.image_taken(began.elapsed());
        taken
    }

    fn build(self: &Arc<Self>, taken: &Taken) -> Result<Snapshot, StoreError> {
        let began = Instant::now();
        let header = SnapshotHeader::new(&taken.meta, taken.cluster.clone(), self.identity.node_id());
        let temporary = temporary_name("building");
        let place = || format!("{}/{temporary}", self.disk.place());
        let error = |error| StoreError::disk("write", place(), error);
        let out = self.disk.create_file(&temporary).map_err(error)?;
        if let Err(failed) = write_snapshot(out, &header, &taken.image) {
            let _ = self.disk.remove_file(&temporary);
            return Err(error(failed));
        }
        self.publish(&temporary, &header)?;
        self.metrics.snapshot_written(began.elapsed());
        self.current()?.ok_or_else(|| StoreError::Invariant("no snapshot after one was written".to_owned()))
    }

    /// Makes a whole, synced file the newest snapshot, unless a newer one is there.
    fn publish(&self, temporary: &str, header: &SnapshotHeader) -> Result<(), StoreError> {
        let mut newest = self.newest.lock();
        let place = format!("{}/{temporary}", self.disk.place());
        let standing = newest.as_ref().and_then(|name| index_of(name));
        if standing > header.last.map(|(_, index)| index) {
            return self.disk.remove_file(temporary).map_err(|error| StoreError::disk("remove", place, error));
        }
        let name = file_name(header.last);
        self.disk.publish(temporary, &name).map_err(|error| StoreError::disk("rename", place, error))?;
        *newest = Some(name.clone());
        self.remove_others(&name)
    }

    fn remove_others(&self, keep: &str) -> Result<(), StoreError> {
        for name in listing(&*self.disk)?.whole.into_iter().filter(|name| name != keep) {
            let removed = self.disk.remove_file(&name);
            removed.map_err(|error| StoreError::disk("remove", format!("{}/{name}", self.disk.place()), error))?;
        }
        Ok(())
    }

    /// The newest snapshot, opened.
    pub fn current(self: &Arc<Self>) -> Result<Option<Snapshot>, StoreError> {
        let newest = self.newest.lock();
        let Some(name) = newest.clone() else { return Ok(None) };
        let data = SnapshotData::open(self.disk.clone(), name)?;
        drop(newest);
        let meta = data.header().meta()?;
        self.metrics.snapshot_is(data.header().last.map_or(0, |(_, index)| index), data.len());
        Ok(Some(Snapshot { meta, snapshot: data }))
    }

    fn install(self: &Arc<Self>, meta: &SnapshotMeta, data: &SnapshotData) -> Result<(), StoreError> {
        let (header, state, _) = read_snapshot(data.reader()?)?;
        if header.meta()? != *meta {
            return Err(StoreError::corrupt(data.name(), format!("it stands at {:?}, not at {meta}", header.last)));
        }
        if let (Some(bound), Some(cluster)) = (self.identity.cluster(), state.cluster_id())
            && bound != cluster
        {
            return Err(another_cluster(&self.disk.place(), &bound, cluster));
        }
        if !data.is_on(&self.disk) || self.newest.lock().as_deref() != Some(data.name()) {
            self.publish(&self.bring(data)?, &header)?;
        }
        self.replace(state, meta)
    }

    /// The name of a file of this disk with the same bytes, that may be renamed.
    fn bring(&self, data: &SnapshotData) -> Result<String, StoreError> {
        if data.is_on(&self.disk) && data.is_temporary() {
            return Ok(data.name().to_owned());
        }
        let name = temporary_name("copying");
        let copy = || {
            let mut out = self.disk.create_file(&name)?;
            io::copy(&mut data.reader()?, &mut out)?;
            out.sync()
        };
        copy().map_err(|error| StoreError::disk("write", format!("{}/{name}", self.disk.place()), error))?;
        Ok(name)
    }

    fn replace(&self, state: State, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let mut guard = self.state.write();
        let old = std::mem::replace(&mut *guard, state);
        *self.applying.lock() = Applying { last: meta.last_log_id, membership: meta.last_membership.clone() };
        self.bind(&guard)?;
        drop(guard);
        // A large state takes a while to free: after the lock.
        drop(old);
        Ok(())
    }
}

fn index_of(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.strip_suffix(".snap")?.parse().ok()
}

fn apply_membership(state: &mut State, index: u64, term: u64, membership: &Membership) -> Applied {
    let voters = membership.voter_ids().collect::<std::collections::BTreeSet<_>>();
    let learners = membership.learner_ids().map(MasterId).collect();
    state.apply_membership(index, term, voters.into_iter().map(MasterId).collect(), learners)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applying = self.0.applying.lock();
        Ok((applying.last, applying.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let applied = self.0.apply(&entry).map_err(|error| self.0.fail(error))?;
            if let Some(responder) = responder {
                responder.send(Replies(applied.replies, entry.index()));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { machine: self.0.clone(), taken: Arc::new(self.0.take()) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let (machine, at) = (self.0.clone(), meta.clone());
        let installed = offload(&self.0.disk, Lane::Snapshot, move || machine.install(&at, &snapshot)).await;
        installed.map_err(|error| self.0.fail(error))?;
        self.0.observer.installed(meta.last_log_id.map_or(0, |last| last.index()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let machine = self.0.clone();
        let current = offload(&self.0.disk, Lane::Transfer, move || machine.current()).await;
        current.map_err(|error| self.0.fail(error))
    }
}

impl StateMachine {
    /// Writes the state as it stands here as the newest snapshot, in the place of one that stands at the same index. A
    /// running master never needs it: it is how a test makes a replica whose state is not the others'.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn rewrite_snapshot(&self) -> Result<(), StoreError> {
        let (machine, taken) = (self.0.clone(), self.0.take());
        offload(&self.0.disk, Lane::Snapshot, move || machine.build(&taken).map(drop)).await
    }
}

/// What a snapshot will hold.
struct Taken {
    meta: SnapshotMeta,
    cluster: Option<String>,
    image: Image,
}

/// One snapshot in the making: a view that later entries don't change.
pub struct SnapshotBuilder {
    machine: Arc<Machine>,
    taken: Arc<Taken>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (machine, taken) = (self.machine.clone(), self.taken.clone());
        let built = offload(&self.machine.disk, Lane::Snapshot, move || machine.build(&taken)).await;
        built.map_err(|error| self.machine.fail(error))
    }
}

/// The state behind its lock, for the parts of a master that read it.
pub(crate) fn shared_state(state: State) -> SharedState {
    Arc::new(RwLock::new(state))
}

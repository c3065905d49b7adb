//! From a snapshot file to data directories of a new set of masters.
//!
//! What always holds: only an empty directory is written to; the restored state stands one entry above the saved one, with
//! the new members in it and its token epoch raised, so that no fencing token is ever given twice; the first vote is not
//! older than the snapshot, so that new entries continue its terms. Every member must be restored from the same file with
//! the same parameters. What it does not do: talk to a running cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use steersman_state::{MasterId, State};
use tokio::sync::oneshot;

use crate::disk::{Disk, Engine, KeyBatch, RealDisk};
use crate::error::StoreError;
use crate::identity::{Identity, IdentityRecord, another_cluster};
use crate::keys;
use crate::record::{self, Seal, Sentinel, VoteRecord};
use crate::snapshot::{
    SnapshotHeader, SnapshotInfo, file_name, info, listing, read_snapshot, temporary_name, write_snapshot,
};
use crate::types::MasterNode;

/// The engine's cache while a directory is prepared.
const CACHE_BYTES: u64 = 16 << 20;

/// The new cluster, as one of its masters sees it.
#[derive(Debug, Clone)]
pub struct Restore {
    /// Whose directory it will be.
    pub node_id: u64,
    /// Every voter of the restored cluster, this one included.
    pub members: BTreeMap<u64, MasterNode>,
    /// Must be the snapshot's, if that has one.
    pub cluster: String,
    /// Above every epoch that this cluster was ever restored with.
    pub epoch: u64,
    /// Random.
    pub store_id: u128,
    /// Unix time in ms, for people.
    pub created_ms: u64,
}

/// Prepares an empty directory from a snapshot file; its log will be kept by `engine`.
///
/// # Errors
/// If the directory is not empty, the snapshot is damaged or another cluster's, or the disk refuses.
pub async fn restore_into(
    dir: &Path,
    engine: Engine,
    snapshot: &Path,
    restore: Restore,
) -> Result<SnapshotInfo, StoreError> {
    let file = File::open(snapshot);
    let file = file.map_err(|error| StoreError::disk("open", snapshot.display().to_string(), error))?;
    restore_on(Arc::new(RealDisk::new(dir).kept_by(engine)), Box::new(file), restore).await
}

/// Prepares an empty disk from a snapshot's bytes.
///
/// # Errors
/// As [`restore_into`].
pub async fn restore_on(
    disk: Arc<dyn Disk>,
    snapshot: Box<dyn Read + Send>,
    restore: Restore,
) -> Result<SnapshotInfo, StoreError> {
    let (done, wait) = oneshot::channel();
    let on = disk.clone();
    let task = Box::pin(async move {
        let _ = done.send(prepare(&*on, snapshot, restore).await);
    });
    disk.run("steersman-restore", task).map_err(|error| StoreError::disk("start a thread for", disk.place(), error))?;
    wait.await.unwrap_or_else(|_| Err(StoreError::Invariant("restoring panicked".to_owned())))
}

async fn prepare(
    disk: &dyn Disk,
    snapshot: Box<dyn Read + Send>,
    restore: Restore,
) -> Result<SnapshotInfo, StoreError> {
    if !restore.members.contains_key(&restore.node_id) {
        return Err(StoreError::Invariant(format!("master {} is not among the members", restore.node_id)));
    }
    let _lock = disk.lock()?;
    refuse_used(disk)?;
    let (header, state, _) = read_snapshot(snapshot)?;
    if let Some(cluster) = header.cluster.as_ref().filter(|cluster| **cluster != restore.cluster) {
        return Err(another_cluster("the snapshot", cluster, &restore.cluster));
    }
    let (header, state) = renewed(&header, state, &restore);
    let record = IdentityRecord {
        node_id: restore.node_id,
        cluster: Some(restore.cluster.clone()),
        store_id: restore.store_id,
        created_ms: restore.created_ms,
        in_use: true,
    };
    let bytes = write(disk, &header, &state)?;
    write_vote(disk, &header, &restore).await?;
    // Last: without it the directory is refused, so a restore that was cut short is never used.
    Identity::create(disk, record)?;
    Ok(info(header, &state, bytes))
}

fn refuse_used(disk: &dyn Disk) -> Result<(), StoreError> {
    let read = |error| StoreError::disk("read", disk.place(), error);
    let identity = disk.read_file(crate::identity::FILE).map_err(read)?;
    if identity.is_some() || disk.has_keys() || !listing(disk)?.whole.is_empty() {
        return Err(StoreError::foreign(disk.place(), "it is not empty: restore into a new directory"));
    }
    Ok(())
}

/// One entry further: the new members, and tokens of a new epoch.
fn renewed(saved: &SnapshotHeader, state: State, restore: &Restore) -> (SnapshotHeader, State) {
    let (term, index) = saved.last.map_or((0, 0), |(term, index)| (term, index + 1));
    let voters = restore.members.keys().copied().collect::<BTreeSet<_>>();
    let mut state = state.restored(restore.epoch);
    state.apply_membership(index, term, voters.iter().copied().map(MasterId).collect(), Vec::new());
    let header = SnapshotHeader {
        cluster: Some(restore.cluster.clone()),
        // The same on every member, so that their snapshots are equal byte by byte.
        node_id: 0,
        last: Some((term, index)),
        membership_at: Some((term, index)),
        voters: vec![voters],
        nodes: restore.members.clone(),
    };
    (header, state)
}

fn write(disk: &dyn Disk, header: &SnapshotHeader, state: &State) -> Result<u64, StoreError> {
    let temporary = temporary_name("restoring");
    let error = |error| StoreError::disk("write", format!("{}/{temporary}", disk.place()), error);
    let out = disk.create_file(&temporary).map_err(error)?;
    let bytes = write_snapshot(out, header, &state.image()).map_err(error)?;
    disk.publish(&temporary, &file_name(header.last)).map_err(error)?;
    Ok(bytes)
}

async fn write_vote(disk: &dyn Disk, header: &SnapshotHeader, restore: &Restore) -> Result<(), StoreError> {
    let place = format!("{}/log", disk.place());
    let keys = disk.open_keys(CACHE_BYTES)?;
    let sentinel = Sentinel { store_id: restore.store_id, node_id: restore.node_id };
    let (term, _) = header.last.unwrap_or_default();
    let vote = VoteRecord { term, node: restore.node_id, committed: false };
    let mut batch = KeyBatch::default();
    batch.put(keys::meta(keys::SENTINEL), record::seal(keys::SENTINEL, &sentinel));
    batch.put(keys::meta(keys::VOTE), record::seal(keys::VOTE, &vote));
    batch.put(keys::meta(keys::SEAL), record::seal(keys::SEAL, &Seal { number: 1, end: 0 }));
    keys.write(batch).map_err(|error| StoreError::disk("write", &place, error))?;
    keys.sync().await.map_err(|error| StoreError::disk("sync", &place, error))
}

//! Opening a data directory: who owns it, what the log holds, which snapshot it stands on.
//!
//! What always holds: nothing is believed that a checksum does not cover, and nothing that was acknowledged may be missing.
//! The seal says where the log ends. Everything below it must be there, whole and without a hole, or the directory is
//! damaged; what lies above it belongs to a batch that did not reach the disk whole, was never acknowledged, and is
//! removed. A database older than its witness has lost synced writes. What it does not do: repair.

use std::sync::Arc;

use openraft::AsyncRuntime as _;
use parking_lot::Mutex;
use rand::Rng as _;
use steersman_state::State;

use crate::disk::{Disk, DiskLock, KeyBatch, Keys};
use crate::error::StoreError;
use crate::identity::{Identity, IdentityRecord, another_cluster};
use crate::log::{Memory, scan_entries};
use crate::machine::Applying;
use crate::record::{self, Point, RecordError, Seal, Sentinel, VoteRecord, entry_from_parts};
use crate::runtime::SeamRuntime;
use crate::snapshot::{listing, read_snapshot};
use crate::types::{LogId, Vote};
use crate::writer::Position;
use crate::{Options, keys};

/// Leftovers that one batch removes.
const REMOVED_AT_ONCE: usize = 256;

/// Everything that was found.
pub(crate) struct Recovered {
    pub lock: DiskLock,
    pub identity: Identity,
    pub keys: Arc<dyn Keys>,
    pub memory: Memory,
    pub position: Position,
    pub state: State,
    pub applying: Applying,
    pub newest: Mutex<Option<String>>,
}

/// Opens and checks everything. Blocks in the disk's calls.
pub(crate) async fn recover(disk: &Arc<dyn Disk>, options: &Options) -> Result<Recovered, StoreError> {
    let lock = disk.lock()?;
    let identity = Identity::open(&**disk, wanted(options))?;
    if identity.in_use() && !disk.has_keys() {
        return Err(emptied(&**disk));
    }
    let keys: Arc<dyn Keys> = Arc::from(disk.open_keys(options.cache_bytes)?);
    let place = format!("{}/log", disk.place());
    own(&*keys, &identity, &**disk, &place).await?;
    let (state, applying, newest) = newest_snapshot(&**disk)?;
    if let (Some(bound), Some(cluster)) = (identity.cluster(), state.cluster_id())
        && bound != cluster
    {
        return Err(another_cluster(&format!("the snapshot in {}", disk.place()), cluster, &bound));
    }
    let (mut memory, position) = read_log(&*keys, &**disk, &place).await?;
    check_snapshot(&memory, &applying, &disk.place())?;
    memory.committed = memory.committed.take().filter(|committed| Some(*committed) > applying.last).or(applying.last);
    Ok(Recovered { lock, identity, keys, memory, position, state, applying, newest: Mutex::new(newest) })
}

fn wanted(options: &Options) -> IdentityRecord {
    IdentityRecord {
        node_id: options.node_id,
        cluster: options.cluster.clone(),
        store_id: options.store_id.unwrap_or_else(random_id),
        created_ms: options.created_ms,
        in_use: false,
    }
}

/// From the runtime's randomness, which a simulation seeds.
fn random_id() -> u128 {
    let mut random = SeamRuntime::thread_rng();
    u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
}

fn emptied(disk: &dyn Disk) -> StoreError {
    let problem =
        "its log was removed, emptied or damaged from its beginning, and the votes that this node cast are gone";
    StoreError::foreign(disk.place(), problem)
}

/// The store of keys must be the one that the identity file names; a fresh one is marked so.
async fn own(keys: &dyn Keys, identity: &Identity, disk: &dyn Disk, place: &str) -> Result<(), StoreError> {
    let mine = Sentinel { store_id: identity.record().store_id, node_id: identity.node_id() };
    match get::<Sentinel>(keys, keys::SENTINEL, place)? {
        Some(found) if found == mine => Ok(()),
        Some(_) => Err(StoreError::foreign(place, "it is the log of another data directory")),
        None if identity.in_use() => Err(emptied(disk)),
        None => {
            let mut batch = KeyBatch::default();
            batch.put(keys::meta(keys::SENTINEL), record::seal(keys::SENTINEL, &mine));
            write(keys, batch, place)?;
            keys.sync().await.map_err(|error| StoreError::disk("sync", place, error))
        }
    }
}

fn write(keys: &dyn Keys, batch: KeyBatch, place: &str) -> Result<(), StoreError> {
    keys.write(batch).map_err(|error| StoreError::disk("write", place, error))
}

fn get<T: serde::de::DeserializeOwned>(keys: &dyn Keys, name: &str, place: &str) -> Result<Option<T>, StoreError> {
    let found = keys.get(&keys::meta(name)).map_err(|error| StoreError::disk("read", place, error))?;
    found.map(|bytes| record::open(name, &bytes)).transpose().map_err(|error| error.at(place))
}

/// Loads the newest snapshot; removes older ones and leftovers. A damaged newest one is never passed over: an older one
/// would have lost what the log was purged of since.
fn newest_snapshot(disk: &dyn Disk) -> Result<(State, Applying, Option<String>), StoreError> {
    let mut found = listing(disk)?;
    let newest = found.whole.pop();
    let loaded = match &newest {
        None => (State::new(), Applying::default()),
        Some(name) => load(disk, name)?,
    };
    for name in found.whole.into_iter().chain(found.leftovers) {
        let removed = disk.remove_file(&name);
        removed.map_err(|error| StoreError::disk("remove", format!("{}/{name}", disk.place()), error))?;
    }
    Ok((loaded.0, loaded.1, newest))
}

fn load(disk: &dyn Disk, name: &str) -> Result<(State, Applying), StoreError> {
    let place = format!("{}/{name}", disk.place());
    let file = disk.open_file(name).map_err(|error| StoreError::disk("open", &place, error))?;
    let named = |error| match error {
        StoreError::Corrupt { problem, .. } => StoreError::Corrupt { place: place.clone(), problem },
        other => other,
    };
    let (header, state, _) = read_snapshot(file).map_err(named)?;
    let meta = header.meta()?;
    Ok((state, Applying { last: meta.last_log_id, membership: meta.last_membership }))
}

/// The log must begin where the snapshot ends, or before.
fn check_snapshot(memory: &Memory, applying: &Applying, place: &str) -> Result<(), StoreError> {
    let covered = applying.last.as_ref().map(LogId::index);
    let purged = memory.purged.as_ref().map(LogId::index);
    if purged > covered {
        let stands = covered.map_or("there is no snapshot".to_owned(), |at| format!("the snapshot ends at {at}"));
        return Err(StoreError::corrupt(place, format!("the log was purged up to {purged:?}, but {stands}")));
    }
    let committed = memory.committed.as_ref().map(LogId::index);
    let end = memory.last.as_ref().map(LogId::index).max(covered);
    if committed > end {
        return Err(StoreError::corrupt(place, format!("committed up to {committed:?}, but the log ends at {end:?}")));
    }
    Ok(())
}

async fn read_log(keys: &dyn Keys, disk: &dyn Disk, place: &str) -> Result<(Memory, Position), StoreError> {
    let seal = get::<Seal>(keys, keys::SEAL, place)?.unwrap_or_default();
    let witness = disk.witness().map_err(|error| StoreError::disk("read", disk.place(), error))?;
    if seal.number < witness {
        let problem = format!("it is at write {}, but write {witness} was synced: synced writes are lost", seal.number);
        return Err(StoreError::corrupt(place, problem));
    }
    let vote = get::<VoteRecord>(keys, keys::VOTE, place)?.map(Vote::from);
    let committed = get::<Point>(keys, keys::COMMITTED, place)?.map(LogId::from);
    let purged = get::<Point>(keys, keys::PURGED, place)?.map(LogId::from);
    let start = purged.as_ref().map_or(0, |purged| purged.index() + 1);
    let mut scan = Scan { next: start, end: seal.end, last: purged, ..Scan::default() };
    scan_entries(keys, 0..u64::MAX, &mut |index, parts| scan.entry(index, &parts, start).map(|()| true))?;
    if scan.next < seal.end {
        return Err(RecordError::Damaged(format!("log entry {} is missing", scan.next)).at(place));
    }
    #[cfg(feature = "seeded-bugs")]
    if steersman_bugs::planted("torn-write-left") {
        scan.above.clear();
    }
    remove_above(keys, &scan.above, place).await?;
    let position = Position { seal, multi: scan.multi, purge: scan.below.unwrap_or(start)..start };
    Ok((Memory::new(vote, committed, purged, scan.last), position))
}

#[derive(Default)]
struct Scan {
    next: u64,
    end: u64,
    last: Option<LogId>,
    multi: std::collections::BTreeMap<u64, u16>,
    /// First purged entry whose keys are still there.
    below: Option<u64>,
    /// Keys above the seal.
    above: Vec<Vec<u8>>,
}

impl Scan {
    fn entry(&mut self, index: u64, parts: &[Vec<u8>], start: u64) -> Result<(), StoreError> {
        if index < self.end && parts.len() > 1 {
            self.multi.insert(index, parts.len() as u16);
        }
        if index < start {
            self.below.get_or_insert(index);
        } else if index >= self.end {
            self.above.extend((0..parts.len()).map(|part| keys::part(index, part as u16)));
        } else if index != self.next {
            return Err(RecordError::Damaged("it is missing".into()).at(format!("log entry {}", self.next)));
        } else {
            let entry = entry_from_parts(index, parts).map_err(|error| error.at(format!("log entry {index}")))?;
            if self.last.is_some_and(|last| last > entry.log_id) {
                return Err(StoreError::corrupt(format!("log entry {index}"), "its term is older than the one before"));
            }
            self.last = Some(entry.log_id);
            self.next += 1;
        }
        Ok(())
    }
}

async fn remove_above(keys: &dyn Keys, above: &[Vec<u8>], place: &str) -> Result<(), StoreError> {
    if above.is_empty() {
        return Ok(());
    }
    tracing::warn!(keys = above.len(), "removing the rest of a write that was never acknowledged");
    for some in above.chunks(REMOVED_AT_ONCE) {
        let mut batch = KeyBatch::default();
        some.iter().for_each(|key| batch.delete(key.clone()));
        write(keys, batch, place)?;
    }
    keys.sync().await.map_err(|error| StoreError::disk("sync", place, error))
}

//! The log's keys in fjall, a log-structured merge tree with a journal of its own.
//!
//! What always holds: a batch is one record of the journal, written when it is applied; [`Keys::sync`] is one `fdatasync` of the
//! journal. What was written before a failure of the disk may or may not be there: fjall refuses everything after it. A panic
//! inside becomes an error. A journal that was cut short or damaged ends, for fjall, at the first record that is not whole; that
//! something acknowledged is missing is told by the seal and the witness (see recovery).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{fs, io};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::real::sync_dir;
use super::{KeyBatch, Keys};
use crate::error::StoreError;

/// fjall writes it when a database is whole for the first time.
pub(super) const FILE: &str = "version";
/// The one keyspace.
const KEYSPACE: &str = "log";
/// Bytes of journals, above which old ones are made superfluous: the least that fjall takes.
const JOURNALS_BYTES: u64 = 64 << 20;
/// Bytes in memory before they become a table on disk. Most of a Raft log is purged before.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// Threads that write and merge tables, seldom.
const THREADS: usize = 1;

/// Opens the database in `dir`, or creates it there, durably and all at once.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
    let place = dir.display().to_string();
    if !dir.exists() {
        create(dir).map_err(|error| StoreError::disk("create", &place, error))?;
    }
    let opened = guarded(|| open_at(dir, cache_bytes));
    opened.map(|keys| Box::new(keys) as Box<dyn Keys>).map_err(|failure| open_error(failure, &place))
}

/// Under another name first: half a database could not be opened, nor created once more.
fn create(dir: &Path) -> io::Result<()> {
    let half = dir.with_extension("new");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    drop(guarded(|| open_at(&half, 0))?);
    fs::rename(&half, dir)?;
    sync_dir(dir.parent().unwrap_or(dir))
}

fn open_at(dir: &Path, cache_bytes: u64) -> fjall::Result<FjallKeys> {
    let db = Database::builder(dir)
        .cache_size(cache_bytes)
        .max_journaling_size(JOURNALS_BYTES)
        .worker_threads(THREADS)
        .manual_journal_persist(true)
        .open()?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).manual_journal_persist(true);
    let log = db.keyspace(KEYSPACE, options)?;
    db.persist(PersistMode::SyncAll)?;
    Ok(FjallKeys { log, db })
}

/// What fjall or a panic inside it said.
enum Failure {
    Fjall(fjall::Error),
    Panic(String),
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Fjall(error)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fjall(fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) => error,
            Failure::Fjall(fjall::Error::Poisoned) => Self::other("an earlier write failed"),
            Failure::Fjall(error) => Self::new(io::ErrorKind::InvalidData, error.to_string()),
            Failure::Panic(text) => Self::new(io::ErrorKind::InvalidData, format!("fjall panicked: {text}")),
        }
    }
}

fn guarded<T>(call: impl FnOnce() -> fjall::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(Failure::from),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure::Panic(text.unwrap_or_default()))
        }
    }
}

fn open_error(failure: Failure, place: &str) -> StoreError {
    match failure {
        Failure::Fjall(fjall::Error::Locked) => StoreError::Locked { place: place.to_owned() },
        other => match io::Error::from(other) {
            error if error.kind() == io::ErrorKind::InvalidData => StoreError::corrupt(place, error.to_string()),
            error => StoreError::disk("open", place, error),
        },
    }
}

/// Fields are dropped in order: the database last, which ends its threads.
struct FjallKeys {
    log: Keyspace,
    db: Database,
}

impl Keys for FjallKeys {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(guarded(|| self.log.get(key))?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        guarded(|| {
            for pair in self.log.range(from..to) {
                let (key, value) = pair.into_inner()?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
        .map_err(io::Error::from)
    }

    fn write(&self, batch: KeyBatch) -> io::Result<()> {
        guarded(|| {
            let mut writes = self.db.batch();
            for (key, value) in batch.ops {
                match value {
                    Some(value) => writes.insert(&self.log, key, value),
                    None => writes.remove(&self.log, key),
                }
            }
            writes.commit()
        })
        .map_err(io::Error::from)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async { guarded(|| self.db.persist(PersistMode::SyncData)).map_err(io::Error::from) }.boxed()
    }

    fn size_on_disk(&self) -> io::Result<u64> {
        guarded(|| self.db.disk_space()).map_err(io::Error::from)
    }
}

//! The log's keys in sled.
//!
//! What always holds: sled's `flush` ends in `sync_file_range`, which reaches neither the drive's cache nor the file's
//! metadata, so every sync here flushes sled and then calls `fdatasync` on sled's own file. A panic inside sled becomes an
//! error.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::real::sync_dir;
use super::{KeyBatch, Keys};
use crate::error::StoreError;

/// Sled's file, which holds everything.
pub(super) const FILE: &str = "db";
/// How often sled's own thread flushes and collects segments, in ms: it collects only there, so never `None`.
const SLED_FLUSH_MS: u64 = 200;
/// How long sled's threads may take to end. Usually under a millisecond; on a busy machine a few.
const SLED_ENDS: Duration = Duration::from_secs(5);

/// Opens the database in `dir`, which exists, or creates it there, durably.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
    let place = dir.display().to_string();
    let failed = |what| {
        let place = place.clone();
        move |error| StoreError::disk(what, place, error)
    };
    remove_half_written(dir).map_err(failed("clean"))?;
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(SLED_FLUSH_MS));
    let db = guarded(|| config.open()).map_err(|error| open_error(error, &place))?;
    let file = OpenOptions::new().read(true).write(true).open(dir.join(FILE)).map_err(failed("open the file of"))?;
    file.sync_all().map_err(failed("sync"))?;
    sync_dir(dir).map_err(failed("sync"))?;
    Ok(Box::new(SledKeys { db, file: SledFile { file, given_up: AtomicBool::new(false) } }))
}

/// sled reads any file that begins with `snap.`, so one that it had not finished writing would keep it from opening.
fn remove_half_written(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = name, "removing a half-written index file of sled");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled panics where it meets something that it did not expect; that is an error like any other here.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        Err(sled::Error::ReportableBug(format!("sled panicked: {text}")))
    })
}

fn open_error(error: sled::Error, place: &str) -> StoreError {
    match error {
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            StoreError::Locked { place: place.to_owned() }
        }
        sled::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::corrupt(place, error.to_string())
        }
        sled::Error::Io(error) => StoreError::disk("open", place, error),
        other => StoreError::corrupt(place, other.to_string()),
    }
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// Fields are dropped in order: the database first, then what waits until it is gone.
struct SledKeys {
    db: sled::Db,
    file: SledFile,
}

/// sled's own file, opened a second time: `fdatasync` works on the file, whoever wrote to it.
struct SledFile {
    file: File,
    /// Writing or syncing failed: sled keeps its file until the process ends.
    given_up: AtomicBool,
}

impl Drop for SledFile {
    /// sled's own threads may hold its file, and the lock on it, a moment longer than the database lives. Whoever is told
    /// that the store is closed must be able to open it.
    fn drop(&mut self) {
        let began = Instant::now();
        while !self.given_up.load(Ordering::Relaxed) && matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            if began.elapsed() > SLED_ENDS {
                tracing::warn!("sled has not let go of its file");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for SledKeys {
    /// sled, dropped, syncs once more: whether that can be done is tried here first, since it may be something else that failed.
    fn drop(&mut self) {
        if !self.file.given_up.load(Ordering::Relaxed) {
            let flushed = guarded(|| self.db.flush()).map_err(io_error);
            let _ = self.checked(flushed.and_then(|_| self.file.file.sync_all()));
        }
    }
}

impl SledKeys {
    /// After a failure the node stops, and sled must not be dropped: it would sync once more and panic if that fails, too.
    fn checked<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.is_err() && !self.file.given_up.swap(true, Ordering::Relaxed) {
            std::mem::forget(self.db.clone());
        }
        outcome
    }
}

impl Keys for SledKeys {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(guarded(|| self.db.get(key)).map_err(io_error)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        guarded(|| {
            for pair in self.db.range(from..to) {
                let (key, value) = pair?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
        .map_err(io_error)
    }

    fn write(&self, batch: KeyBatch) -> io::Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.ops {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.checked(guarded(|| self.db.apply_batch(writes)).map_err(io_error))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async {
            let flushed = guarded(|| self.db.flush()).map_err(io_error);
            self.checked(flushed.and_then(|_| self.file.file.sync_data()))
        }
        .boxed()
    }

    fn size_on_disk(&self) -> io::Result<u64> {
        guarded(|| self.db.size_on_disk()).map_err(io_error)
    }
}

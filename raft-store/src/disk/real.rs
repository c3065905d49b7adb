//! A directory on a real disk: sled for the keys, plain files beside it, threads for whatever blocks.
//!
//! What always holds: sled's `flush` ends in `sync_file_range`, which reaches neither the drive's cache nor the file's
//! metadata, so every sync here flushes sled and then calls `fdatasync` on sled's own file. Directories are fsynced when
//! something is created or renamed in them. A panic inside sled becomes an error.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskLock, DiskWriter, Job, KeyBatch, Keys, Lane};
use crate::error::StoreError;

/// Folder of sled's files.
const KEYS: &str = "log";
/// Locked by the process that uses the directory.
const LOCK: &str = "lock";
/// Two slots of 16 bytes: a number and its CRC. Written in turn, so that one is always whole.
const WITNESS: &str = "witness";
/// How often sled's own thread flushes and collects segments, in ms: it collects only there, so never `None`.
const SLED_FLUSH_MS: u64 = 200;
/// How long sled's threads may take to end. Usually under a millisecond; on a busy machine a few.
const SLED_ENDS: Duration = Duration::from_secs(5);

/// A data directory.
pub struct SledDisk {
    dir: PathBuf,
    /// One thread per lane, started by its first job.
    lanes: [Mutex<Option<mpsc::Sender<Job>>>; 3],
    witness: Mutex<Option<(File, u64)>>,
}

impl SledDisk {
    /// Of this directory. Nothing is touched before it is locked.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), lanes: Default::default(), witness: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn error(&self, what: &'static str, name: &str) -> impl FnOnce(io::Error) -> StoreError {
        let place = self.path(name).display().to_string();
        move |error| StoreError::disk(what, place, error)
    }

    fn open_witness(&self) -> io::Result<(File, u64)> {
        let path = self.path(WITNESS);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut slots = Vec::new();
        (&file).read_to_end(&mut slots)?;
        let newest = slots.chunks_exact(16).filter_map(witness_number).max().unwrap_or(0);
        Ok((file, newest))
    }
}

fn witness_slot(number: u64) -> [u8; 16] {
    let mut slot = [0; 16];
    slot[..8].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&slot[..8]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn witness_number(slot: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(slot.get(..8)?.try_into().ok()?);
    (witness_slot(number) == slot).then_some(number)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Creates a directory and all above it that are missing, each made durable in the one above.
fn create_dir_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if !above.exists() {
        create_dir_durably(&above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => sync_dir(&above)?,
    }
    sync_dir(path)
}

/// A thread that does jobs in order, until the sender is gone.
fn worker(name: &'static str) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::Builder::new().name(name.into()).spawn(move || {
        while let Ok(job) = queue.recv() {
            // A panicking job drops its answer, which its caller sees as an error; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    Ok(jobs)
}

impl Disk for SledDisk {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock(&self) -> Result<DiskLock, StoreError> {
        create_dir_durably(&self.dir).map_err(self.error("create", ""))?;
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(LOCK));
        let file = open.map_err(self.error("open", LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { place: self.place() }),
            Err(TryLockError::Error(error)) => Err(self.error("lock", LOCK)(error)),
        }
    }

    fn has_keys(&self) -> bool {
        self.path(KEYS).join("db").exists()
    }

    fn open_keys(&self, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
        let dir = self.path(KEYS);
        create_dir_durably(&dir).map_err(self.error("create", KEYS))?;
        remove_half_written(&dir).map_err(self.error("clean", KEYS))?;
        let config = sled::Config::new()
            .path(&dir)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(SLED_FLUSH_MS));
        let place = dir.display().to_string();
        let db = guarded(|| config.open()).map_err(|error| open_error(error, &place))?;
        let file = OpenOptions::new().read(true).write(true).open(dir.join("db"));
        let file = file.map_err(self.error("open", "log/db"))?;
        file.sync_all().map_err(self.error("sync", "log/db"))?;
        sync_dir(&dir).map_err(self.error("sync", KEYS))?;
        Ok(Box::new(SledKeys { db, file: SledFile { file, given_up: AtomicBool::new(false) } }))
    }

    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_file(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile { file: File::open(self.path(name))?, at: 0 }))
    }

    fn create_file(&self, name: &str) -> io::Result<Box<dyn DiskWriter>> {
        let path = self.path(name);
        create_dir_durably(&parent(&path))?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealWriter(file)))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.path(to);
        fs::rename(self.path(from), &to)?;
        sync_dir(&parent(&to))
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn set_witness(&self, number: u64) -> io::Result<()> {
        let mut guard = self.witness.lock();
        let (file, _) = match guard.take() {
            Some(open) => open,
            None => self.open_witness()?,
        };
        let written = file.write_all_at(&witness_slot(number), (number % 2) * 16);
        *guard = Some((file, number));
        written
    }

    fn witness(&self) -> io::Result<u64> {
        let mut guard = self.witness.lock();
        if guard.is_none() {
            *guard = Some(self.open_witness()?);
        }
        Ok(guard.as_ref().map_or(0, |(_, number)| *number))
    }

    fn run(&self, name: &'static str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(task))?;
        Ok(())
    }

    fn offload(&self, lane: Lane, job: Job) {
        let (lane, name) = match lane {
            Lane::Read => (0, "steersman-read"),
            Lane::Snapshot => (1, "steersman-snap"),
            Lane::Transfer => (2, "steersman-xfer"),
        };
        let mut slot = self.lanes[lane].lock();
        if slot.is_none() {
            *slot = worker(name).inspect_err(|error| tracing::error!(%error, name, "no thread for the disk")).ok();
        }
        // Without a thread the job is dropped, and with it the answer that its caller waits for: an error there.
        if let Some(jobs) = slot.as_ref() {
            let _ = jobs.send(job);
        }
    }
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

struct RealFile {
    file: File,
    at: u64,
}

impl Read for RealFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn reopen(&self) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self { file: self.file.try_clone()?, at: 0 }))
    }
}

struct RealWriter(File);

impl Write for RealWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl DiskWriter for RealWriter {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

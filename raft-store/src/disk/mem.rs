//! The in-memory twin of a real disk, for simulations and tests: deterministic, without threads, and forgetful.
//!
//! What always holds: a write is readable at once and durable only after a sync, which takes simulated time; a crash
//! loses everything that was not synced, or all but a chosen prefix of it; a handle from before a crash is dead. The disk
//! outlives its users: the test holds it, a restarted node gets a clone.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::AsyncRuntime as _;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskLock, DiskWriter, Job, KeyBatch, Keys, Lane};
use crate::error::StoreError;
use crate::runtime::SeamRuntime;

/// Of a handle that was not locked yet: it belongs to whatever life the disk is in.
const UNBOUND: u64 = u64::MAX;

type KeyMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a crash leaves of the writes since the last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    LoseUnsynced,
    /// The first so many batches, whole.
    KeepBatches(usize),
    /// The first so many batches whole, and of the next one the first so many changes: worse than sled, whose batches are
    /// atomic.
    Torn {
        /// Whole batches.
        batches: usize,
        /// Changes of the torn one.
        changes: usize,
    },
}

#[derive(Default)]
struct Inner {
    /// Raised by each crash.
    life: u64,
    locked: bool,
    created: bool,
    durable: KeyMap,
    live: KeyMap,
    unsynced: Vec<KeyBatch>,
    files: BTreeMap<String, Arc<Vec<u8>>>,
    witness: u64,
    sync_delay: Duration,
    failure: Option<io::ErrorKind>,
    syncs: u64,
}

/// A disk in memory. Clones share it.
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
    life: AtomicU64,
}

impl Clone for MemDisk {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), life: AtomicU64::new(UNBOUND) }
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemDisk {
    /// An empty disk whose syncs take no time.
    pub fn new() -> Self {
        Self { inner: Arc::default(), life: AtomicU64::new(UNBOUND) }
    }

    /// How long a sync takes from now on, by tokio's clock.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.inner.lock().sync_delay = delay;
    }

    /// From now on every write and sync fails so; `None` repairs the disk.
    pub fn set_failure(&self, failure: Option<io::ErrorKind>) {
        self.inner.lock().failure = failure;
    }

    /// Power is lost: see [`CrashMode`]. Handles from before are dead, the lock is free.
    pub fn crash(&self, mode: CrashMode) {
        let mut inner = self.inner.lock();
        let left = after_crash(&inner, mode);
        inner.life += 1;
        inner.locked = false;
        inner.live.clone_from(&left);
        inner.durable = left;
        inner.unsynced.clear();
    }

    /// Another disk, as this one would be after a crash now. This one goes on.
    pub fn fork(&self, mode: CrashMode) -> Self {
        let inner = self.inner.lock();
        let left = after_crash(&inner, mode);
        let forked = Inner {
            created: inner.created,
            durable: left.clone(),
            live: left,
            files: inner.files.clone(),
            witness: inner.witness,
            ..Inner::default()
        };
        Self { inner: Arc::new(Mutex::new(forked)), life: AtomicU64::new(UNBOUND) }
    }

    /// For each batch that was written and not yet synced: how many changes it holds.
    pub fn unsynced(&self) -> Vec<usize> {
        self.inner.lock().unsynced.iter().map(|batch| batch.ops.len()).collect()
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// Changes stored bytes behind the store's back, in keys and files alike; for tests of damage.
    pub fn damage(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>, &mut BTreeMap<String, Arc<Vec<u8>>>)) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        change(&mut inner.durable, &mut inner.files);
        inner.live.clone_from(&inner.durable);
    }

    /// The twin's state, if this handle is of its present life.
    fn with<T>(&self, call: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        with_life(&self.inner, self.life.load(Ordering::Relaxed), call)
    }
}

fn with_life<T>(inner: &Mutex<Inner>, life: u64, call: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
    let mut inner = inner.lock();
    if life != UNBOUND && life != inner.life {
        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "this disk has crashed"));
    }
    call(&mut inner)
}

fn writable(inner: &Inner) -> io::Result<()> {
    inner.failure.map_or(Ok(()), |kind| Err(io::Error::new(kind, "injected failure")))
}

fn after_crash(inner: &Inner, mode: CrashMode) -> KeyMap {
    let (batches, changes) = match mode {
        CrashMode::LoseUnsynced => (0, 0),
        CrashMode::KeepBatches(batches) => (batches, 0),
        CrashMode::Torn { batches, changes } => (batches, changes),
    };
    let mut left = inner.durable.clone();
    for batch in inner.unsynced.iter().take(batches) {
        change(&mut left, &batch.ops);
    }
    if let Some(torn) = inner.unsynced.get(batches) {
        change(&mut left, &torn.ops[..changes.min(torn.ops.len())]);
    }
    left
}

fn change(keys: &mut KeyMap, ops: &[(Vec<u8>, Option<Vec<u8>>)]) {
    for (key, value) in ops {
        match value {
            Some(value) => keys.insert(key.clone(), value.clone()),
            None => keys.remove(key),
        };
    }
}

/// Frees the lock when dropped, if the disk still lives the same life.
struct MemLock {
    inner: Arc<Mutex<Inner>>,
    life: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        if inner.life == self.life {
            inner.locked = false;
        }
    }
}

impl Disk for MemDisk {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn lock(&self) -> Result<DiskLock, StoreError> {
        let mut inner = self.inner.lock();
        if inner.locked {
            return Err(StoreError::Locked { place: self.place() });
        }
        inner.locked = true;
        self.life.store(inner.life, Ordering::Relaxed);
        Ok(Box::new(MemLock { inner: self.inner.clone(), life: inner.life }))
    }

    fn has_keys(&self) -> bool {
        self.inner.lock().created
    }

    fn open_keys(&self, _cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
        let life = self.life.load(Ordering::Relaxed);
        let created = self.with(|inner| {
            inner.created = true;
            Ok(())
        });
        created.map_err(|error| StoreError::disk("open", self.place(), error))?;
        Ok(Box::new(MemKeys { inner: self.inner.clone(), life }))
    }

    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| Ok(inner.files.get(name).map(|bytes| bytes.to_vec())))
    }

    fn open_file(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let found = self.with(|inner| Ok(inner.files.get(name).cloned()))?;
        let bytes = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))?;
        Ok(Box::new(MemFile { bytes, at: 0 }))
    }

    fn create_file(&self, name: &str) -> io::Result<Box<dyn DiskWriter>> {
        let life = self.life.load(Ordering::Relaxed);
        self.with(|inner| writable(inner))?;
        Ok(Box::new(MemWriter { inner: self.inner.clone(), life, name: name.to_owned(), bytes: Vec::new() }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|inner| {
            writable(inner)?;
            let bytes = inner.files.remove(from);
            let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, from.to_owned()))?;
            inner.files.insert(to.to_owned(), bytes);
            Ok(())
        })
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.with(|inner| {
            inner.files.remove(name);
            Ok(())
        })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let inside = |name: &String| {
            let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
            (dir == folder).then(|| file.to_owned())
        };
        self.with(|inner| Ok(inner.files.keys().filter_map(inside).collect()))
    }

    fn set_witness(&self, number: u64) -> io::Result<()> {
        self.with(|inner| {
            inner.witness = number;
            Ok(())
        })
    }

    fn witness(&self) -> io::Result<u64> {
        self.with(|inner| Ok(inner.witness))
    }

    fn run(&self, _name: &'static str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        SeamRuntime::spawn(task);
        Ok(())
    }

    fn offload(&self, _lane: Lane, job: Job) {
        job();
    }
}

struct MemKeys {
    inner: Arc<Mutex<Inner>>,
    life: u64,
}

impl MemKeys {
    fn with<T>(&self, call: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        with_life(&self.inner, self.life, call)
    }
}

impl Keys for MemKeys {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| Ok(inner.live.get(key).cloned()))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        self.with(|inner| {
            for (key, value) in inner.live.range(from.to_vec()..to.to_vec()) {
                if !each(key, value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn write(&self, batch: KeyBatch) -> io::Result<()> {
        self.with(|inner| {
            writable(inner)?;
            change(&mut inner.live, &batch.ops);
            inner.unsynced.push(batch);
            Ok(())
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async {
            let (count, delay) = self.with(|inner| Ok((inner.unsynced.len(), inner.sync_delay)))?;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.with(|inner| {
                writable(inner)?;
                for batch in inner.unsynced.drain(..count).collect::<Vec<_>>() {
                    change(&mut inner.durable, &batch.ops);
                }
                inner.syncs += 1;
                Ok(())
            })
        }
        .boxed()
    }

    fn size_on_disk(&self) -> io::Result<u64> {
        self.with(|inner| Ok(inner.live.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()))
    }
}

struct MemFile {
    bytes: Arc<Vec<u8>>,
    at: usize,
}

impl Read for MemFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.bytes[self.at..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.at += count;
        Ok(count)
    }
}

impl DiskFile for MemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn reopen(&self) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self { bytes: self.bytes.clone(), at: 0 }))
    }
}

struct MemWriter {
    inner: Arc<Mutex<Inner>>,
    life: u64,
    name: String,
    bytes: Vec<u8>,
}

impl Write for MemWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        with_life(&self.inner, self.life, |inner| writable(inner))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskWriter for MemWriter {
    fn sync(&mut self) -> io::Result<()> {
        with_life(&self.inner, self.life, |inner| {
            writable(inner)?;
            inner.files.insert(self.name.clone(), Arc::new(self.bytes.clone()));
            Ok(())
        })
    }
}

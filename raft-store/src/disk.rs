//! The seam under the store: what it asks of a disk. [`RealDisk`] is a directory on a real one, [`MemDisk`] a twin in
//! memory whose crash loses what was not synced.
//!
//! What always holds: nothing counts as durable before a `sync` of its kind returned; a batch of keys is atomic; `publish`
//! replaces a name atomically and durably. Blocking calls are made from [`Disk::run`] tasks and [`Disk::offload`] jobs
//! only, which a real disk runs on threads of its own and the twin on the caller's runtime, so that a simulation has no
//! threads. What it does not do: interpret bytes.

mod fjall;
mod mem;
mod real;
mod sled;

pub use mem::{CrashMode, MemDisk};
pub use real::{Engine, RealDisk};

use std::any::Any;
use std::io::{self, Read, Write};

use futures::future::BoxFuture;

use crate::error::StoreError;

/// What keeps the directory this process's own. Dropping it gives it back.
pub type DiskLock = Box<dyn Any + Send + Sync>;
/// A job for [`Disk::offload`].
pub type Job = Box<dyn FnOnce() + Send>;

/// Which of a disk's threads does a job, so that a long one delays no short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Reading old log entries.
    Read,
    /// Building and installing snapshots.
    Snapshot,
    /// Snapshots on their way to or from a peer, piece by piece.
    Transfer,
}

/// A directory: an ordered store of keys, some files, and something to run on.
pub trait Disk: Send + Sync + 'static {
    /// For people.
    fn place(&self) -> String;

    /// Makes the directory (durably) if it is not there, and keeps every other process out until the lock is dropped.
    ///
    /// # Errors
    /// [`StoreError::Locked`], or whatever the disk refuses.
    fn lock(&self) -> Result<DiskLock, StoreError>;

    /// Whether a store of keys was ever created here.
    fn has_keys(&self) -> bool;

    /// Opens the store of keys, creating it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is damaged, or whatever the disk refuses.
    fn open_keys(&self, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError>;

    /// Reads a small file whole; `None` if there is none.
    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Opens a file to read it from its start.
    fn open_file(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// A new empty file, replacing one of that name. Not durable before its [`DiskWriter::sync`].
    fn create_file(&self, name: &str) -> io::Result<Box<dyn DiskWriter>>;

    /// Gives a synced file its final name, atomically and durably.
    fn publish(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; it is no error if there is none.
    fn remove_file(&self, name: &str) -> io::Result<()>;

    /// Names of the files in a folder (`""` is the directory itself), sorted.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Remembers a number outside the store of keys. Needs no sync: what is read back may be older, never newer.
    fn set_witness(&self, number: u64) -> io::Result<()>;

    /// The number; 0 if there is none or it is unreadable.
    fn witness(&self) -> io::Result<u64>;

    /// Runs a task that may block in calls of this trait.
    fn run(&self, name: &'static str, task: BoxFuture<'static, ()>) -> io::Result<()>;

    /// Runs a job that may block in calls of this trait. Jobs of a lane run one after the other.
    fn offload(&self, lane: Lane, job: Job);
}

/// An ordered store of keys and values.
pub trait Keys: Send + Sync + 'static {
    /// One value.
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Calls `each` for the pairs with `from <= key < to`, in order, until it returns false.
    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()>;

    /// Writes all or nothing. Readable at once, durable after the next [`Self::sync`].
    fn write(&self, batch: KeyBatch) -> io::Result<()>;

    /// When it returns, everything that was written before is on the device.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;

    /// Bytes on disk, if that can be told.
    fn size_on_disk(&self) -> io::Result<u64>;
}

/// Changes that happen together, in this order.
#[derive(Debug, Clone, Default)]
pub struct KeyBatch {
    /// A key and its new value, or `None` to remove it.
    pub ops: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl KeyBatch {
    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.ops.push((key, Some(value)));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.ops.push((key, None));
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.ops.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// A file opened for reading. It stays readable when its name is removed.
pub trait DiskFile: Read + Send + 'static {
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;

    /// Another handle, at the file's start.
    fn reopen(&self) -> io::Result<Box<dyn DiskFile>>;
}

/// A file being written.
pub trait DiskWriter: Write + Send + 'static {
    /// When it returns, everything written is on the device (but the name may not be: see [`Disk::publish`]).
    fn sync(&mut self) -> io::Result<()>;
}

/// Writes a small file so that it is either the old one or the new one, whatever happens.
pub(crate) fn replace_file(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let mut file = disk.create_file(&temporary)?;
    file.write_all(bytes)?;
    file.sync()?;
    drop(file);
    disk.publish(&temporary, name)
}

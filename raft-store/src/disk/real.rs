//! A directory on a real disk: an engine for the keys, plain files beside it, threads for whatever blocks.
//!
//! What always holds: directories are fsynced when something is created or renamed in them; a directory keeps the engine
//! that it began with.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskLock, DiskWriter, Job, Keys, Lane, fjall, sled};
use crate::error::StoreError;

/// Locked by the process that uses the directory.
const LOCK: &str = "lock";
/// Two slots of 16 bytes: a number and its CRC. Written in turn, so that one is always whole.
const WITNESS: &str = "witness";
/// What keeps the log's keys on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34, as the product was ordered.
    #[default]
    Sled,
    /// fjall 3: half the processor time of a durable write.
    Fjall,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Fjall];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
        }
    }

    /// The engine of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Folder of its files.
    fn folder(self) -> &'static str {
        match self {
            Self::Sled => "log",
            Self::Fjall => "log-fjall",
        }
    }

    /// A file that is there as soon as something may have been written.
    fn mark(self) -> &'static str {
        match self {
            Self::Sled => sled::FILE,
            Self::Fjall => fjall::FILE,
        }
    }
}

/// A data directory.
pub struct RealDisk {
    dir: PathBuf,
    engine: Engine,
    /// One thread per lane, started by its first job.
    lanes: [Mutex<Option<mpsc::Sender<Job>>>; 3],
    witness: Mutex<Option<(File, u64)>>,
}

impl RealDisk {
    /// Of this directory, its log kept by the default engine. Nothing is touched before it is locked.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), engine: Engine::default(), lanes: Default::default(), witness: Mutex::default() }
    }

    /// The same, its log kept by `engine`.
    pub fn kept_by(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    fn has_keys_of(&self, engine: Engine) -> bool {
        self.path(engine.folder()).join(engine.mark()).exists()
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

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
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

impl Disk for RealDisk {
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
        Engine::ALL.into_iter().any(|engine| self.has_keys_of(engine))
    }

    fn open_keys(&self, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
        if let Some(other) = Engine::ALL.into_iter().find(|other| *other != self.engine && self.has_keys_of(*other)) {
            let (other, asked) = (other.name(), self.engine.name());
            let problem =
                format!("its log is kept by {other}, and {asked} is configured: a directory keeps its engine");
            return Err(StoreError::foreign(self.place(), problem));
        }
        let folder = self.engine.folder();
        let dir = self.path(folder);
        match self.engine {
            Engine::Sled => {
                create_dir_durably(&dir).map_err(self.error("create", folder))?;
                sled::open(&dir, cache_bytes)
            }
            Engine::Fjall => fjall::open(&dir, cache_bytes),
        }
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

//! Who this worker is: a random uid, a counter of process starts (the incarnation), and the cluster it belongs to.
//!
//! One small text file, `identity`, with a checksum, replaced as a whole (written aside, synced, renamed, directory
//! synced), so that a crash leaves the old one or the new one. What always holds: the incarnation is on the device before
//! anybody is told of it; a damaged file is never guessed at; one process at a time holds a data directory (a lock that the
//! kernel drops with the process). A simulation uses [`Identity::in_memory`] and touches no disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::WorkerError;

const MAGIC: &str = "steersman-worker 1";

/// The worker's identity and, on a real disk, the lock on its data directory.
#[derive(Debug)]
pub struct Identity {
    uid: [u8; 16],
    incarnation: u64,
    cluster_id: String,
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Identity {
    /// Takes the lock on `dir` (made if absent), reads the identity or makes one from `fresh_uid`, and raises the incarnation.
    ///
    /// # Errors
    /// When the directory cannot be used, is locked, or its identity is damaged.
    pub fn open(dir: &Path, fresh_uid: [u8; 16]) -> Result<Self, WorkerError> {
        make_private(dir)?;
        let home = Home { dir: dir.to_owned(), _lock: lock(dir)? };
        let path = dir.join("identity");
        let (uid, incarnation, cluster_id) = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|what| WorkerError::Corrupt { path, what })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (fresh_uid, 0, String::new()),
            Err(error) => return Err(WorkerError::disk("read", &path)(error)),
        };
        let identity = Self { uid, incarnation: incarnation + 1, cluster_id, home: Some(home) };
        identity.save()?;
        Ok(identity)
    }

    /// An identity without a disk.
    pub fn in_memory(uid: [u8; 16], incarnation: u64) -> Self {
        Self { uid, incarnation, cluster_id: String::new(), home: None }
    }

    /// 16 random bytes, made once.
    pub fn uid(&self) -> [u8; 16] {
        self.uid
    }

    /// Number of this process start, from 1.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The cluster it was welcomed to; empty before the first welcome.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Remembers the cluster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn join(&mut self, cluster_id: &str) -> Result<(), WorkerError> {
        if self.cluster_id == cluster_id {
            return Ok(());
        }
        self.cluster_id = cluster_id.to_owned();
        self.save()
    }

    fn save(&self) -> Result<(), WorkerError> {
        let Some(home) = &self.home else { return Ok(()) };
        let path = home.dir.join("identity");
        replace(&home.dir, &path, encode(self).as_bytes()).map_err(WorkerError::disk("write", &path))
    }
}

fn make_private(dir: &Path) -> Result<(), WorkerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(WorkerError::disk("make", dir))
}

fn lock(dir: &Path) -> Result<File, WorkerError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(WorkerError::disk("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WorkerError::Locked { path: dir.to_owned() }),
        Err(error) => Err(WorkerError::disk("lock", &path)(error.into())),
    }
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

fn encode(identity: &Identity) -> String {
    let uid: String = identity.uid.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = format!("{MAGIC}\nuid {uid}\nincarnation {}\ncluster {}\n", identity.incarnation, identity.cluster_id);
    format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes()))
}

type Parts = ([u8; 16], u64, String);

fn decode(bytes: &[u8]) -> Result<Parts, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let (body, crc) = text.rsplit_once("crc ").ok_or("it has no checksum")?;
    // A fuzzer would never get past the checksum: its builds see to what lies behind.
    if u32::from_str_radix(crc.trim_end(), 16) != Ok(crc32fast::hash(body.as_bytes())) && !cfg!(fuzzing) {
        return Err("its checksum does not match".into());
    }
    let mut lines = body.lines();
    if lines.next() != Some(MAGIC) {
        return Err(format!("it does not begin with \"{MAGIC}\""));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned()).ok_or(format!("the line \"{name}\" is missing"))
    };
    let uid = parse_uid(&field("uid ")?)?;
    let incarnation = field("incarnation ")?.parse().map_err(|_| "its incarnation is not a number")?;
    Ok((uid, incarnation, field("cluster ")?))
}

fn parse_uid(hex: &str) -> Result<[u8; 16], String> {
    let value = u128::from_str_radix(hex, 16).map_err(|_| "its uid is not hexadecimal".to_owned())?;
    Ok(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::exit;

    #[test]
    fn each_start_raises_the_incarnation_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Identity::open(dir.path(), [7; 16]).unwrap();
        first.join("c1").unwrap();
        drop(first);
        let second = Identity::open(dir.path(), [9; 16]).unwrap();
        assert_eq!((second.uid(), second.incarnation(), second.cluster_id()), ([7; 16], 2, "c1"));
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Identity::open(dir.path(), [1; 16]).unwrap();
        assert_eq!(Identity::open(dir.path(), [1; 16]).unwrap_err().exit(), exit::FOREIGN_DATA);
    }

    #[test]
    fn p15_every_damaged_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        drop(Identity::open(dir.path(), [3; 16]).unwrap());
        let path = dir.path().join("identity");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 0x04;
            fs::write(&path, &bad).unwrap();
            let opened = Identity::open(dir.path(), [4; 16]);
            assert_eq!(opened.map(|_| ()).unwrap_err().exit(), exit::CORRUPT_DATA, "byte {at}");
        }
        fs::write(&path, b"").unwrap();
        assert_eq!(Identity::open(dir.path(), [4; 16]).unwrap_err().exit(), exit::CORRUPT_DATA);
    }
}

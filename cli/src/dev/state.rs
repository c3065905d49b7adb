//! The state file of a running `steersman dev`, so that later commands find its cluster.
//!
//! What always holds: a file of another user, or of a process that is gone, is not believed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a running `dev` says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevState {
    /// Its process.
    pub pid: u32,
    /// API addresses of its masters.
    pub addresses: Vec<String>,
    /// Where its data and logs are.
    pub data_dir: PathBuf,
    /// Its nodes.
    pub nodes: Vec<DevNode>,
    /// Its door for drills.
    #[serde(default)]
    pub control: PathBuf,
}

/// One node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevNode {
    /// `master-1`, `worker-1`, …
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Of a master; empty for a worker.
    pub api: String,
    /// Of a master; empty for a worker.
    pub raft: String,
    /// Metrics and probes.
    pub http: String,
    /// Its log.
    pub log: PathBuf,
}

impl DevState {
    /// The running `dev` of this user, if there is one.
    pub fn of_running() -> Option<Self> {
        let path = path();
        let owner = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?.uid();
        if owner != rustix::process::getuid().as_raw() {
            return None;
        }
        let state: Self = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        state.is_alive().then_some(state)
    }

    /// Its process lives and is a `dev` (and not another one that got its number).
    fn is_alive(&self) -> bool {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        command.split(|byte| *byte == 0).skip(1).any(|arg| arg == b"dev")
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// When it cannot be written; a cluster runs as well without it.
    pub fn write(&self) -> std::io::Result<()> {
        let path = path();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let temporary = path.with_extension(format!("{}.part", self.pid));
        // A leftover of the same name is ours or a trap: never opened.
        drop(fs::remove_file(&temporary));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        fs::rename(temporary, path)
    }

    /// Writes the file again, if it is still this one's.
    pub fn update(&self) {
        if Self::of_running().is_some_and(|other| other.pid == self.pid) {
            // Who reads the old one finds a process that is gone, and says so.
            drop(self.write());
        }
    }

    /// Removes the file, if it is still this one's.
    pub fn remove(&self) {
        if Self::of_running().is_some_and(|other| other.pid == self.pid) {
            drop(fs::remove_file(path()));
        }
    }
}

/// `$XDG_RUNTIME_DIR/steersman/dev.json`, or a name of this user's own in the temporary folder.
pub fn path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => Path::new(&dir).join("steersman").join("dev.json"),
        None => std::env::temp_dir().join(format!("steersman-dev-{}.json", rustix::process::getuid().as_raw())),
    }
}

//! Why a worker stops by itself. Every case has an exit code and names the remedy.
//!
//! What always holds: what a retry can mend (no leader, a broken stream) is not in here: the session tries again for ever.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::exit;

/// The worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk under `data_dir`.
    #[error("cannot {doing} {}: {source}; free space, mend permissions or choose another data_dir", path.display())]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another worker process uses the directory.
    #[error("{} is in use by another worker process; one data_dir belongs to one worker", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file is damaged.
    #[error("{} is damaged ({what}); if no task runs here any more, remove the directory and the worker registers anew", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The masters refuse this worker for good.
    #[error("the leader at {leader} refuses this worker: {message} ({reason})")]
    Refused {
        /// Who refused.
        leader: String,
        /// Stable word of the refusal, e.g. `WRONG_CLUSTER`.
        reason: String,
        /// What it said.
        message: String,
    },
    /// The HTTP listener.
    #[error("cannot listen for HTTP at {addr}: {source}; choose another address")]
    Listen {
        /// The address.
        addr: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The executor of processes could not be brought up.
    #[error("cannot start the keeper of processes: {0}")]
    Keeper(String),
    /// A defect.
    #[error("internal: {0}")]
    Internal(String),
}

impl WorkerError {
    /// The row of [`exit`] that the process should exit with.
    pub fn exit(&self) -> exit::Exit {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => exit::PERMISSION,
            Self::Disk { .. } => exit::DISK,
            Self::Locked { .. } => exit::FOREIGN_DATA,
            Self::Corrupt { .. } => exit::CORRUPT_DATA,
            Self::Refused { reason, .. } => exit_of_refusal(reason),
            Self::Listen { .. } => exit::PORT_IN_USE,
            Self::Keeper(_) | Self::Internal(_) => exit::INTERNAL,
        }
    }

    /// The number that the process should exit with.
    pub fn exit_code(&self) -> i32 {
        self.exit().code
    }

    pub(crate) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { doing, path, source }
    }
}

fn exit_of_refusal(reason: &str) -> exit::Exit {
    match reason {
        "WRONG_VERSION" => exit::PROTOCOL,
        "INVALID_ARGUMENT" | "LIMIT_EXCEEDED" => exit::CONFIG,
        _ => exit::FOREIGN_DATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_named_exit() {
        let refused =
            |reason: &str| WorkerError::Refused { leader: "a:1".into(), reason: reason.into(), message: String::new() };
        assert_eq!(refused("WRONG_CLUSTER").exit(), exit::FOREIGN_DATA);
        assert_eq!(refused("WRONG_VERSION").exit(), exit::PROTOCOL);
        assert_eq!(refused("INVALID_ARGUMENT").exit(), exit::CONFIG);
    }

    #[test]
    fn a_disk_error_tells_permission_from_io() {
        let of = |kind: io::ErrorKind| WorkerError::disk("write", Path::new("/x"))(io::Error::from(kind)).exit();
        assert_eq!(of(io::ErrorKind::PermissionDenied), exit::PERMISSION);
        assert_eq!(of(io::ErrorKind::StorageFull), exit::DISK);
    }
}

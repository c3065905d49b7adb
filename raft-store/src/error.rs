//! The node's family of errors: storage that can't be trusted or used. Each one ends the process with a named exit code.
//!
//! What always holds: an error says which file, what was expected and what was found, and is cheap to clone, because it
//! is told to openraft, to the watcher of the store and to every caller that waits. Nothing here is retried.

use std::io;
use std::sync::Arc;

use crate::exit;

/// Why the store can't be opened, or has stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refuses: full, read-only, failing.
    #[error("cannot {what} {place}: {source}")]
    Disk {
        /// What was tried, e.g. `sync`.
        what: &'static str,
        /// Where.
        place: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Data is damaged, or something that was acknowledged is missing.
    #[error("damaged data in {place}: {problem}")]
    Corrupt {
        /// Where.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The data of another node or another cluster, or data that was emptied.
    #[error("{place} is not this node's data: {problem}")]
    Foreign {
        /// Where.
        place: String,
        /// What does not match.
        problem: String,
    },
    /// Another process has the directory open.
    #[error("{place} is in use by another process")]
    Locked {
        /// Where.
        place: String,
    },
    /// Written by a version of Steersman that this one does not know.
    #[error("{place} has format {found}; this version reads {known}")]
    WrongVersion {
        /// Where.
        place: String,
        /// What was found.
        found: u32,
        /// What can be read.
        known: u32,
    },
    /// The store or the state contradicts itself.
    #[error("invariant broken: {0}")]
    Invariant(String),
    /// The store was closed by its owner.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn disk(what: &'static str, place: impl Into<String>, source: io::Error) -> Self {
        Self::Disk { what, place: place.into(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn foreign(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Foreign { place: place.into(), problem: problem.into() }
    }

    /// With what the process should end; see [`crate::exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Corrupt { .. } => exit::CORRUPT_DATA,
            Self::Disk { .. } | Self::Closed => exit::DISK,
            Self::Foreign { .. } | Self::Locked { .. } => exit::FOREIGN_DATA,
            Self::WrongVersion { .. } => exit::WRONG_VERSION,
            Self::Invariant(_) => exit::INVARIANT,
        }
    }

    /// The stable code of the text, e.g. `STM-3002`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => exit::CODE_CORRUPT_DATA,
            Self::Disk { .. } | Self::Closed => exit::CODE_DISK,
            Self::Foreign { .. } | Self::Locked { .. } => exit::CODE_FOREIGN_DATA,
            Self::WrongVersion { .. } => exit::CODE_WRONG_VERSION,
            Self::Invariant(_) => exit::CODE_INVARIANT,
        }
    }

    /// Name of the kind, as in the table of codes.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "CORRUPT_DATA",
            Self::Disk { .. } | Self::Closed => "DISK",
            Self::Foreign { .. } | Self::Locked { .. } => "FOREIGN_DATA",
            Self::WrongVersion { .. } => "WRONG_VERSION",
            Self::Invariant(_) => "INVARIANT",
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Disk { source, .. } => source.kind(),
            StoreError::Corrupt { .. } | StoreError::WrongVersion { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

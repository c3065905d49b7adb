//! Errors that end the process, each with its exit code (sysexits) and its stable code.
//!
//! What always holds: a node that stops because of itself says why in one sentence and ends with a code that its
//! supervisor can tell apart: restarting by itself helps after 69, and after nothing else. The codes of the store (65, 70,
//! 74, 75, 76) are those of `steersman_raft_store::exit`. It does not end the process.

use std::io;
use std::path::PathBuf;

use steersman_proto::codes::{self, Code};
use steersman_raft_store::StoreError;

use crate::config::ConfigError;

/// A port is in use, or the network is not there.
pub const EX_UNAVAILABLE: i32 = 69;
/// An invariant is broken, or replicas disagree.
pub const EX_SOFTWARE: i32 = 70;
/// The disk refuses reads or writes.
pub const EX_IO: i32 = 74;
/// The data directory belongs to another node or cluster, was emptied, or is in use.
pub const EX_FOREIGN: i32 = 75;
/// Not allowed to.
pub const EX_PERMISSION: i32 = 77;
/// The configuration is not valid.
pub const EX_CONFIG: i32 = 78;

/// Why a node can't start, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener could not be opened.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// Key of the configuration, e.g. `listen.api`.
        key: String,
        /// What it says.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The data directory can't be used.
    #[error("cannot use the data directory {}: {source}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store can't go on: damaged, foreign, locked or refused by the disk. It brings its own codes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node may not take part: the others know its id with other data, or not at all.
    #[error("{0}")]
    Foreign(String),
    /// Raft stopped, or could not begin.
    #[error("Raft stopped: {0}")]
    Raft(String),
    /// Replicas disagree, or an invariant is broken.
    #[error("an invariant is broken: {0}")]
    Invariant(String),
    /// A part of the node ended that never should.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl NodeError {
    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Config(_) => EX_CONFIG,
            Self::Listen { source, .. } => io_exit(source, EX_UNAVAILABLE),
            Self::DataDir { source, .. } => io_exit(source, EX_IO),
            Self::Store(error) => i32::from(error.exit_code()),
            Self::Foreign(_) => EX_FOREIGN,
            Self::Raft(_) | Self::Invariant(_) | Self::Ended(_) => EX_SOFTWARE,
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => codes::PORT_IN_USE,
            Self::Listen { .. } => codes::CONFIG,
            Self::DataDir { .. } => codes::DISK,
            Self::Store(error) => codes::by_id(error.code()).copied().unwrap_or(codes::INVARIANT),
            Self::Foreign(_) => codes::FOREIGN_DATA,
            Self::Raft(_) | Self::Invariant(_) | Self::Ended(_) => codes::INVARIANT,
        }
    }
}

fn io_exit(error: &io::Error, otherwise: i32) -> i32 {
    if error.kind() == io::ErrorKind::PermissionDenied { EX_PERMISSION } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MasterConfig;

    fn listen(kind: io::ErrorKind) -> NodeError {
        NodeError::Listen { key: "listen.api".to_owned(), address: "127.0.0.1:7400".to_owned(), source: kind.into() }
    }

    #[test]
    fn each_way_to_end_has_its_exit_code_and_stable_code() {
        let config = MasterConfig::parse("", "empty.toml").err().map(NodeError::from);
        let disk = |kind: io::ErrorKind| NodeError::DataDir { path: "/data".into(), source: kind.into() };
        let locked = StoreError::Locked { place: "/data".to_owned() };
        let format = StoreError::WrongVersion { place: "/data".to_owned(), found: 9, known: 1 };
        let torn = StoreError::Corrupt { place: "entry 7".to_owned(), problem: "checksum".to_owned() };
        let table = [
            (config, 78, codes::CONFIG),
            (Some(listen(io::ErrorKind::AddrInUse)), 69, codes::PORT_IN_USE),
            (Some(listen(io::ErrorKind::PermissionDenied)), 77, codes::CONFIG),
            (Some(listen(io::ErrorKind::AddrNotAvailable)), 69, codes::CONFIG),
            (Some(disk(io::ErrorKind::PermissionDenied)), 77, codes::DISK),
            (Some(disk(io::ErrorKind::NotADirectory)), 74, codes::DISK),
            (Some(locked.into()), 75, codes::FOREIGN_DATA),
            (Some(format.into()), 76, codes::WRONG_VERSION),
            (Some(torn.into()), 65, codes::CORRUPT_DATA),
            (Some(NodeError::Foreign("emptied".to_owned())), 75, codes::FOREIGN_DATA),
            (Some(NodeError::Raft("fatal".to_owned())), 70, codes::INVARIANT),
            (Some(NodeError::Invariant("digest".to_owned())), 70, codes::INVARIANT),
            (Some(NodeError::Ended("the applier")), 70, codes::INVARIANT),
        ];
        for (error, exit, code) in table {
            let seen = error.as_ref().map(|e| (e.exit_code(), e.code()));
            assert_eq!(seen, Some((exit, code)), "{error:?}");
        }
    }

    #[test]
    fn a_message_names_the_key_and_the_address() {
        let text = listen(io::ErrorKind::AddrInUse).to_string();
        assert!(text.starts_with("cannot listen on 127.0.0.1:7400 (listen.api): "), "{text}");
    }
}

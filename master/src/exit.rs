//! Errors that end the process, each with its exit code (sysexits) and its stable code.
//!
//! What always holds: a node that stops because of itself says why in one sentence and ends with a code that its
//! supervisor can tell apart: restarting helps after 69 and 75, and after nothing else. It does not end the process.

use std::io;
use std::path::PathBuf;

use steersman_proto::codes::{self, Code};

use crate::config::ConfigError;

/// Data on disk is damaged.
pub const EX_DATA: i32 = 65;
/// A port is in use, or the network is not there.
pub const EX_UNAVAILABLE: i32 = 69;
/// An invariant is broken, or replicas disagree.
pub const EX_SOFTWARE: i32 = 70;
/// The disk refuses reads or writes.
pub const EX_IO: i32 = 74;
/// Another process holds the data directory, or the disk is full.
pub const EX_TEMPORARY: i32 = 75;
/// The data directory belongs to another node or cluster, or was emptied.
pub const EX_FOREIGN: i32 = 76;
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
    #[error("{message}")]
    Store {
        /// Exit code, one of 65, 70, 74, 75, 76.
        exit: i32,
        /// Stable code.
        code: Code,
        /// For people.
        message: String,
    },
    /// The consensus core stopped.
    #[error("the consensus core stopped: {0}")]
    Consensus(String),
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
            Self::Store { exit, .. } => *exit,
            Self::Consensus(_) | Self::Invariant(_) | Self::Ended(_) => EX_SOFTWARE,
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => codes::PORT_IN_USE,
            Self::Listen { .. } => codes::CONFIG,
            Self::DataDir { .. } => codes::DISK,
            Self::Store { code, .. } => *code,
            Self::Consensus(_) | Self::Invariant(_) | Self::Ended(_) => codes::INVARIANT,
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
        let store = NodeError::Store { exit: EX_FOREIGN, code: codes::FOREIGN_DATA, message: "foreign".to_owned() };
        let table = [
            (config, 78, codes::CONFIG),
            (Some(listen(io::ErrorKind::AddrInUse)), 69, codes::PORT_IN_USE),
            (Some(listen(io::ErrorKind::PermissionDenied)), 77, codes::CONFIG),
            (Some(listen(io::ErrorKind::AddrNotAvailable)), 69, codes::CONFIG),
            (Some(disk(io::ErrorKind::PermissionDenied)), 77, codes::DISK),
            (Some(disk(io::ErrorKind::NotADirectory)), 74, codes::DISK),
            (Some(store), 76, codes::FOREIGN_DATA),
            (Some(NodeError::Consensus("fatal".to_owned())), 70, codes::INVARIANT),
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

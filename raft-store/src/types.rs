//! openraft's type parameters for Steersman, and the values that travel through its log.
//!
//! What always holds: a proposal is encoded once, and the same bytes go to the disk, to the peers and into `apply`; one
//! leader per term (`leader_id_std`). Nothing of openraft is serialised in an encoding of openraft's choosing.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};
use steersman_state::DecodeError;
use steersman_state::command::{Batch, FORMAT};
use steersman_state::effect::Reply;

openraft::declare_raft_types!(
    /// What openraft is told about Steersman.
    pub TypeConfig:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = MasterNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<Self::LeaderId>,
        Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>,
        Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>,
        AsyncRuntime = crate::runtime::SeamRuntime,
);

/// Term and index of an entry.
pub type LogId = openraft::LogId<<<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed>;
/// A vote, committed or not.
pub type Vote = <TypeConfig as RaftTypeConfig>::Vote;
/// One entry of the log.
pub type Entry = <TypeConfig as RaftTypeConfig>::Entry;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, MasterNode>;
/// A membership and the entry that brought it.
pub type StoredMembership =
    openraft::StoredMembership<<<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed, u64, MasterNode>;
/// Where a snapshot stands.
pub type SnapshotMeta = openraft::storage::SnapshotMeta<
    <<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed,
    u64,
    MasterNode,
>;
/// A snapshot: where it stands and its bytes.
pub type Snapshot = openraft::storage::Snapshot<
    <<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed,
    u64,
    MasterNode,
    crate::SnapshotData,
>;
/// Called once an append is on the device.
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// A log id from its parts.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

/// One batch of commands on its way through the log.
#[derive(Clone)]
pub struct Proposal {
    bytes: Bytes,
    decoded: Option<Arc<Batch>>,
}

impl Proposal {
    /// Encodes `batch`, and keeps it so that its proposer's `apply` need not decode it.
    pub fn new(batch: Arc<Batch>) -> Self {
        Self { bytes: Bytes::from(batch.encode()), decoded: Some(batch) }
    }

    /// From the wire or the disk. Only the format byte is looked at: decoding waits until `apply`.
    ///
    /// # Errors
    /// If there are no bytes or their format is unknown.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        match bytes.first() {
            None => Err(DecodeError::Length("an empty batch".into())),
            Some(&found) if found != FORMAT => {
                Err(DecodeError::UnknownVersion { what: "batch", found: found.into(), known: FORMAT.into() })
            }
            Some(_) => Ok(Self { bytes, decoded: None }),
        }
    }

    /// The encoded batch. Cloning shares it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes that this takes in memory, roughly: a decoded batch is about three times its encoding.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() * if self.decoded.is_some() { 4 } else { 1 }
    }

    /// The batch, decoded if need be.
    ///
    /// # Errors
    /// If the bytes are damaged: checksum, shape or trailing bytes.
    pub fn batch(&self) -> Result<Arc<Batch>, DecodeError> {
        match &self.decoded {
            Some(batch) => Ok(batch.clone()),
            None => Batch::decode(&self.bytes).map(Arc::new),
        }
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decoded {
            Some(batch) => write!(f, "batch({} commands, {} bytes)", batch.commands.len(), self.bytes.len()),
            None => write!(f, "batch({} bytes)", self.bytes.len()),
        }
    }
}

/// The answers to one proposal, in the order of its commands, and the index at which it was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Replies(pub Vec<Reply>, pub u64);

/// Where a master can be reached: `host:port` each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterNode {
    /// For clients and workers.
    pub api: String,
    /// For the other masters.
    pub raft: String,
    /// For metrics and probes.
    pub http: String,
    /// Random id of the member's data directory: a member that comes back with another one has lost its data.
    pub store: String,
}

impl fmt::Display for MasterNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raft)
    }
}

//! Versioned, checksummed records: what log entries, votes and markers look like on disk.
//!
//! What always holds: every record starts with its version; a CRC-32 covers all of it, and an entry's covers its index
//! too, so that a record found under a wrong key is refused; an entry above [`PART_BYTES`] is split over several values,
//! because sled keeps larger ones in files that it never syncs. Decoding never panics and never guesses.

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options as _;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::types::{Entry, LogId, MasterNode, Membership, Proposal, StoredMembership, Vote, log_id};

/// Version of everything that this crate writes, except the batches and the state's image inside (they carry their own).
pub const RAFT_SCHEMA: u32 = 1;
/// Largest value that is given to sled.
pub const PART_BYTES: usize = 8 * 1024;
/// `[version][kind][parts u16][crc u32][payload length u32][index u64][term u64]`, little endian.
const HEAD: usize = 28;
const CRC: std::ops::Range<usize> = 4..8;
/// `[version][kind][crc u32]` before a small record's body.
const META_HEAD: usize = 6;
/// Small records are small: no membership comes near this.
const META_BYTES_MAX: u64 = 16 << 20;

const VERSION: u8 = RAFT_SCHEMA as u8;
const BLANK: u8 = 1;
const BATCH: u8 = 2;
const MEMBERSHIP: u8 = 3;

/// Bytes that are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// Of a version that this one can't read.
    Version(u8),
    /// Damaged.
    Damaged(String),
}

impl RecordError {
    /// As the store's error, with the place where it was found.
    pub fn at(self, place: impl Into<String>) -> StoreError {
        match self {
            Self::Version(found) => {
                StoreError::WrongVersion { place: place.into(), found: found.into(), known: RAFT_SCHEMA }
            }
            Self::Damaged(problem) => StoreError::corrupt(place, problem),
        }
    }
}

fn damaged(problem: impl Into<String>) -> RecordError {
    RecordError::Damaged(problem.into())
}

/// One set of options for everything that is written with bincode here.
pub fn options(limit: u64) -> impl bincode::Options {
    bincode::DefaultOptions::new().with_little_endian().with_varint_encoding().reject_trailing_bytes().with_limit(limit)
}

/// Whether checksums disagree. A fuzzer would never get past them: its builds see to what lies behind.
pub fn differ(stored: &[u8], computed: &[u8]) -> bool {
    stored != computed && !cfg!(fuzzing)
}

/// Term and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub term: u64,
    pub index: u64,
}

impl From<&LogId> for Point {
    fn from(id: &LogId) -> Self {
        Self { term: id.committed_leader_id().term, index: id.index() }
    }
}

impl From<Point> for LogId {
    fn from(point: Point) -> Self {
        log_id(point.term, point.index)
    }
}

/// A vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        match record.committed {
            true => Self::new_committed(record.term, record.node),
            false => Self::new(record.term, record.node),
        }
    }
}

/// Where the log ends. Entries from `end` on were never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seal {
    /// Raised by every batch that is synced.
    pub number: u64,
    /// One above the last entry's index, or above what was purged.
    pub end: u64,
}

/// Whose store of keys this is: must agree with the identity file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    pub store_id: u128,
    pub node_id: u64,
}

/// A membership.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MembershipRecord {
    pub configs: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, MasterNode>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

impl MembershipRecord {
    /// As openraft has it.
    pub fn membership(self) -> Result<Membership, RecordError> {
        if self == Self::default() {
            return Ok(Membership::default());
        }
        Membership::new(self.configs, self.nodes).map_err(|error| damaged(format!("membership: {error}")))
    }

    /// As openraft has it, with the entry that brought it.
    pub fn stored(self, at: Option<Point>) -> Result<StoredMembership, RecordError> {
        Ok(StoredMembership::new(at.map(LogId::from), self.membership()?))
    }
}

/// A small record's bytes.
pub fn seal<T: Serialize>(kind: &str, value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind_byte(kind), 0, 0, 0, 0];
    // Writing to memory can't fail: nothing here has a length that bincode can't write.
    let written = options(u64::MAX).serialize_into(&mut bytes, value);
    debug_assert!(written.is_ok());
    let crc = meta_crc(&bytes);
    bytes[2..META_HEAD].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A small record from its bytes.
pub fn open<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let (head, body) = bytes.split_at_checked(META_HEAD).ok_or_else(|| damaged(format!("{kind}: too short")))?;
    if head[0] != VERSION {
        return Err(RecordError::Version(head[0]));
    }
    if head[1] != kind_byte(kind) || differ(&head[2..], &meta_crc(bytes).to_le_bytes()) {
        return Err(damaged(format!("{kind}: checksum mismatch")));
    }
    options(META_BYTES_MAX).deserialize(body).map_err(|error| damaged(format!("{kind}: {error}")))
}

fn kind_byte(kind: &str) -> u8 {
    kind.bytes().fold(0x5a, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

fn meta_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..2]);
    hasher.update(&bytes[META_HEAD..]);
    hasher.finalize()
}

/// An entry as the values of its keys: one, or several for a large one.
///
/// # Errors
/// If it is larger than 65,535 parts (512 MiB): far above any batch.
pub fn entry_parts(entry: &Entry) -> Result<Vec<Vec<u8>>, StoreError> {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(proposal) => (BATCH, proposal.bytes().clone()),
        EntryPayload::Membership(membership) => {
            (MEMBERSHIP, seal("membership", &MembershipRecord::from(membership)).into())
        }
    };
    let first = payload.len().min(PART_BYTES - HEAD);
    let rest = &payload[first..];
    let too_large = || StoreError::Invariant(format!("entry {} of {} bytes", entry.log_id, payload.len()));
    let parts = u16::try_from(1 + rest.len().div_ceil(PART_BYTES)).map_err(|_| too_large())?;
    let mut head = head(kind, parts, payload.len() as u32, Point::from(&entry.log_id));
    let crc = entry_crc(&head, &payload);
    head[CRC].copy_from_slice(&crc.to_le_bytes());
    head.extend_from_slice(&payload[..first]);
    Ok(std::iter::once(head).chain(rest.chunks(PART_BYTES).map(<[u8]>::to_vec)).collect())
}

fn head(kind: u8, parts: u16, length: u32, at: Point) -> Vec<u8> {
    let mut head = Vec::with_capacity(PART_BYTES.min(HEAD + length as usize));
    head.extend_from_slice(&[VERSION, kind]);
    head.extend_from_slice(&parts.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&at.index.to_le_bytes());
    head.extend_from_slice(&at.term.to_le_bytes());
    head
}

fn entry_crc(head: &[u8], payload: &[u8]) -> u32 {
    #[cfg(feature = "seeded-bugs")]
    if steersman_bugs::planted("checksum-ignored") {
        return le(&head[CRC]) as u32;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CRC.start]);
    hasher.update(&head[CRC.end..HEAD]);
    hasher.update(payload);
    hasher.finalize()
}

/// An entry from the values of its keys, which must be all of them and in order.
///
/// # Errors
/// If it is damaged, of another version, or not the entry `index`.
pub fn entry_from_parts(index: u64, parts: &[Vec<u8>]) -> Result<Entry, RecordError> {
    let first = parts.first().filter(|first| first.len() >= HEAD).ok_or_else(|| damaged("a record too short"))?;
    if first[0] != VERSION {
        return Err(RecordError::Version(first[0]));
    }
    let (head, start) = first.split_at(HEAD);
    let number = |range: std::ops::Range<usize>| le(&head[range]);
    let payload = match parts {
        [_] => Bytes::copy_from_slice(start),
        _ => [start].into_iter().chain(parts[1..].iter().map(Vec::as_slice)).collect::<Vec<_>>().concat().into(),
    };
    if differ(&head[CRC], &entry_crc(head, &payload).to_le_bytes()) {
        return Err(damaged("checksum mismatch"));
    }
    let expected = (number(2..4), number(8..12), number(12..20));
    if expected != (parts.len() as u64, payload.len() as u64, index) {
        return Err(damaged(format!("a record of entry {}, in the place of entry {index}", number(12..20))));
    }
    Ok(Entry::new(log_id(number(20..28), index), payload_from(head[1], payload)?))
}

fn payload_from(kind: u8, bytes: Bytes) -> Result<EntryPayload<Proposal, u64, MasterNode>, RecordError> {
    match kind {
        BLANK => Ok(EntryPayload::Blank),
        BATCH => Proposal::from_bytes(bytes).map(EntryPayload::Normal).map_err(|error| damaged(error.to_string())),
        MEMBERSHIP => Ok(EntryPayload::Membership(open::<MembershipRecord>("membership", &bytes)?.membership()?)),
        other => Err(damaged(format!("unknown kind {other}"))),
    }
}

/// A little-endian number of at most 8 bytes.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn entry(index: u64, term: u64, payload: Vec<u8>) -> Entry {
        let mut bytes = vec![steersman_state::command::FORMAT];
        bytes.extend(payload);
        Entry::new(log_id(term, index), EntryPayload::Normal(Proposal::from_bytes(bytes.into()).unwrap()))
    }

    proptest! {
        #[test]
        fn entries_come_back_and_damage_is_noticed(
            index in 0..u64::MAX, term in any::<u64>(), size in 0usize..40_000, flip in any::<(u16, u32, u8)>()
        ) {
            let entry = entry(index, term, vec![7; size]);
            let parts = entry_parts(&entry).unwrap();
            prop_assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
            prop_assert_eq!(entry_from_parts(index, &parts).unwrap(), entry);
            prop_assert!(entry_from_parts(index.wrapping_add(1), &parts).is_err());
            let mut broken = parts.clone();
            let part = usize::from(flip.0) % broken.len();
            let at = flip.1 as usize % broken[part].len();
            broken[part][at] ^= 1 << (flip.2 % 8);
            prop_assert!(entry_from_parts(index, &broken).is_err());
            broken = parts.clone();
            broken.pop();
            prop_assert!(entry_from_parts(index, &broken).is_err());
        }

        #[test]
        fn small_records_come_back_and_damage_is_noticed(number: u64, end: u64, flip in any::<(u32, u8)>()) {
            let record = Seal { number, end };
            let mut bytes = seal("seal", &record);
            prop_assert_eq!(open::<Seal>("seal", &bytes).unwrap(), record);
            prop_assert!(open::<Seal>("vote", &bytes).is_err());
            let at = flip.0 as usize % bytes.len();
            bytes[at] ^= 1 << (flip.1 % 8);
            prop_assert!(open::<Seal>("seal", &bytes).is_err());
        }
    }

    #[test]
    fn an_unknown_version_is_said_to_be_one() {
        let mut parts = entry_parts(&entry(1, 1, vec![1])).unwrap();
        parts[0][0] = 9;
        assert_eq!(entry_from_parts(1, &parts).unwrap_err(), RecordError::Version(9));
    }
}

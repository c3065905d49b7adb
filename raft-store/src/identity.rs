//! Who owns a data directory: a small text file with a checksum, written durably before anything else is.
//!
//! What always holds: a directory serves one node of one cluster for life. Once a vote was cast in it, it is *in use*, and
//! from then on a store of keys that is missing or another one than this file names is refused: a node that forgot its
//! votes could vote twice. What it does not do: know addresses; those may change.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::disk::{Disk, replace_file};
use crate::error::StoreError;

/// Name of the file.
pub const FILE: &str = "identity";
const TITLE: &str = "steersman identity 1";

/// Everything that the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// Chosen by the operator, never used again.
    pub node_id: u64,
    /// Known once the node has joined a cluster.
    pub cluster: Option<String>,
    /// Random; the store of keys carries the same.
    pub store_id: u128,
    /// Unix time in ms when the directory was made; for people.
    pub created_ms: u64,
    /// A vote was cast or an entry accepted here.
    pub in_use: bool,
}

/// The identity of an open store. Clones share it.
#[derive(Debug, Clone)]
pub struct Identity(Arc<RwLock<IdentityRecord>>);

impl Identity {
    /// What the file says now.
    pub fn record(&self) -> IdentityRecord {
        self.0.read().clone()
    }

    /// The node's id.
    pub fn node_id(&self) -> u64 {
        self.0.read().node_id
    }

    /// The cluster that this directory belongs to, once it has joined one.
    pub fn cluster(&self) -> Option<String> {
        self.0.read().cluster.clone()
    }

    pub(crate) fn in_use(&self) -> bool {
        self.0.read().in_use
    }

    /// Random name of this directory, 32 hexadecimal digits: a node that comes back with another one has lost its data.
    pub fn store_id(&self) -> String {
        format!("{:032x}", self.0.read().store_id)
    }

    /// Reads the file, or makes it if there is none; refuses another node's and another cluster's.
    pub(crate) fn open(disk: &dyn Disk, wanted: IdentityRecord) -> Result<Self, StoreError> {
        let place = format!("{}/{FILE}", disk.place());
        let found = disk.read_file(FILE).map_err(|error| StoreError::disk("read", &place, error))?;
        let Some(bytes) = found else {
            let emptied = "it has data but no identity file";
            return if disk.has_keys() {
                Err(StoreError::foreign(disk.place(), emptied))
            } else {
                Self::create(disk, wanted)
            };
        };
        let record = parse(&bytes).map_err(|problem| problem.at(&place))?;
        check(&record, &wanted, &disk.place())?;
        let identity = Self(Arc::new(RwLock::new(record)));
        if let Some(cluster) = wanted.cluster {
            identity.bind(disk, &cluster)?;
        }
        Ok(identity)
    }

    /// Writes a new file.
    pub(crate) fn create(disk: &dyn Disk, record: IdentityRecord) -> Result<Self, StoreError> {
        write(disk, &record)?;
        Ok(Self(Arc::new(RwLock::new(record))))
    }

    /// From now on an emptied store is refused.
    pub(crate) fn mark_in_use(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        self.change(disk, |record| record.in_use = true)
    }

    /// From now on this directory belongs to `cluster`.
    pub(crate) fn bind(&self, disk: &dyn Disk, cluster: &str) -> Result<(), StoreError> {
        match self.cluster() {
            Some(bound) if bound == cluster => Ok(()),
            Some(bound) => Err(another_cluster(&disk.place(), &bound, cluster)),
            None if cluster.is_empty() || cluster.contains(char::is_control) => {
                Err(StoreError::Invariant(format!("{cluster:?} can't be a cluster id")))
            }
            None => self.change(disk, |record| record.cluster = Some(cluster.to_owned())),
        }
    }

    /// Disk first, memory after: whoever reads the new value may rely on it.
    fn change(&self, disk: &dyn Disk, change: impl FnOnce(&mut IdentityRecord)) -> Result<(), StoreError> {
        let mut record = self.record();
        change(&mut record);
        write(disk, &record)?;
        *self.0.write() = record;
        Ok(())
    }
}

pub(crate) fn another_cluster(place: &str, bound: &str, wanted: &str) -> StoreError {
    StoreError::foreign(place, format!("it belongs to cluster {bound}, not {wanted}"))
}

fn check(found: &IdentityRecord, wanted: &IdentityRecord, place: &str) -> Result<(), StoreError> {
    if found.node_id != wanted.node_id {
        let problem = format!("it belongs to master {}, not master {}", found.node_id, wanted.node_id);
        return Err(StoreError::foreign(place, problem));
    }
    match (&found.cluster, &wanted.cluster) {
        (Some(bound), Some(cluster)) if bound != cluster => Err(another_cluster(place, bound, cluster)),
        _ => Ok(()),
    }
}

fn write(disk: &dyn Disk, record: &IdentityRecord) -> Result<(), StoreError> {
    let place = || format!("{}/{FILE}", disk.place());
    replace_file(disk, FILE, print(record).as_bytes()).map_err(|error| StoreError::disk("write", place(), error))
}

fn print(record: &IdentityRecord) -> String {
    let mut text = format!("{TITLE}\nnode_id {}\n", record.node_id);
    if let Some(cluster) = &record.cluster {
        text.push_str(&format!("cluster_id {cluster}\n"));
    }
    text.push_str(&format!("store_id {:032x}\ncreated_ms {}\n", record.store_id, record.created_ms));
    text.push_str(&format!("in_use {}\n", record.in_use));
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc32 {crc:08x}\n"));
    text
}

enum Problem {
    Damaged(&'static str),
    Version(u32),
}

impl Problem {
    fn at(self, place: &str) -> StoreError {
        match self {
            Self::Damaged(problem) => StoreError::corrupt(place, problem),
            Self::Version(found) => StoreError::WrongVersion { place: place.to_owned(), found, known: 1 },
        }
    }
}

fn parse(bytes: &[u8]) -> Result<IdentityRecord, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Damaged("not text"))?;
    let first = text.lines().next().unwrap_or_default();
    if first != TITLE {
        let version = first.strip_prefix("steersman identity ").and_then(|version| version.parse().ok());
        return Err(version.map_or(Problem::Damaged("not an identity file"), Problem::Version));
    }
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).ok_or(Problem::Damaged("incomplete"))
    };
    let malformed = || Problem::Damaged("malformed");
    let record = IdentityRecord {
        node_id: value("node_id")?.parse().map_err(|_| malformed())?,
        cluster: value("cluster_id").ok().map(str::to_owned),
        store_id: u128::from_str_radix(value("store_id")?, 16).map_err(|_| malformed())?,
        created_ms: value("created_ms")?.parse().map_err(|_| malformed())?,
        in_use: value("in_use")?.parse().map_err(|_| malformed())?,
    };
    // Printing is exact, so the whole file has to come out again, its checksum included.
    if print(&record) == text { Ok(record) } else { Err(Problem::Damaged("checksum mismatch")) }
}

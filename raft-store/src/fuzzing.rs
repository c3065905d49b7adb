//! Doors for fuzzers: decoders that are private otherwise. Compiled under `cfg(fuzzing)` alone.

use std::sync::Arc;

use openraft::entry::RaftEntry as _;

use crate::disk::MemDisk;
use crate::identity::{Identity, IdentityRecord};
use crate::record::{self, MembershipRecord, Seal, Sentinel, VoteRecord};

/// A log entry from its parts, and back again if it is one. `bytes` begins with the index.
pub fn log_record(bytes: &[u8]) {
    let Some((index, rest)) = bytes.split_first_chunk::<8>() else { return };
    let index = u64::from_le_bytes(*index);
    let parts: Vec<Vec<u8>> = match rest.len() {
        0..=record::PART_BYTES => vec![rest.to_vec()],
        _ => rest.chunks(record::PART_BYTES).map(<[u8]>::to_vec).collect(),
    };
    let Ok(entry) = record::entry_from_parts(index, &parts) else { return };
    let again = record::entry_parts(&entry)
        .and_then(|parts| record::entry_from_parts(index, &parts).map_err(|error| error.at("what was just written")));
    assert_eq!(again.ok(), Some(entry), "an entry does not survive being written");
}

/// Every kind of small record.
pub fn small_record(bytes: &[u8]) {
    let _ = record::open::<VoteRecord>("vote", bytes);
    let _ = record::open::<Seal>("seal", bytes);
    let _ = record::open::<Sentinel>("sentinel", bytes);
    if let Ok(membership) = record::open::<MembershipRecord>("membership", bytes) {
        let _ = membership.membership();
    }
}

/// An identity file.
pub fn identity(bytes: &[u8]) {
    let disk = Arc::new(MemDisk::new());
    disk.damage(|_, files| {
        files.insert("identity".to_owned(), Arc::new(bytes.to_vec()));
    });
    let wanted = IdentityRecord { node_id: 1, cluster: None, store_id: 1, created_ms: 0, in_use: false };
    let _ = Identity::open(&*disk, wanted);
}

/// A log record as it lies on disk, in the form that [`log_record`] reads: for the first inputs.
pub fn log_record_of(index: u64, term: u64, batch: Vec<u8>) -> Vec<u8> {
    let payload = crate::Proposal::from_bytes(batch.into()).map(openraft::EntryPayload::Normal);
    let entry = payload.map(|payload| crate::types::Entry::new(crate::types::log_id(term, index), payload));
    let parts = entry.ok().and_then(|entry| record::entry_parts(&entry).ok()).unwrap_or_default();
    [index.to_le_bytes().to_vec(), parts.concat()].concat()
}

/// Small records of every kind: for the first inputs.
pub fn small_records() -> Vec<Vec<u8>> {
    let nodes = std::collections::BTreeMap::from([(1, crate::MasterNode::default())]);
    let membership = MembershipRecord { configs: vec![[1].into()], nodes };
    vec![
        record::seal("vote", &VoteRecord { term: 3, node: 1, committed: true }),
        record::seal("seal", &Seal { number: 7, end: 9 }),
        record::seal("sentinel", &Sentinel { store_id: 5, node_id: 1 }),
        record::seal("membership", &membership),
    ]
}

/// A snapshot file of a state: for the first inputs.
pub fn snapshot_of(state: &steersman_state::State) -> Vec<u8> {
    let disk = MemDisk::new();
    let header = crate::SnapshotHeader {
        cluster: Some("fuzz".to_owned()),
        node_id: 1,
        last: Some((1, state.applied_index())),
        membership_at: Some((1, 1)),
        voters: vec![[1].into()],
        nodes: std::collections::BTreeMap::from([(1, crate::MasterNode::default())]),
    };
    let written = crate::disk::Disk::create_file(&disk, "snapshot");
    let written = written.and_then(|out| crate::snapshot::write_snapshot(out, &header, &state.image()));
    let bytes = written.and_then(|_| crate::disk::Disk::read_file(&disk, "snapshot"));
    bytes.ok().flatten().unwrap_or_default()
}

//! Doors for fuzzers: decoders that are private otherwise. Compiled under `cfg(fuzzing)` alone.

use std::sync::Arc;

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
    let again = record::entry_parts(&entry).and_then(|parts| {
        record::entry_from_parts(index, &parts).map_err(|error| error.at("what was just written"))
    });
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

//! Names of what is stored: `[0]name` for the small records, `[1][index BE][part BE]` for the parts of log entries.
//!
//! What always holds: keys sort as the log does, and an entry's parts follow each other.

use std::ops::Range;

const META: u8 = 0;
const LOG: u8 = 1;

/// The vote.
pub const VOTE: &str = "vote";
/// How far the log is known to be committed.
pub const COMMITTED: &str = "committed";
/// How far the log was purged.
pub const PURGED: &str = "purged";
/// Where the log ends, written with every change of it.
pub const SEAL: &str = "seal";
/// Whose store this is.
pub const SENTINEL: &str = "store";

/// Key of a small record.
pub fn meta(name: &str) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(name.as_bytes());
    key
}

/// Key of one part of an entry.
pub fn part(index: u64, part: u16) -> Vec<u8> {
    let mut key = vec![LOG];
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Index and part of a log key; `None` for a key of another shape.
pub fn parse_part(key: &[u8]) -> Option<(u64, u16)> {
    let rest = key.strip_prefix(&[LOG])?;
    let (index, part) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u16::from_be_bytes(part.try_into().ok()?)))
}

/// From and to (exclusive) of the keys of entries `range`.
pub fn entries(range: Range<u64>) -> (Vec<u8>, Vec<u8>) {
    (part(range.start, 0), part(range.end, 0))
}

/// From and to (exclusive) of all log keys.
pub fn all_entries() -> (Vec<u8>, Vec<u8>) {
    (vec![LOG], vec![LOG + 1])
}

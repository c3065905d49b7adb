//! The keeper's memory on disk: which children were started, how they ended, which ends were acknowledged.
//!
//! Append-only records `len u32 | crc u32 | message`, so that a keeper that died can be followed by one that knows what was
//! running. Not synced: it must survive processes, not power; after a power cut no child lives, and the master learns from
//! the missing token. What always holds: a torn or damaged tail is cut off, never guessed at; the file is rewritten when it
//! is mostly dead, so its size is bounded by what is unacknowledged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;

use super::wire::{Ended, Entry, Record, Running, Tokens};

/// A file smaller than this is not worth rewriting.
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// What was found at opening.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Started, and no end written.
    pub open: BTreeMap<u64, Running>,
    /// Ended, and not acknowledged.
    pub ended: BTreeMap<u64, Ended>,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_after_rewrite: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens or makes the file and reads it.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> io::Result<(Self, Found)> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let (found, good) = replay(&bytes);
        let file = File::options().create(true).append(true).open(path)?;
        if good < bytes.len() {
            file.set_len(good as u64)?;
        }
        let journal =
            Self { path: path.to_owned(), file, bytes: good as u64, bytes_after_rewrite: 0, buffer: Vec::new() };
        Ok((journal, found))
    }

    /// Writes one record.
    ///
    /// # Errors
    /// When the disk refuses; then nothing of the record counts.
    pub fn append(&mut self, entry: Entry) -> io::Result<()> {
        self.buffer.clear();
        encode(&mut self.buffer, entry);
        if let Err(error) = self.file.write_all(&self.buffer) {
            // A part of it may be there: cut it off, or what follows would be unreadable.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Notes that ends were acknowledged.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget(&mut self, tokens: &[u64]) -> io::Result<()> {
        self.append(Entry::Forgotten(Tokens { tokens: tokens.to_vec() }))
    }

    /// Whether the file is mostly dead: much larger than what it was when it held only what lives.
    pub fn is_bloated(&self) -> bool {
        self.bytes > REWRITE_BYTES_MIN.max(self.bytes_after_rewrite * 4)
    }

    /// Replaces the file by one that holds only what lives.
    ///
    /// # Errors
    /// When the disk refuses; the old file stays.
    pub fn rewrite(&mut self, live: &Found) -> io::Result<()> {
        let mut bytes = Vec::new();
        live.open.values().for_each(|running| encode(&mut bytes, Entry::Starting(*running)));
        live.ended.values().for_each(|ended| encode(&mut bytes, Entry::Ended(ended.clone())));
        let aside = self.path.with_extension("new");
        fs::write(&aside, &bytes)?;
        let file = File::options().append(true).open(&aside)?;
        fs::rename(&aside, &self.path)?;
        self.file = file;
        self.bytes = bytes.len() as u64;
        self.bytes_after_rewrite = self.bytes;
        Ok(())
    }
}

fn encode(out: &mut Vec<u8>, entry: Entry) {
    let record = Record { entry: Some(entry) }.encode_to_vec();
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
    out.extend_from_slice(&record);
}

fn replay(bytes: &[u8]) -> (Found, usize) {
    let mut found = Found::default();
    let mut at = 0;
    while let Some((entry, len)) = decode(&bytes[at..]) {
        note(&mut found, entry);
        at += len;
    }
    (found, at)
}

fn decode(bytes: &[u8]) -> Option<(Entry, usize)> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let crc = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(8..8usize.checked_add(len)?)?;
    // A fuzzer would never get past the checksum: its builds see to what lies behind.
    if crc32fast::hash(body) != crc && !cfg!(fuzzing) {
        return None;
    }
    Some((Record::decode(body).ok()?.entry?, 8 + len))
}

fn note(found: &mut Found, entry: Entry) {
    match entry {
        Entry::Starting(running) => {
            found.open.insert(running.token, running);
        }
        Entry::Ended(ended) => {
            found.open.remove(&ended.token);
            found.ended.insert(ended.token, ended);
        }
        Entry::Forgotten(Tokens { tokens }) => tokens.iter().for_each(|token| {
            found.ended.remove(token);
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn running(token: u64) -> Running {
        Running { token, task_id: token + 100, ..Running::default() }
    }

    fn over(token: u64) -> Ended {
        Ended { token, message: "done".into(), ..Ended::default() }
    }

    fn filled(path: &Path) {
        let (mut journal, _) = Journal::open(path).unwrap();
        for token in 1..=3 {
            journal.append(Entry::Starting(running(token))).unwrap();
        }
        journal.append(Entry::Ended(over(1))).unwrap();
        journal.append(Entry::Ended(over(2))).unwrap();
        journal.forget(&[1]).unwrap();
    }

    #[test]
    fn what_was_open_and_unacknowledged_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        filled(&path);
        let (_, found) = Journal::open(&path).unwrap();
        assert_eq!(found.open.into_keys().collect::<Vec<_>>(), [3]);
        assert_eq!(found.ended.into_values().collect::<Vec<_>>(), [over(2)]);
    }

    #[test]
    fn a_cut_or_damaged_tail_is_dropped_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        filled(&path);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, before) = Journal::open(&path).unwrap();
            journal.append(Entry::Starting(running(9))).unwrap();
            let (_, after) = Journal::open(&path).unwrap();
            assert!(after.open.contains_key(&9), "cut at {cut}");
            assert_eq!((after.open.len(), after.ended), (before.open.len() + 1, before.ended), "cut at {cut}");
        }
        let mut bad = whole.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&path, &bad).unwrap();
        let (_, found) = Journal::open(&path).unwrap();
        assert_eq!(found.ended.len(), 2, "the damaged acknowledgement does not count");
    }

    #[test]
    fn it_is_rewritten_when_mostly_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let mut live = Found::default();
        live.open.insert(7, running(7));
        let mut token = 10;
        while !journal.is_bloated() {
            journal.append(Entry::Ended(over(token))).unwrap();
            journal.forget(&[token]).unwrap();
            token += 1;
        }
        journal.rewrite(&live).unwrap();
        journal.append(Entry::Ended(over(8))).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 100);
        let (_, found) = Journal::open(&path).unwrap();
        assert_eq!((found.open.len(), found.ended.len()), (1, 1));
    }
}

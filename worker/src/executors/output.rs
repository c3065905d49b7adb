//! Where the output of attempts lives, and its bounds.
//!
//! `data_dir/attempts/<token>/` holds `stdout`, `stderr` and, if the task named no directory, its scratch directory `work`.
//! Children write straight into the files (opened for append); nobody copies. The keeper bounds a stream by punching a hole
//! over its OLDEST bytes: offsets never shift, the newest bytes stay, and how much is gone is where the first data begins.
//! On a file system without holes the NEWEST bytes are cut off instead and counted in `<stream>.dropped`. The bound is
//! enforced a few times a second and at the end, so a fast writer may be over it for a moment.
//!
//! Outputs age on the monotonic clock, from when the worker first saw them finished, so that a jump of the wall clock removes
//! nothing; a restart of the worker makes them young again. They are ordered by token, which is the order of assignment.
//!
//! What always holds: no attempt that is held (running, or its end unacknowledged) is swept away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, SeekFrom as RawSeek};
use steersman_proto::v1::LogStream;
use tokio::time::Instant;

/// Largest piece of one reply.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;

/// The directory of one attempt.
pub fn attempt_dir(data_dir: &Path, token: u64) -> PathBuf {
    data_dir.join("attempts").join(token.to_string())
}

/// The file name of a stream.
pub fn file_name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    }
}

/// Brings a stream's file back under `limit` bytes; `cut` is how much was cut before. Returns how much is cut now.
///
/// # Errors
/// When the file cannot be looked at.
pub fn bound(path: &Path, limit: u64, cut: u64) -> io::Result<u64> {
    let meta = fs::metadata(path)?;
    let block = meta.blksize().max(1);
    let wanted = meta.len().saturating_sub(limit) / block * block;
    if wanted <= cut {
        return Ok(cut);
    }
    let file = File::options().write(true).open(path)?;
    let punched = rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, wanted);
    if punched.is_ok() {
        return Ok(wanted);
    }
    file.set_len(limit)?;
    let gone = dropped_newest(path) + (meta.len() - limit);
    fs::write(path.with_extension("dropped"), gone.to_string())?;
    Ok(0)
}

fn dropped_newest(path: &Path) -> u64 {
    fs::read_to_string(path.with_extension("dropped")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub data: Bytes,
    /// Where to go on.
    pub next_offset: u64,
    /// Whether `next_offset` is the file's end as of now.
    pub at_end: bool,
    /// Bytes that are gone.
    pub dropped: u64,
}

/// Reads from `offset`, or from the first byte that is still there.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn read(path: &Path, offset: u64, max: usize) -> io::Result<Piece> {
    let mut file = File::open(path)?;
    loop {
        let first = first_kept(&file)?;
        let from = offset.max(first);
        file.seek(SeekFrom::Start(from))?;
        let mut data = Vec::new();
        (&mut file).take(max.min(PIECE_BYTES_MAX) as u64).read_to_end(&mut data)?;
        // What was read may have been punched away meanwhile: then these are zeros that nobody wrote.
        if first_kept(&file)? > from && !data.is_empty() {
            continue;
        }
        let next_offset = from + data.len() as u64;
        let at_end = next_offset >= file.metadata()?.len();
        return Ok(Piece { data: data.into(), next_offset, at_end, dropped: first + dropped_newest(path) });
    }
}

fn first_kept(file: &File) -> io::Result<u64> {
    match rustix::fs::seek(file, RawSeek::Data(0)) {
        Ok(at) => Ok(at),
        Err(rustix::io::Errno::NXIO) => Ok(file.metadata()?.len()),
        Err(_) => Ok(0),
    }
}

/// Removes an attempt's directory if it wrote nothing at all. True if it is gone.
pub fn remove_if_silent(dir: &Path) -> bool {
    // `work` goes first: rmdir refuses if the task left something there.
    let _ = fs::remove_dir(dir.join("work"));
    let _ = fs::remove_file(dir.join("stdin"));
    let empty = |name: &str| fs::metadata(dir.join(name)).is_ok_and(|meta| meta.len() == 0);
    if !empty("stdout") || !empty("stderr") || dir.join("work").exists() {
        return false;
    }
    fs::remove_dir_all(dir).is_ok()
}

/// What is kept of finished attempts.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// All of them together.
    pub bytes_max: u64,
    /// How many.
    pub count_max: u64,
    /// How long.
    pub age_max: Duration,
}

/// Removes outputs that are too old, too many or too much, oldest first, except those in `held`. `seen` is kept between
/// sweeps: since when each is known as finished. Returns how many were removed.
pub fn sweep(
    data_dir: &Path,
    keep: &Keep,
    held: &BTreeSet<u64>,
    seen: &mut BTreeMap<u64, Instant>,
    now: Instant,
) -> usize {
    let finished = finished_attempts(data_dir, held);
    seen.retain(|token, _| finished.contains_key(token));
    let (mut count, mut bytes) = (finished.len() as u64, finished.values().sum::<u64>());
    let mut removed = 0;
    for (token, its_bytes) in finished {
        let age = now.saturating_duration_since(*seen.entry(token).or_insert(now));
        let kept = age <= keep.age_max && count <= keep.count_max && bytes <= keep.bytes_max;
        if !kept && fs::remove_dir_all(attempt_dir(data_dir, token)).is_ok() {
            seen.remove(&token);
            removed += 1;
            count -= 1;
            bytes -= its_bytes;
        }
    }
    removed
}

/// Tokens of attempts that are over, and the bytes that each takes.
fn finished_attempts(data_dir: &Path, held: &BTreeSet<u64>) -> BTreeMap<u64, u64> {
    let Ok(entries) = fs::read_dir(data_dir.join("attempts")) else { return BTreeMap::new() };
    let tokens = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let finished = tokens.filter(|token| !held.contains(token));
    finished.map(|token| (token, bytes_under(&attempt_dir(data_dir, token), 8))).collect()
}

/// Bytes on disk (holes do not count), down to `depth` levels.
fn bytes_under(dir: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() && depth > 0 => bytes_under(&entry.path(), depth - 1),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    fn append(path: &Path, bytes: &[u8]) {
        File::options().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn past_the_bound_the_oldest_bytes_go_and_offsets_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut cut = 0;
        for round in 0..10u8 {
            append(&path, &[b'a' + round; 10_000]);
            cut = bound(&path, 16_384, cut).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 16_384 + 8_192);
        let piece = read(&path, 0, PIECE_BYTES_MAX).unwrap();
        assert_eq!((piece.dropped, piece.next_offset, piece.at_end), (cut, 100_000, true));
        assert_eq!(piece.data.len() as u64, 100_000 - cut);
        assert!(piece.data.ends_with(&[b'j'; 10_000]) && !piece.data.contains(&0));
    }

    #[test]
    fn reading_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr");
        append(&path, b"hello ");
        let first = read(&path, 0, 4).unwrap();
        assert_eq!((&first.data[..], first.at_end), (&b"hell"[..], false));
        append(&path, b"world");
        let rest = read(&path, first.next_offset, 100).unwrap();
        assert_eq!((&rest.data[..], rest.at_end, rest.dropped), (&b"o world"[..], true, 0));
    }

    #[test]
    fn p14_the_oldest_finished_outputs_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        for token in 1..=5u64 {
            let of = attempt_dir(dir.path(), token);
            fs::create_dir_all(&of).unwrap();
            append(&of.join("stdout"), &[b'x'; 8_192]);
        }
        let (now, mut seen) = (Instant::now(), BTreeMap::new());
        let mut keep = Keep { bytes_max: 1 << 30, count_max: 3, age_max: Duration::from_secs(10) };
        let mut sweep = |keep: &Keep, held: &[u64], secs| {
            let held = held.iter().copied().collect();
            super::sweep(dir.path(), keep, &held, &mut seen, now + Duration::from_secs(secs))
        };
        assert_eq!(sweep(&keep, &[1], 0), 1);
        assert!(!attempt_dir(dir.path(), 2).exists() && attempt_dir(dir.path(), 1).exists());
        keep.bytes_max = 2 * 8_192;
        assert_eq!(sweep(&keep, &[], 5), 2, "1, which is over now too, and 3");
        assert_eq!(sweep(&keep, &[], 10), 0);
        assert_eq!(sweep(&keep, &[5], 11), 1, "4 is too old, 5 is held");
        assert_eq!(sweep(&keep, &[], 12), 0, "5 is young again: it was held a moment ago");
        assert_eq!(sweep(&keep, &[], 23), 1);
    }

    #[test]
    fn a_silent_attempt_leaves_nothing_and_a_talking_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        for name in ["silent", "talking", "working"] {
            fs::create_dir_all(of(name).join("work")).unwrap();
            append(&of(name).join("stdout"), b"");
            append(&of(name).join("stderr"), if name == "talking" { b"hi" } else { b"" });
        }
        append(&of("working").join("work/result"), b"");
        assert!(remove_if_silent(&of("silent")) && !of("silent").exists());
        assert!(!remove_if_silent(&of("talking")) && !remove_if_silent(&of("working")));
        assert!(of("working").join("work/result").exists());
    }
}

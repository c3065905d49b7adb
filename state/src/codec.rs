//! Bytes of a batch: a version, a checksum, bincode. Decoding never panics and never guesses.

use bincode::Options;

use crate::command::{Batch, FORMAT};

/// Longest encoded batch that is read, in bytes: far above what a proposer puts into one entry (8 MiB).
pub const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Why bytes are not what they should be. The node's kind of error: it stops instead of guessing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer (or no) version of this software.
    #[error("{what} has format {found}, this software reads {known}")]
    UnknownVersion {
        /// Batch or snapshot.
        what: &'static str,
        /// As found.
        found: u32,
        /// The one that is read here.
        known: u32,
    },
    /// The bytes are not those that were written.
    #[error("{what}: checksum mismatch (stored {stored:08x}, computed {computed:08x})")]
    Checksum {
        /// Batch or frame.
        what: &'static str,
        /// As found.
        stored: u32,
        /// Of the bytes as found.
        computed: u32,
    },
    /// It ends too early, or goes on after its end.
    #[error("{0}")]
    Length(String),
    /// The checksum holds, and yet it can't be read.
    #[error("{what}: {problem}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// For people.
        problem: String,
    },
    /// The input itself failed.
    #[error("reading: {0}")]
    Io(String),
}

/// One set of options for everything that is written: little endian, varint, nothing trailing.
pub(crate) fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new().with_little_endian().with_varint_encoding().reject_trailing_bytes().with_limit(limit)
}

/// Whether checksums disagree. A fuzzer would never get past them: its builds see to what lies behind.
pub(crate) fn differ(stored: u32, computed: u32) -> bool {
    stored != computed && !cfg!(fuzzing)
}

impl Batch {
    /// `[FORMAT][crc32 of the rest, little endian][bincode]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, 0, 0, 0, 0];
        // Writing to memory can't fail, and no limit is set for it: the reader's limit is the proposer's to respect.
        let written = options(u64::MAX).serialize_into(&mut bytes, self);
        debug_assert!(written.is_ok());
        let crc = crc32fast::hash(&bytes[5..]);
        bytes[1..5].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    ///
    /// Too short, an unknown format, a wrong checksum, bytes that are no batch, or more than [`BATCH_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        let Some((&format, rest)) = bytes.split_first() else {
            return Err(DecodeError::Length("an empty batch".into()));
        };
        if format != FORMAT {
            return Err(DecodeError::UnknownVersion { what: "batch", found: format.into(), known: FORMAT.into() });
        }
        let Some((crc, body)) = rest.split_first_chunk::<4>() else {
            return Err(DecodeError::Length(format!("a batch of only {} bytes", bytes.len())));
        };
        let (stored, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
        if differ(stored, computed) {
            return Err(DecodeError::Checksum { what: "batch", stored, computed });
        }
        let malformed = |error: bincode::Error| DecodeError::Malformed { what: "batch", problem: error.to_string() };
        options(BATCH_BYTES_MAX).deserialize(body).map_err(malformed)
    }
}

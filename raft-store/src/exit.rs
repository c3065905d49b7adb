//! Exit codes of a master that stops because of its data, and the stable codes of the texts it prints.
//!
//! What always holds: the numbers are part of the interface (docs/operations.md) and never change. They follow
//! sysexits(3) where it has a word for it. Nothing here ends a process.

/// Data on disk is damaged (`EX_DATAERR`).
pub const CORRUPT_DATA: u8 = 65;
/// An invariant of the store or of the state is broken (`EX_SOFTWARE`).
pub const INVARIANT: u8 = 70;
/// The disk is full, or refuses reads or writes (`EX_IOERR`).
pub const DISK: u8 = 74;
/// The directory belongs to another node or cluster, was emptied, or another process holds it (`EX_TEMPFAIL`).
pub const FOREIGN_DATA: u8 = 75;
/// Written by a version that this one can't read (`EX_PROTOCOL`).
pub const WRONG_VERSION: u8 = 76;

/// The text's code for [`CORRUPT_DATA`].
pub const CODE_CORRUPT_DATA: &str = "STM-3002";
/// The text's code for [`FOREIGN_DATA`].
pub const CODE_FOREIGN_DATA: &str = "STM-3003";
/// The text's code for [`DISK`].
pub const CODE_DISK: &str = "STM-3004";
/// The text's code for [`INVARIANT`].
pub const CODE_INVARIANT: &str = "STM-3006";
/// The text's code for [`WRONG_VERSION`].
pub const CODE_WRONG_VERSION: &str = "STM-2008";

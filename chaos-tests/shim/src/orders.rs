//! The file of orders: 16 fields of 8 bytes, native endian, in this order. `chaos-tests/src/bed/orders.rs` writes it.
//!
//! What always holds: every field is read and written as one atomic word, so that none is ever half new; a field that is 0
//! orders nothing. The mapping is never taken back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::real;

/// First field of a file that is one: `STMSHIM1`.
const MAGIC: u64 = u64::from_le_bytes(*b"STMSHIM1");
/// Names the file.
const VARIABLE: &std::ffi::CStr = c"STEERSMAN_SHIM_ORDERS";

/// What is ordered, and what was done about it.
#[repr(C)]
pub struct Orders {
    magic: AtomicU64,
    /// Each sync first waits so long, in µs.
    pub sync_delay_us: AtomicU64,
    /// Each sync fails with this errno.
    pub sync_errno: AtomicU64,
    /// If not 0, syncs return 0 and do nothing.
    pub sync_lies: AtomicU64,
    /// Each write to a regular file first waits so long, in µs.
    pub write_delay_us: AtomicU64,
    /// Each write to a regular file fails with this errno.
    pub write_errno: AtomicU64,
    /// Added to the wall clock; signed.
    pub wall_offset_ns: AtomicU64,
    /// The wall clock runs faster by so many millionths; signed.
    pub wall_drift_ppm: AtomicU64,
    /// CLOCK_MONOTONIC when that began.
    pub wall_drift_since_ns: AtomicU64,
    /// Counts of what was done.
    pub syncs_delayed: AtomicU64,
    pub(crate) syncs_failed: AtomicU64,
    pub(crate) syncs_lied: AtomicU64,
    pub(crate) writes_delayed: AtomicU64,
    pub(crate) writes_failed: AtomicU64,
    _spare: [AtomicU64; 2],
}

impl Orders {
    /// The value of a field that orders something.
    pub fn wanted(field: &AtomicU64) -> Option<u64> {
        Some(field.load(Ordering::Relaxed)).filter(|value| *value != 0)
    }

    /// A signed field.
    pub fn signed(field: &AtomicU64) -> i64 {
        field.load(Ordering::Relaxed).cast_signed()
    }

    /// Counts one.
    pub fn count(field: &AtomicU64) {
        field.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether syncs are not simply syncs.
    pub fn any_sync(&self) -> bool {
        [&self.sync_delay_us, &self.sync_errno, &self.sync_lies].into_iter().any(|f| Self::wanted(f).is_some())
    }

    /// Whether writes are not simply writes.
    pub fn any_write(&self) -> bool {
        [&self.write_delay_us, &self.write_errno].into_iter().any(|f| Self::wanted(f).is_some())
    }
}

/// The orders, if this process has any.
pub fn orders() -> Option<&'static Orders> {
    static MAPPED: OnceLock<Option<&'static Orders>> = OnceLock::new();
    *MAPPED.get_or_init(|| {
        // SAFETY: a mapping of at least this many bytes, page-aligned, never unmapped, of a type for which every bit
        // pattern is valid and which is only accessed atomically.
        let orders = real::map_file(VARIABLE, size_of::<Orders>()).map(|at| unsafe { &*at.cast::<Orders>() });
        orders.filter(|orders| orders.magic.load(Ordering::Relaxed) == MAGIC)
    })
}

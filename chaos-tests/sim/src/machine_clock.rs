//! The machine's clock, held by the simulation: whoever in this process asks the C library for the time gets simulated time.
//!
//! The HTTP/2 library forgets streams that were reset by `std::time::Instant`, and answers late frames otherwise from then on: with the
//! machine's own clock a run depended on how busy the machine was. What always holds: until [`hold`] is called the clock is the
//! machine's; from then on it moves by [`set`] alone.

use std::sync::atomic::{AtomicI64, Ordering};

/// Where held time begins: any moment that is later than every duration that somebody might subtract.
const BEGINNING_NS: i64 = 1_700_000_000_000_000_000;
const NOT_HELD: i64 = -1;

static HELD_NS: AtomicI64 = AtomicI64::new(NOT_HELD);

/// From now on the clock stands still, until it is set.
pub fn hold() {
    HELD_NS.store(BEGINNING_NS, Ordering::Relaxed);
}

/// So much simulated time has passed. Without effect on a clock that is not held.
pub fn set(elapsed_us: u64) {
    if HELD_NS.load(Ordering::Relaxed) != NOT_HELD {
        HELD_NS.store(BEGINNING_NS + elapsed_us as i64 * 1_000, Ordering::Relaxed);
    }
}

/// In the place of the C library's.
///
/// # Safety
/// `to` points to a `timespec` that may be written, as the C library demands of its callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> libc::c_int {
    let held = HELD_NS.load(Ordering::Relaxed);
    if held == NOT_HELD {
        // SAFETY: the caller's pointer goes to the kernel as it came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) as libc::c_int };
    }
    let now = libc::timespec { tv_sec: held / 1_000_000_000, tv_nsec: held % 1_000_000_000 };
    // SAFETY: the caller vouches for the pointer.
    unsafe { to.write(now) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_held_clock_moves_only_when_it_is_set() {
        hold();
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(before.elapsed(), Duration::ZERO);
        set(5_000);
        assert_eq!(before.elapsed(), Duration::from_millis(5));
    }
}

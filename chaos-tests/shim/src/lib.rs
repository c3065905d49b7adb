//! Preloaded into nodes under test (`LD_PRELOAD`): syncs that are slow, fail or lie, writes that are slow or find no space, and
//! a wall clock that is wrong.
//!
//! What always holds: without the variable `STEERSMAN_SHIM_ORDERS`, or without the file that it names, every call goes to libc
//! unchanged. Orders are read from that file, which is mapped, so that a change is in force with the next call and costs a node
//! nothing; what was done is counted in the same file (its layout: [`orders`]). Only regular files above the standard streams
//! are touched. Monotonic clocks are never touched: timers of the kernel would not follow them.

mod orders;
mod real;

use libc::{c_int, c_long, c_uint, c_void, off_t, off64_t, size_t, ssize_t, time_t, timespec, timeval};
use orders::{Orders, orders};

/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;

/// What becomes of a sync.
enum Sync {
    Real,
    Lie,
    Fail(c_int),
}

/// Waits and decides as ordered.
fn sync_as_ordered(fd: c_int) -> Sync {
    let Some(orders) = orders().filter(|orders| orders.any_sync() && real::is_regular_or_folder(fd)) else {
        return Sync::Real;
    };
    if let Some(us) = Orders::wanted(&orders.sync_delay_us) {
        real::sleep_us(us);
        Orders::count(&orders.syncs_delayed);
    }
    if let Some(errno) = Orders::wanted(&orders.sync_errno) {
        Orders::count(&orders.syncs_failed);
        return Sync::Fail(errno as c_int);
    }
    if Orders::wanted(&orders.sync_lies).is_some() {
        Orders::count(&orders.syncs_lied);
        return Sync::Lie;
    }
    Sync::Real
}

fn sync(fd: c_int, really: impl FnOnce() -> c_int) -> c_int {
    match sync_as_ordered(fd) {
        Sync::Real => really(),
        Sync::Lie => 0,
        Sync::Fail(errno) => real::fail(errno),
    }
}

/// The error with which a write has to fail, after the wait that was ordered.
fn write_as_ordered(fd: c_int) -> Option<c_int> {
    let orders = orders().filter(|orders| orders.any_write() && fd > 2 && real::is_regular(fd))?;
    if let Some(us) = Orders::wanted(&orders.write_delay_us) {
        real::sleep_us(us);
        Orders::count(&orders.writes_delayed);
    }
    let errno = Orders::wanted(&orders.write_errno)?;
    Orders::count(&orders.writes_failed);
    Some(errno as c_int)
}

fn write_call(fd: c_int, really: impl FnOnce() -> ssize_t) -> ssize_t {
    match write_as_ordered(fd) {
        None => really(),
        Some(errno) => real::fail(errno) as ssize_t,
    }
}

/// The wall clock's error at this moment, in ns.
fn wall_error_ns() -> i64 {
    let Some(orders) = orders() else { return 0 };
    let (offset, ppm) = (Orders::signed(&orders.wall_offset_ns), Orders::signed(&orders.wall_drift_ppm));
    if ppm == 0 {
        return offset;
    }
    let since = real::monotonic_ns().saturating_sub(Orders::signed(&orders.wall_drift_since_ns));
    offset.saturating_add((since as i128 * ppm as i128 / 1_000_000) as i64)
}

fn wrong(time: timespec, error_ns: i64) -> timespec {
    let total = time.tv_sec as i128 * SECOND_NS as i128 + time.tv_nsec as i128 + error_ns as i128;
    // A clock before 1970 is no clock that a kernel would show.
    let total = total.max(0);
    timespec { tv_sec: (total / SECOND_NS as i128) as time_t, tv_nsec: (total % SECOND_NS as i128) as c_long }
}

/// `fsync(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, || real::sync(real::Call::Fsync, fd))
}

/// `fdatasync(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, || real::sync(real::Call::Fdatasync, fd))
}

/// `sync_file_range(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(fd: c_int, offset: off64_t, count: off64_t, flags: c_uint) -> c_int {
    sync(fd, || real::sync_file_range(fd, offset, count, flags))
}

/// `write(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's arguments go to the kernel as they came.
    write_call(fd, || unsafe { real::write(fd, bytes, count) })
}

/// `pwrite(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's arguments go to the kernel as they came.
    write_call(fd, || unsafe { real::pwrite(fd, bytes, count, offset) })
}

/// `pwrite(2)` with 64-bit offsets: the same on this platform.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the caller's arguments go to the kernel as they came.
    write_call(fd, || unsafe { real::pwrite(fd, bytes, count, offset) })
}

/// `clock_gettime(2)`: wrong for the wall clocks, untouched for all others.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, into: *mut timespec) -> c_int {
    // SAFETY: the caller's arguments go to libc as they came.
    let result = unsafe { real::clock_gettime(clock, into) };
    let wall = clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE;
    if result == 0 && wall && !into.is_null() {
        // SAFETY: libc has just written a timespec there, so it is valid for reads and writes.
        unsafe { *into = wrong(*into, wall_error_ns()) };
    }
    result
}

/// `gettimeofday(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(into: *mut timeval, _zone: *mut c_void) -> c_int {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours.
    let result = unsafe { clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    if result == 0 && !into.is_null() {
        // SAFETY: the caller hands in a pointer to a timeval, or null.
        unsafe { *into = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 } };
    }
    result
}

/// `time(2)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(into: *mut time_t) -> time_t {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours.
    unsafe { clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    if !into.is_null() {
        // SAFETY: the caller hands in a pointer to a time_t, or null.
        unsafe { *into = now.tv_sec };
    }
    now.tv_sec
}

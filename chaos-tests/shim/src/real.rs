//! What the kernel and libc really do: the other side of each interposed function.
//!
//! What always holds: nothing here calls an interposed function, so that nothing runs in circles. Where libc's own function
//! only wraps a system call, the system call is made; `clock_gettime` is libc's, which needs no system call.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, c_long, c_uint, c_void, clockid_t, off64_t, size_t, ssize_t, timespec};

/// Calls that take a descriptor and sync it.
pub enum Call {
    /// `fsync`
    Fsync,
    /// `fdatasync`
    Fdatasync,
}

/// Sets `errno` and returns -1.
pub fn fail(errno: c_int) -> c_int {
    // SAFETY: libc returns a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The sync itself.
pub fn sync(call: Call, fd: c_int) -> c_int {
    let number = match call {
        Call::Fsync => libc::SYS_fsync,
        Call::Fdatasync => libc::SYS_fdatasync,
    };
    // SAFETY: takes one descriptor and touches no memory of ours.
    unsafe { libc::syscall(number, fd) as c_int }
}

/// The sync itself.
pub fn sync_file_range(fd: c_int, offset: off64_t, count: off64_t, flags: c_uint) -> c_int {
    // SAFETY: takes numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, count, flags) as c_int }
}

/// The write itself.
///
/// # Safety
/// `bytes` is valid for reads of `count` bytes, as for libc's.
pub unsafe fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: by this function's contract.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) as ssize_t }
}

/// The write itself.
///
/// # Safety
/// As [`write`].
pub unsafe fn pwrite(fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: by this function's contract.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, offset) as ssize_t }
}

/// libc's own.
///
/// # Safety
/// `into` is valid for writes of a timespec, as for libc's.
pub unsafe fn clock_gettime(clock: clockid_t, into: *mut timespec) -> c_int {
    type Real = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    let mut found = FOUND.load(Ordering::Relaxed);
    if found == 0 {
        // SAFETY: looks a name up; the name is a C string.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize;
        FOUND.store(found, Ordering::Relaxed);
    }
    if found == 0 {
        // SAFETY: by this function's contract.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock as c_long, into) as c_int };
    }
    // SAFETY: dlsym found libc's function of that name, which has this type.
    let real: Real = unsafe { std::mem::transmute::<usize, Real>(found) };
    // SAFETY: by this function's contract.
    unsafe { real(clock, into) }
}

/// CLOCK_MONOTONIC in ns.
pub fn monotonic_ns() -> i64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours.
    unsafe { clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Sleeps; a signal ends it early, as a signal would end a slow call.
pub fn sleep_us(us: u64) {
    let wait = timespec { tv_sec: (us / 1_000_000) as libc::time_t, tv_nsec: (us % 1_000_000 * 1_000) as c_long };
    // SAFETY: reads a timespec of ours and writes nothing.
    unsafe { libc::nanosleep(&wait, std::ptr::null_mut()) };
}

/// Whether it is a file.
pub fn is_regular(fd: c_int) -> bool {
    kind(fd) == libc::S_IFREG
}

/// Whether it is a file or a folder.
pub fn is_regular_or_folder(fd: c_int) -> bool {
    matches!(kind(fd), libc::S_IFREG | libc::S_IFDIR)
}

fn kind(fd: c_int) -> libc::mode_t {
    // SAFETY: all zeros is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is a stat of ours.
    if unsafe { libc::fstat(fd, &mut stat) } == 0 { stat.st_mode & libc::S_IFMT } else { 0 }
}

/// Maps the file that a variable of the environment names, for reading and writing; none if there is none of that size.
pub fn map_file(variable: &CStr, bytes: usize) -> Option<*mut c_void> {
    // SAFETY: the name is a C string; nothing here changes the environment.
    let path: *const c_char = unsafe { libc::getenv(variable.as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: getenv returned a C string.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: all zeros is a valid stat, and it is ours.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is a stat of ours.
    let whole = unsafe { libc::fstat(fd, &mut stat) } == 0 && stat.st_size >= bytes as i64;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let at = if whole {
        // SAFETY: a new mapping at an address of the kernel's choice.
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) }
    } else {
        libc::MAP_FAILED
    };
    // SAFETY: a descriptor of ours; the mapping outlives it.
    unsafe { libc::close(fd) };
    (at != libc::MAP_FAILED).then_some(at)
}

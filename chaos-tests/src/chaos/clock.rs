//! The one clock of a run: the kernel's boot time, the same for the runner and for every task, whatever namespace they are in.
//!
//! What always holds: it never goes back, and no shim can shift it, for it is read by a system call. A time namespace shifts what
//! a process in it reads; the kernel tells by how much, and that is taken off again.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Where the kernel tells how far this process' time namespace is off.
const OFFSETS: &str = "/proc/self/timens_offsets";

/// Microseconds since the machine was started, as a process outside of every time namespace reads them.
pub fn boot_us() -> u64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = *OFFSET.get_or_init(|| offset_us(&std::fs::read_to_string(OFFSETS).unwrap_or_default()));
    let now = clock_gettime(ClockId::Boottime);
    let own = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    u64::try_from(own - offset).unwrap_or(0)
}

/// The offset of the boot clock in a text like `monotonic 0 0\nboottime 86400 0` (seconds, nanoseconds).
fn offset_us(text: &str) -> i64 {
    let line = text.lines().find(|line| line.starts_with("boottime"));
    let mut words = line.unwrap_or_default().split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0));
    let (seconds, nanos): (i64, i64) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    seconds * 1_000_000 + nanos / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_knows_what_a_time_namespace_adds() {
        let (first, second) = (boot_us(), boot_us());
        assert!(first > 0 && second >= first);
        assert_eq!(offset_us("monotonic           0         0\nboottime       -3      5000\n"), -2_999_995);
        assert_eq!(offset_us(""), 0);
    }
}

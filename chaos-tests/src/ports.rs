//! Ports of this machine, one owner at a time.
//!
//! What always holds: a [`Port`] is below the range from which the kernel gives out ports by itself, was free when it was
//! taken, and is given to nobody else by any test process of this machine until it is dropped, restarts of its node
//! included. It cannot keep strangers away.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};

/// Below this live well-known services.
const LOWEST: u16 = 12_000;
/// Where the kernel's own range begins on Linux, if it does not say.
const KERNELS_RANGE: u16 = 32_768;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on loopback that belongs to this value.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Errors
    /// If there is none, or locks cannot be taken in the temporary directory.
    pub fn take() -> Result<Self> {
        let locks = std::env::temp_dir().join("steersman-test-ports");
        std::fs::create_dir_all(&locks).with_context(|| format!("cannot make {}", locks.display()))?;
        let span = range_end().saturating_sub(LOWEST).max(1);
        // Processes begin at different places, so that they seldom ask for the same lock.
        let begin = (std::process::id().wrapping_mul(97) % u32::from(span)) as u16;
        for _ in 0..span {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = LOWEST + begin.wrapping_add(step) % span;
            let lock = File::create(locks.join(number.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {LOWEST} and {}", LOWEST + span)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

fn range_end() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let begin = text.split_whitespace().next().and_then(|begin| begin.parse().ok());
    begin.filter(|begin| *begin > LOWEST + 1_000).unwrap_or(KERNELS_RANGE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<Port> = (0..50).map(|_| Port::take().unwrap()).collect();
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), ports.len());
        assert!(numbers.iter().all(|number| *number >= LOWEST && *number < range_end()));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let taken = Port::take().unwrap();
        let _listener = TcpListener::bind(taken.address()).unwrap();
        let number = taken.number;
        drop(taken);
        let next: Vec<Port> = (0..20).map(|_| Port::take().unwrap()).collect();
        assert!(next.iter().all(|port| port.number != number));
    }
}

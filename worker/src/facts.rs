//! What a worker measures of its machine: the load average, memory, free disk.
//!
//! What always holds: a fact that cannot be read is 0, never an error. A simulation plugs in its own [`Facts`].

use std::path::PathBuf;

use steersman_proto::v1::LoadReport;

/// A source of facts. Called once per heartbeat; must not block for long.
pub trait Facts: Send + Sync + 'static {
    /// The machine's part of the report; `running`, `uptime_ms` and `reports_unacknowledged` are filled in by the worker.
    fn load(&self) -> LoadReport;
}

/// `/proc` and the file system under the data directory.
#[derive(Debug, Clone)]
pub struct SystemFacts {
    dir: PathBuf,
}

impl SystemFacts {
    /// Reports the free disk under `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl Facts for SystemFacts {
    fn load(&self) -> LoadReport {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        LoadReport {
            cpu_load_1m: first_number(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default()),
            memory_total_bytes: memory(&meminfo, "MemTotal:"),
            memory_available_bytes: memory(&meminfo, "MemAvailable:"),
            disk_free_bytes: rustix::fs::statvfs(&self.dir).map_or(0, |disk| disk.f_bavail * disk.f_frsize),
            ..LoadReport::default()
        }
    }
}

/// No machine at all: every fact is 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFacts;

impl Facts for NoFacts {
    fn load(&self) -> LoadReport {
        LoadReport::default()
    }
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn memory(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_a_real_machine_are_plausible() {
        let load = SystemFacts::new("/".into()).load();
        assert!(
            load.memory_total_bytes > 1 << 20 && load.memory_available_bytes <= load.memory_total_bytes,
            "{load:?}"
        );
        assert!(load.disk_free_bytes > 0 && load.cpu_load_1m >= 0.0, "{load:?}");
    }

    #[test]
    fn garbage_is_zero() {
        assert_eq!(memory("MemTotal: many kB\n", "MemTotal:"), 0);
        assert_eq!(memory("MemTotal:    12 kB\n", "MemTotal:"), 12 * 1024);
    }
}

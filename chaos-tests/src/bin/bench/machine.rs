//! The machine, the moment and the build that figures are of.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

/// Facts about where and when.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Day, UTC.
    pub date: String,
    /// The commit that was built, with `-dirty` if files had changed.
    pub commit: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Compiler.
    pub rustc: String,
    /// Processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// Kernel release.
    pub kernel: String,
    /// File system that the clusters live on.
    pub disk: String,
    /// Load average of the last minute before anything was started: above about 0.3 others were at work too.
    pub load_before: f64,
}

impl Machine {
    /// Looks around.
    ///
    /// # Errors
    /// If the number of cores is not to be had.
    pub fn look() -> Result<Self> {
        let proc = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            date: said("date", &["-u", "+%Y-%m-%d"]),
            commit: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            rustc: said("rustc", &["--version"]),
            cpu: after(&proc("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: memory_gib(&proc("/proc/meminfo")),
            kernel: proc("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk_of(&proc("/proc/mounts"), Path::new(env!("CARGO_MANIFEST_DIR"))),
            load_before: proc("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
        })
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Self { date, commit, build, rustc, cpu, cores, memory_gib, kernel, disk, load_before } = self;
        format!(
            "{date}, commit {commit}, {build} build by {rustc}; {cpu}, {cores} cores, {memory_gib:.0} GiB, \
             Linux {kernel}, {disk}; load average before: {load_before:.2}"
        )
    }
}

/// What a command prints; `unknown` if it cannot.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

/// The first value of a key in a file of `key : value` lines.
fn after(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib(meminfo: &str) -> f64 {
    let kib = after(meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / f64::from(1 << 20)
}

/// Kind and device of the file system that `path` is on.
fn disk_of(mounts: &str, path: &Path) -> String {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && path.starts_with(fields[1]));
    let mount = holding.max_by_key(|fields| fields[1].len());
    mount.map_or_else(|| "unknown disk".to_owned(), |fields| format!("{} on {}", fields[2], fields[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_that_holds_the_path_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /srv xfs rw 0 0\n";
        assert_eq!(disk_of(mounts, Path::new("/srv/x")), "xfs on /dev/b");
        assert_eq!(disk_of(mounts, Path::new("/srver")), "ext4 on /dev/a");
    }

    #[test]
    fn values_are_found_by_their_key() {
        assert_eq!(after("a: 1\nmodel name\t: X 9\n", "model name").as_deref(), Some("X 9"));
        assert!((memory_gib("MemTotal:        8388608 kB\n") - 8.0).abs() < 1e-9);
    }
}

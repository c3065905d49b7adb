//! The orders for the preloaded shim: one small file per node, written here, mapped by the shim.
//!
//! What always holds: the layout is the one of `chaos-tests/shim/src/orders.rs`; a field is written by one write of 8 bytes, so
//! that it is never half new. A node that starts again finds its orders as they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Names the file to the shim.
pub const VARIABLE: &str = "STEERSMAN_SHIM_ORDERS";
const MAGIC: &[u8; 8] = b"STMSHIM1";
const FIELDS: u64 = 16;

/// A field that orders something, by its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Syncs wait, in µs.
    SyncDelayUs = 1,
    /// Syncs fail with this errno.
    SyncErrno = 2,
    /// Syncs do nothing and say that they did.
    SyncLies = 3,
    /// Writes to files wait, in µs.
    WriteDelayUs = 4,
    /// Writes to files fail with this errno.
    WriteErrno = 5,
    /// Added to the wall clock, in ns.
    WallOffsetNs = 6,
    /// The wall clock's error of rate, in millionths.
    WallDriftPpm = 7,
    /// The monotonic clock when that began.
    WallDriftSinceNs = 8,
}

/// What the shim did, by its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Syncs that waited.
    SyncsDelayed = 9,
    /// Syncs that failed.
    SyncsFailed = 10,
    /// Syncs that lied.
    SyncsLied = 11,
    /// Writes that waited.
    WritesDelayed = 12,
    /// Writes that failed.
    WritesFailed = 13,
}

/// One node's orders.
#[derive(Debug)]
pub struct Orders {
    path: PathBuf,
    file: File,
}

impl Orders {
    /// A file that orders nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let open = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = open.with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(FIELDS * 8)?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Orders something from now on; 0 takes it back.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set(&self, order: Order, value: u64) -> io::Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), order as u64 * 8)
    }

    /// Orders syncs to take so much longer.
    ///
    /// # Errors
    /// As [`Orders::set`].
    pub fn delay_syncs(&self, by: Duration) -> io::Result<()> {
        self.set(Order::SyncDelayUs, by.as_micros() as u64)
    }

    /// Moves the wall clock by so many ns from the truth.
    ///
    /// # Errors
    /// As [`Orders::set`].
    pub fn wall_offset(&self, ns: i64) -> io::Result<()> {
        self.set(Order::WallOffsetNs, ns.cast_unsigned())
    }

    /// Lets the wall clock run away from the truth from now on, by so many millionths; 0 brings it back.
    ///
    /// # Errors
    /// As [`Orders::set`].
    pub fn wall_drift(&self, ppm: i64) -> io::Result<()> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ns = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        self.set(Order::WallDriftPpm, 0)?;
        self.set(Order::WallDriftSinceNs, now_ns.cast_unsigned())?;
        self.set(Order::WallDriftPpm, ppm.cast_unsigned())
    }

    /// How often the shim did it since the file was made.
    pub fn count(&self, done: Done) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, done as u64 * 8).map_or(0, |()| u64::from_ne_bytes(bytes))
    }
}

/// The built library: beside the binary under test, or among what cargo built for the tests; the newer one.
///
/// # Errors
/// If it is nowhere: with the command that builds it.
pub fn library() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let beside = own.parent().context("this program lies in no folder")?;
    let profile = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let candidates = [profile.join("libsteersman_shim.so"), profile.join("deps/libsteersman_shim.so")];
    let newest = candidates.iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    let Some((_, path)) = newest else {
        bail!("there is no {}: build it with `cargo build -p steersman-shim`", candidates[0].display());
    };
    Ok(path.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    /// Seconds since 1970, as a process sees them.
    fn clock_of(orders: &Orders) -> i64 {
        let mut command = Command::new("date");
        command.arg("+%s").env("LD_PRELOAD", library().unwrap()).env(VARIABLE, orders.path());
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn dd(orders: &Orders, to: &Path) -> (bool, String) {
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=1k", "count=2", "conv=fsync"]).arg(format!("of={}", to.display()));
        let output = command.env("LD_PRELOAD", library().unwrap()).env(VARIABLE, orders.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_process_sees_the_clock_that_was_ordered() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::create(&folder.path().join("orders")).unwrap();
        let now =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
        assert!((clock_of(&orders) - now()).abs() <= 5);
        orders.wall_offset(-3_600 * 1_000_000_000).unwrap();
        assert!((clock_of(&orders) - now() + 3_600).abs() <= 5);
        orders.wall_offset(0).unwrap();
        // A million times too fast: a millisecond is a quarter of an hour.
        orders.wall_drift(1_000_000 * 1_000_000).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock_of(&orders) - now() > 900);
        orders.wall_drift(0).unwrap();
        assert!((clock_of(&orders) - now()).abs() <= 5);
    }

    #[test]
    fn syncs_and_writes_do_what_was_ordered() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::create(&folder.path().join("orders")).unwrap();
        let file = folder.path().join("file");
        assert!(dd(&orders, &file).0);
        orders.set(Order::SyncErrno, nix::errno::Errno::EIO as u64).unwrap();
        let (fine, said) = dd(&orders, &file);
        assert!(!fine && said.contains("Input/output error"), "{said}");
        orders.set(Order::SyncErrno, 0).unwrap();
        orders.set(Order::SyncLies, 1).unwrap();
        orders.delay_syncs(Duration::from_millis(120)).unwrap();
        let began = std::time::Instant::now();
        assert!(dd(&orders, &file).0 && began.elapsed() >= Duration::from_millis(120));
        orders.set(Order::WriteErrno, nix::errno::Errno::ENOSPC as u64).unwrap();
        // Standard streams, to which dd writes, are spared; this one opens its file and calls write(2) itself.
        let script = r#"open(F, ">", $ARGV[0]); defined(syswrite(F, "x")) or die "$!\n""#;
        let mut command = Command::new("perl");
        command.args(["-e", script]).arg(&file).env("LD_PRELOAD", library().unwrap());
        let output = command.env(VARIABLE, orders.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("No space left"), "{said}");
        let counts = [Done::SyncsFailed, Done::SyncsLied, Done::SyncsDelayed, Done::WritesFailed];
        assert_eq!(counts.map(|done| orders.count(done) > 0), [true; 4]);
    }
}

//! A file system of its own for one master, on a loop device: it can lose its power and it can be full.
//!
//! What always holds: it is mounted only in the bed's own mount namespace, so that it is gone, with its loop device, when the bed
//! and its processes are; its image is deleted with the value unless it is to be kept. A power loss drops whatever was not synced to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::place::Place;

/// Sparse: what is used is a fraction.
const BYTES: u64 = 512 << 20;
/// What fills a disk.
const FILLER: &str = "filler";
/// A process that was killed may hold its files a moment longer.
const BUSY: Duration = Duration::from_secs(10);

/// One file system.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    mounts: Place,
    keep: Arc<AtomicBool>,
}

impl Disk {
    /// Makes and mounts one at `mount_point`, in the mount namespace of `mounts`. Its image, `mount_point` with `.img`, is
    /// deleted at its end unless `keep` says otherwise then.
    ///
    /// # Errors
    /// If there is no loop device to be had, or no `mkfs.ext4`, or no right to mount.
    pub fn make(mount_point: &Path, mounts: &Place, keep: Arc<AtomicBool>) -> Result<Self> {
        fs::create_dir_all(mount_point)?;
        let image = mount_point.with_extension("img");
        File::create(&image)?.set_len(BYTES)?;
        let disk = Self { image, mount_point: mount_point.to_owned(), mounts: mounts.clone(), keep };
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        disk.mounts.run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", lazy, &disk.image.to_string_lossy()])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    fn mount(&self) -> Result<()> {
        let (image, point) = (self.image.to_string_lossy(), self.mount_point.to_string_lossy());
        self.mounts.run("mount", &["-o", "loop,noatime", &image, &point])
    }

    fn unmount(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.mounts.run("umount", &[&self.mount_point.to_string_lossy()]) {
                Err(error) if began.elapsed() > BUSY => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// The power goes. From now on nothing is written any more; what reads find is undefined.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn power_off(&self) -> Result<()> {
        self.mounts.within(|| super::ioctls::power_off(&self.mount_point))?.context("cannot take the power from a disk")
    }

    /// The power comes back: the file system as it is after its journal was replayed. Everything that used it must be dead.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn power_on(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Fills it to the last block.
    ///
    /// # Errors
    /// If something else than space is missing.
    pub fn fill(&self) -> Result<()> {
        let path = self.mount_point.join(FILLER);
        let filled = self.mounts.within(|| fill(&path))?;
        filled.with_context(|| format!("cannot fill {}", self.mount_point.display()))
    }

    /// Frees what filled it.
    ///
    /// # Errors
    /// If that cannot be deleted.
    pub fn free(&self) -> Result<()> {
        let path = self.mount_point.join(FILLER);
        Ok(self.mounts.within(|| fs::remove_file(&path))??)
    }
}

fn fill(path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    let (mut end, mut piece) = (0, BYTES);
    // Ever smaller pieces, until not even a block is left.
    while piece >= 1_024 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            Err(rustix::io::Errno::NOSPC) => piece /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If somebody still holds a file there, the namespace's end unmounts it.
        let _ = self.mounts.run("umount", &[&self.mount_point.to_string_lossy()]);
        if !self.keep.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.image);
        }
        let _ = fs::remove_dir(&self.mount_point);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use super::*;

    fn disk(test: &str, folder: &Path) -> Option<Disk> {
        let made = Place::default()
            .with_new_mounts()
            .and_then(|mounts| Disk::make(&folder.join("disk"), &mounts, Arc::default()));
        made.inspect_err(|error| eprintln!("SKIPPED {test}: {error:#}")).ok()
    }

    #[test]
    fn p01_a_power_loss_takes_what_was_not_synced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = disk("p01_a_power_loss_takes_what_was_not_synced_and_nothing_else", folder.path()) else {
            return;
        };
        let path = |name: &str| disk.path().join(name);
        let write = |name: &str, sync: bool| {
            let mut file = File::create(path(name)).unwrap();
            file.write_all(b"said").unwrap();
            if sync {
                file.sync_all().unwrap();
                File::open(disk.path()).unwrap().sync_all().unwrap();
            }
        };
        disk.mounts.within(|| write("synced", true)).unwrap();
        disk.mounts.within(|| write("unsynced", false)).unwrap();
        disk.power_off().unwrap();
        assert!(disk.mounts.within(|| File::create(path("later")).is_err()).unwrap(), "no power, no writes");
        disk.power_on().unwrap();
        let read = |name: &str| disk.mounts.within(|| fs::read(path(name)).ok()).unwrap();
        assert_eq!(read("synced").as_deref(), Some(&b"said"[..]));
        assert_ne!(read("unsynced").as_deref(), Some(&b"said"[..]), "it was never synced");
        assert!(fs::read_dir(disk.path()).unwrap().next().is_none(), "nothing of it is mounted out here");
    }

    #[test]
    fn a_full_disk_takes_nothing_more_until_it_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = disk("a_full_disk_takes_nothing_more_until_it_is_freed", folder.path()) else { return };
        let write = || fs::write(disk.path().join("file"), [7; 8_192]);
        disk.fill().unwrap();
        let error = disk.mounts.within(write).unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.free().unwrap();
        disk.mounts.within(write).unwrap().unwrap();
    }
}

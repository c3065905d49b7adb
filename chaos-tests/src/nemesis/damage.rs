//! Damaged data: bits that flip and files that are cut short while a master is down.
//!
//! What always holds: the master that finds damage must stop with its named exit code, or take part as if nothing was;
//! in either case it is replaced in the end, as `docs/operations.md` tells operators, for its disk is not to be trusted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::undo::Undo;
use super::{Class, Done, Skipped, aim, broken};
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::operator::last_words;

/// Flips in one go: one alone usually hits nothing that is read.
const FLIPS: std::ops::Range<u32> = 1..64;

/// Kills a master, damages its data, starts it, and sees what it makes of that.
pub(super) async fn damage(bed: &mut Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    bed.cluster().kill_master(id);
    let master = bed.cluster().master(id);
    let data = master.data();
    let how =
        master.process.place().within(|| if class == Class::BitFlip { flip(&data, dice) } else { cut(&data, dice) });
    let how = match how.flatten() {
        Ok(how) => how,
        Err(error) => {
            let _ = bed.start_if_down(id);
            return Err(Skipped::Unable(format!("cannot damage the data of master {id}: {error}")));
        }
    };
    let (harm, undo) = (Harm::masters([id]), vec![Undo::Replace(id)]);
    match outcome(bed, class, id).await {
        Ok(seen) => {
            let target = format!("master {id}, {how}: {seen}");
            Ok(Done { target, harm, undo, at_least: Duration::from_secs(1) })
        }
        Err(what) => Err(broken(bed, class, (harm, undo), format!("master {id}, {how}: {what}")).await),
    }
}

/// What the master does with it.
async fn outcome(bed: &mut Bed, class: Class, id: u64) -> Result<String, String> {
    bed.start_if_down(id).map_err(|error| format!("{error:#}"))?;
    let began = std::time::Instant::now();
    loop {
        if let Some(ended) = bed.cluster().master(id).process.try_ended() {
            return match ended.code {
                Some(code) if class.explains(&ended) => Ok(format!("refused with exit code {code}")),
                _ => Err(last_words(&ended)),
            };
        }
        if bed.cluster().info_of(id).await.is_some_and(|info| info.ready) {
            return Ok("it takes part".to_owned());
        }
        if began.elapsed() > crate::PATIENCE {
            return Err("it neither takes part nor ends".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Files with something in them, in order of their paths. The lock says nothing.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, facts) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if facts.is_dir() {
                folders.push(path);
            } else if facts.len() > 0 && path.file_name().is_some_and(|name| name != "lock") {
                found.push((path, facts.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn pick(folder: &Path, dice: &mut StdRng) -> io::Result<(PathBuf, u64, String)> {
    let files = files(folder)?;
    // Mostly the largest: that is the log.
    let largest = files.iter().max_by_key(|(_, bytes)| *bytes);
    let file = if dice.random_bool(0.6) { largest } else { files.choose(dice) };
    let (path, bytes) = file.ok_or_else(|| io::Error::other("there are no files"))?;
    let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
    Ok((path.clone(), *bytes, name))
}

fn flip(folder: &Path, dice: &mut StdRng) -> io::Result<String> {
    let (path, bytes, name) = pick(folder, dice)?;
    let file = File::options().read(true).write(true).open(path)?;
    let flips = dice.random_range(FLIPS);
    for _ in 0..flips {
        let (at, bit) = (dice.random_range(0..bytes), dice.random_range(0..8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    }
    file.sync_all()?;
    Ok(format!("{flips} flipped bits in {name}"))
}

fn cut(folder: &Path, dice: &mut StdRng) -> io::Result<String> {
    let (path, bytes, name) = pick(folder, dice)?;
    let left = dice.random_range(0..bytes);
    let file = File::options().write(true).open(path)?;
    file.set_len(left)?;
    file.sync_all()?;
    Ok(format!("{name} cut from {bytes} to {left} bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn damage_changes_one_file_and_never_the_lock() {
        let (folder, mut dice) = (tempfile::tempdir().unwrap(), StdRng::seed_from_u64(5));
        fs::create_dir(folder.path().join("log")).unwrap();
        let write = || {
            for (name, bytes) in [("log/db", 9_000), ("identity", 90), ("lock", 10), ("empty", 0)] {
                fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
            }
        };
        let damaged = |name: &str, bytes| fs::read(folder.path().join(name)).unwrap() != vec![0; bytes];
        for damage in [flip, cut] {
            let mut hits = [0; 4];
            for _ in 0..40 {
                write();
                let told = damage(folder.path(), &mut dice).unwrap();
                let seen =
                    [damaged("log/db", 9_000), damaged("identity", 90), damaged("lock", 10), damaged("empty", 0)];
                assert!(seen.iter().filter(|hit| **hit).count() <= 1, "{told}");
                hits.iter_mut().zip(seen).for_each(|(count, hit)| *count += u32::from(hit));
            }
            assert!(hits[0] > 20 && hits[1] > 2 && hits[2..] == [0, 0], "{hits:?}");
        }
    }
}

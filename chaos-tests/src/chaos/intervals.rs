//! Interval logs: each attempt of a task that must not run twice at a time writes down when it began, that it lives, and when it
//! ended, on the one clock of the run.
//!
//! What always holds: one file per attempt, appended to by that attempt alone; a line that was cut off by a kill is passed over.
//! Whether attempts overlap is judged elsewhere.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use steersman_evidence::record::{Interval, Record};

use super::clock::boot_us;
use super::recorder::Recorder;

/// Between two signs of life: a tenth of the shortest time that leases leave between two attempts.
const SIGN_EVERY: Duration = Duration::from_millis(20);

/// What an attempt does: writes its log in `folder` for as long as `work`, then ends.
///
/// # Errors
/// If the log cannot be written.
pub fn live(folder: &Path, who: &Attempt, work: Duration) -> io::Result<()> {
    let name = format!("{}-{}-{}.log", who.task, who.token, who.worker);
    let mut log = File::options().create(true).append(true).open(folder.join(name))?;
    let began = boot_us();
    writeln!(log, "from {began}")?;
    let until = began + work.as_micros() as u64;
    while boot_us() < until {
        std::thread::sleep(SIGN_EVERY);
        writeln!(log, "alive {}", boot_us())?;
    }
    writeln!(log, "to {}", boot_us())
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Task.
    pub task: u64,
    /// Fencing token.
    pub token: u64,
    /// Name of the worker.
    pub worker: String,
}

/// Puts all logs of `folder` into the history. Returns how many there are.
///
/// # Errors
/// If they cannot be read.
pub fn fold(folder: &Path, recorder: &Recorder) -> Result<u64> {
    let mut files = 0;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        names.push(entry?.path());
    }
    names.sort();
    for path in names {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(interval) = attempt_of(&name).and_then(|who| interval(who, &text, |us| recorder.at(us))) {
            recorder.record(|_| Record::Interval(interval));
            files += 1;
        }
    }
    Ok(files)
}

fn attempt_of(name: &str) -> Option<Attempt> {
    let mut parts = name.splitn(3, '-');
    let (task, token) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Attempt { task, token, worker: parts.next()?.to_owned() })
}

/// What one log says, its times as `at` has them. None if it was killed before its first line was whole.
fn interval(who: Attempt, text: &str, at: impl Fn(u64) -> u64) -> Option<Interval> {
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let times = whole.filter_map(|line| {
        let (word, us) = line.trim_end().split_once(' ')?;
        Some((word, at(us.parse().ok()?)))
    });
    let times: Vec<(&str, u64)> = times.collect();
    let find = |wanted: &str| times.iter().find(|(word, _)| *word == wanted).map(|(_, us)| *us);
    let from_us = find("from")?;
    let seen_us = times.iter().map(|(_, us)| *us).max()?;
    let Attempt { task, token, worker } = who;
    Some(Interval { task, token, worker, exclusive: true, from_us, to_us: find("to"), seen_us })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_evidence::record::Run;

    use super::*;

    fn who() -> Attempt {
        Attempt { task: 3, token: 9, worker: "w-1".into() }
    }

    #[test]
    fn a_log_that_was_cut_off_says_when_it_was_last_seen() {
        let whole = interval(who(), "from 100\nalive 120\nto 130\n", |us| us).unwrap();
        assert_eq!((whole.from_us, whole.to_us, whole.seen_us), (100, Some(130), 130));
        let cut = interval(who(), "from 100\nalive 120\nalive 14", |us| us).unwrap();
        assert_eq!((cut.to_us, cut.seen_us), (None, 120));
        assert_eq!(interval(who(), "fro", |us| us), None);
    }

    #[test]
    fn what_an_attempt_writes_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history.jsonl");
        let recorder = Recorder::create(&history, Run::default()).unwrap();
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        live(&logs, &who(), Duration::from_millis(50)).unwrap();
        assert_eq!(fold(&logs, &recorder).unwrap(), 1);
        let text = fs::read_to_string(&history).unwrap();
        let record: Record = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let Record::Interval(interval) = record else { panic!("{text}") };
        assert_eq!((interval.task, interval.token, interval.worker.as_str()), (3, 9, "w-1"));
        assert!(interval.to_us.unwrap() >= interval.from_us + 50_000 && interval.seen_us == interval.to_us.unwrap());
    }
}

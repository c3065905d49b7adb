//! The recorder: everything that is seen in a run goes through it into one file of JSON lines.
//!
//! What always holds: an invocation is in the file before its call leaves; times never go back from line to line; each line is
//! written at once and whole, so that a runner that dies leaves a file that can be read. It judges nothing. A line that cannot be
//! written is remembered, and makes the run's verdict unknown.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use steersman_evidence::record::{Call, Complete, Invoke, Note, Outcome, Record, Run};

use super::clock::boot_us;

/// Writes the history of one run.
#[derive(Debug)]
pub struct Recorder {
    began_us: u64,
    lines: Mutex<Lines>,
    processes: AtomicU64,
    followers: AtomicU64,
}

#[derive(Debug)]
struct Lines {
    file: File,
    next_op: u64,
    counts: Counts,
    latest_us: u64,
    lost: Option<String>,
}

/// What was recorded so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were invoked, by kind.
    pub invoked: BTreeMap<&'static str, u64>,
    /// …that happened,
    pub ok: u64,
    /// …that surely did not,
    pub fail: u64,
    /// …of which nobody knows.
    pub unknown: u64,
}

impl Counts {
    /// All operations that were invoked.
    pub fn total(&self) -> u64 {
        self.invoked.values().sum()
    }
}

impl Recorder {
    /// Begins a file; its first line says what run this is.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, run: Run) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let lines = Lines { file, next_op: 1, counts: Counts::default(), latest_us: 0, lost: None };
        let lines = Mutex::new(lines);
        let recorder = Self { began_us: boot_us(), lines, processes: AtomicU64::new(0), followers: AtomicU64::new(0) };
        recorder.lock().write(&Record::Run(run));
        Ok(recorder)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.at(boot_us())
    }

    /// A boot time as this run's.
    pub fn at(&self, boot_us: u64) -> u64 {
        boot_us.saturating_sub(self.began_us)
    }

    /// A number for a logical client that nobody else has.
    pub fn new_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a follower of the event stream that nobody else has.
    pub fn new_follower(&self) -> u64 {
        self.followers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An operation begins. Returns its number.
    pub fn invoke(&self, process: u64, master: Option<u64>, call: Call) -> u64 {
        let mut lines = self.lock();
        let (op, at_us) = (lines.next_op, self.next_us(&mut lines));
        lines.next_op += 1;
        *lines.counts.invoked.entry(kind(&call)).or_default() += 1;
        lines.write(&Record::Invoke(Invoke { op, process, at_us, master, call }));
        op
    }

    /// And this came of it.
    pub fn complete(&self, op: u64, master: Option<u64>, outcome: Outcome) {
        let mut lines = self.lock();
        let counter = match &outcome {
            Outcome::Ok { .. } => &mut lines.counts.ok,
            Outcome::Fail { .. } => &mut lines.counts.fail,
            Outcome::Unknown { .. } => &mut lines.counts.unknown,
        };
        *counter += 1;
        let at_us = self.next_us(&mut lines);
        lines.write(&Record::Complete(Complete { op, at_us, master, outcome }));
    }

    /// Writes a record that needs to know the time of its line.
    pub fn record(&self, make: impl FnOnce(u64) -> Record) {
        let mut lines = self.lock();
        let at_us = self.next_us(&mut lines);
        lines.write(&make(at_us));
    }

    /// A line for whoever reads the timeline.
    pub fn note(&self, who: &str, text: impl Into<String>) {
        let (who, text) = (who.to_owned(), text.into());
        self.record(|at_us| Record::Note(Note { at_us, who, text }));
    }

    /// What was recorded so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// If any line was lost, or the file cannot be synced.
    pub fn finish(&self) -> Result<()> {
        let lines = self.lock();
        if let Some(lost) = &lines.lost {
            anyhow::bail!("the history has holes: {lost}");
        }
        lines.file.sync_all().context("cannot sync the history")
    }

    fn next_us(&self, lines: &mut Lines) -> u64 {
        lines.latest_us = lines.latest_us.max(self.now_us());
        lines.latest_us
    }
}

impl Lines {
    fn write(&mut self, record: &Record) {
        let written = serde_json::to_string(record).map_err(std::io::Error::from).and_then(|mut line| {
            line.push('\n');
            self.file.write_all(line.as_bytes())
        });
        if let Err(error) = written {
            self.lost.get_or_insert_with(|| error.to_string());
        }
    }
}

/// The word for a kind of operation, as in the file.
fn kind(call: &Call) -> &'static str {
    match call {
        Call::Submit { .. } => "submit",
        Call::Cancel { .. } => "cancel",
        Call::Read { stale: false, .. } => "read",
        Call::Read { stale: true, .. } => "stale read",
        Call::ReadWorkers {} => "read workers",
        Call::SetMode { .. } => "set mode",
        Call::Membership { .. } => "membership",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    #[test]
    fn many_threads_leave_whole_lines_whose_operations_and_times_rise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Arc::new(Recorder::create(&path, Run::default()).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|process| {
                let recorder = recorder.clone();
                std::thread::spawn(move || {
                    for task in 0..50 {
                        let op = recorder.invoke(process, None, Call::Read { task, stale: false });
                        recorder.complete(op, None, Outcome::Fail { error: "no".into() });
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        recorder.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((records.len(), recorder.counts().total(), recorder.counts().fail), (801, 400, 400));
        let invoked = |record: &Record| match record {
            Record::Invoke(invoke) => Some((invoke.op, invoke.at_us)),
            _ => None,
        };
        let invoked: Vec<(u64, u64)> = records.iter().filter_map(invoked).collect();
        assert!(invoked.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }
}

//! The audit: digests of the state at equal log indexes, and whether state, log and snapshot are what they should be.
//!
//! What always holds: an `Audit` in the log makes every master take the digest of its state as it stands after that very
//! entry; apply only takes a copy-on-write image, the rest runs on a lane of the disk. Looking changes nothing, repairs
//! nothing and stops nobody: who disagrees with whom is the master's to find out. A purge or a truncation that overtakes
//! a look at the log is no finding.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use steersman_state::{Batch, Command, Image, Violation};
use tokio::sync::watch;

use crate::disk::{Disk, Keys, Lane};
use crate::error::StoreError;
use crate::log::{Shared, scan_entries};
use crate::record::{self, RecordError, Seal, entry_from_parts};
use crate::snapshot::read_snapshot;
use crate::types::LogId;
use crate::{Control, keys, offload};

/// Digests that are remembered: an operator's audit and the leader's own may run at the same time.
const KEPT: usize = 16;
/// Images that wait for their digest. Each keeps copies of what changes meanwhile; a replay after a restart makes many.
const WAITING_MAX: usize = 4;
/// Entries that one step of a look at the log reads, so that replication never waits long for the lane.
const LOOK_ENTRIES: u64 = 1_024;
/// A log that is truncated again and again while it is looked at: that many times is enough.
const LOOKS_MAX: usize = 3;

/// The state of one master at the index of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audited {
    /// Where in the log.
    pub index: u64,
    /// [`steersman_state::State::digest`].
    pub digest: u128,
}

/// What was found in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFindings {
    /// The first index that is kept.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Where the newest snapshot stands; 0 without one.
    pub snapshot: u64,
    /// Entries that were read from disk and checked.
    pub checked: u64,
}

/// Whether a batch asks for an audit.
pub(crate) fn asks(batch: &Batch) -> bool {
    batch.commands.iter().any(|envelope| envelope.command == Command::Audit)
}

/// The last digests.
pub(crate) struct Audits {
    kept: watch::Sender<VecDeque<Audited>>,
    waiting: AtomicUsize,
}

impl Audits {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { kept: watch::Sender::new(VecDeque::new()), waiting: AtomicUsize::new(0) })
    }

    /// Has the digest computed, unless too many wait for theirs already.
    pub fn take(self: &Arc<Self>, disk: &Arc<dyn Disk>, image: Image) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return tracing::warn!(index = image.applied_index(), "no digest: too many audits at a time");
        }
        let audits = self.clone();
        let job = move || {
            let audited = Audited { index: image.applied_index(), digest: image.digest() };
            drop(image);
            audits.waiting.fetch_sub(1, Ordering::Relaxed);
            audits.kept.send_modify(|kept| {
                kept.push_back(audited);
                kept.drain(..kept.len().saturating_sub(KEPT));
            });
        };
        disk.offload(Lane::Snapshot, Box::new(job));
    }
}

impl Control {
    /// The digests of the last audits, oldest first, with every new one.
    pub fn audits(&self) -> watch::Receiver<VecDeque<Audited>> {
        self.machine.audits.kept.subscribe()
    }

    /// This master's state is not the others': the store fails, so that nothing more is acknowledged and the process ends.
    pub fn condemn(&self, why: String) {
        self.shared.health.fail(&StoreError::Invariant(why));
    }

    /// Checks all invariants of the state as it stands now, while it goes on. Returns the index at which it was looked at.
    ///
    /// # Errors
    /// What does not hold; or the store is closed.
    pub async fn check_state(&self) -> Result<u64, StoreError> {
        let inspection = self.machine.state.read().inspection();
        let index = inspection.applied_index();
        let broken = |Violation(what)| StoreError::Invariant(what);
        let job = move || inspection.check().map(|()| index).map_err(broken);
        offload(&self.shared.disk, Lane::Transfer, job).await
    }

    /// Reads the newest snapshot whole, as a restart would, and returns where it stands; 0 if there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check_snapshot(&self) -> Result<u64, StoreError> {
        let machine = self.machine.clone();
        let job = move || {
            let Some(newest) = machine.current()? else { return Ok(0) };
            let (header, ..) = read_snapshot(newest.snapshot.reader()?)?;
            Ok(header.last.map_or(0, |(_, index)| index))
        };
        offload(&self.shared.disk, Lane::Transfer, job).await
    }

    /// Checks that the log goes on where the snapshot ends and is known as far as it is committed; `deep` also reads every
    /// kept entry from disk: its checksum, its place, and that terms do not fall.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn check_log(&self, deep: bool) -> Result<LogFindings, StoreError> {
        let mut findings = self.look_at_bounds()?;
        for _ in 0..LOOKS_MAX {
            if !deep {
                break;
            }
            match look(&self.shared).await {
                Ok(Some(checked)) => return Ok(LogFindings { checked, ..findings }),
                Ok(None) => findings = self.look_at_bounds()?,
                Err(error) => return Err(error),
            }
        }
        Ok(findings)
    }

    fn look_at_bounds(&self) -> Result<LogFindings, StoreError> {
        // In this order: the snapshot and the end only grow, so what is read later cannot lag behind.
        let (committed, purged) = {
            let memory = self.shared.memory.lock();
            (memory.committed.as_ref().map(LogId::index), memory.purged.as_ref().map(LogId::index))
        };
        let snapshot = self.machine.snapshot_index();
        let last = self.shared.memory.lock().last.as_ref().map(LogId::index).max(snapshot);
        let place = || self.shared.disk.place();
        if purged > snapshot {
            let problem = format!("the log was purged up to {purged:?}, the snapshot ends at {snapshot:?}");
            return Err(StoreError::corrupt(place(), problem));
        }
        if committed > last {
            return Err(StoreError::corrupt(
                place(),
                format!("committed up to {committed:?}, the log ends at {last:?}"),
            ));
        }
        let first = purged.map_or(0, |purged| purged + 1);
        Ok(LogFindings { first, last: last.unwrap_or(0), snapshot: snapshot.unwrap_or(0), checked: 0 })
    }
}

/// Reads what is on disk, from the first kept entry to the seal. `None` if the log was truncated meanwhile.
async fn look(shared: &Arc<Shared>) -> Result<Option<u64>, StoreError> {
    let keys = shared.keys.read().clone().ok_or(StoreError::Closed)?;
    let (truncations, start) = shared.memory.lock().bounds();
    let on_disk = keys.clone();
    let seal = offload(&shared.disk, Lane::Read, move || read_seal(&*on_disk)).await?;
    let (mut next, mut last, mut checked) = (start, None, 0);
    while next < seal.end {
        let range = next..seal.end.min(next + LOOK_ENTRIES);
        let (keys, from) = (keys.clone(), range.clone());
        let found = offload(&shared.disk, Lane::Read, move || read_piece(&*keys, from, last)).await;
        let (truncated, start) = shared.memory.lock().bounds();
        if truncated != truncations {
            return Ok(None);
        }
        next = range.end;
        match found {
            Ok((entries, end)) => (checked, last) = (checked + entries, end),
            // Purged while it was read: the rest is looked at.
            Err(_) if start > range.start => (next, last) = (start.max(range.start), None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(checked))
}

fn read_seal(keys: &dyn Keys) -> Result<Seal, StoreError> {
    let sealed = keys.get(&keys::meta(keys::SEAL)).map_err(|error| StoreError::disk("read", "log", error))?;
    let seal = sealed.map(|bytes| record::open(keys::SEAL, &bytes)).transpose();
    Ok(seal.map_err(|error| error.at("log"))?.unwrap_or_default())
}

/// Entries of `range` that are there whole and in order, and the id of the last.
fn read_piece(keys: &dyn Keys, range: Range<u64>, mut last: Option<LogId>) -> Result<(u64, Option<LogId>), StoreError> {
    let mut next = range.start;
    scan_entries(keys, range.clone(), &mut |index, parts| {
        let place = || format!("log entry {index}");
        if index != next {
            return Err(RecordError::Damaged("it is missing".into()).at(format!("log entry {next}")));
        }
        let entry = entry_from_parts(index, &parts).map_err(|error| error.at(place()))?;
        if last.is_some_and(|last| last > entry.log_id) {
            return Err(StoreError::corrupt(place(), "its term is older than the one before"));
        }
        (last, next) = (Some(entry.log_id), index + 1);
        Ok(true)
    })?;
    if next < range.end {
        return Err(RecordError::Damaged("it is missing".into()).at(format!("log entry {next}")));
    }
    Ok((next - range.start, last))
}

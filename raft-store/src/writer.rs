//! The one writer of the log: it drains the queue, writes one batch, syncs it to the device, and only then tells anybody.
//!
//! What always holds: operations are written in the order in which they came; no callback fires before a sync that began
//! after its data was written; the seal (where the log ends) is in the same batch as what moves it, so that at a restart
//! everything below the seal must be there and everything above it was never acknowledged. Before the first vote or entry
//! is durable, the identity file says that the directory is in use. After an error nothing is written any more and every
//! waiter gets that error.
//!
//! The witness is a second, unsynced note of the last synced seal, outside of sled: it shows a database that came back
//! older than it was. A purge is a marker first; the keys go later, a few with each batch and many when there is nothing
//! else to do, because deletes are slow in sled.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::disk::{DiskLock, KeyBatch, Keys};
use crate::error::StoreError;
use crate::identity::Identity;
use crate::keys;
use crate::log::Shared;
use crate::metrics::Metrics;
use crate::record::{self, Point, Seal, VoteRecord, entry_parts};
use crate::types::{Entry, IoFlushed, LogId, Vote};

/// Operations that share one sync at most: bounds the wait of the first.
const BATCH_OPS_MAX: usize = 4096;
/// Bytes that share one sync at most, as far as whole operations allow.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Keys that an idle writer deletes at a time: about 2 ms in sled.
const PURGE_IDLE: usize = 256;
/// Keys that are deleted along with a batch, besides twice its entries, so that a busy writer falls behind never.
const PURGE_BUSY: usize = 16;
/// A committed index waits so long for a batch to travel with. One that comes even later waits for the next batch.
const COMMITTED_IDLE: Duration = Duration::from_millis(100);

/// A read that is under way when the store closes gets so long to end.
const READERS_END: Duration = Duration::from_secs(5);

/// Tells whether it is done.
pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

/// Entries on their way to the disk.
pub(crate) struct Append {
    pub op: u64,
    pub entries: Vec<Entry>,
    pub bytes: u64,
    pub since: Instant,
    pub done: IoFlushed,
}

/// What the writer is asked for.
pub(crate) enum Op {
    Append(Append),
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Removes the entries from this index on.
    Truncate {
        from: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
    },
    /// The cluster that this directory belongs to from now on.
    Bind {
        cluster: String,
        done: Option<Done>,
    },
    /// Nothing but a sync, to see whether the disk still writes.
    Canary {
        done: Done,
    },
    Close {
        done: Done,
    },
}

/// Whom to tell once a batch is on the device.
enum Waiter {
    Append(Append),
    Done(Done),
}

/// What recovery found, and the writer goes on from.
#[derive(Default)]
pub(crate) struct Position {
    pub seal: Seal,
    /// Entries of several parts, and how many.
    pub multi: BTreeMap<u64, u16>,
    /// Purged entries whose keys are still there.
    pub purge: Range<u64>,
}

/// The writer's own state.
pub(crate) struct Writer {
    pub shared: Arc<Shared>,
    pub keys: Arc<dyn Keys>,
    pub identity: Identity,
    pub queue: mpsc::UnboundedReceiver<Op>,
    pub position: Position,
    pub lock: DiskLock,
    /// The committed index that was written last.
    pub committed: Option<LogId>,
    /// Where the log ended at the last sync.
    pub synced_end: u64,
    /// Batches were written since the writer was idle: what they committed may still have to be noted.
    pub unsettled: bool,
}

/// One batch in the making.
#[derive(Default)]
struct Work {
    batch: KeyBatch,
    waiters: Vec<Waiter>,
    operations: u64,
    entries: u64,
    /// Something in it must be on the device before anybody is told.
    sync: bool,
}

enum Next {
    Ops(Vec<Op>),
    Idle,
    End,
}

impl Writer {
    /// Works until the store is closed or nobody can ask for anything any more.
    pub async fn run(mut self) {
        let _alarm = Alarm(self.shared.clone());
        let mut closing = None;
        while closing.is_none() {
            match self.next().await {
                Next::Ops(ops) => closing = self.commit(ops).await,
                Next::Idle => self.tidy().await,
                Next::End => break,
            }
        }
        let ended = self.finish().await;
        if let Some(done) = closing {
            let _ = done.send(ended);
        }
    }

    async fn next(&mut self) -> Next {
        let first = match self.queue.try_recv() {
            Ok(op) => Some(op),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) if !self.position.purge.is_empty() => return Next::Idle,
            Err(TryRecvError::Empty) if self.unsettled => {
                match tokio::time::timeout(COMMITTED_IDLE, self.queue.recv()).await {
                    Ok(op) => op,
                    Err(_) => return Next::Idle,
                }
            }
            Err(TryRecvError::Empty) => self.queue.recv().await,
        };
        first.map_or(Next::End, |first| Next::Ops(self.drain(first)))
    }

    fn drain(&mut self, first: Op) -> Vec<Op> {
        let size = |op: &Op| if let Op::Append(append) = op { append.bytes } else { 0 };
        let mut bytes = size(&first);
        let mut ops = vec![first];
        while ops.len() < BATCH_OPS_MAX && bytes < BATCH_BYTES_MAX && !matches!(ops.last(), Some(Op::Close { .. })) {
            match self.queue.try_recv() {
                Ok(op) => {
                    bytes += size(&op);
                    ops.push(op);
                }
                Err(_) => break,
            }
        }
        ops
    }

    /// Writes, syncs, tells. Returns who asked to close, if somebody did.
    async fn commit(&mut self, ops: Vec<Op>) -> Option<Done> {
        self.shared.metrics.writing(Some(Instant::now()));
        let mut work = Work::default();
        let mut closing = None;
        let mut result = self.shared.health.check();
        for op in ops {
            if let Op::Close { done } = op {
                closing = Some(done);
            } else if let Err(error) = self.prepare(op, &mut work) {
                result = result.and(Err(error));
            }
        }
        if result.is_ok() {
            result = self.write(&mut work).await;
        }
        if let Err(error) = &result {
            self.shared.health.fail(error);
        }
        self.shared.metrics.writing(None);
        self.tell(work.waiters, &result);
        closing
    }

    fn prepare(&mut self, op: Op, work: &mut Work) -> Result<(), StoreError> {
        work.operations += 1;
        match op {
            Op::Append(append) => {
                let prepared = self.append(&append.entries, work);
                work.waiters.push(Waiter::Append(append));
                return prepared;
            }
            Op::Vote { vote, done } => {
                #[cfg(feature = "seeded-bugs")]
                if steersman_bugs::planted("vote-not-durable") {
                    drop(done.send(Ok(())));
                    return Ok(());
                }
                work.sync = true;
                work.batch.put(keys::meta(keys::VOTE), record::seal(keys::VOTE, &VoteRecord::from(&vote)));
                work.waiters.push(Waiter::Done(done));
            }
            Op::Truncate { from, done } => {
                self.truncate(from, work);
                work.waiters.push(Waiter::Done(done));
            }
            Op::Purge { upto } => self.purge(upto, work),
            Op::Bind { cluster, done } => {
                work.operations -= 1;
                let bound = self.identity.bind(&*self.shared.disk, &cluster);
                match done {
                    Some(done) => drop(done.send(bound)),
                    None => return bound,
                }
            }
            Op::Canary { done } => {
                work.operations -= 1;
                // An unused directory stays one: its first write says that it is in use.
                work.sync |= self.identity.in_use();
                work.waiters.push(Waiter::Done(done));
            }
            Op::Close { .. } => {}
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry], work: &mut Work) -> Result<(), StoreError> {
        for entry in entries {
            let index = entry.log_id.index();
            let parts = entry_parts(entry)?;
            if parts.len() > 1 {
                self.position.multi.insert(index, parts.len() as u16);
            }
            for (part, value) in parts.into_iter().enumerate() {
                work.batch.put(keys::part(index, part as u16), value);
            }
            self.position.seal.end = index + 1;
        }
        work.entries += entries.len() as u64;
        work.sync = true;
        Ok(())
    }

    /// The lowered seal comes first: even of a torn batch nothing above it would be believed.
    fn truncate(&mut self, from: u64, work: &mut Work) {
        let end = self.position.seal.end;
        self.position.seal.end = end.min(from);
        work.batch.put(keys::meta(keys::SEAL), record::seal(keys::SEAL, &self.position.seal));
        for index in from..end {
            self.delete(index, &mut work.batch);
        }
        work.sync = true;
    }

    fn purge(&mut self, upto: LogId, work: &mut Work) {
        let end = upto.index() + 1;
        let upper = end.min(self.position.seal.end);
        if self.position.purge.is_empty() {
            // Nothing is below what was purged before, and what was purged before is gone.
            let first = self.first_key(upper);
            self.position.purge = first..upper;
        } else {
            self.position.purge.end = upper;
        }
        self.position.seal.end = self.position.seal.end.max(end);
        work.batch.put(keys::meta(keys::PURGED), record::seal(keys::PURGED, &Point::from(&upto)));
        work.sync = true;
    }

    /// Index of the first entry that has a key.
    fn first_key(&self, upper: u64) -> u64 {
        let (from, to) = keys::all_entries();
        let mut first = upper;
        // An unreadable key is found again, and reported, by whoever needs its entry.
        let _ = self.keys.scan(&from, &to, &mut |key, _| {
            first = keys::parse_part(key).map_or(upper, |(index, _)| index);
            false
        });
        first.min(upper)
    }

    fn delete(&mut self, index: u64, batch: &mut KeyBatch) -> usize {
        let parts = self.position.multi.remove(&index).unwrap_or(1);
        (0..parts).for_each(|part| batch.delete(keys::part(index, part)));
        parts.into()
    }

    /// Deletes keys of purged entries, about so many.
    fn purge_some(&mut self, batch: &mut KeyBatch, keys: usize) {
        let mut deleted = 0;
        while deleted < keys
            && let Some(index) = self.position.purge.next()
        {
            deleted += self.delete(index, batch);
            Metrics::add(&self.shared.metrics.entries_purged, 1);
        }
    }

    async fn write(&mut self, work: &mut Work) -> Result<(), StoreError> {
        if !work.sync {
            return Ok(());
        }
        if !self.identity.in_use() {
            self.identity.mark_in_use(&*self.shared.disk)?;
        }
        self.position.seal.number += 1;
        work.batch.put(keys::meta(keys::SEAL), record::seal(keys::SEAL, &self.position.seal));
        self.unsettled = true;
        self.put_committed(&mut work.batch);
        let mut purged = KeyBatch::default();
        self.purge_some(&mut purged, PURGE_BUSY + 2 * work.entries as usize);
        work.batch.ops.append(&mut purged.ops);
        Metrics::add(&self.shared.metrics.entries_written, work.entries);
        self.put(std::mem::take(&mut work.batch))?;
        #[cfg(feature = "seeded-bugs")]
        if !self.position.seal.number.is_multiple_of(16) && steersman_bugs::planted("ack-before-sync") {
            return Ok(());
        }
        self.sync(work.operations).await?;
        self.synced_end = self.position.seal.end;
        let place = || format!("{}/witness", self.shared.disk.place());
        let noted = self.shared.disk.set_witness(self.position.seal.number);
        noted.map_err(|error| StoreError::disk("write", place(), error))
    }

    /// Notes what is committed, if it is news. A leader may commit what is not on its own disk yet: that has to wait.
    fn put_committed(&mut self, batch: &mut KeyBatch) {
        let committed = self.shared.memory.lock().committed.filter(|known| known.index() < self.synced_end);
        if let Some(point) = committed.filter(|_| committed > self.committed) {
            batch.put(keys::meta(keys::COMMITTED), record::seal(keys::COMMITTED, &Point::from(&point)));
            self.committed = committed;
        }
    }

    fn put(&self, batch: KeyBatch) -> Result<(), StoreError> {
        Metrics::add(&self.shared.metrics.written_bytes, batch.bytes() as u64);
        self.keys.write(batch).map_err(|error| self.error("write", error))
    }

    async fn sync(&self, operations: u64) -> Result<(), StoreError> {
        let began = Instant::now();
        self.keys.sync().await.map_err(|error| self.error("sync", error))?;
        self.shared.metrics.synced(began.elapsed(), operations);
        Ok(())
    }

    fn error(&self, what: &'static str, error: std::io::Error) -> StoreError {
        StoreError::disk(what, format!("{}/log", self.shared.disk.place()), error)
    }

    fn tell(&self, waiters: Vec<Waiter>, result: &Result<(), StoreError>) {
        let appends = waiters.iter().filter_map(|waiter| match waiter {
            Waiter::Append(append) => Some((append.op, append.bytes)),
            Waiter::Done(_) => None,
        });
        let (op, bytes) = appends.fold((0, 0), |(op, sum), (next, bytes)| (next.max(op), sum + bytes));
        self.shared.written(op, bytes);
        for waiter in waiters {
            match waiter {
                Waiter::Done(done) => drop(done.send(result.clone())),
                Waiter::Append(append) => {
                    self.shared.metrics.appended(append.since.elapsed());
                    append.done.io_completed(result.clone().map_err(Into::into));
                }
            }
        }
    }

    /// Nothing is waiting: what may be late is done now, without a sync.
    async fn tidy(&mut self) {
        let mut batch = KeyBatch::default();
        self.unsettled = false;
        self.put_committed(&mut batch);
        self.purge_some(&mut batch, PURGE_IDLE);
        if self.shared.health.check().is_err() {
            self.position.purge = 0..0;
        } else {
            self.shared.metrics.writing(Some(Instant::now()));
            if let Err(error) = self.put(batch) {
                self.shared.health.fail(&error);
            }
            self.shared.metrics.writing(None);
        }
        tokio::task::yield_now().await;
    }

    /// Leaves everything on the device and the directory free.
    async fn finish(mut self) -> Result<(), StoreError> {
        let mut result = self.shared.health.check();
        if result.is_ok() {
            let mut batch = KeyBatch::default();
            self.put_committed(&mut batch);
            result = self.put(batch);
        }
        if result.is_ok() {
            result = self.sync(0).await;
        }
        self.queue.close();
        while let Ok(op) = self.queue.try_recv() {
            refuse(op);
        }
        self.shared.keys.write().take();
        let waited = Instant::now();
        while Arc::strong_count(&self.keys) > 1 && waited.elapsed() < READERS_END {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Self { keys, lock, .. } = self;
        drop(keys);
        // Only now may another process come.
        drop(lock);
        result
    }
}

fn refuse(op: Op) {
    match op {
        Op::Append(append) => append.done.io_completed(Err(StoreError::Closed.into())),
        Op::Vote { done, .. }
        | Op::Truncate { done, .. }
        | Op::Bind { done: Some(done), .. }
        | Op::Canary { done }
        | Op::Close { done } => {
            let _ = done.send(Err(StoreError::Closed));
        }
        _ => {}
    }
}

/// If the writer dies, the node must.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.health.fail(&StoreError::Invariant("the log's writer panicked".to_owned()));
        }
        self.0.drained.notify_waiters();
    }
}

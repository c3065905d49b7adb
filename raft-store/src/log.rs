//! The log as openraft sees it: appends return before the sync, reads see them at once, everything else is the writer's.
//!
//! What always holds: the recent entries are in memory, and an entry leaves memory only after it was written, so a read
//! never misses one; memory changes and their operations are queued under one lock, in the same order; the disk is never
//! touched on the caller's thread. A read that raced with a truncation is done again.
//!
//! What openraft needs of the committed index: it is only a floor for the replay after a restart, so it may lag, but it
//! must never name an entry that the disk does not have. The writer takes it along with the next batch (or after a short idle
//! time) once that entry is on the device, and is neither woken nor made to sync for its sake.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _, stream};
use openraft::OptionalSend;
use openraft::alias::LeaderIdOf;
use openraft::errors::LeaderChanged;
use openraft::storage::{LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::disk::{Disk, Keys, Lane};
use crate::error::StoreError;
use crate::metrics::Metrics;
use crate::record::{RecordError, entry_from_parts};
use crate::types::{Entry, IoFlushed, LogId, TypeConfig, Vote};
use crate::writer::{Append, Op};
use crate::{keys, offload};

/// Bytes that may wait for the writer before appends wait too: a few hundred of its syncs.
const QUEUED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of entries that one limited read returns (one entry at least): fits a message to a peer.
const READ_BYTES_MAX: usize = 1 << 20;
/// What an entry costs in memory besides its batch.
const ENTRY_OVERHEAD: usize = 128;

/// Tells everybody that the store has stopped, and why. The first reason stays.
#[derive(Debug, Clone)]
pub struct Health(watch::Sender<Option<Arc<StoreError>>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// `Some` once the store has failed; it never recovers.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.0.subscribe()
    }

    pub(crate) fn fail(&self, error: &StoreError) {
        self.0.send_if_modified(|failed| {
            if failed.is_some() {
                return false;
            }
            tracing::error!(code = error.code(), %error, "the store has failed");
            *failed = Some(Arc::new(error.clone()));
            true
        });
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.0.borrow().as_deref().map_or(Ok(()), |error| Err(error.clone()))
    }
}

/// An entry in memory.
struct Recent {
    entry: Entry,
    bytes: usize,
    /// The operation that wrote it: it may be forgotten once that one is done.
    op: u64,
}

/// The log's memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Of the last entry, or what was purged if there is none.
    pub last: Option<LogId>,
    /// Where a log that was empty began. Always 0 in a running cluster; a recovery insists on it.
    first: u64,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    ops: u64,
    written: u64,
    truncations: u64,
}

impl Memory {
    pub fn new(vote: Option<Vote>, committed: Option<LogId>, purged: Option<LogId>, last: Option<LogId>) -> Self {
        Self { vote, committed, purged, last, ..Self::default() }
    }

    fn end(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.index() + 1)
    }

    fn start(&self) -> u64 {
        self.purged.as_ref().map_or(self.first, |purged| purged.index() + 1)
    }

    /// First index that is in memory; everything from there to the end is.
    fn recent_start(&self) -> u64 {
        self.recent.front().map_or(self.end(), |recent| recent.entry.log_id.index())
    }

    /// How often it was truncated, and where it begins.
    pub fn bounds(&self) -> (u64, u64) {
        (self.truncations, self.start())
    }

    fn next_op(&mut self) -> u64 {
        self.ops += 1;
        self.ops
    }

    fn push(&mut self, entry: Entry, bytes: usize, op: u64) -> Result<(), StoreError> {
        let index = entry.log_id.index();
        if self.last.is_some() && index != self.end() {
            return Err(StoreError::Invariant(format!("entry {} appended after {:?}", entry.log_id, self.last)));
        }
        if self.last.is_none() {
            self.first = index;
        }
        self.last = Some(entry.log_id);
        self.recent_bytes += bytes;
        self.recent.push_back(Recent { entry, bytes, op });
        Ok(())
    }

    /// Keeps what is before `end`.
    fn truncate(&mut self, last: Option<LogId>) {
        let end = last.as_ref().map_or(0, |last| last.index() + 1);
        while self.recent.back().is_some_and(|recent| recent.entry.log_id.index() >= end) {
            self.recent_bytes -= self.recent.pop_back().map_or(0, |recent| recent.bytes);
        }
        self.last = last.max(self.purged);
        self.truncations += 1;
    }

    fn purge(&mut self, upto: LogId) {
        while self.recent.front().is_some_and(|recent| recent.entry.log_id.index() <= upto.index()) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |recent| recent.bytes);
        }
        self.purged = Some(upto);
        if self.end() <= upto.index() {
            self.last = Some(upto);
        }
    }

    /// Operations up to `op` are written: forgets the oldest entries among them, as far as the budget asks for it.
    fn written(&mut self, op: u64, budget: usize) -> usize {
        self.written = self.written.max(op);
        while self.recent_bytes > budget && self.recent.front().is_some_and(|recent| recent.op <= self.written) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |recent| recent.bytes);
        }
        self.recent_bytes
    }

    /// Splits a range into what has to come from disk and what is here, at one moment.
    fn slice(&self, range: Range<u64>, budget: usize) -> Slice {
        let from = range.start.max(self.start());
        let to = range.end.min(self.end());
        let split = self.recent_start().clamp(from, to.max(from));
        let mut left = budget;
        let here = self.recent.iter().skip((split.saturating_sub(self.recent_start())) as usize);
        let here = here.take(to.saturating_sub(split) as usize).take_while(|recent| {
            let fits = left > 0;
            left = left.saturating_sub(recent.bytes);
            fits
        });
        let here = if to > split { here.map(|recent| recent.entry.clone()).collect() } else { Vec::new() };
        Slice { old: from..split, here, truncations: self.truncations }
    }
}

struct Slice {
    old: Range<u64>,
    here: Vec<Entry>,
    truncations: u64,
}

/// What the log's handles, its readers and its writer share.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub keys: RwLock<Option<Arc<dyn Keys>>>,
    pub memory: Mutex<Memory>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    pub queued_bytes: AtomicU64,
    pub drained: Notify,
    pub recent_bytes_max: usize,
}

impl Shared {
    fn keys(&self) -> Result<Arc<dyn Keys>, StoreError> {
        self.keys.read().clone().ok_or(StoreError::Closed)
    }

    /// The writer has done everything up to `op`.
    pub fn written(&self, op: u64, bytes: u64) {
        let recent = self.memory.lock().written(op, self.recent_bytes_max);
        self.metrics.recent_bytes.store(recent as u64, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.drained.notify_waiters();
    }

    async fn read(self: &Arc<Self>, range: Range<u64>, budget: usize) -> Result<Vec<Entry>, StoreError> {
        loop {
            let slice = self.memory.lock().slice(range.clone(), budget);
            if slice.old.is_empty() {
                return Ok(slice.here);
            }
            let (keys, old) = (self.keys()?, slice.old.clone());
            let job = move || read_entries(&*keys, old, budget);
            let found = offload(&self.disk, Lane::Read, job).await?;
            Metrics::add(&self.metrics.entries_read, found.entries.len() as u64);
            let (truncations, start) = {
                let memory = self.memory.lock();
                (memory.truncations, memory.start())
            };
            if truncations == slice.truncations {
                return self.join(found, slice, start);
            }
        }
    }

    /// Old entries and recent ones, without a hole. Only what was purged meanwhile may be missing at the beginning.
    fn join(&self, found: Found, slice: Slice, start: u64) -> Result<Vec<Entry>, StoreError> {
        let mut entries = found.entries;
        let purged = entries.iter().take_while(|entry| entry.log_id.index() < start).count();
        entries.drain(..purged);
        let mut expected = slice.old.start.max(start);
        for entry in &entries {
            if entry.log_id.index() != expected {
                return Err(self.missing(expected));
            }
            expected += 1;
        }
        if found.cut {
            return Ok(entries);
        }
        if expected < slice.old.end {
            return Err(self.missing(expected));
        }
        entries.extend(slice.here.into_iter().filter(|entry| entry.log_id.index() >= start));
        Ok(entries)
    }

    fn missing(&self, index: u64) -> StoreError {
        let error = StoreError::corrupt(self.disk.place(), format!("log entry {index} is missing"));
        self.health.fail(&error);
        error
    }

    /// Tells the watcher, and gives openraft what it wants.
    pub fn failed(&self, error: StoreError) -> io::Error {
        if !matches!(error, StoreError::Closed) {
            self.health.fail(&error);
        }
        error.into()
    }
}

struct Found {
    entries: Vec<Entry>,
    /// The budget ended the read, not the range.
    cut: bool,
}

fn read_entries(keys: &dyn Keys, range: Range<u64>, budget: usize) -> Result<Found, StoreError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let cut = scan_entries(keys, range, &mut |index, parts| {
        let place = || format!("log entry {index}");
        entries.push(entry_from_parts(index, &parts).map_err(|error| error.at(place()))?);
        bytes += parts.iter().map(Vec::len).sum::<usize>();
        Ok(bytes < budget)
    })?;
    Ok(Found { entries, cut })
}

/// Calls `each` with every entry of `range` that is on disk and the values of its keys, in order, until it returns false.
/// Returns whether it did.
pub(crate) fn scan_entries(
    keys: &dyn Keys,
    range: Range<u64>,
    each: &mut dyn FnMut(u64, Vec<Vec<u8>>) -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    let (from, to) = keys::entries(range);
    let mut open: Option<(u64, Vec<Vec<u8>>)> = None;
    let mut result = Ok(true);
    let scanned = keys.scan(&from, &to, &mut |key, value| {
        let Some((index, part)) = keys::parse_part(key) else {
            result = Err(RecordError::Damaged(format!("unknown key {key:02x?}")).at("log"));
            return false;
        };
        match &mut open {
            Some((current, parts)) if *current == index && usize::from(part) == parts.len() => {
                parts.push(value.to_vec());
            }
            _ if part != 0 => {
                result =
                    Err(RecordError::Damaged(format!("part {part} has no beginning")).at(format!("log entry {index}")));
            }
            _ => {
                let next = Some((index, vec![value.to_vec()]));
                if let Some((done, parts)) = std::mem::replace(&mut open, next) {
                    result = each(done, parts);
                    if !matches!(result, Ok(true)) {
                        open = None;
                    }
                }
            }
        }
        matches!(result, Ok(true))
    });
    scanned.map_err(disk_read)?;
    if let (Ok(true), Some((index, parts))) = (&result, open) {
        each(index, parts)?;
        return Ok(false);
    }
    result.map(|goes_on| !goes_on)
}

fn disk_read(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::InvalidData => StoreError::corrupt("log", error.to_string()),
        _ => StoreError::disk("read", "log", error),
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

/// Reads the log. Cheap to clone; sees everything that was appended.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    async fn entries(&self, range: Range<u64>, budget: usize) -> io::Result<Vec<Entry>> {
        self.shared.read(range, budget).await.map_err(|error| self.shared.failed(error))
    }

    /// The range in pieces of bounded size, so that a long one never is in memory at once.
    fn pieces(&self, range: Range<u64>) -> impl Stream<Item = io::Result<Entry>> + Send + 'static {
        let reader = self.clone();
        let pieces = stream::unfold(Some(range), move |range| {
            let reader = reader.clone();
            async move {
                let range = range?;
                let entries = match reader.entries(range.clone(), READ_BYTES_MAX).await {
                    Ok(entries) => entries,
                    Err(error) => return Some((vec![Err(error)], None)),
                };
                let next = entries.last()?.log_id.index() + 1;
                Some((entries.into_iter().map(Ok).collect(), (next < range.end).then_some(next..range.end)))
            }
        });
        pieces.flat_map(stream::iter)
    }

    fn check_leader(&self, leader: &LeaderIdOf<TypeConfig>) -> Result<(), LeaderChanged<TypeConfig>> {
        let vote = self.shared.memory.lock().vote;
        match vote {
            Some(vote) if vote.committed && vote.leader_id == *leader => Ok(()),
            other => Err(LeaderChanged::new(*leader, other)),
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<TypeConfig>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let checked = self.pieces(bounds(&range)).scan(false, move |ended, entry| {
            let item = match (&*ended, reader.check_leader(&leader)) {
                (true, _) => None,
                (false, Ok(())) => Some(entry.map_err(LeaderBoundedStreamError::from)),
                (false, Err(changed)) => Some(Err(changed.into())),
            };
            *ended = !matches!(item, Some(Ok(_)));
            std::future::ready(item)
        });
        // A range without entries says just as clearly that the leader has changed.
        let changed = self.check_leader(&leader).err();
        let tail = if changed.is_none() { checked.left_stream() } else { stream::empty().right_stream() };
        stream::iter(changed.map(|changed| Err(changed.into()))).chain(tail)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.pieces(bounds(&range))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.entries(bounds(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.memory.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start..end, READ_BYTES_MAX).await
    }
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    ops: mpsc::UnboundedSender<Op>,
}

impl LogStore {
    pub(crate) fn new(shared: Arc<Shared>, ops: mpsc::UnboundedSender<Op>) -> Self {
        Self { shared, ops }
    }

    fn queue(&self, op: Op) -> io::Result<()> {
        self.shared.health.check()?;
        self.ops.send(op).map_err(|_| StoreError::Closed.into())
    }

    async fn wait(done: oneshot::Receiver<Result<(), StoreError>>) -> io::Result<()> {
        Ok(done.await.map_err(|_| StoreError::Closed)??)
    }

    /// Waits while too much is queued: the disk is slower than the cluster.
    async fn make_room(&self) -> io::Result<()> {
        loop {
            let drained = self.shared.drained.notified();
            self.shared.health.check()?;
            if self.shared.queued_bytes.load(Ordering::Relaxed) < QUEUED_BYTES_MAX {
                return Ok(());
            }
            drained.await;
        }
    }

    fn append_now(&self, entries: Vec<Entry>, done: IoFlushed) -> io::Result<()> {
        let bytes = entries.iter().map(entry_bytes).sum::<usize>() as u64;
        let mut memory = self.shared.memory.lock();
        let op = memory.next_op();
        for entry in &entries {
            let pushed = memory.push(entry.clone(), entry_bytes(entry), op);
            pushed.map_err(|error| self.shared.failed(error))?;
        }
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue(Op::Append(Append { op, entries, bytes, since: tokio::time::Instant::now(), done }))
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => ENTRY_OVERHEAD + proposal.memory_bytes(),
        _ => ENTRY_OVERHEAD,
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.shared.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        {
            let mut memory = self.shared.memory.lock();
            memory.vote = Some(*vote);
            self.queue(Op::Vote { vote: *vote, done })?;
        }
        Self::wait(wait).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.shared.health.check()?;
        self.shared.memory.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.memory.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect::<Vec<_>>();
        self.make_room().await?;
        self.append_now(entries, callback)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        {
            let mut memory = self.shared.memory.lock();
            if memory.end() <= last_log_id.as_ref().map_or(0, |last| last.index() + 1) {
                return Ok(());
            }
            memory.truncate(last_log_id);
            let from = memory.end();
            self.queue(Op::Truncate { from, done })?;
        }
        Self::wait(wait).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut memory = self.shared.memory.lock();
        if memory.purged >= Some(log_id) {
            return Ok(());
        }
        memory.purge(log_id);
        self.queue(Op::Purge { upto: log_id })
    }
}

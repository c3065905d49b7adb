//! The log against a model that is a map, over random operations, reads, crashes and restarts.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use futures::StreamExt as _;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};
use proptest::prelude::*;
use steersman_raft_store::*;
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Op {
    /// So many entries of this size; in a new term if so.
    Append {
        count: u8,
        size: u16,
        new_term: bool,
    },
    Vote,
    /// So many entries from the end, of those that are not committed.
    Truncate(u8),
    /// This share of the committed ones, in 256ths.
    Commit(u8),
    Purge(u8),
    Read(u8, u8),
    /// Closed and opened again.
    Restart,
    /// Only on the twin: everything acknowledged stays.
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..20u8, prop_oneof![0..200u16, 8_000..20_000u16], any::<bool>())
            .prop_map(|(count, size, new_term)| Op::Append { count, size, new_term }),
        1 => Just(Op::Vote),
        2 => (1..12u8).prop_map(Op::Truncate),
        2 => any::<u8>().prop_map(Op::Commit),
        1 => any::<u8>().prop_map(Op::Purge),
        4 => any::<(u8, u8)>().prop_map(|(from, count)| Op::Read(from, count)),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    vote: Option<Vote>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    /// Purged entries: a purge that was not synced is undone by a crash.
    gone: BTreeMap<u64, Entry>,
    /// Index of the last committed entry.
    committed: Option<u64>,
    /// What the store must know of that: after a crash it may be less.
    saved: Option<u64>,
}

impl Model {
    fn next(&self) -> u64 {
        let purged = self.purged.map_or(0, |purged| purged.index() + 1);
        self.entries.keys().next_back().map_or(purged, |last| last + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn id(&self, index: u64) -> LogId {
        self.entries[&index].log_id
    }

    fn range(&self, from: u64, to: u64) -> Vec<Entry> {
        self.entries.range(from..to).map(|(_, entry)| entry.clone()).collect()
    }
}

struct Run {
    store: Store,
    model: Model,
    options: Options,
    disk: Box<dyn Fn() -> Arc<dyn Disk>>,
    twin: Option<MemDisk>,
}

impl Run {
    async fn step(&mut self, op: Op) {
        match op {
            Op::Append { count, size, new_term } => self.append(count.into(), size.into(), new_term).await,
            Op::Vote => {
                self.model.term += 1;
                let vote = Vote::new(self.model.term, 1);
                self.store.log.save_vote(&vote).await.unwrap();
                self.model.vote = Some(vote);
            }
            Op::Truncate(count) => self.truncate(count.into()).await,
            Op::Commit(share) => self.commit(share.into()).await,
            Op::Purge(share) => self.purge(share.into()).await,
            Op::Read(from, count) => self.read(from.into(), count.into()).await,
            Op::Restart => self.restart().await,
            Op::Crash => {
                if let Some(twin) = &self.twin {
                    twin.crash(CrashMode::LoseUnsynced);
                    self.reopen().await;
                    self.unpurge().await;
                    let saved = self.store.log.read_committed().await.unwrap().map(|id| id.index());
                    assert!(saved <= self.model.committed && saved >= self.model.purged.map(|id| id.index()));
                    self.model.saved = saved;
                }
            }
        }
    }

    async fn append(&mut self, count: u64, size: usize, new_term: bool) {
        self.model.term = self.model.term.max(1) + u64::from(new_term);
        let first = self.model.next();
        let entries = (first..first + count).map(|index| raw(self.model.term, index, &vec![index as u8; size]));
        let entries = entries.collect::<Vec<_>>();
        let wait = append_later(&mut self.store.log, entries.clone()).await;
        self.model.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index(), entry)));
        // Before and after the sync alike.
        self.check().await;
        wait.await.unwrap().unwrap();
    }

    async fn truncate(&mut self, count: u64) {
        let floor = self
            .model
            .committed
            .map_or(0, |committed| committed + 1)
            .max(self.model.purged.map_or(0, |id| id.index() + 1));
        let from = self.model.next().saturating_sub(count).max(floor);
        let after = from
            .checked_sub(1)
            .map(|last| self.model.entries.get(&last).map_or_else(|| self.model.purged.unwrap(), |entry| entry.log_id));
        self.store.log.truncate_after(after).await.unwrap();
        self.model.entries.split_off(&from);
        // A new leader's entries take the place of what was cut.
        self.model.term += 1;
    }

    async fn commit(&mut self, share: u64) {
        let first = self.model.committed.map_or(0, |committed| committed + 1);
        let open = self.model.next().saturating_sub(first);
        let Some(upto) = (first + open * share / 256).checked_sub(1).filter(|upto| *upto >= first) else { return };
        self.store.log.save_committed(Some(self.model.id(upto))).await.unwrap();
        self.model.committed = Some(upto);
        self.model.saved = Some(upto);
    }

    /// As openraft does: apply, build a snapshot, purge what it covers.
    async fn purge(&mut self, share: u64) {
        let (Some(first), Some(committed)) = (self.model.entries.keys().next().copied(), self.model.committed) else {
            return;
        };
        let Some(upto) =
            (first + (committed + 1).saturating_sub(first) * share / 256).checked_sub(1).filter(|upto| *upto >= first)
        else {
            return;
        };
        let id = self.model.id(upto);
        let blank = Entry { log_id: id, payload: openraft::EntryPayload::Blank };
        apply(&mut self.store.machine, vec![blank]).await.unwrap();
        build(&mut self.store.machine).await;
        self.store.log.purge(id).await.unwrap();
        let kept = self.model.entries.split_off(&(upto + 1));
        self.model.gone.extend(std::mem::replace(&mut self.model.entries, kept));
        self.model.purged = Some(id);
    }

    async fn unpurge(&mut self) {
        let purged = self.store.log.get_log_state().await.unwrap().last_purged_log_id;
        assert!(purged <= self.model.purged);
        let back = self.model.gone.split_off(&purged.map_or(0, |id| id.index() + 1));
        self.model.entries.extend(back);
        self.model.purged = purged;
    }

    async fn read(&mut self, from: u64, count: u64) {
        let mut reader = self.store.log.get_log_reader().await;
        let range = from..from + count;
        let expected = self.model.range(range.start, range.end);
        assert_eq!(reader.try_get_log_entries(range.clone()).await.unwrap(), expected);
        let streamed: Vec<_> = reader.entries_stream(range.clone()).await.map(Result::unwrap).collect().await;
        assert_eq!(streamed, expected);
        let limited = reader.limited_get_log_entries(range.start, range.end).await.unwrap();
        assert_eq!(limited, expected[..limited.len()]);
        assert_eq!(limited.is_empty(), expected.is_empty());
    }

    async fn restart(&mut self) {
        self.store.control.close().await.unwrap();
        self.reopen().await;
        let committed = self.store.log.read_committed().await.unwrap().map(|id| id.index());
        // The snapshots that purges rested on count, too.
        let known = self.model.saved.max(self.model.gone.keys().next_back().copied());
        assert!(
            committed >= known && committed <= self.model.committed,
            "{committed:?}: a clean end keeps the committed index {known:?}"
        );
    }

    async fn reopen(&mut self) {
        self.store = open_with((self.disk)(), self.options.clone()).await.unwrap();
    }

    async fn check(&mut self) {
        let state = self.store.log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.model.purged, self.model.last()));
        assert_eq!(all(&mut self.store.log).await, self.model.range(0, u64::MAX));
        let mut reader = self.store.log.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), self.model.vote);
    }
}

async fn run(ops: Vec<Op>, recent_bytes: usize, disk: Box<dyn Fn() -> Arc<dyn Disk>>, twin: Option<MemDisk>) {
    let options = Options { recent_bytes, ..options() };
    let store = open_with(disk(), options.clone()).await.unwrap();
    let mut run = Run { store, model: Model::default(), options, disk, twin };
    for op in ops {
        run.step(op).await;
        run.check().await;
    }
    run.restart().await;
    run.check().await;
    run.store.control.close().await.unwrap();
}

/// As many as `CASES` says, for a sweep.
fn cases(usual: u32) -> u32 {
    std::env::var("CASES").ok().map_or(usual, |cases| cases.parse().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_twin_behaves_like_a_map(ops in prop::collection::vec(op(), 1..40), recent in prop_oneof![Just(0), Just(50_000)]) {
        let disk = MemDisk::new();
        let twin = disk.clone();
        runtime().block_on(run(ops, recent, Box::new(move || Arc::new(disk.clone())), Some(twin)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sled_behaves_like_a_map(ops in prop::collection::vec(op(), 1..40), recent in prop_oneof![Just(0), Just(50_000)]) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        runtime().block_on(run(ops, recent, Box::new(move || Arc::new(RealDisk::new(&path))), None));
    }

    #[test]
    fn fjall_behaves_like_a_map(ops in prop::collection::vec(op(), 1..40), recent in prop_oneof![Just(0), Just(50_000)]) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_owned();
        let disk = move || -> Arc<dyn Disk> { Arc::new(RealDisk::new(&path).kept_by(Engine::Fjall)) };
        runtime().block_on(run(ops, recent, Box::new(disk), None));
    }
}

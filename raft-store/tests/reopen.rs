//! Crashes, damage and foreign data: what a store finds when it is opened again.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

use common::*;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};
use parking_lot::Mutex;
use steersman_raft_store::*;
use tempfile::TempDir;

/// What of a log can be seen from outside.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

async fn seen(store: &mut Store) -> Seen {
    let state = store.log.get_log_state().await.unwrap();
    let mut reader = store.log.get_log_reader().await;
    let entries = all(&mut store.log).await;
    Seen {
        vote: reader.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        last: state.last_log_id,
        entries: entries.into_iter().map(|entry| (entry.log_id.index(), entry)).collect(),
    }
}

/// One step of the workload that is cut.
#[derive(Clone)]
enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(LogId),
}

fn steps() -> Vec<Step> {
    let large = vec![7; 3 * PART_BYTES + 11];
    vec![
        Step::Vote(Vote::new(1, 1)),
        Step::Vote(Vote::new_committed(1, 1)),
        Step::Append(vec![membership(1, 0, &[1, 2, 3]), raw(1, 1, b"one")]),
        Step::Append((2..8).map(|index| raw(1, index, &[index as u8; 40])).collect()),
        Step::Committed(log_id(1, 4)),
        Step::Append(vec![raw(1, 8, &large), raw(1, 9, b"nine")]),
        Step::Vote(Vote::new_committed(2, 3)),
        Step::Truncate(Some(log_id(1, 7))),
        Step::Append(vec![raw(2, 8, b"eight again"), raw(2, 9, &large), raw(2, 10, b"ten")]),
        Step::Committed(log_id(2, 9)),
        Step::Append(vec![raw(2, 11, b"eleven")]),
        Step::Purge(log_id(1, 6)),
        Step::Append(vec![raw(2, 12, b"twelve")]),
    ]
}

impl Step {
    async fn run(&self, log: &mut LogStore) {
        match self.clone() {
            Self::Vote(vote) => log.save_vote(&vote).await.unwrap(),
            Self::Append(entries) => append(log, entries).await.unwrap(),
            Self::Truncate(after) => log.truncate_after(after).await.unwrap(),
            Self::Purge(upto) => log.purge(upto).await.unwrap(),
            Self::Committed(upto) => log.save_committed(Some(upto)).await.unwrap(),
        }
    }
}

/// Forks the disk after every write, in every way in which a crash could leave it there.
struct Cutter {
    disk: MemDisk,
    step: Mutex<usize>,
    cuts: Mutex<Vec<(usize, CrashMode, MemDisk)>>,
}

impl Probe for Cutter {
    fn wrote(&self, _batch: &KeyBatch) {
        let unsynced = self.disk.unsynced();
        let mut modes = vec![CrashMode::LoseUnsynced, CrashMode::KeepBatches(unsynced.len())];
        for (batches, changes) in unsynced.iter().enumerate() {
            modes.extend((0..*changes).map(|changes| CrashMode::Torn { batches, changes }));
        }
        let step = *self.step.lock();
        self.cuts.lock().extend(modes.into_iter().map(|mode| (step, mode, self.disk.fork(mode))));
    }
}

/// Runs the steps, each acknowledged before the next. Returns what was seen before each step and at the end, and the
/// disks of every cut. The snapshot that a purge rests on is there from the beginning.
async fn cut_everywhere() -> (Vec<Seen>, Vec<(usize, CrashMode, MemDisk)>) {
    let disk = MemDisk::new();
    let Store { mut machine, control, .. } = reopen(&disk).await.unwrap();
    apply(&mut machine, (0..7).map(|index| raw_blank(1, index)).collect()).await.unwrap();
    build(&mut machine).await;
    control.close().await.unwrap();

    let cutter = Arc::new(Cutter { disk: disk.clone(), step: Mutex::default(), cuts: Mutex::default() });
    let probed = Arc::new(Probed { disk: Arc::new(disk.clone()), probe: cutter.clone() });
    let mut store = open_with(probed, options()).await.unwrap();
    let mut history = vec![seen(&mut store).await];
    for (number, step) in steps().into_iter().enumerate() {
        *cutter.step.lock() = number;
        step.run(&mut store.log).await;
        history.push(seen(&mut store).await);
    }
    store.control.close().await.unwrap();
    let cuts = std::mem::take(&mut *cutter.cuts.lock());
    (history, cuts)
}

fn raw_blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Blank }
}

#[tokio::test]
async fn p01_a_store_cut_at_every_write_keeps_what_was_acknowledged() {
    let (history, cuts) = cut_everywhere().await;
    assert!(cuts.len() > 60, "only {} cuts", cuts.len());
    let mut torn_and_refused = 0;
    for (step, mode, disk) in cuts {
        let whole = !matches!(mode, CrashMode::Torn { .. });
        let opened = reopen(&disk).await;
        let mut store = match opened {
            Ok(store) => store,
            // sled's batches are atomic: a torn one that can't be told from damage may only be refused, by name.
            Err(error) if !whole => {
                assert_eq!(error.exit_code(), exit::CORRUPT_DATA, "{error}");
                torn_and_refused += 1;
                continue;
            }
            Err(error) => panic!("cut {mode:?} in step {step}: {error}"),
        };
        let found = seen(&mut store).await;
        // A purge is not waited for, so it may also still be unsynced in the step after it.
        let before = if step > 0 && matches!(steps()[step - 1], Step::Purge(_)) { step - 1 } else { step };
        let allowed = &history[before..=step + 1];
        if whole {
            assert!(allowed.contains(&found), "cut {mode:?} in step {step}: {found:?}");
        } else {
            never_less_than_acknowledged(&found, allowed, &format!("{mode:?} in step {step}"));
        }
        let now = goes_on(&mut store, &found).await;
        store.control.close().await.unwrap();
        let mut again = reopen(&disk).await.unwrap_or_else(|error| panic!("{mode:?} in step {step}, again: {error}"));
        assert_eq!(seen(&mut again).await, now, "{mode:?} in step {step}: what was written over the cut");
    }
    assert!(torn_and_refused < 20, "{torn_and_refused} torn batches were refused: recovery is too strict");
}

/// What was there before a step and still is after it must be there in the middle of it, too.
fn never_less_than_acknowledged(found: &Seen, allowed: &[Seen], what: &str) {
    assert!(allowed.iter().any(|seen| seen.vote == found.vote), "{what}: {:?}", found.vote);
    let (before, after) = (&allowed[0], &allowed[allowed.len() - 1]);
    for (index, entry) in &before.entries {
        if after.entries.get(index) == Some(entry) {
            assert_eq!(found.entries.get(index), Some(entry), "{what}: entry {index}");
        }
    }
    let known = |entry: &Entry| allowed.iter().any(|seen| seen.entries.values().any(|other| other == entry));
    assert!(found.entries.values().all(known), "{what}: an entry from nowhere");
}

/// A reopened store takes the next entry and a new vote. Returns what is to be seen then.
async fn goes_on(store: &mut Store, found: &Seen) -> Seen {
    let next = found.last.map_or(0, |last| last.index() + 1);
    append(&mut store.log, vec![raw(9, next, b"next")]).await.unwrap();
    store.log.save_vote(&Vote::new(9, 2)).await.unwrap();
    let now = seen(store).await;
    assert_eq!((now.last, now.vote), (Some(log_id(9, next)), Some(Vote::new(9, 2))));
    now
}

async fn a_clean_reopen_finds_everything_on(engine: Engine) {
    let dir = TempDir::new().unwrap();
    let open = || open_with(Arc::new(RealDisk::new(dir.path()).kept_by(engine)), options());
    let mut store = open().await.unwrap();
    apply(&mut store.machine, (0..7).map(|index| raw_blank(1, index)).collect()).await.unwrap();
    build(&mut store.machine).await;
    for step in steps() {
        step.run(&mut store.log).await;
    }
    let before = seen(&mut store).await;
    let committed = store.log.read_committed().await.unwrap();
    store.control.close().await.unwrap();
    drop(store);

    let mut store = open().await.unwrap();
    assert_eq!(seen(&mut store).await, before);
    assert_eq!(store.log.read_committed().await.unwrap(), committed);
    assert!(!store.is_blank());
    goes_on(&mut store, &before).await;
    store.control.close().await.unwrap();

    let other = Engine::ALL.into_iter().find(|other| *other != engine).unwrap();
    let error = open_with(Arc::new(RealDisk::new(dir.path()).kept_by(other)), options()).await.err().unwrap();
    assert_eq!(error.exit_code(), exit::FOREIGN_DATA);
    assert!(error.to_string().contains("a directory keeps its engine"), "{error}");
}

#[tokio::test]
async fn a_clean_reopen_finds_everything_on_sled() {
    a_clean_reopen_finds_everything_on(Engine::Sled).await;
}

#[tokio::test]
async fn a_clean_reopen_finds_everything_on_fjall() {
    a_clean_reopen_finds_everything_on(Engine::Fjall).await;
}

/// Not a test of its own: what [`sigkill_loses_no_acknowledged_entry_on`] runs as a process and kills.
#[tokio::test]
#[ignore = "a child process of another test"]
async fn child_that_appends() {
    let Ok(dir) = std::env::var("STEERSMAN_TEST_DIR") else { return };
    let engine = Engine::named(&std::env::var("STEERSMAN_TEST_ENGINE").unwrap()).unwrap();
    let mut store = open_with(Arc::new(RealDisk::new(dir).kept_by(engine)), options()).await.unwrap();
    let mut next = seen(&mut store).await.last.map_or(0, |last| last.index() + 1);
    let mut out = std::io::stdout();
    loop {
        let mut waiting = Vec::new();
        for _ in 0..next % 7 + 1 {
            let size = if next % 50 == 0 { 2 * PART_BYTES } else { 100 };
            waiting.push((next, append_later(&mut store.log, vec![raw(1, next, &vec![next as u8; size])]).await));
            next += 1;
        }
        for (index, wait) in waiting {
            wait.await.unwrap().unwrap();
            writeln!(out, "acknowledged {index}").unwrap();
        }
        out.flush().unwrap();
    }
}

/// Starts the child, kills it after so many acknowledgements, and returns the last one that it gave.
fn append_and_kill(dir: &Path, engine: Engine, acknowledgements: usize) -> u64 {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_appends", "--ignored", "--nocapture"])
        .env("STEERSMAN_TEST_DIR", dir)
        .env("STEERSMAN_TEST_ENGINE", engine.name())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = None;
    let mut seen = 0;
    for line in lines.by_ref() {
        last = acknowledged(&line.unwrap()).or(last);
        seen += usize::from(last.is_some());
        if seen >= acknowledgements {
            break;
        }
    }
    child.kill().unwrap();
    // What was in the pipe when it died was acknowledged, too; only a line that it had not finished was not.
    last = lines.map_while(Result::ok).filter_map(|line| acknowledged(&line)).last().or(last);
    child.wait().unwrap();
    last.unwrap()
}

/// A line that was cut short by the kill does not count.
fn acknowledged(line: &str) -> Option<u64> {
    line.strip_prefix("acknowledged ")?.parse().ok()
}

async fn sigkill_loses_no_acknowledged_entry_on(engine: Engine) {
    let dir = TempDir::new().unwrap();
    for round in 0..12_usize {
        let path = dir.path().to_owned();
        let last = tokio::task::spawn_blocking(move || append_and_kill(&path, engine, 40 + 37 * round)).await.unwrap();
        let disk = Arc::new(RealDisk::new(dir.path()).kept_by(engine));
        let mut store = open_with(disk, options()).await.unwrap();
        let found = seen(&mut store).await;
        let count = found.entries.len() as u64;
        // The last digit of a number cut by the kill would only make it smaller, never larger.
        assert!(count > last, "round {round}: {last} was acknowledged, {count} entries found");
        assert!(found.entries.keys().copied().eq(0..count), "round {round}: a hole");
        store.control.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_sigkill_loses_no_acknowledged_entry_on_sled() {
    sigkill_loses_no_acknowledged_entry_on(Engine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_sigkill_loses_no_acknowledged_entry_on_fjall() {
    sigkill_loses_no_acknowledged_entry_on(Engine::Fjall).await;
}

/// A closed store with entries 0..20 of which 9 is large, a vote, a committed index and a snapshot at 6.
async fn some_store(disk: Arc<dyn Disk>) {
    let Store { mut log, mut machine, control, .. } = open_with(disk, options()).await.unwrap();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let entries = (0..20).map(|index| raw(1, index, &vec![5; if index == 9 { 3 * PART_BYTES } else { 30 }]));
    append(&mut log, entries.collect()).await.unwrap();
    log.save_committed(Some(log_id(1, 15))).await.unwrap();
    apply(&mut machine, (0..7).map(|index| raw_blank(1, index)).collect()).await.unwrap();
    build(&mut machine).await;
    control.close().await.unwrap();
}

async fn refused(disk: &MemDisk) -> StoreError {
    match reopen(disk).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn every_flipped_bit_in_the_log_is_found() {
    let disk = MemDisk::new();
    some_store(Arc::new(disk.clone())).await;
    let mut keys = Vec::new();
    disk.damage(|stored, _| keys = stored.iter().map(|(key, value)| (key.clone(), value.len())).collect());
    assert!(keys.len() > 25);
    for (key, length) in keys {
        for at in [0, 1, length / 2, length - 1] {
            let damaged = disk.fork(CrashMode::LoseUnsynced);
            damaged.damage(|stored, _| stored.get_mut(&key).unwrap()[at] ^= 0x10);
            let error = refused(&damaged).await;
            let expected = if at == 0 && !is_later_part(&key) { exit::WRONG_VERSION } else { exit::CORRUPT_DATA };
            assert_eq!(error.exit_code(), expected, "byte {at} of {key:02x?}: {error}");
        }
        if key[0] == 1 {
            let damaged = disk.fork(CrashMode::LoseUnsynced);
            damaged.damage(|stored, _| drop(stored.remove(&key)));
            assert_eq!(refused(&damaged).await.exit_code(), exit::CORRUPT_DATA, "{key:02x?} missing");
        }
    }
}

/// Of a large entry: only its first part has a version.
fn is_later_part(key: &[u8]) -> bool {
    key[0] == 1 && key[9..] != [0, 0]
}

#[tokio::test]
async fn damaged_and_cut_snapshots_are_found() {
    let disk = MemDisk::new();
    some_store(Arc::new(disk.clone())).await;
    let mut length = 0;
    disk.damage(|_, files| length = files["snapshots/1-6.snap"].len());
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let damaged = disk.fork(CrashMode::LoseUnsynced);
        damaged.damage(|_, files| change(Arc::make_mut(files.get_mut("snapshots/1-6.snap").unwrap())));
        damaged
    };
    for at in (0..length).step_by(7) {
        let error = refused(&damage(&|bytes| bytes[at] ^= 4)).await;
        assert!([exit::CORRUPT_DATA, exit::WRONG_VERSION].contains(&error.exit_code()), "byte {at}: {error}");
        assert!((8..12).contains(&at) || error.exit_code() == exit::CORRUPT_DATA, "byte {at}: {error}");
        let error = refused(&damage(&|bytes| bytes.truncate(at))).await;
        assert_eq!(error.exit_code(), exit::CORRUPT_DATA, "cut at {at}: {error}");
    }
    let error = refused(&damage(&|bytes| bytes.push(0))).await;
    assert_eq!((error.exit_code(), error.code()), (65, "STM-3002"));
    assert!(error.to_string().contains("1-6.snap"), "{error}");
}

#[tokio::test]
async fn a_log_that_begins_after_the_snapshot_is_refused() {
    let disk = MemDisk::new();
    some_store(Arc::new(disk.clone())).await;
    let Store { mut log, control, .. } = reopen(&disk).await.unwrap();
    log.purge(log_id(1, 5)).await.unwrap();
    control.close().await.unwrap();
    disk.damage(|_, files| drop(files.remove("snapshots/1-6.snap")));
    let error = refused(&disk).await;
    assert_eq!(error.exit_code(), exit::CORRUPT_DATA);
    assert!(error.to_string().contains("no snapshot"), "{error}");
}

#[tokio::test]
async fn a_database_older_than_its_witness_is_refused() {
    let disk = MemDisk::new();
    some_store(Arc::new(disk.clone())).await;
    let mut old = BTreeMap::new();
    disk.damage(|stored, _| old.clone_from(stored));
    let Store { mut log, control, .. } = reopen(&disk).await.unwrap();
    append(&mut log, vec![raw(1, 20, b"acknowledged")]).await.unwrap();
    control.close().await.unwrap();
    disk.damage(|stored, _| *stored = old);
    let error = refused(&disk).await;
    assert_eq!(error.exit_code(), exit::CORRUPT_DATA);
    assert!(error.to_string().contains("synced writes are lost"), "{error}");
}

#[tokio::test]
async fn a_directory_serves_one_node_of_one_cluster() {
    let disk = MemDisk::new();
    some_store(Arc::new(disk.clone())).await;
    let opened = |node_id, cluster: Option<&str>| {
        open_with(Arc::new(disk.clone()), Options { node_id, cluster: cluster.map(str::to_owned), ..options() })
    };
    let error = opened(2, None).await.err().unwrap();
    assert_eq!((error.exit_code(), error.code()), (75, "STM-3003"));
    assert!(error.to_string().contains("master 1, not master 2"), "{error}");

    let store = opened(1, Some("blue")).await.unwrap();
    assert_eq!(store.identity.cluster().as_deref(), Some("blue"));
    store.control.close().await.unwrap();
    let error = opened(1, Some("green")).await.err().unwrap();
    assert!(error.to_string().contains("cluster blue, not green"), "{error}");
    let store = opened(1, None).await.unwrap();
    assert!(store.control.bind_cluster("green").await.is_err());
    store.control.bind_cluster("blue").await.unwrap();
    store.control.close().await.unwrap();
}

#[tokio::test]
async fn the_state_teaches_the_identity_its_cluster() {
    let disk = MemDisk::new();
    let Store { mut machine, identity, control, .. } = reopen(&disk).await.unwrap();
    assert_eq!(identity.cluster(), None);
    apply(&mut machine, vec![commands(1, 0, vec![init("blue")])]).await.unwrap();
    eventually("the identity is bound", || identity.cluster().as_deref() == Some("blue")).await;
    control.close().await.unwrap();
    assert_eq!(reopen(&disk).await.unwrap().identity.cluster().as_deref(), Some("blue"));
}

#[tokio::test]
async fn p13_an_emptied_directory_is_refused_on_sled() {
    let dir = TempDir::new().unwrap();
    let sled = || open_with(Arc::new(RealDisk::new(dir.path())), options());
    // Before the first vote there is nothing to forget.
    sled().await.unwrap().control.close().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    some_store(Arc::new(RealDisk::new(dir.path()))).await;

    let kept = dir.path().join("kept");
    std::fs::rename(dir.path().join("log"), &kept).unwrap();
    let error = sled().await.err().unwrap();
    assert_eq!(error.exit_code(), exit::FOREIGN_DATA);
    assert!(error.to_string().contains("removed, emptied"), "{error}");

    // A fresh database in its place is no better, and another directory's neither.
    std::fs::create_dir(dir.path().join("log")).unwrap();
    std::fs::write(dir.path().join("log/db"), []).unwrap();
    assert_eq!(sled().await.err().unwrap().exit_code(), exit::FOREIGN_DATA);
    let other = TempDir::new().unwrap();
    some_store(Arc::new(RealDisk::new(other.path()))).await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    std::fs::rename(other.path().join("log"), dir.path().join("log")).unwrap();
    let error = sled().await.err().unwrap();
    assert!(error.to_string().contains("another data directory"), "{error}");

    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    std::fs::rename(&kept, dir.path().join("log")).unwrap();
    std::fs::rename(dir.path().join("identity"), dir.path().join("moved")).unwrap();
    let error = sled().await.err().unwrap();
    assert!(error.to_string().contains("no identity file"), "{error}");
    std::fs::rename(dir.path().join("moved"), dir.path().join("identity")).unwrap();
    sled().await.unwrap().control.close().await.unwrap();
}

#[tokio::test]
async fn a_second_process_is_kept_out_on_sled() {
    let dir = TempDir::new().unwrap();
    let sled = || open_with(Arc::new(RealDisk::new(dir.path())), options());
    let first = sled().await.unwrap();
    let error = sled().await.err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }) && error.exit_code() == 75, "{error}");
    first.control.close().await.unwrap();
    sled().await.unwrap().control.close().await.unwrap();
}

#[tokio::test]
async fn damaged_files_of_a_real_directory_are_found_by_name() {
    let dir = TempDir::new().unwrap();
    some_store(Arc::new(RealDisk::new(dir.path()))).await;
    let opened = || async {
        match open_with(Arc::new(RealDisk::new(dir.path())), options()).await {
            Ok(store) => {
                store.control.close().await.unwrap();
                0
            }
            Err(error) => error.exit_code(),
        }
    };
    for name in ["identity", "log/db", "snapshots/1-6.snap"] {
        let path = dir.path().join(name);
        let good = std::fs::read(&path).unwrap();
        let half = good.len() / 2;
        std::fs::write(&path, &good[..half]).unwrap();
        assert_eq!(opened().await, exit::CORRUPT_DATA, "{name} cut in half");
        let mut flipped = good.clone();
        // In the middle of the large entry, of the text, of the image.
        let at = if name == "log/db" { find(&good, &[5; 64]).unwrap() + 32 } else { half };
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(opened().await, exit::CORRUPT_DATA, "{name} with a flipped bit");
        std::fs::write(&path, &good).unwrap();
    }
}

/// A data directory with another database file.
fn copy_of(dir: &Path, db: &[u8]) -> TempDir {
    let copy = TempDir::new().unwrap();
    for folder in ["", "log", "snapshots"] {
        std::fs::create_dir_all(copy.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(dir.join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    std::fs::write(copy.path().join("log/db"), db).unwrap();
    copy
}

/// Wherever a bit of sled's file flips: either nothing that counts was hit and everything is there, or it is refused by
/// name. Never a log that is a little shorter.
#[tokio::test]
async fn no_flipped_bit_in_sleds_file_loses_anything_silently() {
    let dir = TempDir::new().unwrap();
    some_store(Arc::new(RealDisk::new(dir.path()))).await;
    let good = std::fs::read(dir.path().join("log/db")).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    // Without a flip the copy is good: what is refused below is refused for its flip.
    let copy = copy_of(dir.path(), &good);
    open_with(Arc::new(RealDisk::new(copy.path())), options()).await.unwrap().control.close().await.unwrap();
    let (mut intact, mut refused) = (0, 0);
    for at in (0..used).step_by(used / 90) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        let copy = copy_of(dir.path(), &flipped);
        match open_with(Arc::new(RealDisk::new(copy.path())), options()).await {
            Ok(mut store) => {
                let found = seen(&mut store).await;
                let whole = (found.entries.len(), found.vote) == (20, Some(Vote::new_committed(1, 1)));
                assert!(whole, "byte {at}: {} entries, vote {:?}", found.entries.len(), found.vote);
                store.control.close().await.unwrap();
                intact += 1;
            }
            Err(error) => {
                assert!([exit::CORRUPT_DATA, exit::FOREIGN_DATA].contains(&error.exit_code()), "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    println!("{intact} intact, {refused} refused");
    assert!(refused > 20, "{refused}");
}

/// Every file below a folder: its path, its bytes without the zeros at its end, its length.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut files(&entry.path()));
            continue;
        }
        let mut bytes = std::fs::read(entry.path()).unwrap();
        let length = bytes.len() as u64;
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        found.push((entry.path(), bytes, length));
    }
    found
}

fn write_files(folder: &Path, files: &[(PathBuf, Vec<u8>, u64)]) {
    std::fs::remove_dir_all(folder).unwrap();
    for (path, bytes, length) in files {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(*length).unwrap();
    }
}

/// The same of fjall's journal, wherever a bit flips and wherever it ends.
#[tokio::test]
async fn no_damage_to_fjalls_journal_loses_anything_silently() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("log-fjall");
    let kept = || Arc::new(RealDisk::new(dir.path()).kept_by(Engine::Fjall));
    some_store(kept()).await;
    let good = files(&folder);
    let journal = good.iter().position(|(path, ..)| path.ends_with("0.jnl")).unwrap();
    let used = good[journal].1.len();
    let (mut intact, mut refused) = (0, 0);
    for at in (0..used).step_by(used / 45) {
        for cut in [false, true] {
            let mut damaged = good.clone();
            let bytes = &mut damaged[journal].1;
            if cut {
                bytes.truncate(at)
            } else {
                bytes[at] ^= 1 << (at % 8)
            }
            write_files(&folder, &damaged);
            match open_with(kept(), options()).await {
                Ok(mut store) => {
                    let found = seen(&mut store).await;
                    let whole = (found.entries.len(), found.vote) == (20, Some(Vote::new_committed(1, 1)));
                    assert!(whole, "byte {at}: {} entries, vote {:?}", found.entries.len(), found.vote);
                    store.control.close().await.unwrap();
                    intact += 1;
                }
                Err(error) => {
                    let known = [exit::CORRUPT_DATA, exit::FOREIGN_DATA].contains(&error.exit_code());
                    assert!(known, "byte {at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    println!("{intact} intact, {refused} refused");
    assert!(refused > 40, "{refused}");
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

#[tokio::test]
async fn a_half_written_index_of_sled_does_not_keep_it_from_opening() {
    let dir = TempDir::new().unwrap();
    some_store(Arc::new(RealDisk::new(dir.path()))).await;
    std::fs::write(dir.path().join("log/snap.FFFFFFFFFFFFFFF0.generating"), b"half").unwrap();
    let mut store = open_with(Arc::new(RealDisk::new(dir.path())), options()).await.unwrap();
    assert_eq!(all(&mut store.log).await.len(), 20);
    store.control.close().await.unwrap();
}

//! Snapshots: built while apply goes on, sent in pieces, installed, inspected, restored.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use common::*;
use openraft::storage::{RaftLogReader as _, RaftSnapshotBuilder as _, RaftStateMachine as _};
use steersman_raft_store::*;
use steersman_state::TaskId;
use tempfile::TempDir;

/// Entries 0..=`last`: a cluster with three members, and ten tasks more with each entry.
fn history(last: u64) -> Vec<Entry> {
    let first = [membership(1, 0, &[1, 2, 3]), commands(1, 1, vec![init("blue")])];
    first.into_iter().chain((2..=last).map(|index| commands(1, index, vec![submit(10)]))).collect()
}

fn digest(state: &SharedState) -> u128 {
    state.read().digest()
}

/// All bytes of a snapshot, in pieces of at most `max`.
async fn pieces(data: &mut SnapshotData, max: usize) -> Vec<bytes::Bytes> {
    let mut pieces = Vec::new();
    while let Some(piece) = data.next_chunk(max).await.unwrap() {
        assert!(!piece.is_empty() && piece.len() <= max);
        pieces.push(piece);
    }
    assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), data.len());
    pieces
}

async fn a_snapshot_survives_a_restart(disk: impl Fn() -> Arc<dyn Disk>) {
    let Store { mut machine, state, control, .. } = open_with(disk(), options()).await.unwrap();
    apply(&mut machine, history(12)).await.unwrap();
    let snapshot = build(&mut machine).await;
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 12)));
    let (tasks, before) = (state.read().counts(), digest(&state));
    control.close().await.unwrap();
    drop((machine, state, snapshot, control));

    let heard = Arc::new(Heard::default());
    let Store { mut machine, state, control, .. } = open(disk(), options(), heard.clone()).await.unwrap();
    assert_eq!(*heard.0.lock(), ["installed 12"]);
    assert_eq!((state.read().counts(), digest(&state)), (tasks, before));
    let (last, members) = machine.applied_state().await.unwrap();
    assert_eq!((last, *members.log_id()), (Some(log_id(1, 12)), Some(log_id(1, 0))));
    assert_eq!(members.membership().get_node(&3), Some(&node(3)));
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, Some(log_id(1, 12)));
    control.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_survives_a_restart_on_the_twin() {
    let disk = MemDisk::new();
    a_snapshot_survives_a_restart(|| Arc::new(disk.clone())).await;
}

#[tokio::test]
async fn a_snapshot_survives_a_restart_on_a_real_disk() {
    let dir = TempDir::new().unwrap();
    a_snapshot_survives_a_restart(|| Arc::new(RealDisk::new(dir.path()))).await;
}

#[tokio::test]
async fn a_snapshot_does_not_change_while_apply_goes_on() {
    let store = reopen(&MemDisk::new()).await.unwrap();
    let (mut machine, state) = (store.machine.clone(), store.state.clone());
    apply(&mut machine, history(5)).await.unwrap();
    let before = digest(&state);
    let mut builder = machine.get_snapshot_builder().await;
    apply(&mut machine, vec![commands(1, 6, vec![submit(1000)])]).await.unwrap();
    assert_ne!(digest(&state), before);

    let mut snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 5)));
    let bytes = pieces(&mut snapshot.snapshot, 1 << 20).await.concat();
    let info = inspect_snapshot(&bytes[..]).unwrap();
    assert_eq!((info.digest, info.bytes), (before, bytes.len() as u64));
    assert_eq!(info.header.cluster.as_deref(), Some("blue"));
    assert_eq!(info.header.last, Some((1, 5)));
    assert_eq!(info.tasks, {
        let state = steersman_state::State::read(&mut image_of(&bytes)).unwrap();
        state.counts()
    });
}

/// The state's own stream inside of a snapshot: it begins with its magic.
fn image_of(bytes: &[u8]) -> impl std::io::Read + '_ {
    let start = bytes.windows(4).position(|window| window == b"STMS").unwrap();
    bytes[start..bytes.len() - 16].take(u64::MAX)
}

#[tokio::test]
async fn older_snapshots_are_removed_and_never_come_back() {
    let disk = MemDisk::new();
    let store = reopen(&disk).await.unwrap();
    let mut machine = store.machine.clone();
    apply(&mut machine, history(5)).await.unwrap();
    let mut late = machine.get_snapshot_builder().await;
    apply(&mut machine, vec![commands(1, 6, vec![submit(1)])]).await.unwrap();
    build(&mut machine).await;
    // One that was begun earlier and ends later gives way to the newer one.
    let answer = late.build_snapshot().await.unwrap();
    assert_eq!(answer.meta.last_log_id, Some(log_id(1, 6)));
    assert_eq!(disk.list("snapshots").unwrap(), ["1-6.snap"]);
}

async fn a_snapshot_travels(from: Arc<dyn Disk>, to: impl Fn() -> Arc<dyn Disk>, max: usize) {
    let sender = open_with(from, options()).await.unwrap();
    let mut machine = sender.machine.clone();
    apply(&mut machine, history(40)).await.unwrap();
    let mut snapshot = build(&mut machine).await;
    let pieces = pieces(&mut snapshot.snapshot, max).await;

    let receiver = open_with(to(), Options { node_id: 2, ..options() }).await.unwrap();
    let mut incoming = receiver.control.receive_snapshot().unwrap();
    for piece in &pieces {
        incoming.write(piece).await.unwrap();
    }
    let data = incoming.finish(snapshot.snapshot.crc()).await.unwrap();
    assert_eq!(data.meta().unwrap(), snapshot.meta);
    receiver.machine.clone().install_snapshot(&snapshot.meta, data).await.unwrap();
    assert_eq!(digest(&receiver.state), digest(&sender.state));
    assert_eq!(to().list("snapshots").unwrap(), ["1-40.snap"]);
    eventually("the receiver learns its cluster", || receiver.identity.cluster().as_deref() == Some("blue")).await;
    receiver.control.close().await.unwrap();
    drop(receiver);

    let again = open_with(to(), Options { node_id: 2, ..options() }).await.unwrap();
    assert_eq!(digest(&again.state), digest(&sender.state));
    again.control.close().await.unwrap();
    sender.control.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_travels_in_small_pieces() {
    let to = MemDisk::new();
    a_snapshot_travels(Arc::new(MemDisk::new()), || Arc::new(to.clone()), 97).await;
}

#[tokio::test]
async fn a_snapshot_travels_between_real_disks() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    a_snapshot_travels(Arc::new(RealDisk::new(from.path())), || Arc::new(RealDisk::new(to.path())), 4096).await;
}

#[tokio::test]
async fn a_snapshot_that_was_cut_or_changed_on_its_way_is_refused_and_leaves_nothing() {
    let sender = reopen(&MemDisk::new()).await.unwrap();
    let mut machine = sender.machine.clone();
    apply(&mut machine, history(5)).await.unwrap();
    let mut snapshot = build(&mut machine).await;
    let bytes = pieces(&mut snapshot.snapshot, 1 << 20).await.concat();
    let disk = MemDisk::new();
    let receiver = reopen(&disk).await.unwrap();

    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    // The last two have the right checksum for what arrived: their own trailer gives them away.
    let (cut, crc) = (&bytes[..bytes.len() - 1], snapshot.snapshot.crc());
    let cases = [(&changed[..], crc), (cut, crc), (&[], crc), (&changed, hash(&changed)), (cut, hash(cut))];
    for (arrived, crc) in cases {
        let mut incoming = receiver.control.receive_snapshot().unwrap();
        for piece in arrived.chunks(50) {
            incoming.write(piece).await.unwrap();
        }
        let error = incoming.finish(crc).await.unwrap_err();
        assert_eq!(error.exit_code(), exit::CORRUPT_DATA, "{error}");
        assert_eq!(disk.list("snapshots").unwrap(), [""; 0]);
    }
    assert!(receiver.failed().borrow().is_none(), "a bad transfer is no fault of this disk");

    // Received well, and then not wanted.
    let mut incoming = receiver.control.receive_snapshot().unwrap();
    incoming.write(&bytes).await.unwrap();
    let data = incoming.finish(crc).await.unwrap();
    assert_eq!(disk.list("snapshots").unwrap().len(), 1);
    drop(data);
    assert_eq!(disk.list("snapshots").unwrap(), [""; 0]);
}

fn hash(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[tokio::test]
async fn a_snapshot_of_another_cluster_is_not_installed() {
    let sender = reopen(&MemDisk::new()).await.unwrap();
    let mut machine = sender.machine.clone();
    apply(&mut machine, history(5)).await.unwrap();
    let snapshot = build(&mut machine).await;
    let receiver = reopen(&MemDisk::new()).await.unwrap();
    receiver.control.bind_cluster("green").await.unwrap();
    let error = receiver.machine.clone().install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap_err();
    assert!(error.to_string().contains("cluster green, not blue"), "{error}");
    let failed = receiver.failed().borrow().clone().unwrap();
    assert_eq!(failed.exit_code(), exit::FOREIGN_DATA);
    assert_eq!(receiver.state.read().counts(), Default::default());
}

#[tokio::test]
async fn leftovers_of_unfinished_snapshots_are_removed_at_the_next_start() {
    let dir = TempDir::new().unwrap();
    let sled = || open_with(Arc::new(RealDisk::new(dir.path())), options());
    let Store { mut machine, control, .. } = sled().await.unwrap();
    apply(&mut machine, history(5)).await.unwrap();
    build(&mut machine).await;
    control.close().await.unwrap();
    std::fs::write(dir.path().join("snapshots/building-7.tmp"), b"half").unwrap();
    std::fs::copy(dir.path().join("snapshots/1-5.snap"), dir.path().join("snapshots/1-4.snap")).unwrap();
    sled().await.unwrap().control.close().await.unwrap();
    let names = std::fs::read_dir(dir.path().join("snapshots")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["1-5.snap"]);
}

fn restore(node_id: u64, epoch: u64) -> Restore {
    let members: BTreeMap<u64, MasterNode> = [4, 5, 6].into_iter().map(|n| (n, node(n))).collect();
    Restore { node_id, members, cluster: "blue".into(), epoch, store_id: node_id.into(), created_ms: 0 }
}

#[tokio::test]
async fn a_snapshot_file_becomes_the_data_of_new_masters() {
    let dir = TempDir::new().unwrap();
    let sender = reopen(&MemDisk::new()).await.unwrap();
    let mut machine = sender.machine.clone();
    apply(&mut machine, history(9)).await.unwrap();
    let mut snapshot = build(&mut machine).await;
    let file = dir.path().join("saved.snap");
    std::fs::write(&file, pieces(&mut snapshot.snapshot, 4096).await.concat()).unwrap();

    let mut digests = Vec::new();
    for id in [4, 5, 6] {
        let target = dir.path().join(id.to_string());
        let info = restore_into(&target, Engine::Sled, &file, restore(id, 3)).await.unwrap();
        assert_eq!(info.header.last, Some((1, 10)));
        let disk = Arc::new(RealDisk::new(&target));
        let mut store = open_with(disk, Options { node_id: id, ..options() }).await.unwrap();
        assert!(!store.is_blank());
        let (last, members) = store.machine.applied_state().await.unwrap();
        assert_eq!(last, Some(log_id(1, 10)));
        assert_eq!(members.voter_ids().collect::<Vec<_>>(), [4, 5, 6]);
        assert!(store.state.read().task(TaskId(80)).is_some());
        let mut reader = openraft::storage::RaftLogStorage::get_log_reader(&mut store.log).await;
        assert_eq!(reader.read_vote().await.unwrap(), Some(Vote::new(1, id)));
        assert_eq!(info.digest, digest(&store.state));
        digests.push(info.digest);
        store.control.close().await.unwrap();
        let error = restore_into(&target, Engine::Sled, &file, restore(id, 3)).await.unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "all restored masters agree");

    let green = Restore { cluster: "green".into(), ..restore(4, 3) };
    let error = restore_into(&dir.path().join("x"), Engine::Sled, &file, green).await.unwrap_err();
    assert!(error.to_string().contains("cluster blue, not green"), "{error}");
}

#[tokio::test]
async fn a_restore_that_was_cut_short_is_not_used() {
    let sender = reopen(&MemDisk::new()).await.unwrap();
    let mut machine = sender.machine.clone();
    apply(&mut machine, history(5)).await.unwrap();
    let mut snapshot = build(&mut machine).await;
    let bytes = pieces(&mut snapshot.snapshot, 4096).await.concat();
    let disk = MemDisk::new();
    restore_on(Arc::new(disk.clone()), Box::new(std::io::Cursor::new(bytes)), restore(4, 1)).await.unwrap();
    // Everything but the last step.
    disk.damage(|_, files| drop(files.remove("identity")));
    let error = open_with(Arc::new(disk.clone()), Options { node_id: 4, ..options() }).await.err().unwrap();
    assert_eq!(error.exit_code(), exit::FOREIGN_DATA);
}

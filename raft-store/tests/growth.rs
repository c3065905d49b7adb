//! A log that is appended to and purged for ever stays small on disk and in memory.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use openraft::storage::RaftLogStorage as _;
use steersman_raft_store::*;
use tempfile::TempDir;

const ENTRIES: u64 = 200_000;
/// Entries per append, so that the test is about purging and not about syncs.
const BATCH: u64 = 500;
/// Entries that are kept.
const WINDOW: u64 = 5_000;
const PAYLOAD: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_two_hundred_thousand_entries_leave_a_small_disk() {
    // All entries together are ten times the window's share; without purging this would be over 60 MB.
    two_hundred_thousand_entries_leave(Engine::Sled, 40 << 20).await;
}

/// A journal of 64 MiB is reserved, and two may be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_two_hundred_thousand_entries_leave_a_small_disk_on_fjall() {
    two_hundred_thousand_entries_leave(Engine::Fjall, 160 << 20).await;
}

async fn two_hundred_thousand_entries_leave(engine: Engine, bytes_max: u64) {
    let dir = TempDir::new().unwrap();
    let disk = || Arc::new(RealDisk::new(dir.path()).kept_by(engine));
    let options = Options { recent_bytes: 1 << 20, ..options() };
    let store = open_with(disk(), options.clone()).await.unwrap();
    let (mut log, mut machine, control) = (store.log.clone(), store.machine.clone(), store.control.clone());
    let mut sizes = Vec::new();
    for start in (0..ENTRIES).step_by(BATCH as usize) {
        let entries = (start..start + BATCH).map(|index| raw(1, index, &[3; PAYLOAD]));
        append(&mut log, entries.collect()).await.unwrap();
        let upto = (start + BATCH).saturating_sub(WINDOW);
        if upto > 0 && start % 5_000 == 0 {
            apply(&mut machine, vec![Entry { log_id: log_id(1, upto), payload: openraft::EntryPayload::Blank }])
                .await
                .unwrap();
            build(&mut machine).await;
            log.purge(log_id(1, upto)).await.unwrap();
        }
        if start % 20_000 == 0 {
            sizes.push(control.log_bytes_on_disk().await.unwrap());
        }
    }
    let metrics = control.metrics();
    let purged = || metrics.entries_purged.load(std::sync::atomic::Ordering::Relaxed);
    eventually("the writer has purged everything", || purged() > ENTRIES - 2 * WINDOW - BATCH).await;
    let last = control.log_bytes_on_disk().await.unwrap();
    let largest = sizes.iter().copied().max().unwrap();
    println!("bytes on disk every 20,000 entries: {sizes:?}, at the end {last}");
    assert!(last.max(largest) < bytes_max, "{sizes:?} {last}");
    let (half, end) = (sizes[sizes.len() / 2], sizes[sizes.len() - 1]);
    assert!(end < 2 * half, "still growing: {sizes:?}");
    assert!(metrics.recent_bytes.load(std::sync::atomic::Ordering::Relaxed) <= 1 << 20);
    control.close().await.unwrap();
    drop((log, machine, store));

    let mut store = open_with(disk(), options).await.unwrap();
    let found = all(&mut store.log).await;
    assert!(found.len() as u64 >= WINDOW && found.len() as u64 <= 2 * WINDOW + BATCH, "{}", found.len());
    store.control.close().await.unwrap();
}

//! Nothing is acknowledged before it is on the device; and what happens when the disk refuses.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::storage::RaftLogStorage as _;
use parking_lot::Mutex;
use steersman_raft_store::*;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Lets syncs begin one at a time, and keeps what happened in order.
struct Gate {
    permits: Semaphore,
    happened: Mutex<Vec<&'static str>>,
}

impl Gate {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(permits), happened: Mutex::default() })
    }

    fn count(&self, what: &str) -> usize {
        self.happened.lock().iter().filter(|happened| **happened == what).count()
    }
}

impl Probe for Gate {
    fn wrote(&self, _batch: &KeyBatch) {
        self.happened.lock().push("wrote");
    }
    fn syncing(&self) -> BoxFuture<'_, ()> {
        async {
            self.happened.lock().push("syncing");
            self.permits.acquire().await.unwrap().forget();
        }
        .boxed()
    }
    fn synced(&self) {
        self.happened.lock().push("synced");
    }
}

async fn nothing_is_acknowledged_before_its_sync(disk: Arc<dyn Disk>) {
    let gate = Gate::new(1);
    let disk = Arc::new(Probed { disk, probe: gate.clone() });
    let Store { mut log, control, .. } = open_with(disk, options()).await.unwrap();
    // The permit went to the sentinel of the new store.
    assert_eq!(gate.count("synced"), 1);

    let mut first = append_later(&mut log, vec![raw(1, 0, b"a"), raw(1, 1, b"b")]).await;
    eventually("the first sync begins", || gate.count("syncing") == 2).await;
    // Queued while the disk is busy: these belong to the sync after it.
    let mut second = append_later(&mut log, vec![raw(1, 2, b"c")]).await;
    let mut voter = log.clone();
    let mut vote = tokio::spawn(async move { voter.save_vote(&Vote::new(2, 1)).await });
    assert_eq!(all(&mut log).await.len(), 3, "appended entries are readable at once");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(first.try_recv().is_err() && second.try_recv().is_err() && !vote.is_finished());

    gate.permits.add_permits(1);
    (&mut first).await.unwrap().unwrap();
    assert_eq!(gate.count("synced"), 2);
    eventually("the second sync begins", || gate.count("syncing") == 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(second.try_recv().is_err() && !vote.is_finished(), "the sync that was under way covers only what it found");

    gate.permits.add_permits(1);
    (&mut second).await.unwrap().unwrap();
    (&mut vote).await.unwrap().unwrap();
    assert_eq!(gate.count("synced"), 3, "one sync for both");
    gate.permits.add_permits(100);
    control.close().await.unwrap();
}

#[tokio::test]
async fn p01_nothing_is_acknowledged_before_it_is_synced_on_the_twin() {
    nothing_is_acknowledged_before_its_sync(Arc::new(MemDisk::new())).await;
}

#[tokio::test]
async fn p01_nothing_is_acknowledged_before_it_is_synced_on_sled() {
    let dir = TempDir::new().unwrap();
    nothing_is_acknowledged_before_its_sync(Arc::new(RealDisk::new(dir.path()))).await;
}

#[tokio::test]
async fn p01_nothing_is_acknowledged_before_it_is_synced_on_fjall() {
    let dir = TempDir::new().unwrap();
    nothing_is_acknowledged_before_its_sync(Arc::new(RealDisk::new(dir.path()).kept_by(Engine::Fjall))).await;
}

#[tokio::test(start_paused = true)]
async fn p01_a_crash_between_write_and_sync_loses_only_what_was_not_acknowledged() {
    let disk = MemDisk::new();
    let Store { mut log, .. } = reopen(&disk).await.unwrap();
    append(&mut log, vec![raw(1, 0, b"kept")]).await.unwrap();
    disk.set_sync_delay(Duration::from_secs(1));
    let lost = append_later(&mut log, vec![raw(1, 1, b"lost")]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    disk.crash(CrashMode::LoseUnsynced);
    assert!(lost.await.unwrap().is_err(), "a sync on a crashed disk acknowledges nothing");

    let Store { mut log, .. } = reopen(&disk).await.unwrap();
    assert_eq!(all(&mut log).await, vec![raw(1, 0, b"kept")]);
}

/// Keys whose sync only says that it did.
struct Liar(MemDisk);

impl Probe for Liar {
    fn sync_is_a_lie(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_disk_that_lied_about_its_syncs_is_found_out() {
    let disk = MemDisk::new();
    reopen(&disk).await.unwrap().control.close().await.unwrap();
    let liar = Arc::new(Probed { disk: Arc::new(disk.clone()), probe: Arc::new(Liar(disk.clone())) });
    let Store { mut log, .. } = open_with(liar.clone(), options()).await.unwrap();
    append(&mut log, vec![raw(1, 0, b"acknowledged")]).await.unwrap();
    liar.probe.0.crash(CrashMode::LoseUnsynced);
    let error = reopen(&disk).await.err().unwrap();
    assert_eq!(error.exit_code(), exit::CORRUPT_DATA);
    assert!(error.to_string().contains("synced writes are lost"), "{error}");
}

#[tokio::test]
async fn many_callers_share_a_sync() {
    let disk = MemDisk::new();
    let Store { mut log, control, .. } = reopen(&disk).await.unwrap();
    disk.set_sync_delay(Duration::from_millis(20));
    let before = disk.syncs();
    let mut waiting = Vec::new();
    for index in 0..500 {
        waiting.push(append_later(&mut log, vec![raw(1, index, b"x")]).await);
    }
    for wait in waiting {
        wait.await.unwrap().unwrap();
    }
    assert!(disk.syncs() - before <= 3, "{} syncs for 500 appends", disk.syncs() - before);
    assert_eq!(control.metrics().append_us.count(), 500);
}

#[tokio::test]
async fn a_disk_that_refuses_stops_the_store_by_name() {
    let disk = MemDisk::new();
    let store = reopen(&disk).await.unwrap();
    let (mut log, mut failed) = (store.log.clone(), store.failed());
    append(&mut log, vec![raw(1, 0, b"good")]).await.unwrap();
    disk.set_failure(Some(std::io::ErrorKind::StorageFull));

    let error = append(&mut log, vec![raw(1, 1, b"bad")]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let told = failed.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((told.exit_code(), told.code(), told.reason()), (74, "STM-3004", "DISK"));

    // Even if space comes back: a store that once failed to write never writes again.
    disk.set_failure(None);
    assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
    assert!(log.purge(log_id(1, 0)).await.is_err());
    drop((log, store));
    disk.crash(CrashMode::LoseUnsynced);
    let Store { mut log, .. } = reopen(&disk).await.unwrap();
    assert_eq!(all(&mut log).await, vec![raw(1, 0, b"good")]);
}

#[tokio::test]
async fn a_stalled_disk_shows_in_the_metrics() {
    let gate = Gate::new(1);
    let disk = Arc::new(Probed { disk: Arc::new(MemDisk::new()), probe: gate.clone() });
    let Store { mut log, control, .. } = open_with(disk, options()).await.unwrap();
    let metrics = control.metrics();
    assert_eq!(metrics.stalled_for(), Duration::ZERO);
    let wait = append_later(&mut log, vec![raw(1, 0, b"x")]).await;
    eventually("the stall is seen", || metrics.stalled_for() > Duration::from_millis(50)).await;
    gate.permits.add_permits(1);
    wait.await.unwrap().unwrap();
    assert_eq!(metrics.stalled_for(), Duration::ZERO);
}

//! openraft's own storage suite, on each engine and on the twin.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use steersman_raft_store::{Control, Disk, Engine, LogStore, MemDisk, RealDisk, StateMachine, TypeConfig};
use tempfile::TempDir;

/// A new disk per store, with what has to live as long as it.
struct Builder<F>(F);

impl<F, G> StoreBuilder<TypeConfig, LogStore, StateMachine, (G, Control)> for Builder<F>
where
    F: Fn() -> (G, Arc<dyn Disk>) + Send + Sync,
    G: Send + Sync,
{
    async fn build(&self) -> Result<((G, Control), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (guard, disk) = (self.0)();
        let store = common::open_with(disk, common::options()).await.unwrap();
        Ok(((guard, store.control), store.log, store.machine))
    }
}

async fn openrafts_suite_passes_on(engine: Engine) {
    let builder = Builder(move || {
        let dir = TempDir::new().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()).kept_by(engine));
        (dir, disk)
    });
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_sled() {
    openrafts_suite_passes_on(Engine::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_fjall() {
    openrafts_suite_passes_on(Engine::Fjall).await;
}

#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes_on_the_twin() {
    let builder = Builder(|| {
        let disk = MemDisk::new();
        disk.set_sync_delay(std::time::Duration::from_millis(3));
        let disk: Arc<dyn Disk> = Arc::new(disk);
        ((), disk)
    });
    Suite::test_all(builder).await.unwrap();
}

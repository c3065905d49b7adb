//! Figures, not checks: run with `--run-ignored only --no-capture`, in release for numbers that mean something.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::*;
use steersman_raft_store::*;
use tempfile::TempDir;

const TASKS: u32 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_snapshot_of_a_million_tasks() {
    let dir = TempDir::new().unwrap();
    let disk = || Arc::new(RealDisk::new(dir.path()));
    let store = open_with(disk(), options()).await.unwrap();
    let mut machine = store.machine.clone();
    apply(&mut machine, vec![membership(1, 0, &[1]), commands(1, 1, vec![init("blue")])]).await.unwrap();
    let chunk = 10_000;
    for index in 0..u64::from(TASKS / chunk) {
        apply(&mut machine, vec![commands(1, index + 2, vec![submit(chunk)])]).await.unwrap();
    }
    let snapshot = build(&mut machine).await;
    let metrics = store.control.metrics();
    println!("{TASKS} tasks: {} bytes", snapshot.snapshot.len());
    println!("apply stood still for {} µs, written in {} ms", metrics.image_us.sum(), metrics.snapshot_us.sum() / 1000);
    store.control.close().await.unwrap();
    let began = Instant::now();
    let store = open_with(disk(), options()).await.unwrap();
    println!("read back in {} ms", began.elapsed().as_millis());
    assert_eq!(store.state.read().last_task_id().0, u64::from(TASKS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn durable_appends_per_second() {
    for (waiting, size) in [(1, 256), (16, 256), (64, 256), (256, 256), (1, 32_000)] {
        let dir = TempDir::new().unwrap();
        let store = open_with(Arc::new(RealDisk::new(dir.path())), Options::new(1, None)).await.unwrap();
        let mut log = store.log.clone();
        let (began, mut next) = (Instant::now(), 0);
        let mut queue = std::collections::VecDeque::new();
        while began.elapsed().as_secs() < 3 {
            while queue.len() < waiting {
                queue.push_back(append_later(&mut log, vec![raw(1, next, &vec![1; size])]).await);
                next += 1;
            }
            queue.pop_front().unwrap().await.unwrap().unwrap();
        }
        let (metrics, rate) = (store.control.metrics(), next as f64 / began.elapsed().as_secs_f64());
        let sync = metrics.sync_us.sum() / metrics.sync_us.count().max(1);
        println!("{waiting} waiting, {size} bytes: {rate:.0} appends/s, one sync {sync} µs on average");
        store.control.close().await.unwrap();
    }
}

//! Many workers fall silent at once: the brake holds, says so, and lets go by itself or by an operator's word.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::{all_succeed, all_tasks};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{group, shell};
use steersman_chaos_tests::{Cluster, Settings, http};
use steersman_client::Client;
use steersman_client::v1::{BrakeInfo, TaskState};

const MANY: [&str; 4] = ["w1", "w2", "w3", "w4"];

/// Five workers with one task each, that last as long as a file is missing.
async fn five_at_work() -> (Cluster, Client, u64) {
    let cluster = Cluster::start(Settings { workers: 5, capacity: 5, ..Settings::default() }).await;
    let client = cluster.client();
    let go = cluster.scratch().join("go");
    let line = format!("while [ ! -e {} ]; do sleep 0.2; done", go.display());
    let first = client.submit(group(shell(&line), 5)).await.unwrap().first_id;
    until("all tasks to run", PATIENCE, async || {
        let running = all_tasks(&client).await.values().filter(|task| task.state() == TaskState::Running).count();
        if running == 5 { Ok(()) } else { Err(format!("{running} of 5 run")) }
    })
    .await;
    (cluster, client, first)
}

async fn brake(client: &Client, what: &str, wanted: impl Fn(&BrakeInfo) -> bool) -> BrakeInfo {
    until(what, PATIENCE, async || {
        let brake = client.info().await.map_err(|error| error.to_string())?.brake.unwrap_or_default();
        if wanted(&brake) { Ok(brake) } else { Err(format!("{brake:?}")) }
    })
    .await
}

/// Attempts of each task, and the worker of its last one.
async fn places(client: &Client) -> BTreeMap<u64, (u32, String)> {
    let last = |task: &steersman_client::v1::Task| task.attempts.last().map(|one| one.worker_name.clone());
    let tasks = all_tasks(client).await;
    tasks.iter().map(|(id, task)| (*id, (task.attempts_total, last(task).unwrap_or_default()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p12_when_most_workers_fall_silent_their_tasks_stay_until_they_are_back() {
    let (mut cluster, client, first) = five_at_work().await;
    for name in MANY {
        cluster.worker(name).process.signal_all(Signal::SIGSTOP);
    }
    let engaged = brake(&client, "the brake to hold the other two", |brake| brake.held == 2).await;
    assert!(engaged.engaged && !engaged.manual && engaged.lost == 2 && engaged.allowed == 2, "{engaged:?}");
    let before = places(&client).await;

    let health = cluster.cli().run(&["cluster", "health"]).await;
    assert!(health.code == 7 && health.out.contains("ENGAGED"), "{health:?}");
    let status = cluster.cli().run(&["status"]).await.ok();
    assert!(status.contains("2 silent workers keep their tasks"), "{status}");
    let events = cluster.cli().run(&["events", "-o", "jsonl"]).await.ok();
    assert!(events.contains("brake_changed"), "{events}");
    let reign = cluster.wait_leader().await;
    let metrics = http::get(&cluster.master(reign.leader).addresses().http, "/metrics").await.unwrap().1;
    assert!(metrics.contains("steersman_workers_brake_engaged 1"), "{metrics}");
    assert!(metrics.contains("steersman_workers_held 2"), "{metrics}");

    // A new leader grants its leases and respects what it finds.
    cluster.kill_master(reign.leader);
    cluster.wait_newer_leader(reign).await;
    let later = client.info().await.unwrap().cluster_time_ms + 2 * cluster.settings.lease_ms;
    until("two leases to pass under the new leader", PATIENCE, async || {
        let now = client.info().await.map_err(|error| error.to_string())?.cluster_time_ms;
        if now > later { Ok(()) } else { Err(format!("{now} of {later}")) }
    })
    .await;
    let held = brake(&client, "the brake", |_| true).await;
    assert_eq!((held.engaged, held.held_ids.clone()), (true, engaged.held_ids.clone()), "{held:?}");
    assert_eq!(places(&client).await, before, "nothing was assigned elsewhere");

    for name in MANY {
        cluster.worker(name).process.signal_all(Signal::SIGCONT);
    }
    brake(&client, "the brake to let go by itself", |brake| !brake.engaged && brake.held == 0).await;
    let go = cluster.scratch().join("go");
    std::fs::write(go, "").unwrap();
    all_succeed(&client, first, 5, PATIENCE).await;
    let after = places(&client).await;
    assert_eq!(after, before, "all tasks ended where they were when the brake began to hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p12_an_operator_releases_the_brake_and_the_tasks_run_elsewhere() {
    let (mut cluster, client, first) = five_at_work().await;
    for name in MANY {
        cluster.worker(name).process.kill_all();
    }
    brake(&client, "the brake to hold the other two", |brake| brake.engaged && brake.held == 2).await;
    std::fs::write(cluster.scratch().join("go"), "").unwrap();
    let cli = cluster.cli();
    let shown = cli.run(&["worker", "brake", "show"]).await.ok();
    assert!(shown.contains("ENGAGED") && shown.contains("30 %"), "{shown}");
    let released = cli.run(&["worker", "brake", "release", "--yes"]).await.ok();
    assert!(released.contains("released"), "{released}");
    all_succeed(&client, first, 5, Duration::from_secs(60)).await;
    let again = cli.run(&["worker", "brake", "release", "--yes"]).await;
    assert!(again.code == 3 && again.err.contains("not engaged"), "{again:?}");
    let set = cli.run(&["worker", "brake", "set", "--share", "100", "-o", "json"]).await.ok();
    assert!(set.contains("\"share_percent\": 100") && set.contains("\"workers_min\": 2"), "{set}");
    let bad = cli.run(&["worker", "brake", "set", "--share", "101"]).await;
    assert!(bad.code != 0 && bad.err.contains("allowed are 0 to 100"), "{bad:?}");
}

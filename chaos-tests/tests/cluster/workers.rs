//! Workers die, alone or with the leader, or are cut off: their tasks run elsewhere, soon, and as their contract says.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::{self, all_tasks, wait_task};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::poll::{until, until_now};
use steersman_chaos_tests::spec::{group, one, shell, stopping};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::{Outcome, TaskState, WorkerMode, WorkerStatus};
use steersman_client::{Client, worker_ref};

/// One scheduling round, on a machine that does much else.
const ROUND: Duration = Duration::from_millis(1_000);
/// A takeover, by timers alone, on such a machine.
const TAKEOVER: Duration = Duration::from_millis(1_500);

/// Submits tasks that last and returns those that came to run on `w1`, once all of them run.
async fn some_on_w1(client: &Client) -> Vec<u64> {
    let first = client.submit(group(shell("sleep 3; echo done"), 4)).await.unwrap().first_id;
    until("all tasks to run", PATIENCE, async || {
        let tasks = all_tasks(client).await;
        let running = tasks.values().filter(|task| task.state() == TaskState::Running).count();
        if running == 4 { Ok(()) } else { Err(format!("{running} of 4 run")) }
    })
    .await;
    let tasks = all_tasks(client).await;
    let on_w1 = (first..first + 4).filter(|id| tasks[id].attempts[0].worker_name == "w1");
    let on_w1: Vec<u64> = on_w1.collect();
    assert_eq!(on_w1.len(), 2, "load is spread: {on_w1:?}");
    on_w1
}

/// Waits until each of the tasks was assigned to `w2`; how long that took from `began`.
async fn moved_to_w2(client: &Client, tasks: &[u64], began: Instant) -> Duration {
    for id in tasks {
        let task = wait_task(client, *id, "a second attempt", PATIENCE, |task| task.attempts_total == 2).await;
        let (first, second) = (&task.attempts[0], &task.attempts[1]);
        assert_eq!((first.outcome(), second.worker_name.as_str()), (Outcome::WorkerLost, "w2"));
        assert!(second.token > first.token);
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_tasks_of_a_killed_worker_run_elsewhere_within_lease_and_a_round() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let on_w1 = some_on_w1(&client).await;
    let began = Instant::now();
    cluster.worker("w1").process.kill_all();
    let took = moved_to_w2(&client, &on_w1, began).await;
    eprintln!("assigned elsewhere {took:?} after the kill, lease {:?}", cluster.settings.lease());
    assert!(took < cluster.settings.lease() + ROUND, "{took:?}");
    let worker = cluster.wait_worker("w1", WorkerStatus::Offline).await;
    assert!(worker.offline_reason.contains("lease"), "{worker:?}");
    audit::sound(&client, &[1, 2, 3, 4], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_tasks_of_a_worker_killed_with_the_leader_run_elsewhere_within_lease_takeover_and_a_round() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let on_w1 = some_on_w1(&client).await;
    let reign = cluster.wait_leader().await;
    let began = Instant::now();
    cluster.kill_master(reign.leader);
    cluster.worker("w1").process.kill_all();
    let took = moved_to_w2(&client, &on_w1, began).await;
    eprintln!("assigned elsewhere {took:?} after the double kill, lease {:?}", cluster.settings.lease());
    assert!(took < cluster.settings.lease() + TAKEOVER + ROUND, "{took:?}");
    audit::sound(&client, &[1, 2, 3, 4], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_a_worker_that_was_frozen_beyond_its_lease_changes_nothing_when_it_thaws() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let on_w1 = some_on_w1(&client).await;
    cluster.worker("w1").process.signal_all(Signal::SIGSTOP);
    moved_to_w2(&client, &on_w1, Instant::now()).await;
    audit::all_succeed(&client, 1, 4, PATIENCE).await;
    let before = all_tasks(&client).await;
    cluster.worker("w1").process.signal_all(Signal::SIGCONT);
    cluster.wait_workers(2).await;
    until("the thawed worker to hold nothing", PATIENCE, async || {
        let check = client.worker_check(worker_ref("w1")).await.map_err(|error| error.to_string())?;
        let waiting = check.load.unwrap_or_default().reports_unacknowledged;
        if check.running.is_empty() && waiting == 0 { Ok(()) } else { Err(format!("{check:?}")) }
    })
    .await;
    assert_eq!(all_tasks(&client).await, before, "finished tasks never change");
    let history = audit::sound(&client, &[1, 2, 3, 4], PATIENCE).await;
    for id in on_w1 {
        let tokens = history.tokens(id);
        assert!(tokens.len() == 2 && tokens[0] < tokens[1], "{tokens:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p09_with_stop_no_two_attempts_run_at_a_time_and_with_continue_they_may() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Maintenance, 0).await.unwrap();
    let (stop, go_on, end) =
        (cluster.scratch().join("stop"), cluster.scratch().join("continue"), cluster.scratch().join("end"));
    let beat = |file: &std::path::Path| {
        let (file, end) = (file.display(), end.display());
        shell(&format!("until test -e {end}; do echo $STEERSMAN_FENCING_TOKEN >> {file}; sleep 0.02; done"))
    };
    client.submit(one(stopping(beat(&stop)))).await.unwrap();
    client.submit(one(beat(&go_on))).await.unwrap();
    for id in [1, 2] {
        wait_task(&client, id, "both to run", PATIENCE, |task| task.state() == TaskState::Running).await;
    }
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Active, 0).await.unwrap();
    cluster.worker("w1").process.signal(Signal::SIGSTOP);
    moved_to_w2(&client, &[1, 2], Instant::now()).await;
    for file in [&stop, &go_on] {
        until_now("the second attempt to be seen for a while", PATIENCE, || {
            let seen = beats(file);
            let last = seen.last().copied().unwrap_or(0);
            let count = seen.iter().filter(|token| **token == last).count();
            if seen[0] != last && count > 20 { Ok(()) } else { Err(format!("{count} beats of {last}")) }
        })
        .await;
    }
    assert!(audit::one_after_the_other(&beats(&stop)), "with stop, the first attempt ended before the second began");
    assert!(!audit::one_after_the_other(&beats(&go_on)), "with continue, they overlapped: this test can see it");
    std::fs::write(&end, "").unwrap();
    cluster.worker("w1").process.signal(Signal::SIGCONT);
    audit::sound(&client, &[1, 2], PATIENCE).await;
}

/// The tokens that the attempts of a task have written, in the order in which they wrote them.
fn beats(file: &std::path::Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

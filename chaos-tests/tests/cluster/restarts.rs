//! A worker's process dies and comes back, soon or late, while its tasks run on under the keeper.

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::{self, pid_on, wait_state, wait_task};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::poll::until_now;
use steersman_chaos_tests::process::is_alive;
use steersman_chaos_tests::spec::{group, nothing, one, shell};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::{Outcome, TaskState, WorkerMode, WorkerStatus};
use steersman_client::worker_ref;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_worker_that_restarts_within_its_lease_keeps_its_running_task() {
    let mut cluster = Cluster::start(Settings { workers: 1, lease_ms: 5_000, ..Settings::default() }).await;
    let client = cluster.client();
    let id = client.submit(one(shell("echo begin; sleep 5; echo end"))).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Running, PATIENCE).await;
    let pid = pid_on(&client, "w1").await;
    cluster.worker("w1").process.kill();
    assert!(is_alive(pid), "the task runs on without its worker");
    cluster.start_worker("w1");
    cluster.wait_workers(1).await;
    assert_eq!(pid_on(&client, "w1").await, pid, "the same process");
    let task = wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    assert_eq!(task.attempts_total, 1);
    assert_eq!(audit::output(&client, id).await, "begin\nend\n");
    audit::sound(&client, &[id], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_a_task_that_ended_while_its_worker_was_away_is_reported_once() {
    let mut cluster = Cluster::start(Settings { workers: 1, lease_ms: 8_000, ..Settings::default() }).await;
    let client = cluster.client();
    let id = client.submit(one(shell("sleep 1; echo end; exit 7"))).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Running, PATIENCE).await;
    let pid = pid_on(&client, "w1").await;
    cluster.worker("w1").process.kill();
    until_now("the task to end without its worker", PATIENCE, || {
        if is_alive(pid) { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    cluster.start_worker("w1");
    let task = wait_state(&client, id, TaskState::Failed, PATIENCE).await;
    assert_eq!((task.attempts_total, task.attempts[0].outcome(), task.attempts[0].exit_code), (1, Outcome::Exited, 7));
    assert_eq!(audit::output(&client, id).await, "end\n");
    audit::sound(&client, &[], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_a_worker_that_restarts_after_its_lease_drops_its_old_attempt() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let ends = cluster.scratch().join("ends");
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Maintenance, 0).await.unwrap();
    let line = format!("sleep 9; echo $STEERSMAN_FENCING_TOKEN >> {}", ends.display());
    let id = client.submit(one(shell(&line))).await.unwrap().first_id;
    let first = wait_state(&client, id, TaskState::Running, PATIENCE).await.attempts[0].token;
    let old_pid = pid_on(&client, "w1").await;
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Active, 0).await.unwrap();
    cluster.worker("w1").process.kill();
    let task = wait_task(&client, id, "a second attempt", PATIENCE, |task| {
        task.attempts_total == 2 && task.state() == TaskState::Running
    })
    .await;
    assert_eq!((task.attempts[0].outcome(), task.attempts[1].worker_name.as_str()), (Outcome::WorkerLost, "w2"));
    assert!(is_alive(old_pid), "nobody could tell the old attempt to stop");
    cluster.start_worker("w1");
    cluster.wait_workers(2).await;
    until_now("the old attempt to be killed", PATIENCE, || {
        if is_alive(old_pid) { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    let task = wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    assert_eq!(task.attempts_total, 2);
    let second = task.attempts[1].token;
    assert!(second > first);
    assert_eq!(
        std::fs::read_to_string(&ends).unwrap(),
        format!("{second}\n"),
        "only the second attempt came to its end"
    );
    audit::sound(&client, &[id], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_worker_that_is_drained_finishes_what_it_has_and_gets_nothing_new() {
    let cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let slow = client.submit(group(shell("sleep 3"), 4)).await.unwrap().first_id;
    for id in slow..slow + 4 {
        wait_state(&client, id, TaskState::Running, PATIENCE).await;
    }
    let drained = cluster.cli().run(&["worker", "drain", "w1"]).await;
    assert_eq!(drained.code, 0, "{drained:?}");
    cluster.wait_worker("w1", WorkerStatus::Draining).await;
    let later = client.submit(group(nothing(), 20)).await.unwrap().first_id;
    audit::all_succeed(&client, slow, 24, PATIENCE).await;
    let tasks = audit::all_tasks(&client).await;
    let on = |id: u64| tasks[&id].attempts[0].worker_name.clone();
    assert!((slow..slow + 4).any(|id| on(id) == "w1"), "some ran where they had begun");
    assert!(tasks.values().all(|task| task.attempts_total == 1), "and none was restarted");
    assert!((later..later + 20).all(|id| on(id) == "w2"), "nothing new went to the draining worker");
    client.worker_set_mode(worker_ref("w1"), WorkerMode::Active, 0).await.unwrap();
    cluster.wait_worker("w1", WorkerStatus::Online).await;
    let after = client.submit(group(shell("sleep 0.3"), 8)).await.unwrap().first_id;
    audit::all_succeed(&client, after, 8, PATIENCE).await;
    let tasks = audit::all_tasks(&client).await;
    assert!((after..after + 8).any(|id| tasks[&id].attempts[0].worker_name == "w1"), "it works again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_what_a_drain_does_not_wait_for_runs_elsewhere() {
    let cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Maintenance, 0).await.unwrap();
    let marker = cluster.scratch().join("second");
    let line = format!("test -e {0} || {{ touch {0}; exec sleep 60; }}", marker.display());
    let id = client.submit(one(shell(&line))).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Running, PATIENCE).await;
    client.worker_set_mode(worker_ref("w2"), WorkerMode::Active, 0).await.unwrap();
    client.worker_set_mode(worker_ref("w1"), WorkerMode::Drain, 500).await.unwrap();
    let task = wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    let workers: Vec<&str> = task.attempts.iter().map(|attempt| attempt.worker_name.as_str()).collect();
    assert_eq!(workers, ["w1", "w2"]);
    audit::sound(&client, &[id], PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_asked_to_stop_finishes_its_tasks_first() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let id = client.submit(one(shell("sleep 2; echo finished"))).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Running, PATIENCE).await;
    cluster.worker("w1").process.signal(Signal::SIGTERM);
    let ended = cluster.worker("w1").process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let task = wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    assert_eq!(task.attempts_total, 1);
    let worker = cluster.wait_worker("w1", WorkerStatus::Offline).await;
    assert!(worker.offline_reason.contains("left"), "it said goodbye: {worker:?}");
    until_now("the keeper to be gone too", PATIENCE, || match cluster.worker("w1").process.all_pids() {
        pids if pids.is_empty() => Ok(()),
        pids => Err(format!("{pids:?}")),
    })
    .await;
    cluster.start_worker("w1");
    cluster.wait_workers(1).await;
    assert_eq!(audit::output(&client, id).await, "finished\n", "outputs survive the restart");
}

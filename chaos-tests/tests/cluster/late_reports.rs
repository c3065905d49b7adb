//! Reports that come too late, twice or from nowhere, said by a worker that lies.

use std::time::Duration;

use steersman_chaos_tests::audit::{self, wait_state, wait_task};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::raw_worker::{RawWorker, hello};
use steersman_chaos_tests::spec::{nothing, one};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::{Outcome, TaskState};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_a_late_report_of_an_old_attempt_is_ignored_and_tokens_rise() {
    let cluster = Cluster::start(Settings { workers: 0, lease_ms: 1_000, ..Settings::default() }).await;
    let client = cluster.client();
    let leader = cluster.wait_leader().await.leader;
    let api = cluster.client_of(leader).info().await.unwrap().self_.unwrap().api;
    let (mut first, welcome) = RawWorker::welcomed(&api, hello("raw", 7, 1)).await.unwrap();
    let id = client.submit(one(nothing())).await.unwrap().first_id;
    let old = first.assignment().await.unwrap();
    assert_eq!((old.task_id, old.attempt), (id, 1));
    // It sends no heartbeat, so its lease runs out.
    wait_task(&client, id, "the attempt to be lost", PATIENCE, |task| {
        task.attempts[0].outcome() == Outcome::WorkerLost
    })
    .await;
    let again = steersman_proto::worker::v1::Hello { cluster_id: welcome.cluster_id, ..hello("raw", 7, 2) };
    let (mut second, _) = RawWorker::welcomed(&api, again).await.unwrap();
    let new = tokio::time::timeout(Duration::from_secs(10), second.assignment()).await.unwrap().unwrap();
    assert!(new.task_id == id && new.token > old.token && new.attempt == 2, "{old:?}, then {new:?}");
    second.report_end(id, old.token, Outcome::Succeeded, 0).await;
    second.acknowledged(old.token).await.unwrap();
    assert_eq!(audit::task(&client, id).await.state(), TaskState::Scheduled, "an echo changes nothing");
    second.report_end(id, new.token, Outcome::Exited, 7).await;
    second.acknowledged(new.token).await.unwrap();
    let failed = wait_state(&client, id, TaskState::Failed, PATIENCE).await;
    for (token, outcome) in [(new.token, Outcome::Succeeded), (old.token, Outcome::Succeeded), (999, Outcome::Exited)] {
        second.report_end(id, token, outcome, 0).await;
        second.acknowledged(token).await.unwrap();
    }
    assert_eq!(audit::task(&client, id).await, failed, "a finished task never changes");
    let history = audit::sound(&client, &[], PATIENCE).await;
    assert_eq!(history.tokens(id), [old.token, new.token]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_success_that_is_reported_after_an_acknowledged_cancel_does_not_count() {
    let cluster = Cluster::start(Settings { workers: 0, lease_ms: 60_000, ..Settings::default() }).await;
    let client = cluster.client();
    let leader = cluster.wait_leader().await.leader;
    let api = cluster.client_of(leader).info().await.unwrap().self_.unwrap().api;
    let (mut worker, _) = RawWorker::welcomed(&api, hello("raw", 7, 1)).await.unwrap();
    let id = client.submit(one(nothing())).await.unwrap().first_id;
    let run = worker.assignment().await.unwrap();
    let cancelled = client.cancel(vec![id]).await.unwrap().results;
    assert!(cancelled[0].cancelled && cancelled[0].state() == TaskState::Cancelled, "{cancelled:?}");
    let before = audit::task(&client, id).await;
    worker.report_end(id, run.token, Outcome::Succeeded, 0).await;
    worker.acknowledged(run.token).await.unwrap();
    let after = audit::task(&client, id).await;
    assert_eq!((after.state(), &after.reason), (TaskState::Cancelled, &before.reason));
    audit::sound(&client, &[], PATIENCE).await;
}

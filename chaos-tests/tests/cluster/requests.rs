//! Requests that are repeated, doubled and raced: one effect each, and one fate for each task.

use std::collections::BTreeMap;

use steersman_chaos_tests::audit::{self, all_tasks};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::history::History;
use steersman_chaos_tests::spec::{group, nothing, one, shell};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::TaskState;
use steersman_client::{Client, RequestId};

fn id(n: u8, kind: u8) -> RequestId {
    let mut id = [kind; 16];
    id[0] = n;
    id
}

/// First ids that these clients are given for the same request at the same time.
async fn submit_everywhere(clients: &[Client], request: RequestId) -> Vec<u64> {
    let submits = clients.iter().map(|client| client.submit_with_id(request, group(nothing(), 2)));
    let answers = futures::future::join_all(submits).await;
    answers.into_iter().map(|answer| answer.unwrap().first_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_one_request_id_has_one_effect_at_all_masters_and_over_failovers() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let direct: Vec<Client> = cluster.master_ids().into_iter().map(|id| cluster.client_of(id)).collect();
    let mut first_ids = BTreeMap::new();
    for n in 0..30 {
        let ids = submit_everywhere(&direct, id(n, 1)).await;
        assert!(ids.iter().all(|other| *other == ids[0]), "one answer for all: {ids:?}");
        first_ids.insert(id(n, 1), ids[0]);
    }
    let reign = cluster.wait_leader().await;
    let racing: Vec<Client> = (0..3).map(|_| cluster.client()).collect();
    let submits = (0..10).map(|n| submit_everywhere(&racing, id(n, 2)));
    let kill = async { cluster.kill_master(reign.leader) };
    let (raced, ()) = tokio::join!(futures::future::join_all(submits), kill);
    for (n, ids) in raced.into_iter().enumerate() {
        assert!(ids.iter().all(|other| *other == ids[0]), "over the failover too: {ids:?}");
        first_ids.insert(id(n as u8, 2), ids[0]);
    }
    cluster.wait_newer_leader(reign).await;
    for (request, first_id) in &first_ids {
        let again = client.submit_with_id(*request, group(nothing(), 2)).await.unwrap();
        assert_eq!(again.first_id, *first_id, "the new leader remembers");
    }
    cluster.kill_all_masters();
    cluster.start_all();
    for (request, first_id) in &first_ids {
        let again = client.submit_with_id(*request, group(nothing(), 2)).await.unwrap();
        assert_eq!(again.first_id, *first_id, "and so do all after a restart");
    }
    let info = client.info().await.unwrap();
    assert_eq!(info.tasks.unwrap().submitted_total, 2 * first_ids.len() as u64, "nothing was submitted twice");
    let all: Vec<u64> = first_ids.values().flat_map(|first| [*first, first + 1]).collect();
    audit::sound(&client, &all, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_cancel_that_races_completion_and_a_failover_decides_once() {
    const TASKS: u64 = 240;
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    client.submit(group(shell("sleep 0.05"), TASKS as u32)).await.unwrap();
    let reign = cluster.wait_leader().await;
    let canceller = client.clone();
    let cancels = tokio::spawn(async move {
        let mut verdicts = BTreeMap::new();
        for id in (1..=TASKS).filter(|id| id % 3 != 0) {
            let result = canceller.cancel(vec![id]).await.unwrap().results.remove(0);
            verdicts.insert(id, (result.cancelled, result.state()));
        }
        verdicts
    });
    audit::wait_task(&client, TASKS / 4, "a quarter to be over", PATIENCE, |task| task.finished_ms > 0).await;
    cluster.kill_master(reign.leader);
    let verdicts = cancels.await.unwrap();
    let waited = client.wait(1, TASKS, Some(PATIENCE)).await.unwrap();
    assert!(waited.done, "{waited:?}");
    let tasks = all_tasks(&client).await;
    for (id, (cancelled, state)) in &verdicts {
        let now = tasks[id].state();
        assert_eq!(*state, now, "task {id}: its cancel was answered {state:?}, and it is {now:?} now");
        assert_eq!(*cancelled, now == TaskState::Cancelled, "task {id}");
    }
    assert!((1..=TASKS).filter(|id| id % 3 == 0).all(|id| tasks[&id].state() == TaskState::Succeeded));
    let cancelled = verdicts.values().filter(|(cancelled, _)| *cancelled).count();
    eprintln!("{cancelled} of {} cancels came in time", verdicts.len());
    assert!(cancelled > 0, "some cancels won");
    let history = History::read(&client).await.unwrap();
    assert_eq!(history.problems(), Vec::<String>::new());
    let outcomes = history.outcomes();
    assert!(
        tasks.iter().all(|(id, task)| outcomes.get(id) == Some(&task.state())),
        "one outcome each, the one that is read"
    );
    // A second cancel of everything changes nothing.
    client.cancel((1..=TASKS).collect()).await.unwrap();
    assert_eq!(all_tasks(&client).await, tasks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_a_repeated_cancel_and_a_repeated_retry_have_one_effect() {
    let cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let task = client.submit(one(shell("exit 3"))).await.unwrap().first_id;
    audit::wait_state(&client, task, TaskState::Failed, PATIENCE).await;
    let first = client.retry_with_id(id(1, 9), vec![task]).await.unwrap();
    for master in cluster.master_ids() {
        let again = cluster.client_of(master).retry_with_id(id(1, 9), vec![task]).await.unwrap();
        assert_eq!(again.results, first.results);
    }
    assert_eq!(client.info().await.unwrap().tasks.unwrap().submitted_total, 2);
}

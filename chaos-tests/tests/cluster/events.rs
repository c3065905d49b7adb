//! The event stream over failovers, and what is said when history was trimmed.

use std::sync::{Arc, Mutex};

use steersman_chaos_tests::audit::{self, all_tasks};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::history::{Counts, History};
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::poll::{until, until_now};
use steersman_chaos_tests::spec::{group, nothing};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::{Client, EventsFrom, codes};
use tokio::task::JoinHandle;

/// Follows the stream from its beginning.
fn follow(client: &Client) -> (Arc<Mutex<History>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(History::default()));
    let (ours, mut stream) = (seen.clone(), client.events(EventsFrom::Oldest, true));
    let task = tokio::spawn(async move {
        while let Some(item) = stream.next().await {
            ours.lock().unwrap().add(item.unwrap());
        }
    });
    (seen, task)
}

async fn caught_up(seen: &Mutex<History>, index: u64) -> History {
    until_now("the follower to have seen everything", PATIENCE, || {
        let last = seen.lock().unwrap().last_index();
        if last >= index { Ok(()) } else { Err(format!("{last} of {index}")) }
    })
    .await;
    seen.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_events_followed_over_failovers_have_no_gap_and_no_repeat() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let (seen, follower) = follow(&cluster.client());
    let load = Load::start(&client, 3, group(nothing(), 2));
    let mut reign = cluster.wait_leader().await;
    for _ in 0..3 {
        load.answered(20).await;
        // The follower reads from any master: all of them die once.
        cluster.kill_master(reign.leader);
        let next = cluster.wait_newer_leader(reign).await;
        cluster.start_master(reign.leader);
        reign = next;
    }
    for id in cluster.master_ids() {
        load.answered(10).await;
        cluster.kill_master(id);
        cluster.start_master(id);
        cluster.wait_leader().await;
    }
    let report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new());
    let fresh = audit::sound(&client, &report.acknowledged, PATIENCE).await;
    let followed = caught_up(&seen, fresh.last_index()).await;
    follower.abort();
    assert!(followed.reconnects > 0, "the stream was broken at least once");
    assert_eq!(followed.gaps, []);
    assert_eq!(followed.problems(), Vec::<String>::new());
    assert_eq!(followed.batches, fresh.batches, "what was followed is what is read at once");
    cluster.wait_agreement().await;
    for (id, info) in cluster.infos().await {
        let counts = info.tasks.unwrap();
        let read = Counts {
            submitted: counts.submitted_total,
            finished: counts.finished_total,
            succeeded: counts.succeeded,
            failed: counts.failed,
            cancelled: counts.cancelled,
        };
        assert_eq!(followed.fold(), read, "the events add up to what master {id} says");
        let own = History::read(&cluster.client_of(id)).await.unwrap();
        assert_eq!(own.batches, fresh.batches, "master {id} tells the same story");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_trimmed_history_is_said_with_a_gap_marker() {
    let keys = vec![("retention.events_max", "1000")];
    let cluster = Cluster::start(Settings { workers: 1, master_keys: keys, ..Settings::default() }).await;
    let client = cluster.client();
    let (seen, follower) = follow(&cluster.client());
    client.submit(group(nothing(), 600)).await.unwrap();
    audit::all_succeed(&client, 1, 600, PATIENCE).await;
    let trimmed = History::read_from(&client, EventsFrom::Index(1)).await.unwrap();
    let whole = caught_up(&seen, trimmed.last_index()).await;
    follower.abort();
    assert_eq!(whole.gaps, [], "whoever follows in time misses nothing");
    assert_eq!(whole.fold().finished, 600);
    assert_eq!(trimmed.gaps.len(), 1, "one marker: {:?}", trimmed.gaps);
    let (from, to) = trimmed.gaps[0];
    assert_eq!(from, 1);
    let after: Vec<_> = whole.batches.iter().filter(|batch| batch.index > to).cloned().collect();
    assert_eq!(trimmed.batches, after, "everything after the gap is there");
    assert!(after.len() < whole.batches.len(), "something was trimmed");
    let kept: usize = after.iter().map(|batch| batch.events.len()).sum();
    assert!(kept <= 1_000, "{kept} events are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_finished_tasks_are_kept_by_count_and_then_gone() {
    let keys = vec![("retention.finished_max", "100")];
    let cluster = Cluster::start(Settings { workers: 1, master_keys: keys, ..Settings::default() }).await;
    let client = cluster.client();
    client.submit(group(nothing(), 300)).await.unwrap();
    let tasks = until("the oldest to be trimmed", PATIENCE, async || {
        let waited = client.wait(1, 300, Some(PATIENCE)).await.map_err(|error| error.to_string())?;
        let tasks = all_tasks(&client).await;
        if waited.done && tasks.len() == 100 { Ok(tasks) } else { Err(format!("{} are kept: {waited:?}", tasks.len())) }
    })
    .await;
    assert!(tasks.keys().all(|id| *id > 100), "the newest are kept");
    assert!(client.get(1).await.unwrap_err().is(codes::TASK_NOT_FOUND));
    assert_eq!(client.wait_once(1, 1, 0).await.unwrap().gone, 1);
    assert_eq!(client.info().await.unwrap().tasks.unwrap().finished_total, 300, "the total remembers");
}

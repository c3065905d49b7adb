//! Reads are linearizable at every master, and say so when they are not.

use std::time::Duration;

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::wait_state;
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{nothing, one, shell};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::Class;
use steersman_client::v1::{Consistency, GetTaskRequest, TaskState};

fn stale(id: u64) -> GetTaskRequest {
    GetTaskRequest { id, consistency: Consistency::Stale.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_what_one_master_acknowledged_every_master_reads_at_once() {
    let cluster = Cluster::start(Settings { workers: 0, ..Settings::default() }).await;
    let direct: Vec<_> = cluster.master_ids().into_iter().map(|id| cluster.client_of(id)).collect();
    for round in 0..60 {
        let id = direct[round % 3].submit(one(nothing())).await.unwrap().first_id;
        for client in &direct {
            let answer = client.get(id).await.unwrap();
            let read = answer.read.unwrap();
            assert!(!read.stale && read.age_ms == 0, "{read:?}");
        }
        let cancelled = direct[(round + 1) % 3].cancel(vec![id]).await.unwrap();
        for client in &direct {
            let answer = client.get(id).await.unwrap();
            assert_eq!(answer.task.unwrap().state(), TaskState::Cancelled);
            assert!(answer.read.unwrap().applied_index >= cancelled.log_index);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_a_leader_that_was_frozen_never_answers_with_the_past() {
    let mut cluster = Cluster::start(Settings { workers: 0, ..Settings::default() }).await;
    let client = cluster.client();
    for _ in 0..3 {
        let id = client.submit(one(nothing())).await.unwrap().first_id;
        let reign = cluster.wait_leader().await;
        let frozen = cluster.client_of(reign.leader).with_timeout(Duration::from_secs(2));
        assert_eq!(frozen.get(id).await.unwrap().task.unwrap().state(), TaskState::Pending);
        cluster.master(reign.leader).process.signal(Signal::SIGSTOP);
        cluster.wait_newer_leader(reign).await;
        assert!(client.cancel(vec![id]).await.unwrap().results[0].cancelled);
        // Asked while it is frozen, it answers the moment it thaws, still believing that it leads.
        let early = tokio::spawn({
            let frozen = frozen.clone();
            async move { frozen.get(id).await }
        });
        until("the question to wait at its door", PATIENCE, async || {
            tokio::task::yield_now().await;
            if early.is_finished() { Err("it was answered".to_owned()) } else { Ok(()) }
        })
        .await;
        cluster.master(reign.leader).process.signal(Signal::SIGCONT);
        let mut answers = vec![early.await.unwrap()];
        until("the thawed master to answer", PATIENCE, async || {
            let answer = frozen.get(id).await;
            answers.push(answer.clone());
            answer.map(drop).map_err(|error| error.to_string())
        })
        .await;
        for answer in answers.into_iter().flatten() {
            assert_eq!(answer.task.unwrap().state(), TaskState::Cancelled, "the cancel was acknowledged before");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_without_a_quorum_only_stale_reads_are_answered_and_they_say_their_age() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let id = client.submit(one(shell("echo x"))).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    cluster.wait_agreement().await;
    for other in [1, 2] {
        cluster.master(other).process.signal(Signal::SIGSTOP);
    }
    let third = cluster.client_of(3).with_timeout(Duration::from_secs(4));
    let error = third.get(id).await.unwrap_err();
    assert!(matches!(error.class(), Class::Unavailable | Class::OutcomeUnknown), "{error}");
    until("a stale read to say that it is old", PATIENCE, async || {
        let answer = third.get_with(stale(id)).await.map_err(|error| error.to_string())?;
        let read = answer.read.unwrap();
        assert!(read.stale && read.served_by == 3, "{read:?}");
        assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded);
        if read.age_ms >= 1_500 { Ok(()) } else { Err(format!("{read:?}")) }
    })
    .await;
    for other in [1, 2] {
        cluster.master(other).process.signal(Signal::SIGCONT);
    }
    until("linearizable reads again", PATIENCE, async || third.get(id).await.map_err(|error| error.to_string())).await;
}

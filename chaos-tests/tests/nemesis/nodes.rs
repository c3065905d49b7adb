//! Processes: killed, frozen, restarted, told to hand over; workers gone for longer than their lease.

use steersman_chaos_tests::PATIENCE;
use steersman_chaos_tests::nemesis::Class;
use steersman_chaos_tests::poll::until;
use steersman_client::v1::WorkerStatus;
use steersman_client::worker_ref;

use crate::{Story, wanted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_that_are_killed_frozen_or_restarted_come_back() {
    let test = "masters";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    for class in [Class::Kill, Class::Pause] {
        story
            .through(class, async |bed, active| {
                let id = *active.masters.first().unwrap();
                assert_eq!(bed.impaired(), [id].into());
                assert!(bed.cluster().info_of(id).await.is_none(), "it does not answer");
                let reign = bed.cluster().wait_leader().await;
                assert_ne!(reign.leader, id);
            })
            .await;
    }
    let before = story.bed.cluster().wait_leader().await;
    story
        .through(Class::StepDown, async |bed, _| {
            let after = bed.cluster().wait_newer_leader(before).await;
            assert_ne!(after.leader, before.leader);
        })
        .await;
    let pids: Vec<_> = story.bed.masters().iter().map(|id| story.bed.cluster().master(*id).process.pid()).collect();
    story
        .through(Class::RollingRestart, async |bed, _| {
            let now: Vec<_> = bed.masters().iter().map(|id| bed.cluster().master(*id).process.pid()).collect();
            assert!(pids.iter().zip(&now).all(|(old, new)| old != new), "{pids:?} {now:?}");
        })
        .await;
    story
        .through(Class::AllMastersDown, async |bed, _| {
            assert_eq!(bed.cluster().infos().await.len(), 0);
            assert!(bed.fit().is_empty() && !bed.reachable("w1"));
        })
        .await;
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_gone_for_longer_than_their_lease_are_lost_and_come_back() {
    let test = "workers";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    for class in [Class::WorkerKill, Class::WorkerPause, Class::WorkerCut] {
        story
            .through(class, async |bed, active| {
                let name = active.workers.first().unwrap().clone();
                assert!(!bed.reachable(&name));
                let client = bed.client();
                until(&format!("{name} to be lost"), PATIENCE, async || {
                    let answer = client.worker_get(worker_ref(&name)).await.map_err(|error| error.to_string())?;
                    let status = answer.worker.map(|worker| worker.status());
                    if status == Some(WorkerStatus::Offline) { Ok(()) } else { Err(format!("{status:?}")) }
                })
                .await;
            })
            .await;
        assert!(story.bed.workers().iter().all(|name| story.bed.reachable(name)), "after {class}");
    }
    story.end().await;
}

/// What the cluster's wall clock says, in ms since 1970: when a task was submitted.
async fn wall_ms(story: &Story) -> i64 {
    use steersman_client::v1::{Consistency, GetTaskRequest};
    let client = story.bed.client();
    let task =
        client.submit(steersman_chaos_tests::spec::one(steersman_chaos_tests::spec::nothing())).await.unwrap().first_id;
    let request = GetTaskRequest { id: task, consistency: Consistency::Linearizable.into() };
    let task = client.get_with(request).await.unwrap().task.unwrap();
    i64::try_from(task.submitted_ms).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_wrong_wall_clocks_are_shown_and_decide_nothing() {
    let test = "clocks";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    let leader = story.bed.cluster().wait_leader().await.leader;
    let spot = steersman_chaos_tests::bed::links::Spot::Master(leader);
    let year_ns = 365 * 86_400 * 1_000_000_000_i64;
    let before = wall_ms(&story).await;
    story.bed.order(spot, |orders| orders.wall_offset(3 * year_ns)).unwrap().unwrap();
    let after = wall_ms(&story).await;
    assert!(after - before > 2 * year_ns / 1_000_000, "the leader's clock is in the future: {before} {after}");
    story.bed.order(spot, |orders| orders.wall_offset(0)).unwrap().unwrap();
    for class in [Class::ClockJump, Class::ClockDrift, Class::ClockJump] {
        let reign = story.bed.cluster().wait_leader().await;
        story.through(class, async |_, _| {}).await;
        assert_eq!(story.bed.cluster().wait_leader().await, reign, "{class} moved the office");
        assert!(story.bed.workers().iter().all(|name| story.bed.reachable(name)));
    }
    let client = story.bed.client();
    let workers = steersman_chaos_tests::cluster::workers(&client).await.unwrap();
    assert!(workers.iter().all(|worker| worker.connected), "{workers:?}");
    story.end().await;
}

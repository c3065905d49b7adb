//! The office changes hands, by murder and in good order: what was acknowledged stays, what runs goes on.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::{self, pid_on, task, wait_state};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::poll::{until, until_now};
use steersman_chaos_tests::process::is_alive;
use steersman_chaos_tests::spec::{group, nothing, one, shell, stopping};
use steersman_chaos_tests::{Cluster, Settings, http};
use steersman_client::Class;
use steersman_client::v1::{TaskSpec, TaskState};

/// Longest call of a client that is let through a change of leader in good order, on a busy machine.
const HANDOVER_CALL_MAX: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_no_acknowledged_submit_is_lost_when_leaders_are_killed_under_load() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let load = Load::start(&client, 4, group(nothing(), 2));
    let mut reign = cluster.wait_leader().await;
    for _ in 0..2 {
        load.answered(40).await;
        cluster.kill_master(reign.leader);
        let killed = Instant::now();
        load.answered(1).await;
        eprintln!("first answer {:?} after the leader was killed", killed.elapsed());
        let next = cluster.wait_newer_leader(reign).await;
        load.answered(40).await;
        cluster.start_master(reign.leader);
        reign = next;
    }
    load.answered(20).await;
    let report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new());
    audit::sound(&client, &report.acknowledged, PATIENCE).await;
    cluster.wait_agreement().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_nothing_is_lost_when_all_masters_are_killed_and_started_again() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let long = client.submit(one(shell("sleep 6; echo survived"))).await.unwrap().first_id;
    wait_state(&client, long, TaskState::Running, PATIENCE).await;
    let load = Load::start(&client, 4, group(nothing(), 2));
    for _ in 0..2 {
        let reign = cluster.wait_leader().await;
        load.answered(40).await;
        cluster.kill_all_masters();
        cluster.start_all();
        cluster.wait_newer_leader(reign).await;
    }
    load.answered(20).await;
    let mut report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new());
    report.acknowledged.push(long);
    audit::sound(&client, &report.acknowledged, PATIENCE).await;
    assert_eq!(task(&client, long).await.attempts_total, 1, "what ran went on while there was no master");
    assert_eq!(audit::output(&client, long).await, "survived\n");
    cluster.wait_agreement().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_task_of_20_seconds_survives_two_changes_of_leader() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let starts = cluster.scratch().join("starts");
    let line = format!("echo $$ $STEERSMAN_FENCING_TOKEN >> {}; sleep 20; echo done", starts.display());
    let id = client.submit(one(shell(&line))).await.unwrap().first_id;
    let before = wait_state(&client, id, TaskState::Running, PATIENCE).await;
    let worker = &before.attempts[0].worker_name;
    let pid = pid_on(&client, worker).await;
    for _ in 0..2 {
        let reign = cluster.wait_leader().await;
        cluster.kill_master(reign.leader);
        cluster.wait_newer_leader(reign).await;
        cluster.wait_workers(2).await;
        cluster.start_master(reign.leader);
        assert_eq!(pid_on(&client, worker).await, pid, "the same process");
    }
    let after = wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    assert_eq!((after.attempts_total, after.attempts[0].token), (1, before.attempts[0].token));
    let seen = std::fs::read_to_string(&starts).unwrap();
    assert_eq!(seen.lines().collect::<Vec<_>>(), [format!("{pid} {}", before.attempts[0].token)]);
    assert_eq!(audit::output(&client, id).await, "done\n");
    let history = audit::sound(&client, &[id], PATIENCE).await;
    let lost = history.worker_changes().into_iter().filter(|(_, change)| change == "lost").count();
    assert_eq!(lost, 0, "no live worker was declared lost: {:?}", history.worker_changes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_leadership_is_transferred_under_load_and_no_request_fails() {
    let cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let load = Load::start(&client, 4, group(nothing(), 1));
    let mut took = Vec::new();
    for n in 0..6 {
        load.answered(20).await;
        let reign = cluster.wait_leader().await;
        let to = if n % 2 == 0 { reign.leader % 3 + 1 } else { 0 };
        let answer = client.step_down(to).await.unwrap();
        took.push(answer.took_ms);
        let next = cluster.wait_newer_leader(reign).await;
        assert_ne!(next.leader, reign.leader);
        assert!(to == 0 || next.leader == to, "asked for {to}, got {next:?}");
    }
    load.answered(20).await;
    let report = load.stop().await;
    eprintln!("transfers took {took:?} ms; the longest of {} submits took {:?}", report.calls, report.slowest);
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(report.slowest < HANDOVER_CALL_MAX, "a submit took {:?}", report.slowest);
    audit::sound(&client, &report.acknowledged, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_leader_that_is_asked_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    let long = client.submit(one(shell("sleep 4"))).await.unwrap().first_id;
    let load = Load::start(&client, 4, group(nothing(), 1));
    load.answered(20).await;
    let reign = cluster.wait_leader().await;
    let ended = cluster.stop_master(reign.leader).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(ended.text.contains("leadership handed over"), "{}", ended.text);
    load.answered(20).await;
    let mut report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(report.slowest < HANDOVER_CALL_MAX, "a submit took {:?}", report.slowest);
    report.acknowledged.push(long);
    audit::sound(&client, &report.acknowledged, PATIENCE).await;
    assert_eq!(task(&client, long).await.attempts_total, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_status_works_and_submits_say_so_until_it_is_back() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let client = cluster.client();
    cluster.kill_master(1);
    cluster.kill_master(2);
    let http = cluster.master(3).addresses().http;
    until("master 3 to say that it is not ready", PATIENCE, async || {
        let info = cluster.info_of(3).await.ok_or("no answer")?;
        if info.ready || http::is_ok(&http, "/readyz").await { Err(format!("{info:?}")) } else { Ok(()) }
    })
    .await;
    assert!(http::is_ok(&http, "/livez").await, "it lives");
    let error = client.with_timeout(Duration::from_secs(2)).submit(one(nothing())).await.unwrap_err();
    assert!(matches!(error.class(), Class::Unavailable | Class::OutcomeUnknown), "{error}");
    let status = cluster.cli().run(&["status", "--timeout", "2s"]).await;
    assert!(status.out.contains('3'), "status works without a leader: {status:?}");
    let submit = cluster.cli().run(&["task", "submit", "--timeout", "2s", "--", "true"]).await;
    assert_eq!(submit.code, 4, "{submit:?}");
    let (api, dead) = (cluster.master(3).addresses().api, cluster.master(1).addresses().api);
    for words in [&format!("asked {api}"), &format!("asked {dead}  connection refused"), "code  STM-100"] {
        assert!(submit.err.contains(words), "{words:?} is missing: {submit:?}");
    }
    cluster.start_all();
    cluster.wait_leader().await;
    cluster.wait_workers(2).await;
    let id = client.submit(one(nothing())).await.unwrap().first_id;
    wait_state(&client, id, TaskState::Succeeded, PATIENCE).await;
    assert!(http::is_ok(&http, "/readyz").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p09_a_leader_without_a_quorum_renews_no_lease() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let spec = TaskSpec { kill_grace_ms: 1, ..stopping(shell("exec sleep 60")) };
    client.submit(one(spec)).await.unwrap();
    let pid = pid_on(&client, "w1").await;
    let reign = cluster.wait_leader().await;
    // The worker and its leader go on talking to each other; the others could have elected another leader from now on.
    let frozen = Instant::now();
    for id in (1..=3).filter(|id| *id != reign.leader) {
        cluster.master(id).process.signal(Signal::SIGSTOP);
    }
    let lease = cluster.settings.lease();
    until_now("the end of the attempt", PATIENCE, || if is_alive(pid) { Err("it runs".to_owned()) } else { Ok(()) })
        .await;
    let ran = frozen.elapsed();
    for id in (1..=3).filter(|id| *id != reign.leader) {
        cluster.master(id).process.signal(Signal::SIGCONT);
    }
    assert!(ran < lease, "a newer leader's lease of {lease:?} would have ended before the attempt: {ran:?}");
}

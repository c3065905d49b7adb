//! What a worker says to a leader and what it makes of the answers; the work is handlers.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use steersman_proto::codes;
use steersman_proto::v1::{Label, Outcome, TaskSpec, WorkerMode};
use steersman_proto::worker::v1::{
    HealthCheck, ReportsAck, Shutdown, UpdateConfig, Welcome, master_message, worker_message,
};
use steersman_worker::{Echo, HandlerContext, Noop, Worker, WorkerBuilder, WorkerError, exit};
use steersman_world::World;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

fn worker(dir: &tempfile::TempDir, masters: &[&FakeMaster]) -> WorkerBuilder {
    of_config(config(dir.path(), masters))
}

fn of_config(config: steersman_worker::WorkerConfig) -> WorkerBuilder {
    Worker::builder(config, World::real())
        .handler("noop", Noop)
        .handler("echo", Echo)
        .handler("stuck", |_: HandlerContext| -> futures::future::BoxFuture<'static, _> {
            Box::pin(std::future::pending())
        })
}

#[tokio::test]
async fn an_assignment_is_run_and_reported_until_acknowledged() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    let hello = &session.hello;
    assert_eq!((hello.protocol, hello.name.as_str(), hello.incarnation, hello.uid.len()), (1, "w1", 1, 16));
    assert_eq!(hello.labels, [Label { key: "zone".into(), value: "a".into() }]);
    session.assign([7], handler("echo")).await;
    let first = session.end_of(7).await;
    let ended = first.ended.clone().unwrap();
    assert_eq!((ended.outcome(), &ended.result[..], first.task_id), (Outcome::Succeeded, &b"hi"[..], 7));
    assert_eq!(session.end_of(7).await, first, "unacknowledged: it is sent again");
    session.acknowledge(7).await;
    // A repetition may be on its way; after it there is silence about 7.
    session.assign([8], handler("noop")).await;
    session.finish(8).await;
    let later = tokio::time::timeout(Duration::from_millis(2_500), session.reports()).await;
    assert!(later.is_err(), "acknowledged, yet sent again: {later:?}");
}

#[tokio::test]
async fn p03_a_repeated_assignment_runs_once() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let count = move |_: HandlerContext| -> futures::future::BoxFuture<'static, _> {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(Bytes::new())
        })
    };
    let _worker = Local::run(worker(&dir, &[&master]).handler("count", count).build());
    let mut session = master.welcomed().await;
    session.assign([1, 1], handler("count")).await;
    session.assign([1], handler("count")).await;
    session.end_of(1).await;
    session.assign([1], handler("count")).await;
    let again = Instant::now();
    session.end_of(1).await;
    assert!(
        again.elapsed() < Duration::from_millis(900),
        "a repeated assignment is answered at once with the kept end"
    );
    session.acknowledge(1).await;
    session.assign([1], handler("count")).await;
    session.assign([2], handler("count")).await;
    session.finish(2).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2, "token 1 ran once, token 2 once");
}

#[tokio::test]
async fn p04_a_new_session_tells_what_is_held_and_dropped_attempts_are_killed() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    assert_eq!(session.hello.cluster_id, "");
    session.assign([1], handler("echo")).await;
    session.assign([2, 3], handler("stuck")).await;
    session.end_of(1).await;
    session.started(2).await;
    let incarnation = session.hello.incarnation;
    drop(session);

    let mut session = master.session().await;
    assert_eq!((session.hello.cluster_id.as_str(), session.hello.incarnation), (CLUSTER, incarnation));
    assert_eq!(session.hello.held_tokens, [1, 2, 3]);
    session.welcome(Welcome { drop_tokens: vec![1, 2], ..welcome() }).await;
    // 1 and 2 are gone without a word; their slots are free, 3 goes on.
    session.assign([4], handler("noop")).await;
    session.finish(4).await;
    session.send(master_message::Kind::HealthCheck(HealthCheck { nonce: 5 })).await;
    let running = loop {
        match session.next().await {
            worker_message::Kind::Health(health) => break health.running,
            worker_message::Kind::Reports(reports) => {
                assert!(reports.reports.iter().all(|report| report.token > 2), "{reports:?}");
            }
            _ => {}
        }
    };
    assert_eq!(running.iter().map(|one| one.token).collect::<Vec<_>>(), [3]);
    session.cancel(3).await;
    drop(session);
    let session = master.session().await;
    assert_eq!(session.hello.held_tokens, [3]);
}

#[tokio::test]
async fn a_redirect_is_followed_and_a_newer_leader_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, mut second, mut third) =
        (FakeMaster::start().await, FakeMaster::start().await, FakeMaster::start().await);
    first.says_leads(3, Some(first.addr.clone()));
    first.refuses(Some(refusal(codes::NOT_LEADER, &[("term", "4"), ("leader_api", &second.addr)])));
    let _worker = Local::run(worker(&dir, &[&first]).build());
    let mut session = second.session().await;
    let others =
        [&third].map(|master| steersman_proto::v1::MasterAddress { api: master.addr.clone(), ..Default::default() });
    session.welcome(Welcome { term: 4, masters: others.to_vec(), ..welcome() }).await;
    session.assign([1], handler("noop")).await;
    session.finish(1).await;
    // Older news changes nothing; newer news moves the session, although the old stream is healthy.
    first.says_leads(2, Some(first.addr.clone()));
    third.says_leads(5, Some(third.addr.clone()));
    let moved = third.welcomed().await;
    assert!(session.is_closed().await);
    drop(moved);
}

#[tokio::test]
async fn p04_a_newer_leader_is_followed_while_the_old_one_keeps_a_session_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (mut frozen, mut next) = (FakeMaster::leading().await, FakeMaster::start().await);
    let _worker = Local::run(worker(&dir, &[&frozen, &next]).build());
    // It accepts the session and says no more, as a frozen master does whose connections are still there.
    let _unanswered = frozen.session().await;
    let began = std::time::Instant::now();
    next.says_leads(2, Some(next.addr.clone()));
    next.welcomed().await;
    assert!(began.elapsed() < Duration::from_secs(2), "a lease can be as short as this: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_hello_that_nobody_answers_is_said_again_before_the_lease_is_over() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let lease = Duration::from_millis(1_600);
    let session = master.session().await;
    session.welcome(Welcome { lease_ms: lease.as_millis() as u32, ..welcome() }).await;
    drop(session);
    // It hears the worker and says nothing: as if the connection were gone without a word.
    let began = std::time::Instant::now();
    let _unanswered = master.session().await;
    master.welcomed().await;
    assert!(began.elapsed() < lease, "{:?}", began.elapsed());
}

#[tokio::test]
async fn sessions_that_lived_and_broke_do_not_slow_down_the_next_one() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    let mut between = Duration::ZERO;
    for _ in 0..12 {
        // As in a rolling restart: each leader is good for some heartbeats.
        soon("three heartbeats", session.heartbeats.wait_for(|seen| seen.len() >= 3)).await.unwrap();
        drop(session);
        let began = Instant::now();
        session = master.welcomed().await;
        between += began.elapsed();
    }
    // Waits that grow from failure to failure add up to more than 3.5 s.
    assert!(between < Duration::from_millis(2_500), "{between:?}");
}

#[tokio::test]
async fn refusals_that_last_end_the_worker_with_a_named_code() {
    for (code, exit) in [
        (codes::WRONG_CLUSTER, exit::FOREIGN_DATA),
        (codes::DUPLICATE_WORKER, exit::FOREIGN_DATA),
        (codes::STALE_INCARNATION, exit::FOREIGN_DATA),
        (codes::WRONG_VERSION, exit::PROTOCOL),
        (codes::INVALID_ARGUMENT, exit::CONFIG),
    ] {
        let (dir, master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
        master.refuses(Some(refusal(code, &[])));
        let error = Local::run(worker(&dir, &[&master]).build()).ended().await.unwrap_err();
        assert_eq!(error.exit(), exit, "{error}");
        assert!(error.to_string().contains(code.reason), "{error}");
    }
}

#[tokio::test]
async fn p13_a_foreign_cluster_is_refused_by_the_worker_itself() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let mut first = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    first.shut_down();
    session.is_closed().await;
    first.ended().await.unwrap();

    let second = Local::run(worker(&dir, &[&master]).build());
    let session = master.session().await;
    assert_eq!((session.hello.cluster_id.as_str(), session.hello.incarnation), (CLUSTER, 2));
    session.welcome(Welcome { cluster_id: "another".into(), ..welcome() }).await;
    let error = second.ended().await.unwrap_err();
    assert_eq!(error.exit_code(), exit::FOREIGN_DATA.code);
    assert!(error.to_string().contains("another") && error.to_string().contains(CLUSTER), "{error}");
}

#[tokio::test]
async fn transient_refusals_are_tried_again() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    master.refuses(Some(refusal(codes::OVERLOADED, &[])));
    let _worker = Local::run(worker(&dir, &[&master]).build());
    tokio::time::sleep(Duration::from_millis(300)).await;
    master.refuses(None);
    master.welcomed().await;
}

#[tokio::test]
async fn a_silent_leader_is_left_and_asked_again() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    master.acknowledges_heartbeats(false);
    assert!(session.is_closed().await);
    master.acknowledges_heartbeats(true);
    master.welcomed().await;
}

#[tokio::test]
async fn configuration_is_applied_and_health_has_facts() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.session().await;
    session.welcome(Welcome { capacity: 1, ..welcome() }).await;
    session.assign([1, 2], handler("stuck")).await;
    session.started(1).await;
    let update = UpdateConfig { version: 9, capacity: 2, heartbeat_ms: 20, labels: vec![] };
    session.send(master_message::Kind::UpdateConfig(update)).await;
    let applied = loop {
        if let worker_message::Kind::ConfigApplied(applied) = session.next().await {
            break applied;
        }
    };
    assert_eq!(applied.version, 9);
    session.started(2).await;
    session.send(master_message::Kind::HealthCheck(HealthCheck { nonce: 77 })).await;
    let health = loop {
        if let worker_message::Kind::Health(health) = session.next().await {
            break health;
        }
    };
    let load = health.load.unwrap();
    assert_eq!((health.nonce, health.running.len(), load.running), (77, 2, 2));
    assert!(load.memory_total_bytes > 0 && load.disk_free_bytes > 0, "{load:?}");
}

#[tokio::test]
async fn cancelling_what_is_not_here_is_answered_so_that_nobody_asks_for_ever() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.welcomed().await;
    session.cancel(99).await;
    assert_eq!(session.finish(99).await.outcome(), Outcome::Cancelled);
}

#[tokio::test]
async fn a_drain_finishes_what_runs_then_says_goodbye() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let slow = |ctx: HandlerContext| -> futures::future::BoxFuture<'static, _> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(ctx.payload)
        })
    };
    let mut running = Local::run(worker(&dir, &[&master]).handler("slow", slow).build());
    let mut session = master.welcomed().await;
    session.assign([1], handler("slow")).await;
    session.started(1).await;
    running.shut_down();
    let mode = soon("the request to drain", master.modes.recv()).await.unwrap();
    assert_eq!((mode.mode(), mode.worker.unwrap().name.as_str(), mode.request_id.len()), (WorkerMode::Drain, "w1", 16));
    assert_eq!(session.end_of(1).await.ended.unwrap().outcome(), Outcome::Succeeded);
    let quiet = tokio::time::timeout(Duration::from_millis(200), async {
        loop {
            if let worker_message::Kind::Goodbye(_) = session.next().await {
                return;
            }
        }
    });
    assert!(quiet.await.is_err(), "no goodbye before the report is acknowledged");
    session.acknowledge(1).await;
    let goodbye = loop {
        if let worker_message::Kind::Goodbye(goodbye) = session.next().await {
            break goodbye;
        }
    };
    assert!(goodbye.reason.contains("nothing is left"), "{}", goodbye.reason);
    drop(session);
    running.ended().await.unwrap();
}

#[tokio::test]
async fn after_the_drain_deadline_the_rest_is_killed_and_given_back() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let mut config = config(dir.path(), &[&master]);
    (config.drain_deadline_ms, config.kill_grace_ms) = (100, 50);
    let mut running = Local::run(of_config(config).build());
    let mut session = master.welcomed().await;
    session.assign([1], handler("stuck")).await;
    session.started(1).await;
    running.shut_down();
    assert_eq!(session.finish(1).await.outcome(), Outcome::WorkerShutdown);
    session.is_closed().await;
    running.ended().await.unwrap();
}

#[tokio::test]
async fn the_leader_can_shut_a_worker_down_at_once() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let mut config = config(dir.path(), &[&master]);
    config.kill_grace_ms = 50;
    let running = Local::run(of_config(config).build());
    let mut session = master.welcomed().await;
    session.assign([1, 2, 3, 4, 5], handler("stuck")).await;
    session.started(1).await;
    session.send(master_message::Kind::Shutdown(Shutdown { now: true, deadline_ms: 0 })).await;
    let mut left: std::collections::BTreeSet<u64> = (1..=5).collect();
    while !left.is_empty() {
        for report in session.reports().await {
            let Some(ended) = report.ended else { continue };
            assert_eq!(ended.outcome(), Outcome::WorkerShutdown);
            left.remove(&report.token);
            session.acknowledge(report.token).await;
        }
    }
    session.is_closed().await;
    running.ended().await.unwrap();
}

#[tokio::test]
async fn p09_handlers_that_stop_are_stopped_before_the_lease_ends() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let session = master.session().await;
    session.welcome(Welcome { lease_ms: 1_500, ..welcome() }).await;
    let mut stop = handler("stuck");
    stop.on_partition = steersman_proto::v1::OnPartition::Stop.into();
    session.assign([1], stop).await;
    session.assign([2], TaskSpec { kill_grace_ms: 100, ..handler("stuck") }).await;
    let mut session = session;
    session.started(1).await;
    master.acknowledges_heartbeats(false);
    master.refuses(Some(refusal(codes::NO_LEADER, &[])));
    session.is_closed().await;
    // Longer than the lease: the worker is cut off.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    master.refuses(None);
    master.acknowledges_heartbeats(true);
    let mut session = master.welcomed().await;
    assert_eq!(session.hello.held_tokens, [1, 2]);
    assert_eq!(session.finish(1).await.outcome(), Outcome::PartitionStop);
    session.cancel(2).await;
    assert_eq!(session.finish(2).await.outcome(), Outcome::Cancelled, "continue goes on until it is cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_attempts_flow_and_heartbeats_go_on() {
    const TOTAL: u64 = 20_000;
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let _worker = Local::run(worker(&dir, &[&master]).build());
    let mut session = master.session().await;
    session.welcome(Welcome { capacity: 1_000, ..welcome() }).await;
    let began = Instant::now();
    for first in (1..=TOTAL).step_by(500) {
        session.assign(first..first + 500, handler("noop")).await;
    }
    let mut left: std::collections::BTreeSet<u64> = (1..=TOTAL).collect();
    let (mut messages, mut starts) = (0u32, 0u32);
    while !left.is_empty() {
        let reports = session.reports().await;
        messages += 1;
        starts += reports.iter().filter(|report| report.ended.is_none()).count() as u32;
        let tokens: Vec<u64> =
            reports.iter().filter(|report| report.ended.is_some()).map(|report| report.token).collect();
        for token in &tokens {
            left.remove(token);
        }
        session.send(master_message::Kind::ReportsAck(ReportsAck { tokens, started_tokens: vec![] })).await;
    }
    let took = began.elapsed();
    println!(
        "{TOTAL} no-ops in {took:?}: {:.0}/s, {messages} messages, {starts} starts reported",
        TOTAL as f64 / took.as_secs_f64()
    );
    let beats: Vec<Instant> = session.heartbeats.borrow().iter().map(|(at, _)| *at).collect();
    let worst = beats.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    assert!(worst < Duration::from_millis(500), "a heartbeat was late by {worst:?}");
}

#[tokio::test]
async fn metrics_and_readiness_are_served() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let mut config = config(dir.path(), &[&master]);
    config.http = Some("127.0.0.1:0".into());
    let (tell, bound) = tokio::sync::oneshot::channel();
    let _worker = Local::run(of_config(config).http_bound(tell).build());
    let addr = soon("the listener", bound).await.unwrap();
    assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 200"));
    let early = master.session().await;
    assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 503"));
    early.welcome(welcome()).await;
    let deadline = Instant::now() + PATIENCE;
    while !get(addr, "/readyz").await.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "never ready");
    }
    let metrics = get(addr, "/metrics").await;
    assert!(
        metrics.contains("steersman_worker_session_open 1") && metrics.contains("steersman_worker_capacity_slots 4"),
        "{metrics}"
    );
}

async fn get(addr: std::net::SocketAddr, path: &str) -> String {
    let mut io = tokio::net::TcpStream::connect(addr).await.unwrap();
    io.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn p15_a_port_in_use_and_a_locked_directory_have_their_codes() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = config(dir.path(), &[&master]);
    busy.http = Some(taken.local_addr().unwrap().to_string());
    let error = Local::run(of_config(busy).build()).ended().await.unwrap_err();
    assert_eq!(error.exit(), exit::PORT_IN_USE, "{error}");

    let _first = Local::run(worker(&dir, &[&master]).build());
    master.welcomed().await;
    let error = Local::run(worker(&dir, &[&master]).build()).ended().await.unwrap_err();
    assert!(matches!(error, WorkerError::Locked { .. }), "{error}");
}

//! Child processes under a real keeper: how they start, end, are ended, and what they wrote.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use steersman_proto::codes;
use steersman_proto::v1::task_spec::Work;
use steersman_proto::v1::{Label, LogStream, OnPartition, Outcome, TaskSpec};
use steersman_proto::worker::v1::{ReportsAck, Welcome, master_message};
use steersman_worker::{Worker, WorkerConfig};
use steersman_world::World;
use support::*;
use tokio::time::Instant;

struct Fixture {
    master: FakeMaster,
    session: FakeSession,
    worker: Local,
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}, welcome()).await
    }

    async fn with(change: impl FnOnce(&mut WorkerConfig), welcome: Welcome) -> Self {
        let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
        let mut config = config(dir.path(), &[&master]);
        change(&mut config);
        let worker = Local::run(Worker::builder(config, World::real()).processes(keeper()).build());
        let session = master.session().await;
        session.welcome(welcome).await;
        Self { master, session, worker, dir }
    }

    /// Every test ends in good order, so that no keeper is left.
    async fn close(mut self) {
        self.worker.shut_down();
        self.session.is_closed().await;
        self.worker.ended().await.unwrap();
        let sock = self.dir.path().join("keeper.sock");
        until("the keeper's end", || (!sock.exists()).then_some(())).await;
    }
}

fn stopping(mut spec: TaskSpec) -> TaskSpec {
    spec.on_partition = OnPartition::Stop.into();
    spec
}

#[tokio::test]
async fn a_command_gets_its_environment_and_its_output_is_kept() {
    let mut t = Fixture::new().await;
    let mut spec = shell(
        "cat; echo $STEERSMAN_TASK_ID $STEERSMAN_ATTEMPT $STEERSMAN_FENCING_TOKEN $STEERSMAN_WORKER $STEERSMAN_ARRAY_INDEX $COLOR; pwd >&2; exit 3",
    );
    spec.env = vec![
        Label { key: "COLOR".into(), value: "blue".into() },
        Label { key: "STEERSMAN_TASK_ID".into(), value: "forged".into() },
    ];
    if let Some(Work::Command(command)) = &mut spec.work {
        command.stdin = "from stdin\n".into();
    }
    t.session.assign([41], spec).await;
    let ended = t.session.finish(41).await;
    assert_eq!((ended.outcome(), ended.exit_code), (Outcome::Exited, 3));
    assert_eq!(t.session.whole_log(41, LogStream::Stdout).await, "from stdin\n41 1 41 w1 41 blue\n");
    assert!(t.session.whole_log(41, LogStream::Stderr).await.ends_with("attempts/41/work\n"));
    t.close().await;
}

#[tokio::test]
async fn each_way_to_end_has_its_outcome() {
    let mut t = Fixture::new().await;
    let program = |argv: &[&str]| command(argv.iter().map(|arg| (*arg).to_owned()).collect());
    let mut slow = shell("sleep 60");
    (slow.timeout_ms, slow.kill_grace_ms) = (150, 100);
    let mut nowhere = program(&["true"]);
    if let Some(Work::Command(command)) = &mut nowhere.work {
        command.workdir = "/no/such/dir".into();
    }
    for (token, spec, outcome, code, text) in [
        (1, program(&["true"]), Outcome::Succeeded, 0, ""),
        (2, program(&["false"]), Outcome::Exited, 1, ""),
        (3, shell("kill -9 $$"), Outcome::Signaled, 9, ""),
        (4, slow, Outcome::TimedOut, 15, "its timeout of 150 ms"),
        (5, program(&["no-such-program"]), Outcome::CannotStart, 127, "not found in PATH="),
        (6, program(&["/no/such/program"]), Outcome::CannotStart, 127, "not found"),
        (7, program(&["/etc/passwd"]), Outcome::CannotStart, 126, "/etc/passwd"),
        (8, program(&[]), Outcome::CannotStart, 126, "empty"),
        (9, nowhere, Outcome::CannotStart, 126, "/no/such/dir"),
    ] {
        t.session.assign([token], spec).await;
        let ended = t.session.finish(token).await;
        assert_eq!((ended.outcome(), ended.exit_code), (outcome, code), "{token}: {}", ended.message);
        assert!(ended.message.contains(text), "{token}: {}", ended.message);
    }
    t.close().await;
}

#[tokio::test]
async fn a_silent_attempt_leaves_no_files_and_an_empty_log() {
    let mut t = Fixture::new().await;
    t.session.assign([5], command(vec!["true".into()])).await;
    t.session.finish(5).await;
    let dir = t.dir.path().join("attempts/5");
    until("the directory's removal", || (!dir.exists()).then_some(())).await;
    let reply = t.session.read_log(5, LogStream::Stdout, 0, 0).await;
    assert!(reply.end && reply.data.is_empty() && !reply.not_found, "{reply:?}");
    assert!(t.session.read_log(6, LogStream::Stdout, 0, 0).await.not_found);
    t.close().await;
}

#[tokio::test]
async fn a_log_is_read_while_it_is_written() {
    let mut t = Fixture::new().await;
    let gate = t.dir.path().join("gate");
    t.session
        .assign([1], shell(&format!("echo one; until [ -e {} ]; do sleep 0.02; done; echo two", gate.display())))
        .await;
    let mut first = t.session.read_log(1, LogStream::Stdout, 0, 5_000).await;
    while first.data.is_empty() {
        first = t.session.read_log(1, LogStream::Stdout, 0, 5_000).await;
    }
    assert_eq!((&first.data[..], first.next_offset, first.end), (&b"one\n"[..], 4, false));
    let asked = Instant::now();
    let nothing = t.session.read_log(1, LogStream::Stdout, 4, 200).await;
    assert!(nothing.data.is_empty() && !nothing.end && nothing.next_offset == 4, "{nothing:?}");
    assert!(asked.elapsed() >= Duration::from_millis(100), "it did not wait");
    std::fs::write(gate, "").unwrap();
    let rest = t.session.whole_log(1, LogStream::Stdout).await;
    assert_eq!(rest, "one\ntwo\n");
    t.session.finish(1).await;
    t.close().await;
}

#[tokio::test]
async fn p14_output_past_the_bound_loses_its_oldest_bytes_and_counts_them() {
    let mut t = Fixture::with(|config| config.output_bytes_max = 65_536, welcome()).await;
    t.session.assign([1], shell("i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done")).await;
    assert_eq!(t.session.finish(1).await.outcome(), Outcome::Succeeded);
    let total: u64 = (0..20_000).map(|i: u32| format!("line-{i}\n").len() as u64).sum();
    let first = t.session.read_log(1, LogStream::Stdout, 0, 0).await;
    assert!(first.dropped > 0 && first.data.len() as u64 == total - first.dropped, "{} of {total}", first.data.len());
    assert!(first.data.len() < 65_536 + 8_192 && first.data.ends_with(b"line-19999\n") && first.end);
    t.close().await;
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group_first_politely_then_hard() {
    let mut t = Fixture::new().await;
    let (polite, deaf) = (t.dir.path().join("polite"), t.dir.path().join("deaf"));
    let mut spec = shell(&format!("trap 'echo bye; exit 0' TERM; sleep 60 & echo $! > {}; wait", polite.display()));
    spec.kill_grace_ms = 10_000;
    t.session.assign([1], spec).await;
    let child = until("the grandchild", || pid_in(&polite)).await;
    t.session.cancel(1).await;
    assert_eq!(t.session.finish(1).await.outcome(), Outcome::Cancelled);
    assert_eq!(t.session.whole_log(1, LogStream::Stdout).await, "bye\n");
    until("the grandchild's end", || (!is_alive(child)).then_some(())).await;

    let mut spec = shell(&format!("trap '' TERM; sh -c 'echo $$ > {}; sleep 60' & wait; sleep 60", deaf.display()));
    spec.kill_grace_ms = 300;
    t.session.assign([2], spec).await;
    let child = until("the deaf grandchild", || pid_in(&deaf)).await;
    let asked = Instant::now();
    t.session.cancel(2).await;
    assert_eq!(t.session.finish(2).await.outcome(), Outcome::Cancelled);
    assert!(asked.elapsed() >= Duration::from_millis(290), "the grace was not given: {:?}", asked.elapsed());
    until("the deaf grandchild's end", || (!is_alive(child)).then_some(())).await;
    t.close().await;
}

#[tokio::test]
async fn what_an_attempt_leaves_behind_in_its_group_is_killed() {
    let mut t = Fixture::new().await;
    let file = t.dir.path().join("left");
    t.session.assign([1], shell(&format!("sleep 60 & echo $! > {}", file.display()))).await;
    assert_eq!(t.session.finish(1).await.outcome(), Outcome::Succeeded);
    let left = pid_in(&file).unwrap();
    until("its end", || (!is_alive(left)).then_some(())).await;
    t.close().await;
}

#[tokio::test]
async fn p09_lease_end_kills_stop_attempts_and_leaves_continue_attempts() {
    let lease = Duration::from_millis(2_000);
    let mut t = Fixture::with(|_| {}, Welcome { lease_ms: 2_000, ..welcome() }).await;
    let file = |name: &str| t.dir.path().join(name);
    // SIGTERM is ignored: only a hard kill is in time.
    t.session
        .assign(
            [1],
            stopping(shell(&format!("trap '' TERM; echo $$ > {}; sleep 60; sleep 60", file("stop").display()))),
        )
        .await;
    t.session.assign([2], shell(&format!("echo $$ > {}; sleep 60; true", file("continue").display()))).await;
    let stop = until("the first", || pid_in(&file("stop"))).await;
    let go_on = until("the second", || pid_in(&file("continue"))).await;
    let cut = Instant::now();
    t.master.acknowledges_heartbeats(false);
    t.master.refuses(Some(refusal(codes::NO_QUORUM, &[])));
    until("the kill", || (!is_alive(stop)).then_some(())).await;
    let took = cut.elapsed();
    // The master's lease began when the last heartbeat arrived, at most one heartbeat (50 ms) before the cut.
    assert!(took < lease - Duration::from_millis(50), "killed only after {took:?}");
    tokio::time::sleep_until(cut + lease).await;
    assert!(is_alive(go_on));
    t.master.acknowledges_heartbeats(true);
    t.master.refuses(None);
    t.session = t.master.welcomed().await;
    assert_eq!(t.session.finish(1).await.outcome(), Outcome::PartitionStop);
    t.session.cancel(2).await;
    assert_eq!(t.session.finish(2).await.outcome(), Outcome::Cancelled);
    t.close().await;
}

#[tokio::test]
async fn a_keeper_that_is_killed_loses_its_attempts_and_the_worker_goes_on() {
    let mut t = Fixture::new().await;
    let file = t.dir.path().join("pid");
    t.session.assign([1], shell(&format!("echo $$ > {}; sleep 60; true", file.display()))).await;
    let child = until("the child", || pid_in(&file)).await;
    let keeper = until("the keeper", || keeper_of(t.dir.path())).await;
    rustix::process::kill_process(rustix::process::Pid::from_raw(keeper).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let ended = t.session.finish(1).await;
    assert_eq!(ended.outcome(), Outcome::WorkerLost, "{}", ended.message);
    assert!(!is_alive(child), "an attempt that is reported as lost must be dead");
    t.session.assign([2], shell("echo again")).await;
    assert_eq!(t.session.finish(2).await.outcome(), Outcome::Succeeded);
    t.close().await;
}

fn keeper_of(dir: &std::path::Path) -> Option<i32> {
    let dir = std::fs::canonicalize(dir).ok()?;
    let pids =
        std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"steersman-keeper\0")
            && line.strip_suffix(b"\0").is_some_and(|line| line.ends_with(dir.as_os_str().as_encoded_bytes()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_processes_flow() {
    let total: u64 = std::env::var("STEERSMAN_TEST_SPAWNS").map_or(600, |n| n.parse().unwrap());
    let mut t = Fixture::with(|_| {}, Welcome { capacity: 8, ..welcome() }).await;
    let began = Instant::now();
    t.session.assign(1..=total, command(vec!["/bin/true".into()])).await;
    let mut left: std::collections::BTreeSet<u64> = (1..=total).collect();
    while !left.is_empty() {
        let reports = t.session.reports().await;
        let tokens: Vec<u64> =
            reports.iter().filter(|report| report.ended.is_some()).map(|report| report.token).collect();
        left.retain(|token| !tokens.contains(token));
        t.session.send(master_message::Kind::ReportsAck(ReportsAck { tokens, started_tokens: vec![] })).await;
    }
    println!("{total} times /bin/true: {:.0}/s", total as f64 / began.elapsed().as_secs_f64());
    t.close().await;
}

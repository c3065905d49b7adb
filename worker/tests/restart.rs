//! The worker as a real process that is killed: its children live on, and the next process takes them over.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use steersman_proto::v1::{LogStream, OnPartition, Outcome};
use steersman_proto::worker::v1::Welcome;
use steersman_worker::exit;
use support::*;

struct Process(Child);

impl Process {
    fn start(dir: &Path, masters: &[&FakeMaster]) -> Self {
        let masters: Vec<String> = masters.iter().map(|master| format!("\"{}\"", master.addr)).collect();
        let data_dir = dir.join("data");
        let text = format!(
            "name = \"w1\"\ndata_dir = \"{}\"\nmasters = [{}]\nheartbeat_ms = 50\ncapacity = 4\n",
            data_dir.display(),
            masters.join(", ")
        );
        std::fs::write(dir.join("worker.toml"), text).unwrap();
        Self::of_file(&dir.join("worker.toml"))
    }

    fn of_file(file: &Path) -> Self {
        let child = Command::new(program()).arg(file).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).unwrap(), signal).unwrap();
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Exit code and what it wrote to stderr.
    async fn ended(self) -> (Option<i32>, String) {
        let output = tokio::task::spawn_blocking(move || self.0.wait_with_output().unwrap());
        let output = soon("the worker process's end", output).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Ends the worker in good order: nothing is left running.
async fn close(process: Process, mut session: FakeSession, dir: &Path) {
    process.signal(Signal::TERM);
    session.is_closed().await;
    let (code, stderr) = process.ended().await;
    assert_eq!(code, Some(0), "{stderr}");
    let sock = dir.join("data/keeper.sock");
    until("the keeper's end", || (!sock.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_killed_workers_children_live_on_and_the_next_process_reports_them() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let (pid, gate) = (dir.path().join("pid"), dir.path().join("gate"));
    let process = Process::start(dir.path(), &[&master]);
    let mut session = master.welcomed().await;
    let wait = format!(
        "echo $$ > {}; echo before; until [ -e {} ]; do sleep 0.02; done; echo after; exit 5",
        pid.display(),
        gate.display()
    );
    session.assign([1], shell(&wait)).await;
    session.started(1).await;
    session.assign([2], shell("exit 7")).await;
    session.end_of(2).await;
    let child = until("the child", || pid_in(&pid)).await;
    process.kill();
    assert!(session.is_closed().await);
    assert!(is_alive(child), "a killed worker must not take its children along");

    let process = Process::start(dir.path(), &[&master]);
    let mut session = master.welcomed().await;
    assert_eq!((session.hello.incarnation, &session.hello.held_tokens[..]), (2, &[1, 2][..]));
    assert_eq!(
        session.finish(2).await.exit_code,
        7,
        "an end that was not acknowledged is reported by the next process"
    );
    session.assign([1], shell(&wait)).await;
    std::fs::write(gate, "").unwrap();
    let ended = session.finish(1).await;
    assert_eq!((ended.outcome(), ended.exit_code), (Outcome::Exited, 5));
    assert_eq!(session.whole_log(1, LogStream::Stdout).await, "before\nafter\n", "it ran once, without a break");
    close(process, session, dir.path()).await;
}

#[tokio::test]
async fn a_child_that_ends_while_no_worker_is_there_is_reported_later() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let (pid, gate) = (dir.path().join("pid"), dir.path().join("gate"));
    let process = Process::start(dir.path(), &[&master]);
    let session = master.welcomed().await;
    session
        .assign(
            [1],
            shell(&format!(
                "echo $$ > {}; until [ -e {} ]; do sleep 0.02; done; exit 9",
                pid.display(),
                gate.display()
            )),
        )
        .await;
    let child = until("the child", || pid_in(&pid)).await;
    process.kill();
    std::fs::write(gate, "").unwrap();
    until("the child's end", || (!is_alive(child)).then_some(())).await;
    let process = Process::start(dir.path(), &[&master]);
    let mut session = master.welcomed().await;
    assert_eq!(session.hello.held_tokens, [1]);
    assert_eq!(session.finish(1).await.exit_code, 9);
    close(process, session, dir.path()).await;
}

#[tokio::test]
async fn p09_a_stop_attempt_dies_in_time_although_its_worker_is_frozen_or_dead() {
    for frozen in [true, false] {
        let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
        let pid = dir.path().join("pid");
        let process = Process::start(dir.path(), &[&master]);
        let session = master.session().await;
        session.welcome(Welcome { lease_ms: 2_500, ..welcome() }).await;
        let mut spec = shell(&format!("trap '' TERM; echo $$ > {}; sleep 60; sleep 60", pid.display()));
        spec.on_partition = OnPartition::Stop.into();
        session.assign([1], spec).await;
        let child = until("the child", || pid_in(&pid)).await;
        let cut = tokio::time::Instant::now();
        process.signal(if frozen { Signal::STOP } else { Signal::KILL });
        until("the kill", || (!is_alive(child)).then_some(())).await;
        assert!(cut.elapsed() < Duration::from_millis(2_450), "killed only after {:?}", cut.elapsed());
        let process = if frozen {
            process.signal(Signal::CONT);
            process
        } else {
            process.kill();
            Process::start(dir.path(), &[&master])
        };
        drop(session);
        let mut session = master.welcomed().await;
        assert_eq!(session.finish(1).await.outcome(), Outcome::PartitionStop);
        close(process, session, dir.path()).await;
    }
}

#[tokio::test]
async fn p15_a_worker_that_cannot_start_says_why_and_exits_with_its_code() {
    let (dir, mut master) = (tempfile::tempdir().unwrap(), FakeMaster::leading().await);
    let process = Process::start(dir.path(), &[&master]);
    let session = master.welcomed().await;
    let (code, stderr) = Process::start(dir.path(), &[&master]).ended().await;
    assert_eq!(code, Some(exit::FOREIGN_DATA.code), "{stderr}");
    assert!(stderr.contains("in use by another worker process"), "{stderr}");
    close(process, session, dir.path()).await;

    std::fs::write(dir.path().join("data/identity"), "garbage").unwrap();
    let (code, stderr) = Process::start(dir.path(), &[&master]).ended().await;
    assert_eq!(code, Some(exit::CORRUPT_DATA.code), "{stderr}");
    assert!(stderr.contains("identity is damaged"), "{stderr}");

    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "name = \"w\"\nmaster = []\n").unwrap();
    let (code, stderr) = Process::of_file(&file).ended().await;
    assert_eq!(code, Some(exit::CONFIG.code), "{stderr}");
    assert!(stderr.contains(":2: unknown key \"master\"; did you mean \"masters\"?"), "{stderr}");

    std::fs::write(&file, "name = \"w\"\ndata_dir = \"/proc/nowhere\"\nmasters = [\"127.0.0.1:1\"]\n").unwrap();
    let (code, stderr) = Process::of_file(&file).ended().await;
    assert_eq!(code, Some(exit::DISK.code), "{stderr}");
}

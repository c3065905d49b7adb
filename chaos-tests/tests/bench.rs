//! The benchmark program: its tiny version measures every row, and nothing of it is left behind when it is interrupted.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use steersman_chaos_tests::poll::until_now;
use steersman_chaos_tests::process::processes_of;
use tokio::process::{Child, Command};

/// A debug build on a busy machine takes half a minute.
const PATIENCE: Duration = Duration::from_secs(180);
/// In the environment of everything that the program starts.
const MARK: &str = "STEERSMAN_BENCH_MARK";
const GROUPS: [&str; 7] = ["limits", "latency", "tasks", "commit", "takeover", "memory", "snapshot"];

fn start(folder: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steersman-bench"));
    command.args(args).env(MARK, folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

fn left_of(folder: &Path) -> usize {
    processes_of(folder.to_str().unwrap()).len()
}

#[tokio::test]
async fn the_tiny_version_measures_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let mut bench = start(folder.path(), &["--smoke", "--json", json.to_str().unwrap()]);
    let status = tokio::time::timeout(PATIENCE, bench.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let sections = report["sections"].as_array().unwrap();
    let groups: Vec<&str> = sections.iter().map(|section| section["group"].as_str().unwrap()).collect();
    assert_eq!(groups, GROUPS);
    for row in sections.iter().flat_map(|section| section["rows"].as_array().unwrap()) {
        assert!(row["spread"]["n"].as_u64().unwrap() > 0, "{row}");
        assert!(row["spread"]["max"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(left_of(folder.path()), 0);
}

#[tokio::test]
async fn nothing_is_left_behind_when_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = start(folder.path(), &["--smoke", "--only", "latency,takeover"]);
    // Itself, the bare server and two of /bin/true are four at most; with a cluster they are six and more.
    until_now("nodes of the program", PATIENCE, || match left_of(folder.path()) {
        few @ 0..6 => Err(format!("{few} processes")),
        _ => Ok(()),
    })
    .await;
    kill(Pid::from_raw(bench.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(PATIENCE, bench.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(130));
    until_now("the end of everything", PATIENCE, || match left_of(folder.path()) {
        0 => Ok(()),
        some => Err(format!("{some} processes")),
    })
    .await;
}

//! `steersman-chaos` itself: what its runs leave behind, how they end, and what their exit codes mean.
//!
//! What always holds: these runs are short and their faults few; the storm with everything in it is `make chaos`.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use steersman_chaos_tests::poll::until_now;
use steersman_chaos_tests::process::processes_of;
use steersman_evidence::History;

/// From the start of a run to its first operations, and from its end to its verdicts, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn chaos(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steersman-chaos"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn history(folder: &Path) -> History {
    let file = File::open(folder.join("history.jsonl")).unwrap();
    History::read(BufReader::new(file)).unwrap()
}

/// Starts a run in fair weather that would take minutes, and waits until it has done something.
async fn under_way(folder: &Path) -> Child {
    let out = folder.to_str().unwrap();
    let args = ["run", "--test", "calm", "--time", "5m", "--seed", "3", "--workers", "2", "--out", out];
    // What it says goes to a file: nobody reads a pipe meanwhile.
    let log = File::create(folder.with_extension("log")).unwrap();
    let run = chaos(&args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    until_now("some operations", PATIENCE, || {
        let text = std::fs::read_to_string(folder.join("history.jsonl")).unwrap_or_default();
        let done = text.lines().filter(|line| line.contains(r#""type":"complete""#)).count();
        if done > 100 { Ok(()) } else { Err(format!("{done} operations")) }
    })
    .await;
    run
}

#[tokio::test]
async fn a_runner_that_is_killed_leaves_a_history_and_nothing_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut run = under_way(&out).await;
    run.kill().unwrap();
    run.wait().unwrap();
    let seen = history(&out);
    assert!(seen.ops.len() > 100 && seen.run.seed == 3, "{} operations", seen.ops.len());
    let place = format!("{}/", out.display());
    until_now("the end of all its processes", PATIENCE, || {
        let left = processes_of(&place);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_run_heals_and_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut run = under_way(&out).await;
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    let code = until_now("the end of the run", PATIENCE, || match run.try_wait().unwrap() {
        Some(status) => Ok(status.code()),
        None => Err("it runs".to_owned()),
    });
    assert_eq!(code.await, Some(7));
    let told = std::fs::read_to_string(out.with_extension("log")).unwrap();
    assert!(told.contains("the run was interrupted") && told.contains("UNKNOWN"), "{told}");
    assert!(out.join("report.html").is_file() && out.join("verdicts.json").is_file());
}

#[test]
fn a_leader_that_is_killed_breaks_no_promise() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let args = ["run", "--test", "kill", "--time", "20s", "--workers", "3", "--out", out.to_str().unwrap()];
    let Output { status, stdout, stderr } = chaos(&args).output().unwrap();
    let told = format!("{}\n{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.code() != Some(0) {
        // For whoever has to find out why.
        let kept = folder.keep();
        panic!("exit code {:?}; everything is in {}\n{told}", status.code(), kept.display());
    }
    let seen = history(&out);
    assert!(seen.faults.iter().any(|fault| fault.class == "kill"), "nobody was killed");
    assert!(seen.ops.len() > 300, "{} operations", seen.ops.len());
    for kept in ["report.html", "verdicts.json", "history.edn"] {
        assert!(out.join(kept).metadata().unwrap().len() > 100, "{kept}");
    }
    assert!(!out.join("m1").exists(), "a good run leaves no data of nodes");
}

/// An acknowledged submit whose task is not there afterwards.
const LOST: &str = r#"{"type":"run","format":1,"kind":"chaos","seed":1,"version":"0","masters":3,"workers":1,"began_wall_ms":0,"faults_wanted":[],"facts":{}}
{"type":"invoke","op":1,"process":1,"at_us":10,"call":{"f":"submit","request":"aa","count":1}}
{"type":"complete","op":1,"at_us":20,"outcome":{"outcome":"ok","answer":{"answer":"submitted","first":1,"count":1,"index":5}}}
{"type":"invoke","op":2,"process":1,"at_us":30,"call":{"f":"read","task":1,"stale":false}}
{"type":"complete","op":2,"at_us":40,"outcome":{"outcome":"ok","answer":{"answer":"task","task":null,"index":9}}}
"#;

#[test]
fn exit_codes_tell_bad_from_usage_from_nothing_to_judge() {
    let folder = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| chaos(args).output().unwrap().status.code();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, LOST).unwrap();
    assert_eq!(code(&["check", "--bare", bad.to_str().unwrap()]), Some(7));
    assert_eq!(code(&["check", "/nowhere/history.jsonl"]), Some(1));
    assert_eq!(code(&["run", "--test", "kil"]), Some(2));
    assert_eq!(code(&["run", "--help"]), Some(0));
    std::fs::write(folder.path().join("precious"), "x").unwrap();
    let out = folder.path().to_str().unwrap();
    assert_eq!(code(&["run", "--test", "calm", "--time", "1s", "--out", out]), Some(1), "not an older run's folder");
    assert!(folder.path().join("precious").exists());
}

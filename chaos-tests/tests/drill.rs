//! `steersman drill` on clusters of `steersman dev`: every kind is measured and healed, a limit that is passed fails, whatever ends
//! a drill heals; and every unplanned election leaves a report in the event stream, without any drill.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use steersman_chaos_tests::poll::until_now;
use steersman_chaos_tests::process::{PLACE, binary, kill_all, place_of};
use steersman_evidence::record::{Call, Phase};
use steersman_evidence::{Bounds, History, any_bad, check};

/// Longest wait for what a cluster does by itself in seconds, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Generous: what is looked at here is the drill, not how fast a busy machine is.
const GAP: &str = "20s";

/// A `steersman dev` with a state file and a folder of its own.
struct Dev {
    scratch: tempfile::TempDir,
    child: Child,
}

impl Dev {
    fn start(masters: u32) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        let masters = masters.to_string();
        let args = ["-q", "dev", "--masters", &masters, "--data-dir", data.to_str().unwrap()];
        let mut child = command(scratch.path(), &args).process_group(0).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Ctrl-C stops everything"));
        assert!(ready, "the cluster is not ready");
        // Its warnings about dying nodes go to stderr; stdout says nothing any more.
        std::thread::spawn(move || lines.for_each(drop));
        Self { scratch, child }
    }

    fn steersman(&self, args: &[&str]) -> Command {
        command(self.scratch.path(), args)
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.steersman(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn state(&self) -> Value {
        let text = fs::read_to_string(self.scratch.path().join("steersman/dev.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn pid(&self, name: &str) -> u32 {
        let state = self.state();
        let node = state["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
        node["pid"].as_u64().unwrap() as u32
    }

    fn pids(&self) -> Vec<u32> {
        let state = self.state();
        state["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap() as u32).collect()
    }

    /// Nodes that are frozen at the moment.
    fn frozen(&self) -> Vec<u32> {
        self.pids().into_iter().filter(|pid| process_state(*pid) == Some('T')).collect()
    }

    fn leader(&self) -> u64 {
        let (_, out, _) = self.run(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&out).unwrap_or_default();
        status["leader"]["id"].as_u64().unwrap_or(0)
    }

    async fn healthy(&self) {
        until_now("a whole cluster", PATIENCE, || match self.run(&["cluster", "health"]) {
            (0, ..) => Ok(()),
            (code, out, err) => Err(format!("{code}: {out}{err}")),
        })
        .await;
    }

    /// Reports of elections in the event stream, oldest first.
    fn reports(&self) -> Vec<Value> {
        let (_, out, _) = self.run(&["events", "-o", "jsonl"]);
        let batches = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = batches.flat_map(|batch| batch["events"].as_array().cloned().unwrap_or_default());
        events.filter_map(|event| event.get("election_report").cloned()).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).ok();
        let ended = std::time::Instant::now() + Duration::from_secs(15);
        while std::time::Instant::now() < ended && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_all(&place_of(self.scratch.path()));
        self.child.wait().ok();
    }
}

fn command(scratch: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.args(args).env(PLACE, place_of(scratch)).env("XDG_RUNTIME_DIR", scratch).env_remove("STEERSMAN_ADDRESS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn drills(text: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    report["drills"].as_array().unwrap().clone()
}

fn milestone(drill: &Value, name: &str) -> Option<i64> {
    let line = drill["timeline"].as_array().unwrap();
    line.iter().find(|milestone| milestone["name"] == name)?["after_fault_us"].as_i64()
}

/// Each kind is injected, seen, healed, measured and told; the report needs nothing but itself; the history holds.
#[tokio::test]
async fn every_kind_of_drill_passes_and_is_reported() {
    let dev = Dev::start(3);
    let before = dev.pids();
    let dir = dev.scratch.path().join("report");
    let mut args = vec!["drill", "all", "-o", "json", "--before", "1s", "--after", "500ms", "--hold", "500ms"];
    args.extend(["--max-gap", GAP, "--max-errors", "100", "--report", dir.to_str().unwrap()]);
    let (code, out, err) = dev.run(&args);
    assert_eq!(code, 0, "{out}\n{err}");
    let drills = drills(&out);
    let names: Vec<&str> = drills.iter().map(|drill| drill["drill"].as_str().unwrap()).collect();
    let wanted =
        ["leader-kill", "leader-pause", "partition", "worker-kill", "rolling-restart", "disk-full", "clock-jump"];
    assert_eq!(names, wanted);
    for drill in &drills {
        assert_eq!(drill["result"], "passed", "{drill:#}");
        assert!(drill["acknowledged"].as_u64().unwrap() > 10, "{drill:#}");
        assert_eq!((&drill["lost"], &drill["unfinished"]), (&Value::from(0), &Value::from(0)));
        look_at_milestones(drill);
        look_at_history(&dir.join(format!("{}.jsonl", drill["drill"].as_str().unwrap())));
    }
    look_at_page(&dir.join("drill.html"), &wanted);
    let after = dev.pids();
    assert!(before.iter().all(|pid| !after.contains(pid)), "the rolling restart leaves nobody: {before:?} {after:?}");
    assert_eq!(dev.frozen(), Vec::<u32>::new());
    dev.healthy().await;
    let causes: Vec<String> = dev.reports().iter().map(|report| report["cause"].as_str().unwrap().to_owned()).collect();
    let unplanned = causes.iter().filter(|cause| ["reset", "timer"].contains(&cause.as_str())).count();
    assert!(unplanned >= 3, "kill, pause and partition at least: {causes:?}");
}

/// The milestones of a failover come in the only order in which they can.
fn look_at_milestones(drill: &Value) {
    let moves_office =
        ["leader-kill", "leader-pause", "partition", "disk-full"].map(Value::from).contains(&drill["drill"]);
    if moves_office {
        assert!(!drill["elected"].as_array().unwrap().is_empty(), "{drill:#}");
        let order = ["suspicion", "votes_asked", "votes_granted", "elected", "first_commit"];
        let times: Vec<i64> = order.iter().map(|name| milestone(drill, name).unwrap_or(-1)).collect();
        assert!(times[0] > -50_000 && times.is_sorted(), "{order:?} at {times:?}: {drill:#}");
        assert!(milestone(drill, "healed").unwrap() >= milestone(drill, "leader_seen").unwrap());
    }
    if drill["drill"] == "worker-kill" {
        let reruns = drill["checks"].as_array().unwrap().iter().find(|check| check["name"] == "reruns").unwrap();
        assert!(reruns["value"].as_u64().unwrap() > 0, "the worker's long tasks run elsewhere: {drill:#}");
    }
}

/// The history that a drill left is judged once more, from its file.
fn look_at_history(path: &Path) {
    let history = History::read(BufReader::new(fs::File::open(path).unwrap())).unwrap();
    assert_eq!(history.run.kind, "drill");
    assert!(history.faults.iter().any(|fault| fault.phase == Phase::Began), "{}", path.display());
    assert!(history.ops.iter().any(|op| matches!(op.invoke.call, Call::Submit { .. })));
    let verdicts = check(&history, &Bounds { closed: false, ..Bounds::none() });
    assert!(!any_bad(&verdicts), "{}: {verdicts:#?}", path.display());
}

fn look_at_page(path: &Path, kinds: &[&str]) {
    let page = fs::read_to_string(path).unwrap();
    for word in ["http:", "https:", "src=", "href=", "url(", "@import", "<link", "<script", "NaN", "inf\""] {
        assert!(!page.contains(word), "the report contains {word}");
    }
    for kind in kinds {
        assert!(page.contains(&format!("<h2>{kind}</h2>")), "no section {kind}");
    }
    assert!(page.matches("<svg").count() >= kinds.len() * 3, "a picture of the failover and two plots each");
}

/// A limit that nobody can keep: the drill heals as soon as it is passed, says so, and ends with 7.
#[tokio::test]
async fn a_limit_that_is_passed_heals_and_fails() {
    let dev = Dev::start(3);
    let leader = dev.leader();
    let args = ["drill", "leader-pause", "--before", "500ms", "--hold", "60s", "--max-gap", "1ms", "-o", "json"];
    let (code, out, err) = dev.run(&args);
    assert_eq!(code, 7, "{out}\n{err}");
    let drill = &drills(&out)[0];
    assert_eq!((&drill["result"], &drill["victim"]), (&"failed".into(), &format!("master-{leader}").into()));
    assert!(drill["reasons"][0].as_str().unwrap().contains("the limit is 1 ms"), "{drill:#}");
    assert!(drill["fault_lasted_us"].as_u64().unwrap() < 10_000_000, "{drill:#}");
    assert_eq!(dev.frozen(), Vec::<u32>::new());
    dev.healthy().await;
}

/// Ctrl-C heals before the drill ends; a drill that is killed is healed by `dev`.
#[tokio::test]
async fn whatever_ends_a_drill_heals() {
    let dev = Dev::start(3);
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
        let args = ["drill", "leader-pause", "--before", "500ms", "--hold", "60s", "--max-gap", GAP];
        let mut drill = dev.steersman(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until_now("a frozen leader", PATIENCE, || {
            if dev.frozen().is_empty() { Err("none") } else { Ok(()) }.map_err(str::to_owned)
        })
        .await;
        kill(Pid::from_raw(drill.id().cast_signed()), signal).unwrap();
        let ended = until_now("the end of the drill", PATIENCE, || match drill.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(ended.await.code(), code);
        until_now("nobody frozen", PATIENCE, || match dev.frozen() {
            frozen if frozen.is_empty() => Ok(()),
            frozen => Err(format!("{frozen:?}")),
        })
        .await;
        dev.healthy().await;
    }
}

/// One master is no quorum to play with.
#[tokio::test]
async fn a_drill_that_could_cost_the_quorum_is_refused() {
    let dev = Dev::start(1);
    let pid = dev.pid("master-1");
    let (code, out, err) = dev.run(&["drill", "leader-kill"]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("1 of 1 masters are up; with one less 0 would be left, and 1 are needed"), "{err}");
    assert_eq!(dev.pid("master-1"), pid);
    assert!(matches!(process_state(pid), Some('S' | 'R' | 'D')));
}

/// A cluster that is not known as a dev cluster: asked first, planned where nothing else is possible, broken by commands.
#[tokio::test]
async fn a_real_cluster_is_asked_for_and_broken_by_the_operators_commands() {
    let dev = Dev::start(3);
    let state = dev.state();
    let addresses: Vec<&str> = state["addresses"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    let elsewhere = tempfile::tempdir().unwrap();
    let drill = |args: &[&str]| -> (i32, String, String) {
        let joined = addresses.join(",");
        let mut words = vec!["--address", joined.as_str(), "-o", "json", "drill"];
        words.extend(args);
        words.extend(["--before", "500ms", "--after", "200ms"]);
        let output = command(elsewhere.path(), &words).env(PLACE, place_of(dev.scratch.path())).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    };
    let (code, _, err) = drill(&["leader-kill"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("this needs a confirmation") && err.contains("planned change of leader"), "{err}");
    let (code, _, err) = drill(&["disk-full", "--yes"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("needs commands that break and mend"), "{err}");
    let (code, out, err) = drill(&["leader-kill", "--yes", "--max-gap", GAP]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(drills(&out)[0]["injected"][0].as_str().unwrap().contains("planned change of leader"), "{out}");
    let pid = dev.pid(&format!("master-{}", dev.leader()));
    let witness: PathBuf = elsewhere.path().join("said");
    let inject = format!("kill -STOP {pid} && echo {{node}} {{api}} > {}", witness.display());
    let restore = format!("kill -CONT {pid}");
    let args =
        ["leader-pause", "--yes", "--max-gap", GAP, "--max-errors", "9", "--inject", &inject, "--restore", &restore];
    let leader = dev.leader();
    let (code, out, err) = drill(&args);
    assert_eq!(code, 0, "{out}{err}");
    let said = fs::read_to_string(witness).unwrap();
    assert!(said.starts_with(&format!("master-{leader} 127.0.0.1:")), "{said}");
    assert_eq!(dev.frozen(), Vec::<u32>::new());
    dev.healthy().await;
}

/// Without any drill: a killed leader and a planned change leave their reports, and the planned one says that it was planned.
#[tokio::test]
async fn every_election_leaves_its_report_in_the_event_stream() {
    let dev = Dev::start(3);
    let newest = async |term_after: u64| -> Value {
        until_now("a newer report", PATIENCE, || {
            let reports = dev.reports();
            let newest = reports.into_iter().rfind(|report| report["term"].as_u64().unwrap() > term_after);
            newest.ok_or_else(|| "none".to_owned())
        })
        .await
    };
    let first = newest(0).await;
    assert_eq!(first["planned"], false);
    let (former, term) = (dev.leader(), first["term"].as_u64().unwrap());
    kill(Pid::from_raw(dev.pid(&format!("master-{former}")).cast_signed()), Signal::SIGKILL).unwrap();
    let report = newest(term).await;
    assert_eq!((&report["planned"], &report["former_id"]), (&false.into(), &former.into()), "{report:#}");
    assert!(["reset", "timer"].contains(&report["cause"].as_str().unwrap()), "{report:#}");
    let order =
        ["suspected_us", "asked_us", "granted_us", "elected_us", "committed_us", "workers_back_us", "reported_us"];
    let times: Vec<u64> = order.iter().map(|name| report[name].as_u64().unwrap_or(0)).collect();
    assert!(times.is_sorted() && times[0] > 0, "{order:?} are {times:?}");
    assert_eq!((&report["workers_back"], &report["workers_believed"]), (&2.into(), &2.into()), "{report:#}");
    let (code, out, err) = dev.run(&["master", "step-down"]);
    assert_eq!(code, 0, "{out}{err}");
    let planned = newest(report["term"].as_u64().unwrap()).await;
    assert_eq!((&planned["planned"], &planned["cause"]), (&true.into(), &"handover".into()), "{planned:#}");
}

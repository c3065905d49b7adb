//! What a user of the binary sees where there is no cluster: error texts, exit codes, output formats.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// An address where nobody listens.
fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn steersman(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steersman"));
    command.args(args).env_remove("STEERSMAN_ADDRESS").env_remove("STEERSMAN_LOG").env_remove("NO_COLOR");
    // Not the developer's own dev cluster.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR")).env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    told(steersman(args).stdin(Stdio::null()).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn p15_wrong_command_lines_end_with_2_and_say_what_is_wrong() {
    for (args, wanted) in [
        (&["frobnicate"][..], "unrecognized subcommand 'frobnicate'"),
        (&["task", "show"], "required arguments were not provided"),
        (&["task", "show", "seven"], "\"seven\" is not a task id: write a number, a range such as 1..2000, or last"),
        (&["task", "show", "9..3"], "is an empty range"),
        (&["status", "--timeout", "5"], "\"5\" has no unit: write 5s"),
        (&["run"], "required arguments were not provided"),
        (&["run", "--label", "zone", "--", "true"], "\"zone\" is not KEY=VALUE"),
        (&["run", "--priority", "2000", "--", "true"], "2000 is not in -1000..=1000"),
        (&["run", "--retry-on", "sometimes", "--", "true"], "is not one of worker-lost, timeout, failure, never"),
        (&["run", "--retry-on", "never,timeout", "--", "true"], "never excludes every other word"),
        (&["run", "--handler", "h", "--", "true"], "a task is a command or a handler, not both"),
        (&["task", "submit", "x.jsonl", "--", "true"], "FILE and CMD together need --lines"),
        (&["task", "submit", "/no/such/file"], "cannot read /no/such/file"),
        (&["--address", "a:b", "status"], "address \"a:b\": the port is not a number from 1 to 65535"),
        (&["--address", "a:0", "status"], "port 0 cannot be connected"),
        (&["worker", "config", "set", "w", "colour=red"], "there is no such setting"),
        (&["master", "start"], "a master needs --config FILE"),
        (&["worker", "start"], "a worker needs --config FILE"),
        (&["master", "start", "--data-dir", "d", "--peer", "2=a"], "is not ID=API,RAFT,HTTP"),
        (&["master", "remove", "2"], "this needs a confirmation: Remove master 2?"),
        (&["config", "check", "/no/such.toml"], "cannot read /no/such.toml"),
        (&["dev", "--base-port", "65535"], "leaves no room below 65536"),
        (&["drill"], "required arguments were not provided"),
        (&["drill", "leader-sneeze"], "invalid value 'leader-sneeze'"),
        (&["drill", "leader-kill", "--max-gap", "5"], "\"5\" has no unit: write 5s"),
        (&["drill", "leader-kill", "--restore", "true"], "required arguments were not provided"),
        (
            &[
                "master",
                "start",
                "--data-dir",
                "d",
                "--api",
                "192.0.2.1:1",
                "--insecure",
                "--exit-with-parent",
                "--faults",
            ],
            "--faults is for nodes on loopback only, and 192.0.2.1:1 is not",
        ),
        (&["events", "--from", "yesterday"], "is not a log index, oldest or now"),
    ] {
        let (code, out, err) = output(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(wanted), "{args:?} said\n{err}\ninstead of {wanted}");
        assert!(out.is_empty(), "{args:?}: results only on stdout: {out}");
    }
}

#[test]
fn without_a_cluster_commands_end_with_4_and_the_arithmetic() {
    let (one, two, three) = (dead_address(), dead_address(), dead_address());
    let all = format!("{one},{two},{three}");
    for args in [
        &["task", "list"][..],
        &["task", "submit", "--", "true"],
        &["worker", "list"],
        &["events"],
        &["task", "wait", "1"],
    ] {
        let mut whole = vec!["--address", &all, "--timeout", "300ms"];
        whole.extend(args);
        let (code, out, err) = output(&whole);
        assert_eq!((code, out.as_str()), (4, ""), "{args:?}: {err}");
        assert!(err.contains("0 of 3 known masters answered; 2 are needed"), "{args:?}: {err}");
        for address in [&one, &two, &three] {
            assert!(err.contains(&format!("asked {address}  connection refused")), "{args:?}: {err}");
        }
        assert!(err.contains("hint  check --address") && err.contains("STM-1007 UNREACHABLE"), "{args:?}: {err}");
    }
}

#[test]
fn status_shows_every_master_without_any() {
    let (one, two) = (dead_address(), dead_address());
    let (code, out, err) = output(&["--address", &format!("{one},{two}"), "status"]);
    assert_eq!(code, 4, "{err}");
    for address in [&one, &two] {
        let line = out.lines().find(|line| line.contains(address.as_str())).unwrap();
        assert!(line.contains("unreachable") && line.contains("connection refused"), "{line}");
    }
    assert!(err.contains("no master answers: 0 of 2 masters answer, 2 needed"), "{err}");
}

#[test]
fn run_ends_with_125_when_steersman_failed() {
    let (code, _, err) = output(&["--address", &dead_address(), "--timeout", "200ms", "run", "--", "true"]);
    assert_eq!(code, 125, "{err}");
}

#[test]
fn errors_are_one_json_object_with_json_output() {
    let dead = dead_address();
    let unreachable = output(&["--address", &dead, "--timeout", "200ms", "-o", "json", "task", "list"]);
    let usage = output(&["-o", "json", "task", "show", "seven"]);
    for ((code, out, err), wanted) in [(unreachable, (4, "UNREACHABLE")), (usage, (2, "INVALID_ARGUMENT"))] {
        let error: serde_json::Value = serde_json::from_str(&err).unwrap();
        assert_eq!((code, error["reason"].as_str().unwrap(), out.as_str()), (wanted.0, wanted.1, ""));
        for key in ["code", "message", "hint"] {
            assert!(!error[key].as_str().unwrap().is_empty(), "{key}: {err}");
        }
    }
}

#[test]
fn the_environment_names_masters_and_the_flag_wins() {
    let (named, flagged) = (dead_address(), dead_address());
    let mut command = steersman(&["config", "show", "-o", "jsonl"]);
    let (_, out, _) = told(command.env("STEERSMAN_ADDRESS", &named).output().unwrap());
    assert!(out.contains(&named) && out.contains("STEERSMAN_ADDRESS"), "{out}");
    let mut command = steersman(&["config", "show", "-o", "jsonl", "--address", &flagged]);
    let (_, out, _) = told(command.env("STEERSMAN_ADDRESS", &named).output().unwrap());
    assert!(out.contains(&flagged) && !out.contains(&named), "{out}");
}

#[test]
fn p15_a_bad_line_of_input_is_named_with_its_number_and_nothing_is_submitted() {
    let mut command = steersman(&["--address", &dead_address(), "task", "submit", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = b"{\"command\":[\"true\"]}\n\n{\"command\":[\"true\"],\"priorty\":1}\n";
    child.stdin.take().unwrap().write_all(input).unwrap();
    let (code, _, err) = told(child.wait_with_output().unwrap());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("stdin:3: there is no field \"priorty\"; did you mean \"priority\"?"), "{err}");
    assert!(err.contains("nothing was submitted"), "{err}");
}

#[test]
fn p15_configuration_files_are_checked_with_line_and_nearest_key() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.toml", "name = 'w'\ndata_dir = '/d'\nmasters = ['a:1']\n");
    assert_eq!(output(&["config", "check", &good]).0, 0);
    let worker = file("worker.toml", "name = 'w'\ndata_dir = '/d'\nmasters = ['a:1']\ncapcity = 1\n");
    let (code, _, err) = output(&["config", "check", &worker]);
    assert!(code == 7 && err.contains("worker.toml:4") && err.contains("\"capacity\""), "{code} {err}");
    let master = file("master.toml", "node_id = 1\ndata_dir = 'd'\ndata_dri = 'd'\n");
    let (code, _, err) = output(&["config", "check", &master]);
    assert!(code == 7 && err.contains("master.toml:3") && err.contains("data_dir"), "{code} {err}");
    let (code, _, err) = output(&["master", "start", "--config", &master]);
    assert!(code == 78 && err.contains("STM-3001 CONFIG"), "a node ends with its own code: {code} {err}");
}

#[test]
fn help_and_completions_and_codes_go_to_stdout() {
    for (args, wanted) in [
        (&["--help"][..], "Examples:"),
        (&["task", "submit", "--help"], "sha256sum {}"),
        (&["version"], env!("CARGO_PKG_VERSION")),
        (&["explain", "STM-1002"], "NO_LEADER"),
        (&["explain", "-o", "id"], "STM-3007"),
        (&["completions", "bash"], "_steersman"),
        (&["config", "show", "--kind", "master"], "raft.heartbeat_ms"),
        (&["config", "show", "--kind", "worker"], "capacity"),
    ] {
        let (code, out, err) = output(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert!(out.contains(wanted), "{args:?}: {out}");
        assert!(!out.contains('\x1b'), "{args:?}: no colours without a terminal");
    }
    assert_eq!(output(&["explain", "STM-9999"]).0, 3);
    let colored = output(&["--color", "always", "explain", "STM-1002"]).1;
    assert!(colored.contains('\x1b'), "{colored}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = steersman(&["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let (code, _, err) = told(child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (141, ""));
}

#[test]
fn a_snapshot_that_is_none_is_told() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("none.snap");
    std::fs::write(&path, "this is no snapshot of anything\n".repeat(100)).unwrap();
    let (code, out, err) = output(&["cluster", "snapshot", "inspect", path.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("not a snapshot of Steersman") && err.contains("STM-3002"), "{err}");
}

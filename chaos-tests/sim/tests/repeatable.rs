//! One seed, one history: each seed runs in two processes, and once more with every wall clock shifted.
#![allow(clippy::unwrap_used)]

use std::process::Command;

const ENGINES: &[&str] = &["full", "fast"];
/// Enough for several faults and elections.
const SECONDS: &str = "15";

/// The history of a run in a process of its own; fails if a verdict is bad.
fn history(engine: &str, seed: u64, more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history");
    let output = Command::new(env!("CARGO_BIN_EXE_steersman-sim"))
        .args(["--engine", engine, "--seed", &seed.to_string(), "--seconds", SECONDS, "--quiet"])
        .arg("--history")
        .arg(&file)
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "engine {engine}, seed {seed} failed: {errors}");
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    for engine in ENGINES {
        for seed in [1, 2, 3] {
            let first = history(engine, seed, &[]);
            assert!(first == history(engine, seed, &[]), "engine {engine}: seed {seed} is not repeatable");
            assert!(first != history(engine, seed + 100, &[]), "engine {engine}: the seed {seed} changes nothing");
        }
    }
}

/// Digests cover the wall time that the state shows, and the first record shows when the run began.
fn without_wall_time(text: &str) -> Vec<&str> {
    let shown = |line: &&str| line.contains("\"type\":\"digest\"") || line.contains("\"type\":\"run\"");
    text.lines().filter(|line| !shown(line)).collect()
}

#[test]
fn p10_a_shifted_wall_clock_changes_nothing() {
    for engine in ENGINES {
        let (here, there) = (history(engine, 4, &[]), history(engine, 4, &["--wall-shift-ms", "86400000"]));
        assert!(
            without_wall_time(&here) == without_wall_time(&there),
            "engine {engine}: a wall clock decides something"
        );
    }
}

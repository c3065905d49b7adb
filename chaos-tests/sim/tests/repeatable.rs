//! One seed, one history: each seed runs in two processes, and once more with every wall clock shifted.
#![allow(clippy::unwrap_used)]

use std::process::Command;

/// The history of a run of a process of its own; fails if a verdict is bad.
fn history(engine: &str, seed: u64, more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history");
    let output = Command::new(env!("CARGO_BIN_EXE_steersman-sim"))
        .args(["--engine", engine, "--seed", &seed.to_string(), "--quiet"])
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
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2] {
        let first = history("full", seed, &[]);
        assert!(first == history("full", seed, &[]), "seed {seed} is not repeatable");
        assert!(first != history("full", seed + 100, &[]), "seeds {seed} and {} do not differ", seed + 100);
    }
}

#[test]
fn p10_a_shifted_wall_clock_changes_nothing() {
    // Digests cover the wall time that the state shows.
    let of = |more: &[&str]| -> Vec<String> {
        let text = history("full", 4, more);
        text.lines().filter(|line| !line.contains("digest") && !line.contains("agreed")).map(str::to_owned).collect()
    };
    assert!(of(&[]) == of(&["--wall-shift-ms", "86400000"]));
}

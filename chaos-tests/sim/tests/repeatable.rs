//! One seed, one history: each seed runs in two processes, and once more with every wall clock shifted.

use std::process::Command;

fn history(seed: u64, wall_shift_ms: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_steersman-sim"))
        .args(["--seed", &seed.to_string(), "--wall-shift-ms", &wall_shift_ms.to_string()])
        .output()
        .expect("the simulation starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed} failed: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_same_seed_gives_the_same_history_and_nothing_is_lost() {
    for seed in [1, 2, 3] {
        let first = history(seed, 0);
        assert!(first.contains("killed leader"), "seed {seed} killed nobody:\n{first}");
        assert!(first.contains("agreed at"), "seed {seed} did not agree:\n{first}");
        assert_eq!(first, history(seed, 0), "seed {seed} is not repeatable");
    }
}

#[test]
fn p10_a_shifted_wall_clock_changes_nothing() {
    let without_digest =
        |text: String| text.lines().filter(|line| !line.starts_with("agreed")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_digest(history(4, 0)), without_digest(history(4, 86_400_000)));
}

#[test]
fn different_seeds_differ() {
    assert_ne!(history(5, 0), history(6, 0));
}

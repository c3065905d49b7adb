//! Seeds that once found something, each with what was wrong, and a few that nobody has seen before.
//!
//! What always holds: every seed runs in a process of its own; the new ones begin at a number that is printed and can be given
//! in `STEERSMAN_SIM_SEED`.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use steersman_sim::fast::regressions::REGRESSIONS;

/// Seeds of the whole stack: engine, seed, further words of the command line, and what it found. Those of the fast engine stand in
/// `src/fast/regressions.rs`.
const FOUND: &[(&str, u64, &[&str], &str)] = &[
    ("full", 1, &[], "five masters with election timeouts above 300 ms did not start"),
    (
        "full",
        5,
        &["--masters", "3"],
        "HTTP/2 forgot reset streams by the machine's clock: two runs of one seed differed",
    ),
    (
        "full",
        19,
        &["--masters", "3"],
        "a stalled follower's answer to a needless snapshot counted unsynced entries; later, a panic ended the whole run",
    ),
    (
        "full",
        4,
        &["--masters", "3"],
        "the simulated operator asked a removed master, who had not heard of it, whether it was one; its auditor knew none that was left",
    ),
    ("full", 1579, &[], "a Hello that arrived after a later one ended attempts that had begun since"),
    ("full", 15, &["--masters", "3"], "bad in a build whose finding was not written down; the seed is kept"),
    ("full", 21, &["--masters", "3"], "bad in a build whose finding was not written down; the seed is kept"),
];

/// New seeds of each engine: with the others of this workspace under four minutes on two cores.
const NEW: &[(&str, u64)] = &[("full", 4), ("fast", 20)];

fn sweep(engine: &str, seeds: std::ops::Range<u64>, more: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_steersman-sim"))
        .args(["sweep", "--engine", engine, "--seeds", &format!("{}..{}", seeds.start, seeds.end), "--jobs", "2"])
        .args(more)
        .args(["--keep", concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/sim-failures")])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "engine {engine}, seeds {seeds:?}:\n{out}\n{err}");
}

#[test]
fn seeds_that_found_something_stay_good() {
    let fast = REGRESSIONS.iter().map(|(seed, what)| ("fast", *seed, &[] as &[&str], *what));
    for (engine, seed, more, what) in FOUND.iter().copied().chain(fast) {
        eprintln!("{engine} {seed}: {what}");
        let more: Vec<&str> = more.iter().copied().chain(["--twice", "1"]).collect();
        sweep(engine, seed..seed + 1, &more);
    }
}

#[test]
fn new_seeds_are_good() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * 1_000;
    let base = std::env::var("STEERSMAN_SIM_SEED").map_or(now, |seed| seed.parse().unwrap());
    println!("new seeds begin at {base}: STEERSMAN_SIM_SEED={base} runs them again");
    for (engine, count) in NEW {
        sweep(engine, base..base + count, &[]);
    }
}

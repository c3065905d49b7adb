//! A short form of the campaign against seeded bugs: a few of each kind, each caught, and good runs without one.
//!
//! Only in builds that can plant anything: `make seeded-bugs` runs it with `--features seeded-bugs` in a target folder of
//! its own, for those builds are never to be mistaken for the product.
#![cfg(feature = "seeded-bugs")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

/// Caught in almost every seed, one for each family of checkers.
const QUICK: &[&str] =
    &["requests-remembered-by-leader-only", "forget-token-counter-in-snapshot", "heartbeats-unheard"];

#[test]
fn a_few_bugs_are_caught_and_runs_without_one_are_good() {
    let mut campaign = Command::new(env!("CARGO_BIN_EXE_seeded_bugs"));
    let output = campaign.args(["--first", "--seeds", "6", "--seeds-max", "30"]).args(QUICK).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
}

#[test]
fn a_bug_that_nobody_knows_is_no_success() {
    let output = Command::new(env!("CARGO_BIN_EXE_seeded_bugs")).arg("no-such-bug").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

//! What a run has to have shown before it may be called good, from what it set out to do.
//!
//! What always holds: the demands follow from the history alone, so that a history that is judged again is
//! judged alike.

use std::time::Duration;

use steersman_evidence::record::Run;
use steersman_evidence::{Bounds, History};

use crate::nemesis::Class;

/// Facts of a run by which it is judged.
pub const TIME_MS: &str = "time_ms";
/// Operations per second that were wanted.
pub const RATE: &str = "rate";
/// The lease of workers.
pub const LEASE_MS: &str = "lease_ms";

/// Noted by a run that was told to stop: nobody waited for its tasks then.
pub const INTERRUPTED: &str = "the run was interrupted";

/// What a takeover, a new session and a busy machine may add to a lease.
const TAKEOVER: Duration = Duration::from_secs(4);
/// A write succeeds within this time after the last fault: an election on a busy machine, many times over.
const RECOVERY: Duration = Duration::from_secs(30);
/// Everything is finished within this time after the last fault: a flood of 2,000 tasks, and the longest tasks.
const DRAIN: Duration = Duration::from_secs(180);
/// Runs that are shorter need not have seen what takes time (a lease that ends, a snapshot that is taken over).
const SHORT: Duration = Duration::from_secs(100);
/// Of the operations that are wanted of each kind, a storm leaves at least so many.
const SHARE: f64 = 0.3;

/// Kinds of operations, and how many there are of 1,000 in fair weather (see [`super::workloads`]).
const KINDS: &[(&str, f64)] = &[("submit", 30.0), ("cancel", 12.0), ("read", 550.0), ("read_stale", 150.0)];
/// Checkers that must have had something to look at.
const LOOKED: &[&str] = &[
    "linearizable",
    "lost-submit",
    "one-outcome",
    "tokens",
    "fenced-register",
    "double-hold",
    "exclusion",
    "idempotence",
    "event-stream",
    "replicas",
    "one-leader",
];

/// The demands on a run, from its history.
pub fn of(history: &History) -> Bounds {
    let mut bounds = bounds(&history.run);
    if history.notes.iter().any(|note| note.text == INTERRUPTED) {
        bounds.drained = false;
        (bounds.recovery_us, bounds.drain_us) = (None, None);
    }
    bounds
}

/// The demands on a run that went on to its end.
pub fn bounds(run: &Run) -> Bounds {
    let number = |fact: &str| run.facts.get(fact).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let (time, rate) = (Duration::from_millis(number(TIME_MS) as u64), number(RATE));
    let lease = Duration::from_millis(number(LEASE_MS) as u64);
    let mut bounds = Bounds::none();
    bounds.drained = true;
    bounds.recovery_us = Some(RECOVERY.as_micros() as u64);
    bounds.drain_us = Some(DRAIN.as_micros() as u64);
    bounds.punish_after_us = Some((lease + TAKEOVER).as_micros() as u64);
    for (kind, share) in KINDS {
        bounds = bounds.ops(kind, (time.as_secs_f64() * rate * share / 1_000.0 * SHARE) as u64);
    }
    for checker in LOOKED {
        bounds = bounds.examined(checker, 1);
    }
    if time >= SHORT {
        storm_seen(&mut bounds, run);
    }
    bounds
}

/// What the faults of a run must have brought about.
fn storm_seen(bounds: &mut Bounds, run: &Run) {
    let wanted: Vec<Class> = run.faults_wanted.iter().filter_map(|name| Class::of_name(name)).collect();
    let any = |classes: &[Class]| wanted.iter().any(|class| classes.contains(class));
    bounds.lease_expiries_min = u64::from(any(&[Class::WorkerKill, Class::WorkerPause, Class::WorkerCut]));
    let elects = any(&[Class::Kill, Class::PowerLoss, Class::LeaderIsolated, Class::StepDown, Class::AllMastersDown]);
    bounds.elections_min = 1 + u64::from(elects);
    // A master that joins cannot do without one.
    bounds.snapshot_installs_min = u64::from(any(&[Class::Membership, Class::WipeRejoin]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_runs_have_to_show_more() {
        let run = |ms: u64| Run {
            facts: [(TIME_MS, ms.to_string()), (RATE, "80".into()), (LEASE_MS, "2000".into())]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            faults_wanted: vec!["worker-kill".into(), "kill".into()],
            ..Run::default()
        };
        let (short, long) = (bounds(&run(20_000)), bounds(&run(3_600_000)));
        assert_eq!((short.lease_expiries_min, long.lease_expiries_min), (0, 1));
        assert_eq!((long.elections_min, long.snapshot_installs_min), (2, 0));
        assert!(long.ops_min["read"] > 100 * short.ops_min["read"] && short.ops_min["submit"] > 0);
        assert_eq!(long.punish_after_us, Some(6_000_000));
    }
}

//! Weather: which faults come when, drawn from the seed before the run begins.
//!
//! What always holds: the plan depends on the seed, the length and the wanted classes alone; every storm ends before the run's
//! time under faults is over. What it does not do: hit anything; an engine does, with numbers from [`Storm::numbers`].

use steersman_world::{Entropy as _, SeededEntropy};

/// Nothing happens before the cluster has formed and work is under way.
const CALM_MS: u64 = 2_500;
/// Storms that may rage at the same time.
const OVERLAP_MAX: usize = 3;

/// Classes of faults, each with how often it comes compared to the others, and its shortest and longest time in ms.
pub const CLASSES: &[(&str, u64, u64, u64)] = &[
    ("kill", 8, 100, 4_000),
    ("kill-several", 2, 100, 4_000),
    ("power-loss", 6, 300, 5_000),
    ("power-loss-all", 2, 300, 3_000),
    ("torn-write", 4, 300, 3_000),
    ("rolling-restart", 1, 3_000, 8_000),
    ("partition", 5, 500, 8_000),
    ("partition-one-sided", 4, 500, 6_000),
    ("leader-isolated", 4, 500, 6_000),
    ("bridge", 2, 1_000, 6_000),
    ("flapping", 2, 2_000, 8_000),
    ("delay", 4, 1_000, 8_000),
    ("stall", 4, 200, 4_000),
    ("slow-disk", 4, 1_000, 8_000),
    ("stalled-disk", 3, 1_000, 6_000),
    ("failed-sync", 3, 200, 3_000),
    ("full-disk", 2, 500, 4_000),
    ("pause", 5, 300, 8_000),
    ("clock-jump", 3, 500, 5_000),
    ("clock-drift", 2, 5_000, 20_000),
    ("step-down", 3, 200, 500),
    ("membership", 2, 500, 1_000),
    ("wipe", 1, 2_000, 4_000),
    ("worker-kill", 5, 100, 8_000),
    ("worker-cut", 5, 500, 9_000),
    ("worker-pause", 3, 500, 8_000),
    ("worker-slow", 2, 1_000, 6_000),
    ("worker-mode", 2, 1_000, 5_000),
    ("flood", 2, 100, 200),
];

/// One fault with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storm {
    /// One of [`CLASSES`].
    pub class: &'static str,
    /// Simulated ms of its beginning.
    pub from_ms: u64,
    /// And of its end.
    pub to_ms: u64,
    draw: u64,
}

impl Storm {
    /// Numbers for whatever is still to be chosen: whom it hits, and how.
    pub fn numbers(&self) -> SeededEntropy {
        SeededEntropy::new(self.draw)
    }
}

/// The storms of a run that is `seconds` long, in order of their beginnings. `wants` says which classes may come.
pub fn plan(seed: u64, seconds: u64, wants: impl Fn(&str) -> bool) -> Vec<Storm> {
    let numbers = SeededEntropy::new(seed ^ 0x57EA_7E12);
    let (end_ms, mut at_ms) = (seconds * 1_000, CALM_MS);
    let classes: Vec<_> = CLASSES.iter().filter(|(name, ..)| wants(name)).collect();
    let mut storms: Vec<Storm> = Vec::new();
    while at_ms + 300 < end_ms && !classes.is_empty() {
        let storm = draw(&numbers, &classes, at_ms, end_ms);
        let (begins, ends) = (at_ms, storm.to_ms);
        storms.push(storm);
        let raging = storms.iter().filter(|storm| storm.to_ms > at_ms).count();
        // Mostly one after the other with some peace between them, at times on top of each other.
        at_ms = if numbers.below(10) < 4 && raging < OVERLAP_MAX {
            begins + 50 + numbers.below(1_500)
        } else {
            ends + 50 + numbers.below(2_500)
        };
    }
    storms
}

fn draw(numbers: &SeededEntropy, classes: &[&(&'static str, u64, u64, u64)], from_ms: u64, end_ms: u64) -> Storm {
    let weights: u64 = classes.iter().map(|(_, weight, ..)| weight).sum();
    let mut chosen = numbers.below(weights);
    let class = classes.iter().find(|(_, weight, ..)| {
        let here = chosen < *weight;
        chosen = chosen.saturating_sub(*weight);
        here
    });
    let (name, _, min_ms, max_ms) = class.copied().unwrap_or(classes[0]);
    let to_ms = (from_ms + min_ms + numbers.below(max_ms - min_ms + 1)).min(end_ms - 1);
    Storm { class: name, from_ms, to_ms, draw: numbers.next_u64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_from_its_seed_and_stays_within_its_time() {
        let plan_of = |seed| plan(seed, 60, |_| true);
        assert_eq!(plan_of(7), plan_of(7));
        assert_ne!(plan_of(7), plan_of(8));
        assert!(plan_of(7).iter().all(|storm| storm.from_ms < storm.to_ms && storm.to_ms < 60_000));
    }

    #[test]
    fn every_class_comes_sooner_or_later_and_only_those_that_are_wanted() {
        let seen: std::collections::BTreeSet<_> =
            (0..200).flat_map(|seed| plan(seed, 60, |_| true)).map(|storm| storm.class).collect();
        assert_eq!(seen.len(), CLASSES.len());
        assert!(plan(3, 60, |class| class == "kill").iter().all(|storm| storm.class == "kill"));
    }
}

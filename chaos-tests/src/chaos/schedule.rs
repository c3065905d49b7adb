//! The schedule of a run: which faults, in which order, for how long, from the seed alone.
//!
//! What always holds: three tracks run side by side: faults of masters, faults of workers, and weather (delay, loss, clocks), which
//! impairs nobody. Each track has one fault at a time and a calm after each; within a track every class comes once before any comes
//! again. What the bed refuses at a moment is its business: how many masters may be impaired at a time is in its books.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use steersman_world::{Entropy as _, SeededEntropy};

use crate::nemesis::Class;

/// Which faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Every class once, briefly; the run goes on until each was in force.
    All,
    /// Every class, over and over.
    Mix,
    /// These classes, over and over.
    Only(Vec<Class>),
    /// None: how the cluster does in fair weather.
    Calm,
}

impl std::str::FromStr for Test {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => return Ok(Self::All),
            "mix" => return Ok(Self::Mix),
            "calm" => return Ok(Self::Calm),
            _ => {}
        }
        let mut classes = Vec::new();
        for name in text.split(',') {
            let Some(class) = Class::of_name(name.trim()) else {
                let all: Vec<&str> = Class::all().iter().map(|class| class.name()).collect();
                bail!("there is no class of faults {name:?}; write all, mix, calm, or some of: {}", all.join(", "));
            };
            classes.push(class);
        }
        Ok(Self::Only(classes))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Mix => f.write_str("mix"),
            Self::Calm => f.write_str("calm"),
            Self::Only(classes) => {
                let names: Vec<&str> = classes.iter().map(|class| class.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl Test {
    /// The classes that it draws from.
    pub fn classes(&self) -> Vec<Class> {
        match self {
            Self::All | Self::Mix => Class::all().to_vec(),
            Self::Only(classes) => classes.clone(),
            Self::Calm => Vec::new(),
        }
    }
}

/// What goes on side by side with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Faults of masters and of links between them.
    Masters,
    /// Faults of workers.
    Workers,
    /// What everybody suffers a little.
    Weather,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Masters, Self::Workers, Self::Weather];

    /// Where a class belongs.
    pub fn of(class: Class) -> Self {
        use Class::*;
        match class {
            WorkerKill | WorkerPause | WorkerCut => Self::Workers,
            Delay | Jitter | Loss | Duplicate | Reorder | Throttle | ClockJump | ClockDrift => Self::Weather,
            _ => Self::Masters,
        }
    }
}

/// One fault to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub class: Class,
    /// How long it stays.
    pub hold: Duration,
    /// How long the lane is calm afterwards.
    pub calm: Duration,
}

/// The endless order of one lane.
#[derive(Debug)]
pub struct Deck {
    classes: Vec<Class>,
    left: Vec<Class>,
    brisk: bool,
    entropy: SeededEntropy,
}

impl Deck {
    /// Of the classes that belong to the lane. `brisk`: short faults and short calms.
    pub fn new(classes: &[Class], lane: Lane, seed: u64, brisk: bool) -> Self {
        let classes: Vec<Class> = classes.iter().copied().filter(|class| Lane::of(*class) == lane).collect();
        let entropy = SeededEntropy::new(seed ^ (0x1A4E << 8) ^ lane as u64);
        Self { classes, left: Vec::new(), brisk, entropy }
    }

    /// The next one; none if the lane has no classes.
    pub fn draw(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left.clone_from(&self.classes);
        }
        let at = self.entropy.below(self.left.len() as u64) as usize;
        let class = (!self.left.is_empty()).then(|| self.left.swap_remove(at))?;
        Some(Step { class, hold: self.hold(), calm: self.calm() })
    }

    /// Mostly a few seconds; now and then long enough for leases to end and for followers to need a snapshot.
    fn hold(&self) -> Duration {
        match (self.brisk, self.entropy.below(10)) {
            (true, 0..2) => self.between(6_000, 8_000),
            (true, _) => self.between(1_500, 4_000),
            (false, 0..3) => self.between(8_000, 20_000),
            (false, _) => self.between(2_000, 8_000),
        }
    }

    /// Mostly short; now and then long enough that everything settles.
    fn calm(&self) -> Duration {
        match (self.brisk, self.entropy.below(10)) {
            (true, _) => self.between(500, 1_500),
            (false, 0..3) => self.between(5_000, 15_000),
            (false, _) => self.between(500, 5_000),
        }
    }

    fn between(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.entropy.below(to - from))
    }
}

/// What injecting and healing take besides, on average: for the forecast only.
const OVERHEAD: Duration = Duration::from_secs(4);

/// What should happen within `time`, by lane, with the planned moment of each.
pub fn forecast(test: &Test, seed: u64, time: Duration) -> Vec<(Lane, Duration, Step)> {
    let classes = test.classes();
    let mut plan = Vec::new();
    for lane in Lane::ALL {
        let mut deck = Deck::new(&classes, lane, seed, *test == Test::All);
        let (mut at, mut drawn) = (Duration::ZERO, 0);
        while let Some(step) = deck.draw() {
            if at >= time || (*test == Test::All && drawn == deck.classes.len()) {
                break;
            }
            plan.push((lane, at, step));
            drawn += 1;
            at += OVERHEAD + step.hold + step.calm;
        }
    }
    plan.sort_by_key(|(lane, at, _)| (*at, *lane));
    plan
}

/// Share of the time within which a planned fault is so early that the run must have had it.
const SURE_SHARE: f64 = 0.5;

/// The classes without which the run proves nothing.
pub fn wanted(test: &Test, seed: u64, time: Duration) -> BTreeSet<Class> {
    match test {
        Test::Mix => {
            let sure = time.mul_f64(SURE_SHARE);
            forecast(test, seed, time)
                .into_iter()
                .filter(|(_, at, _)| *at < sure)
                .map(|(_, _, step)| step.class)
                .collect()
        }
        _ => test.classes().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_seed_alone_decides_and_an_hour_has_every_class() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(forecast(&Test::Mix, 7, hour), forecast(&Test::Mix, 7, hour));
        assert_ne!(forecast(&Test::Mix, 7, hour), forecast(&Test::Mix, 8, hour));
        for seed in 0..20 {
            assert_eq!(wanted(&Test::Mix, seed, hour).len(), Class::all().len(), "seed {seed}");
        }
    }

    #[test]
    fn every_class_once_fits_a_short_run() {
        for seed in 0..50 {
            let plan = forecast(&Test::All, seed, Duration::from_secs(600));
            assert_eq!(plan.len(), Class::all().len());
            let last = plan.last().map(|(_, at, step)| *at + step.hold).unwrap();
            assert!(last < Duration::from_secs(250), "seed {seed}: {last:?}");
        }
    }

    #[test]
    fn tests_are_what_their_names_say() {
        assert_eq!("kill, worker-cut".parse::<Test>().unwrap(), Test::Only(vec![Class::Kill, Class::WorkerCut]));
        assert_eq!("mix".parse::<Test>().unwrap().to_string(), "mix");
        let error = "kil".parse::<Test>().unwrap_err().to_string();
        assert!(error.contains("kil") && error.contains("power-loss"), "{error}");
    }
}

//! What every engine takes and gives back, and what is told of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use steersman_evidence::record::Record;
use steersman_evidence::verdict::{Finding, Verdict};

use crate::timeline;

/// Which simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The whole stack over a simulated network.
    Full,
    /// Core, store and consensus on one paused clock.
    Fast,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Fast => "fast",
        })
    }
}

impl Engine {
    /// One run from a seed.
    ///
    /// # Errors
    /// Whatever keeps the run from being run at all; broken promises are verdicts.
    pub fn run(self, seed: u64, options: &Options) -> anyhow::Result<Outcome> {
        match self {
            Self::Full => crate::full::run(seed, options),
            Self::Fast => crate::fast::run(seed, options),
        }
    }
}

/// What a run is asked to be. Whatever is `None` is drawn from the seed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many masters: 3 or 5.
    pub masters: Option<u64>,
    /// Simulated seconds under faults; the time to heal and drain comes on top.
    pub seconds: Option<u64>,
    /// Only these classes of fault; empty means all, `none` means none.
    pub faults: Vec<String>,
    /// Moves every wall clock by so many ms; must change nothing but what is shown.
    pub wall_shift_ms: u64,
}

impl Options {
    /// Whether a class of fault may happen.
    pub fn wants(&self, class: &str) -> bool {
        self.faults.is_empty() || self.faults.iter().any(|wanted| wanted == class)
    }
}

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Everything that was seen, in order: the same seed gives the same, byte for byte.
    pub records: Vec<Record>,
    /// What the checkers say.
    pub verdicts: Vec<Verdict>,
    /// What was covered, by name: elections, lease expiries, snapshot installs, operations of each kind, faults of each class.
    pub coverage: BTreeMap<String, u64>,
    /// Simulated ms.
    pub simulated_ms: u64,
}

impl Outcome {
    /// Whether no verdict is bad.
    pub fn is_good(&self) -> bool {
        !self.verdicts.iter().any(Verdict::is_bad)
    }

    /// `bad <checker>: <text>`, one line per problem.
    pub fn bad_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for verdict in &self.verdicts {
            if let Finding::Bad(problems) = &verdict.finding {
                lines.extend(problems.iter().map(|problem| format!("bad {}: {problem}", verdict.checker)));
            }
        }
        lines
    }
}

/// What is told of a run: to people as text, to a sweep as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Which simulation.
    pub engine: Engine,
    /// Simulated ms.
    pub simulated_ms: u64,
    /// Records in the history.
    pub records: u64,
    /// What the checkers say.
    pub verdicts: Vec<Verdict>,
    /// What was covered, by name.
    pub coverage: BTreeMap<String, u64>,
}

impl Summary {
    /// Of a run.
    pub fn of(seed: u64, engine: Engine, outcome: &Outcome) -> Self {
        Self {
            seed,
            engine,
            simulated_ms: outcome.simulated_ms,
            records: outcome.records.len() as u64,
            verdicts: outcome.verdicts.clone(),
            coverage: outcome.coverage.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, engine, simulated_ms, records, .. } = self;
        writeln!(
            f,
            "engine {engine}, seed {seed}: {records} records of {:.1} simulated s",
            *simulated_ms as f64 / 1e3
        )?;
        for verdict in &self.verdicts {
            let word = match &verdict.finding {
                Finding::Good => "good".to_owned(),
                Finding::Bad(problems) => format!("BAD ({} problems)", problems.len()),
                Finding::Unknown(why) => format!("unknown: {why}"),
            };
            writeln!(f, "  {:<20} {:>7}  {word}", verdict.checker, verdict.examined)?;
        }
        let covered: Vec<String> = self.coverage.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "  covered: {}", covered.join(", "))
    }
}

/// Where a failing run's evidence lies.
pub struct Kept {
    /// One record per line.
    pub history: PathBuf,
    /// To be read by people.
    pub timeline: PathBuf,
}

impl Kept {
    /// Writes both files; makes the folder.
    ///
    /// # Errors
    /// Whatever the disk refuses.
    pub fn write(folder: &Path, name: &str, outcome: &Outcome, lines: &[String], replay: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let kept = Self {
            history: folder.join(format!("{name}.jsonl")),
            timeline: folder.join(format!("{name}.timeline.txt")),
        };
        timeline::write_history(&kept.history, &outcome.records)?;
        let mut file = std::fs::File::create(&kept.timeline)?;
        writeln!(file, "{replay}\n{}\n\n{}", outcome.bad_lines().join("\n"), lines.join("\n"))?;
        Ok(kept)
    }
}

//! From a history to verdicts, and everything that is made of them: the table, `verdicts.json`, `report.html`, `history.edn`.
//!
//! What always holds: only what is good in every verdict is good; unknown is not passed. The history is read from its file, as
//! anybody else would read it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use steersman_evidence::report::{Extra, render};
use steersman_evidence::{History, Verdict, all_good, check};

use super::demands;

/// A history and what is thought of it.
#[derive(Debug)]
pub struct Judgement {
    /// What was seen.
    pub history: History,
    /// What that proves, the verdicts of the runner itself included.
    pub verdicts: Vec<Verdict>,
}

/// Reads a history.
///
/// # Errors
/// If it is not there or is none.
pub fn read(path: &Path) -> Result<History> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    History::read(BufReader::with_capacity(1 << 20, file)).with_context(|| path.display().to_string())
}

/// Judges a history by the demands on its run. `others` are verdicts on what is not in it.
///
/// # Errors
/// As [`read`].
pub fn judge(path: &Path, others: Vec<Verdict>) -> Result<Judgement> {
    let history = read(path)?;
    let mut verdicts = check(&history, &demands::of(&history));
    verdicts.extend(others);
    Ok(Judgement { history, verdicts })
}

impl Judgement {
    /// Whether the run passed.
    pub fn passed(&self) -> bool {
        all_good(&self.verdicts)
    }

    /// The table for the terminal.
    pub fn table(&self) -> String {
        steersman_evidence::summary(&self.verdicts)
    }

    /// Writes `verdicts.json`, `report.html` and `history.edn`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.verdicts)?;
        std::fs::write(folder.join("verdicts.json"), json + "\n").context("cannot write verdicts.json")?;
        write_report(&self.history, &self.verdicts, &folder.join("report.html"))?;
        write_edn(&self.history, &folder.join("history.edn"))
    }
}

/// Writes the one-file report.
///
/// # Errors
/// If it cannot be written.
pub fn write_report(history: &History, verdicts: &[Verdict], path: &Path) -> Result<()> {
    let (run, facts) = (&history.run, &history.run.facts);
    let test = facts.get("test").map_or("mix", String::as_str);
    let seconds = facts.get(demands::TIME_MS).and_then(|ms| ms.parse().ok()).unwrap_or(0_u64) / 1_000;
    let replay = Some(format!("steersman-chaos run --test {test} --time {seconds}s --seed {}", run.seed));
    let extra = Extra { replay, ..Extra::default() };
    let page = render(history, &demands::of(history), verdicts, &extra);
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the history for Jepsen's own checkers.
///
/// # Errors
/// If it cannot be written.
pub fn write_edn(history: &History, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut writer = BufWriter::new(file);
    steersman_evidence::edn::write(history, &mut writer).with_context(|| format!("cannot write {}", path.display()))?;
    writer.flush().with_context(|| format!("cannot write {}", path.display()))
}

//! The campaign against seeded bugs: for each bug, simulated runs (or the tests that are named for it) until it is caught.
//!
//! What always holds: a bug counts as caught only by a checker's bad verdict, by a run that a broken invariant or a stopped
//! master ended, or by a failing test; the same seeds without a bug have to be good. Every run is a process of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::Context as _;
use steersman_bugs::{Bug, Suite};
use steersman_sim::fleet::{RUN_MAX, Said, bounded, each};
use steersman_sim::run::{Engine, Summary};

/// A verdict is bad.
const EXIT_BAD: i32 = 7;

/// What to run.
pub struct Plan {
    /// The program that makes one run.
    pub sim: PathBuf,
    /// Where `cargo test` runs for the bugs that only tests see: the project's root.
    pub root: PathBuf,
    /// Seeds that every bug is tried on, from 1.
    pub seeds: u64,
    /// If none of them caught it: so many at most.
    pub seeds_max: u64,
    /// Processes at a time.
    pub jobs: usize,
    /// Stop at the first seed that catches the bug.
    pub first: bool,
}

/// What became of one bug.
pub struct Row {
    /// Its name; `(none)` for the control.
    pub bug: &'static str,
    /// Which engine or which tests looked for it.
    pub suite: String,
    /// Runs.
    pub runs: u64,
    /// Seeds that caught it.
    pub caught: Vec<u64>,
    /// How often each checker did; several may in one run.
    pub by: BTreeMap<String, u64>,
    /// The first thing that was said, shortened.
    pub example: String,
}

impl Row {
    fn new(bug: &'static str, suite: String) -> Self {
        Self { bug, suite, runs: 0, caught: Vec::new(), by: BTreeMap::new(), example: String::new() }
    }

    /// As a row of the table in docs/testing.md.
    pub fn markdown(&self) -> String {
        let mut by: Vec<_> = self.by.iter().collect();
        by.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let by: Vec<_> = by.into_iter().map(|(checker, count)| format!("{checker} {count}")).collect();
        format!("| `{}` | {} | {} of {} | {} |", self.bug, self.suite, self.caught.len(), self.runs, by.join(", "))
    }
}

/// What one run said.
enum Ran {
    Good,
    /// Checkers that were not content, and the first line of each.
    Bad(BTreeMap<String, String>),
}

/// Looks for one bug, on the plan's seeds and then, if nobody saw it, on more.
///
/// # Errors
/// If a run could not be made.
pub fn hunt(plan: &Plan, bug: &'static Bug) -> anyhow::Result<Row> {
    match bug.suite {
        Suite::Simulation(engine, words) => {
            let engine = engine_of(engine);
            let mut row = Row::new(bug.name, format!("simulation, {engine}"));
            simulate(plan, engine, Some(bug), words, 1..plan.seeds + 1, &mut row)?;
            while row.caught.is_empty() && row.runs < plan.seeds_max {
                let from = row.runs + 1;
                let to = (from + plan.seeds).min(plan.seeds_max + 1);
                simulate(plan, engine, Some(bug), words, from..to, &mut row)?;
            }
            Ok(row)
        }
        Suite::Tests(package, file, filter) => tests(plan, bug, &Target { package, file, filter }),
    }
}

/// The same seeds without a bug.
///
/// # Errors
/// If a run could not be made.
pub fn control(plan: &Plan, engine: Engine, words: &'static [&'static str]) -> anyhow::Result<Row> {
    let plan = Plan { first: false, sim: plan.sim.clone(), root: plan.root.clone(), ..*plan };
    let mut row = Row::new("(none)", format!("simulation, {engine} {}", words.join(" ")).trim_end().to_owned());
    simulate(&plan, engine, None, words, 1..plan.seeds + 1, &mut row)?;
    Ok(row)
}

/// The engine of the table as the one of the command line.
pub fn engine_of(engine: steersman_bugs::Engine) -> Engine {
    match engine {
        steersman_bugs::Engine::Full => Engine::Full,
        steersman_bugs::Engine::Fast => Engine::Fast,
    }
}

fn simulate(
    plan: &Plan,
    engine: Engine,
    bug: Option<&Bug>,
    words: &[&str],
    seeds: std::ops::Range<u64>,
    row: &mut Row,
) -> anyhow::Result<()> {
    let seeds: Vec<u64> = seeds.collect();
    let found = Mutex::new(BTreeMap::new());
    each(&seeds, plan.jobs, |&seed| {
        let ran = one(plan, engine, seed, bug, words);
        let enough = plan.first && matches!(ran, Ok(Ran::Bad(_)));
        found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(seed, ran);
        !enough
    });
    for (seed, ran) in found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        row.runs += 1;
        if let Ran::Bad(said) = ran? {
            row.take(seed, said);
        }
    }
    Ok(())
}

impl Row {
    fn take(&mut self, seed: u64, said: BTreeMap<String, String>) {
        self.caught.push(seed);
        for (checker, line) in said {
            if self.example.is_empty() {
                self.example = format!("seed {seed}: {checker}: {line}");
            }
            *self.by.entry(checker).or_default() += 1;
        }
    }
}

fn one(plan: &Plan, engine: Engine, seed: u64, bug: Option<&Bug>, words: &[&str]) -> anyhow::Result<Ran> {
    let mut command = Command::new(&plan.sim);
    command.args(["--json", "--engine", &engine.to_string(), "--seed", &seed.to_string()]).args(words);
    command.args(bug.iter().flat_map(|bug| ["--bug", bug.name])).env_remove(steersman_bugs::VARIABLE);
    let Said { code, out, err } = bounded(command)?;
    let Some(status) = code else {
        return Ok(Ran::Bad(BTreeMap::from([("no end".to_owned(), format!("no end within {RUN_MAX:?}"))])));
    };
    if status == 0 {
        anyhow::ensure!(!out.is_empty(), "{} said nothing", plan.sim.display());
        return Ok(Ran::Good);
    }
    if status == EXIT_BAD {
        let summary: Summary = serde_json::from_str(out.trim()).context("the summary of a run")?;
        return Ok(Ran::Bad(bad_checkers(&summary)));
    }
    let last = err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word");
    anyhow::ensure!(bug.is_some(), "seed {seed} could not be run: {last}");
    let panicked = err.lines().find(|line| line.contains("panicked at")).unwrap_or(last);
    Ok(Ran::Bad(BTreeMap::from([("run broken off".to_owned(), panicked.to_owned())])))
}

fn bad_checkers(summary: &Summary) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    for verdict in summary.verdicts.iter().filter(|verdict| verdict.is_bad()) {
        if let steersman_evidence::Finding::Bad(lines) = &verdict.finding {
            let first = lines.first().map_or("", |line| line.lines().next().unwrap_or_default());
            said.insert(verdict.checker.clone(), first.chars().take(240).collect());
        }
    }
    said
}

/// Tests of one crate.
struct Target<'a> {
    package: &'a str,
    file: &'a str,
    filter: &'a str,
}

/// The tests that are named for a bug: good without it, failing with it.
fn tests(plan: &Plan, bug: &'static Bug, target: &Target<'_>) -> anyhow::Result<Row> {
    let Target { package, file, filter } = target;
    let suite = format!("tests of `{}`: {file}", package.trim_start_matches("steersman-"));
    let mut row = Row::new(bug.name, suite);
    anyhow::ensure!(target.failing(&plan.root, None)?.is_empty(), "{package}: {filter} fails without a bug");
    row.runs = 1;
    let failing = target.failing(&plan.root, Some(bug.name))?;
    if let Some(first) = failing.first() {
        row.caught.push(1);
        row.example.clone_from(first);
        row.by = failing.into_iter().map(|test| (format!("`{test}`"), 1)).collect();
    }
    Ok(row)
}

impl Target<'_> {
    /// Names of the tests that fail.
    fn failing(&self, root: &Path, bug: Option<&str>) -> anyhow::Result<Vec<String>> {
        let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        let features = format!("{}/seeded-bugs", self.package);
        command.args(["test", "--locked", "--no-fail-fast", "-p", self.package, "--features", &features]);
        match self.file {
            "lib" => command.arg("--lib"),
            file => command.args(["--test", file]),
        };
        command.arg(self.filter).current_dir(root);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove(steersman_bugs::VARIABLE);
        command.envs(bug.map(|name| (steersman_bugs::VARIABLE, name)));
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let outcome = |line: &str, word: &str| Some(line.strip_prefix("test ")?.strip_suffix(word)?.to_owned());
        let failing: Vec<String> = text.lines().filter_map(|line| outcome(line, " ... FAILED")).collect();
        let passed = text.lines().filter_map(|line| outcome(line, " ... ok")).count();
        let told = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(passed + failing.len() > 0, "{}: no test ran: {told}", self.package);
        anyhow::ensure!(output.status.success() == failing.is_empty(), "{}: {}", self.package, output.status);
        Ok(failing)
    }
}

/// The table.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = "| bug | looked for by | caught in | by |\n| --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let _ = writeln!(text, "{}", row.markdown());
    }
    text
}

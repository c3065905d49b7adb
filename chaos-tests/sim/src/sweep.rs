//! Many seeds, each in a process of its own, some at a time; progress, failures, and what was covered in all.
//!
//! What always holds: a sweep is good only if every run was made, no verdict is bad, no checker but `coverage` is unknown
//! (coverage counts over the whole sweep), and the histories of seeds that run twice are equal byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use steersman_evidence::verdict::Finding;

use crate::fleet::{RUN_MAX, Said, bounded, each};
use crate::run::{Engine, Summary};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Lines of a failing process's stderr that are shown.
const ERROR_LINES: usize = 12;

/// What to run.
pub struct Plan {
    /// `A..B`, without B.
    pub seeds: String,
    /// `full`, `fast` or `both`.
    pub engine: String,
    /// Processes at a time.
    pub jobs: usize,
    /// The first so many seeds run twice.
    pub twice: u64,
    /// Where failing runs leave their evidence.
    pub keep: PathBuf,
    /// Further words for each run's command line.
    pub extra: Vec<String>,
}

#[derive(Clone, Copy)]
struct Job {
    engine: Engine,
    seed: u64,
    twice: bool,
}

#[derive(Default)]
struct Sum {
    done: u64,
    failed: BTreeMap<String, Vec<String>>,
    unknown: BTreeMap<String, u64>,
    simulated_ms: BTreeMap<String, u64>,
    runs: BTreeMap<String, u64>,
    coverage: BTreeMap<String, BTreeMap<String, u64>>,
    compared: u64,
    told: Option<Instant>,
}

/// Runs them all. Returns whether everything was good.
///
/// # Errors
/// If the plan makes no sense or this program can't be started again.
pub fn sweep(plan: &Plan) -> anyhow::Result<bool> {
    let jobs = jobs(plan)?;
    let (sum, began) = (Mutex::new(Sum::default()), Instant::now());
    let me = std::env::current_exe().context("this program's own path")?;
    each(&jobs, plan.jobs, |job| {
        let ran = run(&me, plan, *job);
        let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sum.take(*job, ran);
        sum.progress(jobs.len(), began);
        true
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.tell(began.elapsed());
    Ok(sum.failed.is_empty())
}

fn jobs(plan: &Plan) -> anyhow::Result<Vec<Job>> {
    let (from, to) = plan.seeds.split_once("..").context("--seeds is A..B, e.g. 1..2001")?;
    let (from, to): (u64, u64) = (from.trim().parse()?, to.trim().parse()?);
    anyhow::ensure!(from < to, "--seeds {from}..{to} is empty");
    let engines = match plan.engine.as_str() {
        "full" => vec![Engine::Full],
        "fast" => vec![Engine::Fast],
        "both" => vec![Engine::Full, Engine::Fast],
        other => anyhow::bail!("--engine {other}: full, fast or both"),
    };
    let twice = |seed: u64| seed - from < plan.twice;
    let of = |seed: u64| engines.iter().map(move |engine| Job { engine: *engine, seed, twice: twice(seed) });
    Ok((from..to).flat_map(of).collect())
}

/// What a run said of itself, or why it said nothing.
struct Ran {
    summary: Option<Summary>,
    problems: Vec<String>,
}

fn run(me: &Path, plan: &Plan, job: Job) -> Ran {
    match try_run(me, plan, job) {
        Ok(ran) => ran,
        Err(error) => Ran { summary: None, problems: vec![format!("could not run: {error:#}")] },
    }
}

fn try_run(me: &Path, plan: &Plan, job: Job) -> anyhow::Result<Ran> {
    let folder = tempfile::tempdir()?;
    let files: Vec<PathBuf> = ["a", "b"].iter().map(|name| folder.path().join(name)).collect();
    let said = once(me, plan, job, job.twice.then_some(&files[0]))?;
    let mut problems = Vec::new();
    if said.code != Some(0) {
        let told: Vec<&str> = said.err.lines().filter(|line| line.starts_with("bad ")).collect();
        let last: Vec<&str> = said.err.lines().collect();
        let shown = if told.is_empty() { last[last.len().saturating_sub(ERROR_LINES)..].to_vec() } else { told };
        problems.extend(shown.into_iter().take(ERROR_LINES).map(str::to_owned));
        problems.push(match said.code {
            Some(code) => format!("ended with exit code {code}"),
            None => format!("no end within {RUN_MAX:?}"),
        });
    }
    if job.twice {
        once(me, plan, job, Some(&files[1]))?;
        if std::fs::read(&files[0])? != std::fs::read(&files[1])? {
            std::fs::create_dir_all(&plan.keep)?;
            for (file, name) in files.iter().zip(["first", "second"]) {
                std::fs::copy(file, plan.keep.join(format!("{}-{}.{name}.jsonl", job.engine, job.seed)))?;
            }
            problems.push("not repeatable: two runs of this seed left different histories".to_owned());
        }
    }
    Ok(Ran { summary: serde_json::from_str(&said.out).ok(), problems })
}

fn once(me: &Path, plan: &Plan, job: Job, history: Option<&PathBuf>) -> anyhow::Result<Said> {
    let mut command = Command::new(me);
    command.args(["--json", "--engine", &job.engine.to_string(), "--seed", &job.seed.to_string()]).args(&plan.extra);
    command.arg("--keep").arg(&plan.keep);
    if let Some(file) = history {
        command.arg("--history").arg(file);
    }
    bounded(command)
}

impl Sum {
    fn take(&mut self, job: Job, mut ran: Ran) {
        let engine = job.engine.to_string();
        self.done += 1;
        self.compared += u64::from(job.twice);
        if ran.summary.is_none() && ran.problems.is_empty() {
            ran.problems.push("said nothing about itself".to_owned());
        }
        if let Some(summary) = ran.summary {
            for verdict in &summary.verdicts {
                if let Finding::Unknown(why) = &verdict.finding {
                    *self.unknown.entry(format!("{engine} {}", verdict.checker)).or_default() += 1;
                    if verdict.checker != "coverage" {
                        ran.problems.push(format!("unknown {}: {why}", verdict.checker));
                    }
                }
            }
            *self.simulated_ms.entry(engine.clone()).or_default() += summary.simulated_ms;
            *self.runs.entry(engine.clone()).or_default() += 1;
            let covered = self.coverage.entry(engine.clone()).or_default();
            for (name, count) in summary.coverage {
                *covered.entry(name).or_default() += count;
            }
        }
        if !ran.problems.is_empty() {
            let replay = format!("steersman-sim --engine {engine} --seed {}", job.seed);
            println!("FAILED {replay}\n    {}", ran.problems.join("\n    "));
            self.failed.insert(replay, ran.problems);
        }
    }

    fn progress(&mut self, all: usize, began: Instant) {
        if self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let (minutes, hours) = (began.elapsed().as_secs_f64() / 60.0, self.hours());
        println!(
            "{} of {all} runs, {} failed, {:.1} runs/min, {hours:.2} simulated hours",
            self.done,
            self.failed.len(),
            self.done as f64 / minutes.max(1e-9)
        );
    }

    fn hours(&self) -> f64 {
        self.simulated_ms.values().sum::<u64>() as f64 / 3_600_000.0
    }

    fn tell(&self, took: Duration) {
        let minutes = took.as_secs_f64() / 60.0;
        println!(
            "\n{} runs in {minutes:.1} min ({:.1} per min), {:.2} simulated hours, {} compared byte for byte",
            self.done,
            self.done as f64 / minutes.max(1e-9),
            self.hours(),
            self.compared
        );
        for (engine, covered) in &self.coverage {
            let hours = self.simulated_ms.get(engine).copied().unwrap_or(0) as f64 / 3_600_000.0;
            println!("{engine}: {} runs, {hours:.2} simulated hours", self.runs.get(engine).copied().unwrap_or(0));
            for (name, count) in covered {
                println!("    {name:<28} {count}");
            }
        }
        for (checker, count) in &self.unknown {
            println!("unknown: {checker} in {count} runs");
        }
        for (replay, problems) in &self.failed {
            println!("FAILED {replay}: {}", problems.first().map_or("", String::as_str));
        }
        println!("{} of {} runs failed", self.failed.len(), self.done);
    }
}

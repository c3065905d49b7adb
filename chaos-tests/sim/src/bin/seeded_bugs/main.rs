//! `seeded_bugs`: plants every known mistake, one after the other, and tells who caught it (docs/testing.md, "Seeded bugs").
//!
//! Exit 0 if every bug was caught and the control runs without a bug were good, 7 if not, 1 if something could not be run.

mod campaign;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use campaign::{Plan, Row, control, engine_of, hunt, markdown};
use clap::Parser;
use steersman_bugs::{BUGS, Bug, Suite};

/// Plants every known mistake and tells who caught it.
#[derive(Parser)]
struct Args {
    /// Only these bugs.
    bugs: Vec<String>,
    /// Seeds that each bug is tried on, from 1.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// If none of them caught it: so many at most.
    #[arg(long, default_value_t = 200)]
    seeds_max: u64,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Go on to the next bug at the first seed that catches one.
    #[arg(long)]
    first: bool,
    /// Leave out the runs without a bug.
    #[arg(long)]
    no_control: bool,
    /// Leave out the bugs that only unit tests see.
    #[arg(long)]
    simulated: bool,
    /// Where the sources are.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))]
    root: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(7),
        Err(error) => {
            eprintln!("could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let bugs = chosen(args)?;
    let plan = plan(args)?;
    let mut rows = Vec::new();
    let mut good = true;
    for (engine, words) in settings(&bugs).into_iter().filter(|_| !args.no_control) {
        let row = tell(control(&plan, engine_of(engine), words)?);
        good &= row.caught.is_empty();
        rows.push(row);
    }
    for bug in bugs {
        let row = tell(hunt(&plan, bug)?);
        good &= !row.caught.is_empty();
        rows.push(row);
    }
    println!("\n{}", markdown(&rows));
    Ok(good)
}

fn chosen(args: &Args) -> anyhow::Result<Vec<&'static Bug>> {
    let named = |name: &String| steersman_bugs::bug(name).with_context(|| format!("no bug is named {name}"));
    let all: Vec<&Bug> = match args.bugs.is_empty() {
        true => BUGS.iter().collect(),
        false => args.bugs.iter().map(named).collect::<anyhow::Result<_>>()?,
    };
    let wanted = |bug: &&Bug| !args.simulated || matches!(bug.suite, Suite::Simulation(..));
    Ok(all.into_iter().filter(wanted).collect())
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    anyhow::ensure!(cfg!(feature = "seeded-bugs"), "this build can't plant anything: --features seeded-bugs");
    let me = std::env::current_exe()?;
    let sim = me.with_file_name("steersman-sim");
    anyhow::ensure!(sim.exists(), "{} is missing: build it with the same features", sim.display());
    let root = args.root.clone();
    let Args { seeds, seeds_max, jobs, first, .. } = *args;
    Ok(Plan { sim, root, seeds, seeds_max, jobs, first })
}

/// Every engine and its words that some bug is looked for with, once.
fn settings(bugs: &[&Bug]) -> Vec<(steersman_bugs::Engine, &'static [&'static str])> {
    let mut settings = Vec::new();
    for bug in bugs {
        if let Suite::Simulation(engine, words) = bug.suite
            && !settings.contains(&(engine, words))
        {
            settings.push((engine, words));
        }
    }
    settings
}

fn tell(row: Row) -> Row {
    let seeds: Vec<String> = row.caught.iter().take(5).map(u64::to_string).collect();
    println!("{} first seeds: {}\n    {}", row.markdown(), seeds.join(" "), row.example);
    row
}

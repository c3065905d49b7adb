//! `steersman-sim`: one simulated run from a seed, or a sweep over many seeds, each in a process of its own.
//!
//! What always holds: exit 0 if no verdict is bad, 7 if one is, anything else if the run could not be made. Bad verdicts go
//! to stderr, one line each (`bad <checker>: <text>`), followed by the end of the timeline and the command that replays the
//! seed. What it does not do: judge; that is the checkers' work.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use steersman_sim::run::{Engine, Kept, Options, Outcome, Summary};
use steersman_sim::{sweep, timeline};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A verdict is bad.
const EXIT_BAD: u8 = 7;
/// Lines of the timeline that a failing run shows; the rest is in its file.
const TIMELINE_SHOWN: usize = 80;
/// Simulated hosts are polled on this thread, tonic's layers nest deeply and the dev profile's frames are large.
const STACK_BYTES: usize = 64 << 20;

/// Runs the production masters, workers and clients in a simulated world.
#[derive(Parser)]
#[command(name = "steersman-sim", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    one: One,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds, each in its own process, and sums up.
    Sweep(Sweep),
}

/// What a run is asked to be.
#[derive(Args, Clone)]
struct Wanted {
    /// 3 or 5; drawn from the seed if absent.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=5))]
    masters: Option<u64>,
    /// Simulated seconds under faults; the time to heal and drain comes on top.
    #[arg(long)]
    seconds: Option<u64>,
    /// Only this class of fault (repeatable); all if absent, `none` for fair weather.
    #[arg(long = "fault", value_name = "CLASS")]
    faults: Vec<String>,
    /// Plants a known mistake (only in builds with `--features seeded-bugs`).
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Moves every wall clock by so many ms; must change nothing but what is shown.
    #[arg(long, default_value_t = 0)]
    wall_shift_ms: u64,
}

#[derive(Args)]
struct One {
    /// Which simulation.
    #[arg(long, value_enum, default_value_t = Engine::Full)]
    engine: Engine,
    /// Everything is derived from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    wanted: Wanted,
    /// Writes the history there: one record per line, JSON.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Keeps history and timeline of a failing run in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Prints the whole timeline.
    #[arg(long)]
    timeline: bool,
    /// Prints one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Prints nothing but what is wrong.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct Sweep {
    /// First and last-plus-one seed: `1..2001`.
    #[arg(long)]
    seeds: String,
    /// `full`, `fast` or `both`.
    #[arg(long, default_value = "both")]
    engine: String,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs the first so many seeds twice and compares their histories byte for byte.
    #[arg(long, default_value_t = 0)]
    twice: u64,
    /// Where failing seeds leave their history and timeline.
    #[arg(long, default_value = "target/sim-failures")]
    keep: PathBuf,
    #[command(flatten)]
    wanted: Wanted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What simulated nodes log is shown where RUST_LOG asks for it: their disks fail by intent.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let outcome = match cli.command {
        Some(Command::Sweep(asked)) => sweep::sweep(&plan(asked)),
        None => on_a_large_stack(cli.one),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_BAD),
        Err(error) => {
            eprintln!("could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn plan(asked: Sweep) -> sweep::Plan {
    let extra = words(&asked.wanted);
    sweep::Plan {
        seeds: asked.seeds,
        engine: asked.engine,
        jobs: asked.jobs,
        twice: asked.twice,
        keep: asked.keep,
        extra,
    }
}

/// The command line that asks for the same again.
fn words(wanted: &Wanted) -> Vec<String> {
    let mut words = Vec::new();
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    if let Some(masters) = wanted.masters {
        option("masters", masters.to_string());
    }
    if let Some(seconds) = wanted.seconds {
        option("seconds", seconds.to_string());
    }
    for class in &wanted.faults {
        option("fault", class.clone());
    }
    if let Some(bug) = &wanted.bug {
        option("bug", bug.clone());
    }
    if wanted.wall_shift_ms > 0 {
        option("wall-shift-ms", wanted.wall_shift_ms.to_string());
    }
    words
}

fn on_a_large_stack(one: One) -> anyhow::Result<bool> {
    let thread = std::thread::Builder::new().name("sim".to_owned()).stack_size(STACK_BYTES);
    let running = thread.spawn(move || run_one(&one))?;
    running.join().map_err(|_| anyhow::anyhow!("the simulation panicked"))?
}

fn run_one(one: &One) -> anyhow::Result<bool> {
    steersman_bugs::plant(one.wanted.bug.as_deref());
    let options = Options {
        masters: one.wanted.masters,
        seconds: one.wanted.seconds,
        faults: one.wanted.faults.clone(),
        wall_shift_ms: one.wanted.wall_shift_ms,
    };
    let outcome = one.engine.run(one.seed, &options)?;
    if let Some(file) = &one.history {
        timeline::write_history(file, &outcome.records)?;
    }
    let replay = format!("steersman-sim --engine {} --seed {} {}", one.engine, one.seed, words(&one.wanted).join(" "));
    tell(one, &outcome, replay.trim_end())?;
    Ok(outcome.is_good())
}

fn tell(one: &One, outcome: &Outcome, replay: &str) -> anyhow::Result<()> {
    let lines = timeline::lines(&outcome.records);
    let mut out = std::io::stdout().lock();
    if one.timeline {
        writeln!(out, "{}", lines.join("\n"))?;
    }
    if one.json {
        writeln!(out, "{}", serde_json::to_string(&Summary::of(one.seed, one.engine, outcome))?)?;
    } else if !one.quiet {
        write!(out, "{}", Summary::of(one.seed, one.engine, outcome))?;
    }
    if !outcome.is_good() {
        tell_failure(one, outcome, &lines, replay)?;
    }
    Ok(())
}

fn tell_failure(one: &One, outcome: &Outcome, lines: &[String], replay: &str) -> anyhow::Result<()> {
    for line in outcome.bad_lines() {
        eprintln!("{line}");
    }
    eprintln!("replay: {replay}");
    if let Some(folder) = &one.keep {
        let kept = Kept::write(folder, &format!("{}-{}", one.engine, one.seed), outcome, lines, replay)?;
        eprintln!("kept: {} and {}", kept.history.display(), kept.timeline.display());
    }
    if !one.json {
        eprintln!("the end of the timeline:");
        for line in &lines[lines.len().saturating_sub(TIMELINE_SHOWN)..] {
            eprintln!("  {line}");
        }
    }
    Ok(())
}

//! `steersman-bench`: the figures of `docs/benchmarks.md`, taken from clusters of real processes on this machine.
//!
//! What always holds: the machine's own limits are measured in the same run, so that a figure can be read against them; no
//! figure is written into this program; every process that it started is dead when it ends, after Ctrl-C too. It judges
//! nothing: there are no thresholds, and a row that could not be measured is an error, not a number.
//! `make bench`, or `steersman-bench --smoke` with a debug build, which only shows that everything can still be measured.

mod bed;
mod commit;
mod echo;
mod latency;
mod limits;
mod machine;
mod memory;
mod page;
mod plan;
mod report;
mod snapshot;
mod stats;
mod takeover;
mod tasks;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::limits::Limits;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::report::{Report, Row};

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Measures Steersman on this machine and prints the tables of docs/benchmarks.md.
#[derive(Debug, Parser)]
#[command(name = "steersman-bench")]
struct Args {
    /// Measure these groups only, e.g. --only takeover,commit (the limits are always measured).
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    only: Vec<Group>,
    /// A tiny version: shows that everything can be measured, says nothing about speed.
    #[arg(long)]
    smoke: bool,
    /// Write everything, raw values included, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the tables between their markers in docs/benchmarks.md. Needs a release build, and not --smoke.
    #[arg(long)]
    write: bool,
    /// Serve the bare gRPC call that the limits are measured with.
    #[arg(long, hide = true)]
    echo: bool,
}

/// A group of rows: one block of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Submit to finished on an idle cluster.
    Latency,
    /// Tasks per second, no-op handler and /bin/true.
    Tasks,
    /// Acknowledged submits per second.
    Commit,
    /// From the leader's end to the first acknowledged submit.
    Takeover,
    /// Resident memory of the masters.
    Memory,
    /// The longest gap between acknowledged submits while snapshots are built.
    Snapshot,
}

impl Group {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    async fn measure(self, plan: &Plan, limits: &Limits) -> Result<Vec<Row>> {
        match self {
            Self::Latency => latency::measure(plan, limits).await,
            Self::Tasks => tasks::measure(plan, limits).await,
            Self::Commit => commit::measure(plan, limits).await,
            Self::Takeover => takeover::measure(plan).await,
            Self::Memory => memory::measure(plan).await,
            Self::Snapshot => snapshot::measure(plan).await,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let code = runtime.block_on(until_interrupted(args));
    runtime.shutdown_background();
    code
}

/// Drops whatever is being measured, and with it its processes, when the program is told to end.
async fn until_interrupted(args: Args) -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return complain(&anyhow::anyhow!("signals cannot be caught"));
    };
    tokio::select! {
        done = run(args) => done.map_or_else(|error| complain(&error), |()| ExitCode::SUCCESS),
        _ = interrupt.recv() => ExitCode::from(INTERRUPTED),
        _ = terminate.recv() => ExitCode::from(INTERRUPTED),
    }
}

fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("steersman-bench: {error:#}");
    ExitCode::FAILURE
}

async fn run(args: Args) -> Result<()> {
    if args.echo {
        return echo::serve().await;
    }
    if args.write && (args.smoke || cfg!(debug_assertions)) {
        bail!("only a release build's full figures are written: make bench BENCH_ARGS=--write");
    }
    let plan = if args.smoke { Plan::smoke() } else { Plan::full() };
    let machine = Machine::look()?;
    say(&machine.line());
    let limits = limits::measure(&plan).await.context("the machine's limits could not be measured")?;
    let mut report = Report::new(machine, args.smoke, limits.rows());
    let failed = measure_groups(&args.only, &plan, &limits, &mut report).await;
    deliver(&args, &report)?;
    if failed.is_empty() { Ok(()) } else { bail!("could not be measured: {}", failed.join(", ")) }
}

/// A group that cannot be measured does not keep the others from it.
async fn measure_groups(only: &[Group], plan: &Plan, limits: &Limits, report: &mut Report) -> Vec<String> {
    let mut failed = Vec::new();
    for group in Group::value_variants().iter().filter(|group| only.is_empty() || only.contains(group)) {
        let (name, began) = (group.name(), Instant::now());
        say(&format!("{name} …"));
        match AssertUnwindSafe(group.measure(plan, limits)).catch_unwind().await {
            Ok(Ok(rows)) => report.add(&name, rows),
            Ok(Err(error)) => failed.push(format!("{name} ({error:#})")),
            // The harness has said why on stderr.
            Err(_) => failed.push(name.clone()),
        }
        say(&format!("{name}: {:.0} s", began.elapsed().as_secs_f64()));
    }
    failed
}

fn deliver(args: &Args, report: &Report) -> Result<()> {
    println!("{}", page::tables(report));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.write {
        page::write(report)?;
    }
    Ok(())
}

/// Progress, for who waits.
fn say(text: &str) {
    eprintln!("bench: {text}");
}

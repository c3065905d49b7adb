//! The commands of `steersman-chaos`.
//!
//! What always holds: a run's verdicts are printed whatever became of it; files of an older run are never mixed with those of a new one.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steersman_chaos_tests::bed::{Bed, Wanted};
use steersman_chaos_tests::chaos::Counts;
use steersman_chaos_tests::chaos::judge::{self, Judgement};
use steersman_chaos_tests::chaos::run::{self, Plan, Went, say};
use steersman_chaos_tests::chaos::schedule::{self, Test};
use steersman_chaos_tests::chaos::work;
use steersman_chaos_tests::process::{kill_all, place_of};
use steersman_evidence::{Bounds, Verdict};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::{Run, Task};
use crate::passed;

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// What a good run keeps.
const KEPT: &[&str] = &["history.jsonl", "history.edn", "verdicts.json", "report.html"];
/// How long tasks of the runtime may take to end with it.
const LAST_MOMENT: Duration = Duration::from_secs(2);

pub(super) fn run(options: Run) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(run_on(options));
    runtime.shutdown_timeout(LAST_MOMENT);
    code
}

async fn run_on(options: Run) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let folder = options.out.clone().unwrap_or_else(|| PathBuf::from("target/chaos").join(seed.to_string()));
    run::make_folder(&folder)?;
    let folder = folder.canonicalize()?;
    let program = own_program(&folder)?;
    let _reaper = reaper(&folder, &program)?;
    let plan = Plan {
        test: options.test.clone(),
        time: options.time,
        seed,
        rate: options.rate,
        folder: folder.clone(),
        program,
    };
    say(&format!("seed {seed}, {} for {:?}, in {}", plan.test, plan.time, folder.display()));
    print_plan(&plan.test, plan.time, seed);
    let stop = watch::Sender::new(false);
    tokio::spawn(stop_on_signal(stop.clone()));
    let Some((went, judgement)) = storm(&options, &plan, stop).await? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    deliver(&options, &plan, &went, &judgement)?;
    Ok(passed(judgement.passed()))
}

/// A run from the start of its cluster to its verdicts; none if it was interrupted before there was a cluster.
async fn storm(options: &Run, plan: &Plan, stop: watch::Sender<bool>) -> Result<Option<(Went, Judgement)>> {
    let settings = plan.settings(options.masters, options.workers);
    let wanted = Wanted {
        masters: options.masters,
        workers: options.workers,
        network: options.network.map(Into::into),
        seed: plan.seed,
        folder: plan.folder.clone(),
        separate_disks: true,
        shim: true,
    };
    let mut stopped = stop.subscribe();
    let mut bed = tokio::select! {
        bed = Bed::start_with(wanted, settings.clone()) => bed.context("no cluster")?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(None),
    };
    let missing = bed.missing();
    missing.iter().for_each(|what| say(&format!("this bed lacks: {what}")));
    let facts = BTreeMap::from([
        ("network".to_owned(), format!("{:?}", bed.network()).to_lowercase()),
        ("lacks".to_owned(), missing.join("; ")),
    ]);
    let went = run::run(plan, &mut bed, &settings, facts, stop.subscribe()).await;
    bed.stop().await;
    let went = went?;
    say("judging");
    let (history, verdicts) = (plan.history(), went.verdicts.clone());
    let judgement = tokio::task::spawn_blocking(move || judge::judge(&history, verdicts)).await??;
    Ok(Some((went, judgement)))
}

/// Ctrl-C heals and stops; a second one is not waited for.
async fn stop_on_signal(stop: watch::Sender<bool>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return say("signals cannot be caught");
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("healing and stopping");
        stop.send_replace(true);
    }
}

fn deliver(options: &Run, plan: &Plan, went: &Went, judgement: &Judgement) -> Result<()> {
    judgement.write(&plan.folder)?;
    println!("{}", judgement.table());
    let Counts { invoked, ok, fail, unknown } = &went.counts;
    let kinds: Vec<String> = invoked.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (total, at_end) = (went.counts.total(), went.reads_at_end);
    println!(
        "{total} operations ({}): {ok} ok, {fail} fail, {unknown} unknown; {at_end} reads at the end",
        kinds.join(", ")
    );
    println!("replay: steersman-chaos run --test {} --time {}s --seed {}", plan.test, plan.time.as_secs(), plan.seed);
    println!("report: {}", plan.folder.join("report.html").display());
    if judgement.passed() && !options.keep {
        tidy(&plan.folder)?;
    }
    Ok(())
}

/// Leaves only what a good run keeps.
fn tidy(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let kept = path.file_name().is_some_and(|name| KEPT.iter().any(|kept| name == *kept));
        match (kept, path.is_dir()) {
            (true, _) => {}
            (false, true) => std::fs::remove_dir_all(&path)?,
            (false, false) => std::fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// A process that outlives this one, however this one ends, and then kills what is left of the run. Its sign is the end of
/// the pipe that this one holds; Ctrl-C does not reach it.
fn reaper(folder: &Path, program: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(["task", "reap", "--folder"]).arg(folder).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// This program under a name in the run's folder: a build that replaces it in the middle of the run changes nothing.
fn own_program(folder: &Path) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let link = folder.join("steersman-chaos");
    if std::fs::hard_link(&own, &link).is_err() {
        std::fs::copy(&own, &link).with_context(|| format!("cannot copy {}", own.display()))?;
    }
    Ok(link)
}

pub(super) fn check(file: &Path, bare: bool) -> Result<ExitCode> {
    let judgement = if bare {
        let history = judge::read(file)?;
        let verdicts = steersman_evidence::check(&history, &Bounds::none());
        Judgement { history, verdicts }
    } else {
        judge::judge(file, Vec::new())?
    };
    println!("{}", judgement.table());
    Ok(passed(judgement.passed()))
}

pub(super) fn edn(file: &Path, out: Option<&Path>) -> Result<ExitCode> {
    let out = out.map_or_else(|| file.with_extension("edn"), Path::to_owned);
    judge::write_edn(&judge::read(file)?, &out)?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn report(file: &Path, out: Option<&Path>) -> Result<ExitCode> {
    let out = out.map_or_else(|| file.with_file_name("report.html"), Path::to_owned);
    let judgement = judge::judge(file, own_verdicts(file))?;
    judge::write_report(&judgement.history, &judgement.verdicts, &out)?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// What the runner itself said, if its verdicts are beside the history.
fn own_verdicts(file: &Path) -> Vec<Verdict> {
    let text = std::fs::read_to_string(file.with_file_name("verdicts.json")).unwrap_or_default();
    let all: Vec<Verdict> = serde_json::from_str(&text).unwrap_or_default();
    all.into_iter().filter(|verdict| matches!(verdict.checker.as_str(), "own-word" | "harness")).collect()
}

pub(super) fn plan(test: &Test, time: Duration, seed: u64) -> Result<ExitCode> {
    print_plan(test, time, seed);
    Ok(ExitCode::SUCCESS)
}

/// What is planned; faults take their own time, so that the moments are a forecast.
fn print_plan(test: &Test, time: Duration, seed: u64) {
    for (lane, at, step) in schedule::forecast(test, seed, time) {
        let (at, hold) = (at.as_secs(), step.hold.as_secs_f64());
        println!("{at:>5} s  {:<8} {:<20} {hold:.1} s", format!("{lane:?}").to_lowercase(), step.class.name());
    }
}

pub(super) fn task(task: Task) -> Result<ExitCode> {
    match task {
        Task::Fenced { socket, work } => {
            let taken = work::run_fenced(&socket, work)?;
            Ok(if taken { ExitCode::SUCCESS } else { ExitCode::from(work::REFUSED) })
        }
        Task::Exclusive { folder, work } => {
            work::run_exclusive(&folder, work)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Reap { folder } => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            kill_all(&place_of(&folder));
            Ok(ExitCode::SUCCESS)
        }
    }
}

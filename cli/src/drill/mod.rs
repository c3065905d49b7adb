//! `steersman drill`: rehearses a failure on a live cluster, measures what it costs, heals it, and reports.
//!
//! What always holds: a cluster that is not a `dev` cluster is touched only after a confirmation; nothing is touched that could
//! cost the quorum; one fault at a time; whatever ends a drill, it heals first.

mod course;
mod history;
mod kind;
mod limits;
mod load;
mod means;
mod measure;
mod page;
mod rails;
mod report;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, builder::PossibleValue};

use self::course::{Drilled, Result, Setup, Stop, Timing};
use self::kind::Kind;
use self::limits::LimitArgs;
use self::means::{Hooks, Means};
use self::rails::Health;
use crate::context::{Ctx, Origin};
use crate::exit::{self, Failure, Outcome};
use crate::units;

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    One(Kind),
    All,
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [What; 8] = [
            What::One(Kind::ALL[0]),
            What::One(Kind::ALL[1]),
            What::One(Kind::ALL[2]),
            What::One(Kind::ALL[3]),
            What::One(Kind::ALL[4]),
            What::One(Kind::ALL[5]),
            What::One(Kind::ALL[6]),
            What::All,
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(kind) => kind.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("All of them, one after the other")),
        }
    }
}

/// Options of `drill`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman dev                                  in another terminal: something to drill
  steersman drill leader-kill
  steersman drill leader-kill --max-gap 500ms --report ./drill      a page to show: ./drill/drill.html
  steersman drill all --report ./drill
  steersman drill partition -o json | jq '.drills[0].timeline'

On a cluster of your own (asks first; --yes answers):
  steersman drill leader-kill --inject 'ssh {host} systemctl kill -s KILL steersman-master' \\
                              --restore 'ssh {host} systemctl start steersman-master'
  steersman drill all --hooks hooks.toml         [leader-kill] inject = \"ssh {host} …\", restore = \"…\"; a table per drill
  steersman drill leader-kill                    without commands: a planned change of leader
In commands: {node} {id} {host} {api} {raft} {others} (Raft addresses of the other masters).

It heals before it ends, also on Ctrl-C, at the deadline, and as soon as a limit is passed.

Exit codes: 0 passed · 3 refused, the cluster is not whole · 7 a limit was passed, a promise is broken, or nothing of the
fault was seen · 130 Ctrl-C")]
pub struct DrillArgs {
    /// What to rehearse
    #[arg(value_enum, value_name = "DRILL")]
    what: What,
    /// Write drill.html, drill.json and the history of each drill (JSON lines) there
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Load before the fault
    #[arg(long, value_parser = units::duration, default_value = "3s", value_name = "DURATION")]
    before: Duration,
    /// How long the fault stays in force once its consequences were seen [default: 0s to 2s, by kind]
    #[arg(long, value_parser = units::duration, value_name = "DURATION")]
    hold: Option<Duration>,
    /// Load after the recovery
    #[arg(long, value_parser = units::duration, default_value = "2s", value_name = "DURATION")]
    after: Duration,
    /// From the fault to the healing; after that it is healed and has failed
    #[arg(long, value_parser = units::duration, default_value = "2m", value_name = "DURATION")]
    deadline: Duration,
    /// Clients that submit at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=40), value_name = "N")]
    clients: u64,
    /// Command that breaks a node of a cluster that is not a dev cluster
    #[arg(long, visible_alias = "kill", value_name = "CMD", conflicts_with = "hooks")]
    inject: Option<String>,
    /// Command that mends it
    #[arg(long, value_name = "CMD", requires = "inject")]
    restore: Option<String>,
    /// TOML file with such commands for each drill
    #[arg(long, value_name = "FILE")]
    hooks: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Runs it.
///
/// # Errors
/// When it was refused or interrupted, or a drill did not pass.
pub async fn drill(ctx: &Ctx, args: &DrillArgs) -> Outcome {
    let kinds: Vec<Kind> = match args.what {
        What::One(kind) => vec![kind],
        What::All => Kind::ALL.to_vec(),
    };
    let client = ctx.client()?;
    let health = Health::take(&client).await?;
    let mut means = means(ctx, args, &kinds).await?;
    announce(ctx, &means, &kinds, &health)?;
    let mut stop = Stop::new()?;
    let mut drills = Vec::new();
    let mut refused = None;
    for kind in kinds {
        ctx.note(format!("drill {kind}"));
        let timing = Timing {
            before: args.before,
            hold: args.hold,
            after: args.after,
            deadline: args.deadline,
            clients: args.clients,
        };
        let setup = Setup { ctx, client: &client, kind, timing, limits: args.limits.of(kind) };
        match course::run(&setup, &mut means, &mut stop).await {
            Ok(drilled) => drills.push(drilled),
            Err(failure) => {
                refused = Some(failure);
                break;
            }
        }
        // What comes after a drill that was interrupted, or left something unhealed, would prove nothing.
        if drills.last().is_some_and(|last| last.result == Result::Interrupted || last.moments.whole_us.is_none()) {
            break;
        }
    }
    tell(ctx, args, &drills)?;
    refused.map_or_else(|| verdict(&drills), Err)
}

fn tell(ctx: &Ctx, args: &DrillArgs, drills: &[Drilled]) -> Outcome {
    if drills.is_empty() {
        return Ok(());
    }
    report::print(ctx, drills)?;
    if let Some(dir) = &args.report {
        let page = report::write(dir, drills)?;
        if !ctx.output.is_json() {
            ctx.print(format!("report: {}", page.display()))?;
        }
    }
    Ok(())
}

/// A `dev` cluster of this machine, or one with the operator's commands.
async fn means(ctx: &Ctx, args: &DrillArgs, kinds: &[Kind]) -> Outcome<Means> {
    let (addresses, origin) = ctx.addresses();
    let hooks = match (&args.hooks, &args.inject) {
        (Some(file), _) => Some(Hooks::load(file)?),
        (None, Some(inject)) if kinds.len() == 1 => Some(Hooks::of(kinds, inject, args.restore.as_deref())),
        (None, Some(_)) => {
            return Err(Failure::usage("--inject is one command for one drill", "give all of them in a file: --hooks"));
        }
        (None, None) => None,
    };
    match (hooks, means::dev_of(&addresses)) {
        (Some(hooks), _) => Ok(Means::real(hooks)),
        (None, Some(dev)) => Means::dev(&dev).await,
        (None, None) if matches!(origin, Origin::Dev(_)) => {
            let message = "this dev cluster has no door for drills: it was started by another version";
            Err(Failure::local(message, "start it again: steersman dev"))
        }
        (None, None) => Ok(Means::real(Hooks::default())),
    }
}

/// Says what will be done, and asks where it is not a toy.
fn announce(ctx: &Ctx, means: &Means, kinds: &[Kind], health: &Health) -> Outcome {
    let mut plans = Vec::new();
    for kind in kinds {
        let (_, victim) = course::cast(health, *kind)?;
        plans.push(format!("  {kind}: {}", means.plan(*kind, &victim)?));
    }
    if means.is_dev() {
        return Ok(());
    }
    let cluster = health.leader().map_or("", |info| info.cluster_id.as_str());
    let (up, voters, needed) = health.picture.arithmetic();
    eprintln!("on cluster {cluster} ({up} of {voters} masters up, {needed} needed):\n{}", plans.join("\n"));
    eprintln!("and a load of small tasks (handler noop) meanwhile");
    ctx.confirm("Drill this cluster?")
}

fn verdict(drills: &[Drilled]) -> Outcome {
    if drills.iter().any(|drilled| drilled.result == Result::Interrupted) {
        return Err(Failure::silent(exit::INTERRUPTED));
    }
    let failed = drills.iter().filter(|drilled| drilled.result != Result::Passed);
    let failed: Vec<String> = failed.map(|drilled| format!("{} {}", drilled.kind, drilled.result.word())).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("{} of {} drills did not pass: {}", failed.len(), drills.len(), failed.join(", "));
    let mut failure = Failure::local(message, "the reasons are in the report");
    failure.exit = exit::CHECK_FAILED;
    failure.reason = "DRILL_FAILED".to_owned();
    Err(failure)
}

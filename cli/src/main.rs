//! The one binary `steersman`: every role and every operator command.
//!
//! What always holds: results on stdout, everything else on stderr; exit codes as in [`exit`]; one file per noun. Logic that
//! a library caller would want lives in `steersman_client`, not here.

mod cluster;
mod config;
mod context;
mod dev;
mod drill;
mod events;
mod exit;
mod master;
mod meta;
mod node;
mod run;
mod spec;
mod status;
mod table;
mod task;
mod units;
mod views;
mod worker;

use std::future::Future;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::context::{Ctx, Globals};
use crate::exit::{Failure, Outcome};

const AFTER_HELP: &str = "\
Examples:
  steersman dev                              three masters and two workers on this machine
  steersman run -- echo hello                run a command on a worker, with its output and exit code
  steersman status --watch                   who leads, who follows, what is going on
  find . -type f | steersman task submit --lines - --wait -- sha256sum {}

Exit codes:
  0 ok · 1 other error · 2 usage · 3 not found, precondition, conflict · 4 unavailable (retrying makes sense)
  5 not allowed · 6 a waited-for task failed · 7 a check did not pass · 130 Ctrl-C
  A node that stops by itself: 65 to 78, see docs/operations.md";

/// A distributed task scheduler whose masters cannot be killed one at a time.
#[derive(Debug, Parser)]
#[command(name = "steersman", version, after_help = AFTER_HELP, max_term_width = 110, arg_required_else_help = true)]
#[command(infer_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a real cluster on this machine: masters and workers as processes
    Dev(dev::DevArgs),
    /// Run a command on a worker, with its output here and its exit code
    Run(run::RunArgs),
    /// Show masters, tasks and workers; works without a leader
    Status(status::StatusArgs),
    /// Submit tasks and see what becomes of them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Start a worker, see and steer workers
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Start a master, see and change who the masters are
    #[command(subcommand)]
    Master(master::MasterCommand),
    /// The cluster as a whole: facts, health, snapshots
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Rehearse a failure on a live cluster, and measure what it costs
    Drill(drill::DrillArgs),
    /// What happened, in log order
    Events(events::EventsArgs),
    /// Check and show configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// What an error code means and what to do
    Explain(meta::ExplainArgs),
    /// Completions for a shell
    Completions(meta::CompletionsArgs),
    /// The version of this binary and of the masters that answer
    Version(meta::VersionArgs),
}

fn main() {
    // A worker starts its keeper of processes by running this program: before anything else, without a runtime.
    let code = steersman_worker::keeper::run_if_asked().unwrap_or_else(|| match parse() {
        Ok(cli) => dispatch(cli),
        Err(code) => code,
    });
    // What is left on the way out (a blocked read of stdin) does not hold the process.
    std::process::exit(code)
}

/// The command line, or the exit code after its error or help was printed.
fn parse() -> Result<Cli, i32> {
    let parsed = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() && wants_json() {
            let message = error.render().to_string();
            let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Failure::usage(message, "see --help").print(true, str::to_owned);
            return exit::USAGE;
        }
        // Nobody may be reading: that is not an error of ours.
        drop(error.print());
        if error.use_stderr() { exit::USAGE } else { exit::OK }
    })
}

/// Whether errors are to be JSON, where the command line could not be parsed.
fn wants_json() -> bool {
    let args: Vec<String> = std::env::args().take_while(|arg| arg != "--").collect();
    let separate =
        args.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1].starts_with("json"));
    separate || args.iter().any(|arg| arg.starts_with("--output=json") || arg.starts_with("-ojson"))
}

fn dispatch(cli: Cli) -> i32 {
    let ctx = Ctx::new(&cli.globals);
    let ctx = &ctx;
    match cli.command {
        // Nodes bring their own runtimes and their own log.
        Command::Master(master::MasterCommand::Start(args)) => exit::finish(ctx, node::start_master(ctx, &args)),
        Command::Worker(worker::WorkerCommand::Start(args)) => exit::finish(ctx, node::start_worker(ctx, &args)),
        command => {
            node::log_to_stderr(ctx.verbosity());
            exit::finish(ctx, block_on(operate(ctx, command)))
        }
    }
}

async fn operate(ctx: &Ctx, command: Command) -> Outcome {
    match command {
        Command::Dev(args) => dev::dev(ctx, &args).await,
        Command::Run(args) => run::run(ctx, &args).await,
        Command::Status(args) => interruptible(status::status(ctx, &args)).await,
        Command::Task(command) => interruptible(task::task(ctx, command)).await,
        Command::Worker(command) => interruptible(worker::worker(ctx, command)).await,
        Command::Master(command) => interruptible(master::master(ctx, command)).await,
        Command::Cluster(command) => interruptible(cluster::cluster(ctx, command)).await,
        // Ctrl-C heals first.
        Command::Drill(args) => drill::drill(ctx, &args).await,
        Command::Events(args) => interruptible(events::events(ctx, &args)).await,
        Command::Config(command) => config::config(ctx, command),
        Command::Explain(args) => meta::explain(ctx, &args),
        Command::Completions(args) => meta::completions(ctx, &args, Cli::command()),
        Command::Version(args) => interruptible(meta::version(ctx, &args)).await,
    }
}

/// Ends quietly with 130 on Ctrl-C.
async fn interruptible(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        done = work => done,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::silent(exit::INTERRUPTED)),
    }
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::local(format!("cannot start: {error}"), "see ulimit -a"))?;
    let outcome = runtime.block_on(work);
    // A thread that still reads stdin must not hold us.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn visit(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                if !sub.has_subcommands() && !help.contains("Example") {
                    missing.push(path.clone());
                }
                visit(sub, &path, missing);
            }
        }
        let mut missing = Vec::new();
        visit(&Cli::command(), "steersman", &mut missing);
        assert!(missing.is_empty(), "no examples: {missing:?}");
    }
}

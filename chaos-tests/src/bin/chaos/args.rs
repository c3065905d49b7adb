//! The command line of `steersman-chaos`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use steersman_chaos_tests::bed;
use steersman_chaos_tests::chaos::schedule::Test;

/// Real clusters under real faults, and what their histories prove.
#[derive(Debug, Parser)]
#[command(
    name = "steersman-chaos",
    version,
    about,
    after_help = "\
Examples:
  steersman-chaos run --test mix --time 10m --seed 7
  steersman-chaos run --test kill,partition-halves --time 2m
  steersman-chaos check target/chaos/7/history.jsonl
Exit codes: 0 every verdict is good; 7 one is bad, or too little was seen; 1 nothing to judge; 2 usage."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster, break it in every way, and judge what was seen.
    Run(Run),
    /// Judge a history again, by the demands of its run.
    #[command(after_help = "Example:\n  steersman-chaos check target/chaos/7/history.jsonl")]
    Check {
        /// A history.jsonl.
        file: PathBuf,
        /// Without demands: only what is surely wrong counts, however little was seen.
        #[arg(long)]
        bare: bool,
    },
    /// Export a history for Jepsen's checkers.
    #[command(after_help = "Example:\n  steersman-chaos edn target/chaos/7/history.jsonl --out history.edn")]
    Edn {
        /// A history.jsonl.
        file: PathBuf,
        /// Where to. Default: beside the history.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write the one-file report of a history again.
    #[command(after_help = "Example:\n  steersman-chaos report target/chaos/7/history.jsonl --out report.html")]
    Report {
        /// A history.jsonl.
        file: PathBuf,
        /// Where to. Default: beside the history.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print what a run would do, without doing it.
    #[command(after_help = "Example:\n  steersman-chaos plan --test mix --time 60m --seed 7")]
    Plan {
        /// Which faults: all, mix, calm, or names of classes.
        #[arg(long, default_value = "mix")]
        test: Test,
        /// How long.
        #[arg(long, default_value = "10m", value_parser = duration)]
        time: Duration,
        /// Decides everything.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What the tasks of a run do: started by workers, not by people.
    #[command(
        subcommand,
        after_help = "\
Example:
  steersman task submit -- steersman-chaos task fenced --socket /tmp/fenced.sock --work 200ms"
    )]
    Task(Task),
}

/// Options of a run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  steersman-chaos run --test mix --time 60m --seed 42
  steersman-chaos run --test all --time 4m
  steersman-chaos run --test worker-kill,leader-isolated --time 90s --masters 5
  steersman-chaos run --test calm --time 1m --rate 200

Classes of faults: see `steersman-chaos plan --test all --time 10m`.
The folder of the run (target/chaos/SEED) has history.jsonl, verdicts.json, report.html, history.edn, and, if the run did not
pass or with --keep, the logs and data of all nodes.")]
pub struct Run {
    /// Which faults: all (each class once), mix (over and over), calm (none), or names of classes, with commas between them.
    #[arg(long, default_value = "mix")]
    pub test: Test,
    /// How long faults go on.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub time: Duration,
    /// Decides the schedule and the workloads. Default: a new one, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Masters at the beginning.
    #[arg(long, default_value_t = 3)]
    pub masters: u64,
    /// Workers.
    #[arg(long, default_value_t = 5)]
    pub workers: usize,
    /// How the nodes are connected. Default: the best that there is.
    #[arg(long)]
    pub network: Option<Network>,
    /// Operations per second, roughly.
    #[arg(long, default_value_t = 85.0)]
    pub rate: f64,
    /// Folder of the run. Default: target/chaos/SEED.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Keep the folders of all nodes even if the run passed.
    #[arg(long)]
    pub keep: bool,
}

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Each node in a network namespace of its own (root).
    Namespaces,
    /// All on loopback, through proxies.
    Proxy,
}

impl From<Network> for bed::Network {
    fn from(network: Network) -> Self {
        match network {
            Network::Namespaces => Self::Namespaces,
            Network::Proxy => Self::Proxy,
        }
    }
}

/// What a task does.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Work, then write to the fenced register with the token of this attempt; exit code 75 if it was refused.
    #[command(after_help = "Example:\n  steersman-chaos task fenced --socket /tmp/fenced.sock --work 200ms")]
    Fenced {
        /// Where the register is.
        #[arg(long)]
        socket: PathBuf,
        /// How long to work.
        #[arg(long, value_parser = duration)]
        work: Duration,
    },
    /// Log when this attempt ran, with a sign of life every 20 ms.
    #[command(after_help = "Example:\n  steersman-chaos task exclusive --folder /tmp/intervals --work 3s")]
    Exclusive {
        /// Where to.
        #[arg(long)]
        folder: PathBuf,
        /// How long to work.
        #[arg(long, value_parser = duration)]
        work: Duration,
    },
    /// Wait until standard input ends, as it does with the runner, and kill what is left of the run in this folder.
    #[command(after_help = "Example:\n  steersman-chaos task reap --folder /tmp/run < a-pipe")]
    Reap {
        /// The run's folder.
        #[arg(long)]
        folder: PathBuf,
    },
}

/// `500ms`, `90s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration; write e.g. 500ms, 90s, 10m, 1h"))?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} is no duration; write e.g. 500ms, 90s, 10m, 1h")),
    };
    Ok(Duration::from_millis(number.saturating_mul(ms)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_durations_are_read() {
        <Args as clap::CommandFactory>::command().debug_assert();
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1h").unwrap(), Duration::from_secs(3_600));
        assert!(duration("5").is_err() && duration("x").is_err());
    }
}

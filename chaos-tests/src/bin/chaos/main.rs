//! `steersman-chaos`: clusters of real processes under real faults, and what the histories of such runs prove.
//!
//! What always holds: exit code 0 means that every verdict is good; 7 that one is bad, or that too little was seen to say so; 1 that
//! there was nothing to judge; 130 Ctrl-C before there was. Ctrl-C during a run heals, ends every process and judges what there is
//! (as unknown). The work is done in `steersman_chaos_tests::chaos`; here are the options and the files.

mod args;
mod command;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::args::{Args, Command};

/// A check that did not pass.
const NOT_PASSED: u8 = 7;

fn main() -> ExitCode {
    match act(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("steersman-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(options) => command::run(options),
        Command::Check { file, bare } => command::check(&file, bare),
        Command::Edn { file, out } => command::edn(&file, out.as_deref()),
        Command::Report { file, out } => command::report(&file, out.as_deref()),
        Command::Plan { test, time, seed } => command::plan(&test, time, seed),
        Command::Task(task) => command::task(task),
    }
}

fn passed(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::from(NOT_PASSED) }
}

//! What every command shares: the client and where its addresses come from, the output format, terminals and colours.
//!
//! What always holds: results go to stdout, everything else to stderr; colours and progress appear on terminals only
//! (or on demand); nothing is connected before a command asks for it.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use steersman_client::{Client, World};

use crate::dev::state::DevState;
use crate::exit::{Failure, Outcome};
use crate::units;

/// The environment variable that stands in for `--address`.
pub const ADDRESS_ENV: &str = "STEERSMAN_ADDRESS";
/// Asked when nothing else names a master.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7400";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One JSON object per line
    Jsonl,
    /// Only ids, one per line
    Id,
}

impl Output {
    /// Also errors are printed as JSON then.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Not at all
    Never,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Masters, host:port[,host:port…]; one that works is enough [env: STEERSMAN_ADDRESS] [default: the running
    /// `steersman dev`, else 127.0.0.1:7400]
    #[arg(long, global = true, value_delimiter = ',', value_name = "ADDRESSES")]
    pub address: Vec<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// How long a request may take in all, its retries included
    #[arg(long, global = true, value_parser = units::duration, default_value = "10s", value_name = "DURATION")]
    pub timeout: Duration,
    /// No notices on stderr, only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Progress also without a terminal; twice: what the client does
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub yes: bool,
}

/// Where the addresses came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `--address`.
    Flag,
    /// [`ADDRESS_ENV`].
    Env,
    /// The state file of a running `steersman dev`, by this process.
    Dev(u32),
    /// Nothing said anything.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("--address"),
            Self::Env => f.write_str(ADDRESS_ENV),
            Self::Dev(pid) => write!(f, "steersman dev, pid {pid}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What a command works with.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// How results are printed.
    pub output: Output,
    /// Total deadline of a request.
    pub timeout: Duration,
    /// Answer yes to every question.
    pub yes: bool,
    given: Vec<String>,
    quiet: bool,
    verbose: u8,
    color_out: bool,
    color_err: bool,
}

impl Ctx {
    /// From the command line.
    pub fn new(globals: &Globals) -> Self {
        let color = |terminal: bool| match globals.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self {
            output: globals.output,
            timeout: globals.timeout,
            yes: globals.yes,
            given: globals.address.clone(),
            quiet: globals.quiet,
            verbose: globals.verbose,
            color_out: color(std::io::stdout().is_terminal()),
            color_err: color(std::io::stderr().is_terminal()),
        }
    }

    /// The masters to ask, and where they come from.
    pub fn addresses(&self) -> (Vec<String>, Origin) {
        if !self.given.is_empty() {
            return (self.given.clone(), Origin::Flag);
        }
        if let Some(text) = std::env::var(ADDRESS_ENV).ok().filter(|text| !text.trim().is_empty()) {
            return (text.split(',').map(|part| part.trim().to_owned()).collect(), Origin::Env);
        }
        match DevState::of_running() {
            Some(dev) => (dev.addresses, Origin::Dev(dev.pid)),
            None => (vec![DEFAULT_ADDRESS.to_owned()], Origin::Default),
        }
    }

    /// A client of the cluster. Connects when it is used.
    pub fn client(&self) -> Outcome<Client> {
        let (addresses, origin) = self.addresses();
        if matches!(origin, Origin::Dev(_)) {
            self.note(format!("using {origin} ({})", addresses.join(", ")));
        }
        Ok(Client::builder(World::real()).addresses(addresses).timeout(self.timeout).build()?)
    }

    /// Progress and notices are wanted: a person watches, or asked for them.
    pub fn is_chatty(&self) -> bool {
        !self.quiet && (self.verbose > 0 || std::io::stderr().is_terminal())
    }

    /// How often `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// A notice on stderr, if a person watches.
    pub fn note(&self, text: impl AsRef<str>) {
        if self.is_chatty() {
            eprintln!("{}", self.paint_err(&format!("steersman: {}", text.as_ref()), "2"));
        }
    }

    /// A warning on stderr, unless `-q`.
    pub fn warn(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{} {}", self.paint_err("warning:", "33;1"), text.as_ref());
        }
    }

    /// Results, to stdout.
    ///
    /// # Errors
    /// When nobody reads any more, or the disk is full.
    pub fn print(&self, text: impl AsRef<str>) -> Outcome {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// `text` in an ANSI style on stdout, where colours are wanted.
    pub fn paint(&self, text: &str, style: &str) -> String {
        paint(self.color_out, text, style)
    }

    /// `text` in an ANSI style on stderr, where colours are wanted.
    pub fn paint_err(&self, text: &str, style: &str) -> String {
        paint(self.color_err, text, style)
    }

    /// Whether tables are coloured.
    pub fn is_colored(&self) -> bool {
        self.color_out
    }

    /// Asks before something that cannot be undone.
    ///
    /// # Errors
    /// When the answer is no, or when there is nobody to ask and `--yes` is not given.
    pub fn confirm(&self, question: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Failure::usage(format!("this needs a confirmation: {question}"), "add --yes"));
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::local("not confirmed: nothing was changed", "answer y, or add --yes"))
    }
}

fn paint(wanted: bool, text: &str, style: &str) -> String {
    if wanted && !text.is_empty() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

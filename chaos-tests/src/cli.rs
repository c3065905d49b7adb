//! The command line as a person or a script uses it: arguments and stdin in; exit code, stdout and stderr out.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::process::{PLACE, binary, place_of};

/// A command that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a command that has to succeed.
    ///
    /// # Panics
    /// If it did not.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed: {self:?}");
        self.out
    }
}

/// A command line that talks to some masters.
#[derive(Debug, Clone)]
pub struct Cli {
    addresses: Vec<String>,
    place: String,
}

impl Cluster {
    /// The command line, told of all masters.
    pub fn cli(&self) -> Cli {
        Cli::new(self.addresses(), self.folder())
    }
}

impl Cli {
    /// A command line that is told of these masters; `place` marks its processes.
    pub fn new(addresses: Vec<String>, place: &std::path::Path) -> Self {
        Self { addresses, place: place_of(place) }
    }

    /// Runs `steersman ARGS`.
    ///
    /// # Panics
    /// If it cannot be started or hangs.
    pub async fn run(&self, args: &[&str]) -> Said {
        self.feed(args, b"").await
    }

    /// Runs `steersman ARGS` with `input` on its stdin.
    ///
    /// # Panics
    /// As [`Cli::run`].
    pub async fn feed(&self, args: &[&str], input: &[u8]) -> Said {
        let run = self.try_feed(args, input);
        let ended = tokio::time::timeout(TIMEOUT, run).await;
        ended
            .unwrap_or_else(|_| panic!("{args:?} hangs"))
            .unwrap_or_else(|error| panic!("cannot run {args:?}: {error:#}"))
    }

    async fn try_feed(&self, args: &[&str], input: &[u8]) -> anyhow::Result<Said> {
        let mut command = Command::new(binary()?);
        command.args(args).env("STEERSMAN_ADDRESS", self.addresses.join(",")).env(PLACE, &self.place);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input may end first.
                let _ = stdin.write_all(input).await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) })
    }
}

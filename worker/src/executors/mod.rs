//! What runs an attempt: a child process under the keeper, or a handler inside this process.
//!
//! The runner knows executors only through [`Executor`], so that a simulation can plug in its own. What always holds: an
//! executor answers each accepted [`Run`] with exactly one [`Event::Ended`], by itself and in any order; `start`, `kill`,
//! `forget` and `renew_lease` return at once and never block. Executors send nothing to the master and acknowledge nothing.

pub mod handler;
pub mod journal;
pub mod keeper;
pub mod output;
pub mod process;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use steersman_proto::v1::{LogStream, OnPartition, Outcome, TaskSpec};
use steersman_proto::worker::v1::Ended;
use tokio::sync::mpsc;

/// One attempt, as it was assigned.
#[derive(Debug, Clone)]
pub struct Run {
    /// Fencing token: names the attempt.
    pub token: u64,
    /// Its task.
    pub task_id: u64,
    /// 1, 2, …
    pub attempt: u32,
    /// Its place in an array of tasks.
    pub array_index: u64,
    /// What to do; shared by the attempts of one message.
    pub spec: Arc<TaskSpec>,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
}

impl Run {
    /// Whether a cut-off worker must stop it.
    pub fn stops_on_partition(&self) -> bool {
        self.spec.on_partition() == OnPartition::Stop
    }

    /// The attempt's own time limit.
    pub fn timeout(&self) -> Option<Duration> {
        (self.spec.timeout_ms > 0).then(|| Duration::from_millis(self.spec.timeout_ms))
    }
}

/// How to end an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// What its end will say. The first kill of an attempt decides.
    pub outcome: Outcome,
    /// At once, without the grace.
    pub hard: bool,
}

/// What an executor tells the runner.
#[derive(Debug)]
pub enum Event {
    /// A child process runs.
    Spawned {
        /// Which attempt.
        token: u64,
        /// Its process, which leads its process group.
        pid: i32,
    },
    /// The attempt is over.
    Ended {
        /// Which attempt.
        token: u64,
        /// How.
        ended: Ended,
    },
}

/// Unbounded, but an attempt sends at most two events and attempts are bounded.
pub type EventSender = mpsc::UnboundedSender<Event>;

/// An attempt that an executor already had when the worker started.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which attempt.
    pub token: u64,
    /// Its task.
    pub task_id: u64,
    /// Whether a cut-off worker must stop it.
    pub stops_on_partition: bool,
    /// How long it has been running.
    pub ran: Duration,
    /// Its process.
    pub pid: i32,
    /// Present if it is over.
    pub ended: Option<Ended>,
}

/// A piece of output that is asked for.
#[derive(Debug, Clone)]
pub struct LogAsk {
    /// Which attempt.
    pub token: u64,
    /// Which stream.
    pub stream: LogStream,
    /// From which byte, counted from the first that was ever written.
    pub offset: u64,
    /// At most so many.
    pub max_bytes: usize,
    /// How long to wait for the first new byte.
    pub wait: Duration,
}

/// A piece of output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPiece {
    /// The bytes.
    pub data: Bytes,
    /// Where to go on.
    pub next_offset: u64,
    /// The attempt is over and this was the last piece.
    pub end: bool,
    /// Bytes from the beginning that were over the bound and are gone.
    pub dropped: u64,
    /// There is no such output here (any more).
    pub not_found: bool,
}

/// The executor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExecutorError(pub String);

/// Runs attempts. See the module for what must hold.
pub trait Executor: Send + Sync + 'static {
    /// Called once, before anything else: says what it already has; from then on it sends to `events`.
    fn open(&self, events: EventSender) -> BoxFuture<'static, Result<Vec<Held>, ExecutorError>>;

    /// Starts an attempt.
    fn start(&self, run: Run);

    /// Ends an attempt; unknown tokens are ignored.
    fn kill(&self, token: u64, kill: Kill);

    /// The ends of these attempts are acknowledged: nothing of them needs to be remembered but their output.
    fn forget(&self, tokens: &[u64]);

    /// A reading, in milliseconds, of the clock that [`Self::renew_lease`] counts on.
    fn stamp_ms(&self) -> u64 {
        0
    }

    /// Attempts that stop on a partition may run until `valid_for` after the reading `stamp_ms`, whatever becomes of this process.
    fn renew_lease(&self, _stamp_ms: u64, _valid_for: Duration) {}

    /// Reads output; `None` if this kind of attempt has none.
    fn read_log(&self, ask: LogAsk) -> BoxFuture<'static, LogPiece> {
        let end = LogPiece { next_offset: ask.offset, not_found: true, ..LogPiece::default() };
        Box::pin(async move { end })
    }

    /// The worker ends in good order and holds nothing.
    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// An end without text.
pub(crate) fn ended(outcome: Outcome, exit_code: i32, message: impl Into<String>) -> Ended {
    Ended { outcome: outcome.into(), exit_code, message: shorten(message.into()), ..Ended::default() }
}

/// The wire's bound of [`Ended::message`].
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_024;

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(cut);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut = ended(Outcome::HandlerError, 0, "ä".repeat(1_000)).message;
        assert!(cut.len() <= MESSAGE_BYTES_MAX && cut.ends_with('…'), "{}", cut.len());
    }
}

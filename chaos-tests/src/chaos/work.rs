//! What the tasks of a run do: the other end of the workloads, in processes that workers start.
//!
//! What always holds: the program that tasks run is this very runner (`steersman-chaos task …`), by its path, which every network
//! namespace of this machine sees; a task ends by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steersman_client::v1::{Backoff, RetryOn, TaskSpec};

use super::intervals::{self, Attempt};
use crate::spec::{argv, stopping};

/// Exit code of a task whose write was refused: a newer attempt has been here (`EX_TEMPFAIL`).
pub const REFUSED: u8 = 75;
/// More than the faults of a run can end.
const ATTEMPTS_MAX: u32 = 30;

/// Where tasks find things.
#[derive(Debug, Clone)]
pub struct Places {
    /// This program.
    pub program: PathBuf,
    /// Socket of the fenced register.
    pub register: PathBuf,
    /// Folder of the interval logs.
    pub intervals: PathBuf,
}

impl Places {
    fn task(&self, words: &[&str], path: &Path, work: Duration) -> TaskSpec {
        let (program, path) = (self.program.to_string_lossy(), path.to_string_lossy());
        let work = format!("{}ms", work.as_millis());
        let mut line: Vec<&str> = vec![&program, "task"];
        line.extend_from_slice(words);
        line.extend_from_slice(&[&path, "--work", &work]);
        steadfast(argv(&line))
    }

    /// Works, then writes to the register, whoever has done so meanwhile.
    pub fn fenced(&self, work: Duration) -> TaskSpec {
        self.task(&["fenced", "--socket"], &self.register, work)
    }

    /// Logs its interval; a worker that is cut off has to stop it.
    pub fn exclusive(&self, work: Duration) -> TaskSpec {
        // It needs no grace: a kill is what it is for.
        TaskSpec { kill_grace_ms: 100, ..stopping(self.task(&["exclusive", "--folder"], &self.intervals, work)) }
    }
}

/// Tried again after everything that a fault may do to it.
fn steadfast(spec: TaskSpec) -> TaskSpec {
    let retry_on = RetryOn { worker_lost: true, timeout: true, ..RetryOn::default() };
    TaskSpec { max_attempts: ATTEMPTS_MAX, retry_on: Some(retry_on), backoff: Some(soon()), ..spec }
}

/// A pause that is short against the faults, so that attempts meet them.
fn soon() -> Backoff {
    Backoff { initial_ms: 200, max_ms: 1_000, factor: 1.5, jitter: 0.2 }
}

/// Sleeps, and does nothing else.
pub fn sleep(time: Duration) -> TaskSpec {
    steadfast(argv(&["sleep", &format!("{:.3}", time.as_secs_f64())]))
}

/// Fails a few times: what waits for another attempt can be cancelled, too.
pub fn failing() -> TaskSpec {
    let retry_on = RetryOn { worker_lost: true, any_exit_code: true, ..RetryOn::default() };
    TaskSpec { max_attempts: 4, retry_on: Some(retry_on), backoff: Some(soon()), ..argv(&["false"]) }
}

/// `task fenced`: works, then writes with the token of this attempt. Returns whether the write was taken.
///
/// # Errors
/// If this is not an attempt of a task, or the register is not there.
pub fn run_fenced(socket: &Path, work: Duration) -> Result<bool> {
    let who = this_attempt()?;
    std::thread::sleep(work);
    super::fenced::write(socket, who.task, who.token).with_context(|| format!("no register at {}", socket.display()))
}

/// `task exclusive`: logs its interval.
///
/// # Errors
/// If this is not an attempt of a task, or the log cannot be written.
pub fn run_exclusive(folder: &Path, work: Duration) -> Result<()> {
    intervals::live(folder, &this_attempt()?, work).with_context(|| format!("cannot log in {}", folder.display()))
}

fn this_attempt() -> Result<Attempt> {
    let get = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: this is not a task"));
    let number = |name: &str| Ok::<u64, anyhow::Error>(get(name)?.parse()?);
    let (task, token) = (number("STEERSMAN_TASK_ID")?, number("STEERSMAN_FENCING_TOKEN")?);
    Ok(Attempt { task, token, worker: get("STEERSMAN_WORKER")? })
}

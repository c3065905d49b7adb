//! One node as the operating system sees it: a process from the built binary, its log, and everything it started.
//!
//! What always holds: whatever a node starts carries the path of the node's folder in its environment (nodes are given it
//! as [`PLACE`], attempts get theirs from the worker), so that all of it is found, a keeper in its own session and tasks in
//! their own groups included. Nodes stay in the test's process group: whoever ends that group ends them.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::place::Place;
use crate::poll::until_now;

/// Variable that tells whose process it is: the path of the node's folder, with a slash at its end.
pub const PLACE: &str = "STEERSMAN_CHAOS_PLACE";
/// Names the binary under test.
pub const BIN: &str = "STEERSMAN_BIN";
/// Killed processes are gone within this time, a busy machine included.
const GONE: Duration = Duration::from_secs(10);

/// The binary under test: [`BIN`], else next to the test executable's folder.
///
/// # Errors
/// If it is not there: with the command that builds it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BIN) {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { bail!("{BIN} names {}, which is not a file", path.display()) };
    }
    let own = std::env::current_exe().context("where is this test?")?;
    // target/<profile>/deps/test-…  or  target/<profile>/examples/…; a program of ours lies next to the binary itself.
    let folder = own.parent().context("the test lies in no folder")?;
    let inner = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    let profile = if inner { folder.parent().unwrap_or(folder) } else { folder };
    let path = profile.join("steersman");
    if !path.is_file() {
        bail!("there is no {}: build it first, with `cargo build -p steersman`, or name it in {BIN}", path.display());
    }
    Ok(path)
}

/// How a process is started, besides its arguments.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Where it lives.
    pub place: Place,
    /// Further variables of its environment.
    pub env: Vec<(&'static str, PathBuf)>,
}

/// How a process ended, and what it wrote since it was started.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its stdout and stderr.
    pub text: String,
}

/// A node's folder, log and process, if it runs.
#[derive(Debug)]
pub struct Process {
    name: String,
    folder: PathBuf,
    args: Vec<String>,
    launch: Launch,
    child: Option<Child>,
    /// Where the current run begins in the log.
    began_at: u64,
}

impl Process {
    /// A process to be, in `folder` (made if need be), called `name` in messages.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(name: &str, folder: &Path, args: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let launch = Launch::default();
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), args, launch, child: None, began_at: 0 })
    }

    /// The same, started in that way.
    #[must_use]
    pub fn launched(mut self, launch: Launch) -> Self {
        self.launch = launch;
        self
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it lives.
    pub fn place(&self) -> &Place {
        &self.launch.place
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its log, of all runs.
    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// What its current or last run has written.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut log) = File::open(self.log()) {
            let _ = log.seek(SeekFrom::Start(self.began_at)).and_then(|_| log.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        self.began_at = log.metadata()?.len();
        let mut command = Command::new(binary()?);
        command.args(&self.args).env(PLACE, place_of(&self.folder)).env_remove("STEERSMAN_ADDRESS");
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.envs(self.launch.env.iter().map(|(name, value)| (name, value)));
        self.child = Some(self.launch.place.spawn(command).with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill(raw(pid), signal).unwrap_or_else(|error| panic!("cannot send {signal} to {}: {error}", self.name));
    }

    /// Kills the process alone; what it started goes on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.reap();
    }

    /// Kills the process and everything it started at one moment, as a loss of the machine would.
    pub fn kill_all(&mut self) {
        let place = place_of(&self.folder);
        signal_all(&place, Signal::SIGSTOP);
        kill_all(&place);
        self.reap();
    }

    /// Freezes (`SIGSTOP`) or thaws (`SIGCONT`) the process and everything it started.
    pub fn signal_all(&self, signal: Signal) {
        signal_all(&place_of(&self.folder), signal);
    }

    /// Everything of it that runs: the process, its keeper, its tasks.
    pub fn all_pids(&self) -> Vec<u32> {
        processes_of(&place_of(&self.folder))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it does not end within `within`, or was not started.
    pub async fn ended(&mut self, within: Duration) -> Ended {
        let what = format!("the end of {}", self.name);
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} was not started", self.name));
        let status = until_now(&what, within, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        let status = status.await;
        self.child = None;
        self.end_of(status)
    }

    /// How it ended, if it has ended by itself.
    pub fn try_ended(&mut self) -> Option<Ended> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(self.end_of(status))
    }

    fn end_of(&self, status: ExitStatus) -> Ended {
        Ended { code: status.code(), signal: status.signal(), text: self.text() }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill_all(&place_of(&self.folder));
        self.reap();
    }
}

/// What the environment of a node's processes contains.
pub fn place_of(folder: &Path) -> String {
    format!("{}/", folder.display())
}

/// Kills everything whose environment contains `place`, until nothing is left.
pub fn kill_all(place: &str) {
    let began = std::time::Instant::now();
    loop {
        let found = processes_of(place);
        if found.is_empty() || began.elapsed() > GONE {
            return;
        }
        for pid in found {
            let _ = kill(raw(pid), Signal::SIGKILL);
        }
        // What was just forked may not have been seen: look again.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal_all(place: &str, signal: Signal) {
    // Twice: what was forked during the first round is met in the second.
    for _ in 0..2 {
        for pid in processes_of(place) {
            let _ = kill(raw(pid), signal);
        }
    }
}

/// Processes whose environment contains `place`. Zombies have none.
pub fn processes_of(place: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && environment_contains(*pid, place.as_bytes())).collect()
}

fn environment_contains(pid: u32, needle: &[u8]) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environ.windows(needle.len()).any(|window| window == needle)
}

/// Whether a process of that id runs (a zombie does not).
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn everything_with_the_place_in_its_environment_is_found_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let place = place_of(folder.path());
        let shell = "sleep 60 & setsid sleep 60 & wait";
        let mut child = Command::new("sh").args(["-c", shell]).env(PLACE, &place).spawn().unwrap();
        until_now("three processes", Duration::from_secs(5), || match processes_of(&place).len() {
            3 => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
        kill_all(&place);
        assert!(processes_of(&place).is_empty());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(!is_alive(child.id()));
    }
}

//! The keeper: a small process per data directory that is the parent of a worker's children, so that they survive it.
//!
//! A worker that is killed or replaced leaves its children running under the keeper; the next worker process connects to
//! the keeper's socket, is told what runs and what has ended, and goes on. One thread, one epoll loop; children are watched
//! by pidfd (Linux 5.3 or newer), so no signal handler and no signal mask that children would inherit.
//!
//! What always holds:
//! - one keeper per data directory (a lock that the kernel drops with the process);
//! - each accepted spawn has exactly one end, kept in memory and in the journal until the worker acknowledges it;
//! - timeouts, the grace between SIGTERM and SIGKILL, and the lease of attempts that stop on a partition are the keeper's:
//!   they hold also while the worker is dead, stopped or cut off. The lease counts on the boot-time clock, sleep included;
//! - when an attempt's own process ends, whatever is left of its process group is killed before it is reaped;
//! - a keeper that finds children of a dead keeper kills them (found by `STEERSMAN_ATTEMPT_DIR` in their environment) and
//!   reports them as `WORKER_LOST`: nobody can learn their exit status any more.
//!
//! It ends when it has no children, nothing unacknowledged and no worker for a minute, or at once after a worker's orderly
//! goodbye. If its data directory is removed while no worker is there, nobody can ever ask for what it keeps: it kills its
//! children and ends. It does not read outputs, does not talk to masters, and knows no tasks but by token.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child as OsChild, Command, ExitStatus, Stdio};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::{ClockId, Timespec};
use steersman_proto::v1::Outcome;

use super::journal::{Found, Journal};
use super::output::{attempt_dir, bound};
use super::wire::{self, Ask, Ended, Entry, Hello, KillAttempt, Running, Spawn, Spawned, Tell, ToKeeper, ToWorker};

/// Name of the socket in the data directory.
pub const SOCKET: &str = "keeper.sock";
/// How long an idle keeper waits for a worker.
const IDLE_MS_MAX: u64 = 60_000;
/// How often a keeper without a worker looks whether its directory is still there.
const HOME_LOOK_MS: u64 = 2_000;
/// How often outputs are brought back under their bound.
const BOUND_EVERY_MS: u64 = 250;
/// Children started in one round of the loop: what has ended is looked after in between.
const SPAWNS_PER_ROUND_MAX: usize = 8;
const KEY_LISTENER: u64 = u64::MAX;
const KEY_WORKER: u64 = u64::MAX - 1;

/// Milliseconds of the boot-time clock: monotonic, the same in all processes of a machine, counts while it sleeps.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// If this process was started to be a keeper (`… worker keeper DATA_DIR`), is one and returns its exit code. An embedding
/// service calls this first in its `main`, before any runtime is started.
pub fn run_if_asked() -> Option<i32> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [worker, keeper, rest @ ..] if worker == "worker" && keeper == "keeper" => Some(keeper_main(rest)),
        _ => None,
    }
}

/// The whole life of a keeper process; `args` is the data directory. Returns the exit code.
pub fn keeper_main(args: &[OsString]) -> i32 {
    let [data_dir] = args else {
        eprintln!("steersman keeper: exactly one argument is needed: the worker's data directory");
        return 2;
    };
    match Keeper::new(Path::new(data_dir)) {
        Ok(Some(mut keeper)) => match keeper.run() {
            Ok(()) => 0,
            Err(error) => fail(&error),
        },
        // Another keeper is there: the worker will find that one.
        Ok(None) => 0,
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> i32 {
    eprintln!("steersman keeper: {error}");
    crate::exit::DISK.code
}

struct Child {
    task_id: u64,
    process: OsChild,
    pidfd: OwnedFd,
    started_ms: u64,
    stops_on_partition: bool,
    kill_grace_ms: u64,
    timeout_ms: u64,
    output_bytes_max: u64,
    cut: [u64; 2],
    /// Why it is being ended, once it is.
    stopping: Option<Outcome>,
    timer: Option<u64>,
}

impl Child {
    fn group(&self) -> Option<Pid> {
        Pid::from_raw(self.process.id() as i32)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

struct Worker {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    waits_to_write: bool,
}

struct Keeper {
    data_dir: PathBuf,
    lock: File,
    epoll: OwnedFd,
    listener: UnixListener,
    worker: Option<Worker>,
    journal: Journal,
    backlog: BTreeMap<u64, Spawn>,
    children: BTreeMap<u64, Child>,
    ended: BTreeMap<u64, Ended>,
    timers: BTreeSet<(u64, u64)>,
    stops: BTreeSet<u64>,
    lease_until_ms: u64,
    bounded_at_ms: u64,
    home_seen_ms: u64,
    alone_since_ms: u64,
    quit: bool,
}

// ---- birth ----------------------------------------------------------------------------------------------------------

impl Keeper {
    /// `None` if another keeper has this directory.
    fn new(data_dir: &Path) -> io::Result<Option<Self>> {
        // Fails only for a process group leader, which a child of the worker is not; then it is its own group already.
        let _ = rustix::process::setsid();
        let data_dir = fs::canonicalize(data_dir)?;
        let lock = File::options().create(true).truncate(false).write(true).open(data_dir.join("keeper.lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // A relative socket path: the whole one may be longer than the 108 bytes that an address holds.
        std::env::set_current_dir(&data_dir)?;
        fs::create_dir_all("attempts")?;
        let (mut journal, found) = Journal::open(&data_dir.join("keeper.journal"))?;
        let ended = bury(&data_dir, &mut journal, found)?;
        let _ = fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(KEY_LISTENER), EventFlags::IN)?;
        Ok(Some(Self::with(data_dir, lock, epoll, listener, journal, ended)))
    }

    fn with(
        data_dir: PathBuf,
        lock: File,
        epoll: OwnedFd,
        listener: UnixListener,
        journal: Journal,
        ended: BTreeMap<u64, Ended>,
    ) -> Self {
        Self {
            data_dir,
            lock,
            epoll,
            listener,
            worker: None,
            journal,
            backlog: BTreeMap::new(),
            children: BTreeMap::new(),
            ended,
            timers: BTreeSet::new(),
            stops: BTreeSet::new(),
            lease_until_ms: 0,
            bounded_at_ms: 0,
            home_seen_ms: boot_ms(),
            alone_since_ms: boot_ms(),
            quit: false,
        }
    }
}

/// Ends what an earlier keeper left open: its processes are killed, their ends are written as lost.
fn bury(data_dir: &Path, journal: &mut Journal, found: Found) -> io::Result<BTreeMap<u64, Ended>> {
    let mut ended = found.ended;
    if !found.open.is_empty() {
        let dirs = found.open.keys().map(|token| attempt_dir(data_dir, *token)).collect();
        kill_by_attempt_dir(&dirs);
    }
    for running in found.open.into_values() {
        let lost = Ended {
            token: running.token,
            task_id: running.task_id,
            outcome: Outcome::WorkerLost.into(),
            message: "the keeper of processes died; what it left of this attempt was killed".into(),
            ..Ended::default()
        };
        journal.append(Entry::Ended(lost.clone()))?;
        ended.insert(lost.token, lost);
    }
    Ok(ended)
}

/// Kills every process whose environment names one of these attempt directories, until none is left.
pub(super) fn kill_by_attempt_dir(dirs: &BTreeSet<PathBuf>) {
    const ROUNDS_MAX: usize = 20;
    for _ in 0..ROUNDS_MAX {
        let found = processes_of(dirs);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn processes_of(dirs: &BTreeSet<PathBuf>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| names_one_of(*pid, dirs)).filter_map(Pid::from_raw).collect()
}

fn names_one_of(pid: i32, dirs: &BTreeSet<PathBuf>) -> bool {
    // A zombie has an empty environment: it is not found again.
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let value = environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"STEERSMAN_ATTEMPT_DIR="));
    value.is_some_and(|value| std::str::from_utf8(value).is_ok_and(|dir| dirs.contains(Path::new(dir))))
}

// ---- the loop -------------------------------------------------------------------------------------------------------

impl Keeper {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let wait_ms = self.wait_ms(boot_ms());
            let wait = Timespec { tv_sec: (wait_ms / 1_000) as i64, tv_nsec: (wait_ms % 1_000 * 1_000_000) as _ };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.on_event(event.data.u64());
            }
            self.on_time(boot_ms());
            self.start_some();
            self.write_worker();
            if self.may_end(boot_ms()) {
                let _ = fs::remove_file(SOCKET);
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, key: u64) {
        match key {
            KEY_LISTENER => self.accept(),
            KEY_WORKER => self.read_worker(),
            token => self.reap(token),
        }
    }

    fn wait_ms(&self, now: u64) -> u64 {
        if !self.backlog.is_empty() {
            return 0;
        }
        let mut wait = IDLE_MS_MAX;
        let mut until = |at: u64| wait = wait.min(at.saturating_sub(now));
        if let Some((at, _)) = self.timers.first() {
            until(*at);
        }
        if !self.stops.is_empty() {
            until(self.lease_until_ms);
        }
        if !self.children.is_empty() {
            until(self.bounded_at_ms + BOUND_EVERY_MS);
        }
        if self.worker.is_none() {
            until(self.home_seen_ms + HOME_LOOK_MS);
        }
        wait
    }

    fn on_time(&mut self, now: u64) {
        if now >= self.lease_until_ms {
            for token in std::mem::take(&mut self.stops) {
                self.end_child(token, Outcome::PartitionStop, true);
            }
        }
        while let Some((_, token)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            self.on_timer(token);
        }
        if now >= self.bounded_at_ms + BOUND_EVERY_MS {
            self.bounded_at_ms = now;
            let data_dir = &self.data_dir;
            self.children.iter_mut().for_each(|(token, child)| bound_output(data_dir, *token, child));
        }
    }

    fn on_timer(&mut self, token: u64) {
        let Some(child) = self.children.get_mut(&token) else { return };
        child.timer = None;
        let overstayed = child.stopping.is_some();
        self.end_child(token, Outcome::TimedOut, overstayed);
    }

    fn may_end(&mut self, now: u64) -> bool {
        let busy = !self.children.is_empty() || !self.ended.is_empty() || !self.backlog.is_empty();
        if self.worker.is_some() || busy {
            self.alone_since_ms = now;
        }
        if self.worker.is_none() && now >= self.home_seen_ms + HOME_LOOK_MS {
            self.home_seen_ms = now;
            if self.is_homeless() {
                self.children.values().for_each(|child| child.signal(Signal::KILL));
                return true;
            }
        }
        !busy && (self.quit || now.saturating_sub(self.alone_since_ms) >= IDLE_MS_MAX)
    }
}

impl Keeper {
    fn is_homeless(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let there = fs::metadata(self.data_dir.join("keeper.lock")).map(|meta| meta.ino());
        !matches!((there, self.lock.metadata().map(|meta| meta.ino())), (Ok(there), Ok(ours)) if there == ours)
    }
}

fn bound_output(data_dir: &Path, token: u64, child: &mut Child) {
    let dir = attempt_dir(data_dir, token);
    for (name, cut) in ["stdout", "stderr"].into_iter().zip(&mut child.cut) {
        *cut = bound(&dir.join(name), child.output_bytes_max, *cut).unwrap_or(*cut);
    }
}

// ---- the worker -----------------------------------------------------------------------------------------------------

impl Keeper {
    /// The newest connection counts: an older worker process is gone, or it would hold the lock on the directory.
    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        self.drop_worker();
        let watched = stream.set_nonblocking(true).is_ok()
            && epoll::add(&self.epoll, &stream, EventData::new_u64(KEY_WORKER), EventFlags::IN).is_ok();
        if watched {
            self.quit = false;
            self.worker = Some(Worker { stream, input: Vec::new(), output: Vec::new(), waits_to_write: false });
            let hello = self.hello(boot_ms());
            self.tell(Tell::Hello(hello));
        }
    }

    fn drop_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            let _ = epoll::delete(&self.epoll, &worker.stream);
        }
    }

    fn hello(&self, now: u64) -> Hello {
        let waiting = self.backlog.values().map(|spawn| Running {
            token: spawn.token,
            task_id: spawn.task_id,
            stops_on_partition: spawn.stops_on_partition,
            ..Running::default()
        });
        let running = self.children.iter().map(|(token, child)| Running {
            token: *token,
            task_id: child.task_id,
            pid: child.process.id() as i32,
            ran_ms: now.saturating_sub(child.started_ms),
            stops_on_partition: child.stops_on_partition,
        });
        Hello {
            version: wire::VERSION,
            running: running.chain(waiting).collect(),
            ended: self.ended.values().cloned().collect(),
        }
    }

    fn tell(&mut self, tell: Tell) {
        if let Some(worker) = &mut self.worker {
            wire::put(&mut worker.output, &ToWorker { tell: Some(tell) });
        }
    }

    fn read_worker(&mut self) {
        let Some(mut worker) = self.worker.take() else { return };
        let open = fill(&mut worker);
        let mut at = 0;
        let mut sound = true;
        loop {
            match wire::take::<ToKeeper>(&worker.input, &mut at) {
                Ok(Some(ToKeeper { ask })) => ask.into_iter().for_each(|ask| self.on_ask(ask, &mut worker)),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("steersman keeper: the worker's connection is dropped: {error}");
                    sound = false;
                    break;
                }
            }
        }
        worker.input.drain(..at);
        if open && sound {
            self.worker = Some(worker);
        } else {
            let _ = epoll::delete(&self.epoll, &worker.stream);
        }
    }

    fn on_ask(&mut self, ask: Ask, worker: &mut Worker) {
        match ask {
            Ask::Spawn(spawn) => {
                let known = self.children.contains_key(&spawn.token) || self.ended.contains_key(&spawn.token);
                if !known {
                    self.backlog.insert(spawn.token, spawn);
                }
            }
            Ask::Kill(kill) => self.on_kill(kill, worker),
            Ask::Lease(until) => self.lease_until_ms = self.lease_until_ms.max(until.boot_ms),
            Ask::Forget(tokens) => self.forget(&tokens.tokens),
            Ask::Quit(quit) => self.quit = quit,
        }
    }

    fn on_kill(&mut self, kill: KillAttempt, worker: &mut Worker) {
        let outcome = Outcome::try_from(kill.outcome).unwrap_or(Outcome::Cancelled);
        match self.backlog.remove(&kill.token) {
            Some(spawn) => {
                let ended = self.note_end(ended_of(spawn.token, spawn.task_id, outcome, "before it was started"));
                wire::put(&mut worker.output, &ToWorker { tell: Some(Tell::Ended(ended)) });
            }
            None => self.end_child(kill.token, outcome, kill.hard),
        }
    }

    fn forget(&mut self, tokens: &[u64]) {
        tokens.iter().for_each(|token| {
            self.ended.remove(token);
        });
        log_failure("write the journal", self.journal.forget(tokens));
        if self.journal.is_bloated() {
            let open = self.hello(boot_ms()).running.into_iter().map(|running| (running.token, running)).collect();
            let live = Found { open, ended: self.ended.clone() };
            log_failure("rewrite the journal", self.journal.rewrite(&live));
        }
    }

    fn write_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        match flush(worker) {
            Ok(done) => {
                if done == worker.waits_to_write {
                    worker.waits_to_write = !done;
                    let flags = if done { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
                    let _ = epoll::modify(&self.epoll, &worker.stream, EventData::new_u64(KEY_WORKER), flags);
                }
            }
            Err(_) => self.drop_worker(),
        }
    }
}

/// Reads what is there, a bounded amount per round. False at the end of the stream.
fn fill(worker: &mut Worker) -> bool {
    let mut chunk = [0; 64 * 1024];
    match worker.stream.read(&mut chunk) {
        Ok(0) => false,
        Ok(n) => {
            worker.input.extend_from_slice(&chunk[..n]);
            true
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// True if nothing is left to write.
fn flush(worker: &mut Worker) -> io::Result<bool> {
    while !worker.output.is_empty() {
        match worker.stream.write(&worker.output) {
            Ok(n) => drop(worker.output.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn log_failure(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("steersman keeper: cannot {what}: {error}");
    }
}

// ---- children -------------------------------------------------------------------------------------------------------

impl Keeper {
    fn start_some(&mut self) {
        for _ in 0..SPAWNS_PER_ROUND_MAX {
            let Some((_, spawn)) = self.backlog.pop_first() else { return };
            if let Err(refused) = self.start(&spawn) {
                let ended = self.note_end(refused);
                self.tell(Tell::Ended(ended));
            }
        }
    }

    fn start(&mut self, spawn: &Spawn) -> Result<(), Ended> {
        let now = boot_ms();
        let refuse = |outcome, text: String| ended_of(spawn.token, spawn.task_id, outcome, &text);
        if spawn.stops_on_partition && now >= self.lease_until_ms {
            return Err(refuse(Outcome::PartitionStop, "the worker was cut off before it was started".into()));
        }
        let (token, task_id) = (spawn.token, spawn.task_id);
        let written = Running { token, task_id, stops_on_partition: spawn.stops_on_partition, ..Running::default() };
        self.journal
            .append(Entry::Starting(written))
            .map_err(|error| refuse(Outcome::WorkerLost, format!("cannot write the keeper's journal: {error}")))?;
        let mut process = launch(&self.data_dir, spawn)?;
        let pidfd = watch(&self.epoll, &process, token).map_err(|error| {
            // Unwatched it would be lost: this worker is out of descriptors or memory, another may not be.
            let _ = process.kill().and_then(|()| process.wait());
            refuse(Outcome::WorkerLost, format!("cannot watch the process: {error}"))
        })?;
        self.adopt(spawn, process, pidfd, now);
        Ok(())
    }

    fn adopt(&mut self, spawn: &Spawn, process: OsChild, pidfd: OwnedFd, now: u64) {
        let timer = (spawn.timeout_ms > 0).then(|| now.saturating_add(spawn.timeout_ms));
        if let Some(at) = timer {
            self.timers.insert((at, spawn.token));
        }
        if spawn.stops_on_partition {
            self.stops.insert(spawn.token);
        }
        self.tell(Tell::Spawned(Spawned { token: spawn.token, pid: process.id() as i32 }));
        let child = Child {
            task_id: spawn.task_id,
            process,
            pidfd,
            started_ms: now,
            stops_on_partition: spawn.stops_on_partition,
            kill_grace_ms: spawn.kill_grace_ms,
            timeout_ms: spawn.timeout_ms,
            output_bytes_max: spawn.output_bytes_max,
            cut: [0; 2],
            stopping: None,
            timer,
        };
        self.children.insert(spawn.token, child);
    }

    /// Begins (or with `hard` enforces) the end of a child. The first reason stays. One that has exited keeps its own end.
    fn end_child(&mut self, token: u64, outcome: Outcome, hard: bool) {
        let Some(child) = self.children.get_mut(&token) else { return };
        if has_exited(&child.pidfd) {
            return;
        }
        let first = child.stopping.is_none();
        child.stopping.get_or_insert(outcome);
        if hard || child.kill_grace_ms == 0 {
            child.signal(Signal::KILL);
        } else if first {
            child.signal(Signal::TERM);
            let kill_at = boot_ms() + child.kill_grace_ms;
            if let Some(old) = child.timer.replace(kill_at) {
                self.timers.remove(&(old, token));
            }
            self.timers.insert((kill_at, token));
        }
    }

    fn reap(&mut self, token: u64) {
        let Some(child) = self.children.get_mut(&token) else { return };
        if !has_exited(&child.pidfd) {
            return;
        }
        // Until it is waited for, its pid (and so the group's id) belongs to it: nobody else can be hit.
        child.signal(Signal::KILL);
        let Ok(Some(status)) = child.process.try_wait() else { return };
        let Some(mut child) = self.children.remove(&token) else { return };
        let _ = epoll::delete(&self.epoll, &child.pidfd);
        self.stops.remove(&token);
        if let Some(at) = child.timer {
            self.timers.remove(&(at, token));
        }
        bound_output(&self.data_dir, token, &mut child);
        let ended = self.note_end(verdict(token, &child, status));
        self.tell(Tell::Ended(ended));
    }

    fn note_end(&mut self, ended: Ended) -> Ended {
        log_failure("write the journal", self.journal.append(Entry::Ended(ended.clone())));
        self.ended.insert(ended.token, ended.clone());
        ended
    }
}

fn ended_of(token: u64, task_id: u64, outcome: Outcome, message: &str) -> Ended {
    Ended { token, task_id, outcome: outcome.into(), message: message.into(), ..Ended::default() }
}

fn verdict(token: u64, child: &Child, status: ExitStatus) -> Ended {
    let outcome = match (child.stopping, status.code()) {
        (Some(reason), _) => reason,
        (None, Some(0)) => Outcome::Succeeded,
        (None, Some(_)) => Outcome::Exited,
        (None, None) => Outcome::Signaled,
    };
    let message = match outcome {
        Outcome::TimedOut => format!("ran longer than its timeout of {} ms", child.timeout_ms),
        Outcome::PartitionStop => "the worker was cut off from the masters".into(),
        _ => String::new(),
    };
    Ended {
        token,
        task_id: child.task_id,
        outcome: outcome.into(),
        exit_code: status.code().or_else(|| status.signal()).unwrap_or(0),
        message,
        ran_ms: boot_ms().saturating_sub(child.started_ms),
    }
}

fn watch(epoll: &OwnedFd, process: &OsChild, token: u64) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(process.id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    epoll::add(epoll, &pidfd, EventData::new_u64(token), EventFlags::IN)?;
    Ok(pidfd)
}

fn has_exited(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

// ---- starting one ---------------------------------------------------------------------------------------------------

fn launch(data_dir: &Path, spawn: &Spawn) -> Result<OsChild, Ended> {
    let refuse = |outcome: Outcome, code: i32, text: String| Ended {
        exit_code: code,
        ..ended_of(spawn.token, spawn.task_id, outcome, &text)
    };
    let lost =
        |error: io::Error| refuse(Outcome::WorkerLost, 0, format!("cannot prepare the attempt's files: {error}"));
    let program = find_program(spawn).map_err(|(code, text)| refuse(Outcome::CannotStart, code, text))?;
    let dir = attempt_dir(data_dir, spawn.token);
    let mut command = Command::new(program);
    prepare_files(&mut command, &dir, spawn).map_err(lost)?;
    command.arg0(&spawn.argv[0]).args(&spawn.argv[1..]).env_clear().envs(&spawn.env).process_group(0);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            if !spawn.workdir.is_empty() && !Path::new(&spawn.workdir).is_dir() =>
        {
            refuse(Outcome::CannotStart, 126, format!("the directory {} is not there", spawn.workdir))
        }
        io::ErrorKind::NotFound => {
            refuse(Outcome::CannotStart, 127, format!("{}: not found, or its interpreter is not", spawn.argv[0]))
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => {
            refuse(Outcome::CannotStart, 126, format!("{}: {error}", spawn.argv[0]))
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            refuse(Outcome::CannotStart, 126, format!("{}: not an executable file", spawn.argv[0]))
        }
        _ => refuse(Outcome::WorkerLost, 0, format!("cannot start a process: {error}")),
    })
}

fn prepare_files(command: &mut Command, dir: &Path, spawn: &Spawn) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let open = |name: &str| File::options().create(true).append(true).open(dir.join(name));
    command.stdout(open("stdout")?).stderr(open("stderr")?);
    if spawn.stdin.is_empty() {
        command.stdin(Stdio::null());
    } else {
        fs::write(dir.join("stdin"), &spawn.stdin)?;
        command.stdin(File::open(dir.join("stdin"))?);
    }
    if spawn.workdir.is_empty() {
        let work = dir.join("work");
        fs::create_dir_all(&work)?;
        command.current_dir(work);
    } else {
        command.current_dir(&spawn.workdir);
    }
    Ok(())
}

/// Looks the program up in the attempt's own PATH, as a shell would: 127 not found, 126 found but not executable.
fn find_program(spawn: &Spawn) -> Result<PathBuf, (i32, String)> {
    let Some(name) = spawn.argv.first().filter(|name| !name.is_empty()) else {
        return Err((126, "the command is empty".into()));
    };
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = spawn.env.get("PATH").map_or("", String::as_str);
    let mut seen = None;
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let candidate = Path::new(dir).join(name);
        match rustix::fs::access(&candidate, rustix::fs::Access::EXEC_OK) {
            Ok(()) if candidate.is_file() => return Ok(candidate),
            Err(rustix::io::Errno::ACCESS) => seen = Some(candidate),
            _ => {}
        }
    }
    match seen {
        Some(found) => Err((126, format!("{}: not executable", found.display()))),
        None => Err((127, format!("{name}: not found in PATH={path}"))),
    }
}

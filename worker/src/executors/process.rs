//! Child processes, seen from the worker: a conversation with the keeper, which is their parent.
//!
//! What always holds: an attempt handed to the keeper has exactly one end towards the runner. If the keeper dies, it is
//! started again at once (the new one kills what the old one left, see there), and every attempt that it does not know is
//! reported as `WORKER_LOST`. Nothing here blocks the runner; file reads and sweeps go to the blocking pool. A simulation
//! replaces this whole executor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use steersman_proto::v1::{Outcome, task_spec::Work};
use steersman_proto::worker::v1::Ended;
use steersman_world::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::keeper::{SOCKET, boot_ms};
use super::output::{self, Keep, attempt_dir, file_name};
use super::wire::{self, Ask, Hello, KillAttempt, LeaseUntil, Spawn, Tell, ToKeeper, ToWorker, Tokens};
use super::{Event, EventSender, Executor, ExecutorError, Held, Kill, LogAsk, LogPiece, Run, ended};

/// Environment that tasks get from the worker's own; everything else comes from the task.
const INHERITED: &[&str] = &["PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "TMPDIR"];
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a keeper may take to be there.
const KEEPER_START_MAX: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Attempts without output whose silence is remembered, so that reading their log is an empty one instead of an error.
const SILENT_REMEMBERED_MAX: usize = 100_000;

/// How a keeper process is started; the data directory is added as the last argument.
#[derive(Debug, Clone)]
pub struct KeeperCommand {
    /// The program, then its arguments.
    pub argv: Vec<OsString>,
}

impl KeeperCommand {
    /// This very program with `worker keeper`: its `main` must call [`super::keeper::run_if_asked`] or wire that subcommand.
    pub fn this_program() -> Self {
        // Through /proc, so that it works also after the file was replaced by an upgrade.
        Self { argv: vec!["/proc/self/exe".into(), "worker".into(), "keeper".into()] }
    }
}

/// What the executor is told.
#[derive(Clone)]
pub struct ProcessSettings {
    /// The worker's data directory.
    pub data_dir: PathBuf,
    /// Told to tasks as `STEERSMAN_WORKER`.
    pub worker: String,
    /// How to start a keeper.
    pub keeper: KeeperCommand,
    /// Bound of each of stdout and stderr of an attempt.
    pub output_bytes_max: u64,
    /// What is kept of finished attempts.
    pub keep: Keep,
    /// Measures waits and the age of outputs.
    pub clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Books {
    /// Given to the keeper, no end yet.
    open: BTreeMap<u64, u64>,
    /// Ended, not forgotten.
    over: BTreeSet<u64>,
    silent: BTreeSet<u64>,
    silent_order: VecDeque<u64>,
    /// The newest lease, for a keeper that is started later.
    lease_boot_ms: u64,
    closing: bool,
}

struct Shared {
    settings: ProcessSettings,
    env: BTreeMap<String, String>,
    books: Mutex<Books>,
}

enum Order {
    Ask(Ask),
    Flush(oneshot::Sender<()>),
}

/// Runs commands as child processes of a keeper.
pub struct ProcessExecutor {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    forgotten: mpsc::UnboundedSender<u64>,
    opening: Mutex<Option<(mpsc::UnboundedReceiver<Order>, mpsc::UnboundedReceiver<u64>)>>,
}

impl ProcessExecutor {
    /// With these settings; nothing is started before [`Executor::open`].
    pub fn new(settings: ProcessSettings) -> Self {
        let mut env: BTreeMap<String, String> = BTreeMap::from([("PATH".into(), PATH_DEFAULT.into())]);
        env.extend(INHERITED.iter().filter_map(|key| Some(((*key).to_owned(), std::env::var(key).ok()?))));
        env.insert("STEERSMAN_WORKER".into(), settings.worker.clone());
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (forgotten, forgotten_in) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { settings, env, books: Mutex::default() });
        Self { shared, orders, forgotten, opening: Mutex::new(Some((orders_in, forgotten_in))) }
    }

    fn ask(&self, ask: Ask) {
        let _ = self.orders.send(Order::Ask(ask));
    }
}

impl Executor for ProcessExecutor {
    fn open(&self, events: EventSender) -> BoxFuture<'static, Result<Vec<Held>, ExecutorError>> {
        let Some((orders, forgotten)) = self.opening.lock().take() else {
            return Box::pin(async { Err(ExecutorError("opened twice".into())) });
        };
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.prepare().map_err(|error| ExecutorError(format!("cannot prepare the data directory: {error}")))?;
            let mut link = Link { shared: shared.clone(), events, orders, keeper: None };
            let (connection, hello) = link.connect().await.map_err(ExecutorError)?;
            let held = shared.adopt(&hello);
            tokio::spawn(link.hold(connection));
            tokio::spawn(tidy(shared, forgotten));
            Ok(held)
        })
    }

    fn start(&self, run: Run) {
        self.shared.books.lock().open.insert(run.token, run.task_id);
        self.ask(Ask::Spawn(self.shared.spawn_of(&run)));
    }

    fn kill(&self, token: u64, kill: Kill) {
        self.ask(Ask::Kill(KillAttempt { token, outcome: kill.outcome.into(), hard: kill.hard }));
    }

    fn forget(&self, tokens: &[u64]) {
        let mut books = self.shared.books.lock();
        for token in tokens {
            books.over.remove(token);
            let _ = self.forgotten.send(*token);
        }
        drop(books);
        self.ask(Ask::Forget(Tokens { tokens: tokens.to_vec() }));
    }

    fn stamp_ms(&self) -> u64 {
        boot_ms()
    }

    fn renew_lease(&self, stamp_ms: u64, valid_for: Duration) {
        let boot_ms = stamp_ms + valid_for.as_millis() as u64;
        let mut books = self.shared.books.lock();
        books.lease_boot_ms = books.lease_boot_ms.max(boot_ms);
        drop(books);
        self.ask(Ask::Lease(LeaseUntil { boot_ms }));
    }

    fn read_log(&self, ask: LogAsk) -> BoxFuture<'static, LogPiece> {
        Box::pin(follow(self.shared.clone(), ask))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.shared.books.lock().closing = true;
        self.ask(Ask::Quit(true));
        let (flushed, wait) = oneshot::channel();
        let _ = self.orders.send(Order::Flush(flushed));
        Box::pin(async move {
            let _ = tokio::time::timeout(Duration::from_secs(1), wait).await;
        })
    }
}

impl Shared {
    fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(self.settings.data_dir.join("attempts"))
    }

    fn spawn_of(&self, run: &Run) -> Spawn {
        let (argv, workdir, stdin) = match &run.spec.work {
            Some(Work::Command(command)) => (command.argv.clone(), command.workdir.clone(), command.stdin.to_vec()),
            _ => (Vec::new(), String::new(), Vec::new()),
        };
        Spawn {
            token: run.token,
            task_id: run.task_id,
            argv,
            env: self.env_of(run),
            workdir,
            stdin,
            timeout_ms: run.spec.timeout_ms,
            kill_grace_ms: run.kill_grace.as_millis() as u64,
            stops_on_partition: run.stops_on_partition(),
            output_bytes_max: self.settings.output_bytes_max,
        }
    }

    fn env_of(&self, run: &Run) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.extend(run.spec.env.iter().map(|label| (label.key.clone(), label.value.clone())));
        let dir = attempt_dir(&self.settings.data_dir, run.token);
        env.insert("STEERSMAN_ATTEMPT_DIR".into(), dir.to_string_lossy().into_owned());
        env.insert("STEERSMAN_WORKER".into(), self.settings.worker.clone());
        for (key, value) in [
            ("STEERSMAN_TASK_ID", run.task_id),
            ("STEERSMAN_ATTEMPT", run.attempt.into()),
            ("STEERSMAN_FENCING_TOKEN", run.token),
            ("STEERSMAN_ARRAY_INDEX", run.array_index),
        ] {
            env.insert(key.into(), value.to_string());
        }
        env
    }

    /// The first conversation of this process: what the keeper has becomes ours.
    fn adopt(&self, hello: &Hello) -> Vec<Held> {
        let mut books = self.books.lock();
        books.open.extend(hello.running.iter().map(|running| (running.token, running.task_id)));
        books.over.extend(hello.ended.iter().map(|over| over.token));
        let running = hello.running.iter().map(|running| Held {
            token: running.token,
            task_id: running.task_id,
            stops_on_partition: running.stops_on_partition,
            ran: Duration::from_millis(running.ran_ms),
            pid: running.pid,
            ended: None,
        });
        let over = hello.ended.iter().map(|over| Held {
            token: over.token,
            task_id: over.task_id,
            stops_on_partition: false,
            ran: Duration::from_millis(over.ran_ms),
            pid: 0,
            ended: Some(end_of(over)),
        });
        running.chain(over).collect()
    }

    fn remember_silent(&self, tokens: Vec<u64>) {
        let mut books = self.books.lock();
        for token in tokens {
            books.silent.insert(token);
            books.silent_order.push_back(token);
            if books.silent_order.len() > SILENT_REMEMBERED_MAX
                && let Some(oldest) = books.silent_order.pop_front()
            {
                books.silent.remove(&oldest);
            }
        }
    }
}

fn end_of(over: &wire::Ended) -> Ended {
    let outcome = Outcome::try_from(over.outcome).unwrap_or(Outcome::WorkerLost);
    Ended { ran_ms: over.ran_ms, ..ended(outcome, over.exit_code, over.message.as_str()) }
}

// ---- the conversation -----------------------------------------------------------------------------------------------

struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    input: Vec<u8>,
}

struct Link {
    shared: Arc<Shared>,
    events: EventSender,
    orders: mpsc::UnboundedReceiver<Order>,
    keeper: Option<Child>,
}

impl Link {
    /// Talks to the keeper, and to its successor when it dies, until the worker closes.
    async fn hold(mut self, mut connection: Connection) {
        loop {
            let why = self.talk(&mut connection).await;
            if self.shared.books.lock().closing {
                self.reap_keeper();
                return;
            }
            tracing::error!(%why, "the keeper of processes is gone; starting another");
            connection = loop {
                match self.connect().await {
                    Ok((mut connection, hello)) => {
                        let asks = self.reconcile(&hello);
                        // A failure shows itself again when talking.
                        let _ = connection.write.write_all(&asks).await;
                        break connection;
                    }
                    Err(error) => tracing::error!(%error, "no keeper of processes; trying again"),
                }
            };
        }
    }

    async fn talk(&mut self, connection: &mut Connection) -> String {
        let Connection { read, write, input } = connection;
        let (shared, events) = (&self.shared, &self.events);
        tokio::select! {
            why = listen(read, input, shared, events) => why,
            why = speak(write, &mut self.orders) => why,
        }
    }

    /// A connection on which the keeper has said hello; starts a keeper if there is none.
    async fn connect(&mut self) -> Result<(Connection, Hello), String> {
        let clock = self.shared.settings.clock.clone();
        let deadline = clock.now() + KEEPER_START_MAX;
        let mut problem = String::from("it did not answer");
        while clock.now() < deadline {
            match dial(&self.shared.settings.data_dir).await {
                Ok(connected) => return Ok(connected),
                Err(error) => problem = error,
            }
            self.start_keeper()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("no keeper within {} s: {problem}; see keeper.stderr in data_dir", KEEPER_START_MAX.as_secs()))
    }

    fn start_keeper(&mut self) -> Result<(), String> {
        self.reap_keeper();
        if self.keeper.is_some() {
            return Ok(());
        }
        let child = spawn_keeper(&self.shared.settings).map_err(|error| format!("cannot start it: {error}"))?;
        tracing::info!(pid = child.id(), "started a keeper of processes");
        self.keeper = Some(child);
        Ok(())
    }

    fn reap_keeper(&mut self) {
        if let Some(child) = &mut self.keeper
            && !matches!(child.try_wait(), Ok(None))
        {
            self.keeper = None;
        }
    }

    /// After a keeper's death: what its successor does not know is lost. Returns what it must be told first: the lease,
    /// and which of the ends it found in the journal were acknowledged long ago.
    fn reconcile(&self, hello: &Hello) -> Vec<u8> {
        hello.ended.iter().for_each(|over| deliver(&self.shared, &self.events, over));
        let mut books = self.shared.books.lock();
        let past = hello.ended.iter().map(|over| over.token).filter(|token| !books.over.contains(token)).collect();
        let mut asks = Vec::new();
        wire::put(&mut asks, &ToKeeper { ask: Some(Ask::Forget(Tokens { tokens: past })) });
        wire::put(&mut asks, &ToKeeper { ask: Some(Ask::Lease(LeaseUntil { boot_ms: books.lease_boot_ms })) });
        let known: BTreeSet<u64> = hello.running.iter().map(|running| running.token).collect();
        let gone: Vec<u64> = books.open.keys().copied().filter(|token| !known.contains(token)).collect();
        for token in gone {
            books.open.remove(&token);
            books.over.insert(token);
            let lost = ended(Outcome::WorkerLost, 0, "the keeper of processes died before it started this attempt");
            let _ = self.events.send(Event::Ended { token, ended: lost });
        }
        asks
    }
}

/// Passes an end on, once.
fn deliver(shared: &Shared, events: &EventSender, over: &wire::Ended) {
    let mut books = shared.books.lock();
    if books.open.remove(&over.token).is_some() {
        books.over.insert(over.token);
        let _ = events.send(Event::Ended { token: over.token, ended: end_of(over) });
    }
}

async fn dial(data_dir: &Path) -> Result<(Connection, Hello), String> {
    let text = |error: io::Error| error.to_string();
    // Through the directory's descriptor: an address holds 108 bytes, a data_dir may be longer.
    let dir = File::open(data_dir).map_err(text)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let (read, write) = UnixStream::connect(path).await.map_err(text)?.into_split();
    let mut connection = Connection { read, write, input: Vec::new() };
    let hello = tokio::time::timeout(Duration::from_secs(5), first_hello(&mut connection)).await;
    let hello = hello.map_err(|_| "it said nothing for 5 s".to_owned())??;
    if hello.version != wire::VERSION {
        return Err(format!("it speaks version {}, this worker {}", hello.version, wire::VERSION));
    }
    Ok((connection, hello))
}

async fn first_hello(connection: &mut Connection) -> Result<Hello, String> {
    loop {
        let mut at = 0;
        match wire::take::<ToWorker>(&connection.input, &mut at)? {
            Some(ToWorker { tell: Some(Tell::Hello(hello)) }) => {
                connection.input.drain(..at);
                return Ok(hello);
            }
            Some(_) => return Err("it did not say hello first".into()),
            None => match connection.read.read_buf(&mut connection.input).await {
                Ok(0) => return Err("it closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
        }
    }
}

async fn listen(read: &mut OwnedReadHalf, input: &mut Vec<u8>, shared: &Shared, events: &EventSender) -> String {
    loop {
        let mut at = 0;
        loop {
            match wire::take::<ToWorker>(input, &mut at) {
                Ok(Some(ToWorker { tell })) => tell.iter().for_each(|tell| on_tell(tell, shared, events)),
                Ok(None) => break,
                Err(error) => return error,
            }
        }
        input.drain(..at);
        match read.read_buf(input).await {
            Ok(0) => return "it closed the connection".into(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

fn on_tell(tell: &Tell, shared: &Shared, events: &EventSender) {
    match tell {
        Tell::Hello(_) => {}
        Tell::Spawned(spawned) => {
            let _ = events.send(Event::Spawned { token: spawned.token, pid: spawned.pid });
        }
        Tell::Ended(over) => deliver(shared, events, over),
    }
}

async fn speak(write: &mut OwnedWriteHalf, orders: &mut mpsc::UnboundedReceiver<Order>) -> String {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    loop {
        if orders.recv_many(&mut batch, 256).await == 0 {
            return "the worker is closing".into();
        }
        let mut flushed = Vec::new();
        for order in batch.drain(..) {
            match order {
                Order::Ask(ask) => wire::put(&mut bytes, &ToKeeper { ask: Some(ask) }),
                Order::Flush(done) => flushed.push(done),
            }
        }
        if let Err(error) = write.write_all(&bytes).await {
            return error.to_string();
        }
        bytes.clear();
        for done in flushed {
            let _ = done.send(());
        }
    }
}

fn spawn_keeper(settings: &ProcessSettings) -> io::Result<Child> {
    let (program, args) = settings.keeper.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let errors = settings.data_dir.join("keeper.stderr");
    let errors = File::options().create(true).write(true).truncate(true).open(errors)?;
    Command::new(program)
        .arg0("steersman-keeper")
        .args(args)
        .arg(fs::canonicalize(&settings.data_dir)?)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
}

// ---- outputs --------------------------------------------------------------------------------------------------------

async fn follow(shared: Arc<Shared>, ask: LogAsk) -> LogPiece {
    let deadline = shared.settings.clock.now() + ask.wait;
    let path = attempt_dir(&shared.settings.data_dir, ask.token).join(file_name(ask.stream));
    let mut pause = Duration::from_millis(10);
    loop {
        // Looked at before the read: then "over and nothing left" cannot miss a last line.
        let open = shared.books.lock().open.contains_key(&ask.token);
        let (path, offset, max) = (path.clone(), ask.offset, ask.max_bytes);
        let read = tokio::task::spawn_blocking(move || output::read(&path, offset, max)).await;
        let late = shared.settings.clock.now() + pause > deadline;
        match read {
            Ok(Ok(piece)) if !piece.data.is_empty() || !open || late => return piece_of(piece, open),
            Ok(Err(_)) if !open => return absent(&shared, &ask),
            Ok(Err(_)) if late => return LogPiece { next_offset: ask.offset, ..LogPiece::default() },
            Ok(_) => {}
            Err(_) => return LogPiece { next_offset: ask.offset, not_found: true, ..LogPiece::default() },
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn piece_of(piece: output::Piece, open: bool) -> LogPiece {
    LogPiece {
        data: piece.data,
        next_offset: piece.next_offset,
        end: !open && piece.at_end,
        dropped: piece.dropped,
        not_found: false,
    }
}

fn absent(shared: &Shared, ask: &LogAsk) -> LogPiece {
    let silent = shared.books.lock().silent.contains(&ask.token);
    LogPiece { data: Bytes::new(), next_offset: ask.offset, end: silent, dropped: 0, not_found: !silent }
}

/// Removes the directories of acknowledged attempts that wrote nothing, and sweeps the others by age, number and size.
async fn tidy(shared: Arc<Shared>, mut forgotten: mpsc::UnboundedReceiver<u64>) {
    let mut sweeps = tokio::time::interval(SWEEP_EVERY);
    let (mut tokens, mut seen) = (Vec::new(), BTreeMap::new());
    loop {
        let shared = shared.clone();
        tokio::select! {
            n = forgotten.recv_many(&mut tokens, 1_024) => {
                if n == 0 {
                    return;
                }
                let tokens = std::mem::take(&mut tokens);
                let _ = tokio::task::spawn_blocking(move || remove_silent(&shared, tokens)).await;
            }
            _ = sweeps.tick() => {
                let known = std::mem::take(&mut seen);
                seen = tokio::task::spawn_blocking(move || sweep(&shared, known)).await.unwrap_or_default();
            }
        }
    }
}

fn remove_silent(shared: &Shared, mut tokens: Vec<u64>) {
    let data_dir = &shared.settings.data_dir;
    // Remembered first, so that a reader never finds neither the file nor the memory.
    let quiet = |token: &u64| {
        let dir = attempt_dir(data_dir, *token);
        let empty = |name: &str| fs::metadata(dir.join(name)).is_ok_and(|meta| meta.len() == 0);
        empty("stdout") && empty("stderr")
    };
    tokens.retain(quiet);
    shared.remember_silent(tokens.clone());
    for token in tokens {
        output::remove_if_silent(&attempt_dir(data_dir, token));
    }
}

/// `seen`: since when each finished attempt is known as such.
fn sweep(shared: &Shared, mut seen: BTreeMap<u64, Instant>) -> BTreeMap<u64, Instant> {
    let books = shared.books.lock();
    let held: BTreeSet<u64> = books.open.keys().chain(&books.over).copied().collect();
    drop(books);
    let settings = &shared.settings;
    let removed = output::sweep(&settings.data_dir, &settings.keep, &held, &mut seen, settings.clock.now());
    if removed > 0 {
        tracing::info!(removed, "old outputs were removed");
    }
    seen
}

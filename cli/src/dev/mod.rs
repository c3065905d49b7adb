//! `steersman dev`: a real cluster on this machine, every node a process of its own.
//!
//! What always holds: everything listens on loopback; nothing is restarted (watching nodes die is the point) unless a drill
//! asks for it; when this command ends, so do all nodes, also if it is killed.

pub mod control;
pub mod faults;
mod nodes;
pub mod state;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures::future::{BoxFuture, FutureExt as _, join_all, select_all};
use nix::sys::signal::Signal;
use serde_json::json;
use steersman_client::{Client, World};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::control::{Answer, Ask, Asked};
use self::faults::FaultSet;
use self::nodes::{Layout, Node};
use self::state::DevState;
use crate::context::{Ctx, Output};
use crate::exit::{Failure, Outcome};
use crate::status::Picture;
use crate::table::{Row, col, print_list};

/// A cluster that is not ready by then has a problem: a cold, busy machine needs seconds.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two looks at a cluster that starts.
const LOOK: Duration = Duration::from_millis(50);
/// How long nodes may take to end in good order: a drain of 3 s, a handover of 2 s, and some room.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Options of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman dev
  steersman dev --masters 5 --workers 4 --capacity 2
  steersman dev --base-port 7400 --data-dir ./dev-data      the same cluster again after a restart

While it runs, commands on this machine find it without --address. Try `steersman drill leader-kill`.")]
pub struct DevArgs {
    /// How many masters; an odd number
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9), value_name = "N")]
    masters: u16,
    /// How many workers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100), value_name = "N")]
    workers: u16,
    /// Slots of each worker
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "SLOTS")]
    capacity: u32,
    /// Masters at this port, +10, +20… (API, Raft +1, metrics +2), workers' metrics after them [default: free ports]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Keep data, logs and ports here [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs it until Ctrl-C.
///
/// # Errors
/// When the cluster does not come up, or no node is left.
pub async fn dev(ctx: &Ctx, args: &DevArgs) -> Outcome {
    let folder = Folder::open(args)?;
    let outcome = dev_in(ctx, args, &folder.path).await;
    folder.close(ctx, outcome.is_ok());
    outcome
}

async fn dev_in(ctx: &Ctx, args: &DevArgs, dir: &Path) -> Outcome {
    let layout = layout(ctx, args, dir)?;
    let mut cluster = Cluster { ctx, nodes: Vec::new(), layout, stop: Stop::new()?, fallen: None };
    let outcome = match cluster.start(dir) {
        Ok(()) => cluster.live(dir).await,
        failed => failed,
    };
    cluster.end().await;
    outcome
}

fn layout(ctx: &Ctx, args: &DevArgs, dir: &Path) -> Outcome<Layout> {
    if let Some(old) = Layout::load(dir)? {
        let masters = old.masters().count();
        let workers = old.places.len() - masters;
        if (masters, workers) != (args.masters.into(), args.workers.into()) || args.base_port.is_some() {
            ctx.note(format!(
                "{} holds {masters} masters and {workers} workers: starting those, at their old ports",
                dir.display()
            ));
        }
        return Ok(old);
    }
    let layout = Layout::choose(args.masters, args.workers, args.base_port)?;
    layout.write(dir, args.capacity)?;
    Ok(layout)
}

/// Where data and logs are.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn open(args: &DevArgs) -> Outcome<Self> {
        let temporary = args.data_dir.is_none();
        let path = match &args.data_dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join(format!("steersman-dev-{}", std::process::id())),
        };
        let cannot =
            |error| Failure::local(format!("cannot use {}: {error}", path.display()), "use another --data-dir");
        std::fs::create_dir_all(&path).map_err(cannot)?;
        let path = std::fs::canonicalize(&path).map_err(cannot)?;
        Ok(Self { path, temporary })
    }

    /// Removes a temporary folder, unless something went wrong that its logs may explain.
    fn close(&self, ctx: &Ctx, fine: bool) {
        // An empty one explains nothing.
        if !self.temporary || (!fine && std::fs::remove_dir(&self.path).is_ok()) {
            return;
        }
        if !fine {
            ctx.warn(format!("logs and data are kept in {}", self.path.display()));
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            ctx.warn(format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

/// Ctrl-C, SIGTERM or the end of the terminal.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Outcome<Self> {
        let watch = |kind| {
            signal(kind).map_err(|error| Failure::local(format!("cannot watch for signals: {error}"), "try again"))
        };
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for the wish to stop, and says what it was.
    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "the terminal is gone",
        }
    }
}

struct Cluster<'a> {
    ctx: &'a Ctx,
    nodes: Vec<Node>,
    layout: Layout,
    stop: Stop,
    /// While a drill is here: nodes that ended since it came.
    fallen: Option<BTreeSet<String>>,
}

impl Cluster<'_> {
    fn start(&mut self, dir: &Path) -> Outcome {
        for place in &self.layout.places {
            self.nodes.push(Node::start(dir, place)?);
        }
        Ok(())
    }

    /// From the start of the processes to the wish to stop.
    async fn live(&mut self, dir: &Path) -> Outcome {
        let client = Client::builder(World::real()).addresses(self.layout.api_addresses()).build()?;
        if !self.until_ready(&client).await? {
            return Ok(());
        }
        let mut state = self.state(dir);
        let mut asks = self.open_door(&state);
        if let Some(other) = DevState::of_running() {
            self.ctx.warn(format!(
                "another dev cluster runs (pid {}); commands without --address now find this one",
                other.pid
            ));
        }
        if let Err(error) = state.write() {
            self.ctx.warn(format!("cannot write {}: {error}; commands need --address", state::path().display()));
        }
        let shown = self.introduce(&client, &state).await;
        let watched = match shown {
            Ok(()) => self.watch(&mut state, &mut asks).await,
            failed => failed,
        };
        state.remove();
        drop(std::fs::remove_file(&state.control));
        watched
    }

    /// Waits for a leader and all workers. `false` if the user wants to stop before.
    async fn until_ready(&mut self, client: &Client) -> Outcome<bool> {
        let deadline = Instant::now() + READY_MAX;
        let workers = (self.nodes.len() - self.layout.masters().count()) as u32;
        let mut said = String::new();
        loop {
            let picture = Picture::take(client).await;
            let online = picture.leader().and_then(|leader| leader.workers).map_or(0, |w| w.online + w.busy);
            let (up, voters, _) = picture.arithmetic();
            if picture.leader().is_some() && up == voters && online >= workers {
                return Ok(true);
            }
            let progress = format!("starting: {}; {online} of {workers} workers", picture.summary());
            if progress != said {
                self.ctx.note(&progress);
                said = progress;
            }
            if Instant::now() > deadline {
                return Err(self.not_ready(&said));
            }
            tokio::select! {
                why = self.stop.asked() => return Ok(self.stopping(why)),
                (n, ending) = any_end(&mut self.nodes) => return Err(self.died_early(n, &ending)),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Says so, and that the cluster will not become ready.
    fn stopping(&self, why: &str) -> bool {
        self.ctx.note(format!("stopping ({why}); once more to kill"));
        false
    }

    fn not_ready(&self, said: &str) -> Failure {
        let message = format!("the cluster is not ready after {} s ({said})", READY_MAX.as_secs());
        Failure::local(message, "read the logs; is the machine overloaded?")
    }

    fn died_early(&self, n: usize, ending: &str) -> Failure {
        let node = &self.nodes[n];
        let message = format!("{} {ending}; the end of its log:\n{}", node.place.name, node.log_tail(8));
        Failure::local(message.trim_end(), "mend what it says, or choose other ports with --base-port")
    }

    fn state(&self, dir: &Path) -> DevState {
        DevState {
            pid: std::process::id(),
            addresses: self.layout.api_addresses(),
            data_dir: dir.to_owned(),
            nodes: self.nodes.iter().map(Node::describe).collect(),
            control: control::path_in(dir),
        }
    }

    /// For drills. A cluster runs as well without it.
    fn open_door(&self, state: &DevState) -> mpsc::Receiver<Asked> {
        control::open(&state.control).unwrap_or_else(|error| {
            self.ctx.warn(format!("cannot open {}: {error}; drills will not work", state.control.display()));
            mpsc::channel(1).1
        })
    }

    async fn introduce(&self, client: &Client, state: &DevState) -> Outcome {
        if self.ctx.output.is_json() {
            return self.ctx.print(json!(state).to_string());
        }
        let leader = Picture::take(client).await.leader().and_then(|info| info.self_.clone()).map_or(0, |own| own.id);
        let leader_name = format!("master-{leader}");
        let rows: Vec<Row> = state
            .nodes
            .iter()
            .map(|node| {
                let role = if node.name == leader_name {
                    "leader"
                } else if node.api.is_empty() {
                    "worker"
                } else {
                    "follower"
                };
                let metrics = format!("http://{}/metrics", node.http);
                let cells = vec![
                    node.name.clone(),
                    role.to_owned(),
                    node.pid.to_string(),
                    node.api.clone(),
                    metrics,
                    node.log.display().to_string(),
                ];
                Row { id: node.name.clone(), cells, json: json!(node) }
            })
            .collect();
        let columns = [col("NODE"), col("ROLE"), col("PID").right(), col("API"), col("METRICS"), col("LOG").wide()];
        print_list(self.ctx, "node", &columns, &rows)?;
        if self.ctx.output == Output::Id {
            return Ok(());
        }
        self.ctx.print(format!(
            "\nLogs and data: {}\n\nTry, in another terminal:\n  steersman run -- echo hello\n  steersman status --watch\n  \
             steersman drill leader-kill      another master takes over: how fast, and is anything lost?\n\nCtrl-C stops everything.",
            state.data_dir.display()
        ))
    }

    /// Until the user wants to stop, or nothing is left to stop.
    async fn watch(&mut self, state: &mut DevState, asks: &mut mpsc::Receiver<Asked>) -> Outcome {
        loop {
            tokio::select! {
                why = self.stop.asked() => {
                    self.stopping(why);
                    return Ok(());
                }
                (n, ending) = any_end(&mut self.nodes) => {
                    self.fell(n, &ending);
                }
                Some((ask, answer)) = asks.recv() => {
                    let done = self.obey(ask, state).await;
                    // The drill may have gone meanwhile.
                    drop(answer.send(done.unwrap_or_else(|error| Answer { error, ..Answer::default() })));
                }
            }
            if self.nodes.is_empty() && self.fallen.is_none() {
                return Err(Failure::local("no node is left", "start again: steersman dev"));
            }
        }
    }

    /// What a drill asks for.
    async fn obey(&mut self, ask: Ask, state: &mut DevState) -> Result<Answer, String> {
        let mut wall_us = wall_us();
        let pid = match ask {
            Ask::Begin => {
                self.fallen = Some(BTreeSet::new());
                0
            }
            Ask::Kill { node } => {
                let pid = self.signal(&node, Signal::SIGKILL)?;
                self.await_end(&node).await?;
                pid
            }
            Ask::Terminate { node } => self.signal(&node, Signal::SIGTERM)?,
            Ask::Pause { node } => self.signal(&node, Signal::SIGSTOP)?,
            Ask::Resume { node } => self.signal(&node, Signal::SIGCONT)?,
            Ask::Start { node } => self.start_again(&node, state).await?,
            Ask::Faults { node, faults } => {
                let pid = self.inflict(&node, faults).await?;
                wall_us = self::wall_us();
                pid
            }
            Ask::Heal => {
                self.heal(state).await;
                self.fallen = Some(BTreeSet::new());
                0
            }
            Ask::End => {
                self.heal(state).await;
                0
            }
        };
        Ok(Answer { pid, error: String::new(), wall_us })
    }

    fn running(&mut self, name: &str) -> Result<&mut Node, String> {
        let found = self.nodes.iter_mut().find(|node| node.place.name == name);
        found.ok_or_else(|| format!("{name} does not run"))
    }

    fn signal(&mut self, name: &str, signal: Signal) -> Result<u32, String> {
        let node = self.running(name)?;
        node.signal(signal);
        match signal {
            Signal::SIGSTOP => node.paused = true,
            Signal::SIGCONT => node.paused = false,
            _ => node.ending = true,
        }
        Ok(node.pid)
    }

    /// A node has ended: it is told, and remembered for a drill that is here.
    fn fell(&mut self, n: usize, ending: &str) {
        let node = self.nodes.remove(n);
        self.report_death(&node, ending);
        if let Some(fallen) = &mut self.fallen {
            fallen.insert(node.place.name);
        }
    }

    async fn await_end(&mut self, name: &str) -> Result<(), String> {
        let Some(n) = self.nodes.iter().position(|node| node.place.name == name) else { return Ok(()) };
        let ended = tokio::time::timeout(STOP_MAX, self.nodes[n].ended()).await;
        let ending = ended.map_err(|_| format!("{name} has not ended within {} s", STOP_MAX.as_secs()))?;
        self.fell(n, &ending);
        Ok(())
    }

    async fn inflict(&mut self, name: &str, faults: FaultSet) -> Result<u32, String> {
        let node = self.running(name)?;
        node.inflict(faults).await.map_err(|error| format!("{name} does not listen: {error}"))?;
        Ok(node.pid)
    }

    /// Starts it, unless it runs. One that was told to end is waited for.
    async fn start_again(&mut self, name: &str, state: &mut DevState) -> Result<u32, String> {
        match self.running(name) {
            Ok(node) if !node.ending => return Ok(node.pid),
            Ok(_) => self.await_end(name).await?,
            Err(_) => {}
        }
        let place = self.layout.places.iter().find(|place| place.name == name);
        let place = place.ok_or_else(|| format!("there is no node {name}"))?;
        let node = Node::start(&state.data_dir, place).map_err(|failure| failure.message)?;
        let pid = node.pid;
        self.ctx.note(format!("{name} was started again (pid {pid})"));
        if let Some(told) = state.nodes.iter_mut().find(|told| told.name == name) {
            *told = node.describe();
        }
        self.nodes.push(node);
        state.update();
        Ok(pid)
    }

    /// The drill has gone, or wants everything as it was.
    async fn heal(&mut self, state: &mut DevState) {
        for node in &mut self.nodes {
            if std::mem::take(&mut node.paused) {
                node.signal(Signal::SIGCONT);
            }
            if node.faults != FaultSet::default() {
                // One that has ended meanwhile needs no healing.
                drop(node.inflict(FaultSet::default()).await);
            }
        }
        let ending = self.nodes.iter().filter(|node| node.ending).map(|node| node.place.name.clone());
        let fallen: Vec<String> = self.fallen.take().unwrap_or_default().into_iter().chain(ending).collect();
        for name in fallen {
            if let Err(error) = self.start_again(&name, state).await {
                self.ctx.warn(format!("{name} was not started again: {error}"));
            }
        }
    }

    fn report_death(&self, node: &Node, ending: &str) {
        let masters = self.nodes.iter().filter(|node| node.place.master_id.is_some()).count();
        let voters = self.layout.masters().count();
        let (role, left) = match node.place.master_id {
            Some(_) => ("master", format!("; {masters} of {voters} masters are left, {} needed", voters / 2 + 1)),
            None => ("worker", String::new()),
        };
        let (name, pid, log) = (&node.place.name, node.pid, node.log.display());
        let config = node.config.display();
        self.ctx.warn(format!(
            "{name} (pid {pid}) {ending}{left}; its log: {log}; to have it back: steersman {role} start --config {config}"
        ));
    }

    /// Workers first, so that they can still report; then masters. A second wish to stop kills what is left.
    async fn end(&mut self) {
        let (masters, workers): (Vec<Node>, Vec<Node>) =
            std::mem::take(&mut self.nodes).into_iter().partition(|node| node.place.master_id.is_some());
        for mut group in [workers, masters] {
            group.iter().for_each(|node| node.signal(Signal::SIGTERM));
            let ended = join_all(group.iter_mut().map(Node::ended));
            let in_time = tokio::select! {
                done = tokio::time::timeout(STOP_MAX, ended) => done.is_ok(),
                _ = self.stop.asked() => false,
            };
            if !in_time {
                group.iter().for_each(|node| node.signal(Signal::SIGKILL));
                join_all(group.iter_mut().map(Node::ended)).await;
            }
        }
    }
}

/// Unix time in µs.
fn wall_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// The first node that ends: its place in the list, and how.
async fn any_end(nodes: &mut [Node]) -> (usize, String) {
    if nodes.is_empty() {
        return std::future::pending().await;
    }
    let ends: Vec<BoxFuture<'_, String>> = nodes.iter_mut().map(|node| node.ended().boxed()).collect();
    let (ending, n, _) = select_all(ends).await;
    (n, ending)
}

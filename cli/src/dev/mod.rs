//! `steersman dev`: a real cluster on this machine, every node a process of its own.
//!
//! What always holds: everything listens on loopback; nothing is restarted (watching nodes die is the point); when this
//! command ends, so do all nodes, also if it is killed.

mod nodes;
pub mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures::future::{BoxFuture, FutureExt as _, join_all, select_all};
use nix::sys::signal::Signal;
use serde_json::json;
use steersman_client::{Client, World};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

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

While it runs, commands on this machine find it without --address. Try `kill -9` on the leader's process.")]
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
    let mut cluster = Cluster { ctx, nodes: Vec::new(), layout, stop: Stop::new()? };
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
        let state = self.state(dir);
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
            Ok(()) => self.watch().await,
            failed => failed,
        };
        state.remove();
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
        }
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
        let leader_pid = state.nodes.iter().find(|node| node.name == leader_name).map_or(0, |node| node.pid);
        self.ctx.print(format!(
            "\nLogs and data: {}\n\nTry, in another terminal:\n  steersman run -- echo hello\n  steersman status --watch\n  \
             kill -9 {leader_pid}        the leader: another master takes over\n\nCtrl-C stops everything.",
            state.data_dir.display()
        ))
    }

    /// Until the user wants to stop, or nothing is left to stop.
    async fn watch(&mut self) -> Outcome {
        loop {
            tokio::select! {
                why = self.stop.asked() => {
                    self.stopping(why);
                    return Ok(());
                }
                (n, ending) = any_end(&mut self.nodes) => {
                    let node = self.nodes.remove(n);
                    self.report_death(&node, &ending);
                }
            }
            if self.nodes.is_empty() {
                return Err(Failure::local("no node is left", "start again: steersman dev"));
            }
        }
    }

    fn report_death(&self, node: &Node, ending: &str) {
        let masters = self.nodes.iter().filter(|node| node.place.master_id.is_some()).count();
        let voters = self.layout.masters().count();
        let left = if node.place.master_id.is_some() {
            format!("; {masters} of {voters} masters are left, {} needed", voters / 2 + 1)
        } else {
            String::new()
        };
        self.ctx.warn(format!(
            "{} (pid {}) {ending}{left}; its log: {}",
            node.place.name,
            node.pid,
            node.log.display()
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

/// The first node that ends: its place in the list, and how.
async fn any_end(nodes: &mut [Node]) -> (usize, String) {
    if nodes.is_empty() {
        return std::future::pending().await;
    }
    let ends: Vec<BoxFuture<'_, String>> = nodes.iter_mut().map(|node| node.ended().boxed()).collect();
    let (ending, n, _) = select_all(ends).await;
    (n, ending)
}

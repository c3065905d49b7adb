//! The hands: a worker takes attempts from the leader, runs them, and reports until it is believed.
//!
//! It is a library, so that a team can embed it in its own service with its own [`Handler`]s; the `steersman` binary is one
//! such service. [`Worker::builder`] is the way in. What always holds:
//! - a report is kept until a master acknowledges it; those of child processes survive the worker's own restart ([`keeper`]);
//! - a token runs at most once in a worker's life; a worker that is cut off obeys `on_partition` before the master's lease ends;
//! - clocks, randomness and the network come in by parameter ([`World`]), executors by trait, so a simulation runs this code.
//!
//! It does not decide what runs where, and keeps no output longer than its bounds allow.

pub mod config;
pub mod error;
pub mod executors;
pub mod exit;
pub mod facts;
mod http;
pub mod identity;
pub mod lease;
mod masters;
mod metrics;
mod reports;
mod runner;
mod session;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steersman_world::{Spawner, World};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use config::WorkerConfig;
pub use error::WorkerError;
pub use executors::handler::{Echo, Handler, HandlerContext, HandlerError, Noop};
pub use executors::keeper::{self, keeper_main};
pub use executors::process::KeeperCommand;
pub use identity::Identity;
pub use runner::STARTED_AFTER;

use executors::handler::HandlerExecutor;
use executors::output::Keep;
use executors::process::{ProcessExecutor, ProcessSettings};
use executors::{Event, Executor, Held};
use facts::{Facts, SystemFacts};
use lease::Lease;
use masters::Masters;
use metrics::Metrics;
use runner::{Executors, Input, Runner};
use session::{Session, StopAsk};

/// Messages from the session to the runner on their way; the runner takes all of them at each turn.
const INPUT_LANE: usize = 64;

enum Processes {
    None,
    Keeper(KeeperCommand),
    Custom(Arc<dyn Executor>),
}

/// Puts a worker together.
pub struct WorkerBuilder {
    config: WorkerConfig,
    world: World,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    processes: Processes,
    facts: Option<Arc<dyn Facts>>,
    spawner: Option<Spawner>,
    identity: Option<Identity>,
    http_bound: Option<oneshot::Sender<SocketAddr>>,
}

impl WorkerBuilder {
    /// Offers a handler under `name`.
    #[must_use]
    pub fn handler(mut self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.insert(name.into(), Arc::new(handler));
        self
    }

    /// Runs commands as child processes. Without this, tasks with a command cannot start here.
    #[must_use]
    pub fn processes(mut self, keeper: KeeperCommand) -> Self {
        self.processes = Processes::Keeper(keeper);
        self
    }

    /// Runs commands by another executor, e.g. a simulated one.
    #[must_use]
    pub fn process_executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.processes = Processes::Custom(executor);
        self
    }

    /// Measures something else than this machine.
    #[must_use]
    pub fn facts(mut self, facts: Arc<dyn Facts>) -> Self {
        self.facts = Some(facts);
        self
    }

    /// Runs its own tasks by this spawner instead of on the ambient runtime. Handlers run on the ambient one.
    #[must_use]
    pub fn spawner(mut self, spawner: Spawner) -> Self {
        self.spawner = Some(spawner);
        self
    }

    /// Is somebody without a disk: the data directory is then neither locked nor read.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Tells where the HTTP listener really listens (for a port of 0).
    #[must_use]
    pub fn http_bound(mut self, tell: oneshot::Sender<SocketAddr>) -> Self {
        self.http_bound = Some(tell);
        self
    }

    /// The worker, not yet started.
    pub fn build(self) -> Worker {
        Worker { parts: self }
    }
}

/// A worker that can be run once.
pub struct Worker {
    parts: WorkerBuilder,
}

impl Worker {
    /// A worker with this configuration in this world.
    pub fn builder(config: WorkerConfig, world: World) -> WorkerBuilder {
        WorkerBuilder {
            config,
            world,
            handlers: BTreeMap::new(),
            processes: Processes::None,
            facts: None,
            spawner: None,
            identity: None,
            http_bound: None,
        }
    }

    /// Works until `shutdown` is ready or the leader asks for an end, then drains: what runs is finished and acknowledged, or
    /// given back when `drain_deadline_ms` has passed. Children outlive a process that is killed instead.
    ///
    /// # Errors
    /// When the worker cannot start or the masters refuse it for good; [`WorkerError::exit_code`] says how to exit.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
        let parts = self.parts;
        parts.config.validate()?;
        let mut config = parts.config;
        let identity = match parts.identity {
            Some(identity) => identity,
            None => open_home(&mut config, &parts.world)?,
        };
        let config = Arc::new(config);
        let executors = executors_of(&config, parts.handlers, parts.processes, &parts.world);
        let (held, events) = open_executors(&executors).await?;
        let facts = parts.facts.unwrap_or_else(|| Arc::new(SystemFacts::new(config.data_dir.clone())));
        let spawner = parts.spawner.unwrap_or_else(Spawner::ambient);
        let start = Start { config, world: parts.world, identity, executors, held, events, facts, spawner };
        let running = Running::start(start);
        let bound = running.listen().await?;
        if let (Some(tell), Some(bound)) = (parts.http_bound, bound) {
            let _ = tell.send(bound);
        }
        running.until_done(shutdown).await
    }
}

fn open_home(config: &mut WorkerConfig, world: &World) -> Result<Identity, WorkerError> {
    let identity = Identity::open(&config.data_dir, world.entropy.next_id())?;
    let whole = fs::canonicalize(&config.data_dir).map_err(WorkerError::disk("find", &config.data_dir))?;
    config.data_dir = whole;
    check_writable(&config.data_dir)?;
    Ok(identity)
}

fn check_writable(dir: &Path) -> Result<(), WorkerError> {
    let attempts = dir.join("attempts");
    fs::create_dir_all(&attempts).map_err(WorkerError::disk("make", &attempts))
}

fn executors_of(
    config: &WorkerConfig,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    processes: Processes,
    world: &World,
) -> Executors {
    let processes: Option<Arc<dyn Executor>> = match processes {
        Processes::None => None,
        Processes::Custom(executor) => Some(executor),
        Processes::Keeper(keeper) => Some(Arc::new(ProcessExecutor::new(ProcessSettings {
            data_dir: config.data_dir.clone(),
            worker: config.name.clone(),
            keeper,
            output_bytes_max: config.output_bytes_max,
            keep: Keep {
                bytes_max: config.outputs_bytes_total_max,
                count_max: config.outputs_kept_max,
                age_max: Duration::from_millis(config.outputs_kept_ms),
            },
            clock: world.clock.clone(),
        }))),
    };
    Executors { handlers: Arc::new(HandlerExecutor::new(handlers, world.clock.clone())), processes }
}

async fn open_executors(executors: &Executors) -> Result<(Vec<Held>, mpsc::UnboundedReceiver<Event>), WorkerError> {
    let (sender, events) = mpsc::unbounded_channel();
    let keeper = |error: executors::ExecutorError| WorkerError::Keeper(error.0);
    let mut held = executors.handlers.open(sender.clone()).await.map_err(keeper)?;
    if let Some(processes) = &executors.processes {
        held.extend(processes.open(sender).await.map_err(keeper)?);
    }
    if !held.is_empty() {
        tracing::info!(attempts = held.len(), "an earlier process of this worker left attempts: they are taken over");
    }
    Ok((held, events))
}

struct Start {
    config: Arc<WorkerConfig>,
    world: World,
    identity: Identity,
    executors: Executors,
    held: Vec<Held>,
    events: mpsc::UnboundedReceiver<Event>,
    facts: Arc<dyn Facts>,
    spawner: Spawner,
}

/// The parts of a worker at work.
struct Running {
    config: Arc<WorkerConfig>,
    world: World,
    metrics: Arc<Metrics>,
    lease: Arc<Lease>,
    processes: Option<Arc<dyn Executor>>,
    inputs: mpsc::Sender<Input>,
    stop_asked: mpsc::Receiver<StopAsk>,
    draining: watch::Sender<bool>,
    finish: CancellationToken,
    runner: AbortOnDropHandle<bool>,
    session: AbortOnDropHandle<Result<(), WorkerError>>,
    masters: Masters,
}

impl Running {
    fn start(start: Start) -> Self {
        let Start { config, world, identity, executors, held, events, facts, spawner } = start;
        let (lease, metrics) = (Arc::new(Lease::default()), Arc::new(Metrics::default()));
        let (inputs, inputs_out) = mpsc::channel(INPUT_LANE);
        let (stop_tell, stop_asked) = mpsc::channel(8);
        let (draining, finish) = (watch::Sender::new(false), CancellationToken::new());
        let processes = executors.processes.clone();
        let masters = Masters::new(world.clone());
        masters.follow(config.masters.iter().map(String::as_str));
        let runner = Runner::new(
            runner::Settings {
                clock: world.clock.clone(),
                executors,
                lease: lease.clone(),
                metrics: metrics.clone(),
                facts: facts.clone(),
                capacity: config.capacity,
                kill_grace: Duration::from_millis(config.kill_grace_ms),
            },
            held,
        );
        let session = Session::new(session::Settings {
            config: config.clone(),
            world: world.clone(),
            identity,
            masters: masters.clone(),
            lease: lease.clone(),
            metrics: metrics.clone(),
            facts,
            processes: processes.clone(),
            inputs: inputs.clone(),
            stop_asked: stop_tell,
            draining: draining.subscribe(),
            finish: finish.clone(),
        });
        let runner = AbortOnDropHandle::new(spawner.spawn(runner.run(inputs_out, events)));
        let session = AbortOnDropHandle::new(spawner.spawn(session.run()));
        Self {
            config,
            world,
            metrics,
            lease,
            processes,
            inputs,
            stop_asked,
            draining,
            finish,
            runner,
            session,
            masters,
        }
    }

    async fn listen(&self) -> Result<Option<SocketAddr>, WorkerError> {
        let Some(addr) = self.config.http.clone() else { return Ok(None) };
        let (metrics, lease) = (self.metrics.clone(), self.lease.clone());
        if self.config.listens_beyond_loopback() {
            tracing::warn!(%addr, "INSECURE: HTTP is served beyond loopback without TLS, because insecure = true");
        }
        let bound = http::serve(&self.world, addr, metrics, lease, self.finish.clone()).await?;
        tracing::info!(%bound, "HTTP: /metrics, /livez, /readyz");
        Ok(Some(bound))
    }

    async fn until_done(mut self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        tokio::pin!(shutdown);
        let mut asked = false;
        let (mut refused, mut clean) = (None, None);
        while refused.is_none() && clean.is_none() {
            tokio::select! {
                () = &mut shutdown, if !asked => {
                    asked = true;
                    self.stop(StopAsk::Drain(None)).await;
                }
                Some(ask) = self.stop_asked.recv() => self.stop(ask).await,
                done = &mut self.runner => clean = Some(done.unwrap_or(false)),
                done = &mut self.session => refused = Some(done),
            }
        }
        self.masters.stop();
        self.finish.cancel();
        if let Some(refused) = refused {
            return refused.unwrap_or_else(|error| Err(WorkerError::Internal(format!("the session ended: {error}"))));
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.session).await;
        if let Some(processes) = &self.processes {
            processes.close().await;
        }
        tracing::info!(clean, "the worker has ended");
        Ok(())
    }

    async fn stop(&self, ask: StopAsk) {
        self.draining.send_replace(true);
        let configured =
            (self.config.drain_deadline_ms > 0).then(|| Duration::from_millis(self.config.drain_deadline_ms));
        let input = match ask {
            StopAsk::Now => Input::Stop,
            StopAsk::Drain(deadline) => Input::Drain { deadline: deadline.or(configured) },
        };
        let _ = self.inputs.send(input).await;
    }
}

//! Puts one master together and takes it down again.
//!
//! What always holds: listeners are bound before anything is promised; Raft and its listener have a runtime of their own;
//! on the way down leadership is handed over first, then calls are drained up to a hard deadline, then Raft stops.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::StreamExt as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::network::{NetSnapshot, RaftNetworkFactory};
use steersman_raft_store::{
    ApplyObserver, Control, Disk, MasterNode, RealDisk, SnapshotData, Store, StoreError, TypeConfig,
};
use steersman_world::{BoxIo, Incoming, Spawner, World};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{self, Gate, Myself};
use crate::clock::ClusterClock;
use crate::config::{Addresses, MasterConfig};
use crate::exit::NodeError;
use crate::fitness::Fitness;
use crate::leader::{self, Office, Throne, heartbeats};
use crate::network::Peers;
use crate::node::{LeaderView, Listening, Node, QuorumClock, watch_leader};
use crate::observe::Metrics;
use crate::propose::{Door, DoorLimits, Proposer};
use crate::raft_service::{RaftHandle, RaftService};
use crate::reads::{AskLeader, Reads};
use crate::waiters::Waiters;
use crate::{audit, fitness, grpc, observe, takeover};

/// Threads of Raft's own runtime at most: its core, and its listener beside it.
const RAFT_THREADS_MAX: usize = 2;
/// HTTP connections (metrics, probes) at a time.
const HTTP_CONNECTIONS_MAX: usize = 64;
/// A probe's headers arrive at once.
const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams on one gRPC connection: a client library's callers share one.
const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;

/// What a master takes from where it runs, besides the [`World`].
#[derive(Clone)]
pub struct Surroundings {
    /// Under the Raft store.
    pub disk: Arc<dyn Disk>,
    /// Runs Raft and its listener.
    pub raft: Spawner,
    /// Runs everything else.
    pub api: Spawner,
}

/// A master that runs.
pub struct Running {
    /// The node itself.
    pub node: Arc<Node>,
    /// Where it really listens.
    pub listening: Addresses,
    raft_spawner: Spawner,
    failed: watch::Receiver<Option<Arc<StoreError>>>,
    gate: Gate,
    control: Control,
}

/// Runs a master on the real machine until `shutdown` resolves or the node can't go on.
///
/// # Errors
/// [`NodeError`], with the exit code that the process should end with.
pub async fn run(config: MasterConfig, world: World, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
    let disk = Arc::new(RealDisk::new(&config.data_dir).kept_by(config.engine()));
    run_on(disk, config, world, shutdown).await
}

/// As [`run`], on a disk of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    disk: Arc<dyn Disk>,
    config: MasterConfig,
    world: World,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(raft_threads())
        .thread_name("raft")
        .enable_all()
        .build()
        .map_err(|error| NodeError::Raft(format!("no runtime: {error}")))?;
    let surroundings = Surroundings { disk, raft: Spawner::on(runtime.handle().clone()), api: Spawner::ambient() };
    let outcome = async {
        let running = start(config, world, surroundings).await?;
        running.until(shutdown).await
    };
    let outcome = outcome.await;
    runtime.shutdown_background();
    outcome
}

/// Half of the processors. On two of them a second thread only takes time from the API's: each hand-over between threads is a
/// switch, and there are many in one commit (measured: docs/decisions/0017).
fn raft_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, RAFT_THREADS_MAX)
}

/// Starts a master; it runs until [`Running::until`] returns.
///
/// # Errors
/// [`NodeError`] if the data, the listeners or the cluster refuse.
pub async fn start(config: MasterConfig, world: World, surroundings: Surroundings) -> Result<Running, NodeError> {
    let parts = Parts::new(config, world, surroundings)?;
    let store = parts.open_store(parts.listening.clone()).await?;
    let bound = Bound::all(&parts.config, &parts.world).await?;
    let addresses = bound.addresses();
    parts.assemble(store, bound, addresses).await
}

/// What exists before the store is opened.
pub(crate) struct Parts {
    pub(crate) config: Arc<MasterConfig>,
    pub(crate) world: World,
    pub(crate) surroundings: Surroundings,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) throne: Throne,
    pub(crate) listening: Arc<Listening>,
    pub(crate) fitness: Fitness,
}

impl Parts {
    /// Checks the configuration; opens nothing.
    pub(crate) fn new(config: MasterConfig, world: World, surroundings: Surroundings) -> Result<Self, NodeError> {
        config.validate()?;
        let config = Arc::new(config);
        let clock = Arc::new(ClusterClock::new(world.clock.clone()));
        let (waiters, throne) = (Arc::new(Waiters::with_max(config.limits.waiters_max as usize)), Throne::default());
        let listening = Listening::new(world.clone(), clock.clone(), waiters.clone(), throne.clone());
        let fitness = Fitness::default();
        Ok(Self { config, world, surroundings, clock, waiters, throne, listening, fitness })
    }

    /// Opens the data directory; `observer` hears what is applied.
    pub(crate) async fn open_store(&self, observer: Arc<dyn ApplyObserver>) -> Result<Store, NodeError> {
        let options = steersman_raft_store::Options {
            store_id: Some(u128::from_be_bytes(self.world.entropy.next_id())),
            created_ms: self.world.clock.wall_ms(),
            ..steersman_raft_store::Options::new(self.config.node_id, None)
        };
        let store = steersman_raft_store::open(self.surroundings.disk.clone(), options, observer).await?;
        check_cluster(&self.config, &store)?;
        Ok(store)
    }

    async fn assemble(self, store: Store, bound: Bound, listening: Addresses) -> Result<Running, NodeError> {
        let (config, world) = (self.config.clone(), self.world.clone());
        let peers = Peers::new(config.cluster.clone(), config.node_id, &world, store.control.clone());
        for entry in config.masters.iter().filter(|entry| entry.id != config.node_id) {
            peers.learn(entry.id, &entry.raft);
        }
        let (state, failed, control) = (store.state.clone(), store.failed(), store.control.clone());
        let identity = store.identity.record();
        let (store_id, blank) = (format!("{:032x}", identity.store_id), store.is_blank());
        self.clock.observe(state.read().time_ms());
        let raft = new_raft(&config, peers.clone(), store, &self.surroundings.raft).await?;
        let node_name = MasterNode {
            api: config.advertise.api.clone(),
            raft: config.advertise.raft.clone(),
            http: config.advertise.http.clone(),
            store: store_id.clone(),
        };
        let myself = Myself { id: config.node_id, node: node_name };
        let gate = Gate::default();
        let service = RaftService {
            cluster: config.cluster.clone(),
            id: config.node_id,
            store: store_id,
            raft: raft.clone(),
            gate: gate.clone(),
            peers: peers.clone(),
            control: control.clone(),
            listening: self.listening.clone(),
            fitness: self.fitness.clone(),
        };
        let down = CancellationToken::new();
        serve_raft(service, bound.raft, &self.surroundings.raft, &down);
        let node = self.node(raft.clone(), state, (peers.clone(), Arc::new(peers.clone())), down.clone());
        let _ = node.store.set(control.clone());
        serve_api(&node, bound.api, &self.surroundings.api);
        serve_http(&node, bound.http, &self.surroundings.api);
        let initial = initial_masters(&config);
        bootstrap::settle(&myself, &initial, (blank, config.join), &raft, &peers, &gate).await?;
        if config.raft.fast_takeover {
            takeover::watch(&node, &self.surroundings.raft);
        }
        self.surroundings.api.spawn(bootstrap::announce(myself, node.clone()));
        fitness::start(&node, &control, &self.surroundings.raft);
        audit::start(&node, &control, &self.surroundings.api);
        Ok(Running { node, listening, raft_spawner: self.surroundings.raft, failed, gate, control })
    }

    /// Opens the door, the reads and the throne, and starts what watches Raft.
    /// Read indexes of other masters come through `ask`.
    pub(crate) fn node(
        &self,
        raft: RaftHandle,
        state: steersman_raft_store::SharedState,
        (peers, ask): (Peers, Arc<dyn AskLeader>),
        down: CancellationToken,
    ) -> Arc<Node> {
        let (config, world, api) = (self.config.clone(), self.world.clone(), &self.surroundings.api);
        let metrics = Arc::new(Metrics::new());
        let (begun, begun_watch) = watch::channel(None);
        let door = Door {
            raft: raft.clone(),
            id: config.node_id,
            world: world.clone(),
            clock: self.clock.clone(),
            state: state.clone(),
            init: (new_cluster_id(&config, &world), config.limits(), config.brake_policy()),
            metrics: metrics.clone(),
            limits: door_limits(&config),
            begun,
            begun_term: AtomicU64::new(0),
            fitness: self.fitness.clone(),
        };
        let proposer = Proposer::open(door, &self.surroundings.raft);
        let applied = self.listening.applied();
        let reads = Reads::start(raft.clone(), ask, applied.clone(), api);
        let (leader_view, leader) = watch::channel(LeaderView::default());
        let office = Office {
            world: world.clone(),
            state: state.clone(),
            proposer: proposer.clone(),
            clock: self.clock.clone(),
            metrics: metrics.clone(),
            applied,
            fitness: self.fitness.clone(),
            quorum: QuorumClock::new(raft.clone()),
            quorum_silence: heartbeats::quorum_silence(&config.raft),
            elections: peers.elections().clone(),
            spawner: api.clone(),
        };
        api.spawn(leader::keep(self.throne.clone(), raft.clone(), office, begun_watch));
        let (id, throne) = (config.node_id, self.throne.clone());
        api.spawn(watch_leader(raft.clone(), id, throne.clone(), peers.clone(), leader_view));
        let (waiters, clock, listening) = (self.waiters.clone(), self.clock.clone(), self.listening.clone());
        let (started, store) = (world.clock.now(), OnceLock::new());
        Arc::new(Node {
            id,
            config,
            world,
            state,
            metrics,
            waiters,
            raft,
            proposer,
            reads,
            peers,
            throne,
            listening,
            clock,
            leader,
            started,
            down,
            store,
            fitness: self.fitness.clone(),
            raft_spawner: self.surroundings.raft.clone(),
        })
    }
}

impl Running {
    /// Waits for `shutdown` or for the node's end, and takes the node down.
    ///
    /// # Errors
    /// Why the node could not go on.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let (mut metrics, gate) = (self.node.raft.metrics(), self.gate.clone());
        tokio::select! {
            () = shutdown => {}
            what = gate.shut_out_by_peers() => { self.stop_now().await; return Err(NodeError::Foreign(what)); }
            error = store_failed(&mut self.failed) => { self.stop_now().await; return Err(error); }
            error = raft_stopped(&mut metrics) => {
                // The store knows better than Raft why it failed.
                let told = self.failed.borrow().clone();
                self.stop_now().await;
                return Err(told.map_or(error, |told| NodeError::from((*told).clone())));
            }
        }
        self.hand_over().await;
        self.stop_now().await;
        Ok(())
    }

    /// Gives leadership away, so that the cluster goes on without waiting for timers.
    async fn hand_over(&self) {
        let limit = Duration::from_millis(self.node.config.shutdown.transfer_ms);
        if limit.is_zero() || self.node.reign().is_none() {
            return;
        }
        match tokio::time::timeout(limit, self.node.transfer(None)).await {
            Ok(Ok((leader, took))) => {
                tracing::info!(leader = leader.id, took_ms = took.as_millis() as u64, "leadership handed over");
            }
            Ok(Err(error)) => tracing::warn!(%error, "leadership was not handed over"),
            Err(_) => tracing::warn!("leadership was not handed over in time"),
        }
    }

    async fn stop_now(&self) {
        self.node.down.cancel();
        let raft = self.node.raft.clone();
        let stopping = self.raft_spawner.spawn(async move { raft.shutdown().await });
        let limit = Duration::from_millis(self.node.config.shutdown.drain_ms).max(Duration::from_millis(100));
        if tokio::time::timeout(limit, stopping).await.is_err() {
            tracing::warn!("Raft did not stop in time");
        }
        let closing = tokio::time::timeout(limit, self.control.close()).await;
        if !matches!(closing, Ok(Ok(()))) {
            tracing::warn!(?closing, "the store was not closed in good order");
        }
    }
}

type RaftFigures = openraft::alias::WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>>;

/// A data directory that belongs to a cluster of another name is not touched.
fn check_cluster(config: &MasterConfig, store: &Store) -> Result<(), NodeError> {
    match store.identity.cluster() {
        Some(cluster) if cluster.rsplit_once('-').is_none_or(|(name, _)| name != config.cluster) => {
            let (dir, name) = (config.data_dir.display(), &config.cluster);
            let what = format!("{dir} belongs to cluster {cluster:?}, the configuration says {name:?}");
            Err(NodeError::Foreign(what))
        }
        _ => Ok(()),
    }
}

async fn store_failed(failed: &mut watch::Receiver<Option<Arc<StoreError>>>) -> NodeError {
    let error = failed.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
    match error {
        Some(error) => NodeError::from((*error).clone()),
        None => std::future::pending().await,
    }
}

async fn raft_stopped(metrics: &mut RaftFigures) -> NodeError {
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        if let Err(fatal) = state {
            return NodeError::Raft(fatal.to_string());
        }
        if metrics.changed().await.is_err() {
            return NodeError::Ended("Raft");
        }
    }
}

fn new_cluster_id(config: &MasterConfig, world: &World) -> String {
    format!("{}-{:08x}", config.cluster, world.entropy.next_u64() as u32)
}

fn door_limits(config: &MasterConfig) -> DoorLimits {
    let limits = &config.limits;
    DoorLimits {
        queued_max: limits.proposals_queued_max as usize,
        batch_commands_max: limits.batch_commands_max as usize,
        batch_bytes_max: limits.batch_bytes_max as usize,
        command_bytes_max: limits.message_bytes_max as usize,
    }
}

fn initial_masters(config: &MasterConfig) -> BTreeMap<u64, MasterNode> {
    let node = |entry: &crate::config::MasterEntry| {
        let (api, raft, http) = (entry.api.clone(), entry.raft.clone(), entry.http.clone());
        (entry.id, MasterNode { api, raft, http, store: String::new() })
    };
    config.masters.iter().map(node).collect()
}

/// openraft's settings. Each one that is not its default has its reason in `docs/decisions/0001`.
pub(crate) fn raft_config(config: &MasterConfig) -> openraft::Config {
    let timing = &config.raft;
    openraft::Config {
        cluster_name: config.cluster.clone(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        // With the default, a leader that lost its unsynced tail and restarts fast goes on in its old term and gives a log
        // id away twice: replicas diverge and acknowledged work is lost.
        #[cfg(feature = "seeded-bugs")]
        enable_leader_restore: Some(steersman_bugs::planted("leader-restored")),
        #[cfg(not(feature = "seeded-bugs"))]
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: timing.install_snapshot_timeout_ms,
        backoff: "20ms 40ms 80ms 120ms ...200ms".to_owned(),
        // Not less than the leader's lease and one election, or openraft refuses to start.
        quorum_loss_probe_interval: (config.masters.len() >= 5).then_some((2 * timing.election_max_ms).max(600)),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(timing.snapshot_entries),
        max_in_snapshot_log_to_keep: timing.keep_entries,
        purge_batch_size: timing.purge_batch_entries,
        max_payload_entries: timing.append_entries_max,
        ..openraft::Config::default()
    }
}

/// Starts consensus on `store`, over any network.
pub(crate) async fn new_raft<N>(
    config: &MasterConfig,
    network: N,
    store: Store,
    spawner: &Spawner,
) -> Result<RaftHandle, NodeError>
where
    N: RaftNetworkFactory<TypeConfig>,
    N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
{
    let settings = raft_config(config).validate().map_err(|error| NodeError::Raft(error.to_string()))?;
    let id = config.node_id;
    let (log, machine) = (store.log, store.machine);
    let starting = spawner.spawn(async move { RaftHandle::new(id, Arc::new(settings), network, log, machine).await });
    let started = starting.await.map_err(|error| NodeError::Raft(error.to_string()))?;
    started.map_err(|fatal| NodeError::Raft(fatal.to_string()))
}

/// The three listeners, bound.
struct Bound {
    api: Incoming,
    raft: Incoming,
    http: Incoming,
}

impl Bound {
    async fn all(config: &MasterConfig, world: &World) -> Result<Self, NodeError> {
        let listen = &config.listen;
        let bind = async |key: &'static str, address: &String| {
            world.net.bind(address.clone()).await.map_err(|source| NodeError::Listen {
                key: key.to_owned(),
                address: address.clone(),
                source,
            })
        };
        Ok(Self {
            api: bind("listen.api", &listen.api).await?,
            raft: bind("listen.raft", &listen.raft).await?,
            http: bind("listen.http", &listen.http).await?,
        })
    }

    fn addresses(&self) -> Addresses {
        let at = |incoming: &Incoming| incoming.local.to_string();
        Addresses { api: at(&self.api), raft: at(&self.raft), http: at(&self.http) }
    }
}

fn serve_raft(service: RaftService, incoming: Incoming, spawner: &Spawner, down: &CancellationToken) {
    let down = down.clone();
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(service.server());
    spawner.spawn(async move {
        tokio::select! {
            served = server.serve_with_incoming(incoming.stream) => if let Err(error) = served {
                tracing::error!(%error, "the Raft listener ended");
            },
            () = down.cancelled() => {}
        }
    });
}

/// Serves the API; on the way down open calls get `shutdown.drain_ms`, then the listener is dropped: a transport's own
/// graceful shutdown may hang for as long as a peer likes.
fn serve_api(node: &Arc<Node>, incoming: Incoming, spawner: &Spawner) {
    let (down, drain) = (node.down.clone(), Duration::from_millis(node.config.shutdown.drain_ms));
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_routes(grpc::api_router(node.clone()));
    spawner.spawn(async move {
        let stop = down.clone();
        let serving = server.serve_with_incoming_shutdown(incoming.stream, async move { stop.cancelled().await });
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the API listener ended");
            },
            () = async { down.cancelled().await; tokio::time::sleep(drain).await } => {}
        }
    });
}

fn serve_http(node: &Arc<Node>, incoming: Incoming, spawner: &Spawner) {
    let router = observe::http::router(node.clone());
    let (down, own) = (node.down.clone(), spawner.clone());
    let slots = Arc::new(tokio::sync::Semaphore::new(HTTP_CONNECTIONS_MAX));
    spawner.spawn(async move {
        let mut connections = incoming.stream;
        while let Some(accepted) = tokio::select! {
            next = connections.next() => next,
            () = down.cancelled() => None,
        } {
            let (Ok(io), Ok(slot)) = (accepted, slots.clone().try_acquire_owned()) else { continue };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            own.spawn(async move {
                let _slot = slot;
                serve_http_connection(io, service).await;
            });
        }
    });
}

async fn serve_http_connection(io: BoxIo, service: hyper_util::service::TowerToHyperService<axum::Router>) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HTTP_HEADER_TIMEOUT)
        .serve_connection(hyper_util::rt::TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_restore_stays_off() {
        let config = raft_config(&MasterConfig::default());
        assert_eq!(
            config.enable_leader_restore,
            Some(false),
            "see docs/decisions/0001: acknowledged work would be lost"
        );
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.allow_log_reversion, None);
        assert!(config.validate().is_ok());
    }

    #[test]
    fn openraft_takes_every_election_timeout_also_with_five_masters() {
        let entry = MasterConfig::default().masters[0].clone();
        for election_max_ms in [60, 300, 301, 600, 120_000] {
            let mut config = MasterConfig { masters: vec![entry.clone(); 5], ..MasterConfig::default() };
            (config.raft.heartbeat_ms, config.raft.election_min_ms) = (10, 50);
            config.raft.election_max_ms = election_max_ms;
            let checked = raft_config(&config).validate();
            assert!(checked.is_ok(), "election_max_ms = {election_max_ms}: {:?}", checked.err());
        }
    }
}

//! One leader's term of office: everything that only a leader does lives in one value, [`Reign`].
//!
//! What always holds: a reign is born after the first batch of its term was applied here, so its state has caught up; it
//! ends (and with it every session and every task below) as soon as this master's Raft leaves that term's office. What it
//! proposes carries its term. Nothing outside asks "am I the leader?": it asks for the reign.

mod expiry;
pub mod heartbeats;
mod outbox;
pub mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::{Mutex, RwLock};
use steersman_raft_store::SharedState;
use steersman_state::command::Command;
use steersman_state::ids::WorkerId;
use steersman_world::{Spawner, World};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::ClusterClock;
use crate::election::{self, Beginnings, Elections, Won};
use crate::fitness::Fitness;
use crate::node::QuorumClock;
use crate::observe::Metrics;
use crate::propose::{Proposer, led_term};
use crate::raft_service::RaftHandle;
use streams::Session;

/// Between attempts to begin a reign (the first batch of a term) while it fails. The first one always does: openraft refuses
/// writes until a quorum has acknowledged the new leader, a few ms later. A refusal costs nothing, and nobody can submit
/// meanwhile.
const BEGIN_RETRY: Duration = Duration::from_millis(2);

/// What leader-only work needs. Cheap to clone.
#[derive(Clone)]
pub struct Office {
    /// Clocks and randomness.
    pub world: World,
    /// The truth.
    pub state: SharedState,
    /// The door.
    pub proposer: Proposer,
    /// Cluster time.
    pub clock: Arc<ClusterClock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Log index of the local state.
    pub applied: watch::Receiver<u64>,
    /// An unfit master has no reign.
    pub fitness: Fitness,
    /// When a quorum last confirmed it.
    pub quorum: QuorumClock,
    /// A quorum that was not heard for so long does not answer.
    pub quorum_silence: Duration,
    /// What was noted of elections.
    pub elections: Elections,
    /// Where leader-only tasks run.
    pub spawner: Spawner,
}

/// One leader's term of office.
pub struct Reign {
    /// The term.
    pub term: u64,
    office: Office,
    sessions: RwLock<HashMap<WorkerId, Arc<Session>>>,
    /// When each believed worker was last heard.
    seen: Mutex<HashMap<WorkerId, Instant>>,
    /// For the report of its election.
    pub beginnings: Beginnings,
    over: CancellationToken,
}

impl Reign {
    fn begin(term: u64, won: Won, office: Office) -> Arc<Self> {
        let now = office.world.clock.now();
        let believed = office.state.read().believed_workers();
        #[cfg(feature = "seeded-bugs")]
        let now = if steersman_bugs::planted("lease-from-former-reign") { office.clock.origin() } else { now };
        // Whatever happened before this reign, everybody is seen now: a change of leader loses no worker.
        let seen: HashMap<WorkerId, Instant> = believed.into_iter().map(|(worker, ..)| (worker, now)).collect();
        let workers = seen.len();
        let (sessions, seen, beginnings) = (RwLock::default(), Mutex::new(seen), Beginnings::default());
        let reign = Arc::new(Self { term, office, sessions, seen, beginnings, over: CancellationToken::new() });
        reign.spawn(heartbeats::monitor(reign.clone()));
        reign.spawn(expiry::run(reign.clone()));
        reign.spawn(election::report(reign.clone(), won, workers));
        reign
    }

    /// Runs `task` until it ends or the reign does.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.office.spawner.spawn(async move {
            tokio::select! {
                () = task => {}
                () = over.cancelled() => {}
            }
        });
    }

    /// Resolves when the reign is over.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// The tools of the office.
    pub fn office(&self) -> &Office {
        &self.office
    }

    /// A sign of life from a worker.
    pub fn heard(&self, worker: WorkerId) {
        self.seen.lock().insert(worker, self.office.world.clock.now());
    }

    /// How long a worker is still believed, in ms.
    pub fn lease_left_ms(&self, worker: WorkerId) -> Option<u64> {
        let seen = self.seen.lock().get(&worker).copied()?;
        let lease = u64::from(self.office.state.read().worker(worker)?.lease_ms);
        let silent = (self.office.world.clock.now() - seen).as_millis() as u64;
        Some(lease.saturating_sub(silent))
    }
}

/// The current reign of this master, if it has one.
#[derive(Clone)]
pub struct Throne(watch::Sender<Option<Arc<Reign>>>);

impl Default for Throne {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Throne {
    /// Some only on a leader whose state has caught up.
    pub fn reign(&self) -> Option<Arc<Reign>> {
        self.0.borrow().clone()
    }

    /// Follows beginnings and ends.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Reign>>> {
        self.0.subscribe()
    }

    fn seat(&self, reign: Option<Arc<Reign>>) {
        let former = self.0.send_replace(reign);
        if let Some(former) = former {
            former.over.cancel();
        }
    }
}

/// Begins and ends reigns as Raft gives and takes the office. Runs until Raft stops.
pub async fn keep(throne: Throne, raft: RaftHandle, office: Office, mut begun: watch::Receiver<Option<(u64, u64)>>) {
    let mut metrics = raft.server_metrics();
    let mut fitness = office.fitness.watch();
    let mut won: Option<(u64, Won)> = None;
    loop {
        let term = led_term(&raft).filter(|_| fitness.borrow_and_update().is_none());
        if let Some(term) = term.filter(|term| won.is_none_or(|(known, _)| known != *term)) {
            won = Some((term, office.elections.won()));
        }
        let seated = throne.reign().map(|reign| reign.term);
        if seated.is_some() && seated != term {
            tracing::info!(term = seated, "this master's reign is over");
            throne.seat(None);
        }
        if let (Some(term), Some((_, won))) = (term, won)
            && throne.reign().is_none()
        {
            open_term((term, won), &throne, &office, &mut begun).await;
            continue;
        }
        let changed = tokio::select! {
            changed = metrics.changed() => changed.is_ok(),
            _ = fitness.changed() => true,
        };
        if !changed {
            return throne.seat(None);
        }
    }
}

/// Sees to it that the term's first batch is committed, and begins the reign when it is applied here.
async fn open_term(
    (term, won): (u64, Won),
    throne: &Throne,
    office: &Office,
    begun: &mut watch::Receiver<Option<(u64, u64)>>,
) {
    let opened = begun.borrow_and_update().is_some_and(|(begun, _)| begun == term);
    if opened || office.proposer.propose(None, Command::Tick).await.is_ok() {
        if begun.borrow_and_update().is_some_and(|(begun, _)| begun == term) {
            tracing::info!(term, "this master leads");
            office.metrics.leader_changed();
            throne.seat(Some(Reign::begin(term, won, office.clone())));
        }
        return;
    }
    tokio::time::sleep(BEGIN_RETRY).await;
}

//! The one door to the log: collects commands from all callers, stamps a batch, hands openraft ONE entry.
//!
//! What always holds: batches are proposed only by the leader of the stamp's term (openraft refuses the write
//! otherwise), the first batch of a term begins with `BeginReign`, and every caller gets exactly one answer. A time-out, a
//! discarded entry or a broken Raft is *outcome unknown*, never failure. Group commit adapts by itself: at most
//! [`IN_FLIGHT_MAX`] entries are on their way, and what arrives meanwhile forms the next batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::error::ClientWriteError;
use openraft::impls::ProgressResponder;
use steersman_raft_store::{Proposal, SharedState, TypeConfig};
use steersman_state::BrakePolicy;
use steersman_state::command::{Batch, Command, Envelope, Stamp};
use steersman_state::effect::{Rejection, Reply};
use steersman_state::ids::{MasterId, RequestId};
use steersman_state::limits::Limits;
use steersman_world::{Spawner, World};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::clock::ClusterClock;
use crate::fitness::Fitness;
use crate::node::LeaderHint;
use crate::observe::Metrics;
use crate::raft_service::RaftHandle;

/// Entries on their way at a time: one is synced while the next one is collected.
const IN_FLIGHT_MAX: usize = 2;
/// A caller waits no longer for its commit; the outcome is then unknown to it. Below every client's own deadline per
/// long call, above a few elections.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of the door.
#[derive(Debug, Clone)]
pub struct DoorLimits {
    /// Commands that wait or are on their way.
    pub queued_max: usize,
    /// Commands in one entry.
    pub batch_commands_max: usize,
    /// Bytes in one entry, a single larger command excepted.
    pub batch_bytes_max: usize,
    /// Bytes of one command.
    pub command_bytes_max: usize,
}

/// The moment's errors: retry with the same request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads, or nobody.
    #[error("this master does not lead")]
    NotLeader(Option<LeaderHint>),
    /// A quorum did not confirm.
    #[error("no quorum of masters confirmed in time")]
    NoQuorum,
    /// It may or may not be committed.
    #[error("the outcome is unknown: it may or may not have happened")]
    OutcomeUnknown,
    /// The door's queue is full.
    #[error("{queued} commands wait already, the limit is {limit}")]
    Overloaded {
        /// Commands that wait.
        queued: usize,
        /// `limits.proposals_queued_max`.
        limit: usize,
    },
    /// The command alone is over the limit of an entry.
    #[error("the command has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// This node is going down.
    #[error("this master is shutting down")]
    ShuttingDown,
    /// This node is broken.
    #[error("this master's log does not work: {0}")]
    Failed(String),
}

/// A committed command: its answer and the log index that brought it.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// What `apply` answered.
    pub reply: Reply,
    /// Where.
    pub index: u64,
}

struct Pending {
    envelope: Envelope,
    bytes: usize,
    answer: oneshot::Sender<Result<Committed, ProposeError>>,
}

/// What the door needs of the node.
pub struct Door {
    /// Consensus.
    pub raft: RaftHandle,
    /// Id of this master.
    pub id: u64,
    /// Clocks and randomness.
    pub world: World,
    /// Time to stamp.
    pub clock: Arc<ClusterClock>,
    /// For the cluster id: the first reign of a cluster initialises it.
    pub state: SharedState,
    /// Proposed by the first reign.
    pub init: (String, Limits, BrakePolicy),
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: DoorLimits,
    /// Told the term and the log index once the first batch of a term is applied here: a reign is born.
    pub begun: watch::Sender<Option<(u64, u64)>>,
    /// The term whose first batch was sent.
    pub begun_term: AtomicU64,
    /// An unfit master takes no proposals.
    pub fitness: Fitness,
}

/// Where callers stand in line. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    id: u64,
    queue: mpsc::Sender<Pending>,
    queued: Arc<AtomicUsize>,
    limits: DoorLimits,
}

impl Proposer {
    /// Opens the door; its loop runs on `spawner` until every [`Proposer`] is gone.
    pub fn open(door: Door, spawner: &Spawner) -> Self {
        let (queue, waiting) = mpsc::channel(door.limits.queued_max.max(1));
        let queued = Arc::new(AtomicUsize::new(0));
        let (id, limits) = (door.id, door.limits.clone());
        spawner.spawn(Arc::new(door).run(waiting, queued.clone(), spawner.clone()));
        Self { id, queue, queued, limits }
    }

    /// Id of the master whose door this is.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Commands that wait or are on their way.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Proposes one command and waits until it is applied here.
    pub async fn propose(&self, request: Option<RequestId>, command: Command) -> Result<Committed, ProposeError> {
        let bytes = approximate_bytes(&command);
        if bytes > self.limits.command_bytes_max {
            return Err(ProposeError::TooLarge { bytes, limit: self.limits.command_bytes_max });
        }
        let (answer, answered) = oneshot::channel();
        let pending = Pending { envelope: Envelope { request, command }, bytes, answer };
        let overloaded = || ProposeError::Overloaded { queued: self.queued(), limit: self.limits.queued_max };
        self.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => ProposeError::ShuttingDown,
        })?;
        self.queued.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout(COMMIT_TIMEOUT, answered).await;
        self.queued.fetch_sub(1, Ordering::Relaxed);
        outcome.map_or(Err(ProposeError::OutcomeUnknown), |sent| sent.unwrap_or(Err(ProposeError::OutcomeUnknown)))
    }
}

/// Roughly what a command weighs in the log: payloads, plus a flat share for the rest.
fn approximate_bytes(command: &Command) -> usize {
    match command {
        Command::Submit { groups } => groups.iter().map(|group| 64 + group.spec.weight()).sum(),
        Command::Cancel { tasks } | Command::Retry { tasks } => 16 + tasks.len() * 9,
        Command::Reports { reports, .. } => reports.len() * 40,
        Command::OpenSession(hello) => 256 + hello.held.len() * 9,
        _ => 64,
    }
}

impl Door {
    async fn run(self: Arc<Self>, mut waiting: mpsc::Receiver<Pending>, queued: Arc<AtomicUsize>, spawner: Spawner) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut held_over = None;
        let mut collected = Vec::new();
        loop {
            let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
            let batch = self.collect(&mut waiting, &mut collected, &mut held_over).await;
            if batch.is_empty() {
                return;
            }
            let Some(term) = self.leading_term() else {
                let hint = leader_hint(&self.raft);
                refuse(batch, &ProposeError::NotLeader(hint));
                continue;
            };
            let begins = self.begun_term.swap(term, Ordering::Relaxed) != term;
            let door = self.clone();
            self.metrics.proposals_queued(queued.load(Ordering::Relaxed));
            let sent = self.send(term, begins, batch).await;
            spawner.spawn(async move {
                door.complete(term, begins, sent).await;
                drop(permit);
            });
        }
    }

    /// Waits for a command and takes what else is there, up to the bounds of an entry. Empty once the door is closed.
    async fn collect(
        &self,
        waiting: &mut mpsc::Receiver<Pending>,
        collected: &mut Vec<Pending>,
        held_over: &mut Option<Pending>,
    ) -> Vec<Pending> {
        let first = match held_over.take() {
            Some(pending) => Some(pending),
            None => waiting.recv().await,
        };
        let Some(first) = first else { return Vec::new() };
        let mut bytes = first.bytes;
        collected.push(first);
        while collected.len() < self.limits.batch_commands_max {
            let Ok(next) = waiting.try_recv() else { break };
            if bytes + next.bytes > self.limits.batch_bytes_max {
                *held_over = Some(next);
                break;
            }
            bytes += next.bytes;
            collected.push(next);
        }
        std::mem::take(collected)
    }

    fn leading_term(&self) -> Option<u64> {
        led_term(&self.raft).filter(|_| self.fitness.is_fit())
    }

    fn stamp(&self, term: u64) -> Stamp {
        Stamp {
            term,
            leader: MasterId(self.id),
            time_ms: self.clock.now_ms(),
            wall_ms: self.world.clock.wall_ms(),
            entropy: self.world.entropy.next_u64(),
        }
    }

    fn opening(&self) -> Vec<Envelope> {
        let mut opening = vec![Envelope { request: None, command: Command::BeginReign }];
        if self.state.read().cluster_id().is_none() {
            let (cluster_id, limits, policy) = self.init.clone();
            opening.push(Envelope { request: None, command: Command::InitCluster { cluster_id, limits } });
            opening.push(Envelope { request: None, command: Command::SetBrakePolicy(policy) });
        }
        opening
    }

    /// Stamps, encodes and hands over. The completion is awaited elsewhere.
    async fn send(&self, term: u64, begins: bool, batch: Vec<Pending>) -> Sent {
        let mut commands = if begins { self.opening() } else { Vec::with_capacity(batch.len()) };
        let skip = commands.len();
        let mut answers = Vec::with_capacity(batch.len());
        for pending in batch {
            commands.push(pending.envelope);
            answers.push(pending.answer);
        }
        let proposal = Proposal::new(Arc::new(Batch { stamp: self.stamp(term), commands }));
        let (responder, completed) = ProgressResponder::complete_only();
        let leader = openraft::alias::CommittedLeaderIdOf::<TypeConfig>::new(term);
        let since = self.world.clock.now();
        let handed = self.raft.write(proposal).with_leader(leader).responder(responder).await;
        let handed = handed.map_err(|fatal| ProposeError::Failed(fatal.to_string()));
        Sent { answers, skip, since, completed: handed.map(|()| completed) }
    }

    async fn complete(&self, term: u64, begins: bool, sent: Sent) {
        let outcome = match sent.completed {
            Err(error) => Err(error),
            Ok(completed) => match completed.await {
                Ok(Ok(written)) => Ok(written.data),
                Ok(Err(error)) => Err(self.explain(&error)),
                Err(_) => Err(ProposeError::OutcomeUnknown),
            },
        };
        let took = self.world.clock.now() - sent.since;
        match outcome {
            Ok(replies) => {
                self.metrics.proposal_committed(sent.answers.len(), took);
                if begins {
                    self.begun.send_replace(Some((term, replies.1)));
                }
                let commands = replies.0.into_iter().skip(sent.skip);
                for (answer, reply) in sent.answers.into_iter().zip(commands) {
                    let _ = answer.send(self.answer(reply, replies.1));
                }
            }
            Err(error) => {
                if begins {
                    let _ = self.begun_term.compare_exchange(term, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
                self.metrics.proposal_failed(reason(&error));
                for answer in sent.answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn answer(&self, reply: Reply, index: u64) -> Result<Committed, ProposeError> {
        match reply {
            Reply::Rejected(Rejection::OldReign { .. }) => Err(ProposeError::NotLeader(leader_hint(&self.raft))),
            reply => Ok(Committed { reply, index }),
        }
    }

    fn explain(&self, error: &ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(_) => ProposeError::NotLeader(leader_hint(&self.raft)),
            _ => ProposeError::OutcomeUnknown,
        }
    }
}

struct Sent {
    answers: Vec<oneshot::Sender<Result<Committed, ProposeError>>>,
    skip: usize,
    since: tokio::time::Instant,
    completed: Result<
        openraft::alias::OneshotReceiverOf<TypeConfig, openraft::raft::ClientWriteResult<TypeConfig>>,
        ProposeError,
    >,
}

fn refuse(batch: Vec<Pending>, error: &ProposeError) {
    for pending in batch {
        let _ = pending.answer.send(Err(error.clone()));
    }
}

fn reason(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::NotLeader(_) => "not_leader",
        ProposeError::NoQuorum => "no_quorum",
        ProposeError::OutcomeUnknown => "outcome_unknown",
        ProposeError::Overloaded { .. } => "overloaded",
        ProposeError::TooLarge { .. } => "too_large",
        ProposeError::ShuttingDown => "shutting_down",
        ProposeError::Failed(_) => "failed",
    }
}

/// Who leads, as far as this master's Raft knows; never this master itself.
pub fn leader_hint(raft: &RaftHandle) -> Option<LeaderHint> {
    let forward = raft.as_leader().err()?;
    let id = forward.leader_id?;
    let node = forward.leader_node?;
    Some(LeaderHint { id, api: node.api, term: current_term(raft) })
}

/// The term whose office this master's Raft holds.
///
/// Read from the server metrics, as everybody who waits for a change of office does: openraft updates them before the ones
/// that `as_leader` reads, so whoever was woken by them would find the former leader there, and would never be woken again.
pub fn led_term(raft: &RaftHandle) -> Option<u64> {
    use openraft::async_runtime::WatchReceiver as _;
    let metrics = raft.server_metrics();
    let seen = metrics.borrow_watched();
    (seen.vote.committed && seen.vote.leader_id.voted_for == seen.id).then_some(seen.vote.leader_id.term)
}

/// The term that this master's Raft is in.
pub fn current_term(raft: &RaftHandle) -> u64 {
    use openraft::async_runtime::WatchReceiver as _;
    raft.server_metrics().borrow_watched().vote.leader_id.term
}

//! One master, put together: what the edge asks of the node, and what the log tells it.
//!
//! What always holds: [`Node`] answers from memory or through the door; it decides nothing. Who leads, who is a member and
//! how far the log is come from openraft's metrics and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, ServerState};
use steersman_raft_store::{ApplyObserver, Control, MasterNode, SharedState, SnapshotData};
use steersman_state::command::Command;
use steersman_state::effect::Applied;
use steersman_state::ids::RequestId;
use steersman_world::{Spawner, World};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bootstrap;
use crate::clock::ClusterClock;
use crate::config::MasterConfig;
use crate::fitness::Fitness;
use crate::leader::{Reign, Throne};
use crate::network::Peers;
use crate::observe::Metrics;
use crate::propose::{Proposer, leader_hint};
use crate::raft_service::RaftHandle;
use crate::reads::Reads;
use crate::waiters::Waiters;

pub use crate::propose::{Committed, ProposeError};

/// A leadership transfer that took longer did not happen.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);
/// A leader whose quorum answered within this is making progress. Three heartbeats of the slowest sensible setting.
pub(crate) const READY_ACK_AGE_MS: u64 = 2_000;
/// A snapshot of a very large state on a slow disk takes less.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(120);
/// A learner may be so many entries behind when it is promoted.
const PROMOTE_LAG_MAX: u64 = 1_000;
/// Waiting for a leader: at least so long, and at most twice as long. About one election.
const ELECTION_WAIT_MS: u64 = 100;

/// Where the leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its id.
    pub id: u64,
    /// Its API listener.
    pub api: String,
    /// Its term.
    pub term: u64,
}

/// A master and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberAddr {
    /// Its id.
    pub id: u64,
    /// For clients and workers.
    pub api: String,
    /// For other masters.
    pub raft: String,
    /// For metrics and probes.
    pub http: String,
}

/// Who leads, in which term.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderView {
    /// The newest term seen.
    pub term: u64,
    /// Absent while there is none.
    pub leader: Option<MemberAddr>,
    /// All members, with their addresses.
    pub members: Vec<MemberAddr>,
}

/// A member of the cluster, as this master sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Who.
    pub addr: MemberAddr,
    /// Votes; a learner does not.
    pub voter: bool,
    /// Leads.
    pub leader: bool,
    /// How far its log is, where known (by the leader).
    pub matched_index: Option<u64>,
    /// Since it last answered, where known (by the leader), in ms.
    pub ack_age_ms: Option<u64>,
}

/// What this master is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Receives the log without a vote.
    Learner,
    /// Not a member of anything yet.
    Starting,
}

/// What this master knows without asking anybody.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// What it is.
    pub role: Role,
    /// The newest term seen.
    pub term: u64,
    /// Who leads.
    pub leader: Option<MemberAddr>,
    /// Everybody.
    pub members: Vec<MemberView>,
    /// Log index of the local state.
    pub applied: u64,
    /// Known to be committed.
    pub committed: u64,
    /// Last entry in the local log.
    pub last_log: u64,
    /// Last entry in the local snapshot.
    pub snapshot: u64,
    /// Leader: since a quorum last answered. Others: since the leader was last heard. In ms.
    pub quorum_ack_age_ms: u64,
    /// For how long the write that is under way has been going on, in ms; 0 while none is.
    pub disk_write_ms: u64,
    /// The disk has stalled: this master does not lead.
    pub disk_stalled: bool,
    /// A leader with a recent quorum is known, and the disk writes.
    pub ready: bool,
    /// Since this process started.
    pub uptime_ms: u64,
}

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadStamp {
    /// Log index of the state that is read.
    pub applied_index: u64,
    /// At most so old, in ms.
    pub age_ms: u64,
    /// Not confirmed with a quorum.
    pub stale: bool,
}

/// Why a change of the membership was not made.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The moment's error.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// No such master.
    #[error("no such master: {0}")]
    NotFound(u64),
    /// Not now, or not so.
    #[error("{0}")]
    Refused(String),
}

/// What the log tells this master: wakes readers, waiters, and the outbox of the reign.
pub struct Listening {
    applied: watch::Sender<u64>,
    clock: Arc<ClusterClock>,
    waiters: Arc<Waiters>,
    throne: Throne,
    heard: parking_lot::Mutex<Option<Instant>>,
    world: World,
}

impl Listening {
    /// Nothing heard yet.
    pub fn new(world: World, clock: Arc<ClusterClock>, waiters: Arc<Waiters>, throne: Throne) -> Arc<Self> {
        let (applied, heard) = (watch::Sender::new(0), parking_lot::Mutex::default());
        Arc::new(Self { applied, clock, waiters, throne, heard, world })
    }

    /// Follows the log index of the local state.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// An append or heartbeat of the leader was accepted just now.
    pub fn leader_heard(&self) {
        *self.heard.lock() = Some(self.world.clock.now());
    }
}

impl ApplyObserver for Listening {
    fn applied(&self, index: u64, term: u64, applied: &Applied) {
        self.clock.observe(applied.time_ms);
        if let Some(reign) = self.throne.reign()
            && reign.term == term
        {
            reign.post(&applied.effects);
            reign.count(&applied.events);
        }
        self.waiters.observe(&applied.events);
        self.applied.send_replace(index);
    }

    fn installed(&self, index: u64) {
        tracing::info!(index, "took over a snapshot of another master");
        self.waiters.installed();
        self.applied.send_replace(index);
    }
}

/// When a quorum last confirmed this master's office. Cheap to clone.
#[derive(Clone)]
pub struct QuorumClock(RaftHandle);

impl QuorumClock {
    /// Of this master's Raft.
    pub fn new(raft: RaftHandle) -> Self {
        Self(raft)
    }

    /// Since a quorum was ASKED what it has answered since; zero for the only voter; none if this master does not lead.
    pub fn age(&self) -> Option<Duration> {
        let metrics = self.0.metrics();
        let alone = metrics.borrow_watched().membership_config.membership().voter_ids().count() == 1;
        if alone {
            return self.0.is_leader().then_some(Duration::ZERO);
        }
        let asked = self.0.data_metrics().borrow_watched().last_quorum_acked;
        asked.map(|at| at.into_inner().elapsed())
    }
}

/// One master. Used as `Arc<Node>`.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// What it was told at its start.
    pub config: Arc<MasterConfig>,
    /// Clocks, randomness, network.
    pub world: World,
    /// The truth.
    pub state: SharedState,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Callers that wait for tasks.
    pub waiters: Arc<Waiters>,
    pub(crate) raft: RaftHandle,
    pub(crate) proposer: Proposer,
    pub(crate) reads: Reads,
    pub(crate) peers: Peers,
    pub(crate) throne: Throne,
    pub(crate) listening: Arc<Listening>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) leader: watch::Receiver<LeaderView>,
    pub(crate) started: Instant,
    pub(crate) down: CancellationToken,
    pub(crate) store: OnceLock<Control>,
    pub(crate) fitness: Fitness,
    pub(crate) raft_spawner: Spawner,
}

fn member_addr(id: u64, node: &MasterNode) -> MemberAddr {
    MemberAddr { id, api: node.api.clone(), raft: node.raft.clone(), http: node.http.clone() }
}

impl Node {
    /// Proposes a command through the one door and waits until it is applied here. Leader only.
    ///
    /// # Errors
    /// [`ProposeError`]: the moment's; retry with the same request id.
    pub async fn propose(&self, request: Option<RequestId>, command: Command) -> Result<Committed, ProposeError> {
        if self.shutting_down() {
            return Err(ProposeError::ShuttingDown);
        }
        self.proposer.propose(request, command).await
    }

    /// Returns when the local state may be read.
    ///
    /// # Errors
    /// If a linearizable read can't be confirmed now.
    pub async fn read(&self, stale: bool) -> Result<ReadStamp, ProposeError> {
        if stale {
            let applied_index = *self.listening.applied().borrow();
            return Ok(ReadStamp { applied_index, age_ms: self.quorum_age_ms(), stale });
        }
        let applied_index = self.reads.linearizable().await?;
        Ok(ReadStamp { applied_index, age_ms: 0, stale })
    }

    /// Who leads, unless it is this master.
    pub fn leader_hint(&self) -> Option<LeaderHint> {
        leader_hint(&self.raft)
    }

    /// Waits a jittered moment until a leader shows itself. `None` if none did, or if it is this master.
    pub async fn await_leader(&self) -> Option<LeaderHint> {
        let wait = ELECTION_WAIT_MS + self.world.entropy.below(ELECTION_WAIT_MS);
        let mut leader = self.leader_watch();
        let shown = leader.wait_for(|view| view.leader.is_some());
        let _ = tokio::time::timeout(Duration::from_millis(wait), shown).await;
        self.leader_hint()
    }

    /// Log index of the newest membership that this master has in its log. `None` before there is one.
    pub fn membership_index(&self) -> Option<u64> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        seen.membership_config.log_id().as_ref().map(|id| id.index)
    }

    /// Follows who leads. This master shows itself only once its reign has begun.
    pub fn leader_watch(&self) -> watch::Receiver<LeaderView> {
        self.leader.clone()
    }

    /// Follows the log index of the local state.
    pub fn applied_watch(&self) -> watch::Receiver<u64> {
        self.listening.applied()
    }

    /// The id that this cluster got at its birth, or its configured name before that.
    pub fn cluster_id(&self) -> String {
        self.state.read().cluster_id().map_or_else(|| self.config.cluster.clone(), str::to_owned)
    }

    /// Some only on a leader whose state has caught up.
    pub fn reign(&self) -> Option<Arc<Reign>> {
        self.throne.reign()
    }

    /// Cluster time now, in ms.
    pub fn cluster_time_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Commands that wait at the door or are on their way.
    pub fn proposals_queued(&self) -> usize {
        self.proposer.queued()
    }

    /// The store under this node, for figures and snapshots.
    pub fn store(&self) -> Option<&Control> {
        self.store.get()
    }

    /// A snapshot with everything that is applied here now, in the form in which it is kept on disk.
    ///
    /// # Errors
    /// If none was built within [`SNAPSHOT_TIMEOUT`], or the disk fails.
    pub async fn fresh_snapshot(&self) -> Result<SnapshotData, String> {
        let wanted = *self.listening.applied().borrow();
        let built = tokio::time::timeout(SNAPSHOT_TIMEOUT, self.build_snapshot(wanted)).await;
        built.map_err(|_| format!("no snapshot was built within {SNAPSHOT_TIMEOUT:?}"))??;
        let store = self.store().ok_or("this master is still starting")?;
        let newest = store.snapshot().await.map_err(|error| error.to_string())?;
        newest.map(|newest| newest.snapshot).ok_or_else(|| "there is no snapshot".to_owned())
    }

    async fn build_snapshot(&self, wanted: u64) -> Result<(), String> {
        let mut metrics = self.raft.metrics();
        while metrics.borrow_watched().snapshot.is_none_or(|built| built.index < wanted) {
            // Asking while one is being built changes nothing: so it is repeated until there is one.
            self.raft.trigger().snapshot().await.map_err(|fatal| fatal.to_string())?;
            let changed = tokio::time::timeout(Duration::from_millis(100), metrics.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Err("Raft does not run".to_owned());
            }
        }
        Ok(())
    }

    /// A cached channel to another master's API listener.
    pub fn peer_channel(&self, api: &str) -> tonic::transport::Channel {
        self.peers.channel_to(api)
    }

    /// Forgets a channel that timed out.
    pub fn drop_peer_channel(&self, api: &str) {
        self.peers.drop_control(api);
    }

    /// True once this master is on its way down.
    pub fn shutting_down(&self) -> bool {
        self.down.is_cancelled()
    }

    /// Resolves when this master goes down.
    pub async fn going_down(&self) {
        self.down.cancelled().await;
    }

    /// Runs a task beside Raft, where nothing that is slow delays it.
    pub(crate) fn spawn_raft(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.raft_spawner.spawn(task);
    }

    /// Tells when a quorum last confirmed this master's office.
    pub fn quorum_clock(&self) -> QuorumClock {
        QuorumClock::new(self.raft.clone())
    }

    pub(crate) fn quorum_age_ms(&self) -> u64 {
        if self.raft.is_leader() {
            let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked;
            return acked.map_or(u64::MAX, |at| at.into_inner().elapsed().as_millis() as u64);
        }
        let heard = *self.listening.heard.lock();
        heard.map_or(u64::MAX, |at| self.world.clock.now().saturating_duration_since(at).as_millis() as u64)
    }

    /// What this master knows without asking anybody.
    pub fn status(&self) -> NodeStatus {
        let seen = self.raft.metrics().borrow_watched().clone();
        let members = members(&seen);
        let member = members.iter().any(|member| member.addr.id == self.id);
        let quorum_ack_age_ms = self.quorum_age_ms();
        let recent = quorum_ack_age_ms <= READY_ACK_AGE_MS;
        let leads = seen.state == ServerState::Leader;
        // A follower whose leader died goes on naming it until there is another: after a while that is no leader.
        let leader = members.iter().find(|member| member.leader && (leads || recent));
        let leader = leader.map(|member| member.addr.clone());
        let disk_stalled = self.fitness.disk_stalled();
        let ready = leader.is_some() && recent && !disk_stalled && (!leads || self.reign().is_some());
        let writing = self.store().map_or(Duration::ZERO, |store| store.metrics().stalled_for());
        NodeStatus {
            disk_write_ms: writing.as_millis() as u64,
            disk_stalled,
            role: role(seen.state, member),
            term: seen.current_term,
            leader,
            members,
            applied: *self.listening.applied().borrow(),
            committed: seen.cluster_committed.map_or(0, |id| id.index),
            last_log: seen.last_log_index.unwrap_or(0),
            snapshot: seen.snapshot.map_or(0, |id| id.index),
            quorum_ack_age_ms,
            ready: ready && !self.shutting_down(),
            uptime_ms: (self.world.clock.now() - self.started).as_millis() as u64,
        }
    }

    /// Hands leadership to `to`, or to the follower whose log is furthest.
    ///
    /// # Errors
    /// If this master does not lead, `to` is no voter, or nobody took over in time.
    pub async fn transfer(&self, to: Option<u64>) -> Result<(LeaderHint, Duration), MemberError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(ProposeError::NotLeader(self.leader_hint()).into());
        }
        let to = choose_heir(self.id, &status.members, to)?;
        let since = self.world.clock.now();
        self.raft.trigger().transfer_leader(to).await.map_err(|fatal| ProposeError::Failed(fatal.to_string()))?;
        let mut leader = self.leader.clone();
        let taken = leader.wait_for(|view| view.leader.as_ref().is_some_and(|leader| leader.id != self.id));
        let view = tokio::time::timeout(TRANSFER_TIMEOUT, taken).await;
        let new = match view {
            Ok(Ok(view)) => {
                view.leader.clone().map(|leader| LeaderHint { id: leader.id, api: leader.api, term: view.term })
            }
            _ => None,
        };
        let took = self.world.clock.now() - since;
        if let Some(other) = new.as_ref().filter(|leader| leader.id != to) {
            return Err(MemberError::Refused(format!("master {} took over instead of master {to}", other.id)));
        }
        new.map(|leader| (leader, took))
            .ok_or_else(|| MemberError::Refused(format!("master {to} did not take over within {TRANSFER_TIMEOUT:?}")))
    }

    /// Adds a master as a learner, or corrects the addresses of a member.
    ///
    /// # Errors
    /// If this master does not lead, another change is under way, or the new one can't be reached.
    pub async fn add_master(&self, master: MemberAddr) -> Result<u64, MemberError> {
        self.require_reign()?;
        self.peers.learn(master.id, &master.raft);
        let store = bootstrap::store_of(&self.peers, master.id).await.map_err(MemberError::Refused)?;
        let MemberAddr { id, api, raft, http } = master;
        let known = self.raft.metrics().borrow_watched().membership_config.membership().get_node(&id).cloned();
        if known.is_some_and(|known| known.store != store) {
            let what = format!("master {id} was a member with other data: ids are never used again, choose a new one");
            return Err(MemberError::Refused(what));
        }
        let node = MasterNode { api, raft, http, store };
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true).await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// If it is no member, too far behind, or another change is under way.
    pub async fn promote_master(&self, id: u64) -> Result<u64, MemberError> {
        self.require_reign()?;
        let status = self.status();
        let member = find(&status.members, id)?;
        let lag = status.last_log.saturating_sub(member.matched_index.unwrap_or(0));
        if !member.voter && lag > PROMOTE_LAG_MAX {
            let what = format!("master {id} is {lag} entries behind, at most {PROMOTE_LAG_MAX} are allowed: wait");
            return Err(MemberError::Refused(what));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// Removes a master, voter or learner.
    ///
    /// # Errors
    /// If it is no member, leads, is the last voter, or another change is under way.
    pub async fn remove_master(&self, id: u64) -> Result<u64, MemberError> {
        self.require_reign()?;
        let status = self.status();
        let member = find(&status.members, id)?;
        let voters = status.members.iter().filter(|member| member.voter).count();
        if id == self.id {
            let what = format!("master {id} leads: hand over first with: steersman master step-down");
            return Err(MemberError::Refused(what));
        }
        if member.voter && voters <= 1 {
            return Err(MemberError::Refused(format!("master {id} is the last voter")));
        }
        let change = if member.voter {
            ChangeMembers::RemoveVoters(BTreeSet::from([id]))
        } else {
            ChangeMembers::RemoveNodes(BTreeSet::from([id]))
        };
        self.change(change, false).await
    }

    fn require_reign(&self) -> Result<(), MemberError> {
        match self.reign() {
            Some(_) => Ok(()),
            None => Err(ProposeError::NotLeader(self.leader_hint()).into()),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, MasterNode>, retain: bool) -> Result<u64, MemberError> {
        use openraft::error::{ClientWriteError, RaftError};
        match self.raft.change_membership(change, retain).await {
            Ok(written) => Ok(written.log_id.index),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeError::NotLeader(self.leader_hint()).into())
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(MemberError::Refused(error.to_string()))
            }
            Err(RaftError::APIError(_)) => Err(ProposeError::OutcomeUnknown.into()),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Failed(fatal.to_string()).into()),
        }
    }
}

type RaftFigures = openraft::RaftMetrics<steersman_raft_store::TypeConfig>;

fn members(seen: &RaftFigures) -> Vec<MemberView> {
    let membership = seen.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let matched =
        |id: &u64| seen.replication.as_ref().and_then(|all| all.get(id).cloned().flatten()).map(|log| log.index);
    let age = |id: &u64| {
        let acked = seen.heartbeat.as_ref()?.get(id)?.as_ref()?;
        Some(acked.into_inner().elapsed().as_millis() as u64)
    };
    let view = |(id, node): (&u64, &MasterNode)| MemberView {
        addr: member_addr(*id, node),
        voter: voters.contains(id),
        leader: seen.current_leader == Some(*id),
        matched_index: matched(id),
        ack_age_ms: age(id),
    };
    membership.nodes().map(view).collect()
}

fn role(state: ServerState, member: bool) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner if member => Role::Learner,
        _ => Role::Starting,
    }
}

fn find(members: &[MemberView], id: u64) -> Result<&MemberView, MemberError> {
    members.iter().find(|member| member.addr.id == id).ok_or(MemberError::NotFound(id))
}

/// A master that was silent for a while can't take over.
fn answers(member: &MemberView) -> Result<(), MemberError> {
    let id = member.addr.id;
    match member.ack_age_ms {
        Some(age) if age <= READY_ACK_AGE_MS => Ok(()),
        Some(age) => Err(MemberError::Refused(format!("master {id} has not answered for {age} ms"))),
        None => Err(MemberError::Refused(format!("master {id} does not answer"))),
    }
}

pub(crate) fn choose_heir(me: u64, members: &[MemberView], to: Option<u64>) -> Result<u64, MemberError> {
    match to {
        Some(to) if to == me => Err(MemberError::Refused(format!("master {to} leads already"))),
        Some(to) if find(members, to)?.voter => answers(find(members, to)?).map(|()| to),
        Some(to) => Err(MemberError::Refused(format!("master {to} is a learner: promote it first"))),
        None => members
            .iter()
            .filter(|member| member.voter && member.addr.id != me && answers(member).is_ok())
            .max_by_key(|member| (member.matched_index, std::cmp::Reverse(member.ack_age_ms)))
            .map(|member| member.addr.id)
            .ok_or_else(|| MemberError::Refused("there is no other voter that answers".to_owned())),
    }
}

/// Keeps the view of who leads: openraft's word, except that this master shows itself only once its reign has begun.
pub(crate) async fn watch_leader(
    raft: RaftHandle,
    id: u64,
    throne: Throne,
    peers: Peers,
    view: watch::Sender<LeaderView>,
) {
    let mut metrics = raft.server_metrics();
    let mut reign = throne.watch();
    let mut told = BTreeMap::new();
    loop {
        let now = {
            let seen = metrics.borrow_watched();
            let members: Vec<MemberAddr> =
                seen.membership_config.nodes().map(|(id, node)| member_addr(*id, node)).collect();
            let term = seen.vote.leader_id.term;
            let seated = reign.borrow_and_update().as_ref().is_some_and(|reign| reign.term == term);
            let leader = seen.current_leader.filter(|leader| *leader != id || seated);
            let leader = leader.and_then(|leader| members.iter().find(|member| member.id == leader).cloned());
            LeaderView { term, leader, members }
        };
        for member in now.members.iter().filter(|member| member.id != id) {
            // Once for each change: what is told again would push aside an address that was found to work.
            if told.get(&member.id) != Some(&member.raft) {
                peers.learn(member.id, &member.raft);
                told.insert(member.id, member.raft.clone());
            }
        }
        view.send_if_modified(|old| {
            let changed = *old != now;
            *old = now.clone();
            changed
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = reign.changed() => if changed.is_err() { return },
        }
    }
}

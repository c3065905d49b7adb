//! How a master finds out whether it may take part: before a blank one votes or acknowledges anything, it asks the others.
//!
//! What always holds: a cluster is formed only when all initial masters are blank and have seen each other; a master
//! whose id is known under another data directory is refused, for it has lost votes and entries it once vouched for
//! (promise P13). Until the question is settled the gate is shut: peers get an answer to a probe and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use steersman_proto::raft::v1 as pb;
use steersman_proto::v1::AddMasterRequest;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_raft_store::MasterNode;
use tokio::sync::watch;

use crate::exit::NodeError;
use crate::network::Peers;
use crate::node::{MemberAddr, Node};
use crate::raft_service::RaftHandle;
use crate::wire;

/// Between rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// One answer takes no longer on a LAN, a busy machine included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the waiting is told in the log.
const TELL_EVERY: u32 = 50;

/// Whether peers may talk Raft to this master yet.
#[derive(Clone, Default)]
pub struct Gate {
    open: Arc<AtomicBool>,
    foreign: watch::Sender<Option<String>>,
}

impl Gate {
    /// Lets peers in.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// True once peers may talk Raft.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// A peer knows master `id` under another data directory: nobody is let in any more.
    pub fn shut_out(&self, id: u64, peer: u64) {
        self.open.store(false, Ordering::Release);
        self.foreign.send_replace(Some(new_data(id, peer)));
    }

    /// Waits until that is so, and says it.
    pub async fn shut_out_by_peers(&self) -> String {
        let mut foreign = self.foreign.subscribe();
        let told = foreign.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        match told {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}

fn new_data(id: u64, peer: u64) -> String {
    format!(
        "master {id} is a member of this cluster (says master {peer}), but its data directory is new: what it once \
         acknowledged is lost. Remove master {id} and add this one under an id that was never used"
    )
}

/// This master, as it introduces itself.
#[derive(Debug, Clone)]
pub struct Myself {
    /// Its id.
    pub id: u64,
    /// Its addresses and the id of its data directory.
    pub node: MasterNode,
}

impl Myself {
    /// The question that a blank master asks.
    pub fn probe(&self, peers: &Peers, to: u64) -> pb::ProbeRequest {
        let address = Some(wire::node_out(self.id, &self.node));
        pb::ProbeRequest { header: Some(peers.header(to)), self_: address, store: self.node.store.clone() }
    }
}

/// Settles whether this master takes part, and opens the gate. `blank`: its data directory holds no vote and no log.
///
/// # Errors
/// If its id is known under another data directory, or the cluster exists without it.
pub async fn settle(
    myself: &Myself,
    initial: &BTreeMap<u64, MasterNode>,
    (blank, join): (bool, bool),
    raft: &RaftHandle,
    peers: &Peers,
    gate: &Gate,
) -> Result<(), NodeError> {
    if blank && !join {
        tokio::select! {
            formed = form(myself, initial, raft, peers) => formed?,
            told = gate.shut_out_by_peers() => return Err(NodeError::Foreign(told)),
        }
    }
    gate.open();
    Ok(())
}

async fn form(
    myself: &Myself,
    initial: &BTreeMap<u64, MasterNode>,
    raft: &RaftHandle,
    peers: &Peers,
) -> Result<(), NodeError> {
    let mut round = 0_u32;
    loop {
        let answers = ask_all(myself, initial, peers).await;
        if let Some((peer, answer)) = answers.iter().find(|(_, answer)| answer.initialized) {
            return recognised(myself, *peer, answer);
        }
        let waiting: Vec<u64> =
            initial.keys().copied().filter(|id| *id != myself.id && !answers.contains_key(id)).collect();
        if waiting.is_empty() {
            return initialize(myself, initial, &answers, raft).await;
        }
        if round.is_multiple_of(TELL_EVERY) {
            tracing::info!(?waiting, "waiting for the other initial masters: the first start needs all of them");
        }
        round = round.wrapping_add(1);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// An existing cluster: does it know this very data directory?
fn recognised(myself: &Myself, peer: u64, answer: &pb::ProbeResponse) -> Result<(), NodeError> {
    let id = myself.id;
    let known = answer.members.iter().find(|member| member.address.as_ref().is_some_and(|address| address.id == id));
    match known {
        Some(member) if member.store == myself.node.store => Ok(()),
        Some(_) => Err(NodeError::Foreign(new_data(id, peer))),
        None => Err(NodeError::Foreign(format!(
            "the cluster exists (says master {peer}) and master {id} is not a member of it. Start it with join = true and \
             add it: steersman master add {id}"
        ))),
    }
}

async fn ask_all(
    myself: &Myself,
    initial: &BTreeMap<u64, MasterNode>,
    peers: &Peers,
) -> BTreeMap<u64, pb::ProbeResponse> {
    let others = initial.keys().copied().filter(|id| *id != myself.id);
    let asked = others.map(|id| async move { (id, ask(myself, id, peers).await) });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().filter_map(|(id, answer)| answer.map(|answer| (id, answer))).collect()
}

async fn ask(myself: &Myself, id: u64, peers: &Peers) -> Option<pb::ProbeResponse> {
    let address = peers.raft_address(id)?;
    let mut client = peers.control(&address);
    match tokio::time::timeout(ANSWER_TIMEOUT, client.probe(myself.probe(peers, id))).await {
        Ok(Ok(answer)) => Some(answer.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(peer = id, address, %status, "no answer to a probe");
            peers.drop_control(&address);
            None
        }
        Err(_) => {
            peers.drop_control(&address);
            None
        }
    }
}

/// Everybody is blank and has seen everybody: the lowest id writes the first membership, the others receive it.
async fn initialize(
    myself: &Myself,
    initial: &BTreeMap<u64, MasterNode>,
    answers: &BTreeMap<u64, pb::ProbeResponse>,
    raft: &RaftHandle,
) -> Result<(), NodeError> {
    if initial.keys().next() != Some(&myself.id) {
        return Ok(());
    }
    let members: BTreeMap<u64, MasterNode> = initial
        .iter()
        .map(|(id, node)| {
            let store = answers.get(id).map_or(&myself.node.store, |answer| &answer.store);
            (*id, MasterNode { store: store.clone(), ..node.clone() })
        })
        .collect();
    tracing::info!(masters = ?members.keys(), "forming the cluster");
    raft.initialize(members).await.map_err(|error| NodeError::Raft(format!("forming the cluster: {error}")))
}

/// Asks a master for the id of its data directory.
///
/// # Errors
/// Says where it was looked for and what came back.
pub async fn store_of(peers: &Peers, id: u64) -> Result<String, String> {
    let address = peers.raft_address(id).ok_or_else(|| format!("no address of master {id} is known"))?;
    let probe = pb::ProbeRequest { header: Some(peers.header(id)), self_: None, store: String::new() };
    let mut client = peers.control(&address);
    match tokio::time::timeout(ANSWER_TIMEOUT, client.probe(probe)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().store),
        Ok(Err(status)) => Err(format!("master {id} does not answer at {address}: {}", status.message())),
        Err(_) => Err(format!("master {id} does not answer at {address} within {ANSWER_TIMEOUT:?}")),
    }
}

/// Tells the leader, now and after each change of leader, where this member is, if the membership says otherwise: a
/// member is its id and its data, not its address.
pub async fn announce(myself: Myself, node: Arc<Node>) {
    let mut leader = node.leader_watch();
    loop {
        let view = leader.borrow_and_update().clone();
        if let Some(leader) = view.leader
            && moved(&myself, &node)
        {
            tracing::info!(leader = leader.id, "telling the leader this master's new addresses");
            if let Err(error) = tell(&myself, &node, &leader).await {
                tracing::warn!(%error, "the new addresses were not taken; trying again");
                tokio::time::sleep(ASK_EVERY * 5).await;
                continue;
            }
        }
        if leader.changed().await.is_err() {
            return;
        }
    }
}

/// A member whose addresses in the membership are not those it advertises.
fn moved(myself: &Myself, node: &Node) -> bool {
    let members = node.status().members;
    let known = members.iter().find(|member| member.addr.id == myself.id);
    known.is_some_and(|known| {
        (&known.addr.api, &known.addr.raft, &known.addr.http)
            != (&myself.node.api, &myself.node.raft, &myself.node.http)
    })
}

/// Told to whom the vote says: a leader that does not know where this member is cannot be heard by it either.
async fn tell(myself: &Myself, node: &Node, leader: &MemberAddr) -> Result<(), String> {
    let MasterNode { api, raft, http, .. } = myself.node.clone();
    let master = MemberAddr { id: myself.id, api, raft, http };
    if leader.id == myself.id {
        return node.add_master(master).await.map(drop).map_err(|error| error.to_string());
    }
    let address = Some(wire::node_out(myself.id, &myself.node));
    let mut client = ClusterClient::new(node.peer_channel(&leader.api));
    client
        .add_master(AddMasterRequest { master: address })
        .await
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

/// What this master answers to a probe.
pub fn answer(store: &str, raft: &RaftHandle) -> pb::ProbeResponse {
    let metrics = raft.server_metrics();
    let seen = metrics.borrow_watched();
    let members: Vec<pb::Node> = seen.membership_config.nodes().map(|(id, node)| wire::member_out(*id, node)).collect();
    pb::ProbeResponse {
        store: store.to_owned(),
        initialized: !members.is_empty(),
        term: seen.vote.leader_id.term,
        leader: seen.current_leader.unwrap_or(0),
        members,
    }
}

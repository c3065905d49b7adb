//! A master without listeners: the node, its door, its reigns and its Raft over a network that the caller brings.
//!
//! For the fast simulation, which runs several masters in one thread and carries their messages itself. What always holds:
//! everything but listeners and peers' connections is put together as [`crate::start`] does it. It does not find out by
//! itself whether a blank master may take part: whoever opens it forms the cluster or adds the master.

use std::sync::Arc;

use openraft::network::{NetSnapshot, RaftNetworkFactory};
use steersman_raft_store::{ApplyObserver, Control, SnapshotData, StoreError, TypeConfig};
use steersman_state::effect::Applied;
use steersman_world::World;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::MasterConfig;
use crate::exit::NodeError;
use crate::network::Peers;
use crate::node::{Listening, Node};
use crate::start::{Parts, Surroundings, new_raft};
use crate::{fitness, takeover};

pub use crate::propose::led_term;
pub use crate::raft_service::RaftHandle;
pub use crate::reads::AskLeader;
pub use crate::wire::lacks_purged;

/// A master that runs.
pub struct Bare {
    /// The node itself.
    pub node: Arc<Node>,
    /// Its Raft.
    pub raft: RaftHandle,
    /// Its store.
    pub control: Control,
    /// Id of its data directory, as the membership knows it.
    pub store_id: String,
    /// `Some` once the store has failed: the process would end.
    pub failed: watch::Receiver<Option<Arc<StoreError>>>,
    listening: Arc<Listening>,
}

/// Opens the store and starts the master. `network` carries Raft's messages, `ask` the questions for a read index,
/// `watcher` hears of every applied entry after the node itself did.
///
/// # Errors
/// [`NodeError`] if the configuration or the data refuse.
pub async fn open<N>(
    config: MasterConfig,
    world: World,
    surroundings: Surroundings,
    network: N,
    ask: Arc<dyn AskLeader>,
    watcher: Arc<dyn ApplyObserver>,
) -> Result<Bare, NodeError>
where
    N: RaftNetworkFactory<TypeConfig>,
    N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
{
    let parts = Parts::new(config, world, surroundings)?;
    let listening = parts.listening.clone();
    let store = parts.open_store(Arc::new(Both { listening: listening.clone(), watcher })).await?;
    let (state, failed, control) = (store.state.clone(), store.failed(), store.control.clone());
    let store_id = format!("{:032x}", store.identity.record().store_id);
    parts.clock.observe(state.read().time_ms());
    let (config, raft_spawner) = (parts.config.clone(), parts.surroundings.raft.clone());
    let raft = new_raft(&config, network, store, &raft_spawner).await?;
    let peers = Peers::new(config.cluster.clone(), config.node_id, &parts.world, control.clone());
    for entry in config.masters.iter().filter(|entry| entry.id != config.node_id) {
        peers.learn(entry.id, &entry.raft);
    }
    let node = parts.node(raft.clone(), state, (peers.clone(), ask), CancellationToken::new());
    let _ = node.store.set(control.clone());
    if config.raft.fast_takeover {
        takeover::watch(&node, &raft_spawner);
    }
    fitness::start(&node, &control, &raft_spawner);
    Ok(Bare { node, raft, control, store_id, failed, listening })
}

impl Bare {
    /// An append or heartbeat of this leader was accepted just now.
    pub fn leader_heard(&self, leader: u64) {
        self.listening.leader_heard();
        self.node.peers.elections().heard(leader);
    }
}

/// The node first, then whoever watches.
struct Both {
    listening: Arc<Listening>,
    watcher: Arc<dyn ApplyObserver>,
}

impl ApplyObserver for Both {
    fn applied(&self, index: u64, term: u64, applied: &Applied) {
        ApplyObserver::applied(&*self.listening, index, term, applied);
        self.watcher.applied(index, term, applied);
    }

    fn installed(&self, index: u64) {
        self.listening.installed(index);
        self.watcher.installed(index);
    }
}

//! Linearizable reads on any master, by read index.
//!
//! What always holds: a read is answered from a state that contains everything that was acknowledged before the read
//! began. Reads that wait at the same time share one confirmation, but only one that starts after they arrived. Leases
//! are not used: they are unsafe after a restart or a frozen process.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::ReadPolicy;
use openraft::error::{LinearizableReadError, RaftError};
use steersman_proto::raft::v1 as pb;
use steersman_raft_store::TypeConfig;
use steersman_world::Spawner;
use tokio::sync::{mpsc, oneshot, watch};

use crate::network::Peers;
use crate::node::LeaderHint;
use crate::propose::{ProposeError, leader_hint};
use crate::raft_service::RaftHandle;

/// Reads that wait for a confirmation at most; more are told to come back.
const WAITING_MAX: usize = 10_000;
/// Longer than an election, shorter than a client's patience.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(1_500);
/// After a confirmation the local state normally follows within a heartbeat.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);

type Answer = oneshot::Sender<Result<u64, ProposeError>>;

/// Where reads stand in line. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    queue: mpsc::Sender<Answer>,
    applied: watch::Receiver<u64>,
}

/// Asks the leader, at another master, for a read index.
pub trait AskLeader: Send + Sync + 'static {
    /// The index that a read which began after this call must see.
    fn read_index(&self, leader: LeaderHint) -> BoxFuture<'_, Result<u64, ProposeError>>;
}

struct Confirmer {
    raft: RaftHandle,
    leader: Arc<dyn AskLeader>,
}

impl Reads {
    /// Starts the confirmer on `spawner`; `applied` is the log index of the local state.
    pub fn start(
        raft: RaftHandle,
        leader: Arc<dyn AskLeader>,
        applied: watch::Receiver<u64>,
        spawner: &Spawner,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        spawner.spawn(Arc::new(Confirmer { raft, leader }).run(waiting));
        Self { queue, applied }
    }

    /// Returns once the local state may be read, with its index.
    pub async fn linearizable(&self) -> Result<u64, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(answer).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded { queued: WAITING_MAX, limit: WAITING_MAX },
            mpsc::error::TrySendError::Closed(_) => ProposeError::ShuttingDown,
        })?;
        let index = answered.await.unwrap_or(Err(ProposeError::NoQuorum))?;
        let mut applied = self.applied.clone();
        let caught_up = tokio::time::timeout(APPLY_TIMEOUT, applied.wait_for(|applied| *applied >= index)).await;
        match caught_up {
            Ok(Ok(applied)) => Ok(*applied),
            Ok(Err(_)) => Err(ProposeError::ShuttingDown),
            Err(_) => Err(ProposeError::NoQuorum),
        }
    }
}

impl AskLeader for Peers {
    fn read_index(&self, leader: LeaderHint) -> BoxFuture<'_, Result<u64, ProposeError>> {
        Box::pin(async move {
            let Some(address) = self.raft_address(leader.id) else { return Err(ProposeError::NotLeader(Some(leader))) };
            let request = pb::ReadIndexRequest { header: Some(self.header(leader.id)) };
            let mut client = self.control(&address);
            match tokio::time::timeout(CONFIRM_TIMEOUT, client.read_index(request)).await {
                Ok(Ok(answer)) => Ok(answer.into_inner().index),
                Ok(Err(status)) => {
                    tracing::debug!(%status, leader = leader.id, "the leader did not confirm a read");
                    Err(ProposeError::NoQuorum)
                }
                Err(_) => {
                    self.drop_control(&address);
                    Err(ProposeError::NoQuorum)
                }
            }
        })
    }
}

impl Confirmer {
    async fn run(self: Arc<Self>, mut waiting: mpsc::Receiver<Answer>) {
        let mut readers = Vec::new();
        while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
            let outcome = self.confirm().await;
            for reader in readers.drain(..) {
                let _ = reader.send(outcome.clone());
            }
        }
    }

    async fn confirm(&self) -> Result<u64, ProposeError> {
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("read-without-index") {
            return Ok(0);
        }
        if self.raft.is_leader() {
            return self.confirm_here().await;
        }
        let Some(hint) = leader_hint(&self.raft) else { return Err(ProposeError::NotLeader(None)) };
        self.leader.read_index(hint).await
    }

    async fn confirm_here(&self) -> Result<u64, ProposeError> {
        let confirmed = tokio::time::timeout(CONFIRM_TIMEOUT, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match confirmed {
            Ok(Ok((read, _))) => Ok(read.index()),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(ProposeError::NoQuorum),
        }
    }

    fn explain(&self, error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ProposeError {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => {
                ProposeError::NotLeader(leader_hint(&self.raft))
            }
            RaftError::APIError(_) => ProposeError::NoQuorum,
            RaftError::Fatal(fatal) => ProposeError::Failed(fatal.to_string()),
        }
    }
}

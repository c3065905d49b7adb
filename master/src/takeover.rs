//! Fast takeover: a follower that sees its leader's process die asks for votes at once instead of waiting for timers.
//!
//! A follower holds a bare TCP connection to its leader's Raft listener. When the connection breaks *and* the next
//! connect is refused, the process is dead while its host lives. The follower then hands itself what it would receive in
//! a leadership transfer: this drops its lease and asks for votes that are granted in spite of the voters' leases. The
//! survivors are staggered by rank, so that they don't split the votes. Everything else (frozen process, dead host, lost
//! network) is left to the timers. Safety is Raft's own: votes still go only to a log that is long enough.
//!
//! Leases protect only lease reads, which are not used here.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use steersman_world::{Net, Spawner};
use tokio::io::AsyncReadExt as _;

use crate::network::Peers;
use crate::raft_service::RaftHandle;
use crate::wire::Vote;

/// How long a survivor waits for each one of better rank: a vote round with its syncs on a LAN.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// Between looks at a leader that can't be watched (unreachable, or just changed).
const REWATCH_DELAY: Duration = Duration::from_millis(50);
/// A connect to a dead process on a living host is refused in well under this.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Watches whoever leads, for as long as this master runs.
pub fn watch(id: u64, raft: RaftHandle, peers: Peers, net: Arc<dyn Net>, spawner: &Spawner) {
    spawner.spawn(Watcher { id, raft, peers, net }.run());
}

struct Watcher {
    id: u64,
    raft: RaftHandle,
    peers: Peers,
    net: Arc<dyn Net>,
}

impl Watcher {
    async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (vote, leader) = {
                let seen = metrics.borrow_watched();
                (seen.vote, seen.current_leader)
            };
            match leader {
                Some(leader) if leader != self.id && vote.committed => self.watch_leader(leader, vote).await,
                _ if metrics.changed().await.is_err() => return,
                _ => {}
            }
        }
    }

    /// Returns when the leader changed, or its connection broke.
    async fn watch_leader(&self, leader: u64, vote: Vote) {
        let Some(address) = self.peers.raft_address(leader) else {
            return tokio::time::sleep(REWATCH_DELAY).await;
        };
        let Ok(Ok(mut io)) = tokio::time::timeout(CONNECT_TIMEOUT, self.net.connect(address.clone())).await else {
            return tokio::time::sleep(REWATCH_DELAY).await;
        };
        let mut byte = [0];
        loop {
            tokio::select! {
                read = io.read(&mut byte) => match read {
                    Ok(n) if n > 0 => {} // the HTTP/2 server's greeting: of no interest
                    _ => break,
                },
                () = self.office_changed(vote) => return,
            }
        }
        if self.refuses(address).await {
            self.take_over(leader, vote).await;
        } else {
            tokio::time::sleep(REWATCH_DELAY).await;
        }
    }

    async fn office_changed(&self, vote: Vote) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().vote == vote {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    async fn refuses(&self, address: String) -> bool {
        let again = tokio::time::timeout(CONNECT_TIMEOUT, self.net.connect(address)).await;
        matches!(again, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    async fn take_over(&self, leader: u64, vote: Vote) {
        let Some(rank) = self.rank(leader) else { return };
        tracing::info!(leader, rank, "the leader's process is gone: asking for votes without waiting for timers");
        tokio::select! {
            () = tokio::time::sleep(RANK_DELAY * rank) => {}
            () = self.office_changed(vote) => return,
        }
        let last_log_id = self.raft.data_metrics().borrow_watched().last_log;
        let request = TransferLeaderRequest::new(vote, self.id, last_log_id);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => tracing::debug!(%refused, "the takeover was refused"),
            Err(fatal) => tracing::error!(%fatal, "Raft does not run"),
        }
        // Either this vote or the timers decide; don't ask again before they had time to.
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
            () = self.office_changed(vote) => {}
        }
    }

    /// Place among the surviving voters, by id. None for a learner.
    fn rank(&self, leader: u64) -> Option<u32> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let voters: Vec<u64> = seen.membership_config.voter_ids().filter(|voter| *voter != leader).collect();
        voters.contains(&self.id).then(|| voters.iter().filter(|voter| **voter < self.id).count() as u32)
    }
}

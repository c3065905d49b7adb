//! Fast takeover: a follower that sees its leader's process die asks for votes at once instead of waiting for timers.
//!
//! A follower holds a bare TCP connection to its leader's Raft listener. When the connection breaks *and* the next
//! connect is refused, the process is dead while its host lives. The follower then hands itself what it would receive in
//! a leadership transfer: this drops its lease and asks for votes that are granted in spite of the voters' leases. The
//! survivors are staggered by rank, so that they don't split the votes. Everything else (frozen process, dead host, lost
//! network) is left to the timers. Safety is Raft's own: votes still go only to a log that is long enough.
//!
//! Leases protect only lease reads, which are not used here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use steersman_state::effect::ElectionCause;
use steersman_world::{BoxIo, Clock, Net, Spawner};
use tokio::io::AsyncReadExt as _;

use crate::fitness::Fitness;
use crate::network::Peers;
use crate::node::Node;
use crate::raft_service::RaftHandle;
use crate::wire::Vote;

/// How long a survivor waits for each one of better rank: a vote round with its syncs on a LAN.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// Between a broken connection and the next look.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Between looks at a leader that can't be watched: unreachable, or it closes what it accepts.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// A connection that lasted so long was a real one.
const LIVED_LONG: Duration = Duration::from_secs(1);
/// A connect to a dead process on a living host is refused in well under this.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Watches whoever leads, for as long as this master runs.
pub fn watch(node: &Node, spawner: &Spawner) {
    let (raft, peers, fitness) = (node.raft.clone(), node.peers.clone(), node.fitness.clone());
    let (net, clock) = (node.world.net.clone(), node.world.clock.clone());
    spawner.spawn(Watcher { id: node.id, raft, peers, fitness, net, clock }.run());
}

/// Resolves when the other end closes or breaks the connection. What it says (an HTTP/2 greeting) is of no interest.
async fn closed(mut io: BoxIo) {
    let mut greeting = [0; 64];
    while io.read(&mut greeting).await.is_ok_and(|read| read > 0) {}
}

struct Watcher {
    id: u64,
    raft: RaftHandle,
    peers: Peers,
    fitness: Fitness,
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
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
                _ => {}
            }
            if self.down() {
                return;
            }
            if metrics.borrow_watched().vote == vote && metrics.borrow_watched().current_leader == leader {
                tokio::select! {
                    changed = metrics.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(PAUSE_MAX) => {}
                }
            }
        }
    }

    /// Raft does not run (any more).
    fn down(&self) -> bool {
        self.raft.metrics().borrow_watched().running_state.is_err()
    }

    /// Watches one leader's process until somebody else holds the office, or it died and its office was asked for.
    async fn watch_leader(&self, leader: u64, vote: Vote) {
        let mut alive = false;
        let mut pause = PAUSE_MIN;
        while self.raft.server_metrics().borrow_watched().vote == vote {
            match self.connect(leader).await {
                Ok(io) => {
                    alive = true;
                    let since = self.clock.now();
                    tokio::select! {
                        () = closed(io) => {}
                        () = self.office_changed(vote) => return,
                    }
                    // A dying process closes its sockets one after the other: its listener may live a moment longer than
                    // this connection. So the next look comes at once, and looks that end quickly grow rarer.
                    pause = if self.clock.now() - since > LIVED_LONG { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                }
                Err(error) if alive && error.kind() == io::ErrorKind::ConnectionRefused => {
                    return self.take_over(leader, vote).await;
                }
                Err(_) => pause = PAUSE_MAX,
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn connect(&self, leader: u64) -> io::Result<BoxIo> {
        let address = self.peers.raft_address(leader).ok_or(io::ErrorKind::NotFound)?;
        let connecting = self.net.connect(address);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn office_changed(&self, vote: Vote) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().vote == vote {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    async fn take_over(&self, leader: u64, vote: Vote) {
        let Some(rank) = self.rank(leader).filter(|_| self.fitness.is_fit()) else { return };
        self.peers.elections().suspected(ElectionCause::Reset);
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

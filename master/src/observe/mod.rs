//! What a master shows of itself: Prometheus metrics and HTTP probes.
//!
//! What always holds: observing changes nothing and waits for nobody but a short read lock. Names are `steersman_*` with
//! units, labels are bounded. It decides nothing.

pub mod http;
pub mod metrics;
mod store;

pub use metrics::Metrics;

use crate::node::{Node, NodeStatus};

/// Silence that is still progress, however fast the heartbeats are.
const SILENCE_MS: u64 = 2_000;

/// What the node knows, and whether it makes progress: a leader is known, and a quorum confirmed it recently (seen from a
/// follower: it was heard recently). A follower whose leader died goes on naming it until there is another.
pub fn progress(node: &Node) -> (NodeStatus, bool) {
    let status = node.status();
    let silence = SILENCE_MS.max(3 * node.config.raft.heartbeat_ms);
    let progress = status.ready && status.quorum_ack_age_ms <= silence;
    (status, progress)
}

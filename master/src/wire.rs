//! Raft's own types to and from the messages of `steersman.raft.v1`.
//!
//! What always holds: openraft's types never cross the wire or reach the disk in an encoding of openraft's choosing, so
//! an update of the library can't change what is spoken. Everything that comes in is checked; nothing panics.

use std::collections::{BTreeMap, BTreeSet};

use openraft::entry::RaftEntry as _;
use openraft::{EntryPayload, Membership};
use steersman_proto::raft::v1 as pb;
use steersman_proto::v1::MasterAddress;
use steersman_raft_store::{MasterNode, Proposal, TypeConfig};

/// Version of these messages. A peer with another one is refused.
pub const WIRE_VERSION: u32 = 1;

/// openraft's types for our configuration, under short names.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
type RaftMembership = Membership<u64, MasterNode>;

/// What a peer sent makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed Raft message: {0}")]
pub struct WireError(pub String);

fn missing(what: &str) -> WireError {
    WireError(format!("{what} is missing"))
}

/// A log id for the wire.
pub fn log_id_out(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// A log id from the wire.
pub fn log_id_in(id: &pb::LogId) -> LogId {
    LogId::new(id.term.into(), id.index)
}

/// A vote for the wire.
pub fn vote_out(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: Some(vote.leader_id.voted_for), committed: vote.committed }
}

/// A vote from the wire.
pub fn vote_in(vote: Option<&pb::Vote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or_else(|| missing("vote"))?;
    let node = vote.node_id.ok_or_else(|| missing("vote.node_id"))?;
    Ok(if vote.committed { Vote::new_committed(vote.term, node) } else { Vote::new(vote.term, node) })
}

/// A master's addresses for the wire.
pub fn node_out(id: u64, node: &MasterNode) -> MasterAddress {
    MasterAddress { id, api: node.api.clone(), raft: node.raft.clone(), http: node.http.clone() }
}

/// A member for the wire.
pub fn member_out(id: u64, node: &MasterNode) -> pb::Node {
    pb::Node { address: Some(node_out(id, node)), store: node.store.clone() }
}

/// A member from the wire.
pub fn member_in(node: pb::Node) -> Result<(u64, MasterNode), WireError> {
    let address = node.address.ok_or_else(|| missing("node.address"))?;
    let MasterAddress { id, api, raft, http } = address;
    Ok((id, MasterNode { api, raft, http, store: node.store }))
}

fn membership_out(membership: &RaftMembership) -> pb::Membership {
    let sets = membership.get_joint_config().iter();
    pb::Membership {
        configs: sets.map(|set| pb::MemberSet { ids: set.iter().copied().collect() }).collect(),
        nodes: membership.nodes().map(|(id, node)| member_out(*id, node)).collect(),
    }
}

fn membership_in(membership: pb::Membership) -> Result<RaftMembership, WireError> {
    let configs: Vec<BTreeSet<u64>> = membership.configs.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    let nodes = membership.nodes.into_iter().map(member_in).collect::<Result<BTreeMap<u64, MasterNode>, _>>()?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|error| WireError(format!("membership: {error}")))
}

/// Whether an append of a replication stream lacks what this leader has purged (up to and with `purged`) under a follower that
/// is far behind: openraft reads the log for it without holding off the purge.
///
/// If a part of what it read was purged, the append begins after a hole, which only openraft's debug assertions notice: no
/// follower's log takes that, and the follower's master would stop. If all of it was, the append is empty, over and over, and
/// the follower, which agrees each time, is left behind for as long as the leader leads. Not sent, either is an error like any
/// other of the network: Raft looks again and sends a snapshot.
pub fn lacks_purged(prev: Option<&LogId>, entries: &[Entry], purged: Option<u64>) -> bool {
    let prev = prev.map(LogId::index);
    match entries.first() {
        Some(first) => first.log_id.index() != prev.map_or(0, |prev| prev + 1),
        None => prev < purged,
    }
}

/// A log entry for the wire. The batch's bytes are shared, not copied.
pub fn entry_out(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(true),
        EntryPayload::Normal(proposal) => pb::entry::Payload::Batch(proposal.bytes().clone()),
        EntryPayload::Membership(membership) => pb::entry::Payload::Membership(membership_out(membership)),
    };
    pb::Entry { log_id: Some(log_id_out(&entry.log_id)), payload: Some(payload) }
}

/// A log entry from the wire.
pub fn entry_in(entry: pb::Entry) -> Result<Entry, WireError> {
    let log_id = log_id_in(&entry.log_id.ok_or_else(|| missing("entry.log_id"))?);
    let payload = match entry.payload.ok_or_else(|| missing("entry.payload"))? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Batch(bytes) => {
            EntryPayload::Normal(Proposal::from_bytes(bytes).map_err(|error| WireError(format!("batch: {error}")))?)
        }
        pb::entry::Payload::Membership(membership) => EntryPayload::Membership(membership_in(membership)?),
    };
    Ok(Entry::new(log_id, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(index: u64) -> Entry {
        Entry::new(LogId::new(1_u64.into(), index), EntryPayload::Blank)
    }

    #[test]
    fn an_append_that_begins_after_purged_entries_has_a_hole() {
        let prev = LogId::new(1_u64.into(), 544);
        assert!(lacks_purged(Some(&prev), &[blank(600)], None));
        assert!(!lacks_purged(Some(&prev), &[blank(545), blank(546)], None));
        assert!(!lacks_purged(None, &[blank(0)], None));
        assert!(lacks_purged(None, &[blank(7)], None));
    }

    #[test]
    fn an_empty_append_below_the_purge_says_that_nothing_could_be_read() {
        let prev = LogId::new(1_u64.into(), 544);
        assert!(!lacks_purged(Some(&prev), &[], None));
        assert!(!lacks_purged(Some(&prev), &[], Some(544)), "everything from 545 on is there");
        assert!(lacks_purged(Some(&prev), &[], Some(545)));
        assert!(lacks_purged(None, &[], Some(0)));
    }
}

//! Doors for fuzzers: decoders that are private otherwise. Compiled under `cfg(fuzzing)` alone.

use steersman_proto::raft::v1 as pb;

use crate::wire;

/// What peers say: entries, votes, members. A good entry survives the way out and in again.
pub fn peer_message(append: pb::AppendRequest, vote: &pb::VoteRequest, node: pb::Node) {
    let _ = wire::vote_in(append.vote.as_ref());
    let _ = wire::vote_in(vote.vote.as_ref());
    let _ = wire::member_in(node);
    for entry in append.entries {
        let Ok(entry) = wire::entry_in(entry) else { continue };
        let again = wire::entry_in(wire::entry_out(&entry));
        assert_eq!(again.ok(), Some(entry), "an entry does not survive the wire");
    }
}

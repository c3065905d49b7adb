//! What one master finds out about itself for `steersman cluster verify`.
//!
//! What always holds: looking changes nothing and stops nothing; the state goes on while a copy of it is checked; what
//! could not be looked at is a check that did not pass. Comparing masters is the caller's.

use std::time::Duration;

use steersman_proto::v1 as pb;
use steersman_raft_store::{Control, StoreError};

use super::convert;
use crate::node::Node;

/// An audit's digest is there well before, unless this master is far behind.
const DIGEST_WAIT: Duration = Duration::from_secs(10);

/// Everything that was asked for.
pub async fn verify(node: &Node, store: &Control, request: &pb::VerifyRequest) -> pb::VerifyResponse {
    let digest = digest(store, request.at_index).await;
    let mut checks = vec![invariants(store).await, log(store, request.deep).await];
    if request.deep {
        checks.push(snapshot(store).await);
    }
    let status = node.status();
    let (voters, learners, format_level) = {
        let state = node.state.read();
        let ids = |masters: &[steersman_state::MasterId]| masters.iter().map(|master| master.0).collect();
        (ids(state.voters()), ids(state.learners()), state.format_level())
    };
    let own = status.members.iter().find(|member| member.addr.id == node.id);
    pb::VerifyResponse {
        self_: Some(own.map_or_else(
            || pb::MasterAddress { id: node.id, ..pb::MasterAddress::default() },
            |own| convert::address_out(&own.addr),
        )),
        at_index: request.at_index,
        digest: digest.map(|digest| format!("{digest:032x}")).unwrap_or_default(),
        checks,
        voters,
        learners,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format_level,
        applied_index: status.applied,
        cluster_id: node.cluster_id(),
    }
}

/// The digest at that index, once it is there.
async fn digest(store: &Control, index: u64) -> Option<u128> {
    if index == 0 {
        return None;
    }
    let mut audits = store.audits();
    let there = audits.wait_for(|kept| kept.iter().any(|audited| audited.index == index));
    let kept = tokio::time::timeout(DIGEST_WAIT, there).await.ok()?.ok()?;
    kept.iter().find(|audited| audited.index == index).map(|audited| audited.digest)
}

async fn invariants(store: &Control) -> pb::VerifyCheck {
    check("invariants", store.check_state().await.map(|index| format!("all hold at index {index}")))
}

async fn log(store: &Control, deep: bool) -> pb::VerifyCheck {
    let found = store.check_log(deep).await.map(|found| {
        let bounds = format!("entries {} to {}, snapshot at {}", found.first, found.last, found.snapshot);
        if deep { format!("{bounds}, {} read from disk", found.checked) } else { bounds }
    });
    check("log", found)
}

async fn snapshot(store: &Control) -> pb::VerifyCheck {
    let words = |index| if index == 0 { "there is none yet".to_owned() } else { format!("whole, at index {index}") };
    check("snapshot", store.check_snapshot().await.map(words))
}

fn check(name: &str, found: Result<String, StoreError>) -> pb::VerifyCheck {
    let (ok, detail) = found.map_or_else(|error| (false, error.to_string()), |detail| (true, detail));
    if !ok {
        tracing::error!(check = name, detail, "a check of cluster verify did not pass");
    }
    pb::VerifyCheck { name: name.to_owned(), ok, detail }
}

//! The audit between masters: whose state is another's, and who of them is wrong.
//!
//! What always holds: whenever an `Audit` of the log was applied here, this master asks all voters for their digest at that
//! index and judges itself alone: if a majority agrees on another digest than its own, its store fails and the process ends
//! with exit code 70. Nobody is stopped by another's word, and without such a majority nobody stops: then it is told (log,
//! metric, `cluster verify`), for whoever is right can't be known. It repairs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steersman_proto::raft::v1 as pb;
use steersman_raft_store::{Audited, Control};
use steersman_state::command::Command;
use steersman_world::Spawner;

use crate::leader::Reign;
use crate::network::Peers;
use crate::node::Node;

/// A master that has no digest by then is slow, down, or took a newer snapshot: its digest is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions to a master that has no digest yet.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// An answer comes from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Compares after each audit, and has the leader call for one every `raft.audit_interval_ms`, until the node goes down.
pub fn start(node: &Arc<Node>, control: &Control, spawner: &Spawner) {
    spawner.spawn(compare_all(node.clone(), control.clone()));
    let every = Duration::from_millis(node.config.raft.audit_interval_ms);
    if !every.is_zero() {
        spawner.spawn(call_for_audits(node.clone(), every));
    }
}

/// Each reign of this master calls for audits as long as it lasts.
async fn call_for_audits(node: Arc<Node>, every: Duration) {
    let mut reigns = node.throne.watch();
    loop {
        if let Some(reign) = reigns.borrow_and_update().clone() {
            reign.spawn(call(reign.clone(), every));
        }
        if reigns.changed().await.is_err() {
            return;
        }
    }
}

async fn call(reign: Arc<Reign>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = reign.office().proposer.propose(None, Command::Audit).await {
            tracing::debug!(%error, "an audit was not committed");
        }
    }
}

async fn compare_all(node: Arc<Node>, control: Control) {
    let mut audits = control.audits();
    let mut done = 0;
    while audits.changed().await.is_ok() {
        let new: Vec<Audited> = audits.borrow_and_update().iter().filter(|one| one.index > done).copied().collect();
        for audited in new {
            done = audited.index;
            compare(&node, &control, audited).await;
        }
    }
}

async fn compare(node: &Node, control: &Control, own: Audited) {
    let (digests, voters) = collect(node, own).await;
    let verdict = judge(node.id, &digests, voters);
    let index = own.index;
    node.metrics.audited(verdict.word());
    match verdict {
        Verdict::Agree => tracing::debug!(index, "a majority of masters has the same state"),
        Verdict::Unknown => tracing::info!(index, masters = digests.len(), voters, "too few digests to compare"),
        Verdict::Differ(others) => {
            tracing::error!(index, masters = ?others, "replicas differ: see steersman cluster verify");
        }
        Verdict::Wrong(masters) => control.condemn(format!(
            "this master's state at log index {index} is not that of the majority (masters {masters:?}): its digest is {:032x}",
            own.digest
        )),
    }
}

/// This master's digest and those of the other voters, and how many voters there are.
async fn collect(node: &Node, own: Audited) -> (BTreeMap<u64, u128>, usize) {
    let voters: Vec<u64> =
        node.status().members.iter().filter(|member| member.voter).map(|member| member.addr.id).collect();
    let mut digests = BTreeMap::from([(node.id, own.digest)]);
    let _ = tokio::time::timeout(PATIENCE, async {
        while voters.iter().any(|voter| !digests.contains_key(voter)) {
            for voter in &voters {
                if !digests.contains_key(voter)
                    && let Some(digest) = ask(&node.peers, *voter, own.index).await
                {
                    digests.insert(*voter, digest);
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    })
    .await;
    (digests, voters.len())
}

async fn ask(peers: &Peers, master: u64, index: u64) -> Option<u128> {
    let address = peers.raft_address(master)?;
    let request = pb::DigestRequest { header: Some(peers.header(master)), index };
    let mut client = peers.control(&address);
    match tokio::time::timeout(ANSWER_TIMEOUT, client.digest(request)).await {
        Ok(Ok(answer)) => Some(u128::from_be_bytes(answer.into_inner().digest.as_ref().try_into().ok()?)),
        Ok(Err(_)) => None,
        Err(_) => {
            peers.drop_control(&address);
            None
        }
    }
}

/// What the digests of one index say of this master.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority has this master's state, and nobody another.
    Agree,
    /// These masters have another state, and nobody can say that this one is wrong.
    Differ(Vec<u64>),
    /// These masters are a majority and agree on another state.
    Wrong(Vec<u64>),
    /// Too few to tell.
    Unknown,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Differ(_) => "differ",
            Self::Wrong(_) => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

fn judge(me: u64, digests: &BTreeMap<u64, u128>, voters: usize) -> Verdict {
    let need = voters / 2 + 1;
    let Some(own) = digests.get(&me) else { return Verdict::Unknown };
    let holders = |digest: &u128| -> Vec<u64> {
        digests.iter().filter(|(_, other)| *other == digest).map(|(master, _)| *master).collect()
    };
    let others: Vec<u64> = digests.iter().filter(|(_, other)| *other != own).map(|(master, _)| *master).collect();
    let majority = others.iter().filter_map(|master| digests.get(master)).map(holders).find(|all| all.len() >= need);
    match majority {
        Some(masters) => Verdict::Wrong(masters),
        None if !others.is_empty() => Verdict::Differ(others),
        None if digests.len() >= need => Verdict::Agree,
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(digests: &[(u64, u128)], voters: usize) -> Verdict {
        judge(1, &digests.iter().copied().collect(), voters)
    }

    #[test]
    fn only_a_majority_of_voters_makes_a_master_wrong() {
        let table = [
            (judged(&[(1, 7), (2, 7), (3, 7)], 3), Verdict::Agree),
            (judged(&[(1, 7), (2, 7)], 3), Verdict::Agree),
            (judged(&[(1, 7)], 3), Verdict::Unknown),
            (judged(&[(1, 7)], 1), Verdict::Agree),
            (judged(&[(1, 7), (2, 8), (3, 8)], 3), Verdict::Wrong(vec![2, 3])),
            (judged(&[(1, 7), (2, 7), (3, 8)], 3), Verdict::Differ(vec![3])),
            (judged(&[(1, 7), (2, 8)], 3), Verdict::Differ(vec![2])),
            (judged(&[(1, 7), (2, 8), (3, 9)], 3), Verdict::Differ(vec![2, 3])),
            (judged(&[(1, 7), (2, 8), (3, 8)], 5), Verdict::Differ(vec![2, 3])),
            (judged(&[(1, 7), (2, 8), (3, 8), (4, 8), (5, 7)], 5), Verdict::Wrong(vec![2, 3, 4])),
        ];
        for (found, expected) in table {
            assert_eq!(found, expected);
        }
    }
}

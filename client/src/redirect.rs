//! Which masters are known and who of them leads: pure bookkeeping, no I/O.
//!
//! What always holds: word of a leader counts only if its term is not older than the newest term seen; the number of
//! addresses is bounded; an address that the user gave is never dropped.

use std::collections::{BTreeSet, VecDeque};

use steersman_proto::v1::LeaderInfo;
use tonic::Status;
use tonic::codegen::http::uri::Authority;
use tonic::metadata::MetadataMap;
use tonic_types::StatusExt as _;

use crate::error::Error;
use crate::{DEFAULT_PORT, codes};

/// Learnt addresses that are kept: far more than a cluster has masters, few enough to ask them all.
const LEARNT_MAX: usize = 32;

/// A leader as it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its master id; 0 where the word did not name it.
    pub id: u64,
    /// `host:port` of its API.
    pub api: String,
    /// The term it leads.
    pub term: u64,
}

/// Who leads, as far as is known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The newest term seen.
    pub term: u64,
    /// Absent while nobody is known to lead.
    pub leader: Option<Leader>,
}

/// Word of a leader, from a redirect, from metadata or from a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeaderHint {
    pub(crate) term: u64,
    pub(crate) id: u64,
    pub(crate) api: Option<String>,
}

impl LeaderHint {
    pub(crate) fn from_info(info: &LeaderInfo) -> Self {
        let leader = info.leader.as_ref();
        let api = leader.map(|l| l.api.clone()).filter(|api| !api.is_empty());
        Self { term: info.term, id: leader.map_or(0, |l| l.id), api }
    }

    /// What response or trailer metadata say, if anything.
    pub(crate) fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let term = text("steersman-term")?.parse().ok()?;
        let id = text("steersman-leader-id").and_then(|id| id.parse().ok()).unwrap_or(0);
        let api = text("steersman-leader-api").filter(|api| !api.is_empty()).map(str::to_owned);
        Some(Self { term, id, api })
    }

    /// What the ErrorInfo of a `NOT_LEADER` says, else the metadata.
    pub(crate) fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_details_error_info().filter(|info| info.domain == codes::DOMAIN);
        let Some(info) = details.filter(|info| info.reason == codes::NOT_LEADER.reason) else {
            return Self::from_metadata(status.metadata());
        };
        let number = |key: &str| info.metadata.get(key).and_then(|value| value.parse().ok()).unwrap_or(0);
        let api = info.metadata.get("leader_api").filter(|api| !api.is_empty()).cloned();
        Some(Self { term: number("term"), id: number("leader_id"), api })
    }
}

/// The known masters and the belief about their leader.
#[derive(Debug)]
pub(crate) struct Masters {
    given: Vec<String>,
    learnt: VecDeque<String>,
    view: LeaderView,
    /// Where reads go until that master fails: an index into given, then learnt.
    home: usize,
}

impl Masters {
    pub(crate) fn new(given: Vec<String>, home: usize) -> Self {
        Self { given, learnt: VecDeque::new(), view: LeaderView::default(), home }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.given.iter().chain(&self.learnt).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.given.len() + self.learnt.len()
    }

    pub(crate) fn view(&self) -> LeaderView {
        self.view.clone()
    }

    /// Adds an address, unless it is known or malformed. The oldest learnt one makes room.
    pub(crate) fn add(&mut self, address: &str) {
        let Ok(address) = normalise(address) else { return };
        if self.given.contains(&address) || self.learnt.contains(&address) {
            return;
        }
        if self.learnt.len() >= LEARNT_MAX {
            self.learnt.pop_front();
        }
        self.learnt.push_back(address);
    }

    /// Takes word of a leader. Returns whether it was trusted.
    pub(crate) fn learn(&mut self, hint: &LeaderHint) -> bool {
        if hint.term < self.view.term || hint.term == 0 {
            return false;
        }
        let api = hint.api.as_deref().and_then(|api| normalise(api).ok());
        match api {
            Some(api) => {
                self.add(&api);
                self.view.leader = Some(Leader { id: hint.id, api, term: hint.term });
            }
            // A newer term without a leader ends the old reign; silence about the same term says nothing.
            None if hint.term > self.view.term => self.view.leader = None,
            None => {}
        }
        self.view.term = hint.term;
        true
    }

    /// Forgets the leader if it is `address`, and moves reads away from there.
    pub(crate) fn distrust(&mut self, address: &str) {
        self.view.leader.take_if(|leader| leader.api == address);
        if self.at(self.home) == Some(address) {
            self.home = (self.home + 1) % self.count().max(1);
        }
    }

    /// The master to ask next: the leader if it is preferred and known, else from home onward, passing over `failed`.
    pub(crate) fn pick(&self, prefer_leader: bool, failed: &BTreeSet<String>) -> Option<String> {
        let leader = self.view.leader.as_ref().filter(|l| prefer_leader && !failed.contains(&l.api));
        if let Some(leader) = leader {
            return Some(leader.api.clone());
        }
        let count = self.count();
        let order = (0..count).filter_map(|step| self.at((self.home + step) % count));
        order.into_iter().find(|address| !failed.contains(*address)).map(str::to_owned)
    }

    fn at(&self, index: usize) -> Option<&str> {
        self.given.iter().chain(&self.learnt).nth(index).map(String::as_str)
    }
}

/// `host:port` from what a person writes: a scheme is dropped, a missing port is [`DEFAULT_PORT`].
pub(crate) fn normalise(address: &str) -> Result<String, Error> {
    let trimmed = address.trim();
    let bare = trimmed.strip_prefix("http://").unwrap_or(trimmed).trim_end_matches('/');
    let wrong =
        |why: &str| Err(Error::usage(&format!("address {address:?}: {why}"), "write host:port, e.g. 127.0.0.1:7400"));
    let Ok(authority) = bare.parse::<Authority>() else { return wrong("is not host:port") };
    if authority.host().is_empty() || bare.contains('@') {
        return wrong("is not host:port");
    }
    match (authority.port_u16(), bare.strip_prefix(authority.host())) {
        (Some(0), _) => wrong("port 0 cannot be connected"),
        (Some(_), _) => Ok(bare.to_owned()),
        (None, Some("")) => Ok(format!("{bare}:{DEFAULT_PORT}")),
        (None, _) => wrong("the port is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hint(term: u64, api: &str) -> LeaderHint {
        LeaderHint { term, id: 1, api: (!api.is_empty()).then(|| api.to_owned()) }
    }

    #[test]
    fn addresses_are_normalised_or_refused() {
        for (given, wanted) in [
            ("a", "a:7400"),
            (" http://a:1/ ", "a:1"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]", "[::1]:7400"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(normalise(given).unwrap(), wanted);
        }
        for wrong in ["", ":7400", "a:b", "a:0", "a:99999", "a:", "::1:7", "https://a", "u@a:1", "a b"] {
            let error = normalise(wrong).unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{wrong}: {error}");
        }
    }

    #[test]
    fn older_terms_are_refused_and_newer_ones_end_a_reign() {
        let mut masters = Masters::new(vec!["a:1".into()], 0);
        assert!(masters.learn(&hint(5, "b:1")));
        assert!(!masters.learn(&hint(4, "c:1")));
        assert_eq!(masters.view().leader.unwrap().api, "b:1");
        assert_eq!(masters.all(), ["a:1", "b:1"]);
        assert!(masters.learn(&hint(5, "")), "silence about the same term is not a contradiction");
        assert!(masters.view().leader.is_some());
        assert!(masters.learn(&hint(6, "")));
        assert_eq!(masters.view(), LeaderView { term: 6, leader: None });
    }

    #[test]
    fn learnt_addresses_are_bounded_and_given_ones_stay() {
        let mut masters = Masters::new(vec!["given:1".into()], 0);
        (0..100).for_each(|n| masters.add(&format!("m{n}:1")));
        let all = masters.all();
        assert_eq!(all.len(), 1 + LEARNT_MAX);
        assert_eq!(all[0], "given:1");
        assert_eq!(all[LEARNT_MAX], "m99:1");
    }

    #[test]
    fn pick_prefers_the_leader_for_mutations_and_home_for_reads() {
        let mut masters = Masters::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], 1);
        masters.learn(&hint(1, "c:1"));
        let mut failed = BTreeSet::new();
        assert_eq!(masters.pick(true, &failed).unwrap(), "c:1");
        assert_eq!(masters.pick(false, &failed).unwrap(), "b:1");
        failed.insert("c:1".to_owned());
        masters.distrust("c:1");
        assert_eq!(masters.pick(true, &failed).unwrap(), "b:1");
        masters.distrust("b:1");
        assert_eq!(masters.pick(false, &BTreeSet::new()).unwrap(), "c:1");
        failed.extend(["a:1".to_owned(), "b:1".to_owned()]);
        assert_eq!(masters.pick(true, &failed), None);
    }
}

//! `replicas`: masters that applied the same log have the same state.
//!
//! What always holds: digests are compared at equal index, between masters and between lives of one master.

use std::collections::{BTreeMap, HashMap};

use super::{Facts, verdict};
use crate::record::Digest;
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let mut at: HashMap<u64, BTreeMap<&str, &Digest>> = HashMap::new();
    for digest in &facts.history.digests {
        at.entry(digest.index).or_default().entry(&digest.digest).or_insert(digest);
    }
    let differ = at.iter().filter(|(_, digests)| digests.len() > 1);
    let problems = differ.map(|(index, digests)| {
        let told: Vec<String> = digests.values().map(|it| format!("{} on master {}", it.digest, it.master)).collect();
        format!("at {index} the state is {}", told.join(" and "))
    });
    verdict("replicas", facts.history.digests.len() as u64, problems.collect())
}

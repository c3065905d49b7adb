//! `one-leader`: each term has at most one leader.
//!
//! What always holds: those that were seen to lead and those that the event stream names are the same set.

use std::collections::BTreeMap;

use super::{Facts, verdict};
use crate::record::Event;
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let events = facts.log.entries.values().flat_map(|entry| entry.events).filter_map(|event| match event {
        Event::Leader { term, master } => Some((*term, *master)),
        _ => None,
    });
    let mut leaders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (term, master) in facts.history.leads.iter().map(|it| (it.term, it.master)).chain(events) {
        let masters = leaders.entry(term).or_default();
        if !masters.contains(&master) {
            masters.push(master);
        }
    }
    let two = leaders.iter().filter(|(_, masters)| masters.len() > 1);
    let problems = two.map(|(term, masters)| format!("term {term} has more than one leader: masters {masters:?}"));
    verdict("one-leader", leaders.len() as u64, problems.collect())
}

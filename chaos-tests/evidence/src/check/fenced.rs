//! `fenced-register`: no write of an older attempt succeeds after a newer one's.
//!
//! What always holds: it also distrusts the register: one that refuses the newest attempt proves nothing.

use std::collections::HashMap;

use super::{Facts, verdict};
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let (mut highest, mut problems) = (HashMap::new(), Vec::new());
    for write in &facts.history.fenced {
        let top: &mut Option<u64> = highest.entry(write.key).or_default();
        let (key, token, at) = (write.key, write.token, crate::report::svg::time(write.at_us));
        match (write.accepted, *top) {
            (true, Some(top)) if token < top => {
                problems.push(format!("register {key}: at {at} token {token} was accepted after token {top}"));
            }
            (false, top) if top.is_none_or(|top| token > top) => {
                problems.push(format!("register {key}: at {at} token {token} was refused, though it was the newest"));
            }
            _ => {}
        }
        if write.accepted {
            *top = Some(top.map_or(token, |top| top.max(token)));
        }
    }
    verdict("fenced-register", facts.history.fenced.len() as u64, problems)
}

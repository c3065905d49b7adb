//! `log-order`: log indexes respect real time.
//!
//! What always holds: if one linearizable operation was over before another began, the other's index is not lower, and
//! higher if it wrote. A retry may be told the index of its first try, so it is only believed, never judged.

use std::collections::HashSet;

use super::{Facts, verdict};
use crate::history::Op;
use crate::verdict::Verdict;

pub fn check(facts: &Facts<'_>) -> Verdict {
    let fresh: HashSet<u64> = super::times::first_tries(&facts.history.ops).map(|op| op.invoke.op).collect();
    let judged = facts.history.ops.iter().filter(|op| op.is_linearizable());
    let judged = judged.filter(|op| !op.is_write() || fresh.contains(&op.invoke.op));
    let (mut examined, mut problems) = (0, Vec::new());
    for (op, index) in judged.filter_map(|op| Some((op, op.index()?))) {
        examined += 1;
        let before = facts.times.index_before(op.began_us());
        if index < before || (op.is_write() && index == before) {
            problems.push(told(op, index, before));
        }
    }
    verdict("log-order", examined, problems)
}

fn told(op: &Op, index: u64, before: u64) -> String {
    let (kind, id) = (op.kind(), op.invoke.op);
    format!("{kind} (operation {id}) was answered with index {index}, but {before} was answered before it began")
}

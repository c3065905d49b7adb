//! The checkers, each in a file of its own, and the one door to all of them.
//!
//! What always holds: every checker is a function of history and bounds; each says what it looked at. Coverage comes last
//! and judges what the others looked at.

use crate::bounds::Bounds;
use crate::history::History;
use crate::verdict::Verdict;

mod coverage;

/// Every checker's verdict of a history.
pub fn check(history: &History, bounds: &Bounds) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    verdicts.push(coverage::check(history, bounds, &verdicts));
    verdicts
}

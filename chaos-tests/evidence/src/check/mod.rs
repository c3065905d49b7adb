//! The checkers, each in a file of its own, and the one door to all of them.
//!
//! What always holds: every checker is a function of history and bounds; each says what it looked at. Coverage comes last
//! and judges what the others looked at.

use std::collections::HashMap;

use crate::bounds::Bounds;
use crate::history::{History, Op};
use crate::record::{Answer, Call, TaskView};
use crate::verdict::{Finding, Verdict};

mod coverage;
mod exclusion;
mod fenced;
mod fold;
mod healthy;
mod hold;
mod idempotence;
pub mod linearizable;
mod log;
mod order;
mod outcome;
mod recovery;
mod replicas;
mod stream;
mod submits;
mod terms;
mod times;
mod tokens;

use fold::Fold;
use log::Log;
use times::Times;

/// Problems that one verdict keeps; more of the same says nothing new.
const PROBLEMS_MAX: usize = 200;

/// Every checker's verdict of a history.
pub fn check(history: &History, bounds: &Bounds) -> Vec<Verdict> {
    let facts = Facts::of(history, bounds);
    let checkers = [
        linearizable::check,
        order::check,
        stream::stale_reads,
        submits::check,
        outcome::check,
        tokens::check,
        fenced::check,
        hold::check,
        exclusion::check,
        idempotence::check,
        stream::check,
        replicas::check,
        terms::check,
        healthy::check,
        recovery::check,
    ];
    let mut verdicts: Vec<Verdict> = checkers.iter().map(|checker| checker(&facts)).collect();
    verdicts.push(coverage::check(history, bounds, &verdicts));
    verdicts
}

/// A history and what several checkers derive from it.
#[derive(Debug)]
pub struct Facts<'a> {
    history: &'a History,
    bounds: &'a Bounds,
    log: Log<'a>,
    fold: Fold,
    times: Times,
    /// Reads of each task, in order of invocation.
    reads: HashMap<u64, Vec<Read<'a>>>,
}

/// A read that was answered.
#[derive(Debug, Clone, Copy)]
struct Read<'a> {
    op: &'a Op,
    task: u64,
    view: Option<&'a TaskView>,
    index: u64,
}

impl<'a> Facts<'a> {
    fn of(history: &'a History, bounds: &'a Bounds) -> Self {
        let log = Log::of(history);
        let fold = Fold::of(history, &log);
        let mut reads: HashMap<u64, Vec<Read<'a>>> = HashMap::new();
        for read in history.ops.iter().filter_map(read_of) {
            reads.entry(read.task).or_default().push(read);
        }
        Self { history, bounds, log, fold, times: Times::of(history), reads }
    }

    fn reads(&self) -> impl Iterator<Item = &Read<'a>> {
        self.reads.values().flatten()
    }

    fn reads_of(&self, task: u64) -> &[Read<'a>] {
        self.reads.get(&task).map_or(&[], Vec::as_slice)
    }
}

fn read_of(op: &Op) -> Option<Read<'_>> {
    match (&op.invoke.call, op.answer()) {
        (Call::Read { task, .. }, Some(Answer::Task { task: view, index })) => {
            Some(Read { op, task: *task, view: view.as_ref(), index: *index })
        }
        _ => None,
    }
}

/// A verdict of problems in a stable order, of which not too many are kept.
fn verdict(checker: &str, examined: u64, mut problems: Vec<String>) -> Verdict {
    problems.sort();
    problems.dedup();
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if more > 0 {
        problems.push(format!("… and {more} more"));
    }
    Verdict::of(checker, examined, problems)
}

fn unknown(checker: &str, examined: u64, why: String) -> Verdict {
    Verdict { checker: checker.to_owned(), finding: Finding::Unknown(why), examined }
}

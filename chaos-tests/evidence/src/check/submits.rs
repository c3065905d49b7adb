//! `lost-submit`: what was acknowledged is there, and finished at the end if the run demands it.
//!
//! What always holds: it judges acknowledged submits alone; what came of those with unknown outcome is judged by
//! `idempotence`. A task is there if a read or the event stream shows it, lost if a later read or the whole stream denies it.

use std::collections::HashMap;

use super::{Facts, unknown, verdict};
use crate::history::Op;
use crate::record::{Answer, Call, TaskState};
use crate::verdict::Verdict;

/// A submit that was acknowledged, with all tries of its request.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged<'a> {
    /// The try that was answered first.
    pub op: &'a Op,
    /// First id.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// When the first try began, in µs.
    pub began_us: u64,
}

/// All of them, by request.
pub fn acknowledged<'a>(facts: &Facts<'a>) -> impl Iterator<Item = Acknowledged<'a>> + use<'a> {
    by_request(&facts.history.ops).into_values()
}

/// Acknowledged submits by request id: the first answer, and the beginning of the first try that may have had an effect.
pub fn by_request(ops: &[Op]) -> HashMap<&str, Acknowledged<'_>> {
    let mut began: HashMap<&str, u64> = HashMap::new();
    let mut out: HashMap<&str, Acknowledged<'_>> = HashMap::new();
    for op in ops.iter().filter(|op| !op.failed()) {
        let Call::Submit { request, .. } = &op.invoke.call else { continue };
        let began_us = *began.entry(request).or_insert(op.began_us());
        let Some(Answer::Submitted { first, count, .. }) = op.answer() else { continue };
        let new = Acknowledged { op, first: *first, count: *count, began_us };
        let known = out.entry(request).or_insert(new);
        if op.over_us() < known.op.over_us() {
            *known = new;
        }
    }
    out
}

impl Acknowledged<'_> {
    /// First id, count, the indexes between which its entry lies, and the number of the operation.
    pub fn whereabouts(&self, facts: &Facts<'_>) -> (u64, u64, u64, u64, u64) {
        let from = facts.times.index_before(self.began_us);
        (self.first, self.count, from, self.op.index().unwrap_or(u64::MAX), self.op.invoke.op)
    }
}

pub fn check(facts: &Facts<'_>) -> Verdict {
    let (mut tasks, mut problems, mut unseen) = (0, Vec::new(), 0);
    for submit in acknowledged(facts) {
        tasks += submit.count;
        let mut fates: HashMap<Fate, (u64, u64)> = HashMap::new();
        for task in submit.first..submit.first + submit.count {
            let (count, first) = fates.entry(fate(facts, &submit, task)).or_insert((0, task));
            (*count, *first) = (*count + 1, task.min(*first));
        }
        unseen += fates.remove(&Fate::Unseen).map_or(0, |(count, _)| count);
        fates.remove(&Fate::Good);
        let told = |(fate, (count, first)): (Fate, (u64, u64))| fate.told(&submit, count, first);
        problems.extend(fates.into_iter().map(told));
    }
    if problems.is_empty() && unseen > 0 {
        return unknown(
            "lost-submit",
            tasks,
            format!("nobody saw what became of {unseen} of {tasks} acknowledged tasks"),
        );
    }
    verdict("lost-submit", tasks, problems)
}

/// What became of an acknowledged task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Good,
    /// A linearizable read that began after the acknowledgement did not find it.
    Vanished {
        op: u64,
    },
    /// The whole log around it is known, and no event made it.
    NeverWas,
    /// There, but without an outcome.
    Unfinished {
        state: TaskState,
    },
    Unseen,
}

impl Fate {
    fn told(self, submit: &Acknowledged<'_>, count: u64, first: u64) -> String {
        let (op, of) = (submit.op.invoke.op, submit.count);
        let what = match self {
            Self::Good => "there".to_owned(),
            Self::Vanished { op } => format!("not found by the later operation {op}"),
            Self::NeverWas => "in no event and in no read".to_owned(),
            Self::Unfinished { state } => format!("{state:?} at the end of the run"),
            Self::Unseen => "never looked at".to_owned(),
        };
        format!("operation {op} acknowledged {of} tasks; {count} of them (first: task {first}) {what}")
    }
}

fn fate(facts: &Facts<'_>, submit: &Acknowledged<'_>, task: u64) -> Fate {
    let reads = facts.reads_of(task);
    let later = |op: &Op| op.is_linearizable() && op.began_us() > submit.op.over_us();
    if let Some(read) = reads.iter().find(|read| read.view.is_none() && later(read.op)) {
        return Fate::Vanished { op: read.op.invoke.op };
    }
    let tale = facts.fold.tasks.get(&task);
    let mut seen = reads.iter().filter_map(|read| read.view);
    if tale.is_none() && seen.clone().next().is_none() {
        let (_, _, from, to, _) = submit.whereabouts(facts);
        let known = facts.log.stretch(to).is_some_and(|(begin, _)| begin <= from);
        return if known { Fate::NeverWas } else { unjudged(facts) };
    }
    let finished = tale.is_some_and(|tale| tale.finished.is_some()) || seen.clone().any(|view| view.state.is_final());
    let state = tale.and_then(|tale| tale.points.last()).map(|point| point.state);
    match state.or_else(|| seen.next_back().map(|view| view.state)) {
        Some(state) if facts.bounds.drained && !finished => Fate::Unfinished { state },
        _ => Fate::Good,
    }
}

/// Only a run that demands an end has to look at every task.
fn unjudged(facts: &Facts<'_>) -> Fate {
    if facts.bounds.drained { Fate::Unseen } else { Fate::Good }
}

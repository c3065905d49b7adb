//! `linearizable`: each task and each worker behaves like one register, whichever master was asked.
//!
//! What always holds: keys are judged apart from each other (an object of objects is linearizable if and only if each of them
//! is); operations that surely failed are left out; stale reads promise nothing of this kind and are judged elsewhere. A
//! failure is shown as its shortest bad prefix, without the reads that it does not need.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::drawing::{Drawing, Row};
use self::search::{Call, Found, Model, search};
use self::worker::Mode;
use super::submits::by_request;
use super::{Facts, unknown};
use crate::bounds::Bounds;
use crate::history::{History, Op};
use crate::record::{self, Answer};
use crate::verdict::Verdict;

pub mod drawing;
pub mod search;
pub mod task;
pub mod worker;

const NAME: &str = "linearizable";
/// Failures that are drawn; more of them are only named.
const DRAWN_MAX: usize = 5;
/// Searches that making one failure shorter may cost.
const SHRINKS_MAX: usize = 400;

/// Drawings of what no order explains, for a report.
pub fn drawings(history: &History, bounds: &Bounds) -> Vec<Drawing> {
    Judged::of(&Facts::of(history, bounds)).drawings
}

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let judged = Judged::of(facts);
    let mut problems: Vec<String> = judged.drawings.iter().map(Drawing::text).collect();
    let rest = judged.bad.len().saturating_sub(DRAWN_MAX);
    if rest > 0 {
        let named: Vec<&str> = judged.bad.iter().skip(DRAWN_MAX).take(20).map(String::as_str).collect();
        problems.push(format!("and {rest} more: {}{}", named.join(", "), if rest > 20 { ", …" } else { "" }));
    }
    match judged.doubtful.first().filter(|_| problems.is_empty()) {
        Some(key) => {
            let why =
                format!("{} keys have too many operations at a time to say, the first: {key}", judged.doubtful.len());
            unknown(NAME, judged.examined, why)
        }
        None => Verdict::of(NAME, judged.examined, problems),
    }
}

/// What the searches of all keys found.
#[derive(Debug, Default)]
struct Judged {
    examined: u64,
    bad: Vec<String>,
    doubtful: Vec<String>,
    drawings: Vec<Drawing>,
}

impl Judged {
    fn of(facts: &Facts<'_>) -> Self {
        let mut judged = Self::default();
        let by_op: HashMap<u64, &Op> = facts.history.ops.iter().map(|op| (op.invoke.op, op)).collect();
        for (task, calls) in tasks(facts) {
            judged.key(facts, &by_op, &format!("task {task}"), &task::Task { closed: facts.bounds.closed }, calls);
        }
        for (name, calls) in workers(facts) {
            let (drain_ends, all_ends) = endings(facts, name);
            let model = worker::Worker { closed: facts.bounds.closed, drain_ends, all_ends };
            judged.key(facts, &by_op, &format!("worker {name}"), &model, calls);
        }
        judged
    }

    fn key<M: Model<Input: Readable>>(
        &mut self,
        facts: &Facts<'_>,
        by_op: &HashMap<u64, &Op>,
        key: &str,
        model: &M,
        calls: Vec<Call<M::Input>>,
    ) {
        self.examined += calls.len() as u64;
        match search(model, &calls, facts.bounds.search_max) {
            Found::Order => {}
            Found::TooMany => self.doubtful.push(key.to_owned()),
            Found::None { at } => {
                if self.bad.len() < DRAWN_MAX {
                    let (calls, culprit) = shortest(model, calls, at, facts.bounds.search_max);
                    self.drawings.push(draw(key, &calls, culprit, by_op));
                }
                self.bad.push(key.to_owned());
            }
        }
    }
}

/// Inputs that change nothing may be left out of a failure.
trait Readable {
    fn is_read(&self) -> bool;
}

impl Readable for task::Ask {
    fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

impl Readable for worker::Ask {
    fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

/// Calls of each task that somebody read or cancelled, in order of keys.
fn tasks(facts: &Facts<'_>) -> BTreeMap<u64, Vec<Call<task::Ask>>> {
    let mut tasks: BTreeMap<u64, Vec<Call<task::Ask>>> = BTreeMap::new();
    for op in facts.history.ops.iter().filter(|op| !op.failed() && op.is_linearizable()) {
        if let Some((key, ask)) = task_ask(op) {
            tasks.entry(key).or_default().push(call(op, ask));
        }
    }
    let made = by_request(&facts.history.ops);
    for it in made.values() {
        for (_, calls) in tasks.range_mut(it.first..it.first + it.count) {
            let create = Call { from_us: it.began_us, ..call(it.op, task::Ask::Create) };
            calls.push(create);
        }
    }
    let unclaimed = unclaimed(facts);
    for calls in tasks.values_mut() {
        // Made by a submit whose caller got no answer, or by somebody else.
        if let Some(from_us) = unclaimed.filter(|_| calls.iter().all(|call| call.input != task::Ask::Create)) {
            calls.push(Call { op: u64::MAX, from_us, to_us: u64::MAX, input: task::Ask::Create });
        }
        calls.sort_by_key(|call| call.from_us);
    }
    tasks
}

fn task_ask(op: &Op) -> Option<(u64, task::Ask)> {
    match (&op.invoke.call, op.answer()) {
        (record::Call::Cancel { task, .. }, Some(Answer::Cancelled { changed, .. })) => {
            Some((*task, task::Ask::Cancel { changed: *changed }))
        }
        (record::Call::Cancel { task, .. }, _) => Some((*task, task::Ask::CancelMaybe)),
        (record::Call::Read { task, .. }, Some(Answer::Task { task: view, .. })) => {
            Some((*task, task::Ask::Read(view.as_ref().map(task::Seen::of))))
        }
        _ => None,
    }
}

/// Since when tasks may exist that no answer tells of.
fn unclaimed(facts: &Facts<'_>) -> Option<u64> {
    let unknown = facts.history.ops.iter().filter(|op| op.kind() == "submit" && op.unknown());
    if facts.bounds.closed { unknown.map(Op::began_us).min() } else { Some(0) }
}

/// Calls of each worker, by name.
fn workers<'a>(facts: &Facts<'a>) -> BTreeMap<&'a str, Vec<Call<worker::Ask>>> {
    let mut workers: BTreeMap<&str, Vec<Call<worker::Ask>>> = BTreeMap::new();
    for op in facts.history.ops.iter().filter(|op| !op.failed()) {
        match (&op.invoke.call, op.answer()) {
            (record::Call::SetMode { worker, mode, .. }, _) => {
                let ask = Mode::asked(mode).map(worker::Ask::Set);
                workers.entry(worker).or_default().extend(ask.map(|ask| call(op, ask)));
            }
            (record::Call::ReadWorkers {}, Some(Answer::Workers { workers: views, .. })) => {
                for (name, mode) in living(views) {
                    workers.entry(name).or_default().push(call(op, worker::Ask::Read(mode)));
                }
            }
            _ => {}
        }
    }
    // A worker whose mode nobody sets is not a register, but a witness of its shutdown.
    workers.retain(|_, calls| calls.iter().any(|call| !call.input.is_read()));
    workers
}

/// Workers whose mode is shown: those that are not offline.
fn living(views: &[record::WorkerView]) -> impl Iterator<Item = (&str, Mode)> {
    views.iter().filter_map(|view| Some((view.name.as_str(), Mode::shown(&view.status)?)))
}

/// Whether a drain may have ended with a process, and any mode with a worker, of this name. Where no event tells, both may.
fn endings(facts: &Facts<'_>, name: &str) -> (bool, bool) {
    let tales = facts.fold.workers.values().filter(|tale| tale.name == name);
    let mut registered: Vec<u64> = tales.flat_map(|tale| tale.registered.iter().copied()).collect();
    registered.sort_unstable();
    let Some(first) = registered.first() else { return (true, true) };
    let (mut ids, mut before) = (BTreeSet::new(), false);
    for op in &facts.history.ops {
        let Some(Answer::Workers { workers, index }) = op.answer() else { continue };
        let of_name = workers.iter().filter(|worker| worker.name == name);
        ids.extend(of_name.map(|worker| {
            before |= index < first;
            worker.id
        }));
    }
    (registered.len() > 1 || before, ids.len() > 1)
}

fn call<I>(op: &Op, input: I) -> Call<I> {
    Call { op: op.invoke.op, from_us: op.began_us(), to_us: op.over_us(), input }
}

/// The shortest bad prefix, without reads that it stays bad without. Returns the place of the call that can't return.
fn shortest<M: Model<Input: Readable>>(
    model: &M,
    mut calls: Vec<Call<M::Input>>,
    at: usize,
    limit: usize,
) -> (Vec<Call<M::Input>>, usize) {
    let (end_us, mut culprit) = (calls[at].to_us, calls[at].op);
    calls.retain(|call| call.from_us <= end_us);
    // A call that returns later is still open in the prefix: what it will answer is not to blame.
    let (mut place, mut tries) = (0, 0);
    while place < calls.len() && tries < SHRINKS_MAX {
        if !calls[place].input.is_read() || calls[place].op == culprit {
            place += 1;
            continue;
        }
        tries += 1;
        let removed = calls.remove(place);
        match search(model, &calls, limit) {
            Found::None { at } if calls[at].to_us <= end_us => culprit = calls[at].op,
            _ => {
                calls.insert(place, removed);
                place += 1;
            }
        }
    }
    let at = calls.iter().position(|call| call.op == culprit).unwrap_or(0);
    (calls, at)
}

fn draw<I>(key: &str, calls: &[Call<I>], culprit: usize, by_op: &HashMap<u64, &Op>) -> Drawing {
    let row = |(at, call): (usize, &Call<I>)| Row {
        label: by_op.get(&call.op).map_or("somebody submit".to_owned(), |op| label(op, key)),
        from_us: call.from_us,
        to_us: call.to_us,
        culprit: at == culprit,
    };
    let title = format!("{key}: no order of these operations explains all answers");
    Drawing { title, rows: calls.iter().enumerate().map(row).collect() }
}

/// An operation in a few words: who, what, and what came of it.
fn label(op: &Op, key: &str) -> String {
    let (process, id) = (op.invoke.process, op.invoke.op);
    let what = match &op.invoke.call {
        record::Call::SetMode { mode, .. } => mode.clone(),
        _ => op.kind().replace('_', " "),
    };
    let came = match op.answer() {
        None => "outcome unknown".to_owned(),
        Some(Answer::Submitted { index, .. }) => format!("ok at {index}"),
        Some(Answer::Cancelled { changed, index }) => {
            format!("{} at {index}", if *changed { "cancelled" } else { "was over" })
        }
        Some(Answer::Task { task: None, index }) => format!("nothing at {index}"),
        Some(Answer::Task { task: Some(view), index }) => format!("{} at {index}", super::stream::told(view)),
        Some(Answer::Workers { workers, index }) => {
            let shown = workers.iter().find(|worker| key.ends_with(&format!(" {}", worker.name)));
            format!("{} at {index}", shown.map_or("absent", |worker| &worker.status))
        }
        Some(Answer::Done { index }) => format!("ok at {index}"),
    };
    format!("p{process} #{id} {what}: {came}")
}

//! The fold of the log: what its events add up to, entry by entry, by a model of its own, and what no log may contain.
//!
//! What always holds: a task or a worker is judged only from the event on that makes it known within a known stretch of the
//! log, so that a trimmed beginning condemns nobody. It knows nothing of how the product applies commands.

use std::collections::{BTreeSet, HashMap};

use super::log::{Entry, Log};
use crate::history::History;
use crate::record::{Answer, Event, TaskState, TaskView};

/// Everything that the log says, and its problems by the checker that reports them.
#[derive(Debug, Default)]
pub struct Fold {
    /// Tasks whose submit is in a known stretch.
    pub tasks: HashMap<u64, TaskTale>,
    /// Workers that were told of, by id.
    pub workers: HashMap<u64, WorkerTale>,
    /// Submits: index, first id, count.
    pub submits: Vec<(u64, u64, u64)>,
    /// For `event-stream`.
    pub stream: Vec<String>,
    /// For `one-outcome`.
    pub outcome: Vec<String>,
    /// For `tokens`.
    pub tokens: Vec<String>,
    /// For `double-hold`.
    pub hold: Vec<String>,
    /// Assignments seen.
    pub assigned: u64,
    /// The lowest and the highest token assigned in each known stretch: all between were assigned there, or never.
    pub tokens_known: Vec<(u64, u64)>,
    index: u64,
    token: u64,
    stretch: Option<(u64, u64)>,
    next_id: Option<u64>,
    capacity: HashMap<u64, u64>,
}

/// A task's life by the log.
#[derive(Debug, Clone)]
pub struct TaskTale {
    /// Where its submit is.
    pub submitted: u64,
    /// The end of the known stretch that its submit lies in.
    pub known_to: u64,
    /// Tokens and workers of its attempts, in order.
    pub attempts: Vec<(u64, u64)>,
    /// What it was after each entry that changed it, in order.
    pub points: Vec<Point>,
    /// Its accepted outcome: state, index, and when a follower first heard of it, in µs.
    pub finished: Option<(TaskState, u64, u64)>,
    open: Option<u64>,
}

/// What a task was after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The entry.
    pub index: u64,
    /// Its state. The log does not tell when a backoff ends: `Retrying` stands for `Pending` too.
    pub state: TaskState,
    /// So many of its attempts there were.
    pub attempts: usize,
    /// The last one is open.
    pub open: bool,
}

/// A worker's life by the log.
#[derive(Debug, Clone, Default)]
pub struct WorkerTale {
    /// Its name, once told.
    pub name: String,
    /// Index, and whether it was offline from there on.
    pub points: Vec<(u64, bool)>,
    /// Where it registered (first seen, back from offline, or a new process).
    pub registered: Vec<u64>,
    /// Lost by its lease: index and first arrival in µs.
    pub lost: Vec<(u64, u64)>,
    offline: bool,
    mode: Option<&'static str>,
    held: BTreeSet<u64>,
}

impl Fold {
    /// Folds all known stretches.
    pub fn of(history: &History, log: &Log<'_>) -> Self {
        let mut fold = Self { capacity: capacities(history), ..Self::default() };
        for &(from, to) in &log.known {
            fold.next_id = None;
            fold.stretch = None;
            fold.workers.values_mut().for_each(WorkerTale::forget);
            log.entries.range(from..=to).for_each(|(_, entry)| fold.entry(entry, to));
            fold.tokens_known.extend(fold.stretch);
        }
        fold
    }

    fn entry(&mut self, entry: &Entry<'_>, known_to: u64) {
        self.index = entry.index;
        for event in entry.events {
            self.event(event, entry, known_to);
        }
    }

    fn event(&mut self, event: &Event, entry: &Entry<'_>, known_to: u64) {
        match event {
            Event::Submitted { first, count } => self.submitted(*first, *count, known_to),
            Event::Assigned { task, token, worker } => self.assigned(*task, *token, *worker),
            Event::Started { task, token } => self.started(*task, *token),
            Event::Ended { task, token } => self.ended(*task, *token),
            Event::Finished { task, state } => self.finished(*task, *state, entry.at_us),
            Event::Retrying { task } => {
                self.alive(*task, "waits for another attempt");
                self.point(*task, TaskState::Retrying);
            }
            Event::Worker { worker, name, change } => self.worker(*worker, name, change, entry.at_us),
            Event::Leader { .. } | Event::Gap { .. } | Event::Other { .. } => {}
        }
    }

    fn submitted(&mut self, first: u64, count: u64, known_to: u64) {
        let index = self.index;
        if let Some(next) = self.next_id.filter(|next| first < *next) {
            self.stream
                .push(format!("at {index}: task {first} is submitted, but ids up to {} were given before", next - 1));
        }
        self.next_id = Some(first.saturating_add(count));
        self.submits.push((index, first, count));
        let point = Point { index, state: TaskState::Pending, attempts: 0, open: false };
        for id in first..first.saturating_add(count) {
            let (attempts, points) = (Vec::new(), vec![point]);
            let tale = TaskTale { submitted: index, known_to, attempts, points, finished: None, open: None };
            self.tasks.entry(id).or_insert(tale);
        }
    }

    /// Complains about what happens to a task after its end or before its beginning.
    fn alive(&mut self, task: u64, what: &str) {
        let index = self.index;
        match self.tasks.get(&task) {
            Some(TaskTale { finished: Some((state, at, _)), .. }) => {
                self.outcome.push(format!("at {index}: task {task} {what} after it was {state:?} at {at}"));
            }
            None if self.next_id.is_some_and(|next| task >= next) => {
                self.stream.push(format!("at {index}: task {task} {what} before it was submitted"));
            }
            _ => {}
        }
    }

    fn assigned(&mut self, task: u64, token: u64, worker: u64) {
        self.alive(task, "is assigned");
        let index = self.index;
        self.assigned += 1;
        if token <= self.token {
            self.tokens.push(format!("at {index}: token {token} of task {task} comes after token {}", self.token));
        }
        self.token = self.token.max(token);
        let (low, high) = self.stretch.unwrap_or((token, token));
        self.stretch = Some((low.min(token), high.max(token)));
        if let Some(tale) = self.tasks.get_mut(&task) {
            let other = tale.open.replace(token).filter(|_| index <= tale.known_to);
            if let Some(other) = other {
                self.hold.push(format!("at {index}: task {task} has two attempts at a time: {other} and {token}"));
            }
            tale.attempts.push((token, worker));
        }
        self.take_slot(task, token, worker);
        self.point(task, TaskState::Scheduled);
    }

    fn take_slot(&mut self, task: u64, token: u64, worker: u64) {
        let index = self.index;
        let capacity = self.capacity.get(&worker).copied();
        let tale = self.workers.entry(worker).or_default();
        tale.held.insert(token);
        let held = tale.held.len() as u64;
        if let Some(why) = tale.barred() {
            self.hold.push(format!("at {index}: task {task} is given to worker {worker}, which is {why}"));
        }
        if let Some(capacity) = capacity.filter(|capacity| held > *capacity) {
            self.hold.push(format!("at {index}: worker {worker} holds {held} attempts and has {capacity} slots"));
        }
    }

    fn started(&mut self, task: u64, token: u64) {
        self.alive(task, "starts");
        self.heard(task, token, "started");
        self.point(task, TaskState::Running);
    }

    fn ended(&mut self, task: u64, token: u64) {
        self.alive(task, "has an attempt that ends");
        self.heard(task, token, "ended");
        for worker in self.workers.values_mut() {
            worker.held.remove(&token);
        }
        if let Some(tale) = self.tasks.get_mut(&task).filter(|tale| tale.open == Some(token)) {
            tale.open = None;
        }
        self.point(task, TaskState::Retrying);
    }

    /// Only the open attempt is heard. Beyond a hole in the log nobody knows which one that is.
    fn heard(&mut self, task: u64, token: u64, what: &str) {
        let known = |tale: &&TaskTale| self.index <= tale.known_to && tale.open != Some(token);
        let Some(tale) = self.tasks.get(&task).filter(known) else { return };
        let open = tale.open.map_or("none is open".to_owned(), |open| format!("the open one is {open}"));
        self.tokens.push(format!("at {}: attempt {token} of task {task} {what}, but {open}", self.index));
    }

    fn finished(&mut self, task: u64, state: TaskState, at_us: u64) {
        self.alive(task, "finishes");
        let index = self.index;
        if !state.is_final() {
            self.outcome.push(format!("at {index}: task {task} is finished as {state:?}, which is not final"));
        }
        let Some(tale) = self.tasks.get_mut(&task) else { return };
        if let Some(token) = tale.open.filter(|_| index <= tale.known_to) {
            self.stream.push(format!("at {index}: task {task} is finished while attempt {token} is open"));
        }
        tale.finished.get_or_insert((state, index, at_us));
        self.point(task, state);
    }

    /// Writes down what the task is; within one entry only the last word counts.
    fn point(&mut self, task: u64, state: TaskState) {
        let Some(tale) = self.tasks.get_mut(&task) else { return };
        let point = Point { index: self.index, state, attempts: tale.attempts.len(), open: tale.open.is_some() };
        match tale.points.last_mut() {
            Some(last) if last.index == point.index => *last = point,
            _ => tale.points.push(point),
        }
    }

    fn worker(&mut self, worker: u64, name: &str, change: &str, at_us: u64) {
        let tale = self.workers.entry(worker).or_default();
        if !name.is_empty() {
            name.clone_into(&mut tale.name);
        }
        match change {
            "registered" => {
                tale.registered.push(self.index);
                // A new process forgets a drain; maintenance is asked of the worker, not of the process.
                tale.mode = tale.mode.filter(|mode| *mode == "in maintenance");
                tale.online(self.index, true);
            }
            "resumed" => tale.online(self.index, true),
            "lost" | "left" | "evicted" => tale.online(self.index, false),
            "draining" => tale.mode = Some("draining"),
            "maintenance" => tale.mode = Some("in maintenance"),
            "active" => tale.mode = None,
            _ => {}
        }
        if change == "lost" {
            tale.lost.push((self.index, at_us));
        }
    }
}

impl WorkerTale {
    fn online(&mut self, index: u64, online: bool) {
        self.offline = !online;
        self.points.push((index, !online));
    }

    fn barred(&self) -> Option<&'static str> {
        if self.offline { Some("offline") } else { self.mode }
    }

    /// What was known before a hole in the log says nothing of what is after it.
    fn forget(&mut self) {
        (self.offline, self.mode) = (false, None);
        self.held.clear();
        self.points.clear();
    }

    /// Whether it was online (or offline, as asked) at some index from `index` on, as far as is known.
    pub fn may_be(&self, offline: bool, index: u64) -> bool {
        let before = self.points.iter().rev().find(|(at, _)| *at <= index);
        let after = self.points.iter().filter(|(at, _)| *at > index);
        before.is_none() || before.into_iter().chain(after).any(|(_, told)| *told == offline)
    }
}

impl TaskTale {
    /// Whether a reader could see this between the entries `from` and `to`: a read's index is where it surely was, but it
    /// may have seen more. Beyond the end of what is known, anything that may follow is believed.
    pub fn explains(&self, view: &TaskView, from: u64, to: u64) -> bool {
        let at = self.points.iter().rposition(|point| point.index <= from).unwrap_or(0);
        let mut between = self.points[at..].iter().take_while(|point| point.index <= to);
        let seen = between.any(|point| self.shows(point, view));
        seen || (to >= self.known_to && self.may_follow(view))
    }

    fn shows(&self, point: &Point, view: &TaskView) -> bool {
        let state = match (point.state, view.state) {
            (TaskState::Retrying, TaskState::Pending) => true,
            (told, seen) => told == seen,
        };
        let last = self.attempts[..point.attempts].last();
        let same = match (last, view.attempts.last()) {
            (None, None) => true,
            (Some((token, worker)), Some(seen)) => {
                (*token, *worker) == (seen.token, seen.worker) && point.open != seen.ended
            }
            _ => false,
        };
        state && same
    }

    /// Something later than all that is known.
    fn may_follow(&self, view: &TaskView) -> bool {
        let known = self.attempts.last().map_or(0, |last| last.0);
        let seen = view.attempts.last().map_or(0, |last| last.token);
        self.finished.is_none() && (seen > known || (seen == known && !matches!(view.state, TaskState::Pending)))
    }
}

/// Slots of each worker: the most that a read told.
fn capacities(history: &History) -> HashMap<u64, u64> {
    let mut out = HashMap::new();
    for op in &history.ops {
        let Some(Answer::Workers { workers, .. }) = op.answer() else { continue };
        for worker in workers {
            let most: &mut u64 = out.entry(worker.id).or_default();
            *most = worker.capacity.max(*most);
        }
    }
    out
}

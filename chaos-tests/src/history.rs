//! The cluster's history, as its event stream tells it, and what must be true of every history.
//!
//! What always holds: [`History::problems`] judges by events alone, with a model of its own. It knows nothing of how the
//! product applies commands, so it does not repeat the product's mistakes.

use std::collections::{BTreeMap, BTreeSet};

use steersman_client::v1::event::Kind;
use steersman_client::v1::{EventBatch, TaskState};
use steersman_client::{Client, EventItem, EventsFrom};

/// Events in the order in which they were delivered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Entries that had events.
    pub batches: Vec<EventBatch>,
    /// Trimmed ranges, both ends included.
    pub gaps: Vec<(u64, u64)>,
    /// How often the stream was lost and found again.
    pub reconnects: u64,
}

/// What a fold of the events says of all tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks ever submitted.
    pub submitted: u64,
    /// Tasks that have an outcome.
    pub finished: u64,
    /// …of which succeeded,
    pub succeeded: u64,
    /// …failed,
    pub failed: u64,
    /// …were cancelled.
    pub cancelled: u64,
}

impl History {
    /// Everything that is still kept, from any master.
    ///
    /// # Errors
    /// What the cluster answered instead.
    pub async fn read(client: &Client) -> Result<Self, String> {
        Self::read_from(client, EventsFrom::Oldest).await
    }

    /// Everything from somewhere until the end.
    ///
    /// # Errors
    /// As [`History::read`].
    pub async fn read_from(client: &Client, from: EventsFrom) -> Result<Self, String> {
        let (mut history, mut stream) = (Self::default(), client.events(from, false));
        while let Some(item) = stream.next().await {
            history.add(item.map_err(|error| error.to_string())?);
        }
        Ok(history)
    }

    /// Takes one item of a stream.
    pub fn add(&mut self, item: EventItem) {
        match item {
            EventItem::Batch(batch) => self.batches.push(batch),
            EventItem::Gap { from, to } => self.gaps.push((from, to)),
            EventItem::Reconnected { .. } => self.reconnects += 1,
            EventItem::Progress { .. } | EventItem::Lost { .. } => {}
        }
    }

    /// The last index with events.
    pub fn last_index(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.index)
    }

    /// Everything that no history may contain. Empty for a good one.
    pub fn problems(&self) -> Vec<String> {
        let mut model = Model { trimmed: !self.gaps.is_empty(), ..Model::default() };
        for batch in &self.batches {
            if batch.index <= model.index {
                model.problems.push(format!("index {} comes after {}", batch.index, model.index));
            }
            if batch.term < model.term {
                model.problems.push(format!("term {} comes after {} at {}", batch.term, model.term, batch.index));
            }
            (model.index, model.term) = (batch.index, batch.term);
            batch.events.iter().filter_map(|event| event.kind.as_ref()).for_each(|kind| model.take(kind));
        }
        model.problems
    }

    /// The accepted outcome of each finished task.
    pub fn outcomes(&self) -> BTreeMap<u64, TaskState> {
        let finished = self.kinds().filter_map(|kind| match kind {
            Kind::TaskFinished(finished) => Some((finished.task_id, finished.state())),
            _ => None,
        });
        finished.collect()
    }

    /// What the events add up to.
    pub fn fold(&self) -> Counts {
        let mut counts = Counts::default();
        for kind in self.kinds() {
            match kind {
                Kind::TasksSubmitted(submitted) => counts.submitted += submitted.count,
                Kind::TaskFinished(finished) => {
                    counts.finished += 1;
                    match finished.state() {
                        TaskState::Succeeded => counts.succeeded += 1,
                        TaskState::Failed => counts.failed += 1,
                        TaskState::Cancelled => counts.cancelled += 1,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        counts
    }

    /// Tokens of all attempts of a task, in order.
    pub fn tokens(&self, task: u64) -> Vec<u64> {
        let assigned = self.kinds().filter_map(|kind| match kind {
            Kind::TaskAssigned(assigned) if assigned.task_id == task => Some(assigned.token),
            _ => None,
        });
        assigned.collect()
    }

    /// Names of workers, each with what changed about it, in order.
    pub fn worker_changes(&self) -> Vec<(String, String)> {
        let changes = self.kinds().filter_map(|kind| match kind {
            Kind::WorkerChanged(changed) => Some((changed.name.clone(), changed.change.clone())),
            _ => None,
        });
        changes.collect()
    }

    fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.batches.iter().flat_map(|batch| &batch.events).filter_map(|event| event.kind.as_ref())
    }
}

/// What is known of the tasks while the events go by.
#[derive(Debug, Default)]
struct Model {
    index: u64,
    term: u64,
    token: u64,
    next_id: u64,
    /// The history does not begin at the beginning.
    trimmed: bool,
    /// Token of each task's open attempt.
    open: BTreeMap<u64, u64>,
    finished: BTreeSet<u64>,
    problems: Vec<String>,
}

impl Model {
    fn take(&mut self, kind: &Kind) {
        match kind {
            Kind::TasksSubmitted(submitted) => self.submitted(submitted.first_id, submitted.count),
            Kind::TaskAssigned(assigned) => self.assigned(assigned.task_id, assigned.token),
            Kind::TaskStarted(started) => self.attempt(started.task_id, started.token, "started"),
            Kind::AttemptEnded(ended) => {
                self.attempt(ended.task_id, ended.token, "ended");
                self.open.remove(&ended.task_id);
            }
            Kind::TaskFinished(finished) => self.finish(finished.task_id),
            Kind::TaskRetrying(retrying) => self.alive(retrying.task_id, "retried"),
            _ => {}
        }
    }

    fn problem(&mut self, text: String) {
        self.problems.push(format!("at {}: {text}", self.index));
    }

    fn submitted(&mut self, first_id: u64, count: u64) {
        if first_id < self.next_id {
            self.problem(format!("task {first_id} was submitted before"));
        }
        self.next_id = first_id + count;
    }

    fn alive(&mut self, task: u64, what: &str) {
        if self.finished.contains(&task) {
            self.problem(format!("task {task} is {what} after its end"));
        }
        if task >= self.next_id && !(self.trimmed && self.next_id == 0) {
            self.problem(format!("task {task} is {what} before it was submitted"));
        }
    }

    fn assigned(&mut self, task: u64, token: u64) {
        self.alive(task, "assigned");
        if token <= self.token {
            self.problem(format!("token {token} of task {task} comes after token {}", self.token));
        }
        self.token = token;
        if let Some(other) = self.open.insert(task, token) {
            self.problem(format!("task {task} has two attempts at a time: {other} and {token}"));
        }
    }

    fn attempt(&mut self, task: u64, token: u64, what: &str) {
        self.alive(task, what);
        let known = self.open.get(&task).copied();
        if known != Some(token) && !(self.trimmed && known.is_none()) {
            self.problem(format!("attempt {token} of task {task} {what}, but the open one is {known:?}"));
        }
    }

    fn finish(&mut self, task: u64) {
        if !self.finished.insert(task) {
            self.problem(format!("task {task} has two accepted outcomes"));
        }
        if let Some(token) = self.open.get(&task) {
            let text = format!("task {task} is finished while attempt {token} is open");
            self.problem(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use steersman_client::v1::{AttemptEnded, Event, TaskAssigned, TaskFinished, TaskStarted, TasksSubmitted};

    use super::*;

    fn history(kinds: &[Kind]) -> History {
        let batch = |(n, kind): (usize, &Kind)| EventBatch {
            index: n as u64 + 1,
            term: 1,
            events: vec![Event { kind: Some(kind.clone()) }],
            ..EventBatch::default()
        };
        History { batches: kinds.iter().enumerate().map(batch).collect(), ..History::default() }
    }

    fn submitted(first_id: u64, count: u64) -> Kind {
        Kind::TasksSubmitted(TasksSubmitted { first_id, count })
    }

    fn assigned(task_id: u64, token: u64) -> Kind {
        Kind::TaskAssigned(TaskAssigned { task_id, token, worker_id: 1, attempt: 1 })
    }

    fn ended(task_id: u64, token: u64) -> Kind {
        Kind::AttemptEnded(AttemptEnded { task_id, token, ..AttemptEnded::default() })
    }

    fn finished(task_id: u64) -> Kind {
        Kind::TaskFinished(TaskFinished { task_id, state: TaskState::Succeeded.into(), outcome: 1 })
    }

    fn started(task_id: u64, token: u64) -> Kind {
        Kind::TaskStarted(TaskStarted { task_id, token })
    }

    #[test]
    fn a_good_history_has_no_problem_and_adds_up() {
        let good = history(&[
            submitted(1, 2),
            assigned(1, 1),
            started(1, 1),
            ended(1, 1),
            assigned(1, 2),
            ended(1, 2),
            finished(1),
            finished(2),
        ]);
        assert_eq!(good.problems(), Vec::<String>::new());
        assert_eq!(good.fold(), Counts { submitted: 2, finished: 2, succeeded: 2, ..Counts::default() });
        assert_eq!(good.tokens(1), [1, 2]);
    }

    #[test]
    fn each_kind_of_bad_history_turns_it_red() {
        let bad: Vec<(&str, Vec<Kind>)> = vec![
            ("two accepted outcomes", vec![submitted(1, 1), finished(1), finished(1)]),
            ("comes after token", vec![submitted(1, 2), assigned(1, 5), assigned(2, 5)]),
            ("two attempts at a time", vec![submitted(1, 1), assigned(1, 1), assigned(1, 2)]),
            ("after its end", vec![submitted(1, 1), finished(1), assigned(1, 1)]),
            (
                "the open one is Some(2)",
                vec![submitted(1, 1), assigned(1, 1), ended(1, 1), assigned(1, 2), ended(1, 1)],
            ),
            ("the open one is None", vec![submitted(1, 1), started(1, 7)]),
            ("was submitted before", vec![submitted(1, 5), submitted(3, 1)]),
            ("before it was submitted", vec![assigned(9, 1)]),
            ("while attempt 1 is open", vec![submitted(1, 1), assigned(1, 1), finished(1)]),
        ];
        for (needle, kinds) in bad {
            let problems = history(&kinds).problems();
            assert!(problems.iter().any(|problem| problem.contains(needle)), "{needle}: {problems:?}");
        }
    }

    #[test]
    fn indexes_and_terms_rise() {
        let mut twice = history(&[submitted(1, 1), finished(1)]);
        twice.batches[1].index = 1;
        assert_eq!(twice.problems(), ["index 1 comes after 1"]);
        let mut back = history(&[submitted(1, 1), finished(1)]);
        back.batches[1].term = 0;
        assert_eq!(back.problems(), ["term 0 comes after 1 at 2"]);
    }
}

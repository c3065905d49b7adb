//! The task table: every task that is kept, in chunks behind reference counts, so that a consistent copy costs one count
//! per chunk and apply goes on while the copy is written.
//!
//! What always holds: no chunk is empty, and a task's open attempt is the last of its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{TaskId, Token, WorkerId};
use crate::plan::ClassId;
use crate::task::{Outcome, TaskSpec, TaskState};

/// Tasks per chunk: a write after a copy clones one chunk (4 KiB), a copy of a million tasks counts 15,625 references.
pub(crate) const CHUNK: u64 = 64;

/// One task.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// Shared by an array's tasks.
    pub spec: Arc<TaskSpec>,
    /// Its requirement class; means something only while it is unfinished. Derived.
    pub class: ClassId,
    pub facts: Facts,
}

/// What a snapshot keeps of a task besides its spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub state: TaskState,
    pub outcome: Option<Outcome>,
    pub array_index: u32,
    /// Cluster time of the submit.
    pub submitted_at_ms: u64,
    /// Wall time of the submit.
    pub submitted_ms: u64,
    /// While retrying: cluster time at which it is pending again. Once finished: wall time of the end.
    pub until_ms: u64,
    /// Of the last change.
    pub log_index: u64,
    /// Absent until the first attempt.
    pub history: Option<Box<History>>,
}

/// The attempts of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// The first one and as many of the latest as are kept, without the last.
    pub earlier: Vec<Attempt>,
    pub last: Attempt,
    pub result: Box<[u8]>,
    pub result_truncated: bool,
}

/// One execution on a worker. Times are wall time, 0 for unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub number: u32,
    pub token: Token,
    pub worker: WorkerId,
    pub assigned_ms: u64,
    pub started_ms: u64,
    pub ended_ms: u64,
    pub ran_ms: u64,
    /// Absent while it is open.
    pub outcome: Option<Outcome>,
    pub exit_code: i32,
    pub message: Box<str>,
}

impl Task {
    /// Cluster time of its deadline.
    pub fn deadline_at_ms(&self) -> Option<u64> {
        (self.spec.deadline_ms > 0).then(|| self.facts.submitted_at_ms.saturating_add(self.spec.deadline_ms))
    }

    /// The attempt that is open, if one is.
    pub fn open(&self) -> Option<&Attempt> {
        self.last().filter(|attempt| attempt.outcome.is_none())
    }

    pub fn open_mut(&mut self) -> Option<&mut Attempt> {
        let history = self.facts.history.as_deref_mut()?;
        history.last.outcome.is_none().then_some(&mut history.last)
    }

    pub fn last(&self) -> Option<&Attempt> {
        self.facts.history.as_deref().map(|history| &history.last)
    }

    /// How many attempts it has had.
    pub fn attempts(&self) -> u32 {
        self.last().map_or(0, |attempt| attempt.number)
    }

    /// Begins an attempt; of the older ones at most `kept_max - 1` are kept, the very first among them.
    pub fn begin(&mut self, attempt: Attempt, kept_max: u32) {
        let Some(history) = self.facts.history.as_deref_mut() else {
            let result = Box::default();
            let history = History { earlier: Vec::new(), last: attempt, result, result_truncated: false };
            self.facts.history = Some(Box::new(history));
            return;
        };
        history.earlier.push(std::mem::replace(&mut history.last, attempt));
        let kept = (kept_max as usize).max(2) - 1;
        while history.earlier.len() > kept {
            let second = usize::from(kept > 1);
            history.earlier.remove(second);
        }
    }
}

/// Tasks with neighbouring ids.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    live: u32,
    slots: [Option<Task>; CHUNK as usize],
}

impl Default for Chunk {
    fn default() -> Self {
        Self { live: 0, slots: std::array::from_fn(|_| None) }
    }
}

/// All tasks by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

fn place(id: TaskId) -> (u64, usize) {
    (id.0 / CHUNK, (id.0 % CHUNK) as usize)
}

impl Table {
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        let (chunk, slot) = place(id);
        self.chunks.get(&chunk)?.slots[slot].as_ref()
    }

    pub fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        let (chunk, slot) = place(id);
        Arc::make_mut(self.chunks.get_mut(&chunk)?).slots[slot].as_mut()
    }

    /// Adds `count` tasks with neighbouring ids.
    pub fn append(&mut self, first: TaskId, count: u64, make: impl Fn(u64) -> Task) {
        let mut done = 0;
        while done < count {
            let (key, slot) = place(TaskId(first.0 + done));
            let chunk = Arc::make_mut(self.chunks.entry(key).or_default());
            let room = (CHUNK - slot as u64).min(count - done);
            for offset in 0..room {
                let old = chunk.slots[slot + offset as usize].replace(make(done + offset));
                chunk.live += u32::from(old.is_none());
            }
            done += room;
        }
    }

    pub fn remove(&mut self, id: TaskId) -> Option<Task> {
        let (key, slot) = place(id);
        let chunk = Arc::make_mut(self.chunks.get_mut(&key)?);
        let task = chunk.slots[slot].take()?;
        chunk.live -= 1;
        if chunk.live == 0 {
            self.chunks.remove(&key);
        }
        Some(task)
    }

    /// From `id` up.
    pub fn up_from(&self, id: TaskId) -> impl Iterator<Item = (TaskId, &Task)> {
        self.chunks.range(place(id).0..).flat_map(tasks_of).skip_while(move |(at, _)| *at < id)
    }

    /// From `id` down.
    pub fn down_from(&self, id: TaskId) -> impl Iterator<Item = (TaskId, &Task)> {
        self.chunks
            .range(..=place(id).0)
            .rev()
            .flat_map(|entry| tasks_of(entry).rev())
            .skip_while(move |(at, _)| *at > id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.chunks.iter().flat_map(tasks_of)
    }

    /// For rebuilding what is derived. Unshares every chunk.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (TaskId, &mut Task)> {
        self.chunks.iter_mut().flat_map(|(key, chunk)| {
            let ids = (key * CHUNK..).map(TaskId);
            ids.zip(&mut Arc::make_mut(chunk).slots).filter_map(|(id, slot)| Some((id, slot.as_mut()?)))
        })
    }

    /// Whether each chunk counts its tasks rightly.
    pub fn counts_hold(&self) -> bool {
        let live = |chunk: &Chunk| chunk.slots.iter().flatten().count() as u32;
        self.chunks.values().all(|chunk| chunk.live > 0 && chunk.live == live(chunk))
    }
}

fn tasks_of<'a>((key, chunk): (&u64, &'a Arc<Chunk>)) -> impl DoubleEndedIterator<Item = (TaskId, &'a Task)> {
    let first = key * CHUNK;
    let slots = chunk.slots.iter().enumerate();
    slots.filter_map(move |(slot, task)| Some((TaskId(first + slot as u64), task.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_small() {
        assert!(size_of::<Task>() <= 72, "{}", size_of::<Task>());
        assert_eq!(size_of::<Option<Task>>(), size_of::<Task>());
        assert!(size_of::<History>() <= 144, "{}", size_of::<History>());
    }
}

//! The shared tasks that the registers work on.
//!
//! What always holds: at most [`TOGETHER_MAX`] operations are open on one task at a time, those that may still happen included, for
//! the check for linearizability grows with them; a task is retired after [`OPS_MAX`] operations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use steersman_world::Entropy;

/// Open operations of one task: what the checker decides in no time.
pub const TOGETHER_MAX: u32 = 8;
/// Operations of one task.
const OPS_MAX: u32 = 60;
/// Cancels of one task: each may be of unknown outcome and then stays open for ever.
const CANCELS_MAX: u32 = 3;
/// Tasks that are shared at a time: few, so that they are fought over.
const KEYS: usize = 24;

/// The pool.
#[derive(Debug, Default)]
pub struct Keys(Mutex<Vec<Key>>);

#[derive(Debug, Clone)]
struct Key {
    task: u64,
    open: u32,
    stuck: u32,
    ops: u32,
    cancels: u32,
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, Vec<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pool needs another task.
    pub fn wants_more(&self) -> bool {
        self.lock().len() < KEYS
    }

    /// Shares a task.
    pub fn add(&self, task: u64) {
        self.lock().push(Key { task, open: 0, stuck: 0, ops: 0, cancels: 0 });
    }

    /// Some task for an operation, with room for it. [`Keys::give_back`] it.
    pub fn take(&self, entropy: &dyn Entropy, cancel: bool) -> Option<u64> {
        let mut keys = self.lock();
        let together = |key: &Key| key.open + key.stuck < TOGETHER_MAX && key.ops < OPS_MAX;
        let room = |key: &Key| together(key) && (!cancel || key.cancels < CANCELS_MAX);
        let free: Vec<usize> = (0..keys.len()).filter(|at| room(&keys[*at])).collect();
        let at = *free.get(entropy.below(free.len() as u64) as usize)?;
        let key = &mut keys[at];
        key.open += 1;
        key.ops += 1;
        key.cancels += u32::from(cancel);
        Some(key.task)
    }

    /// The operation is over; `stuck`: it may have an effect yet.
    pub fn give_back(&self, task: u64, stuck: bool) {
        let mut keys = self.lock();
        if let Some(key) = keys.iter_mut().find(|key| key.task == task) {
            key.open -= 1;
            key.stuck += u32::from(stuck);
        }
        keys.retain(|key| key.ops < OPS_MAX || key.open > 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_world::SeededEntropy;

    use super::*;

    #[test]
    fn a_task_has_few_operations_at_a_time_and_is_retired_in_the_end() {
        let (keys, entropy) = (Keys::default(), SeededEntropy::new(1));
        keys.add(5);
        let open: Vec<u64> = std::iter::from_fn(|| keys.take(&entropy, false)).collect();
        assert_eq!(open, [5; TOGETHER_MAX as usize]);
        open.iter().for_each(|task| keys.give_back(*task, false));
        let cancels = std::iter::from_fn(|| keys.take(&entropy, true).inspect(|task| keys.give_back(*task, true)));
        assert_eq!(cancels.count(), CANCELS_MAX as usize);
        let room = std::iter::from_fn(|| keys.take(&entropy, false)).take(100).count();
        assert_eq!(room, (TOGETHER_MAX - CANCELS_MAX) as usize, "cancels of unknown outcome stay open");
        (0..room).for_each(|_| keys.give_back(5, false));
        while let Some(task) = keys.take(&entropy, false) {
            keys.give_back(task, false);
        }
        assert!(keys.lock().is_empty(), "it had its {OPS_MAX} operations");
    }
}

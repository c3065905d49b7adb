//! Callers that wait for a task to finish, woken by `apply`.
//!
//! What always holds: a caller that subscribes *before* it looks at the state misses nothing, and a wake carries no data:
//! it says *look*. When nobody waits, [`Waiters::observe`] is one atomic load. The number of waiters is bounded.
//!
//! A wait for a range is a wait for one unfinished task of it at a time (see `grpc::tasks_api`), so one task per waiter is
//! all that is kept here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use steersman_state::effect::Event;
use steersman_state::ids::TaskId;
use tokio::sync::Notify;

/// Bound for [`Waiters::new`]: ten thousand waiting callers cost about 2 MiB.
const WAITERS_MAX: usize = 10_000;

/// Who waits for what.
#[derive(Debug)]
pub struct Waiters {
    waiting: AtomicUsize,
    max: usize,
    tasks: Mutex<BTreeMap<TaskId, Vec<Arc<Notify>>>>,
}

impl Default for Waiters {
    fn default() -> Self {
        Self::new()
    }
}

impl Waiters {
    /// Nobody waits yet; at most 10,000 may.
    pub fn new() -> Self {
        Self::with_max(WAITERS_MAX)
    }

    /// Nobody waits yet; at most `max` may.
    pub fn with_max(max: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), max, tasks: Mutex::default() }
    }

    /// Wakes whoever waits for a task that finished by these events. Call it after the state shows them.
    pub fn observe(&self, events: &[Event]) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let tasks = self.tasks.lock();
        for event in events {
            if let Event::TaskFinished { task, .. } = event {
                tasks.get(task).into_iter().flatten().for_each(|waiter| waiter.notify_one());
            }
        }
    }

    /// A snapshot replaced the state: anything may have finished, so everybody looks.
    pub fn installed(&self) {
        self.tasks.lock().values().flatten().for_each(|waiter| waiter.notify_one());
    }

    /// Begins to wait for a task. `None` if too many wait already. Look at the state after this call, not before.
    pub fn subscribe(self: &Arc<Self>, task: TaskId) -> Option<WaitHandle> {
        let mut tasks = self.tasks.lock();
        if self.waiting.load(Ordering::SeqCst) >= self.max {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let bell = Arc::new(Notify::new());
        tasks.entry(task).or_default().push(bell.clone());
        Some(WaitHandle { waiters: self.clone(), task, bell })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many may wait.
    pub fn max(&self) -> usize {
        self.max
    }

    fn leave(&self, task: TaskId, bell: &Arc<Notify>) {
        let mut tasks = self.tasks.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if let Some(bells) = tasks.get_mut(&task) {
            bells.retain(|other| !Arc::ptr_eq(other, bell));
            if bells.is_empty() {
                tasks.remove(&task);
            }
        }
    }
}

/// One caller that waits for one task; dropping it ends the wait.
#[derive(Debug)]
pub struct WaitHandle {
    waiters: Arc<Waiters>,
    task: TaskId,
    bell: Arc<Notify>,
}

impl WaitHandle {
    /// Returns once the task has finished since the subscription (or a snapshot was installed). A finish between two calls
    /// is not lost.
    pub async fn notified(&self) {
        self.bell.notified().await;
    }
}

impl Drop for WaitHandle {
    fn drop(&mut self) {
        self.waiters.leave(self.task, &self.bell);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt as _;
    use steersman_state::task::TaskState;

    fn finished(task: u64) -> Event {
        Event::TaskFinished { task: TaskId(task), state: TaskState::Succeeded, outcome: None }
    }

    #[test]
    fn a_finish_wakes_those_who_wait_for_that_task_and_no_others() {
        let waiters = Arc::new(Waiters::new());
        let (one, same, other) = (1, 1, 2);
        let [one, same, other] = [one, same, other].map(|task| waiters.subscribe(TaskId(task)).unwrap());
        waiters.observe(&[finished(1)]);
        assert!(one.notified().now_or_never().is_some());
        assert!(same.notified().now_or_never().is_some());
        assert!(other.notified().now_or_never().is_none());
    }

    #[test]
    fn a_finish_before_the_first_poll_is_not_lost() {
        let waiters = Arc::new(Waiters::new());
        let handle = waiters.subscribe(TaskId(7)).unwrap();
        waiters.observe(&[Event::TasksTrimmed { count: 1 }, finished(7)]);
        assert!(handle.notified().now_or_never().is_some());
        assert!(handle.notified().now_or_never().is_none(), "one finish wakes once");
    }

    #[test]
    fn other_events_wake_nobody() {
        let waiters = Arc::new(Waiters::new());
        let handle = waiters.subscribe(TaskId(7)).unwrap();
        waiters.observe(&[Event::TaskRetrying { task: TaskId(7), delay_ms: 0 }]);
        assert!(handle.notified().now_or_never().is_none());
    }

    #[test]
    fn a_snapshot_wakes_everybody() {
        let waiters = Arc::new(Waiters::new());
        let handles = [1, 2, 3].map(|task| waiters.subscribe(TaskId(task)).unwrap());
        waiters.installed();
        assert!(handles.iter().all(|handle| handle.notified().now_or_never().is_some()));
    }

    #[test]
    fn p14_waiters_are_bounded_and_leave_nothing_behind() {
        let waiters = Arc::new(Waiters::with_max(2));
        let first = waiters.subscribe(TaskId(1)).unwrap();
        let second = waiters.subscribe(TaskId(1)).unwrap();
        assert!(waiters.subscribe(TaskId(2)).is_none());
        drop(first);
        assert_eq!(waiters.waiting(), 1);
        let third = waiters.subscribe(TaskId(2)).unwrap();
        drop((second, third));
        assert_eq!(waiters.waiting(), 0);
        assert!(waiters.tasks.lock().is_empty());
    }
}

//! All tasks of one simulated process, so that it can be frozen and ended as a whole.
//!
//! What always holds: whatever a task of a scope spawns belongs to the same scope; a frozen scope's tasks are not polled
//! (timers fire and messages arrive meanwhile, and are seen after the thaw, as after a SIGSTOP); a dead scope's tasks are
//! dropped at once, in the order in which they were spawned, and nothing of it is ever polled again. It does not stop the
//! clock: time that passed in the freeze has passed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::panics;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Running,
    Frozen,
    Dead,
}

type Slot = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

struct Inner {
    mood: Mood,
    next: u64,
    tasks: BTreeMap<u64, Slot>,
    parked: Vec<Waker>,
}

/// One simulated process.
pub struct Scope(Mutex<Inner>);

/// Puts the scope of whoever spawns around a task: for the product's spawners.
pub fn around(task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    match CURRENT.with(|current| current.borrow().clone()) {
        Some(scope) => Box::pin(scope.adopt(task)),
        None => task,
    }
}

impl Scope {
    /// An empty one that runs.
    pub fn new() -> Arc<Self> {
        let inner = Inner { mood: Mood::Running, next: 0, tasks: BTreeMap::new(), parked: Vec::new() };
        Arc::new(Self(Mutex::new(inner)))
    }

    /// Starts a task of this process.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.adopt(Box::pin(task)));
    }

    /// From now on nothing of it is polled.
    pub fn freeze(&self) {
        let mut inner = self.0.lock();
        if inner.mood == Mood::Running {
            inner.mood = Mood::Frozen;
        }
    }

    /// It goes on.
    pub fn thaw(&self) {
        let parked = {
            let mut inner = self.0.lock();
            if inner.mood == Mood::Frozen {
                inner.mood = Mood::Running;
            }
            std::mem::take(&mut inner.parked)
        };
        parked.into_iter().for_each(Waker::wake);
    }

    /// Ends it for ever.
    pub fn kill(self: &Arc<Self>) {
        let (tasks, parked) = {
            let mut inner = self.0.lock();
            inner.mood = Mood::Dead;
            (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.parked))
        };
        let _entered = Entered::enter(self.clone());
        for slot in tasks.into_values() {
            // A task that kills its own scope is dropped when its poll returns.
            let future = slot.try_lock().and_then(|mut future| future.take());
            drop(future);
        }
        parked.into_iter().for_each(Waker::wake);
    }

    /// Whether it was ended.
    pub fn is_dead(&self) -> bool {
        self.0.lock().mood == Mood::Dead
    }

    /// Whether it runs now.
    pub fn runs(&self) -> bool {
        self.0.lock().mood == Mood::Running
    }

    /// A future of this process that lives in one of somebody else's tasks: not polled while the scope is frozen, nor once it
    /// is dead. It is dropped with the task that it lives in.
    pub async fn contain<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(move |cx| {
            if !self.may_go_on(cx) {
                return Poll::Pending;
            }
            let _entered = Entered::enter(self.clone());
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it runs; if it is frozen, whoever asks is woken by the thaw.
    fn may_go_on(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.0.lock();
        if inner.mood == Mood::Frozen {
            inner.parked.push(cx.waker().clone());
        }
        inner.mood == Mood::Running
    }

    fn adopt(self: &Arc<Self>, task: BoxFuture<'static, ()>) -> Scoped {
        let mut inner = self.0.lock();
        let number = inner.next;
        inner.next += 1;
        let slot: Slot = Arc::new(Mutex::new(Some(task)));
        if inner.mood != Mood::Dead {
            inner.tasks.insert(number, slot.clone());
        }
        Scoped { scope: self.clone(), number, slot }
    }
}

struct Scoped {
    scope: Arc<Scope>,
    number: u64,
    slot: Slot,
}

impl Scoped {
    fn end(&self) -> Poll<()> {
        self.scope.0.lock().tasks.remove(&self.number);
        let future = self.slot.lock().take();
        let _entered = Entered::enter(self.scope.clone());
        drop(future);
        Poll::Ready(())
    }
}

impl Future for Scoped {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.scope.may_go_on(cx) {
            return if self.scope.is_dead() { self.end() } else { Poll::Pending };
        }
        let polled = {
            let _entered = Entered::enter(self.scope.clone());
            let mut slot = self.slot.lock();
            let poll = || slot.as_mut().map_or(Poll::Ready(()), |future| future.as_mut().poll(cx));
            catch_unwind(AssertUnwindSafe(poll))
        };
        let polled = match polled {
            Ok(polled) => polled,
            Err(_) if panics::are_kept() => Poll::Ready(()),
            Err(panic) => resume_unwind(panic),
        };
        if polled.is_ready() || self.scope.is_dead() { self.end() } else { Poll::Pending }
    }
}

impl Drop for Scoped {
    /// A task that is aborted ends here.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Makes a scope the current one, until dropped.
struct Entered(Option<Arc<Scope>>);

impl Entered {
    fn enter(scope: Arc<Scope>) -> Self {
        Self(CURRENT.with(|current| current.replace(Some(scope))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    async fn count_up(counter: Arc<AtomicU64>) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_scope_stands_still_and_a_dead_one_is_gone_with_all_it_spawned() {
        let (scope, counter) = (Scope::new(), Arc::new(AtomicU64::new(0)));
        let inner = counter.clone();
        scope.spawn(async move {
            tokio::spawn(around(Box::pin(count_up(inner))));
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(55)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 5);
        scope.freeze();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 5);
        scope.thaw();
        tokio::time::sleep(Duration::from_millis(55)).await;
        assert!((9..=11).contains(&counter.load(Ordering::Relaxed)), "{counter:?}");
        scope.kill();
        assert_eq!(Arc::strong_count(&counter), 1, "everything was dropped at once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_contained_stands_still_with_its_scope() {
        let (scope, counter) = (Scope::new(), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(scope.clone().contain(count_up(counter.clone())));
        tokio::time::sleep(Duration::from_millis(25)).await;
        scope.freeze();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 2);
        scope.thaw();
        tokio::time::sleep(Duration::from_millis(25)).await;
        assert!(counter.load(Ordering::Relaxed) > 2);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_aborted_task_is_dropped() {
        let (scope, counter) = (Scope::new(), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(scope.adopt(Box::pin(count_up(counter.clone()))));
        tokio::time::sleep(Duration::from_millis(25)).await;
        task.abort();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&counter), 1);
    }
}

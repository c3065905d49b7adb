//! Where tasks run: the ambient runtime, or one of its own (Raft's small runtime on a real machine).

use std::future::Future;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What a simulation puts around a task, to freeze a node or to end all of it at once: the result ends when the task has
/// ended, or before, which ends the task.
pub type Around = fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

/// Spawns tasks on one runtime. In a simulation everything uses the host's only runtime.
#[derive(Debug, Clone)]
pub struct Spawner {
    handle: Handle,
    around: Option<Around>,
}

impl Spawner {
    /// The runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn ambient() -> Self {
        Self::on(Handle::current())
    }

    /// The given runtime.
    pub fn on(handle: Handle) -> Self {
        Self { handle, around: None }
    }

    /// The runtime of the caller, with `around` around each task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn surrounded(around: Around) -> Self {
        Self { around: Some(around), ..Self::ambient() }
    }

    /// Starts `task`; dropping the handle does not stop it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.around {
            None => self.handle.spawn(task),
            Some(around) => self.handle.spawn(surrounded(around, task)),
        }
    }

    /// The runtime itself.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// The task with `around` around it, put there at once. If it is ended before its time, nobody gets its result.
fn surrounded<F>(around: Around, task: F) -> impl Future<Output = F::Output> + Send + 'static
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (done, result) = oneshot::channel();
    let task = around(Box::pin(async move { drop(done.send(task.await)) }));
    async move {
        task.await;
        match result.await {
            Ok(output) => output,
            Err(_) => std::future::pending().await,
        }
    }
}

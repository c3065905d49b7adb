//! Where tasks run: the ambient runtime, or one of its own (Raft's small runtime on a real machine).

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Spawns tasks on one runtime. In a simulation everything uses the host's only runtime.
#[derive(Debug, Clone)]
pub struct Spawner(Handle);

impl Spawner {
    /// The runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn ambient() -> Self {
        Self(Handle::current())
    }

    /// The given runtime.
    pub fn on(handle: Handle) -> Self {
        Self(handle)
    }

    /// Starts `task`; dropping the handle does not stop it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.spawn(task)
    }

    /// The runtime itself.
    pub fn handle(&self) -> &Handle {
        &self.0
    }
}

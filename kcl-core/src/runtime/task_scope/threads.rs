//! Where the tasks of a scope run: those that coordinate on a thread of their own, which user code cannot hold up.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// Where a task runs in a scope that has two runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskPlace {
    /// Where the worker coordinates. No user code runs there, and every call of the lease store does.
    Coordination,
    /// Beside the user's code, which may block any thread.
    Processing,
}

/// The two runtimes of a scope.
#[derive(Clone)]
pub(crate) struct TaskThreads {
    pub(super) coordination: Handle,
    pub(super) processing: Handle,
}

/// The runtime of a thread that is not running yet. Dropping it drops its tasks, wherever that happens.
pub(crate) struct OwnThread {
    /// Until it is dropped.
    pub(super) runtime: Option<Runtime>,
}

impl OwnThread {
    /// Makes a runtime with timers and sockets, for tasks that never block.
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Runs the tasks of the runtime on a thread of this name, until `ended` is ready. Logs go where the caller's go.
    pub(crate) fn run(self, name: &str, ended: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let logs = tracing::dispatcher::get_default(Dispatch::clone);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            if let Some(runtime) = &self.runtime {
                if logs.is::<NoSubscriber>() {
                    runtime.block_on(ended);
                } else {
                    tracing::dispatcher::with_default(&logs, || runtime.block_on(ended));
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping it would wait for name lookups that are under way, which tokio does not allow everywhere.
            runtime.shutdown_background();
        }
    }
}

//! Wakes the tasks that wait for any change of something that is computed when it is asked for.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The tasks that wait for a change. Without any, a change costs one load.
///
/// No change is missed: a watcher counts before it looks, and [`notify`](Self::notify) comes after the change. Both pass the lock of
/// what has changed in between, so the one that comes later sees the other.
#[derive(Debug, Default)]
pub(crate) struct ChangeSignal {
    watchers: AtomicUsize,
    notify: Notify,
}

impl ChangeSignal {
    /// Wakes the watchers. Called after the change.
    pub(crate) fn notify(&self) {
        if self.watchers.load(Ordering::SeqCst) > 0 {
            self.notify.notify_waiters();
        }
    }

    /// Becomes a watcher, until the returned value is dropped.
    pub(crate) fn watch(&self) -> ChangeWatcher<'_> {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        ChangeWatcher(self)
    }
}

/// A task that waits for changes.
pub(crate) struct ChangeWatcher<'a>(&'a ChangeSignal);

impl ChangeWatcher<'_> {
    /// Returns at the next change after this call, even if that comes before the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.0.notify.notified()
    }
}

impl Drop for ChangeWatcher<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

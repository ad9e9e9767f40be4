//! A value that tasks share, and that some of them wait for.

#[cfg(test)]
pub(crate) mod explored;
#[cfg(test)]
mod tests;

use std::fmt;
#[cfg(not(test))]
use std::sync::Mutex;
use std::sync::PoisonError;

#[cfg(not(test))]
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::runtime::lock::count;

// The very same, but for a test that tries the orders in which tasks can take their steps.
#[cfg(test)]
use explored::{Mutex, Notify};

/// A value behind a mutex, and the tasks that wait for a condition on it.
///
/// No wakeup is lost, because of two orders that are written only here: who waits takes a place among the waiters *before* looking
/// at the value, and who changes the value wakes the waiters *after* it. And everybody who waits is woken, not one of them: the one
/// might be dropped, or wait for something else.
///
/// A closure that is called with the value runs under the mutex, so it must not wait, nor use the same monitor.
#[derive(Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    notify: Notify,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            notify: Notify::new(),
        }
    }

    /// Looks at the value.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.modify_quietly(|value| look(value))
    }

    /// Changes the value, and wakes whoever waits.
    pub(crate) fn modify<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let outcome = self.modify_quietly(change);
        self.notify.notify_waiters();
        outcome
    }

    /// Changes the value in a way that nobody waits for.
    pub(crate) fn modify_quietly<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        count();
        // A change that panicked is over; none of ours leaves a value half changed.
        change(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what is found in the value, once something is.
    ///
    /// Dropping the future has no effect.
    pub(crate) async fn wait_for<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> R {
        self.wait_until(|value| look(value)).await
    }

    /// Tries to take something out of the value until that works. An attempt may change the value, in a way that nobody waits for.
    ///
    /// Dropping the future leaves what the attempts so far have done.
    pub(crate) async fn wait_until<R>(&self, mut attempt: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            let changed = self.changed();
            if let Some(found) = self.modify_quietly(&mut attempt) {
                return found;
            }
            changed.await;
        }
    }

    /// Returns at the next change after this call, even if that comes before the first poll.
    ///
    /// For those who also wait for something else: call this, look, then wait for both.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

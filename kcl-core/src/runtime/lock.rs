//! The mutex of a value that no task waits for: a change that panicked is over, and none of ours leaves a value half changed.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value behind a mutex. For a value whose changes tasks wait for there is [`Watched`](crate::runtime::watched::Watched).
#[derive(Default)]
pub(crate) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Locks the value. The guard must not be held across an `await`, nor while the same value is locked again.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        count();
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}

/// Counts one acquisition of a lock, for the test that bounds them. Nothing without the feature `internals`.
#[inline]
pub(crate) fn count() {
    #[cfg(feature = "internals")]
    TAKEN.with(|taken| taken.set(taken.get() + 1));
}

#[cfg(feature = "internals")]
thread_local! {
    static TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many locks this thread has taken so far.
#[cfg(feature = "internals")]
pub fn locks_taken() -> u64 {
    TAKEN.with(std::cell::Cell::get)
}

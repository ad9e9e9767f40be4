//! How the rest of the worker tells a consumer what it must do next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Why a lease is to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainReason {
    /// The planner wants another worker to have it.
    Handoff,
    /// The worker shuts down.
    Shutdown,
    /// The consumer made no progress even after reopening.
    Stalled,
    /// The worker reads the stream no more.
    StreamClosed,
}

/// What a consumer is told. Later and stronger wishes replace earlier ones: abort, lost, drain, reopen.
#[derive(Debug, Default)]
pub(crate) struct Control {
    wishes: Mutex<Wishes>,
    changed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Wishes {
    abort: bool,
    lost: bool,
    drain: Option<DrainReason>,
    reopen: bool,
    done: bool,
}

/// What interrupts a consumer between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Abort,
    Lost,
    Drain,
    Reopen,
}

impl Control {
    /// Everything that runs is to be dropped: the time is up.
    pub(crate) fn abort(&self) {
        self.change(|wishes| wishes.abort = true);
    }

    /// The lease is lost.
    pub(crate) fn lose(&self) {
        self.change(|wishes| wishes.lost = true);
    }

    /// The lease is to be given up.
    pub(crate) fn drain(&self, reason: DrainReason) {
        self.change(|wishes| {
            if wishes.drain.is_none_or(|old| old == DrainReason::Handoff) {
                wishes.drain = Some(reason);
            }
        });
    }

    /// The handoff is off: the consumer goes on, unless it must give the lease up for another reason.
    pub(crate) fn withdraw_handoff(&self) {
        self.change(|wishes| {
            if wishes.drain == Some(DrainReason::Handoff) {
                wishes.drain = None;
            }
        });
    }

    /// The consumer must begin again at the source.
    pub(crate) fn reopen(&self) {
        self.change(|wishes| wishes.reopen = true);
    }

    /// The consumer has taken up the wish to reopen.
    pub(crate) fn reopened(&self) {
        self.change(|wishes| wishes.reopen = false);
    }

    /// The consumer is done.
    pub(crate) fn finish(&self) {
        self.change(|wishes| wishes.done = true);
    }

    pub(crate) fn drain_reason(&self) -> Option<DrainReason> {
        self.lock().drain
    }

    /// What interrupts the consumer now, if anything does.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        let wishes = *self.lock();
        if wishes.abort {
            Some(Interrupt::Abort)
        } else if wishes.lost {
            Some(Interrupt::Lost)
        } else if wishes.drain.is_some() {
            Some(Interrupt::Drain)
        } else if wishes.reopen {
            Some(Interrupt::Reopen)
        } else {
            None
        }
    }

    /// Returns once something interrupts the consumer.
    pub(crate) async fn interrupted(&self) -> Interrupt {
        self.wait(|_| self.interrupt()).await
    }

    /// Returns once everything that runs is to be dropped.
    pub(crate) async fn aborted(&self) {
        self.wait(|wishes| wishes.abort.then_some(())).await;
    }

    /// Returns once the lease is to be given up.
    pub(crate) async fn draining(&self) {
        self.wait(|wishes| wishes.drain.is_some().then_some(())).await;
    }

    /// Returns once the lease is lost or everything that runs is to be dropped.
    pub(crate) async fn lost_or_aborted(&self) -> Interrupt {
        let verdict = |wishes: &Wishes| match (wishes.abort, wishes.lost) {
            (true, _) => Some(Interrupt::Abort),
            (false, true) => Some(Interrupt::Lost),
            (false, false) => None,
        };
        self.wait(verdict).await
    }

    /// Returns once the consumer is done.
    pub(crate) async fn finished(&self) {
        self.wait(|wishes| wishes.done.then_some(())).await;
    }

    async fn wait<T>(&self, look: impl Fn(&Wishes) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let wishes = *self.lock();
            if let Some(found) = look(&wishes) {
                return found;
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stronger_wish_wins_and_a_withdrawn_handoff_leaves_nothing() {
        let control = Control::default();
        control.reopen();
        assert_eq!(control.interrupt(), Some(Interrupt::Reopen));
        control.drain(DrainReason::Handoff);
        assert_eq!(control.interrupt(), Some(Interrupt::Drain));
        control.withdraw_handoff();
        control.reopened();
        assert_eq!(control.interrupt(), None);
        control.drain(DrainReason::Shutdown);
        control.lose();
        assert_eq!(control.interrupt(), Some(Interrupt::Lost));
        control.abort();
        assert_eq!(control.interrupt(), Some(Interrupt::Abort));
    }

    #[test]
    fn a_shutdown_is_not_withdrawn_with_the_handoff_it_replaced() {
        let control = Control::default();
        control.drain(DrainReason::Handoff);
        control.drain(DrainReason::Shutdown);
        control.withdraw_handoff();
        assert_eq!(control.drain_reason(), Some(DrainReason::Shutdown));
    }
}

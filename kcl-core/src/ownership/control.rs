//! The commands of the rest of the worker to a consumer.

use crate::runtime::watched::Watched;

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

/// A command to a consumer. Later and stronger commands replace earlier ones: abort, lost, drain, reopen.
#[derive(Debug, Default)]
pub(crate) struct Control(Watched<Requests>);

#[derive(Debug, Default, Clone, Copy)]
struct Requests {
    abort: bool,
    lost: bool,
    drain: Option<DrainReason>,
    reopen: bool,
    done: bool,
}

/// The command that interrupts a consumer between two steps.
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
        self.0.modify(|wishes| wishes.abort = true);
    }

    /// The lease is lost.
    pub(crate) fn lose(&self) {
        self.0.modify(|wishes| wishes.lost = true);
    }

    /// The lease is to be given up.
    pub(crate) fn drain(&self, reason: DrainReason) {
        self.0.modify(|wishes| {
            if wishes.drain.is_none_or(|old| old == DrainReason::Handoff) {
                wishes.drain = Some(reason);
            }
        });
    }

    /// The handoff is off: the consumer goes on, unless it must give the lease up for another reason.
    pub(crate) fn withdraw_handoff(&self) {
        self.0.modify(|wishes| {
            if wishes.drain == Some(DrainReason::Handoff) {
                wishes.drain = None;
            }
        });
    }

    /// The consumer must begin again at the source.
    pub(crate) fn reopen(&self) {
        self.0.modify(|wishes| wishes.reopen = true);
    }

    /// The consumer has taken up the command to reopen.
    pub(crate) fn reopened(&self) {
        self.0.modify(|wishes| wishes.reopen = false);
    }

    /// The consumer is done.
    pub(crate) fn finish(&self) {
        self.0.modify(|wishes| wishes.done = true);
    }

    pub(crate) fn drain_reason(&self) -> Option<DrainReason> {
        self.0.read(|wishes| wishes.drain)
    }

    /// Returns the command that interrupts the consumer now, if there is one.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.0.read(Requests::interrupt)
    }

    /// Returns once something interrupts the consumer.
    pub(crate) async fn interrupted(&self) -> Interrupt {
        self.0.wait_for(Requests::interrupt).await
    }

    /// Returns once everything that runs is to be dropped.
    pub(crate) async fn aborted(&self) {
        self.0.wait_for(|wishes| wishes.abort.then_some(())).await;
    }

    /// Returns once the lease is to be given up.
    pub(crate) async fn draining(&self) {
        self.0
            .wait_for(|wishes| wishes.drain.is_some().then_some(()))
            .await;
    }

    /// Returns once the lease is lost or everything that runs is to be dropped.
    pub(crate) async fn lost_or_aborted(&self) -> Interrupt {
        let verdict = |wishes: &Requests| match (wishes.abort, wishes.lost) {
            (true, _) => Some(Interrupt::Abort),
            (false, true) => Some(Interrupt::Lost),
            (false, false) => None,
        };
        self.0.wait_for(verdict).await
    }

    /// Returns once the consumer is done.
    pub(crate) async fn finished(&self) {
        self.0.wait_for(|wishes| wishes.done.then_some(())).await;
    }
}

impl Requests {
    fn interrupt(&self) -> Option<Interrupt> {
        if self.abort {
            Some(Interrupt::Abort)
        } else if self.lost {
            Some(Interrupt::Lost)
        } else if self.drain.is_some() {
            Some(Interrupt::Drain)
        } else if self.reopen {
            Some(Interrupt::Reopen)
        } else {
            None
        }
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

//! The commands of the rest of the worker to a consumer.

/// Why a lease is to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainReason {
    /// The planner wants another worker to have it.
    Handoff,
    /// The worker shuts down.
    Shutdown,
    /// The consumer made no progress even after reopening.
    Stalled,
    /// The error policy says that another worker may be luckier.
    Failing,
    /// The worker reads the stream no more.
    StreamClosed,
}

/// The commands to a consumer. Later and stronger ones replace earlier ones: abort, lost, drain, reopen.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Commands {
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

impl Commands {
    /// Everything that runs is to be dropped: the time is up.
    pub(crate) fn abort(&mut self) {
        self.abort = true;
    }

    /// The lease is lost.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// The lease is to be given up.
    pub(crate) fn drain(&mut self, reason: DrainReason) {
        if self.drain.is_none_or(|old| old == DrainReason::Handoff) {
            self.drain = Some(reason);
        }
    }

    /// The handoff is off: the consumer goes on, unless it must give the lease up for another reason.
    pub(crate) fn withdraw_handoff(&mut self) {
        self.drain.take_if(|reason| *reason == DrainReason::Handoff);
    }

    /// The consumer must begin again at the source.
    pub(crate) fn reopen(&mut self) {
        self.reopen = true;
    }

    /// The consumer has taken up the command to reopen.
    pub(crate) fn reopened(&mut self) {
        self.reopen = false;
    }

    /// The consumer is done.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }

    pub(crate) fn drain_reason(&self) -> Option<DrainReason> {
        self.drain
    }

    /// Returns `true` once the consumer is done.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Returns `true` once everything that runs is to be dropped.
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort
    }

    /// Returns the command that interrupts the consumer now, if there is one.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        if let Some(interrupt) = self.lost_or_aborted() {
            Some(interrupt)
        } else if self.drain.is_some() {
            Some(Interrupt::Drain)
        } else if self.reopen {
            Some(Interrupt::Reopen)
        } else {
            None
        }
    }

    /// As [`interrupt`](Self::interrupt), for a consumer that gives the lease up already.
    pub(crate) fn lost_or_aborted(&self) -> Option<Interrupt> {
        if self.abort {
            Some(Interrupt::Abort)
        } else if self.lost {
            Some(Interrupt::Lost)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stronger_command_wins_and_withdrawn_handoff_vanishes() {
        let mut control = Commands::default();
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
    fn shutdown_survives_withdrawal_of_handoff_it_replaced() {
        let mut control = Commands::default();
        control.drain(DrainReason::Handoff);
        control.drain(DrainReason::Shutdown);
        control.withdraw_handoff();
        assert_eq!(control.drain_reason(), Some(DrainReason::Shutdown));
    }
}

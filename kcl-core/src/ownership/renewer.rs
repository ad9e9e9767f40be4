//! Keeps a lease: renews it while its consumer lives, stores what is finished, and notices the requests of others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::ownership::Ownership;
use crate::ownership::control::DrainReason;
use crate::ownership::progress::{ProofOfLife, proof_of_life};
use crate::ownership::row_writes::{WriteResult, WriteTimes};
use crate::ownership::validity::Validity;
use crate::runtime::clock::Moment;
use crate::runtime::log_once::LogOnce;

const RENEWING_FAILS: &str = "cannot renew the lease";

/// The renewer's knowledge when it decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RenewalSchedule {
    times: WriteTimes,
    /// Until when writes that failed make the renewer wait.
    not_before: Option<Moment>,
    /// When a handoff under way must be declined.
    decline: Option<Moment>,
}

/// When the renewer has something to do next, whatever else happens.
///
/// A lease is renewed once per `renewal`, and what is finished is stored once per `checkpoint`. A checkpoint is a renewal. An operator is answered
/// at once.
fn next_duty(duties: &RenewalSchedule, renewal: Duration, checkpoint: Duration) -> Moment {
    let renewal = duties.times.renewed + renewal;
    let checkpoint = duties.times.unstored.then(|| duties.times.stored + checkpoint);
    let write = checkpoint.map_or(renewal, |checkpoint| checkpoint.min(renewal));
    let write = match duties.times.owes_answer {
        true => duties.times.renewed,
        false => write,
    };
    let write = duties
        .not_before
        .map_or(write, |not_before| write.max(not_before));
    duties.decline.map_or(write, |decline| decline.min(write))
}

/// Keeps the lease until its consumer is done or the lease is lost.
pub(crate) async fn keep(own: Arc<Ownership>) {
    let mut keeper = LeaseRenewer {
        own: &own,
        not_before: None,
        decline: None,
        stalls: 0,
        steps_at_stall: None,
        problem: LogOnce::default(),
    };
    tokio::select! {
        biased;
        () = own.consumer_ended() => {}
        () = keeper.run() => {}
    }
}

struct LeaseRenewer<'a> {
    own: &'a Ownership,
    not_before: Option<Moment>,
    decline: Option<Moment>,
    /// How often the consumer was opened again without a step in between.
    stalls: u32,
    /// How many steps the consumer had finished when it stalled last.
    steps_at_stall: Option<u64>,
    problem: LogOnce,
}

impl LeaseRenewer<'_> {
    async fn run(&mut self) {
        let worker = &self.own.worker;
        loop {
            let times = self.own.write_times();
            // A checkpoint of user code may be the only write for long that shows the handoff.
            self.follow_handoff(times.in_handoff);
            let duties = RenewalSchedule {
                times,
                not_before: self.not_before,
                decline: self.decline,
            };
            let due = next_duty(
                &duties,
                worker.timing.renewal,
                worker.settings.checkpoints.interval,
            );
            if worker.clock.now() < due {
                tokio::select! {
                    biased;
                    () = self.own.dirty.notified() => {}
                    () = worker.clock.sleep_until(due) => {}
                }
                continue;
            }
            if self.decline.is_some_and(|decline| decline <= worker.clock.now()) {
                self.decline_or_wait().await;
            } else if self.consumer_lives() {
                self.write().await;
            } else {
                self.not_before = Some(worker.clock.now() + worker.timing.stalled_look);
            }
            if self.own.verdict() == Validity::Lost {
                return;
            }
        }
    }

    /// Stores what is finished, or renews.
    async fn write(&mut self) {
        let change = self.own.checkpoint_with_ahead();
        let change = change.unwrap_or_else(|| self.own.renewal());
        match self.own.write(change).await {
            WriteResult::Applied(_) => {
                self.problem.log_end(RENEWING_FAILS);
                self.not_before = None;
            }
            WriteResult::Lost | WriteResult::GivenUp(_) => {}
            WriteResult::Failed(error) => {
                self.problem.warn(RENEWING_FAILS, Causes(&error));
                let worker = &self.own.worker;
                self.not_before = Some(worker.clock.now() + worker.timing.renewal_retry);
            }
        }
    }

    fn follow_handoff(&mut self, in_handoff: Option<bool>) {
        let worker = &self.own.worker;
        let Some(in_handoff) = in_handoff else {
            return;
        };
        match (in_handoff, self.decline) {
            (true, None) => {
                self.decline = Some(worker.clock.now() + worker.settings.leases.handoff_timeout);
                self.own.drain(DrainReason::Handoff);
            }
            (false, Some(_)) => {
                self.decline = None;
                self.own.withdraw_handoff();
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// The time for a handoff is up: while the callback still runs, the owner keeps the lease, unless it shuts down.
    async fn decline_or_wait(&mut self) {
        let worker = &self.own.worker;
        let callback_runs = self.own.in_callback.load(Ordering::Acquire);
        if !callback_runs || self.own.drain_reason() != Some(DrainReason::Handoff) {
            self.decline = Some(worker.clock.now() + worker.settings.leases.handoff_timeout);
            return;
        }
        // Before the write: a callback that returns meanwhile must find that it is to go on.
        self.own.withdraw_handoff();
        if let WriteResult::Applied(_) = self.own.write(LeaseChange::CancelHandoff).await {
            tracing::info!(reason = "callback still runs", "handoff declined");
            self.decline = None;
        } else {
            self.own.drain(DrainReason::Handoff);
            self.decline = Some(worker.clock.now() + worker.timing.renewal_retry);
        }
    }

    /// Whether the consumer proves that it lives; a stalled one must begin again, and in the end to give up.
    fn consumer_lives(&mut self) -> bool {
        let worker = &self.own.worker;
        let now = worker.clock.now();
        let mut activity = self.own.activity();
        // No consumer gets on while code blocks every thread, and this one cannot help it.
        let patience = worker
            .settings
            .reading
            .stall_timeout
            .saturating_mul(worker.settings.reading.stall_tries.saturating_add(1));
        let excused = worker.stall_probe.excused_until(now, patience);
        activity.last_step = activity.last_step.max(excused);
        let ProofOfLife::Stalled { idle } =
            proof_of_life(&activity, now, worker.settings.reading.stall_timeout)
        else {
            if self.stalls > 0 && self.steps_at_stall != Some(activity.steps) {
                self.stalls = 0;
                self.show_stalls();
            }
            return true;
        };
        // Commanded already, and the consumer has not got round to it: a lease that nobody works for is not renewed.
        if self.own.interrupt().is_some() {
            return false;
        }
        self.stalls = if self.steps_at_stall == Some(activity.steps) {
            self.stalls + 1
        } else {
            1
        };
        self.steps_at_stall = Some(activity.steps);
        worker.metrics.stalled();
        self.show_stalls();
        if self.stalls > worker.settings.reading.stall_tries {
            tracing::error!(?idle, "no progress even after reopening: giving the lease up");
            self.own.drain(DrainReason::Stalled);
        } else {
            tracing::warn!(?idle, tries = self.stalls, "no progress: opening the shard again");
            self.own.reopen();
        }
        false
    }

    fn show_stalls(&self) {
        self.own.show(|facts| facts.stalls = self.stalls);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn times(renewed: u64, stored: u64, unstored: bool) -> WriteTimes {
        WriteTimes {
            renewed: at(renewed),
            stored: at(stored),
            unstored,
            in_handoff: Some(false),
            owes_answer: false,
        }
    }

    const RENEWAL: Duration = Duration::from_secs(3);
    const CHECKPOINT: Duration = Duration::from_secs(1);

    proptest! {
        /// Nothing to store, or something, the lease is written at its renewal at the latest.
        #[test]
        fn write_is_never_later_than_renewal(
            renewed in 0_u64..10_000, stored in 0_u64..10_000, unstored in any::<bool>(),
        ) {
            let duties = RenewalSchedule { times: times(renewed, stored, unstored), not_before: None, decline: None };
            prop_assert!(next_duty(&duties, RENEWAL, CHECKPOINT) <= at(renewed) + RENEWAL);
        }
    }

    #[test]
    fn a_checkpoint_waits_for_its_interval() {
        let duties = RenewalSchedule {
            times: times(1000, 500, true),
            not_before: None,
            decline: None,
        };
        assert_eq!(next_duty(&duties, RENEWAL, CHECKPOINT), at(1500));
        let nothing = RenewalSchedule {
            times: times(1000, 500, false),
            ..duties
        };
        assert_eq!(next_duty(&nothing, RENEWAL, CHECKPOINT), at(1000) + RENEWAL);
    }

    #[test]
    fn operator_is_answered_at_once() {
        let duties = RenewalSchedule {
            times: WriteTimes {
                owes_answer: true,
                ..times(1000, 1000, false)
            },
            not_before: None,
            decline: None,
        };
        assert_eq!(next_duty(&duties, RENEWAL, CHECKPOINT), at(1000));
        let after_failure = RenewalSchedule {
            not_before: Some(at(2000)),
            ..duties
        };
        assert_eq!(next_duty(&after_failure, RENEWAL, CHECKPOINT), at(2000));
    }

    #[test]
    fn a_store_that_fails_is_not_hammered() {
        let duties = RenewalSchedule {
            times: times(0, 0, true),
            not_before: Some(at(9000)),
            decline: None,
        };
        assert_eq!(next_duty(&duties, RENEWAL, CHECKPOINT), at(9000));
    }
}

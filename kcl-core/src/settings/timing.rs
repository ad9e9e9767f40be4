//! Decides every duration that follows from the failover time F: the one table of them.
//!
//! A change of F changes all of them together. No other file multiplies or divides F.

use std::time::Duration;

use crate::lease::client::CallLimits;

/// Every duration that follows from one failover time, F. Products saturate: F may come from a row of another worker.
///
/// Three of them carry what the others promise. An owner stops at [`validity`](Self::validity), before an observer can have watched its
/// lease stand still for F. It renews every [`renewal`](Self::renewal), so that it may miss two renewals. A scan comes at least every
/// [`slowest_scan`](Self::slowest_scan), so that a dead worker is noticed soon after F.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// F itself: how long a lease must stand still before another worker may have it.
    pub failover: Duration,

    /// F/3. From one renewal of a lease to the next: two may be missed. Also the window of one sample of the throughput, because an idle
    /// shard is measured at its renewals.
    pub renewal: Duration,
    /// F − F/10. How long after sending a renewal the owner may start batches. The margin covers clocks whose rates are off by 5 % on
    /// either side. Also how long a leader leads after sending a heartbeat of the lock.
    pub validity: Duration,
    /// F/20. From a renewal that failed, or a handoff that could not be declined, to the next try: several fit what is left of the validity.
    pub renewal_retry: Duration,
    /// F/10. How often the renewer asks whether a stalled consumer makes progress again.
    pub stalled_look: Duration,
    /// F/50. How often a suspended consumer asks whether its lease is valid again.
    pub suspended_look: Duration,
    /// F. How long a consumer tries to give its lease up: after that the lease expires by itself.
    pub release: Duration,
    /// F/50. From one try to give a lease up to the next.
    pub release_retry: Duration,

    /// The limits of calls of the store: how long one call may take (F/6), how long the fate of a write is looked for (F), and the pause between two reads for it
    /// (F/60). A call may hang for a sixth, so that a second try, or the heartbeat after it, is still in time.
    pub calls: CallLimits,

    /// F/3. From one touch of the worker's row to the next.
    pub heartbeat: Duration,
    /// F/10. From a touch that failed to the next.
    pub heartbeat_retry: Duration,
    /// F/2. How long a worker's row may stand still before the worker is no candidate: one touch may be missed, and of two workers that died
    /// together the second is not given what the first one had.
    pub candidacy: Duration,
    /// 3F. How long it is remembered whose run a process was, after a worker's row showed it last.
    pub run_memory: Duration,
    /// 30F, at least 5 minutes. How long a worker's row must stand still before it is deleted. The Java KCL waits a day.
    pub worker_retention: Duration,

    /// F/10, within 0.5 s and 1 s. From one scan to the next while the table fits one page: at the default of 10 s two workers scan once a
    /// second, which is the larger part of what coordination costs beside the renewals.
    pub usual_scan: Duration,
    /// F/4. From one scan to the next at most, however large the table and however many scans failed.
    pub slowest_scan: Duration,
    /// F/6. How often an observer means to look that just could again after scans that failed. The time between two looks counts up to twice
    /// this: a dead worker is noticed, and owners that could not renew either have the time to do so.
    pub look_after_failures: Duration,
    /// F/4 to F. How long a scan of a coordinator may take: its rounds must fit F.
    pub round_scan: (Duration, Duration),
    /// F/2 to a minute, or F/2 if that is longer. How long a scan may take that nothing waits for.
    pub patient_scan: (Duration, Duration),
    /// F/3. How long the scans may take for which a consumer waits at the end of a shard, or a worker that leaves.
    pub urgent_scan: Duration,
    /// F/50. The first pause between two scans of a worker that leaves; it doubles.
    pub urgent_scan_retry: Duration,

    /// 3F. How long a worker does not get a lease back that it let expire or gave up.
    pub cooldown: Duration,
    /// 10F. How long a lease stays where it is after its owner declined to hand it over.
    pub declined_cooldown: Duration,

    /// F/5, within 20 ms and 1 s. How often the leader lock is read. The lower limit holds whatever a lock says of its holder.
    pub lock_poll: Duration,
    /// F/5. From one heartbeat of the lock to the next.
    pub lock_heartbeat: Duration,
    /// F/8. How much longer than F a challenger that is not the standby watches the lock, so that one whose clock is 5 % fast does not come
    /// before a standby whose clock is 5 % slow.
    pub lock_drift: Duration,
    /// F/2. How long the lock must stand still before the standby gives away leases in the leader's place.
    pub stand_in: Duration,
    /// 2F. How long a worker that gave the lock up leaves it to others.
    pub lock_pause: Duration,

    /// F/3. How long the owner index may take to answer.
    pub index_answer: Duration,
    /// F/6. The same while it fails: a worker that waits for it does not scan.
    pub failing_index_answer: Duration,
    /// F. The longest pause before a failing index is asked again.
    pub index_retry: Duration,
    /// F/4. The longest pause from one scan for leases that name this worker to the next.
    pub discovery_scan: Duration,
    /// F/2. The longest pause after such scans failed.
    pub discovery_scan_retry: Duration,
    /// F/3. The longest pause before a lease is looked at again that could not be taken.
    pub take_retry: Duration,

    /// F/6. How long a worker that stops before it started, or at once, waits for its row to be deleted: one call of the store.
    pub hasty_leave: Duration,
    /// F/20. From one try to delete the worker's row to the next.
    pub leave_retry: Duration,
    /// F/3. How long a worker that leaves waits until it has left the election.
    pub election_leave: Duration,
    /// F/3 + F/10. How long a worker that leaves watches who else lives: every live worker touches its row in that time.
    pub handover_watch: Duration,
    /// F/3. The most of the drain timeout that is kept for giving up the leases of callbacks that did not return.
    pub drain_grace: Duration,

    /// F/10, at least 0.5 s. How late a runtime must be for a stall: no runtime is always at once at hand.
    pub stall: Duration,
}

impl Timing {
    /// Computes the durations that follow from this failover time.
    #[must_use]
    pub fn of(failover: Duration) -> Self {
        let millis = Duration::from_millis;
        Self {
            failover,

            renewal: failover / 3,
            validity: failover - failover / 10,
            renewal_retry: failover / 20,
            stalled_look: failover / 10,
            suspended_look: failover / 50,
            release: failover,
            release_retry: failover / 50,

            calls: CallLimits {
                attempt: failover / 6,
                resolve: failover,
                pause: failover / 60,
            },

            heartbeat: failover / 3,
            heartbeat_retry: failover / 10,
            candidacy: failover / 2,
            run_memory: failover.saturating_mul(3),
            worker_retention: failover.saturating_mul(30).max(Duration::from_secs(300)),

            usual_scan: (failover / 10).clamp(millis(500), millis(1000)),
            slowest_scan: failover / 4,
            look_after_failures: failover / 6,
            round_scan: (failover / 4, failover),
            patient_scan: (failover / 2, Duration::from_secs(60).max(failover / 2)),
            urgent_scan: failover / 3,
            urgent_scan_retry: failover / 50,

            cooldown: failover.saturating_mul(3),
            declined_cooldown: failover.saturating_mul(10),

            lock_poll: (failover / 5).clamp(millis(20), millis(1000)),
            lock_heartbeat: failover / 5,
            lock_drift: failover / 8,
            stand_in: failover / 2,
            lock_pause: failover.saturating_mul(2),

            index_answer: failover / 3,
            failing_index_answer: failover / 6,
            index_retry: failover,
            discovery_scan: failover / 4,
            discovery_scan_retry: failover / 2,
            take_retry: failover / 3,

            hasty_leave: failover / 6,
            leave_retry: failover / 20,
            election_leave: failover / 3,
            handover_watch: failover / 3 + failover / 10,
            drain_grace: failover / 3,

            stall: (failover / 10).max(millis(500)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn durations_keep_their_order_at_every_failover_time(millis in 200_u64..3_600_000) {
            let timing = Timing::of(Duration::from_millis(millis));
            prop_assert!(timing.renewal * 2 + timing.calls.attempt < timing.validity, "two renewals may be missed");
            prop_assert!(timing.validity < timing.failover);
            prop_assert!(timing.heartbeat + timing.calls.attempt <= timing.candidacy, "one touch may be missed");
            prop_assert!(timing.heartbeat < timing.handover_watch, "every live worker is seen to live");
            prop_assert!(timing.lock_heartbeat * 2 < timing.stand_in, "two heartbeats may be missed");
            prop_assert!(timing.lock_poll <= timing.lock_heartbeat);
            prop_assert!(timing.round_scan.0 <= timing.round_scan.1 && timing.patient_scan.0 <= timing.patient_scan.1);
            prop_assert!(timing.failover < timing.cooldown && timing.cooldown < timing.declined_cooldown);
        }
    }

    #[test]
    fn absurd_failover_time_of_foreign_row_saturates() {
        let timing = Timing::of(Duration::MAX);
        assert_eq!(timing.worker_retention, Duration::MAX);
        assert_eq!(timing.cooldown, Duration::MAX);
    }
}

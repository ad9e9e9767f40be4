//! Proof of life: a lease is renewed only while its consumer either gets on or names what it waits for.

use std::time::Duration;

use crate::runtime::clock::Moment;
use crate::status::WaitReason;

/// The known facts about a consumer's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// How many steps it has finished: fetches that were answered, calls that returned.
    pub steps: u64,
    /// When it last finished a step, or started again.
    pub last_step: Moment,
    /// The reason for which it waits, and since when.
    pub waiting: Option<(WaitReason, Moment)>,
}

/// The verdict on a consumer's life, by its activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofOfLife {
    /// It gets on, or says what it waits for.
    Alive,
    /// It did neither for this long.
    Stalled {
        /// The time since its last step.
        idle: Duration,
    },
}

/// Judges a consumer's activity at `now`.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::internals::{Activity, ProofOfLife, proof_of_life};
/// use kcl_core::status::WaitReason;
/// use kcl_core::clock::Moment;
///
/// let minute = Duration::from_secs(60);
/// let later = Moment::ZERO + minute * 10;
/// let stuck = Activity { steps: 1, last_step: Moment::ZERO, waiting: None };
/// assert_eq!(proof_of_life(&stuck, later, minute), ProofOfLife::Stalled { idle: minute * 10 });
/// let busy = Activity { waiting: Some((WaitReason::Callback, Moment::ZERO)), ..stuck };
/// assert_eq!(proof_of_life(&busy, later, minute), ProofOfLife::Alive);
/// ```
pub fn proof_of_life(activity: &Activity, now: Moment, stall_timeout: Duration) -> ProofOfLife {
    let idle = now.saturating_since(activity.last_step);
    if activity.waiting.is_some() || idle < stall_timeout {
        ProofOfLife::Alive
    } else {
        ProofOfLife::Stalled { idle }
    }
}

/// A consumer's activity, as the consumer and its fetcher report it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    steps: u64,
    last_step: Moment,
    consumer: Option<(WaitReason, Moment)>,
    /// Since when the oldest call of a handler runs, which is no reason while the consumer takes records beside it.
    oldest_call: Option<Moment>,
    /// The reason for which the fetcher waits, which counts while the consumer waits for nothing but records.
    fetcher: Option<(WaitReason, Moment)>,
}

impl Progress {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            steps: 0,
            last_step: now,
            consumer: None,
            oldest_call: None,
            fetcher: None,
        }
    }

    /// A step is finished.
    pub(crate) fn step(&mut self, now: Moment) {
        self.steps += 1;
        self.last_step = now;
    }

    /// The consumer waits for records and nothing else, which is no step but deserves its time.
    pub(crate) fn wants_records(&mut self, now: Moment) {
        self.last_step = now;
        self.consumer = None;
    }

    /// The fetcher is another one, which waits for nothing yet.
    pub(crate) fn fetcher_begins(&mut self) {
        self.fetcher = None;
    }

    /// The consumer starts again at the source, which is no step but deserves its time.
    pub(crate) fn begins_anew(&mut self, now: Moment) {
        self.last_step = now;
        self.fetcher = None;
    }

    /// The consumer begins to wait for this, or keeps waiting.
    pub(crate) fn waits(&mut self, reason: WaitReason, now: Moment) {
        self.consumer = Some((reason, since(self.consumer, reason, now)));
    }

    /// The consumer waits for nothing any more, which is a step.
    pub(crate) fn goes_on(&mut self, now: Moment) {
        self.step(now);
        self.consumer = None;
    }

    /// The consumer waits for nothing any more, which is no step.
    pub(crate) fn waits_no_more(&mut self) {
        self.consumer = None;
    }

    /// The fetcher begins to wait for this, or keeps waiting.
    pub(crate) fn fetcher_waits(&mut self, reason: WaitReason, now: Moment) {
        self.fetcher = Some((reason, since(self.fetcher, reason, now)));
    }

    /// The fetcher waits for nothing any more, which is no step but deserves its time.
    pub(crate) fn fetcher_goes_on(&mut self, now: Moment) {
        if self.fetcher.take().is_some() {
            self.last_step = now;
        }
    }

    /// Whether the fetcher waits for room in the budget.
    pub(crate) fn is_fetcher_starved(&self) -> bool {
        matches!(self.fetcher, Some((WaitReason::ByteBudget, _)))
    }

    /// The consumer of a handler waits for this, or for records; the oldest of its calls runs since then.
    pub(crate) fn calls_wait(&mut self, reason: Option<WaitReason>, oldest: Option<Moment>, now: Moment) {
        self.oldest_call = oldest;
        self.consumer = reason.map(|reason| match (reason, oldest) {
            (WaitReason::Callback, Some(oldest)) => (reason, oldest),
            _ => (reason, since(self.consumer, reason, now)),
        });
    }

    /// The reason to show, and since when it holds: that the consumer waits, or that a call runs.
    pub(crate) fn waiting(&self) -> Option<(WaitReason, Moment)> {
        let call = self.oldest_call.map(|oldest| (WaitReason::Callback, oldest));
        self.consumer.or(call).or(self.fetcher)
    }

    pub(crate) fn activity(&self) -> Activity {
        Activity {
            steps: self.steps,
            last_step: self.last_step,
            waiting: self.consumer.or(self.fetcher),
        }
    }
}

/// Since when somebody waits who says at `now` that it waits for this.
fn since(waiting: Option<(WaitReason, Moment)>, reason: WaitReason, now: Moment) -> Moment {
    let before = waiting.filter(|(old, _)| *old == reason);
    before.map_or(now, |(_, since)| since)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    proptest! {
        #[test]
        fn only_silent_consumer_without_wait_is_stalled(
            last in 0_u64..1000, now in 0_u64..1000, limit in 1_u64..1000, waits in any::<bool>(),
        ) {
            let waiting = waits.then_some((WaitReason::Callback, at(last)));
            let verdict = proof_of_life(&Activity { steps: 0, last_step: at(last), waiting }, at(now), Duration::from_secs(limit));
            let stalled = !waits && now.saturating_sub(last) >= limit;
            prop_assert_eq!(verdict != ProofOfLife::Alive, stalled);
        }
    }

    #[test]
    fn age_of_wait_counts_from_its_beginning() {
        let mut progress = Progress::new(at(0));
        progress.waits(WaitReason::Parents, at(5));
        progress.waits(WaitReason::Parents, at(7));
        assert_eq!(progress.activity().waiting, Some((WaitReason::Parents, at(5))));
        progress.waits(WaitReason::Callback, at(9));
        assert_eq!(progress.activity().waiting, Some((WaitReason::Callback, at(9))));
        progress.goes_on(at(10));
        assert_eq!(
            progress.activity(),
            Activity {
                steps: 1,
                last_step: at(10),
                waiting: None
            }
        );
    }

    #[test]
    fn wait_of_fetcher_counts_while_consumer_is_idle() {
        let mut progress = Progress::new(at(0));
        progress.fetcher_waits(WaitReason::ByteBudget, at(1));
        progress.fetcher_waits(WaitReason::ByteBudget, at(2));
        assert_eq!(progress.activity().waiting, Some((WaitReason::ByteBudget, at(1))));
        progress.waits(WaitReason::Callback, at(3));
        assert_eq!(progress.activity().waiting, Some((WaitReason::Callback, at(3))));
        progress.goes_on(at(4));
        assert_eq!(progress.activity().waiting, Some((WaitReason::ByteBudget, at(1))));
        progress.fetcher_goes_on(at(5));
        let steps = progress.activity().steps;
        progress.fetcher_goes_on(at(6));
        let activity = progress.activity();
        assert_eq!(
            (activity.steps, activity.last_step, activity.waiting),
            (steps, at(5), None)
        );
    }
}

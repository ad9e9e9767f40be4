//! How long the holder of a lease may believe that it holds it, by its own clock.

use std::time::Duration;

use crate::runtime::clock::Moment;
use crate::runtime::failpoint::failpoint;

/// The verdict on a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Go on until this moment.
    GoOn {
        /// The first moment at which no batch may be started any more.
        until: Moment,
    },
    /// Start no batch and accept no checkpoint, but keep everything and go on trying to renew:
    /// nobody may have taken the lease yet.
    Suspended,
    /// Another worker has the lease.
    Lost,
}

/// The holder's knowledge about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseValidity {
    /// When the last renewal that was applied was *sent*; of several that may be the one that was, the first.
    pub renewed: Moment,
    /// Whether a later write was refused.
    pub refused: bool,
}

impl LeaseValidity {
    /// The first moment at which no batch may be started any more, unless a later renewal is applied.
    pub fn until(&self, valid_for: Duration) -> Moment {
        self.renewed + valid_for
    }
}

/// Judges a validity at `now`. A renewal is good for `valid_for`, counted from its sending.
///
/// An observer needs a whole failover time of its own watching before it gives the lease away, and starts watching no earlier
/// than the renewal was sent.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::internals::{LeaseValidity, Timing, Validity, judge_validity};
/// use kcl_core::clock::Moment;
///
/// let validity = LeaseValidity { renewed: Moment::ZERO, refused: false };
/// let valid_for = Timing::of(Duration::from_secs(10)).validity;
/// let at = |seconds| judge_validity(validity, Moment::from_origin(Duration::from_secs(seconds)), valid_for);
/// assert_eq!(at(8), Validity::GoOn { until: Moment::from_origin(Duration::from_secs(9)) });
/// assert_eq!(at(9), Validity::Suspended);
/// ```
pub fn judge_validity(validity: LeaseValidity, now: Moment, valid_for: Duration) -> Validity {
    let until = validity.until(valid_for);
    match validity.refused {
        true => Validity::Lost,
        false if now < until || failpoint!(DeadlineIgnored) => Validity::GoOn { until },
        false => Validity::Suspended,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::expiry_watch::ExpiryWatch;
    use crate::settings::timing::Timing;

    proptest! {
        /// With clocks whose rates are up to 5 % off, no observer calls a lease expired while its holder goes on.
        #[test]
        fn holder_stops_before_any_observer_reassigns_lease(
            failover_ms in 200_u64..60_000,
            holder_rate in 0.95_f64..1.05,
            observer_rate in 0.95_f64..1.05,
            first_look in 0.0_f64..1.0,
            cadence in 0.01_f64..0.25,
        ) {
            let failover = Duration::from_millis(failover_ms);
            let validity = LeaseValidity { renewed: Moment::ZERO, refused: false };
            // The renewal is sent at true time 0; the observer first sees it some time later.
            let looks_at = |n: u32| failover.mul_f64(first_look + cadence * f64::from(n));
            let mut watch = ExpiryWatch::new(failover.mul_f64(cadence));
            for n in 0..1000 {
                let true_time = looks_at(n);
                watch.look(Moment::from_origin(true_time.mul_f64(observer_rate)), [((), 1)]);
                if watch.is_still_for(&(), failover) {
                    let holder_now = Moment::from_origin(true_time.mul_f64(holder_rate));
                    prop_assert_eq!(judge_validity(validity, holder_now, Timing::of(failover).validity), Validity::Suspended);
                    return Ok(());
                }
            }
            prop_assert!(false, "the observer never calls a dead lease expired");
        }
    }

    #[test]
    fn refused_holder_has_lost_despite_fresh_renewal() {
        let validity = LeaseValidity {
            renewed: Moment::ZERO,
            refused: true,
        };
        assert_eq!(
            judge_validity(validity, Moment::ZERO, Duration::from_secs(10)),
            Validity::Lost
        );
    }
}

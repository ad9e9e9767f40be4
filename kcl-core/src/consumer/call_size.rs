//! How many records to offer in one call, so that the call returns within the time of a drain.

use std::time::Duration;

use crate::settings::Settings;

/// The records of the first call in an ownership, when nothing is known of the processor. At up to a tenth of a second a record they take
/// no longer than a call may with the default settings; a fast processor has its whole batch with the third call.
const FIRST: usize = 32;
/// The most that an offer may grow from one call to the next: small calls say little about calls a thousand times as large.
const GROWTH: f64 = 16.0;
/// The same after a call that took at least half as long as it may.
const SLOW_GROWTH: f64 = 2.0;

/// How long the processor's calls take: so long for a call, and so long more for each record in it.
///
/// Both are estimated, from the calls so far. That records are slow is believed at once, and that they are fast by half each time. A
/// processor whose calls take their time whatever is in them is not offered less for that.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct CallPace {
    /// Of a call, in seconds; absent before two calls of different sizes.
    call: Option<f64>,
    /// Of each record, in seconds; absent before the first call.
    record: Option<f64>,
    /// The records and the seconds of the last call.
    last: Option<(f64, f64)>,
}

impl CallPace {
    /// Notes that the processor took so long for so many records.
    pub(crate) fn took(&mut self, records: usize, time: Duration) {
        if records == 0 {
            return;
        }
        let (count, time) = (as_float(records), time.as_secs_f64());
        let last = self.last.replace((count, time));
        let slope = last.and_then(|last| slope(last, (count, time)));
        // Before two calls of different sizes were seen, nothing is known well.
        let is_first = self.call.is_none();
        // Two calls of different sizes show what does not depend on the size.
        if let Some(slope) = slope {
            let call = time - slope * count;
            self.call = Some(f64::midpoint(self.call.unwrap_or(0.0), call));
        }
        self.call = self.call.map(|call| call.min(time));
        let sample = (time - self.call.unwrap_or(0.0)) / count;
        self.record = Some(match self.record {
            Some(known) if sample < known && !is_first => f64::midpoint(known, sample),
            _ => sample,
        });
    }

    /// How many records to offer of this many, for a call that should take no longer than `limit`: at least one.
    pub(crate) fn records(&self, limit: Duration, available: usize) -> usize {
        let Some(record) = self.record else {
            return available.min(FIRST);
        };
        let limit = limit.as_secs_f64();
        // Where the call itself takes longer than that, fewer records would not help; so many more that they take as long again do not harm.
        let call = self.call.filter(|call| *call < limit).unwrap_or(0.0);
        let left = limit - call;
        let fits = if record * as_float(available) <= left {
            available
        } else {
            whole(left / record)
        };
        // The longer the last call took, the less it may grow.
        let growth = self.last.map_or(1.0, |(count, time)| {
            count * (limit / time.max(f64::MIN_POSITIVE)).clamp(SLOW_GROWTH, GROWTH)
        });
        fits.min(whole(growth)).clamp(1, available.max(1))
    }
}

/// How much longer a call takes for each record more, by two calls of which each is given as its records and seconds; `None` if
/// their sizes are too much alike to decide.
fn slope((before, time_before): (f64, f64), (count, time): (f64, f64)) -> Option<f64> {
    let differ = (count - before).abs() > before.min(count) / 4.0;
    differ.then(|| ((time - time_before) / (count - before)).clamp(0.0, time / count))
}

/// The longest time that a call should take: half of what a drain leaves to callbacks at least. The other half is for calls that take
/// longer than those before.
pub(crate) fn time_for_call(settings: &Settings) -> Duration {
    let at_least = (settings.shutdown.drain_timeout / 2).saturating_sub(settings.drain_grace());
    at_least / 2
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a batch has far fewer than 2^52 records"
)]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and both are positive"
)]
fn whole(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);

    /// Offers batches of this size, whose calls take so long for themselves and so long for each record, in seconds. Returns the size of each
    /// offer.
    fn offers(pace: &mut CallPace, batch: usize, call: f64, record: f64, calls: usize) -> Vec<usize> {
        let mut offer = || {
            let records = pace.records(LIMIT, batch);
            let time = call + record * as_float(records);
            pace.took(records, Duration::from_secs_f64(time));
            records
        };
        (0..calls).map(|_| offer()).collect()
    }

    #[test]
    fn fast_processor_has_whole_batch_with_third_call() {
        let sizes = offers(&mut CallPace::default(), 10_000, 0.0, 0.000_01, 4);
        assert_eq!(sizes, [32, 512, 8192, 10_000]);
        assert_eq!(
            offers(&mut CallPace::default(), 5000, 0.0, 0.0, 3),
            [32, 512, 5000]
        );
    }

    #[test]
    fn slow_records_are_offered_as_many_as_fit() {
        let sizes = offers(&mut CallPace::default(), 10_000, 0.0, 0.05, 10);
        assert_eq!(sizes[0], 32);
        assert!(
            sizes[1..].iter().all(|size| (60..=80).contains(size)),
            "{sizes:?}"
        );
    }

    #[test]
    fn slow_calls_are_not_cut() {
        let sizes = offers(&mut CallPace::default(), 10_000, 6.0, 0.000_01, 14);
        assert_eq!(sizes.last(), Some(&10_000), "{sizes:?}");
    }

    #[test]
    fn slowed_sink_is_offered_less_at_once() {
        let mut pace = CallPace::default();
        offers(&mut pace, 10_000, 0.0, 0.000_01, 10);
        let sizes = offers(&mut pace, 10_000, 0.0, 0.05, 5);
        assert!(sizes[1..].iter().all(|size| *size <= 80), "{sizes:?}");
        let sizes = offers(&mut pace, 10_000, 0.0, 0.000_01, 12);
        assert_eq!(sizes.last(), Some(&10_000), "{sizes:?}");
    }

    proptest! {
        /// Whatever a record and a call take, offers settle: on what fits where the records make the time, on all where the call does.
        #[test]
        fn offers_settle_on_what_fits(batch in 1_usize..10_000, call in 0.0_f64..10.0, record in 0.0_f64..1.0) {
            let mut pace = CallPace::default();
            let sizes = offers(&mut pace, batch, call, record, 60);
            prop_assert!(sizes.iter().all(|size| (1..=batch).contains(size)));
            let last = as_float(*sizes.last().unwrap());
            let limit = LIMIT.as_secs_f64();
            prop_assert!(last <= 1.0 || record * last <= limit * 1.1, "{} records take {}", last, record * last);
            prop_assert!(
                last >= as_float(batch) || record * (last + 1.0) + call >= limit * 0.7,
                "{} of {} records", last, batch
            );
        }

        #[test]
        fn any_measurement_leaves_an_offer(
            calls in prop::collection::vec((0_usize..20_000, any::<u32>()), 0..30), available in 1_usize..20_000,
        ) {
            let mut pace = CallPace::default();
            for (records, micros) in calls {
                pace.took(records, Duration::from_micros(micros.into()));
                prop_assert!((1..=available).contains(&pace.records(LIMIT, available)));
            }
        }
    }
}

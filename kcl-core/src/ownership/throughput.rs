//! Measures what goes through a shard, for the planner and for people who read the table.

use std::time::Duration;

use crate::runtime::clock::Moment;

/// The weight of the newest sample in the moving average: the Java KCL's.
const ALPHA: f64 = 0.5;

/// The moving average of the payload that the processor finished, in KiB/s.
///
/// It is absent until something was processed, and fades by half with every sample while nothing is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ThroughputEma {
    average: Option<f64>,
    /// Processed since the last sample.
    bytes: u64,
    sampled: Moment,
    window: Duration,
}

impl ThroughputEma {
    /// Returns an average that goes on from what the row says, which another worker may have measured.
    ///
    /// Samples are a `window` apart, the pace of the renewals of an idle shard, however often a busy one is
    /// checkpointed: with a sample at every checkpoint the average would be over the last two or three seconds, and whether a batch
    /// ends just before one or just after would decide how hot the shard looks.
    pub(crate) fn new(stored: Option<f64>, window: Duration, now: Moment) -> Self {
        Self {
            average: stored.filter(|stored| stored.is_finite() && *stored >= 0.0),
            bytes: 0,
            sampled: now,
            window,
        }
    }

    /// Notes that so many bytes were processed.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The average at `now`. Takes a sample if one is due; asking again, as for a repeated write, changes nothing.
    pub(crate) fn read(&mut self, now: Moment) -> Option<f64> {
        let elapsed = now.saturating_since(self.sampled);
        if !elapsed.is_zero() && elapsed >= self.window {
            let bytes = std::mem::take(&mut self.bytes);
            self.sampled = now;
            if bytes > 0 || self.average.is_some() {
                self.average = Some(average(self.average, kib_per_second(bytes, elapsed)));
            }
        }
        self.average
    }
}

/// The moving average after one more sample; the first is taken as it is.
fn average(before: Option<f64>, sample: f64) -> f64 {
    before.map_or(sample, |before| before + ALPHA * (sample - before))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rounding error of a byte in a petabyte"
)]
fn kib_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1024.0 / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(3);

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn shard_without_processed_records_has_no_throughput() {
        let mut throughput_ema = ThroughputEma::new(None, WINDOW, at(0));
        for second in 0..60 {
            assert_eq!(throughput_ema.read(at(second * 1000)), None);
        }
        // The idle minute does not thin out the first sample.
        throughput_ema.add(3 * 1024 * 10);
        assert_eq!(throughput_ema.read(at(60_000)), Some(10.0));
    }

    #[test]
    fn first_sample_counts_whole_later_ones_half() {
        let mut throughput_ema = ThroughputEma::new(None, WINDOW, at(0));
        throughput_ema.add(3 * 1024 * 100);
        assert_eq!(throughput_ema.read(at(3000)), Some(100.0));
        throughput_ema.add(6 * 1024 * 50);
        assert_eq!(
            throughput_ema.read(at(9000)),
            Some(75.0),
            "over the six seconds it really took"
        );
        assert_eq!(throughput_ema.read(at(12_000)), Some(37.5), "and it fades");
        assert_eq!(throughput_ema.read(at(15_000)), Some(18.75));
    }

    #[test]
    fn new_owner_goes_on_from_throughput_of_row() {
        let mut throughput_ema = ThroughputEma::new(Some(80.0), WINDOW, at(0));
        assert_eq!(throughput_ema.read(at(1000)), Some(80.0));
        throughput_ema.add(3 * 1024 * 40);
        assert_eq!(throughput_ema.read(at(3000)), Some(60.0));
    }

    #[test]
    fn frequent_or_repeated_reads_take_no_sample_early() {
        let mut throughput_ema = ThroughputEma::new(Some(10.0), WINDOW, at(0));
        for step in 1..=9 {
            throughput_ema.add(1024 * 10);
            let before = throughput_ema.read(at(step * 1000));
            assert_eq!(throughput_ema.read(at(step * 1000)), before);
            assert_eq!(before, Some(10.0));
        }
        throughput_ema.add(1 << 40);
        assert_eq!(throughput_ema.read(at(9999)), Some(10.0));
    }

    proptest! {
        #[test]
        fn average_is_never_negative_nor_not_a_number(
            stored in prop::option::of(any::<f64>()),
            window in 0_u64..10_000,
            steps in prop::collection::vec((any::<u64>(), any::<u32>()), 0..40),
        ) {
            let mut throughput_ema = ThroughputEma::new(stored, Duration::from_millis(window), at(0));
            let mut now = 0;
            for (bytes, pause) in steps {
                throughput_ema.add(bytes);
                now += u64::from(pause);
                let read = throughput_ema.read(at(now));
                prop_assert!(read.is_none_or(|read| read.is_finite() && read >= 0.0), "{read:?}");
            }
        }
    }
}

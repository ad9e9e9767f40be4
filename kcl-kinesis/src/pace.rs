//! How fast a shard is polled: settings, and one pure function.

use std::time::Duration;

/// How a shard is polled. Plain data; values out of range are replaced by the nearest in range.
///
/// The limits are those of [Kinesis Data Streams](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html) for one shard,
/// shared by all applications that poll it. With three such applications, give each a third.
///
/// ```
/// use std::time::Duration;
/// use kcl_kinesis::PollingSettings;
///
/// let relaxed = PollingSettings { idle_interval: Duration::from_secs(1), ..PollingSettings::default() };
/// assert_eq!(relaxed.reads_per_second, 5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollingSettings {
    /// How long from one read to the next while there is nothing new. At least 200 ms. 300 ms by default: a new record waits 150 ms
    /// on average, and a third of the reads that Kinesis allows is left to others.
    pub idle_interval: Duration,
    /// How long one call may take before it counts as unanswered. At least 100 ms. 10 s by default: a full answer of 10 MiB has that
    /// long to arrive, and a dead connection is given up well before a consumer counts as stalled.
    pub request_deadline: Duration,
    /// The most reads of a shard per second. At least 1. 5 by default, the limit of Kinesis.
    pub reads_per_second: u32,
    /// The most bytes read from a shard per second, on average. At least 1. 2 MiB by default, the limit of Kinesis.
    pub bytes_per_second: u64,
    /// In what form records are asked for. CBOR by default.
    pub format: RecordFormat,
}

/// In what form the service is asked for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecordFormat {
    /// CBOR, in which the payloads are handed on where they arrived, at a third of the processor time of JSON. Kinesis speaks it, as do
    /// LocalStack and kinesis-mock; where a server refuses it, reading goes on in JSON, and the log says so once.
    ///
    /// All records of an answer share its memory: [detach](kcl_core::model::Record::detached) a record that is kept for long.
    #[default]
    Cbor,
    /// JSON, which every server of the protocol speaks. Each payload has memory of its own.
    Json,
}

impl Default for PollingSettings {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_millis(300),
            request_deadline: Duration::from_secs(10),
            reads_per_second: 5,
            bytes_per_second: 2 * 1024 * 1024,
            format: RecordFormat::default(),
        }
    }
}

/// Below this an idle shard would be read more often than Kinesis allows.
const SHORTEST_IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// Below this the deadline would cut off healthy calls.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(100);

impl PollingSettings {
    /// The settings with every value in its range.
    pub(crate) fn in_range(self) -> Self {
        Self {
            idle_interval: self.idle_interval.max(SHORTEST_IDLE_INTERVAL),
            request_deadline: self.request_deadline.max(SHORTEST_DEADLINE),
            reads_per_second: self.reads_per_second.max(1),
            bytes_per_second: self.bytes_per_second.max(1),
            format: self.format,
        }
    }
}

/// What one read brought, as far as the pace is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) records: usize,
    pub(crate) bytes: u64,
    pub(crate) behind: Option<Duration>,
}

impl Read {
    /// Nothing came, and the service knows of nothing more. A service that does not tell is believed.
    fn caught_up(&self) -> bool {
        self.records == 0 && self.behind.is_none_or(|behind| behind.is_zero())
    }
}

/// How long from the start of a read to the start of the next.
///
/// Never faster than either limit: a read of 10 MiB is paid for with five seconds, in which Kinesis would refuse anyway.
pub(crate) fn wait_after(read: Read, settings: &PollingSettings) -> Duration {
    let settings = settings.in_range();
    let per_read = Duration::from_secs(1) / settings.reads_per_second;
    let pace = per_read.max(time_for(read.bytes, settings.bytes_per_second));
    if read.caught_up() {
        pace.max(settings.idle_interval)
    } else {
        pace
    }
}

fn time_for(bytes: u64, per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1024 * 1024;

    fn read(records: usize, bytes: u64, behind_millis: Option<u64>) -> Read {
        Read {
            records,
            bytes,
            behind: behind_millis.map(Duration::from_millis),
        }
    }

    #[test]
    fn the_defaults_give_the_pace_of_the_service() {
        let rows = [
            ("idle", read(0, 0, Some(0)), 300),
            ("idle, and the service does not tell", read(0, 0, None), 300),
            ("nothing here, but more ahead", read(0, 0, Some(5000)), 200),
            ("the last few records", read(3, 100, Some(0)), 200),
            (
                "a backlog of small records",
                read(10_000, 1000, Some(60_000)),
                200,
            ),
            ("one full MiB", read(1, MIB, Some(60_000)), 500),
            ("the largest answer", read(10, 10 * MIB, Some(60_000)), 5000),
        ];
        for (case, read, millis) in rows {
            let wait = wait_after(read, &PollingSettings::default());
            assert_eq!(wait, Duration::from_millis(millis), "{case}");
        }
    }

    #[test]
    fn settings_out_of_range_become_the_nearest_in_range() {
        let broken = PollingSettings {
            idle_interval: Duration::ZERO,
            request_deadline: Duration::ZERO,
            reads_per_second: 0,
            bytes_per_second: 0,
            ..PollingSettings::default()
        };
        let mended = broken.in_range();
        assert_eq!(mended.idle_interval, Duration::from_millis(200));
        assert_eq!(mended.request_deadline, Duration::from_millis(100));
        assert_eq!((mended.reads_per_second, mended.bytes_per_second), (1, 1));
        assert_eq!(wait_after(read(1, 2, None), &broken), Duration::from_secs(2));
    }

    fn any_settings() -> impl Strategy<Value = PollingSettings> {
        (0_u64..5000, 1_u32..=50, 1_u64..=20 * MIB).prop_map(|(idle, reads_per_second, bytes_per_second)| {
            PollingSettings {
                idle_interval: Duration::from_millis(idle),
                reads_per_second,
                bytes_per_second,
                ..PollingSettings::default()
            }
        })
    }

    fn any_read() -> impl Strategy<Value = Read> {
        (
            0_usize..10_000,
            0..=10 * MIB,
            proptest::option::of(0_u64..100_000),
        )
            .prop_map(|(records, bytes, behind)| read(records, if records == 0 { 0 } else { bytes }, behind))
    }

    proptest! {
        #[test]
        fn a_reader_that_keeps_the_pace_exceeds_no_limit(
            settings in any_settings(),
            reads in proptest::collection::vec(any_read(), 1..50),
        ) {
            let spent: Duration = reads.iter().map(|read| wait_after(*read, &settings)).sum();
            let bytes: u64 = reads.iter().map(|read| read.bytes).sum();
            // Each wait is cut to whole nanoseconds.
            let seconds = spent.as_secs_f64() + 1e-6;
            prop_assert!(reads.len() as f64 <= seconds * f64::from(settings.reads_per_second) + 1e-3);
            prop_assert!(bytes as f64 <= seconds * settings.bytes_per_second as f64 + 1.0 + 1e-6 * 20.0 * MIB as f64);
        }

        #[test]
        fn only_an_empty_read_at_the_tip_waits_the_idle_interval(settings in any_settings(), read in any_read()) {
            let hurried = PollingSettings { idle_interval: Duration::ZERO, ..settings };
            let patient = PollingSettings { idle_interval: Duration::from_secs(60), ..settings };
            let differs = wait_after(read, &hurried) != wait_after(read, &patient);
            prop_assert_eq!(differs, read.caught_up());
        }

        #[test]
        fn more_bytes_never_mean_a_shorter_wait(settings in any_settings(), read in any_read(), more in 0..10 * MIB) {
            let larger = Read { bytes: read.bytes + more, ..read };
            prop_assert!(wait_after(larger, &settings) >= wait_after(read, &settings));
        }
    }
}

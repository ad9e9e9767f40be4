//! The names, dimensions and units under which metrics are sent: Java's where it has one.

use kcl_core::metrics::{
    ASSIGNMENTS, BEHIND_SECONDS, BYTES_PROCESSED, HASH_KEY_HOLES, LEADER, LEASES_HELD, LEASES_LOST,
    LEASES_UNPLACED, PROCESS_SECONDS, RECORDS_PROCESSED,
};
use metrics::Unit;

use crate::statistics::Statistics;
use crate::taken::{Taken, TakenValue};

/// How far reading is behind in one shard: a gauge of this crate, in seconds, by lease.
pub(crate) const SHARD_BEHIND: &str = "kcl_cloudwatch_shard_behind";
/// The records that were processed in one shard: a counter of this crate, by lease.
pub(crate) const SHARD_RECORDS: &str = "kcl_cloudwatch_shard_records";

/// The label of a shard's lease.
pub(crate) const LEASE: &str = "lease";
/// The label of a worker.
const WORKER: &str = "worker";
/// CloudWatch takes no longer value of a dimension.
pub(crate) const LONGEST_VALUE: usize = 1024;
/// CloudWatch takes no longer name.
pub(crate) const LONGEST_NAME: usize = 255;
/// CloudWatch takes no more dimensions.
pub(crate) const MOST_DIMENSIONS: usize = 30;

/// A metric of the Java KCL.
struct JavaName {
    ours: &'static str,
    name: &'static str,
    operation: &'static str,
    /// Whether the worker is a dimension.
    by_worker: bool,
}

const fn java(ours: &'static str, operation: &'static str, name: &'static str) -> JavaName {
    JavaName {
        ours,
        name,
        operation,
        by_worker: false,
    }
}

const fn java_by_worker(ours: &'static str, operation: &'static str, name: &'static str) -> JavaName {
    JavaName {
        by_worker: true,
        ..java(ours, operation, name)
    }
}

/// From the call sites of the Java KCL 3.1.3 and 3.5.
const JAVA_NAMES: [JavaName; 12] = [
    java(BEHIND_SECONDS, "ApplicationTracker", "MillisBehindLatest"),
    java(RECORDS_PROCESSED, "ProcessTask", "RecordsProcessed"),
    java(BYTES_PROCESSED, "ProcessTask", "DataBytesProcessed"),
    java(
        PROCESS_SECONDS,
        "ProcessTask",
        "RecordProcessor.processRecords.Time",
    ),
    java_by_worker(LEASES_HELD, "RenewAllLeases", "CurrentLeases"),
    java_by_worker(LEASES_LOST, "RenewAllLeases", "LostLeases"),
    java(LEASES_UNPLACED, "LeaseAssignmentManager", "LeaseSpillover"),
    java(ASSIGNMENTS, "LeaseAssignmentManager", "NumOfLeasesReassignment"),
    java(LEADER, "LeaderDecider", "LeaderDecider:IsLeader"),
    java(
        HASH_KEY_HOLES,
        "PeriodicShardSyncManager",
        "NumStreamsWithPartialLeases",
    ),
    java(SHARD_BEHIND, "ProcessTask", "MillisBehindLatest"),
    java(SHARD_RECORDS, "ProcessTask", "RecordsProcessed"),
];

fn java_name(name: &str) -> Option<&'static JavaName> {
    JAVA_NAMES.iter().find(|java| java.ours == name)
}

/// Returns `true` if the Java KCL has a metric for this one, which it sends also while it is 0.
pub(crate) fn has_java_name(name: &str) -> bool {
    java_name(name).is_some()
}

/// A datum for CloudWatch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Datum {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<(String, String)>,
    /// In the words of CloudWatch.
    pub(crate) unit: &'static str,
    pub(crate) value: DatumValue,
}

/// One value, or the statistics of many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DatumValue {
    One(f64),
    Many(Statistics),
}

impl Datum {
    /// Makes the datum of what was taken of a series.
    pub(crate) fn of(taken: &Taken) -> Self {
        let java = java_name(&taken.key.name);
        let (unit, factor) = match java {
            // Java measures every time in milliseconds.
            Some(java) if [SHARD_BEHIND, BEHIND_SECONDS, PROCESS_SECONDS].contains(&java.ours) => {
                ("Milliseconds", 1000.0)
            }
            _ => unit(taken.unit),
        };
        let dimensions = match java {
            Some(java) => java_dimensions(java, &taken.key.labels),
            None => taken
                .key
                .labels
                .iter()
                .map(|(name, value)| dimension(name, value))
                .collect(),
        };
        let name = java.map_or(taken.key.name.as_str(), |java| java.name);
        Self {
            name: name
                .chars()
                .filter(|letter| is_allowed(*letter))
                .take(LONGEST_NAME)
                .collect(),
            dimensions: dimensions.into_iter().flatten().take(MOST_DIMENSIONS).collect(),
            unit,
            value: value(taken.value, factor),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "CloudWatch counts in floats")]
fn value(taken: TakenValue, factor: f64) -> DatumValue {
    match taken {
        TakenValue::Rise(rise) => DatumValue::One(rise as f64 * factor),
        TakenValue::Level(values) | TakenValue::Spread(values) if values.count == 1.0 => {
            DatumValue::One(values.sum * factor)
        }
        TakenValue::Level(values) | TakenValue::Spread(values) => DatumValue::Many(values.scaled(factor)),
    }
}

fn java_dimensions(java: &JavaName, labels: &[(String, String)]) -> Vec<Option<(String, String)>> {
    let label = |name: &str| {
        labels
            .iter()
            .find(|(label, _)| label == name)
            .map(|(_, value)| value.as_str())
    };
    let mut dimensions = vec![dimension("Operation", java.operation)];
    if java.by_worker {
        dimensions.extend(label(WORKER).map(|worker| dimension(WORKER, worker)));
    }
    if let Some(lease) = label(LEASE) {
        // With several streams the key of a lease is that of its stream, a colon, and the shard.
        let (stream, shard) = match lease.rsplit_once(':') {
            Some((stream, shard)) => (Some(stream), shard),
            None => (None, lease),
        };
        dimensions.push(dimension("ShardId", shard));
        dimensions.extend(stream.map(|stream| dimension("StreamId", stream)));
    }
    dimensions
}

/// A label as a dimension, if CloudWatch takes it.
fn dimension(name: &str, value: &str) -> Option<(String, String)> {
    let name = if name == WORKER { "WorkerIdentifier" } else { name };
    let allowed = |text: &str, longest| {
        text.chars()
            .filter(|letter| is_allowed(*letter))
            .take(longest)
            .collect::<String>()
    };
    let name = allowed(name, LONGEST_NAME).trim_start_matches(':').to_owned();
    let value = allowed(value, LONGEST_VALUE);
    (!name.trim().is_empty() && !value.trim().is_empty()).then_some((name, value))
}

/// CloudWatch takes printable ASCII.
fn is_allowed(letter: char) -> bool {
    letter == ' ' || letter.is_ascii_graphic()
}

/// The unit in the words of CloudWatch, and how many of them one of ours is.
fn unit(unit: Option<Unit>) -> (&'static str, f64) {
    match unit {
        Some(Unit::Count) => ("Count", 1.0),
        Some(Unit::Percent) => ("Percent", 1.0),
        Some(Unit::Seconds) => ("Seconds", 1.0),
        Some(Unit::Milliseconds) => ("Milliseconds", 1.0),
        Some(Unit::Microseconds) => ("Microseconds", 1.0),
        Some(Unit::Nanoseconds) => ("Microseconds", 0.001),
        Some(Unit::Bytes) => ("Bytes", 1.0),
        Some(Unit::CountPerSecond) => ("Count/Second", 1.0),
        // A kibibyte is no kilobyte, and neither is a kibibit.
        _ => ("None", 1.0),
    }
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Label};

    use super::*;
    use crate::taken::SeriesKey;

    fn datum(
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        value: TakenValue,
        unit: Unit,
    ) -> Datum {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| Label::new(*name, *value))
            .collect();
        Datum::of(&Taken {
            key: SeriesKey::from(&Key::from_parts(name, labels)),
            value,
            unit: Some(unit),
        })
    }

    fn dimensions(datum: &Datum) -> Vec<(&str, &str)> {
        datum
            .dimensions
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn metric_of_java_has_its_name_and_dimensions() {
        let labels = [("worker", "w-1")];
        let times = TakenValue::Level(Statistics::of(1.5).with(Statistics::of(0.5)));
        let behind = datum(BEHIND_SECONDS, &labels, times, Unit::Seconds);
        assert_eq!(
            (behind.name.as_str(), behind.unit),
            ("MillisBehindLatest", "Milliseconds")
        );
        assert_eq!(dimensions(&behind), [("Operation", "ApplicationTracker")]);
        let DatumValue::Many(values) = behind.value else {
            panic!("{behind:?}")
        };
        assert_eq!(
            (values.count, values.sum, values.least, values.greatest),
            (2.0, 2000.0, 500.0, 1500.0)
        );
        let lost = datum(LEASES_LOST, &labels, TakenValue::Rise(4), Unit::Count);
        assert_eq!(
            (lost.name.as_str(), lost.unit, lost.value),
            ("LostLeases", "Count", DatumValue::One(4.0))
        );
        assert_eq!(
            dimensions(&lost),
            [("Operation", "RenewAllLeases"), ("WorkerIdentifier", "w-1")]
        );
    }

    #[test]
    fn shard_has_dimensions_of_its_stream() {
        let one = datum(
            SHARD_RECORDS,
            &[("lease", "shardId-000000000007")],
            TakenValue::Rise(1),
            Unit::Count,
        );
        assert_eq!(one.name, "RecordsProcessed");
        assert_eq!(
            dimensions(&one),
            [("Operation", "ProcessTask"), ("ShardId", "shardId-000000000007")]
        );
        let many = datum(
            SHARD_BEHIND,
            &[("lease", "1234:trucks:17:shardId-7")],
            TakenValue::Rise(2),
            Unit::Seconds,
        );
        assert_eq!((many.unit, many.value), ("Milliseconds", DatumValue::One(2000.0)));
        let expected = [
            ("Operation", "ProcessTask"),
            ("ShardId", "shardId-7"),
            ("StreamId", "1234:trucks:17"),
        ];
        assert_eq!(dimensions(&many), expected);
    }

    #[test]
    fn other_metrics_keep_name_and_labels() {
        let labels = [("worker", "w\n1ü"), ("outcome", "done"), ("empty", "")];
        let calls = datum("kcl_store_calls_total", &labels, TakenValue::Rise(2), Unit::Count);
        assert_eq!(calls.name, "kcl_store_calls_total");
        assert_eq!(
            dimensions(&calls),
            [("outcome", "done"), ("WorkerIdentifier", "w1")]
        );
    }

    #[test]
    fn every_name_of_java_belongs_to_a_metric() {
        for java in &JAVA_NAMES[..10] {
            let metric = kcl_core::metrics::ALL
                .iter()
                .find(|metric| metric.name == java.ours);
            assert!(
                metric.is_some_and(|metric| metric.labels.is_empty()),
                "{}",
                java.ours
            );
        }
        let readme = include_str!("../README.md");
        for java in &JAVA_NAMES {
            let is_ours = !java.ours.starts_with("kcl_cloudwatch_");
            assert!(
                !is_ours || readme.contains(&format!("| `{}` | `{}` |", java.ours, java.name)),
                "{}",
                java.ours
            );
        }
    }
}

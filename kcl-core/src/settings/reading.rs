use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::durations;
use crate::settings::rules::{DAY, too_long, violated};
use crate::types::InitialPosition;

/// Where and how much is read at a time, and what follows when reading stands still.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{ReadingSettings, Settings};
/// use kinesis_client::types::InitialPosition;
///
/// let reading = ReadingSettings { initial_position: InitialPosition::Latest, ..ReadingSettings::default() };
/// assert!(Settings { reading, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadingSettings {
    /// Where a stream is read from when the application has no leases for it yet. The oldest record by default, because
    /// that skips nothing. The Java KCL starts at the newest (`initialPositionInStreamExtended`).
    pub initial_position: InitialPosition,
    /// The treatment of aggregated records, as the Kinesis Producer Library writes them. They are unpacked by default.
    pub aggregation: Aggregation,
    /// The consequence of a gap: retention took the record at which reading was to go on, and perhaps others. There is one behind a checkpoint older than the stream keeps
    /// records, and behind a processor that is further behind than that. By default the shard goes on at the oldest record that is kept, and says so: in the
    /// log once, in [`kcl_retention_gaps_total`](crate::metrics::GAPS), in the [status](crate::status::LeaseStatus::gap) and in
    /// [`RecordBatch::gap`](crate::processor::RecordBatch::gap). The Java KCL goes on and says nothing.
    pub retention_gap: RetentionGap,
    /// The most Kinesis records in one fetch, 1 to 10,000. 10,000 by default, the most that Kinesis gives (the Java KCL's `maxRecords`).
    /// An aggregated record counts as one, and may be unpacked to many; these come in batches that fit the memory budget, which may end
    /// inside of an aggregate.
    pub max_batch_records: u32,
    /// How long a consumer that waits for nothing it could name may make no step before it is torn down and opened again.
    /// The failover time to a day. 60 s by default, longer than the slowest answer of a healthy service.
    #[serde(with = "durations")]
    pub stall_timeout: Duration,
    /// How often a consumer is opened again without a step in between before its lease is released. 1 to 1000; 3 by default.
    pub stall_tries: u32,
}

/// The treatment of aggregated records, and of those user records in them that do not belong to the shard.
///
/// A producer packs by the shards that it knows. If one of them was split meanwhile, its aggregate reaches one of the children whole. The
/// Kinesis Producer Library notices and sends records again: since August 2024 those that do not belong to that child, before that all of
/// the aggregate. Other aggregators send nothing again.
///
/// # Producers that resend
///
/// With a producer that sends again, [`Deliver`](Self::Deliver) brings every copy: one of a KPL's design that lives through a split may send
/// a record many times, until it learns of the new shards. Where all producers send again what lies outside of the shard,
/// [`Filter`](Self::Filter) or [`FilterRecords`](Self::FilterRecords) delivers each record once; where one of them does not, they lose
/// records, so they are not the default. How many records lie outside is counted under every setting, in
/// [`kcl_records_outside_shard_total`](crate::metrics::OUTSIDE_SHARD), and said once for each shard at WARN. An alert on
/// `rate(kcl_records_outside_shard_total[5m]) > 0` shows it; with the default it means records that may come twice, with a filter
/// records that were left out.
///
/// # Changing it
///
/// A change takes effect at the checkpoint of each shard. From the others to [`Raw`](Self::Raw), an aggregate of which only a part is finished
/// is delivered again, whole: its checkpoint is not moved back, and stays where it is until the next record is finished. As the position of a
/// raw record is that of its first user record, a worker under [`Raw`](Self::Raw) that begins at the stored checkpoint of such a record
/// delivers this one record again. From [`Raw`](Self::Raw) to the others, the user records behind the first of the last finished aggregate
/// are delivered again. Nothing is dropped in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// All user records are delivered. Those that the producer sends again come twice; none is lost.
    #[default]
    Deliver,
    /// An aggregate with any user record outside is left out, as by the Java KCL. With the Kinesis Producer Library since August 2024, and
    /// with other aggregators, this loses records.
    Filter,
    /// The user records outside are left out. With aggregators other than the Kinesis Producer Library this loses records.
    FilterRecords,
    /// An aggregate with any user record outside is a failure, about which the error policy decides.
    Fail,
    /// Nothing is unpacked: an aggregated record is delivered as it came.
    Raw,
}

/// The consequence of a gap: retention took the record at which reading was to go on.
///
/// Whether it took others that were not read cannot be seen: of a shard that was idle for longer than its stream keeps records nothing is
/// missing, and it is held even so.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{RetentionGap, Settings};
///
/// let mut settings = Settings::default();
/// assert_eq!(settings.reading.retention_gap, RetentionGap::Continue);
/// settings.reading.retention_gap = RetentionGap::Hold;
/// assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionGap {
    /// The shard goes on at the oldest record that is kept. The gap is counted, logged and shown.
    #[default]
    Continue,
    /// The shard is held before the first record behind the gap, with [`Gap`](crate::status::WaitReason::Gap) as its reason in the status,
    /// until an operator [accepts the gap](crate::FlowHandle::accept_gap) or a worker with the other setting takes it over. Every owner
    /// holds it until something behind the gap is checkpointed. Meanwhile retention goes on.
    Hold,
}

impl Default for ReadingSettings {
    fn default() -> Self {
        Self {
            initial_position: InitialPosition::TrimHorizon,
            aggregation: Aggregation::Deliver,
            retention_gap: RetentionGap::Continue,
            max_batch_records: 10_000,
            stall_timeout: Duration::from_secs(60),
            stall_tries: 3,
        }
    }
}

impl ReadingSettings {
    pub(crate) fn violations(&self, failover: Duration) -> Vec<String> {
        let rules = violated([
            (
                !(1..=10_000).contains(&self.max_batch_records),
                "max_batch_records must be 1 to 10,000, as Kinesis allows",
            ),
            (
                self.stall_timeout < failover,
                "stall_timeout must be at least failover_time: a consumer is given time to reopen before its lease goes",
            ),
            (
                !(1..=1000).contains(&self.stall_tries),
                "stall_tries must be 1 to 1000: the lease of a shard that cannot be read is released after so many",
            ),
        ]);
        let limits = too_long([(
            "stall_timeout",
            self.stall_timeout,
            DAY,
            "a reader that is stuck is not opened again before",
        )]);
        [rules, limits].concat()
    }
}

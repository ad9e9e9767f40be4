use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{EndStyle, Operation, WireTls};

const MIB: u64 = 1024 * 1024;

/// How the server behaves. The defaults are those of Kinesis; a test shortens what it does not want to wait for.
///
/// ```
/// use std::time::Duration;
/// use kinesis_local::{WireLimits, WireOptions};
///
/// let options = WireOptions {
///     limits: WireLimits::none(),
///     subscription_lifetime: Duration::from_millis(300),
///     ..WireOptions::default()
/// };
/// assert_eq!(options.iterator_lifetime, Duration::from_secs(300));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireOptions {
    /// The address to listen on. Default: 127.0.0.1, which other hosts cannot reach.
    pub host: IpAddr,
    /// The port. Default: 0, any port that is free.
    pub port: u16,
    /// The region that ARNs name, those of given streams too. Default: `us-east-1`.
    pub region: String,
    /// The account that ARNs and messages name, of 12 digits. Default: `000000000000`.
    pub account: String,
    /// The file that streams outlive the server in. It is read at the start, if it is there, and written within a second after a
    /// change, and when the server is [stopped](super::WireServer::stop). Default: none.
    pub data_file: Option<PathBuf>,
    /// The certificate to serve HTTPS with; plain HTTP is then refused. Default: none, and plain HTTP.
    pub tls: Option<WireTls>,
    /// How the end of a shard is shown. Default: as by Kinesis; the others are those of servers that people test on.
    pub end_style: EndStyle,
    /// The limits that are enforced. Default: those of Kinesis.
    pub limits: WireLimits,
    /// How long an iterator is good for. Default: 300 s, as in
    /// [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html).
    pub iterator_lifetime: Duration,
    /// How long the token of a listing is good for. Default: 300 s, as in
    /// [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html).
    pub token_lifetime: Duration,
    /// How long a subscription lasts. Default: 300 s, as in
    /// [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html).
    pub subscription_lifetime: Duration,
    /// How soon after a successful call the same consumer may subscribe to the same shard again. Default: 5 s, as in Kinesis.
    pub resubscribe_after: Duration,
    /// The interval of events to a subscription without records, so that its continuation number moves.
    /// Default: 5 s. Kinesis does so every few seconds and promises no interval.
    pub heartbeat: Duration,
    /// How often a subscription looks for new records. Default: 20 ms. Kinesis says that a record arrives about 70 ms after it
    /// was put.
    pub push_interval: Duration,
    /// How long a stream is CREATING, UPDATING or DELETING. Default: 500 ms. Kinesis takes up to a minute and promises nothing.
    pub stream_transition: Duration,
    /// How long a consumer is CREATING or DELETING. Default: 500 ms. Kinesis takes some seconds and promises nothing.
    pub consumer_transition: Duration,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
            data_file: None,
            tls: None,
            end_style: EndStyle::default(),
            limits: WireLimits::default(),
            iterator_lifetime: Duration::from_secs(300),
            token_lifetime: Duration::from_secs(300),
            subscription_lifetime: Duration::from_secs(300),
            resubscribe_after: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            push_interval: Duration::from_millis(20),
            stream_transition: Duration::from_millis(500),
            consumer_transition: Duration::from_millis(500),
        }
    }
}

impl WireOptions {
    /// Kinesis without what makes tests wait: no limit, no transition, a second subscription at any time.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            limits: WireLimits::none(),
            resubscribe_after: Duration::ZERO,
            stream_transition: Duration::ZERO,
            consumer_transition: Duration::ZERO,
            ..Self::default()
        }
    }
}

/// The limits that the server enforces, from the
/// [quotas of Kinesis](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html). `None` is no limit.
///
/// How large a record may be is no limit of this kind: it belongs to the stream, as
/// [`max_record_kib`](kcl_lease_memory::memory_stream::StreamSettings::max_record_kib), and holds always.
///
/// GetRecords, GetShardIterator and puts answer `ProvisionedThroughputExceededException`, everything else
/// `LimitExceededException`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireLimits {
    /// Calls of GetRecords per shard and second. Default: 5.
    pub reads_per_second: Option<u32>,
    /// Bytes that GetRecords brings per shard and second. Default: 2 MiB. An answer of more is paid for by as many seconds in
    /// which the shard is not read.
    pub read_bytes_per_second: Option<u64>,
    /// Calls of GetShardIterator per shard and second. Default: 5.
    pub iterators_per_second: Option<u32>,
    /// Records put per shard and second. Default: 1000.
    pub writes_per_second: Option<u32>,
    /// Bytes put per shard and second. Default: 1 MiB.
    pub write_bytes_per_second: Option<u64>,
    /// Bytes that a subscription brings per second. Default: 2 MiB.
    pub subscription_bytes_per_second: Option<u64>,
    /// Calls per second of the operations that are not listed above. Those that the quotas count per account are counted over
    /// all streams, the others per stream, and SubscribeToShard per consumer and shard. A limit that is missing is not enforced.
    pub calls_per_second: BTreeMap<Operation, u32>,
    /// Consumers of a stream. Default: 20. An account with a commitment to a minimum throughput has 50 instead of 20.
    pub consumers: Option<u32>,
    /// Consumers of a stream that may be CREATING at once. Default: 5.
    pub consumers_creating: Option<u32>,
    /// Open shards of the account. Default: 20,000, as in the largest regions.
    pub shards: Option<u32>,
    /// Streams that may be CREATING at once. Default: 5.
    pub streams_creating: Option<u32>,
    /// Streams of the account in on-demand mode. Default: 50.
    pub on_demand_streams: Option<u32>,
    /// Calls of UpdateShardCount per stream in 24 hours, each of which may at most double the shards and at most halve them.
    /// Default: 10; `None` also lets one call make any number of shards.
    pub shard_count_updates_per_day: Option<u32>,
    /// Calls of UpdateStreamMode per stream in 24 hours. Default: 2.
    pub mode_changes_per_day: Option<u32>,
    /// Calls each of StartStreamEncryption and StopStreamEncryption per stream in 24 hours. Default: 25.
    pub encryption_changes_per_day: Option<u32>,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            reads_per_second: Some(5),
            read_bytes_per_second: Some(2 * MIB),
            iterators_per_second: Some(5),
            writes_per_second: Some(1000),
            write_bytes_per_second: Some(MIB),
            subscription_bytes_per_second: Some(2 * MIB),
            calls_per_second: BTreeMap::from([
                (Operation::AddTagsToStream, 5),
                (Operation::CreateStream, 5),
                (Operation::DecreaseStreamRetentionPeriod, 5),
                (Operation::DeleteResourcePolicy, 5),
                (Operation::DeleteStream, 5),
                (Operation::DeregisterStreamConsumer, 5),
                (Operation::DescribeAccountSettings, 5),
                (Operation::DescribeLimits, 1),
                (Operation::DescribeStream, 10),
                (Operation::DescribeStreamConsumer, 20),
                (Operation::DescribeStreamSummary, 20),
                (Operation::DisableEnhancedMonitoring, 5),
                (Operation::EnableEnhancedMonitoring, 5),
                (Operation::GetResourcePolicy, 5),
                (Operation::IncreaseStreamRetentionPeriod, 5),
                (Operation::ListShards, 1000),
                (Operation::ListStreamConsumers, 5),
                (Operation::ListStreams, 5),
                (Operation::ListTagsForStream, 5),
                (Operation::MergeShards, 5),
                (Operation::PutResourcePolicy, 5),
                (Operation::RegisterStreamConsumer, 5),
                (Operation::RemoveTagsFromStream, 5),
                (Operation::SplitShard, 5),
                (Operation::SubscribeToShard, 1),
                (Operation::UpdateAccountSettings, 5),
                (Operation::UpdateShardCount, 10),
                (Operation::UpdateStreamWarmThroughput, 5),
            ]),
            consumers: Some(20),
            consumers_creating: Some(5),
            shards: Some(20_000),
            streams_creating: Some(5),
            on_demand_streams: Some(50),
            shard_count_updates_per_day: Some(10),
            mode_changes_per_day: Some(2),
            encryption_changes_per_day: Some(25),
        }
    }
}

impl WireLimits {
    /// No limit at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            reads_per_second: None,
            read_bytes_per_second: None,
            iterators_per_second: None,
            writes_per_second: None,
            write_bytes_per_second: None,
            subscription_bytes_per_second: None,
            calls_per_second: BTreeMap::new(),
            consumers: None,
            consumers_creating: None,
            shards: None,
            streams_creating: None,
            on_demand_streams: None,
            shard_count_updates_per_day: None,
            mode_changes_per_day: None,
            encryption_changes_per_day: None,
        }
    }
}

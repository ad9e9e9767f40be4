use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::source::SourceError;
use crate::types::{HashKeyRange, Record, SequenceNumber, ShardId, StreamIdentity, Timestamp};

/// A stream: knows its shards and opens them.
#[async_trait]
pub trait StreamSource: Send + Sync + fmt::Debug + 'static {
    /// The name of the stream as the application configured it.
    fn name(&self) -> &str;

    /// The text that distinguishes the stream from every other one that the application reads: its name, or more where two may have the same
    /// name, as the ARN of a stream of another account.
    fn address(&self) -> &str {
        self.name()
    }

    /// Which stream this is, beyond its name.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`]; [`NotFound`](crate::source::SourceErrorKind::NotFound) when there is no such stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn identity(&self) -> Result<StreamIdentity, SourceError>;

    /// The description of the stream from when the source was last asked for its [identity](Self::identity). Nothing is asked here.
    ///
    /// The default knows nothing.
    fn description(&self) -> StreamDescription {
        StreamDescription::default()
    }

    /// One page of the stream's shards.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError>;

    /// Opens a shard for reading.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn open(&self, shard: &ShardId, start: StartPosition)
    -> Result<Box<dyn RecordStream>, SourceError>;

    /// Opens a shard that a listing shows closed, to read what is left and to find its end.
    ///
    /// The worker calls it when the usual reader brings neither records nor the end. By default it is [`open`](Self::open). A source whose usual
    /// reader may go on without an end, as a subscription does on some servers, returns one that asks with a request per fetch.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn open_closed(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        self.open(shard, start).await
    }
}

/// One open shard.
#[async_trait]
pub trait RecordStream: Send + fmt::Debug {
    /// The next records, in order and without a gap after the ones before; possibly none.
    ///
    /// The future ends within the source's own deadline whether or not there are records.
    /// It does not wait between reads: [`Fetch::wait`] asks the caller to do that.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`]. The stream stays usable: the next call goes on from where the last successful one ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no record: the next call goes on from where the last successful one ended.
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError>;

    /// The same, and announces the answer while it comes: its size before its body is read, so that nothing is read for which there is no
    /// room, and that it goes on coming.
    ///
    /// A source that does not know leaves this as it is. One that wraps another must pass it on.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// As [`next`](Self::next).
    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        let _ = arrival;
        self.next(limit).await
    }

    /// Lets go of what costs something while nobody reads, such as a subscription, or records that came along beyond the limit of a fetch:
    /// the reader is held up for longer than a moment, or there is no room for them.
    ///
    /// The next fetch goes on from where the last successful one ended.
    fn pause(&mut self) {}
}

/// The listener for an answer while it comes.
#[async_trait]
pub trait Arrival: Send + Sync {
    /// An answer begins to arrive whose body takes so many bytes, with so many records where that is known. Returns once there is room for
    /// it, which may take long; the body is read after that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn announced(&self, bytes: u64, records: Option<usize>);

    /// A piece of the answer came.
    fn progressed(&self);
}

/// A listener that takes no notice: there is always room.
#[async_trait]
impl Arrival for () {
    async fn announced(&self, _: u64, _: Option<usize>) {}

    fn progressed(&self) {}
}

/// Which shards to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardFilter {
    /// Every shard that still holds records or takes them.
    All,
    /// The shards that take records now.
    Open,
    /// The shards that were open at this time, and all that came after them.
    FromTimestamp(Timestamp),
}

/// Where the next page of a listing begins. Its content belongs to the source that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(pub String);

/// One page of a listing of shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPage {
    /// The shards, in the service's order.
    pub shards: Vec<Shard>,
    /// Where the next page begins, if there is one.
    pub next: Option<PageToken>,
    /// The service's own time when it answered.
    pub service_time: Timestamp,
}

/// A shard as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// The shards that it came from: none, one after a split, two after a merge. They may be gone from the listing.
    pub parents: BTreeSet<ShardId>,
    /// The hash keys that it receives.
    pub hash_range: HashKeyRange,
    /// The first sequence number that it can hold.
    pub starting_sequence: SequenceNumber,
    /// Whether it takes records no more.
    pub closed: bool,
}

/// Where to begin reading a shard: the five kinds of shard iterator that Kinesis has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPosition {
    /// With the oldest record kept.
    TrimHorizon,
    /// With records put from now on.
    Latest,
    /// With the first record that arrived at or after this time.
    AtTimestamp(Timestamp),
    /// With the record of this number, or the first kept after it.
    AtSequence(SequenceNumber),
    /// With the first record after this number.
    AfterSequence(SequenceNumber),
}

/// How much one fetch may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimit {
    /// The most records, at least 1. Kinesis allows up to 10,000.
    pub records: u32,
}

/// The answer to one fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetch {
    /// The records, in order.
    pub records: Vec<Record>,
    /// How much memory the records keep, in bytes: that of the whole answer where they are slices.
    pub bytes: usize,
    /// How much memory the source keeps beside that for the fetches to come, in bytes: of records that came along beyond the limit.
    /// None after [`pause`](RecordStream::pause).
    pub kept: usize,
    /// How far behind the newest record of the shard this fetch is, where the source reports it.
    pub behind: Option<Duration>,
    /// Set with the last fetch of a closed shard: there will be no more.
    ///
    /// An end with children that fit the shard is believed. One without children is a claim: the worker checks it with a listing and a fresh
    /// reader, and reads on if it does not hold.
    pub end: Option<ShardEnd>,
    /// The children of the shard, where the answer names them and does not end the shard. The worker looks for the end sooner, and uses them
    /// where no listing shows the shard any more.
    pub children: Vec<ChildShard>,
    /// The number of the last record before this fetch, where the source looked for that record again and did not find it: retention may have
    /// taken records between it and the first one of this fetch.
    pub lost_place: Option<SequenceNumber>,
    /// How long to wait before the next fetch, counted from the start of this one: the pace that the service asks for,
    /// longer when the reader has caught up.
    pub wait: Duration,
}

/// The end of a closed shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardEnd {
    /// The children of the shard: two after a split, one after a merge. Empty when the source does not know: then the end is a claim.
    pub children: Vec<ChildShard>,
}

/// A shard that another became, as the end of the other shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub id: ShardId,
    /// All the shards that it came from.
    pub parents: BTreeSet<ShardId>,
    /// The hash keys that it receives.
    pub hash_range: HashKeyRange,
}

/// The known facts about a stream beside its identity and its shards. Every field is `None` where the source does not know.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::source::StreamDescription;
///
/// let mut description = StreamDescription::default();
/// description.retention = Some(Duration::from_secs(24 * 3600));
/// assert_eq!(description.largest_record, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamDescription {
    /// How capacity is provided and paid for.
    pub capacity: Option<CapacityMode>,
    /// How long records are kept.
    pub retention: Option<Duration>,
    /// The most bytes of payload that one record may have.
    pub largest_record: Option<u64>,
    /// The rule by which a record gets its shard.
    pub placement: Option<RecordPlacement>,
    /// How many shards take records.
    pub open_shards: Option<u32>,
    /// How many consumers are registered for enhanced fan-out.
    pub consumers: Option<u32>,
    /// How many channels carry records of the stream to other storage.
    pub channels: Option<u32>,
}

/// How the capacity of a stream is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapacityMode {
    /// By the number of shards, which the owner of the stream sets.
    Provisioned,
    /// By the service, as the traffic needs it.
    OnDemand,
}

/// The rule by which a record gets its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordPlacement {
    /// The hash of the partition key, or the explicit hash key.
    ByPartitionKey,
    /// The service, whatever the key is (`AUTO`). Keys may be missing, and records of one key are in any shard.
    ByService,
}

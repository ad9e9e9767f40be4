//! A Kinesis stream in memory.
//!
//! [`MemoryStream`] follows the rules of the service that a consumer can notice: routing by MD5, sequence numbers, split and
//! merge, retention, the five kinds of iterator and their expiry, throttles, paging, deletion. The same calls at the same
//! (virtual) times give the same stream, so a test that fails once fails again.

mod builder;
mod number;
mod parts;
#[cfg(feature = "server")]
pub(crate) mod place;
mod reader;
mod settings;
pub(crate) mod state;
mod uniform;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use kcl_core::clock::{Clock, ClockExt as _, Moment};
use kcl_core::source::SourceError;
use kcl_core::types::{Record, SequenceNumber, ShardId, Timestamp};

pub use builder::MemoryStreamBuilder;
pub use parts::{Pace, ShardSnapshot};
pub use settings::{RecordDistribution, StreamMode, StreamSettings};

use state::State;

/// A Kinesis stream in memory. Clones share the stream.
///
/// ```
/// use kcl_core::source::{FetchLimit, StartPosition, StreamSource};
/// use kcl_lease_memory::memory_stream::MemoryStream;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = MemoryStream::builder("trucks").shards(5).build();
/// let (shard, sequence) = stream.put("truck-17", "50.1,8.7")?;
///
/// let mut records = stream.open(&shard, StartPosition::TrimHorizon).await?;
/// let fetch = records.next(FetchLimit { records: 100 }).await?;
/// assert_eq!(fetch.records[0].sequence_number(), &sequence);
/// assert_eq!(fetch.records[0].partition_key(), Some("truck-17"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStream {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    clock: Arc<dyn Clock>,
    /// The service's time at this moment of the clock.
    service_start: (Moment, Timestamp),
    latency: Duration,
    listing_page: usize,
    state: Mutex<State>,
}

/// Which records retention takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trim {
    /// In every shard, those that arrived before this time of the service.
    ArrivedBefore(Timestamp),
    /// In every shard, all but the last so many.
    KeepLast(usize),
    /// In this shard, those up to and including this number.
    Through(ShardId, SequenceNumber),
}

/// The shards cannot be split or merged so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReshardError {
    /// The stream has no such shard.
    #[error("there is no shard {0}")]
    NoSuchShard(ShardId),
    /// The shard was split or merged already.
    #[error("the shard {0} is closed")]
    Closed(ShardId),
    /// Only shards whose hash keys lie side by side can be merged.
    #[error("the shards {0} and {1} are not adjacent")]
    NotAdjacent(ShardId, ShardId),
    /// The second half must begin after the first key of the shard, and within it.
    #[error("the new starting hash key does not lie inside the shard {0}")]
    HashKeyOutside(ShardId),
}

impl MemoryStream {
    /// A stream with this name and number of shards that lives by this clock, with the defaults of the builder.
    #[must_use]
    pub fn new(name: impl Into<String>, shards: u32, clock: Arc<dyn Clock>) -> Self {
        Self::builder(name).shards(shards).clock(clock).build()
    }

    /// The service's time: arrival times, creation time and the time of a listing are read from it.
    #[must_use]
    pub fn service_time(&self) -> Timestamp {
        let (moment, time) = self.shared.service_start;
        time.plus(self.shared.clock.now().saturating_since(moment))
    }

    /// Puts a record into the open shard that the MD5 of the partition key falls into, and says where it went.
    ///
    /// # Errors
    ///
    /// [`NotFound`](kcl_core::source::SourceErrorKind::NotFound) after [`delete`](Self::delete).
    pub fn put(
        &self,
        partition_key: impl Into<ByteString>,
        data: impl Into<Bytes>,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let at = self.service_time();
        self.state()
            .put(Some(partition_key.into()), None, data.into(), at)
    }

    /// Puts a record into the open shard of this hash key, whatever the partition key.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Self::put).
    pub fn put_with_hash_key(
        &self,
        partition_key: impl Into<ByteString>,
        explicit_hash_key: u128,
        data: impl Into<Bytes>,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let at = self.service_time();
        let key = Some(partition_key.into());
        self.state().put(key, Some(explicit_hash_key), data.into(), at)
    }

    /// Puts a record without partition key, as streams in on-demand mode allow it; the open shards take turns.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Self::put).
    pub fn put_without_key(&self, data: impl Into<Bytes>) -> Result<(ShardId, SequenceNumber), SourceError> {
        let at = self.service_time();
        self.state().put(None, None, data.into(), at)
    }

    /// Closes a shard and opens two others for the halves of its hash keys, the lower half first.
    ///
    /// # Errors
    ///
    /// When the shard is not open, or has one hash key only.
    pub fn split(&self, shard: &ShardId) -> Result<[ShardId; 2], ReshardError> {
        let at = self.service_time();
        self.state().split(shard, None, at)
    }

    /// Closes a shard and opens two others, the second of which begins with this hash key.
    ///
    /// # Errors
    ///
    /// When the shard is not open, or the key is its first or outside it.
    pub fn split_at(
        &self,
        shard: &ShardId,
        new_starting_hash_key: u128,
    ) -> Result<[ShardId; 2], ReshardError> {
        let at = self.service_time();
        self.state().split(shard, Some(new_starting_hash_key), at)
    }

    /// Closes two adjacent shards and opens one for the hash keys of both.
    ///
    /// # Errors
    ///
    /// When one is not open, or they are not adjacent.
    pub fn merge(&self, a: &ShardId, b: &ShardId) -> Result<ShardId, ReshardError> {
        let at = self.service_time();
        self.state().merge(a, b, at)
    }

    /// Splits and merges shards until `count` of equal size are open, as UpdateShardCount does. Returns their ids in the order
    /// of their hash keys; 0 means 1.
    ///
    /// A count that is neither a multiple nor a divisor of the present one makes shards that are closed at once.
    ///
    /// # Errors
    ///
    /// When a shard has too few hash keys to be split so.
    pub fn reshard_to(&self, count: u32) -> Result<Vec<ShardId>, ReshardError> {
        let at = self.service_time();
        self.state().reshard_to(count.max(1), at)
    }

    /// The settings of the stream.
    #[must_use]
    pub fn settings(&self) -> StreamSettings {
        self.state().settings
    }

    /// Changes settings. A shorter retention takes records away now; a longer one brings none back.
    pub fn configure(&self, change: impl FnOnce(&mut StreamSettings)) {
        change(&mut self.state().settings);
    }

    /// Takes old records away, as the end of their retention would. Returns how many there were.
    pub fn trim(&self, trim: &Trim) -> usize {
        self.state().trim(trim)
    }

    /// Drops the closed shards without records from the listing, as Kinesis does once their retention is over. Returns their ids.
    pub fn forget_closed_shards(&self) -> Vec<ShardId> {
        self.state().forget_closed_shards()
    }

    /// Deletes the stream: from now on nothing in the stream is found.
    pub fn delete(&self) {
        self.state().delete();
    }

    /// Deletes the stream and creates another with its name: same shard ids, a later creation time, none of the records.
    pub fn recreate(&self, shards: u32) {
        let at = self.service_time();
        self.state().recreate(shards, at);
    }

    /// Changes the pace that later fetches ask for.
    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// Changes how many reads per second each shard allows; `None` allows any number.
    pub fn set_reads_per_second(&self, most: Option<u32>) {
        self.state().reads_per_second = most;
    }

    /// Lets every iterator that exists expire. Readers get themselves new ones, from where they stand.
    pub fn expire_iterators(&self) {
        self.state().iterator_epoch += 1;
    }

    /// How often a reader had to replace an expired iterator.
    #[must_use]
    pub fn reminted_iterators(&self) -> u64 {
        self.state().reminted
    }

    /// How long an iterator is good for.
    #[must_use]
    pub fn iterator_lifetime(&self) -> Duration {
        self.state().iterator_lifetime
    }

    /// The records that retention has left in a shard, oldest first.
    #[must_use]
    pub fn records(&self, shard: &ShardId) -> Vec<Record> {
        self.state().records(shard)
    }

    /// Every shard that this stream ever had, by id.
    #[must_use]
    pub fn shards_snapshot(&self) -> Vec<ShardSnapshot> {
        self.state().snapshot()
    }

    /// Everything that was ever put, in order, and where it went. Retention, deletion and recreation take nothing from it.
    #[must_use]
    pub fn put_log(&self) -> Vec<(ShardId, Record)> {
        self.state().log.clone()
    }

    /// The clock that the stream lives by.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// The state of now: what retention takes is gone.
    fn state(&self) -> MutexGuard<'_, State> {
        let at = self.service_time();
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(at);
        state
    }

    /// A message on its way: always a point where other tasks run, or where the caller may give up.
    async fn travel(&self) {
        if self.shared.latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            self.shared.clock.sleep(self.shared.latency).await;
        }
    }
}

/// Shows the name and the number of shards, never a record.
impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStream")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

//! Places in a shard that can be written down: what a server hands out instead of open readers.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use kcl_core::source::{FetchLimit, ShardEnd, SourceError, StartPosition};
use kcl_core::types::{Record, SequenceNumber, ShardId, StreamIdentity};

use super::MemoryStream;
use super::parts::Home;
use super::state::saved::SavedStream;

/// Where a reader goes on. It has no age of its own: whoever hands it out says how long it is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which creation of the stream it belongs to.
    pub generation: u64,
    /// How often iterators had been made to expire.
    pub epoch: u64,
    /// The tick of the first record that was not read.
    pub from: u64,
}

/// The content of a place.
#[derive(Debug)]
pub struct Page {
    /// In order.
    pub records: Vec<Record>,
    /// Where to go on.
    pub next: Place,
    /// A sequence number after which `next` begins.
    pub continuation: SequenceNumber,
    /// How far behind the newest record of the shard.
    pub behind: Duration,
    /// The children, once the shard has ended.
    pub end: Option<ShardEnd>,
}

#[doc(hidden)]
impl MemoryStream {
    /// Which stream this is, unless it was deleted.
    pub fn described(&self) -> Option<StreamIdentity> {
        let state = self.state();
        (!state.deleted).then(|| StreamIdentity {
            name: self.shared.name.clone(),
            arn: state.home.arn(&self.shared.name),
            created: state.created,
        })
    }

    /// Turns a start position into a place, once.
    pub fn place(&self, shard: &ShardId, start: &StartPosition) -> Result<Place, SourceError> {
        let (now, service_time) = (self.shared.clock.now(), self.service_time());
        let state = self.state();
        let iterator = state.open(shard, start, now, service_time)?;
        Ok(Place {
            generation: iterator.generation,
            epoch: state.iterator_epoch,
            from: iterator.from(),
        })
    }

    /// Whether [`expire_iterators`](Self::expire_iterators) was called since.
    pub fn made_to_expire(&self, place: Place) -> bool {
        place.epoch < self.state().iterator_epoch
    }

    /// Reads at a place. The limits of the service do not apply here.
    pub fn read_place(
        &self,
        shard: &ShardId,
        place: Place,
        limit: FetchLimit,
        bytes: usize,
    ) -> Result<Page, SourceError> {
        let service_time = self.service_time();
        let state = self.state();
        state.check_generation(place.generation)?;
        let reading = state.read_from(shard, place.from, limit, bytes, service_time)?;
        // A reader that has caught up moves with the stream, records or not.
        let from = if reading.more || reading.end.is_some() {
            reading.next
        } else {
            reading.next.max(state.future())
        };
        Ok(Page {
            continuation: state.number_before(shard, from)?,
            records: reading.records,
            next: Place {
                generation: state.generation,
                epoch: state.iterator_epoch,
                from,
            },
            behind: reading.behind,
            end: reading.end,
        })
    }

    /// The open shard that the next record with this partition key or explicit hash key goes to.
    pub fn route(&self, partition_key: Option<&str>, explicit_hash_key: Option<u128>) -> Option<ShardId> {
        self.state().route(partition_key, explicit_hash_key)
    }

    /// Puts a record with the keys that it has.
    pub fn put_with(
        &self,
        partition_key: Option<&str>,
        explicit_hash_key: Option<u128>,
        data: Bytes,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let at = self.service_time();
        let key = partition_key.map(ByteString::from);
        self.state().put(key, explicit_hash_key, data, at)
    }

    /// The number of the last thing that happened to the stream.
    pub fn ticks(&self) -> u64 {
        self.state().future() - 1
    }

    /// The stream as it is written down, unless it was deleted.
    pub fn save(&self) -> Option<SavedStream> {
        self.state().save()
    }

    /// Becomes what was written down.
    ///
    /// # Errors
    ///
    /// The inconsistency, for people.
    pub fn restore(&self, saved: SavedStream) -> Result<(), String> {
        self.state().restore(saved)
    }

    /// Says where the stream is: what its ARN and those of its consumers name.
    pub fn settle_at(&self, region: &str, account: &str) {
        self.state().home = Home {
            region: region.to_owned(),
            account: account.to_owned(),
        };
    }
}

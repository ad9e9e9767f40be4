//! The state of the stream and its changes, synchronously. Time is an argument.

mod reshard;
mod retention;
#[cfg(feature = "server")]
pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use kcl_core::clock::Moment;
use kcl_core::source::{
    ChildShard, Fetch, FetchLimit, Shard, ShardEnd, ShardFilter, SourceError, SourceErrorKind, StartPosition,
};
use kcl_core::types::{HashKeyRange, Record, SequenceNumber, ShardId, Timestamp};

use super::number::{self, Tick};
use super::parts::{Home, Pace, ShardSnapshot};
use super::settings::{RecordDistribution, StreamSettings};

/// Kinesis answers a read with at most this many payload bytes (10 MiB), but always with one record if there is one.
const MAX_FETCH_BYTES: usize = 10 * 1024 * 1024;
/// Kinesis answers a read with at most this many records.
const MAX_FETCH_RECORDS: u32 = 10_000;

/// The stream between its creation and its deletion.
#[derive(Debug)]
pub(super) struct State {
    /// Counts creations; a reader of an earlier one finds nothing.
    pub(super) generation: u64,
    pub(super) created: Timestamp,
    pub(super) deleted: bool,
    /// Where the stream is said to be.
    pub(super) home: Home,
    pub(super) settings: StreamSettings,
    /// The tick of the next thing that happens.
    next_tick: Tick,
    shards: BTreeMap<ShardId, ShardState>,
    keyless: usize,
    pub(super) log: Vec<(ShardId, Record)>,
    pub(super) pace: Pace,
    pub(super) reads_per_second: Option<u32>,
    pub(super) iterator_lifetime: Duration,
    /// Iterators minted before this tick of the expiry are dead.
    pub(super) iterator_epoch: u64,
    pub(super) reminted: u64,
}

#[derive(Debug)]
struct ShardState {
    index: u64,
    parents: BTreeSet<ShardId>,
    children: Vec<ShardId>,
    hash_range: HashKeyRange,
    opened: (Tick, Timestamp),
    closed: Option<(Tick, Timestamp)>,
    forgotten: bool,
    records: VecDeque<(Tick, Timestamp, Record)>,
    /// The tick of the last record that retention took.
    trimmed: Option<Tick>,
    recent_reads: VecDeque<Moment>,
}

/// Where a reader goes on: with the first record kept whose tick is not below `from`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardIterator {
    pub(super) generation: u64,
    from: Tick,
    minted: Moment,
    epoch: u64,
}

/// The content of a place in a shard.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) records: Vec<Record>,
    /// The place behind them.
    pub(super) next: Tick,
    /// Whether there are unread records.
    pub(super) more: bool,
    /// The age of the first unread record.
    pub(super) behind: Duration,
    /// Set when the shard is closed and everything in the shard was read.
    pub(super) end: Option<ShardEnd>,
}

fn gone(what: impl std::fmt::Display) -> SourceError {
    SourceError::new(SourceErrorKind::NotFound, format!("{what} is not there"))
}

fn invalid(message: String) -> SourceError {
    SourceError::new(SourceErrorKind::Invalid, message)
}

/// Where a record belongs; `None` when it may go anywhere.
fn hash_key(explicit: Option<u128>, partition_key: Option<&str>) -> Option<u128> {
    explicit.or_else(|| partition_key.map(number::hash_key))
}

impl ShardIterator {
    #[cfg(feature = "server")]
    pub(super) fn from(&self) -> Tick {
        self.from
    }
}

impl State {
    pub(super) fn new(
        shards: u32,
        at: Timestamp,
        pace: Pace,
        reads_per_second: Option<u32>,
        iterator_lifetime: Duration,
        settings: StreamSettings,
    ) -> Self {
        let mut state = Self {
            generation: 0,
            created: at,
            deleted: false,
            home: Home::default(),
            settings,
            next_tick: 0,
            shards: BTreeMap::new(),
            keyless: 0,
            log: Vec::new(),
            pace,
            reads_per_second,
            iterator_lifetime,
            iterator_epoch: 0,
            reminted: 0,
        };
        state.open_first_shards(shards, at);
        state
    }

    /// Deletes all content and starts again under the same name: shard ids start again at 0.
    pub(super) fn recreate(&mut self, shards: u32, at: Timestamp) {
        self.generation += 1;
        // Streams are distinguished by their creation time in whole seconds.
        self.created = at.max(self.created.plus(Duration::from_secs(1)));
        self.deleted = false;
        self.shards.clear();
        self.open_first_shards(shards, at);
    }

    pub(super) fn delete(&mut self) {
        self.generation += 1;
        self.deleted = true;
        self.shards.clear();
    }

    fn open_first_shards(&mut self, count: u32, at: Timestamp) {
        for range in number::tiles(count) {
            self.open_shard(BTreeSet::new(), range, at);
        }
    }

    fn open_shard(
        &mut self,
        parents: BTreeSet<ShardId>,
        hash_range: HashKeyRange,
        at: Timestamp,
    ) -> Option<ShardId> {
        let index = self.shards.len() as u64;
        let id = number::shard_id(index)?;
        let opened = (self.tick(), at);
        for parent in &parents {
            if let Some(parent) = self.shards.get_mut(parent) {
                parent.children.push(id.clone());
            }
        }
        let shard = ShardState {
            index,
            parents,
            children: Vec::new(),
            hash_range,
            opened,
            closed: None,
            forgotten: false,
            records: VecDeque::new(),
            trimmed: None,
            recent_reads: VecDeque::new(),
        };
        self.shards.insert(id.clone(), shard);
        Some(id)
    }

    fn tick(&mut self) -> Tick {
        self.next_tick += 1;
        self.next_tick
    }

    fn check_there(&self) -> Result<(), SourceError> {
        if self.deleted {
            Err(gone("the stream"))
        } else {
            Ok(())
        }
    }

    pub(super) fn check_generation(&self, generation: u64) -> Result<(), SourceError> {
        if generation == self.generation {
            Ok(())
        } else {
            Err(gone("the stream that this reader opened"))
        }
    }

    // ------------------------------------------------------------------ put

    /// The open shard that the next record with these keys goes to.
    pub(super) fn route(
        &self,
        partition_key: Option<&str>,
        explicit_hash_key: Option<u128>,
    ) -> Option<ShardId> {
        let hash_key = match self.settings.distribution {
            RecordDistribution::ByPartitionKey => hash_key(explicit_hash_key, partition_key),
            RecordDistribution::Automatic => None,
        };
        if let Some(key) = hash_key {
            return self.holder_of(key);
        }
        let open = || self.shards.iter().filter(|(_, shard)| shard.closed.is_none());
        let turn = self.keyless.checked_rem(open().count())?;
        open().nth(turn).map(|(id, _)| id.clone())
    }

    pub(super) fn put(
        &mut self,
        partition_key: Option<ByteString>,
        explicit_hash_key: Option<u128>,
        data: Bytes,
        at: Timestamp,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        self.check_there()?;
        let target = self.route(partition_key.as_deref(), explicit_hash_key);
        self.keyless += usize::from(
            self.settings.distribution == RecordDistribution::Automatic
                || hash_key(explicit_hash_key, partition_key.as_deref()).is_none(),
        );
        let tick = self.tick();
        // The open shards cover every hash key, so there always is one.
        let id = target.ok_or_else(|| gone("an open shard"))?;
        let shard = self.shards.get_mut(&id).ok_or_else(|| gone("an open shard"))?;
        let number = number::sequence_number(tick, shard.index);
        let mut record = Record::new(number.clone(), data).with_arrival(at);
        if let Some(key) = partition_key {
            record = record.with_partition_key(key);
        }
        shard.records.push_back((tick, at, record.clone()));
        self.log.push((id.clone(), record));
        Ok((id, number))
    }

    // ---------------------------------------------------------------- list

    /// At most `size` shards after the one named, and whether there are more.
    pub(super) fn list(
        &self,
        filter: ShardFilter,
        after: Option<&ShardId>,
        size: usize,
    ) -> Result<(Vec<Shard>, bool), SourceError> {
        self.check_there()?;
        let mut matching = self
            .shards
            .iter()
            .filter(|(id, shard)| {
                !shard.forgotten && after.is_none_or(|after| *id > after) && shard.matches(filter)
            })
            .map(|(id, shard)| shard.describe(id));
        let page = matching.by_ref().take(size).collect();
        Ok((page, matching.next().is_some()))
    }

    pub(super) fn snapshot(&self) -> Vec<ShardSnapshot> {
        self.shards
            .iter()
            .map(|(id, shard)| ShardSnapshot {
                shard: shard.describe(id),
                children: shard.children.clone(),
                ending_sequence: shard
                    .closed
                    .map(|(tick, _)| number::sequence_number(tick, shard.index)),
                opened_at: shard.opened.1,
                closed_at: shard.closed.map(|(_, at)| at),
                records_kept: shard.records.len(),
                forgotten: shard.forgotten,
            })
            .collect()
    }

    pub(super) fn records(&self, id: &ShardId) -> Vec<Record> {
        let shard = self.shards.get(id);
        shard.map_or_else(Vec::new, |shard| {
            shard
                .records
                .iter()
                .map(|(_, _, record)| record.clone())
                .collect()
        })
    }

    // ---------------------------------------------------------------- read

    fn readable(&self, id: &ShardId) -> Result<&ShardState, SourceError> {
        self.check_there()?;
        let shard = self.shards.get(id).filter(|shard| !shard.forgotten);
        shard.ok_or_else(|| gone(format_args!("the shard {id}")))
    }

    /// Turns a start position into a concrete place, once.
    pub(super) fn open(
        &self,
        id: &ShardId,
        start: &StartPosition,
        now: Moment,
        service_time: Timestamp,
    ) -> Result<ShardIterator, SourceError> {
        let shard = self.readable(id)?;
        let future = self.future();
        let from = match start {
            StartPosition::TrimHorizon => 0,
            StartPosition::Latest => future,
            StartPosition::AtTimestamp(time) if *time > service_time => {
                return Err(invalid(format!("the start time {time:?} lies in the future")));
            }
            StartPosition::AtTimestamp(time) => {
                let index = shard.records.partition_point(|(_, arrived, _)| arrived < time);
                shard.records.get(index).map_or(future, |(tick, ..)| *tick)
            }
            StartPosition::AtSequence(number) => shard.tick_of(id, number)?,
            StartPosition::AfterSequence(number) => shard.tick_of(id, number)?.saturating_add(1),
        };
        Ok(self.mint(from, now))
    }

    /// The place before which everything lies that ever happened.
    pub(super) fn future(&self) -> Tick {
        self.next_tick + 1
    }

    /// The highest number of the shard that lies before this place: with the first record after it, reading goes on there.
    #[cfg(feature = "server")]
    pub(super) fn number_before(&self, id: &ShardId, from: Tick) -> Result<SequenceNumber, SourceError> {
        let shard = self.readable(id)?;
        let tick = from.saturating_sub(1).max(shard.opened.0);
        Ok(number::sequence_number(tick, shard.index))
    }

    fn mint(&self, from: Tick, now: Moment) -> ShardIterator {
        ShardIterator {
            generation: self.generation,
            from,
            minted: now,
            epoch: self.iterator_epoch,
        }
    }

    fn expired(&self, iterator: &ShardIterator, now: Moment) -> bool {
        iterator.epoch < self.iterator_epoch || now.saturating_since(iterator.minted) > self.iterator_lifetime
    }

    /// One read. The iterator moves only by taking the one that comes back, so a read whose answer is lost costs nothing.
    pub(super) fn read(
        &mut self,
        id: &ShardId,
        mut iterator: ShardIterator,
        limit: FetchLimit,
        now: Moment,
        service_time: Timestamp,
    ) -> Result<(Fetch, ShardIterator), SourceError> {
        self.check_generation(iterator.generation)?;
        self.readable(id)?;
        if self.expired(&iterator, now) {
            self.reminted += 1;
            iterator = self.mint(iterator.from, now);
        }
        let reads_per_second = self.reads_per_second;
        let shard = self
            .shards
            .get_mut(id)
            .ok_or_else(|| gone(format_args!("the shard {id}")))?;
        shard.admit(reads_per_second, now)?;
        let reading = self.read_from(id, iterator.from, limit, MAX_FETCH_BYTES, service_time)?;
        let wait = if reading.more || reading.end.is_some() {
            self.pace.behind
        } else {
            self.pace.idle
        };
        let fetch = Fetch {
            bytes: reading.records.iter().map(Record::size).sum(),
            records: reading.records,
            behind: Some(reading.behind),
            end: reading.end,
            wait,
            ..Fetch::default()
        };
        Ok((fetch, self.mint(reading.next, now)))
    }

    /// Whether retention took records that a reader would have read from this place on.
    pub(super) fn has_lost(&self, id: &ShardId, iterator: &ShardIterator) -> bool {
        let trimmed = self.shards.get(id).and_then(|shard| shard.trimmed);
        trimmed.is_some_and(|trimmed| trimmed >= iterator.from)
    }

    /// Returns the content of a place in the shard, up to the given size.
    pub(super) fn read_from(
        &self,
        id: &ShardId,
        from: Tick,
        limit: FetchLimit,
        bytes: usize,
        service_time: Timestamp,
    ) -> Result<Reading, SourceError> {
        let shard = self.readable(id)?;
        let records = shard.take(from, limit, bytes);
        let next = records.last().map_or(from, |(tick, _)| tick + 1);
        let unread = shard.first_from(next);
        let behind = unread.map_or(Duration::ZERO, |(_, arrived, _)| {
            let millis = service_time.as_millis().saturating_sub(arrived.as_millis());
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        });
        let ended = shard.closed.is_some() && unread.is_none();
        Ok(Reading {
            records: records.into_iter().map(|(_, record)| record).collect(),
            next,
            more: unread.is_some(),
            behind,
            end: ended.then(|| self.end_of(id)),
        })
    }

    fn end_of(&self, id: &ShardId) -> ShardEnd {
        let children = self.shards.get(id).into_iter().flat_map(|shard| &shard.children);
        ShardEnd {
            children: children
                .filter_map(|id| {
                    let child = self.shards.get(id)?;
                    Some(ChildShard {
                        id: id.clone(),
                        parents: child.parents.clone(),
                        hash_range: child.hash_range,
                    })
                })
                .collect(),
        }
    }
}

impl ShardState {
    fn describe(&self, id: &ShardId) -> Shard {
        Shard {
            id: id.clone(),
            parents: self.parents.clone(),
            hash_range: self.hash_range,
            starting_sequence: number::sequence_number(self.opened.0, self.index),
            closed: self.closed.is_some(),
        }
    }

    fn matches(&self, filter: ShardFilter) -> bool {
        match filter {
            ShardFilter::All => true,
            ShardFilter::Open => self.closed.is_none(),
            ShardFilter::FromTimestamp(time) => self.closed.is_none_or(|(_, closed)| closed >= time),
        }
    }

    /// The tick of a sequence number, if it came from this shard. Kinesis refuses the number of another.
    fn tick_of(&self, id: &ShardId, number: &SequenceNumber) -> Result<Tick, SourceError> {
        number::decode(number)
            .filter(|(tick, index)| *index == self.index && *tick >= self.opened.0)
            .map(|(tick, _)| tick)
            .ok_or_else(|| {
                invalid(format!(
                    "the sequence number {number} did not come from the shard {id}"
                ))
            })
    }

    /// Counts a read, or refuses it because the second is used up.
    fn admit(&mut self, reads_per_second: Option<u32>, now: Moment) -> Result<(), SourceError> {
        let Some(most) = reads_per_second else {
            return Ok(());
        };
        let second = Duration::from_secs(1);
        while self
            .recent_reads
            .front()
            .is_some_and(|read| now.saturating_since(*read) >= second)
        {
            self.recent_reads.pop_front();
        }
        if self.recent_reads.len() >= most as usize {
            return Err(SourceError::new(
                SourceErrorKind::Throttled,
                format!("more than {most} reads of one shard in a second"),
            ));
        }
        self.recent_reads.push_back(now);
        Ok(())
    }

    fn first_index_from(&self, from: Tick) -> usize {
        self.records.partition_point(|(tick, ..)| *tick < from)
    }

    fn first_from(&self, from: Tick) -> Option<&(Tick, Timestamp, Record)> {
        self.records.get(self.first_index_from(from))
    }

    fn take(&self, from: Tick, limit: FetchLimit, most_bytes: usize) -> Vec<(Tick, Record)> {
        let most = limit.records.clamp(1, MAX_FETCH_RECORDS) as usize;
        let mut bytes = 0;
        self.records
            .range(self.first_index_from(from)..)
            .take(most)
            .take_while(|(_, _, record)| {
                let first = bytes == 0;
                bytes += record.data().len().max(1);
                first || bytes <= most_bytes
            })
            .map(|(tick, _, record)| (*tick, record.clone()))
            .collect()
    }
}

//! The stream as it is written down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kcl_core::types::{HashKeyRange, Record, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ShardState, State};
use crate::memory_stream::number::{self, Tick};
use crate::memory_stream::{RecordDistribution, StreamMode, StreamSettings};

/// Everything that a stream is, but for who reads it. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedStream {
    created: i64,
    /// How often a stream of this name was created.
    generation: u64,
    /// The number of the last thing that happened; sequence numbers hold it.
    tick: Tick,
    retention_seconds: Option<u64>,
    on_demand: bool,
    automatic_distribution: bool,
    max_record_kib: Option<u32>,
    /// In the order in which they were opened.
    shards: Vec<SavedShard>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedShard {
    /// Indices of shards of this stream.
    parents: BTreeSet<u64>,
    /// The first and the last hash key, as decimal numbers.
    hash_keys: (String, String),
    opened: (Tick, i64),
    closed: Option<(Tick, i64)>,
    /// Whether retention took it.
    forgotten: bool,
    /// The tick of the last record that retention took.
    trimmed: Option<Tick>,
    records: Vec<SavedRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRecord {
    tick: Tick,
    arrived: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// In base64.
    data: String,
}

impl State {
    /// Returns the state to save; nothing for a deleted stream.
    pub(in crate::memory_stream) fn save(&self) -> Option<SavedStream> {
        if self.deleted {
            return None;
        }
        let mut shards: Vec<(u64, SavedShard)> = self
            .shards
            .values()
            .map(|shard| (shard.index, self.save_shard(shard)))
            .collect();
        shards.sort_by_key(|(index, _)| *index);
        Some(SavedStream {
            created: self.created.as_millis(),
            generation: self.generation,
            tick: self.next_tick,
            retention_seconds: self.settings.retention.map(|retention| retention.as_secs()),
            on_demand: self.settings.mode == StreamMode::OnDemand,
            automatic_distribution: self.settings.distribution == RecordDistribution::Automatic,
            max_record_kib: self.settings.max_record_kib,
            shards: shards.into_iter().map(|(_, shard)| shard).collect(),
        })
    }

    fn save_shard(&self, shard: &ShardState) -> SavedShard {
        let parents = shard.parents.iter().filter_map(|id| self.shards.get(id));
        let at = |(tick, at): (Tick, Timestamp)| (tick, at.as_millis());
        let records = shard.records.iter().map(|(tick, arrived, record)| SavedRecord {
            tick: *tick,
            arrived: arrived.as_millis(),
            key: record.partition_key().map(str::to_owned),
            data: STANDARD.encode(record.data()),
        });
        let range = shard.hash_range;
        SavedShard {
            parents: parents.map(|parent| parent.index).collect(),
            hash_keys: (range.start().to_string(), range.end().to_string()),
            opened: at(shard.opened),
            closed: shard.closed.map(at),
            forgotten: shard.forgotten,
            trimmed: shard.trimmed,
            records: records.collect(),
        }
    }

    /// Becomes what was written down.
    ///
    /// # Errors
    ///
    /// The inconsistency, for people.
    pub(in crate::memory_stream) fn restore(&mut self, saved: SavedStream) -> Result<(), String> {
        let (mut shards, mut log) = (BTreeMap::new(), Vec::new());
        for (index, shard) in (0_u64..).zip(saved.shards) {
            let id = number::shard_id(index).ok_or("too many shards")?;
            let (state, put) = restore_shard(index, &id, shard)?;
            for parent in &state.parents {
                let parent: &mut ShardState = shards
                    .get_mut(parent)
                    .ok_or_else(|| format!("{id} is listed before its parent {parent}"))?;
                parent.children.push(id.clone());
            }
            shards.insert(id, state);
            log.extend(put);
        }
        log.sort_by_key(|(tick, ..)| *tick);
        self.log = log.into_iter().map(|(_, id, record)| (id, record)).collect();
        self.shards = shards;
        self.created = Timestamp::from_millis(saved.created);
        self.generation = saved.generation;
        self.next_tick = saved.tick;
        self.deleted = false;
        self.settings = StreamSettings {
            retention: saved.retention_seconds.map(Duration::from_secs),
            mode: if saved.on_demand {
                StreamMode::OnDemand
            } else {
                StreamMode::Provisioned
            },
            distribution: if saved.automatic_distribution {
                RecordDistribution::Automatic
            } else {
                RecordDistribution::ByPartitionKey
            },
            max_record_kib: saved.max_record_kib,
        };
        Ok(())
    }
}

type Put = (Tick, ShardId, Record);

fn restore_shard(index: u64, id: &ShardId, saved: SavedShard) -> Result<(ShardState, Vec<Put>), String> {
    let (start, end) = &saved.hash_keys;
    let hash_range = HashKeyRange::parse(start, end).map_err(|error| format!("{id}: {error}"))?;
    let at = |(tick, millis): (Tick, i64)| (tick, Timestamp::from_millis(millis));
    let (mut records, mut put) = (VecDeque::new(), Vec::new());
    for record in saved.records {
        let data = STANDARD
            .decode(record.data)
            .map_err(|_| format!("{id}: a record's data is not base64"))?;
        let arrived = Timestamp::from_millis(record.arrived);
        let number = number::sequence_number(record.tick, index);
        let mut restored = Record::new(number, data).with_arrival(arrived);
        if let Some(key) = record.key {
            restored = restored.with_partition_key(key);
        }
        records.push_back((record.tick, arrived, restored.clone()));
        put.push((record.tick, id.clone(), restored));
    }
    let parents = saved.parents.into_iter().filter_map(number::shard_id);
    let state = ShardState {
        index,
        parents: parents.collect(),
        children: Vec::new(),
        hash_range,
        opened: at(saved.opened),
        closed: saved.closed.map(at),
        forgotten: saved.forgotten,
        records,
        trimmed: saved.trimmed,
        recent_reads: VecDeque::new(),
    };
    Ok((state, put))
}

//! The events of the stream: records are put and taken away, shards are split and merged.

use std::time::Duration;

use crate::invariant::Observation;
use bytes::Bytes;
use kcl_core::internals::TaskPolicy;
use kcl_core::types::{InitialPosition, LeaseKey, RecordPosition, ShardId};
use kcl_lease_memory::memory_stream::{ReshardError, Trim};

use super::Fleet;

impl Fleet {
    /// Puts records: those that the [simulation](super::Simulation::records) makes, or numbers with partition keys drawn from a hundred.
    pub fn put(&self, records: u64) {
        let wanted = self.wants_records();
        for _ in 0..records {
            let (number, key) = {
                let mut state = self.lock();
                state.put += 1;
                let key = state.keys.as_mut().map_or(0, |keys| keys.below(100));
                (state.put, key)
            };
            let (key, data) = match &self.shared.records {
                Some(make) => make(number),
                None => (format!("truck-{key}"), number.to_string().into()),
            };
            let put = self.shared.stream.put(key, data);
            if let Ok((shard, sequence)) = put
                && wanted
            {
                self.observe_put(&shard, RecordPosition::plain(sequence));
            }
        }
    }

    /// Puts one record with this partition key and payload, for processors that read them.
    pub fn put_record(&self, partition_key: &str, payload: impl Into<Bytes>) {
        self.put_packed(partition_key, payload.into(), 1);
    }

    /// Puts one record that holds several others, packed as the Kinesis Producer Library does: `packed` of them.
    pub fn put_packed(&self, partition_key: &str, data: Bytes, packed: u64) {
        let wanted = self.wants_records();
        if let Ok((shard, sequence)) = self.shared.stream.put(partition_key, data)
            && wanted
        {
            for sub_sequence in 0..packed {
                let sequence = sequence.clone();
                self.observe_put(
                    &shard,
                    RecordPosition {
                        sequence,
                        sub_sequence,
                    },
                );
            }
        }
    }

    fn observe_put(&self, shard: &ShardId, position: RecordPosition) {
        let shard = LeaseKey::single_stream(shard);
        let arrival = Some(self.shared.stream.service_time());
        self.oracle().observe(&Observation::Put {
            shard,
            position,
            arrival,
        });
    }

    /// Whether records put now are ones that the application wants: a fleet that begins at LATEST wants none before it begins.
    fn wants_records(&self) -> bool {
        self.shared.settings.reading.initial_position != InitialPosition::Latest
            || !self.lock().members.is_empty()
    }

    /// Puts this many records each time that `every` has passed, until [`stop_producing`](Self::stop_producing).
    pub fn produce(&self, every: Duration, records: u64) {
        self.produce_with(every, move |fleet| fleet.put(records));
    }

    /// Does this each time that `every` has passed, until [`stop_producing`](Self::stop_producing).
    pub fn produce_with(&self, every: Duration, mut put: impl FnMut(&Self) + Send + 'static) {
        let fleet = self.clone();
        let turn = {
            let mut state = self.lock();
            state.producing += 1;
            state.producing
        };
        self.shared
            .services
            .spawn("producer", TaskPolicy::Job, async move {
                while fleet.lock().producing == turn {
                    put(&fleet);
                    fleet.sleep(every).await;
                }
            });
    }

    /// Ends what [`produce`](Self::produce) or [`produce_with`](Self::produce_with) began.
    pub fn stop_producing(&self) {
        self.lock().producing += 1;
    }

    /// Splits a shard in the middle.
    ///
    /// # Errors
    ///
    /// Those of [`MemoryStream::split`](kcl_lease_memory::MemoryStream::split).
    pub fn split(&self, shard: &ShardId) -> Result<[ShardId; 2], ReshardError> {
        let children = self.shared.stream.split(shard)?;
        self.shared.oracle.note(&format_args!("{shard} is split"));
        self.observe_shards();
        Ok(children)
    }

    /// Merges two adjacent shards.
    ///
    /// # Errors
    ///
    /// Those of [`MemoryStream::merge`](kcl_lease_memory::MemoryStream::merge).
    pub fn merge(&self, a: &ShardId, b: &ShardId) -> Result<ShardId, ReshardError> {
        let child = self.shared.stream.merge(a, b)?;
        self.shared.oracle.note(&format_args!("{a} and {b} are merged"));
        self.observe_shards();
        Ok(child)
    }

    /// Takes old records away, as the end of their retention would.
    pub fn trim(&self, trim: &Trim) {
        self.shared.stream.trim(trim);
        for snapshot in self.shared.stream.shards_snapshot() {
            let shard = &snapshot.shard.id;
            let oldest = self.shared.stream.records(shard).into_iter().next();
            self.shared.oracle.observe(&Observation::Trimmed {
                shard: LeaseKey::single_stream(shard),
                oldest: oldest.map(|record| record.position().clone()),
            });
        }
    }

    /// Lets the stream list the closed shards no more of which retention has left nothing, and returns them.
    pub fn forget_closed_shards(&self) -> Vec<ShardId> {
        let forgotten = self.shared.stream.forget_closed_shards();
        for shard in &forgotten {
            self.shared.oracle.note(&format_args!("{shard} is forgotten"));
            self.shared.oracle.observe(&Observation::ShardForgotten {
                shard: LeaseKey::single_stream(shard),
            });
        }
        forgotten
    }

    /// The shards that take records now.
    pub fn open_shards(&self) -> Vec<ShardId> {
        let shards = self.shared.stream.shards_snapshot().into_iter();
        shards
            .filter(|shard| !shard.shard.closed && !shard.forgotten)
            .map(|shard| shard.shard.id)
            .collect()
    }

    pub(super) fn observe_shards(&self) {
        for snapshot in self.shared.stream.shards_snapshot() {
            let parents = snapshot.shard.parents.iter().map(LeaseKey::single_stream);
            self.shared.oracle.observe(&Observation::ShardOpened {
                shard: LeaseKey::single_stream(&snapshot.shard.id),
                parents: parents.collect(),
            });
        }
    }
}

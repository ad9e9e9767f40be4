//! The metrics of single shards, read from the status of a worker.

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::status::WorkerStatus;
use kcl_core::types::LeaseKey;
use metrics::{CounterFn as _, GaugeFn as _, Unit};

use crate::aggregates::Aggregates;
use crate::names::{LEASE, SHARD_BEHIND, SHARD_RECORDS};
use crate::taken::SeriesKey;

/// The records of each ownership that were counted before.
#[derive(Debug, Default)]
pub(crate) struct ShardSampler {
    counted: BTreeMap<LeaseKey, (u64, u64)>,
}

impl ShardSampler {
    /// Records how far each held shard is behind, and how many records it has processed since it was last asked.
    pub(crate) fn sample(&mut self, status: &WorkerStatus, aggregates: &Aggregates) {
        aggregates.describe(SHARD_RECORDS, Some(Unit::Count));
        for (lease, state) in &status.leases {
            let key = |name: &str| SeriesKey {
                name: name.to_owned(),
                labels: vec![(LEASE.to_owned(), lease.to_string())],
            };
            if let Some(behind) = aggregates.gauge(key(SHARD_BEHIND)) {
                behind.set(state.behind.at(status.at).as_secs_f64());
            }
            let (token, records) = (state.token.as_u64(), state.records);
            let before = self.counted.insert(lease.clone(), (token, records));
            // Another ownership counts from 0 again.
            let before = before
                .filter(|(of, _)| *of == token)
                .map_or(0, |(_, records)| records);
            if let Some(counter) = aggregates.counter(key(SHARD_RECORDS)) {
                counter.increment(records.saturating_sub(before));
            }
        }
        self.counted.retain(|lease, _| status.leases.contains_key(lease));
    }

    /// Returns the leases that have series.
    pub(crate) fn leases(&self) -> BTreeSet<String> {
        self.counted.keys().map(ToString::to_string).collect()
    }
}

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
            let rise = self.rise(lease, state.token.as_u64(), state.records);
            if let Some(counter) = aggregates.counter(key(SHARD_RECORDS)) {
                counter.increment(rise);
            }
        }
        self.counted.retain(|lease, _| status.leases.contains_key(lease));
    }

    /// Returns how many records the ownership with this token has processed since it was last asked. Another one counts from 0 again.
    fn rise(&mut self, lease: &LeaseKey, token: u64, records: u64) -> u64 {
        let before = self.counted.insert(lease.clone(), (token, records));
        let before = before.filter(|(of, _)| *of == token);
        records.saturating_sub(before.map_or(0, |(_, records)| records))
    }

    /// Returns the leases that have series.
    pub(crate) fn leases(&self) -> BTreeSet<String> {
        self.counted.keys().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ownership_counts_from_its_beginning() {
        let lease = LeaseKey::new("shardId-000000000000").unwrap();
        let mut sampler = ShardSampler::default();
        let asked = [(7, 10), (7, 10), (7, 25), (8, 4), (8, 5)];
        let rises = asked.map(|(token, records)| sampler.rise(&lease, token, records));
        assert_eq!(rises, [10, 0, 15, 4, 1]);
        assert_eq!(sampler.leases(), BTreeSet::from([lease.to_string()]));
    }
}

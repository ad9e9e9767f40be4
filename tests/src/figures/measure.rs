//! From logs to numbers: pure functions.

use std::collections::BTreeMap;

use kcl_core::types::RecordPosition;

use crate::fleet::evidence::Evidence;
use crate::fleet::log::{Entry, Event};

/// When a worker other than this one was first given a record of the shard after this time; seconds since 1970.
pub fn first_record_elsewhere(evidence: &Evidence, shard: &str, worker: &str, after: f64) -> Option<f64> {
    let elsewhere = records(evidence, shard).filter(|entry| entry.worker != worker && entry.time > after);
    elsewhere.map(|entry| entry.time).reduce(f64::min)
}

/// When this worker was last given a record of the shard; seconds since 1970.
pub fn last_record_at(evidence: &Evidence, shard: &str, worker: &str) -> Option<f64> {
    let own = records(evidence, shard).filter(|entry| entry.worker == worker);
    own.map(|entry| entry.time).reduce(f64::max)
}

/// Of each shard, when its first record was delivered, to whomever; seconds since 1970.
pub fn first_records(evidence: &Evidence) -> BTreeMap<&str, f64> {
    let mut first: BTreeMap<&str, f64> = BTreeMap::new();
    for entry in evidence
        .logs
        .iter()
        .flatten()
        .filter(|entry| matches!(entry.event, Event::Record { .. }))
    {
        let known = first.entry(&entry.shard).or_insert(entry.time);
        *known = known.min(entry.time);
    }
    first
}

/// From each put to its first delivery, in seconds, of the records that were sent after this time; sorted.
pub fn latencies(evidence: &Evidence, sent_after: f64) -> Vec<f64> {
    let mut delivered: BTreeMap<(&str, &RecordPosition), f64> = BTreeMap::new();
    for entry in evidence.logs.iter().flatten() {
        if let Event::Record { position, .. } = &entry.event {
            let first = delivered.entry((&entry.shard, position)).or_insert(entry.time);
            *first = first.min(entry.time);
        }
    }
    let puts = evidence.puts.iter().filter(|put| put.time > sent_after);
    let took = puts.filter_map(|put| Some(delivered.get(&(put.shard.as_str(), &put.position))? - put.time));
    let mut took: Vec<f64> = took.collect();
    took.sort_by(f64::total_cmp);
    took
}

/// The smallest of the sorted values that is not exceeded by this share of them (0 to 1); `None` when there are none.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
}

fn records<'a>(evidence: &'a Evidence, shard: &'a str) -> impl Iterator<Item = &'a Entry> {
    let entries = evidence.logs.iter().flatten();
    entries.filter(move |entry| entry.shard == shard && matches!(entry.event, Event::Record { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::evidence::Lineage;
    use crate::fleet::log::Put;

    fn record(time: f64, worker: &str, sequence: &str) -> Entry {
        let event = Event::Record {
            key: None,
            position: RecordPosition::plain(sequence.parse().unwrap()),
        };
        Entry {
            time,
            worker: worker.to_owned(),
            shard: "s".to_owned(),
            event,
        }
    }

    fn put(time: f64, sequence: &str) -> Put {
        Put {
            time,
            shard: "s".to_owned(),
            key: "k".to_owned(),
            position: RecordPosition::plain(sequence.parse().unwrap()),
        }
    }

    /// Worker a processes 1 and 2, then dies; b repeats 2 and goes on with 3.
    fn takeover() -> Evidence {
        Evidence {
            puts: vec![put(1.0, "1"), put(2.0, "2"), put(3.0, "3"), put(9.0, "9")],
            logs: vec![
                vec![record(1.5, "a", "1"), record(2.25, "a", "2")],
                vec![record(5.0, "b", "2"), record(6.0, "b", "3")],
            ],
            lineage: Lineage::new(),
        }
    }

    #[test]
    fn a_takeover_is_seen_from_both_sides() {
        assert_eq!(last_record_at(&takeover(), "s", "a"), Some(2.25));
        assert_eq!(first_record_elsewhere(&takeover(), "s", "a", 3.0), Some(5.0));
        assert_eq!(first_record_elsewhere(&takeover(), "s", "b", 3.0), None);
        assert_eq!(first_record_elsewhere(&takeover(), "other", "a", 3.0), None);
        assert_eq!(first_records(&takeover()), BTreeMap::from([("s", 1.5)]));
    }

    #[test]
    fn latency_counts_first_delivery_of_what_was_delivered() {
        assert_eq!(latencies(&takeover(), 0.0), [0.25, 0.5, 3.0]);
        assert_eq!(latencies(&takeover(), 2.5), [3.0]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&values, 0.5), Some(2.0));
        assert_eq!(percentile(&values, 0.99), Some(4.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}

//! How ownerships of shards go on, according to the logs of the workers: pure functions.

use kcl_core::types::RecordPosition;

use super::log::{Entry, Event};

/// The worker that was given the first record of the shard by an ownership that began at this time or later, in seconds since 1970, and
/// that record.
pub fn first_of_next<'a>(
    logs: &'a [Vec<Entry>],
    shard: &str,
    at: f64,
) -> Option<(&'a str, &'a RecordPosition)> {
    let firsts = logs.iter().filter_map(|log| {
        let of_shard = log.iter().filter(|entry| entry.shard == shard);
        let new = of_shard.skip_while(|entry| !(entry.event.begins() && entry.time >= at));
        new.filter_map(record).next()
    });
    let first = firsts.min_by(|(one, ..), (other, ..)| one.total_cmp(other));
    first.map(|(_, worker, position)| (worker, position))
}

/// Each record that a worker was given of this shard, with the time, in seconds since 1970; by time.
pub fn records<'a>(logs: &'a [Vec<Entry>], shard: &'a str) -> Vec<(f64, &'a str, &'a RecordPosition)> {
    let all = logs.iter().flatten().filter(|entry| entry.shard == shard);
    let mut records: Vec<_> = all.filter_map(record).collect();
    records.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    records
}

fn record(entry: &Entry) -> Option<(f64, &str, &RecordPosition)> {
    match &entry.event {
        Event::Record { position, .. } => Some((entry.time, entry.worker.as_str(), position)),
        Event::Initialized { .. } | Event::LeaseLost | Event::ShardEnded | Event::ShutdownRequested => None,
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;

    use super::*;

    fn entry(time: f64, worker: &str, event: Event) -> Entry {
        Entry {
            time,
            worker: worker.to_owned(),
            shard: "s".to_owned(),
            event,
        }
    }

    fn delivered(time: f64, worker: &str, number: u128) -> Entry {
        let position = RecordPosition::plain(SequenceNumber::from(number));
        entry(time, worker, Event::Record { key: None, position })
    }

    #[test]
    fn next_ownership_begins_with_its_own_record() {
        let logs = [
            vec![
                entry(1.0, "a", Event::Initialized { token: 1 }),
                delivered(1.1, "a", 1),
                delivered(3.2, "a", 2),
            ],
            vec![
                entry(3.0, "b", Event::Initialized { token: 2 }),
                delivered(3.3, "b", 1),
                delivered(3.4, "b", 2),
            ],
        ];
        let number = |first: Option<(&str, &RecordPosition)>| {
            first.map(|(worker, position)| format!("{worker} {position}"))
        };
        assert_eq!(number(first_of_next(&logs, "s", 2.0)), Some("b 1".to_owned()));
        assert_eq!(number(first_of_next(&logs, "s", 0.5)), Some("a 1".to_owned()));
        assert_eq!(number(first_of_next(&logs, "s", 3.5)), None);
        assert_eq!(number(first_of_next(&logs, "t", 0.5)), None);
        let times: Vec<f64> = records(&logs, "s").iter().map(|(time, ..)| *time).collect();
        assert_eq!(times, [1.1, 3.2, 3.3, 3.4]);
    }
}

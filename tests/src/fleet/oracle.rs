//! What a fleet promised, checked against its logs: pure functions from what was put and logged to what is wrong.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::log::{Entry as LogEntry, Event, Put, Sequence};

/// A child shard and its parents, as the stream lists them.
pub type Lineage = BTreeMap<String, Vec<String>>;

/// Everything that the checks look at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What the stream has taken.
    pub puts: Vec<Put>,
    /// One log per worker process, each in the order in which it was written.
    pub logs: Vec<Vec<LogEntry>>,
    /// Parents of each child shard.
    pub lineage: Lineage,
}

/// What the logs show, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Records that the stream has taken.
    pub put: usize,
    /// Different records that were delivered.
    pub delivered: usize,
    /// Deliveries beyond the first of a record.
    pub redelivered: usize,
}

impl Evidence {
    /// Checks every promise; empty when all are kept.
    pub fn violations(&self) -> Vec<String> {
        let mut found = self.lost();
        found.truncate(10);
        found.extend(self.out_of_order());
        found.extend(self.children_before_parents());
        found
    }

    /// Counts records and deliveries.
    pub fn tally(&self) -> Tally {
        let deliveries = self.deliveries().count();
        let delivered = self.first_deliveries().len();
        Tally {
            put: self.puts.len(),
            delivered,
            redelivered: deliveries - delivered,
        }
    }

    /// The workers whose records were delivered again, by themselves or to others: only a crash may do that.
    pub fn repeated(&self) -> BTreeSet<&str> {
        let mut first: BTreeMap<(&str, &Sequence), (f64, &str)> = BTreeMap::new();
        let mut repeated = BTreeSet::new();
        for entry in self.logs.iter().flatten() {
            let Event::Record { sequence, .. } = &entry.event else {
                continue;
            };
            let delivery = (entry.time, entry.worker.as_str());
            match first.entry((&entry.shard, sequence)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(delivery);
                }
                Entry::Occupied(mut known) => {
                    let earlier = if known.get().0 <= delivery.0 {
                        *known.get()
                    } else {
                        delivery
                    };
                    known.insert(earlier);
                    repeated.insert(earlier.1);
                }
            }
        }
        repeated
    }

    /// Records that the stream has taken and no worker has seen.
    pub fn lost(&self) -> Vec<String> {
        let seen: BTreeSet<(&str, &Sequence)> = self
            .deliveries()
            .map(|(_, shard, sequence)| (shard, sequence))
            .collect();
        let lost = self
            .puts
            .iter()
            .filter(|put| !seen.contains(&(put.shard.as_str(), &put.sequence)));
        lost.map(|put| format!("lost: {} of {} in {}", put.key, put.time, put.shard))
            .collect()
    }

    /// Within an ownership, from `initialized` to the next one, the records of a shard come in order and each only once;
    /// those of a key therefore too. No record comes outside of an ownership.
    fn out_of_order(&self) -> Vec<String> {
        let mut found = Vec::new();
        for log in &self.logs {
            let mut owned: BTreeMap<&str, Option<&Sequence>> = BTreeMap::new();
            for entry in log {
                let (worker, shard, time) = (&entry.worker, entry.shard.as_str(), entry.time);
                match &entry.event {
                    Event::Initialized => {
                        owned.insert(shard, None);
                    }
                    Event::Record { sequence, .. } => match owned.insert(shard, Some(sequence)) {
                        None => found.push(format!(
                            "{worker} was given a record of {shard} at {time} without owning it"
                        )),
                        Some(Some(before)) if before >= sequence => {
                            found.push(format!("{worker} was given {shard} out of order at {time}"));
                        }
                        Some(_) => {}
                    },
                    Event::LeaseLost | Event::ShardEnded => {
                        owned.remove(shard);
                    }
                    // A last batch may be under way while the worker is asked to shut down.
                    Event::ShutdownRequested => {}
                }
            }
        }
        found
    }

    /// No child's first record comes before the last *first* delivery of each parent. (A crash may repeat parents' records.)
    fn children_before_parents(&self) -> Vec<String> {
        let mut first_of: BTreeMap<&str, f64> = BTreeMap::new();
        let mut last_first_of: BTreeMap<&str, f64> = BTreeMap::new();
        for ((shard, _), time) in self.first_deliveries() {
            let first = first_of.entry(shard).or_insert(time);
            *first = first.min(time);
            let last = last_first_of.entry(shard).or_insert(time);
            *last = last.max(time);
        }
        let mut found = Vec::new();
        for (child, parents) in &self.lineage {
            for parent in parents {
                let (first, last) = (first_of.get(child.as_str()), last_first_of.get(parent.as_str()));
                if let (Some(first), Some(last)) = (first, last)
                    && first < last
                {
                    found.push(format!(
                        "{child} began at {first}, before its parent {parent} was through at {last}"
                    ));
                }
            }
        }
        found
    }

    fn first_deliveries(&self) -> BTreeMap<(&str, &Sequence), f64> {
        let mut first: BTreeMap<(&str, &Sequence), f64> = BTreeMap::new();
        for (time, shard, sequence) in self.deliveries() {
            let known = first.entry((shard, sequence)).or_insert(time);
            *known = known.min(time);
        }
        first
    }

    fn deliveries(&self) -> impl Iterator<Item = (f64, &str, &Sequence)> {
        self.logs.iter().flatten().filter_map(|entry| match &entry.event {
            Event::Record { sequence, .. } => Some((entry.time, entry.shard.as_str(), sequence)),
            Event::Initialized | Event::LeaseLost | Event::ShardEnded | Event::ShutdownRequested => None,
        })
    }
}

/// The shards that a worker holds according to its own log.
pub fn held(log: &[LogEntry]) -> BTreeSet<&str> {
    let mut held = BTreeSet::new();
    for entry in log {
        match entry.event {
            Event::Initialized | Event::Record { .. } => held.insert(entry.shard.as_str()),
            Event::LeaseLost | Event::ShardEnded | Event::ShutdownRequested => {
                held.remove(entry.shard.as_str())
            }
        };
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: f64, shard: &str, event: Event) -> LogEntry {
        LogEntry {
            time,
            worker: "worker-1".to_owned(),
            shard: shard.to_owned(),
            event,
        }
    }

    fn record(time: f64, shard: &str, sequence: &str) -> LogEntry {
        entry(
            time,
            shard,
            Event::Record {
                key: Some("truck".to_owned()),
                sequence: Sequence::new(sequence, 0),
            },
        )
    }

    fn put(shard: &str, sequence: &str) -> Put {
        Put {
            time: 0.0,
            shard: shard.to_owned(),
            key: "truck".to_owned(),
            sequence: Sequence::new(sequence, 0),
        }
    }

    fn start(time: f64, shard: &str) -> LogEntry {
        entry(time, shard, Event::Initialized)
    }

    /// Parent `p` with records 1 and 2, then its child `c`; the worker dies after 2 and another repeats it.
    fn sound() -> Evidence {
        Evidence {
            puts: vec![put("p", "1"), put("p", "2"), put("c", "7")],
            logs: vec![
                vec![start(1.0, "p"), record(1.1, "p", "1"), record(1.2, "p", "2")],
                vec![
                    start(3.0, "p"),
                    record(3.1, "p", "2"),
                    entry(3.2, "p", Event::ShardEnded),
                    start(3.3, "c"),
                    record(3.4, "c", "7"),
                ],
            ],
            lineage: Lineage::from([("c".to_owned(), vec!["p".to_owned()])]),
        }
    }

    #[test]
    fn a_redelivery_after_a_crash_is_counted_and_allowed() {
        assert_eq!(sound().violations(), Vec::<String>::new());
        assert_eq!(
            sound().tally(),
            Tally {
                put: 3,
                delivered: 3,
                redelivered: 1
            }
        );
    }

    #[test]
    fn a_record_that_nobody_saw_is_lost() {
        let mut evidence = sound();
        evidence.puts.push(put("p", "3"));
        assert_eq!(evidence.violations(), ["lost: truck of 0 in p"]);
        // The same number in another shard is another record.
        evidence.logs[1].push(record(4.0, "c", "8"));
        evidence.puts = vec![put("p", "8")];
        assert_eq!(evidence.lost().len(), 1);
    }

    #[test]
    fn a_record_out_of_order_or_twice_in_one_ownership_is_found() {
        for repeated in ["1", "2"] {
            let mut evidence = sound();
            evidence.logs[0].push(record(1.3, "p", repeated));
            assert_eq!(
                evidence.violations(),
                ["worker-1 was given p out of order at 1.3"]
            );
        }
        let mut evidence = sound();
        evidence.logs[0].extend([start(1.3, "p"), record(1.4, "p", "1")]);
        assert_eq!(
            evidence.violations(),
            Vec::<String>::new(),
            "a new ownership may repeat"
        );
    }

    #[test]
    fn a_record_without_ownership_is_found() {
        let mut evidence = sound();
        evidence.logs[1].extend([entry(5.0, "c", Event::LeaseLost), record(5.5, "c", "9")]);
        assert_eq!(
            evidence.violations(),
            ["worker-1 was given a record of c at 5.5 without owning it"]
        );
    }

    #[test]
    fn a_child_that_overtakes_the_first_delivery_of_a_parent_is_found() {
        let mut evidence = sound();
        evidence.logs.push(vec![start(1.0, "c"), record(1.15, "c", "7")]);
        assert_eq!(
            evidence.violations(),
            ["c began at 1.15, before its parent p was through at 1.2"]
        );
        // A repetition of the parent's record after the child began is none.
        let mut evidence = sound();
        evidence.logs.push(vec![start(9.0, "p"), record(9.1, "p", "2")]);
        assert_eq!(evidence.violations(), Vec::<String>::new());
    }

    #[test]
    fn who_was_delivered_first_is_the_one_whose_record_is_repeated() {
        let mut evidence = sound();
        for (log, worker) in evidence.logs.iter_mut().zip(["dead", "heir"]) {
            log.iter_mut().for_each(|entry| entry.worker = worker.to_owned());
        }
        assert_eq!(evidence.repeated(), BTreeSet::from(["dead"]));
        evidence.logs.reverse();
        assert_eq!(evidence.repeated(), BTreeSet::from(["dead"]));
        evidence.logs.truncate(1);
        assert_eq!(evidence.repeated(), BTreeSet::new());
    }

    #[test]
    fn a_worker_holds_what_it_began_and_did_not_end() {
        let log = [
            start(1.0, "a"),
            start(1.0, "b"),
            start(1.0, "c"),
            entry(2.0, "b", Event::LeaseLost),
        ];
        assert_eq!(held(&log), BTreeSet::from(["a", "c"]));
        let again = [
            entry(2.0, "b", Event::ShutdownRequested),
            start(3.0, "b"),
            entry(4.0, "b", Event::ShardEnded),
        ];
        assert_eq!(held(&again), BTreeSet::new());
    }
}

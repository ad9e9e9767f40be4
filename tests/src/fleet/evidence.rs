//! The logs of a fleet's producer and workers, and the verdict on them: that of the [`DeliveryLog`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, Position, RecordPosition};
use kcl_testkit::invariant::{DeliveryLog, Process, Tally, Violation};

use super::log::{Entry as LogEntry, Event, Put};

/// A child shard and its parents, as the stream lists them.
pub type Lineage = BTreeMap<String, Vec<String>>;

/// Everything that the checks look at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The records that the stream has taken.
    pub puts: Vec<Put>,
    /// One log per worker process, each in the order in which it was written.
    pub logs: Vec<Vec<LogEntry>>,
    /// Parents of each child shard.
    pub lineage: Lineage,
}

impl Evidence {
    /// Checks that nothing is lost, out of order or read before its parents, and counts records and deliveries.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn verdict(&self) -> Result<Tally, Violation> {
        self.delivery_log(|_, _| None).verdict()
    }

    /// Merges the logs by time. `checkpoint` is what was stored for a shard when the ownership with this token began, if it is known.
    ///
    /// # Panics
    ///
    /// When a shard has a name that no stream gives out.
    pub fn delivery_log(&self, checkpoint: impl Fn(&str, u64) -> Option<Position>) -> DeliveryLog {
        let mut all = DeliveryLog::default();
        for (child, parents) in &self.lineage {
            all.open(&key(child), parents.iter().map(|parent| key(parent)));
        }
        for put in &self.puts {
            all.put(&key(&put.shard), &put.position);
        }
        for (log, entry) in self.merged() {
            let process: Process = format!("{}, log {log}", entry.worker).into();
            let shard = key(&entry.shard);
            match &entry.event {
                Event::Initialized { token } => {
                    let checkpoint = checkpoint(&entry.shard, *token);
                    all.begin(&process, &shard, Some(FencingToken::new(*token)), checkpoint);
                }
                Event::Record { position, .. } => {
                    all.deliver(&process, &shard, position, Duration::from_secs_f64(entry.time));
                }
                Event::LeaseLost | Event::ShardEnded => all.end(&process, &shard),
                // A last batch may be under way while the worker is asked to shut down.
                Event::ShutdownRequested => {}
            }
        }
        all
    }

    /// Each line with the number of its log, by time; the lines of each log keep their order, and parents precede their children.
    fn merged(&self) -> Vec<(usize, &LogEntry)> {
        let mut logs: Vec<_> = self.logs.iter().map(|log| log.iter().peekable()).collect();
        let mut merged = Vec::new();
        loop {
            let heads = logs.iter_mut().enumerate();
            let heads = heads.filter_map(|(log, entries)| Some((log, *entries.peek()?)));
            let first = heads.min_by(|(_, one), (_, other)| {
                let by_shard = || one.shard.cmp(&other.shard);
                one.time.total_cmp(&other.time).then_with(by_shard)
            });
            let Some((log, entry)) = first else {
                return merged;
            };
            merged.push((log, entry));
            logs[log].next();
        }
    }

    /// Returns the records that the stream has taken and no worker has seen, in words.
    pub fn lost(&self) -> Vec<String> {
        let log = self.delivery_log(|_, _| None);
        log.lost()
            .map(|(shard, position)| format!("lost: {position} of {shard}"))
            .collect()
    }

    /// Returns the workers whose records were delivered again, by themselves or to others: only a crash may do that.
    pub fn repeated(&self) -> BTreeSet<&str> {
        let mut first: BTreeMap<(&str, &RecordPosition), &str> = BTreeMap::new();
        let mut repeated = BTreeSet::new();
        for (_, entry) in self.merged() {
            let Event::Record { position, .. } = &entry.event else {
                continue;
            };
            match first.entry((&entry.shard, position)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(&entry.worker);
                }
                Entry::Occupied(known) => {
                    repeated.insert(*known.get());
                }
            }
        }
        repeated
    }
}

/// The shards that a worker holds according to its own log.
pub fn held(log: &[LogEntry]) -> BTreeSet<&str> {
    let mut held = BTreeSet::new();
    for entry in log {
        match entry.event {
            Event::Initialized { .. } | Event::Record { .. } => held.insert(entry.shard.as_str()),
            Event::LeaseLost | Event::ShardEnded | Event::ShutdownRequested => {
                held.remove(entry.shard.as_str())
            }
        };
    }
    held
}

fn key(shard: &str) -> LeaseKey {
    LeaseKey::new(shard).expect("the stream's own name")
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;
    use kcl_testkit::invariant::Invariant;

    use super::*;

    fn entry(time: f64, shard: &str, event: Event) -> LogEntry {
        LogEntry {
            time,
            worker: "worker-1".to_owned(),
            shard: shard.to_owned(),
            event,
        }
    }

    fn record(time: f64, shard: &str, number: u128) -> LogEntry {
        let position = RecordPosition::plain(SequenceNumber::from(number));
        entry(time, shard, Event::Record { key: None, position })
    }

    fn put(shard: &str, number: u128) -> Put {
        Put {
            time: 0.0,
            shard: shard.to_owned(),
            key: "truck".to_owned(),
            position: RecordPosition::plain(SequenceNumber::from(number)),
        }
    }

    fn start(time: f64, shard: &str, token: u64) -> LogEntry {
        entry(time, shard, Event::Initialized { token })
    }

    /// Parent `p` with records 1 and 2, then its child `q`; the worker dies after 2 and another repeats it.
    fn sound() -> Evidence {
        Evidence {
            puts: vec![put("p", 1), put("p", 2), put("q", 7)],
            logs: vec![
                vec![start(1.0, "p", 1), record(1.1, "p", 1), record(1.2, "p", 2)],
                vec![
                    start(3.0, "p", 4),
                    record(3.1, "p", 2),
                    entry(3.2, "p", Event::ShardEnded),
                    start(3.3, "q", 1),
                    record(3.4, "q", 7),
                ],
            ],
            lineage: Lineage::from([("q".to_owned(), vec!["p".to_owned()])]),
        }
    }

    fn broken(evidence: &Evidence) -> Invariant {
        evidence.verdict().unwrap_err().invariant
    }

    #[test]
    fn redelivery_after_crash_is_counted_and_allowed() {
        let tally = sound().verdict().unwrap();
        assert_eq!((tally.put, tally.finished, tally.redelivered), (3, 3, 1));
        assert_eq!((tally.ownerships, sound().lost()), (3, Vec::new()));
    }

    #[test]
    fn record_that_no_worker_saw_is_lost() {
        let mut evidence = sound();
        evidence.puts.push(put("q", 8));
        assert_eq!(evidence.lost(), ["lost: 8 of q"]);
        assert_eq!(broken(&evidence), Invariant::NoRecordLost);
    }

    #[test]
    fn record_out_of_order_or_unowned_is_found() {
        let mut evidence = sound();
        evidence.logs[0].push(record(1.3, "p", 1));
        assert_eq!(broken(&evidence), Invariant::InOrder);
        let mut evidence = sound();
        evidence.logs[0].extend([start(1.3, "p", 2), record(1.4, "p", 1), record(1.5, "p", 2)]);
        assert!(evidence.verdict().is_ok(), "a new ownership may repeat");
        evidence.logs[1].extend([entry(5.0, "q", Event::LeaseLost), record(5.5, "q", 7)]);
        assert_eq!(broken(&evidence), Invariant::InOrder);
    }

    #[test]
    fn start_after_stored_checkpoint_is_found() {
        let checkpoint = |shard: &str, token: u64| {
            let at = |token| RecordPosition::plain(SequenceNumber::from(u128::from(token - 3)));
            (shard == "p" && token >= 3).then(|| Position::Record(at(token)))
        };
        let mut evidence = sound();
        assert!(evidence.delivery_log(checkpoint).verdict().is_ok());
        evidence.logs[1][0] = start(3.0, "p", 3);
        let violation = evidence.delivery_log(checkpoint).verdict().unwrap_err();
        assert_eq!(
            violation.invariant,
            Invariant::InOrder,
            "0 is stored, so 1 has its turn"
        );
    }

    #[test]
    fn child_that_overtakes_its_parent_is_found() {
        let mut evidence = sound();
        evidence.logs.push(vec![start(1.0, "q", 1), record(1.15, "q", 7)]);
        assert_eq!(broken(&evidence), Invariant::ParentsFirst);
        // A repetition of the parent's record after the child began is none.
        let mut evidence = sound();
        evidence.logs.push(vec![start(9.0, "p", 9), record(9.1, "p", 2)]);
        assert!(evidence.verdict().is_ok());
    }

    #[test]
    fn first_worker_of_repeated_record_is_named() {
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
    fn worker_holds_shards_begun_and_not_ended() {
        let log = [
            start(1.0, "a", 1),
            start(1.0, "b", 1),
            start(1.0, "c", 1),
            entry(2.0, "b", Event::LeaseLost),
        ];
        assert_eq!(held(&log), BTreeSet::from(["a", "c"]));
        let again = [
            entry(2.0, "b", Event::ShutdownRequested),
            start(3.0, "b", 2),
            entry(4.0, "b", Event::ShardEnded),
        ];
        assert_eq!(held(&again), BTreeSet::new());
    }
}

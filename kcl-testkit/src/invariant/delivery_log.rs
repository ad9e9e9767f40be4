//! The verdict on a fleet that was seen from outside: by the logs of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::invariant::{Invariant, Violation};
use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, Position, RecordPosition};

use super::checker::{Checker, Tally};
use super::observation::{Observation, Process};

/// The records that were put into a stream, and the deliveries of them in the order in which they happened.
///
/// A log of deliveries names no write of a lease. So its verdict covers I1 (nothing lost), I8 (in order) and I9 (parents first), by the same
/// [`Checker`] that a simulation asks after every step, and that each token has one owner (I5). How long two owners overlapped is measured
/// and not judged, since a log shows no difference between a process that stood still and one that ran.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::types::{LeaseKey, RecordPosition, SequenceNumber};
/// use kcl_testkit::invariant::{DeliveryLog, Invariant};
///
/// let shard = LeaseKey::new("shardId-000000000000")?;
/// let record = |number| RecordPosition::plain(SequenceNumber::from(number));
/// let mut log = DeliveryLog::default();
/// log.put(&shard, &record(1));
/// log.put(&shard, &record(2));
/// let worker = "worker-1".into();
/// log.begin(&worker, &shard, None, None);
/// log.deliver(&worker, &shard, &record(1), Duration::ZERO);
/// assert_eq!(log.verdict().unwrap_err().invariant, Invariant::NoRecordLost);
/// log.deliver(&worker, &shard, &record(2), Duration::ZERO);
/// assert_eq!(log.verdict().map(|tally| tally.finished), Ok(2));
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct DeliveryLog {
    parents: BTreeMap<LeaseKey, Vec<LeaseKey>>,
    put: BTreeSet<(LeaseKey, RecordPosition)>,
    delivered: BTreeSet<(LeaseKey, RecordPosition)>,
    set_aside: BTreeSet<(LeaseKey, RecordPosition)>,
    entries: Vec<LogEntry>,
}

#[derive(Debug, Clone)]
struct LogEntry {
    process: Process,
    shard: LeaseKey,
    event: LogEvent,
}

#[derive(Debug, Clone)]
enum LogEvent {
    Began {
        token: Option<FencingToken>,
        checkpoint: Option<Position>,
    },
    Delivered {
        position: RecordPosition,
        at: Duration,
    },
    SetAside {
        position: RecordPosition,
    },
    Ended,
}

/// The ownership in which a process reads a shard.
struct Current {
    token: FencingToken,
    /// Whether the first record is still to come.
    is_new: bool,
    checkpoint: Option<Position>,
}

impl DeliveryLog {
    /// Notes the parents of a child shard.
    pub fn open(&mut self, child: &LeaseKey, parents: impl IntoIterator<Item = LeaseKey>) {
        self.parents.insert(child.clone(), parents.into_iter().collect());
    }

    /// Notes a record that the stream has taken.
    pub fn put(&mut self, shard: &LeaseKey, position: &RecordPosition) {
        self.put.insert((shard.clone(), position.clone()));
    }

    /// Notes that the process began to own the shard, or made another processor in the same ownership.
    ///
    /// Without a `token` the ownership is taken for a new one. Without a `checkpoint` it may begin at any record.
    pub fn begin(
        &mut self,
        process: &Process,
        shard: &LeaseKey,
        token: Option<FencingToken>,
        checkpoint: Option<Position>,
    ) {
        self.push(process, shard, LogEvent::Began { token, checkpoint });
    }

    /// Notes that the process was given this record and finished it; `at` is since any moment that is the same for all processes.
    pub fn deliver(&mut self, process: &Process, shard: &LeaseKey, position: &RecordPosition, at: Duration) {
        self.delivered.insert((shard.clone(), position.clone()));
        let position = position.clone();
        self.push(process, shard, LogEvent::Delivered { position, at });
    }

    /// Notes that the process set this record aside: a sink has acknowledged its dead letter, or the policy skips it. The record is finished
    /// without being delivered.
    pub fn set_aside(&mut self, process: &Process, shard: &LeaseKey, position: &RecordPosition) {
        self.set_aside.insert((shard.clone(), position.clone()));
        let position = position.clone();
        self.push(process, shard, LogEvent::SetAside { position });
    }

    /// Notes that the process does not own the shard any more.
    pub fn end(&mut self, process: &Process, shard: &LeaseKey) {
        self.push(process, shard, LogEvent::Ended);
    }

    /// Returns how many records were put.
    pub fn records(&self) -> usize {
        self.put.len()
    }

    /// Returns how many different records were delivered.
    pub fn delivered(&self) -> usize {
        self.delivered.len()
    }

    /// Returns the records that were put, and neither delivered nor set aside.
    pub fn lost(&self) -> impl Iterator<Item = &(LeaseKey, RecordPosition)> {
        let missing = self.put.difference(&self.delivered);
        missing.filter(|record| !self.set_aside.contains(*record))
    }

    /// Returns the records that were delivered and not put.
    pub fn invented(&self) -> impl Iterator<Item = &(LeaseKey, RecordPosition)> {
        self.delivered.difference(&self.put)
    }

    /// Judges the whole log, and returns its counts.
    ///
    /// # Errors
    ///
    /// The first delivery that breaks an invariant, or else the first record that was lost.
    pub fn verdict(&self) -> Result<Tally, Violation> {
        let mut checker = Checker::default();
        self.set_up(&mut checker)?;
        let mut owned: BTreeMap<(&Process, &LeaseKey), Current> = BTreeMap::new();
        let mut last_token: BTreeMap<&LeaseKey, u64> = BTreeMap::new();
        for LogEntry {
            process,
            shard,
            event,
        } in &self.entries
        {
            match event {
                LogEvent::Began { token, checkpoint } => {
                    let last = last_token.entry(shard).or_default();
                    let token = token.unwrap_or_else(|| FencingToken::new(*last + 1));
                    *last = token.as_u64().max(*last);
                    let current = Current {
                        token,
                        is_new: true,
                        checkpoint: checkpoint.clone(),
                    };
                    owned.insert((process, shard), current);
                }
                LogEvent::Delivered { position, .. } | LogEvent::SetAside { position } => {
                    let Some(current) = owned.get_mut(&(process, shard)) else {
                        return Invariant::InOrder.broken(format!(
                            "{process} was given {position} of {shard} without owning it"
                        ));
                    };
                    if std::mem::take(&mut current.is_new) {
                        let anywhere = || self.before(shard, position);
                        let checkpoint = current.checkpoint.clone().unwrap_or_else(anywhere);
                        checker.begin(process, shard, current.token, checkpoint)?;
                    }
                    match event {
                        LogEvent::Delivered { at, .. } => {
                            let at = Moment::from_origin(*at);
                            deliver(&mut checker, process, shard, current.token, position, at)?;
                        }
                        LogEvent::SetAside { .. } | LogEvent::Began { .. } | LogEvent::Ended => {
                            checker.observe(&Observation::SetAside {
                                process: Arc::clone(process),
                                shard: shard.clone(),
                                token: Some(current.token),
                                position: position.clone(),
                                unreadable: false,
                                attempts: None,
                            })?;
                        }
                    }
                }
                LogEvent::Ended => {
                    owned.remove(&(process, shard));
                }
            }
        }
        checker.at_rest()?;
        Ok(checker.tally())
    }

    /// Lets the checker know of the shards, the records and the processes.
    fn set_up(&self, checker: &mut Checker) -> Result<(), Violation> {
        for (shard, parents) in &self.parents {
            checker.observe(&Observation::ShardOpened {
                shard: shard.clone(),
                parents: parents.clone(),
            })?;
        }
        for (shard, position) in &self.put {
            checker.observe(&Observation::Put {
                shard: shard.clone(),
                position: position.clone(),
                arrival: None,
            })?;
        }
        let processes: BTreeSet<&Process> = self.entries.iter().map(|entry| &entry.process).collect();
        processes.into_iter().try_for_each(|process| {
            checker.observe(&Observation::Paused {
                process: Arc::clone(process),
            })
        })
    }

    /// The position after which this record comes next.
    fn before(&self, shard: &LeaseKey, position: &RecordPosition) -> Position {
        let before = self.put.range(..(shard.clone(), position.clone())).next_back();
        match before {
            Some((of, before)) if of == shard => Position::Record(before.clone()),
            _ => Position::TrimHorizon,
        }
    }

    fn push(&mut self, process: &Process, shard: &LeaseKey, event: LogEvent) {
        self.entries.push(LogEntry {
            process: Arc::clone(process),
            shard: shard.clone(),
            event,
        });
    }
}

fn deliver(
    checker: &mut Checker,
    process: &Process,
    shard: &LeaseKey,
    token: FencingToken,
    position: &RecordPosition,
    at: Moment,
) -> Result<(), Violation> {
    checker.observe(&Observation::BatchStarted {
        process: Arc::clone(process),
        shard: shard.clone(),
        token,
        records: vec![position.clone()],
        now: at,
        // A log says nothing of deadlines.
        valid_until: at + Duration::from_secs(1),
        at,
    })?;
    checker.observe(&Observation::BatchFinished {
        process: Arc::clone(process),
        shard: shard.clone(),
        at,
    })
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;

    use super::*;

    fn key(name: &str) -> LeaseKey {
        LeaseKey::new(name).unwrap()
    }

    fn at(number: u64) -> RecordPosition {
        RecordPosition::plain(SequenceNumber::from(u128::from(number)))
    }

    /// Parent `p` with the records 1 to 5, and its child `q` with 7 and 8.
    fn put() -> DeliveryLog {
        let mut log = DeliveryLog::default();
        log.open(&key("q"), [key("p")]);
        (1..=5).for_each(|number| log.put(&key("p"), &at(number)));
        (7..=8).for_each(|number| log.put(&key("q"), &at(number)));
        log
    }

    /// One ownership: of which process, of which shard, from which checkpoint, and the records with their second.
    fn own(log: &mut DeliveryLog, process: &str, shard: &str, from: Option<u64>, records: &[(u64, u64)]) {
        let (process, shard) = (process.into(), key(shard));
        log.begin(
            &process,
            &shard,
            None,
            from.map(|from| Position::Record(at(from))),
        );
        for (number, second) in records {
            log.deliver(&process, &shard, &at(*number), Duration::from_secs(*second));
        }
    }

    /// Process `a` dies after 3, and `b` repeats it.
    fn sound() -> DeliveryLog {
        let mut log = put();
        own(&mut log, "a", "p", None, &[(1, 1), (2, 2), (3, 3)]);
        own(&mut log, "b", "p", Some(2), &[(3, 9), (4, 10), (5, 11)]);
        own(&mut log, "b", "q", None, &[(7, 12), (8, 13)]);
        log
    }

    fn broken(log: &DeliveryLog) -> Invariant {
        log.verdict().unwrap_err().invariant
    }

    #[test]
    fn repetition_in_new_ownership_is_counted() {
        let tally = sound().verdict().unwrap();
        assert_eq!((tally.put, tally.finished, tally.redelivered), (7, 7, 1));
        assert_eq!((tally.ownerships, tally.longest_overlap), (3, Duration::ZERO));
        assert_eq!((sound().records(), sound().delivered()), (7, 7));
    }

    #[test]
    fn lost_and_invented_records_are_named() {
        let mut log = sound();
        log.put(&key("q"), &at(9));
        assert_eq!(broken(&log), Invariant::NoRecordLost);
        assert_eq!(log.lost().collect::<Vec<_>>(), [&(key("q"), at(9))]);
        // The same number in another shard is another record.
        own(&mut log, "c", "p", None, &[(9, 14)]);
        assert_eq!(log.invented().collect::<Vec<_>>(), [&(key("p"), at(9))]);
        assert_eq!(log.lost().count(), 1);
    }

    #[test]
    fn step_back_or_gap_in_ownership_is_found() {
        for wrong in [5, 3, 1, 7] {
            let mut log = put();
            (6..=7).for_each(|number| log.put(&key("p"), &at(number)));
            own(&mut log, "a", "p", None, &[(4, 1), (5, 2), (wrong, 3)]);
            assert_eq!(broken(&log), Invariant::InOrder, "{wrong} after 5");
        }
    }

    #[test]
    fn start_after_checkpoint_is_found() {
        let mut log = put();
        own(&mut log, "a", "p", Some(2), &[(4, 1)]);
        assert_eq!(broken(&log), Invariant::InOrder, "3 has its turn");
    }

    #[test]
    fn record_without_ownership_is_found() {
        let mut log = sound();
        log.end(&"b".into(), &key("q"));
        log.deliver(&"b".into(), &key("q"), &at(8), Duration::from_secs(14));
        assert_eq!(broken(&log), Invariant::InOrder);
    }

    #[test]
    fn child_before_end_of_parent_is_found() {
        let mut log = put();
        own(&mut log, "a", "p", None, &[(1, 1), (2, 2), (3, 3), (4, 4)]);
        own(&mut log, "b", "q", None, &[(7, 5)]);
        log.deliver(&"a".into(), &key("p"), &at(5), Duration::from_secs(6));
        assert_eq!(broken(&log), Invariant::ParentsFirst);
        // A repetition of the parent's record after the child began is none.
        let mut log = sound();
        own(&mut log, "c", "p", None, &[(5, 14)]);
        assert!(log.verdict().is_ok());
    }

    #[test]
    fn token_of_two_processes_is_found() {
        let mut log = put();
        let token = Some(FencingToken::new(4));
        for process in ["a", "a", "b"] {
            let process = process.into();
            log.begin(&process, &key("p"), token, None);
            log.deliver(&process, &key("p"), &at(1), Duration::ZERO);
        }
        assert_eq!(broken(&log), Invariant::TokenRises);
    }

    #[test]
    fn overlap_of_two_owners_is_measured() {
        let mut log = put();
        own(&mut log, "a", "p", None, &[(1, 1)]);
        own(
            &mut log,
            "b",
            "p",
            None,
            &[(1, 2), (2, 2), (3, 2), (4, 2), (5, 2)],
        );
        log.deliver(&"a".into(), &key("p"), &at(2), Duration::from_secs(5));
        own(&mut log, "b", "q", None, &[(7, 6), (8, 6)]);
        let tally = log.verdict().unwrap();
        assert_eq!(tally.longest_overlap, Duration::from_secs(3));
    }
}

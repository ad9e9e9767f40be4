//! The records of a shard whose calls have failed: how often, and until when each is parked.

use std::collections::{BTreeMap, BTreeSet};

use crate::consumer::by_record::lanes::LaneEntry;
use crate::consumer::isolation::{Attempts, FailureTally};
use crate::consumer::reaction::{Pause, SetAside};
use crate::processor::FailureKind;
use crate::runtime::clock::Moment;
use crate::types::RecordPosition;

/// A record that has failed and is not finished.
pub(crate) struct FailingRecord {
    pub(crate) entry: LaneEntry,
    position: RecordPosition,
    tally: FailureTally,
    rest: Rest,
    /// How it is set aside, once the policy said so.
    pub(crate) set_aside: Option<SetAside>,
}

/// The state of a failing record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing: its call runs, or may.
    Called,
    /// The end of its pause.
    Until { due: Moment, then_release: bool },
    /// The sink.
    SetAside,
}

/// The failing records of a shard.
#[derive(Default)]
pub(crate) struct FailingRecords {
    /// By their numbers.
    records: BTreeMap<u64, FailingRecord>,
    /// When the pause of each is over that has one, and its number.
    due: BTreeSet<(Moment, u64)>,
}

impl FailingRecords {
    /// Counts a failure of the record.
    pub(crate) fn failed(
        &mut self,
        number: u64,
        entry: LaneEntry,
        position: &RecordPosition,
        kind: FailureKind,
        now: Moment,
    ) -> Attempts {
        let record = self.records.entry(number).or_insert_with(|| FailingRecord {
            entry,
            position: position.detached(),
            tally: FailureTally::default(),
            rest: Rest::Called,
            set_aside: None,
        });
        record.tally.failed(kind, now)
    }

    /// The record is not tried again before this pause is over.
    pub(crate) fn park(&mut self, number: u64, pause: Pause, now: Moment) {
        let rest = Rest::Until {
            due: now + pause.length,
            then_release: pause.then_release,
        };
        self.rest(number, rest);
    }

    /// The record is being set aside.
    pub(crate) fn set_aside(&mut self, number: u64, set_aside: SetAside) {
        if let Some(record) = self.records.get_mut(&number) {
            record.set_aside = Some(set_aside);
        }
        self.rest(number, Rest::SetAside);
    }

    /// The record is called, if it is one of these.
    pub(crate) fn calls(&mut self, number: u64) {
        if !self.records.is_empty() {
            self.rest(number, Rest::Called);
        }
    }

    fn rest(&mut self, number: u64, rest: Rest) {
        let Some(record) = self.records.get_mut(&number) else {
            return;
        };
        if let Rest::Until { due, .. } = std::mem::replace(&mut record.rest, rest) {
            self.due.remove(&(due, number));
        }
        if let Rest::Until { due, .. } = rest {
            self.due.insert((due, number));
        }
    }

    /// The record is finished. Returns `true` if it was one of these.
    pub(crate) fn finished(&mut self, number: u64) -> bool {
        !self.records.is_empty() && self.remove(number).is_some()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<FailingRecord> {
        self.calls(number);
        self.records.remove(&number)
    }

    /// When the first pause is over.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes a record whose pause is over, and whether the lease is to be given up now.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<(LaneEntry, bool)> {
        let (_, number) = *self.due.first().filter(|(due, _)| *due <= now)?;
        let record = self.records.get(&number)?;
        let then_release = matches!(
            record.rest,
            Rest::Until {
                then_release: true,
                ..
            }
        );
        let entry = record.entry;
        self.rest(number, Rest::Called);
        Some((entry, then_release))
    }

    /// Ends all pauses.
    pub(crate) fn try_now(&mut self, now: Moment) {
        for (_, number) in std::mem::take(&mut self.due) {
            if let Some(FailingRecord {
                rest: Rest::Until { due, .. },
                ..
            }) = self.records.get_mut(&number)
            {
                *due = now;
                self.due.insert((now, number));
            }
        }
    }

    pub(crate) fn oldest(&self) -> Option<&RecordPosition> {
        self.records.values().next().map(|record| &record.position)
    }

    /// How often the oldest of them has failed.
    pub(crate) fn failures_of_oldest(&self) -> u32 {
        self.records
            .values()
            .next()
            .map_or(0, |record| record.tally.total())
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::SequenceNumber;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn park(failing: &mut FailingRecords, number: u64, now: u64, pause: u64, then_release: bool) {
        let position = RecordPosition::plain(SequenceNumber::from(u128::from(number)));
        let entry = usize::try_from(number).unwrap();
        failing.failed(number, entry, &position, FailureKind::Panic, at(now));
        let length = Duration::from_secs(pause);
        failing.park(number, Pause { length, then_release }, at(now));
    }

    #[test]
    fn records_come_back_when_their_pauses_are_over() {
        let mut failing = FailingRecords::default();
        park(&mut failing, 7, 0, 9, false);
        park(&mut failing, 8, 0, 3, true);
        assert_eq!(failing.next_due(), Some(at(3)));
        assert_eq!(failing.take_due(at(2)), None);
        assert_eq!(failing.take_due(at(3)), Some((8, true)));
        assert_eq!((failing.next_due(), failing.len()), (Some(at(9)), 2));
        park(&mut failing, 8, 4, 100, false);
        assert_eq!(failing.failures_of_oldest(), 1);
        failing.try_now(at(5));
        assert_eq!(failing.take_due(at(5)), Some((7, false)));
        assert_eq!(failing.take_due(at(5)), Some((8, false)));
        assert_eq!(failing.next_due(), None);
    }

    #[test]
    fn finished_record_is_due_no_more() {
        let mut failing = FailingRecords::default();
        park(&mut failing, 7, 0, 9, false);
        assert!(failing.finished(7) && !failing.finished(7));
        assert!(failing.is_empty() && failing.next_due().is_none());
        assert_eq!(failing.take_due(at(9) + SECOND), None);
    }
}

//! The records of a shard whose calls have failed: how often, and until when each is parked.

use std::collections::BTreeMap;

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

/// The failing records of a shard, by their numbers.
#[derive(Default)]
pub(crate) struct FailingRecords(BTreeMap<u64, FailingRecord>);

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
        let record = self.0.entry(number).or_insert_with(|| FailingRecord {
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
        if let Some(record) = self.0.get_mut(&number) {
            record.set_aside = Some(set_aside);
        }
        self.rest(number, Rest::SetAside);
    }

    /// The record is called, if it is one of these.
    pub(crate) fn calls(&mut self, number: u64) {
        if !self.0.is_empty() {
            self.rest(number, Rest::Called);
        }
    }

    fn rest(&mut self, number: u64, rest: Rest) {
        if let Some(record) = self.0.get_mut(&number) {
            record.rest = rest;
        }
    }

    /// The record is finished. Returns `true` if it was one of these.
    pub(crate) fn finished(&mut self, number: u64) -> bool {
        !self.0.is_empty() && self.remove(number).is_some()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<FailingRecord> {
        self.0.remove(&number)
    }

    /// When the first pause is over.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.due().map(|(due, ..)| due).min()
    }

    fn due(&self) -> impl Iterator<Item = (Moment, u64, bool)> {
        self.0.iter().filter_map(|(number, record)| match record.rest {
            Rest::Until { due, then_release } => Some((due, *number, then_release)),
            Rest::Called | Rest::SetAside => None,
        })
    }

    /// Takes the oldest record whose pause is over, and whether the lease is to be given up now.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<(LaneEntry, bool)> {
        let (_, number, then_release) = self.due().find(|(due, ..)| *due <= now)?;
        let record = self.0.get_mut(&number)?;
        record.rest = Rest::Called;
        Some((record.entry, then_release))
    }

    /// Ends all pauses.
    pub(crate) fn try_now(&mut self, now: Moment) {
        for record in self.0.values_mut() {
            if let Rest::Until { due, .. } = &mut record.rest {
                *due = now;
            }
        }
    }

    /// Whether the record waits, for whatever.
    pub(crate) fn is_parked(&self, number: u64) -> bool {
        self.0
            .get(&number)
            .is_some_and(|record| record.rest != Rest::Called)
    }

    pub(crate) fn oldest(&self) -> Option<&RecordPosition> {
        self.0.values().next().map(|record| &record.position)
    }

    /// How often the one has failed that failed most.
    pub(crate) fn most_failures(&self) -> u32 {
        self.0
            .values()
            .map(|record| record.tally.total())
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

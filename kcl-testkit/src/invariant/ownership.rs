//! One ownership of a shard, as its batches show it, and the rules that each batch keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kcl_core::invariant::{Invariant, Violation};
use kcl_core::types::{LeaseKey, RecordPosition};

use super::observation::Process;

/// The known facts about one ownership.
#[derive(Debug, Clone)]
pub(super) struct Ownership {
    pub(super) process: Process,
    /// The records from here on have their turn.
    pub(super) next: Bound<RecordPosition>,
    /// Whether it began without a checkpoint and has brought nothing yet: it cannot know what was there before.
    pub(super) is_fresh: bool,
    /// The batch that the processor works on.
    pub(super) batch: Vec<RecordPosition>,
    /// Every record that was delivered in it.
    pub(super) delivered: BTreeSet<RecordPosition>,
    /// Whether records may come again: at the beginning, and after the processor has failed.
    pub(super) may_go_back: bool,
    /// How often a call failed at each record: at the one that it named, or else at the first that it had.
    pub(super) failures: BTreeMap<RecordPosition, u32>,
    /// The record on which the last call failed, if it named one or had no other, until the next call.
    pub(super) isolated: Option<RecordPosition>,
    /// The records whose calls failed, each until its next call.
    pub(super) parked: BTreeSet<RecordPosition>,
    /// The last record of each lane that a handler was called for.
    pub(super) called: BTreeMap<Option<String>, RecordPosition>,
    /// The records that were set aside.
    pub(super) aside: BTreeSet<RecordPosition>,
}

impl Ownership {
    /// Checks that a process that goes on behind records that retention took learns of the gap. A process that begins a shard cannot know what was there before.
    pub(super) fn check_gap(
        &self,
        shard: &LeaseKey,
        records: &[RecordPosition],
        lost: &BTreeSet<RecordPosition>,
        is_told: bool,
    ) -> Result<(), Violation> {
        let Some(first) = records.first() else {
            return Ok(());
        };
        let goes_on = match &self.next {
            Bound::Included(next) => next < first,
            Bound::Excluded(done) => done < first,
            Bound::Unbounded => false,
        };
        if is_told || self.is_fresh || !goes_on {
            return Ok(());
        }
        let left_out = lost
            .range((self.next.clone(), Bound::Excluded(first.clone())))
            .find(|record| !self.aside.contains(*record));
        Invariant::NoRecordLost.check(left_out.is_none(), || {
            let process = &self.process;
            format!("{process} starts a batch of {shard} at {first} and was not told that retention took {left_out:?}")
        })
    }

    /// Checks that only a record is set aside on which a call failed alone, and that it had all the attempts that are counted for it.
    pub(super) fn check_set_aside(
        &self,
        shard: &LeaseKey,
        position: &RecordPosition,
        attempts: u32,
    ) -> Result<(), Violation> {
        let process = &self.process;
        let failed_alone = self.isolated.as_ref() == Some(position) || self.parked.contains(position);
        Invariant::NoRecordLost.check(failed_alone, || {
            format!("{process} sets {position} of {shard} aside, and no call failed on it alone")
        })?;
        let failures = self.failures.get(position).copied().unwrap_or(0);
        Invariant::NoRecordLost.check(attempts <= failures, || {
            format!(
                "{process} sets {position} of {shard} aside after {attempts} attempts, and {failures} calls failed on it"
            )
        })
    }

    pub(super) fn check_order(
        &self,
        shard: &LeaseKey,
        records: &[RecordPosition],
        kept: &BTreeSet<RecordPosition>,
        stored_ahead: &BTreeSet<RecordPosition>,
    ) -> Result<(), Violation> {
        let process = &self.process;
        let has_turn =
            |record: &&RecordPosition| !self.aside.contains(*record) && !stored_ahead.contains(*record);
        Invariant::InOrder.check(records.windows(2).all(|pair| pair[0] < pair[1]), || {
            format!("the records of a batch of {shard} are out of order at {process}")
        })?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        Invariant::InOrder.check(self.batch.is_empty(), || {
            format!("{process} starts a batch of {shard} while the one before still runs")
        })?;
        let goes_back = match &self.next {
            Bound::Included(next) => first < next,
            Bound::Excluded(done) => first <= done,
            Bound::Unbounded => false,
        };
        Invariant::InOrder.check(!goes_back || self.may_go_back, || {
            format!(
                "{process} goes back to {first} in {shard}, where {:?} has its turn",
                self.next
            )
        })?;
        let left_out = match goes_back {
            true => None,
            false => kept
                .range((self.next.clone(), Bound::Excluded(first.clone())))
                .find(has_turn),
        };
        Invariant::InOrder.check(left_out.is_none(), || {
            format!("{process} leaves out {left_out:?} of {shard} and starts a batch at {first}")
        })?;
        let between = kept.range(first.clone()..=last.clone());
        let missing = between
            .into_iter()
            .find(|record| records.binary_search(record).is_err() && has_turn(record));
        Invariant::InOrder.check(missing.is_none(), || {
            format!("a batch of {shard} leaves out {missing:?} at {process}")
        })
    }
}

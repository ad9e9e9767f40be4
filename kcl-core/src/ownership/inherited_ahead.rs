//! Decides what a row may say of the records that are finished ahead of its checkpoint.

use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::row::Lease;
use crate::types::{Position, RecordPosition};

/// The part of a shard that one ownership can answer for, and the attribute that it found in the row.
#[derive(Debug, Default)]
pub(crate) struct InheritedAhead {
    from: ReadFrom,
    /// The records that the row called finished then. It knows more than this ownership until reading is past its end.
    found: Option<FinishedAhead>,
}

/// Where the reading of what was delivered began.
#[derive(Debug, Default)]
enum ReadFrom {
    /// Nothing was read.
    #[default]
    Nowhere,
    /// At a place of the processor.
    Elsewhere,
    /// At this checkpoint: everything behind it was delivered, as far as anything was.
    Checkpoint(Position),
}

impl InheritedAhead {
    /// Reading begins at the checkpoint of this row, or, where there is none, somewhere else. Returns the records to leave out.
    pub(crate) fn begin(&mut self, row: Option<&Lease>, is_unpacked: bool) -> Option<FinishedAhead> {
        self.from = row.map_or(ReadFrom::Elsewhere, |row| {
            ReadFrom::Checkpoint(row.checkpoint.clone())
        });
        self.found = row.and_then(|row| row.valid_finished_ahead(is_unpacked)).cloned();
        self.found.clone()
    }

    /// The records to leave out among those that are delivered.
    pub(crate) fn found(&self) -> Option<&FinishedAhead> {
        self.found.as_ref()
    }

    /// Everything up to this record was delivered.
    pub(crate) fn delivered(&mut self, last: &RecordPosition) {
        self.found.take_if(|found| last >= found.end());
    }

    /// The attribute to store with a checkpoint at a record that this ownership delivered. `known` is what it knows by itself.
    pub(crate) fn with_checkpoint(
        &self,
        base: &Position,
        known: impl FnOnce() -> Option<FinishedAhead>,
    ) -> Option<FinishedAhead> {
        match &self.found {
            Some(found) => found.rebased(base),
            None => known(),
        }
    }

    /// The attribute that this row should have, if it should have another one: not while a checkpoint is pending, which a checkpoint would discard,
    /// and not where records behind the row's checkpoint may not have been delivered.
    pub(crate) fn change_of(
        &self,
        row: &Lease,
        known: impl FnOnce() -> Option<FinishedAhead>,
    ) -> Option<Option<FinishedAhead>> {
        let is_delivered = matches!(&self.from, ReadFrom::Checkpoint(from) if *from <= row.checkpoint);
        if !is_delivered || row.pending.is_some() || row.is_ended() {
            return None;
        }
        let ahead = self.with_checkpoint(&row.checkpoint, known);
        (ahead != row.finished_ahead).then_some(ahead)
    }

    /// A checkpoint of what this ownership delivered is stored: everything behind it was delivered, wherever reading began.
    pub(crate) fn stored(&mut self, checkpoint: &Position) {
        if let ReadFrom::Elsewhere = self.from {
            self.from = ReadFrom::Checkpoint(checkpoint.clone());
        }
    }
}

#[cfg(test)]
mod tests;

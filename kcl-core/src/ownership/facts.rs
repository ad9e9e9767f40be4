//! The facts about a held lease that its status shows, and that nothing else depends on.

use crate::lifecycle::ConsumerState;
use crate::runtime::clock::Moment;
use crate::source::{EndDoubt, SourceErrorKind};
use crate::types::{Gap, RecordPosition};

/// The facts about a held lease that nothing depends on but its status.
#[derive(Debug)]
pub(crate) struct LeaseFacts {
    /// The state of the consumer.
    pub(crate) state: ConsumerState,
    /// The last record whose batch the processor has returned `Ok` for, and how many records that are.
    pub(crate) processed: Option<RecordPosition>,
    pub(crate) records: u64,
    /// Why the shard could not be read the last time it was tried.
    pub(crate) trouble: Option<SourceErrorKind>,
    /// How often the processor has failed in a row.
    pub(crate) failures: u32,
    /// The record that cannot be read, if the shard is held at one.
    pub(crate) unreadable: Option<RecordPosition>,
    /// The record that fails, where it is known.
    pub(crate) failing: Option<RecordPosition>,
    /// How many records failed and wait, while others go on.
    pub(crate) parked: u64,
    /// How many records were sent to the dead-letter sink, and how many were skipped.
    pub(crate) dead_letters: u64,
    pub(crate) skipped: u64,
    /// How often in a row the shard was opened again because its consumer made no progress.
    pub(crate) stalls: u32,
    /// Why it is not known whether the shard has ended.
    pub(crate) end_in_doubt: Option<EndDoubt>,
    /// Where reading last went on behind a place that retention had removed.
    pub(crate) gap: Option<Gap>,
    /// When retention takes the oldest record that the held shard has not finished, once that was warned of.
    pub(crate) expires: Option<Moment>,
}

impl Default for LeaseFacts {
    fn default() -> Self {
        Self {
            state: ConsumerState::AwaitingParents,
            processed: None,
            records: 0,
            trouble: None,
            failures: 0,
            unreadable: None,
            failing: None,
            parked: 0,
            dead_letters: 0,
            skipped: 0,
            stalls: 0,
            end_in_doubt: None,
            gap: None,
            expires: None,
        }
    }
}

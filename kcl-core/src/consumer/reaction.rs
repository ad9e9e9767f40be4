//! The consequence of a failure.

use std::time::Duration;

use crate::dead_letter::DeadLetter;
use crate::types::RecordPosition;

/// A record that is about to be set aside.
pub(crate) struct SetAside {
    /// How far the shard is finished once it is set aside.
    pub(crate) position: RecordPosition,
    /// The letter that the sink must acknowledge first; `None` if the record is skipped.
    pub(crate) letter: Option<DeadLetter>,
    /// Whether it is the record that could not be read, and so was never delivered.
    pub(crate) is_unreadable: bool,
}

/// The wait after a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) length: Duration,
    /// Whether the lease is given up then, instead of another try.
    pub(crate) then_release: bool,
}

/// The consequence of a failure.
#[derive(Default)]
pub(crate) struct Reaction {
    pub(crate) pause: Pause,
    /// How the record is set aside that failed, if it is.
    pub(crate) set_aside: Option<SetAside>,
}

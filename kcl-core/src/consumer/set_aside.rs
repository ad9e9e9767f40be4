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

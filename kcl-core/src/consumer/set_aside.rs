use crate::dead_letter::DeadLetter;
use crate::processor::FailedCall;
use crate::types::{Record, RecordPosition};

/// A record that is about to be set aside.
pub(crate) struct SetAside {
    /// How far the shard is finished once it is set aside.
    pub(crate) position: RecordPosition,
    /// The letter that the sink must acknowledge first; `None` if the record is skipped.
    pub(crate) letter: Option<DeadLetter>,
    /// Whether it is the record that cannot be read. Such a record may also wait behind the one that is set aside.
    pub(crate) is_unreadable: bool,
}

impl SetAside {
    /// This record, or, where it could not be unpacked, everything in it.
    pub(crate) fn new(call: FailedCall, record: &Record, letter: Option<DeadLetter>) -> Self {
        let is_unreadable = call == FailedCall::Unpack;
        Self {
            position: match is_unreadable {
                true => all_of(record),
                false => record.position().detached(),
            },
            letter,
            is_unreadable,
        }
    }
}

/// The position up to which the shard is finished once everything in this record is.
pub(crate) fn all_of(record: &Record) -> RecordPosition {
    let mut position = record.position().detached();
    position.sub_sequence = RecordPosition::LAST_SUB_SEQUENCE;
    position
}

use crate::dead_letter::DeadLetter;
use crate::processor::FailedCall;
use crate::types::{Record, RecordPosition};

/// A record that is about to be set aside.
pub(crate) struct SetAside {
    /// How far the shard is finished once it is set aside.
    pub(crate) position: RecordPosition,
    /// The letter that the sink must acknowledge first; `None` if the record is skipped.
    pub(crate) letter: Option<DeadLetter>,
}

impl SetAside {
    /// This record, or, where it could not be unpacked, everything in it.
    pub(crate) fn new(call: FailedCall, record: &Record, letter: Option<DeadLetter>) -> Self {
        let mut position = record.position().detached();
        if call == FailedCall::Unpack {
            position.sub_sequence = RecordPosition::LAST_SUB_SEQUENCE;
        }
        Self { position, letter }
    }
}

use std::fmt;

use crate::types::SequenceNumber;

/// A place in a shard at which reading could not go on exactly where it had stopped: the record that it stood at is gone.
///
/// Retention has taken that record, and may have taken others after it that were never read. Whether it did cannot be seen: of a shard
/// that was idle for longer than its stream keeps records nothing is missing.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::{Gap, SequenceNumber};
///
/// let gap = Gap { after: SequenceNumber::from(7), first: Some(SequenceNumber::from(12)) };
/// assert_eq!(gap.to_string(), "after 7 and before 12");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last record that was read before it, which is gone.
    pub after: SequenceNumber,
    /// The first record that came after it; `None` where the shard ended without another.
    pub first: Option<SequenceNumber>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.first {
            Some(first) => write!(f, "after {} and before {first}", self.after),
            None => write!(f, "after {}, at the end of the shard", self.after),
        }
    }
}

use std::fmt;

use crate::types::{InvalidSequenceNumber, SequenceNumber};

/// The place of one user record: its Kinesis sequence number, and its index inside an aggregated record.
///
/// A record that is not aggregated has sub-sequence number 0. Order is by sequence number, then by sub-sequence number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// The sequence number of the Kinesis record.
    pub sequence: SequenceNumber,
    /// The index of the user record inside an aggregated Kinesis record; 0 for a plain one.
    pub sub_sequence: u64,
}

impl RecordPosition {
    /// The index that stands for everything in a Kinesis record, however many user records it has: the largest that a lease row of the Java
    /// KCL can hold.
    pub(crate) const LAST_SUB_SEQUENCE: u64 = i64::MAX as u64;

    /// The position of a plain record.
    #[inline]
    pub fn plain(sequence: SequenceNumber) -> Self {
        Self {
            sequence,
            sub_sequence: 0,
        }
    }

    /// A copy that shares no memory with the response it came from.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            sequence: self.sequence.detached(),
            sub_sequence: self.sub_sequence,
        }
    }
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub_sequence {
            0 => write!(f, "{}", self.sequence),
            sub => write!(f, "{}/{sub}", self.sequence),
        }
    }
}

/// How far a shard has been processed: the value of a lease's `checkpoint`.
///
/// A shard at [`Position::Record`] has finished every record up to and including that one.
/// The variants stand in the one order that everything uses, which is the order of the Java KCL's `ExtendedSequenceNumber`:
///
/// | position | stored as | rank |
/// |---|---|---|
/// | [`AtTimestamp`](Position::AtTimestamp) | `AT_TIMESTAMP` | lowest |
/// | [`TrimHorizon`](Position::TrimHorizon) | `TRIM_HORIZON` | |
/// | [`Latest`](Position::Latest) | `LATEST` | |
/// | [`Record`](Position::Record) | the digits | numeric, then by sub-sequence |
/// | [`ShardEnd`](Position::ShardEnd) | `SHARD_END` | highest |
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::Position;
///
/// let record = Position::parse("42", 3)?;
/// assert!(Position::Latest < record && record < Position::ShardEnd);
/// assert_eq!(record.checkpoint_text(), "42");
/// assert_eq!(record.sub_sequence(), 3);
/// # Ok::<(), kcl_core::types::InvalidPosition>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// Nothing is processed; reading starts at a time that is not part of the position.
    AtTimestamp,
    /// Nothing is processed; reading starts at the oldest record kept.
    TrimHorizon,
    /// Nothing is processed; reading starts with records put from now on.
    Latest,
    /// Everything up to and including this record is processed.
    Record(RecordPosition),
    /// The shard is closed and each of its records is processed.
    ShardEnd,
}

impl Position {
    /// Reads the two attributes in which a lease row stores a position.
    ///
    /// # Errors
    ///
    /// When the text is neither a sentinel nor a sequence number.
    pub fn parse(checkpoint: &str, sub_sequence: u64) -> Result<Self, InvalidPosition> {
        Ok(match checkpoint {
            "AT_TIMESTAMP" => Self::AtTimestamp,
            "TRIM_HORIZON" => Self::TrimHorizon,
            "LATEST" => Self::Latest,
            "SHARD_END" => Self::ShardEnd,
            digits => Self::Record(RecordPosition {
                sequence: SequenceNumber::new(digits)?,
                sub_sequence,
            }),
        })
    }

    /// The text of the `checkpoint` attribute: a sentinel or the digits of the sequence number.
    pub fn checkpoint_text(&self) -> &str {
        match self {
            Self::AtTimestamp => "AT_TIMESTAMP",
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::Latest => "LATEST",
            Self::Record(position) => position.sequence.as_str(),
            Self::ShardEnd => "SHARD_END",
        }
    }

    /// The value of the `checkpointSubSequenceNumber` attribute: 0 for everything but a record inside an aggregate.
    pub fn sub_sequence(&self) -> u64 {
        match self {
            Self::Record(position) => position.sub_sequence,
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => 0,
        }
    }

    /// Whether every record of the shard is processed.
    pub fn is_shard_end(&self) -> bool {
        matches!(self, Self::ShardEnd)
    }

    /// Whether nothing was processed yet, so that the position only says where to start.
    pub fn is_initial(&self) -> bool {
        matches!(self, Self::AtTimestamp | Self::TrimHorizon | Self::Latest)
    }

    /// The record that the position names, if it names one.
    pub fn record(&self) -> Option<&RecordPosition> {
        match self {
            Self::Record(position) => Some(position),
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => None,
        }
    }

    /// Whether the record at `position` is processed already.
    pub fn covers(&self, position: &RecordPosition) -> bool {
        match self {
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest => false,
            Self::Record(done) => position <= done,
            Self::ShardEnd => true,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(position) => position.fmt(f),
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => {
                f.write_str(self.checkpoint_text())
            }
        }
    }
}

/// The text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a checkpoint is AT_TIMESTAMP, TRIM_HORIZON, LATEST, SHARD_END or a sequence number, and this is none of them"
)]
pub struct InvalidPosition(#[from] InvalidSequenceNumber);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_position() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::AtTimestamp),
            Just(Position::TrimHorizon),
            Just(Position::Latest),
            ("[1-9][0-9]{0,128}", 0_u64..1000)
                .prop_map(|(digits, sub)| Position::parse(&digits, sub).unwrap()),
            Just(Position::ShardEnd),
        ]
    }

    #[test]
    fn checkpoint_keeps_the_services_spelling() {
        let position = Position::parse("0042", 1).unwrap();
        assert_eq!(position.checkpoint_text(), "0042");
        assert_eq!(position, Position::parse("42", 1).unwrap());
    }

    #[test]
    fn sentinels_stand_around_the_numbers() {
        let number = Position::parse("0", 0).unwrap();
        let order = [
            Position::AtTimestamp,
            Position::TrimHorizon,
            Position::Latest,
            number,
            Position::ShardEnd,
        ];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn position_inside_aggregate_lies_between_its_neighbours() {
        let at = |digits, sub| Position::parse(digits, sub).unwrap();
        assert!(at("9", 500) < at("10", 0));
        assert!(at("10", 0) < at("10", 1));
    }

    proptest! {
        #[test]
        fn the_two_attributes_round_trip(position in any_position()) {
            let back = Position::parse(position.checkpoint_text(), position.sub_sequence()).unwrap();
            prop_assert_eq!(back, position);
        }

        #[test]
        fn position_covers_exactly_records_up_to_it(position in any_position(), digits in "[1-9][0-9]{0,128}") {
            let record = RecordPosition::plain(digits.parse().unwrap());
            let covered = position >= Position::Record(record.clone());
            prop_assert_eq!(position.covers(&record), covered);
        }
    }

    #[test]
    fn an_unknown_sentinel_is_refused() {
        assert!(Position::parse("shard_end", 0).is_err());
    }
}

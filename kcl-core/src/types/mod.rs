//! The words of the domain: streams, shards, sequence numbers, positions and records.
//!
//! Plain values with their rules. Nothing here reads a clock, does IO or knows of a task.

mod gap;
mod hash_range;
mod ids;
mod initial_position;
mod position;
mod rate;
mod record;
mod sequence_number;
mod timestamp;

pub use gap::Gap;
pub use hash_range::{HashKeyRange, InvalidHashKeyRange};
pub use ids::{
    ApplicationName, Incarnation, InvalidName, LeaseKey, ShardId, StreamIdentity, StreamKey, WorkerId,
};
pub use initial_position::InitialPosition;
pub use position::{InvalidPosition, Position, RecordPosition};
pub use rate::Rate;
pub use record::Record;
pub use sequence_number::{InvalidSequenceNumber, SequenceNumber};
pub use timestamp::Timestamp;

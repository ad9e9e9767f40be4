//! Deliberate mistakes, each of which the checker must find.
//!
//! They live in the model, around the real decisions, and never in the decisions.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// Checkpoints are stored whatever the row shows.
    UnconditionalCheckpoint,
    /// A write without an answer is taken for made.
    UnknownTakenForDone,
    /// A refused owner takes whatever row it sees for its own.
    AdoptsAnyRow,
    /// The holder counts from the answer to its renewal, not from the sending.
    BeliefStampedAtReply,
    /// Batches start after the holder's own deadline.
    NoDeadline,
    /// Planners call a lease expired that they have not watched.
    ExpiryWithoutObservation,
    /// The worker named in a row begins without a renewal of its own.
    StartsBeforeItsRenewal,
    /// The next owner does not wait for the handoff.
    NextOwnerDoesNotWait,
    /// A lease is handed over without the last checkpoint.
    HandsOverWithoutCheckpoint,
    /// A record that is being processed is checkpointed.
    CheckpointBeforeFinish,
    /// A new owner begins one record too late.
    StartsPastTheCheckpoint,
    /// Children begin before their parents are finished.
    NoParentWait,
    /// The end of a shard is stored before its children have leases.
    EndBeforeChildren,
    /// Leases are deleted that have no owner, finished or not.
    DeletesWhatIsUnowned,
    /// A leader believes to lead for as long as it lives.
    LeadsForEver,
    /// The lock is taken without watching it.
    TakesTheLockAtOnce,
    /// The standby leaves everything to the leader.
    NoStandby,
}

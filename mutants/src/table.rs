use kcl_core::invariant::Invariant::{
    BalanceSettles, CheckpointNotAhead, CheckpointRises, CleanupSafe, EveryLeaseOwned, InOrder,
    LeaderHarmless, LineageComplete, NoOverlap, NoRecordLost, NoStartAfterDeadline, ParentsFirst,
    SingleWriter, TokenRises,
};
use kcl_core::mutant::Mutant;

use crate::Entry;

/// Every bug, and the invariants that it should break.
pub fn table() -> Vec<Entry> {
    let entry = |mutant, breaks, harm| Entry { mutant, breaks, harm };
    vec![
        entry(
            Mutant::AssignmentWithoutCondition,
            &[SingleWriter],
            "two planners give one lease to two workers",
        ),
        entry(
            Mutant::CheckpointWithoutCondition,
            &[SingleWriter],
            "a worker that lost the shard overwrites its successor's progress",
        ),
        entry(
            Mutant::LockWithoutCondition,
            &[LeaderHarmless],
            "every worker leads",
        ),
        entry(
            Mutant::RenewalWithoutCount,
            &[
                NoOverlap,
                SingleWriter,
                TokenRises,
                NoStartAfterDeadline,
                BalanceSettles,
            ],
            "leases of healthy workers expire",
        ),
        entry(
            Mutant::LostReplyIsSuccess,
            &[NoStartAfterDeadline, NoOverlap, TokenRises, SingleWriter],
            "a worker relies on a lease that it does not have",
        ),
        entry(
            Mutant::RefusalIsSuccess,
            &[NoOverlap, NoStartAfterDeadline, TokenRises],
            "a worker goes on with a shard that is another's",
        ),
        entry(
            Mutant::DeadlineIgnored,
            &[NoStartAfterDeadline],
            "two workers process a shard while one of them is cut off",
        ),
        entry(
            Mutant::DeadlineFromReply,
            &[NoStartAfterDeadline],
            "the same, for as long as a reply was on its way",
        ),
        entry(
            Mutant::TokenNotRaised,
            &[TokenRises],
            "a sink cannot tell an old owner from a new one",
        ),
        entry(
            Mutant::CheckpointBeforeFinish,
            &[CheckpointNotAhead],
            "a crash loses what was in the processor's hands",
        ),
        entry(
            Mutant::NoRetry,
            &[NoRecordLost],
            "a shard stands still after one failure",
        ),
        entry(
            Mutant::SkipOnError,
            &[InOrder, CheckpointNotAhead],
            "the record that failed is lost",
        ),
        entry(
            Mutant::BatchDroppedOnError,
            &[InOrder, CheckpointNotAhead],
            "the rest of the batch is lost: what the Java KCL does",
        ),
        entry(
            Mutant::BatchDroppedOnPanic,
            &[InOrder, CheckpointNotAhead],
            "the batch is lost, or never checkpointed",
        ),
        entry(
            Mutant::EndBeforeLastRecords,
            &[CheckpointNotAhead],
            "the last records of a shard are lost",
        ),
        entry(
            Mutant::EndBeforeCheckpoints,
            &[CheckpointNotAhead],
            "with manual checkpoints, what a processor has collected at the end of a shard is lost",
        ),
        entry(
            Mutant::EndWithoutChildrenBelieved,
            &[CheckpointNotAhead, NoRecordLost, InOrder],
            "an open shard is never read again after one incomplete answer",
        ),
        entry(
            Mutant::NotFoundBelieved,
            &[CheckpointNotAhead, NoRecordLost, InOrder],
            "the rest of a closed shard is lost when a server does not find it for a moment",
        ),
        entry(
            Mutant::GapNotCounted,
            &[NoRecordLost],
            "retention takes records and nobody is told",
        ),
        entry(
            Mutant::ResumeAtCheckpoint,
            &[InOrder],
            "a record is processed again without need",
        ),
        entry(
            Mutant::ResumeTooLate,
            &[InOrder],
            "a record is lost with each new owner",
        ),
        entry(
            Mutant::RestOfAggregateDropped,
            &[InOrder, NoRecordLost],
            "the user records behind a checkpoint inside an aggregate are lost",
        ),
        entry(
            Mutant::NoParentWait,
            &[ParentsFirst],
            "the records of a key come in the wrong order after a split",
        ),
        entry(
            Mutant::OneParentIsEnough,
            &[ParentsFirst],
            "the same after a merge",
        ),
        entry(
            Mutant::ChildAtLatest,
            &[InOrder, NoRecordLost],
            "what was put before the child was opened is lost",
        ),
        entry(
            Mutant::ForgottenChild,
            &[LineageComplete, NoRecordLost],
            "half of the hash keys are read by nobody",
        ),
        entry(
            Mutant::FinishedShardLeasedAgain,
            &[CheckpointRises],
            "a finished shard is read again from its beginning",
        ),
        entry(
            Mutant::CleanupTooEarly,
            &[CleanupSafe],
            "a shard may be read again, or its child never",
        ),
        entry(
            Mutant::NoHandoffWait,
            &[SingleWriter],
            "the next owner begins while the last one works",
        ),
        entry(
            Mutant::NothingExpires,
            &[EveryLeaseOwned],
            "the shards of a dead worker stand still",
        ),
        entry(
            Mutant::ExpiryTooEarly,
            &[NoOverlap, NoStartAfterDeadline],
            "two healthy workers process one shard",
        ),
        entry(
            Mutant::ExpiryByWallClock,
            &[NoOverlap, NoStartAfterDeadline],
            "the same, wherever a clock is wrong",
        ),
        entry(
            Mutant::MovesWithoutEnd,
            &[BalanceSettles],
            "shards stop and start for ever",
        ),
        entry(
            Mutant::ImpatientChallenger,
            &[LeaderHarmless],
            "the office changes hands at every look",
        ),
        entry(
            Mutant::FailoverTimeForgotten,
            &[NoOverlap, NoStartAfterDeadline, SingleWriter],
            "two healthy workers process one shard during a deploy that shortens the failover time",
        ),
        entry(
            Mutant::IndexErrorNotBridged,
            &[EveryLeaseOwned],
            "the shards that a worker is given are read by no worker while the index is throttled",
        ),
    ]
}

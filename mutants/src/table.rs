use kcl_core::internals::Failpoint;
use kcl_core::invariant::Invariant::{
    BalanceSettles, CheckpointNotAhead, CheckpointRises, CleanupSafe, EveryLeaseOwned, InOrder, KeyOrder,
    LeaderHarmless, LineageComplete, NoOverlap, NoRecordLost, NoStartAfterDeadline, OrdersObeyed,
    ParentsFirst, SingleWriter, TokenRises,
};

use kcl_testkit::simulation::Scenario;

use crate::Entry;

/// Every bug, and the invariants that it should break.
pub fn table() -> Vec<Entry> {
    let entry = |mutant, breaks, harm| Entry {
        mutant,
        breaks,
        harm,
        scenario: Scenario::of,
    };
    let with_failing_records = |entry| Entry {
        scenario: Scenario::with_failing_records,
        ..entry
    };
    let with_handlers = |entry| Entry {
        scenario: Scenario::with_handlers,
        ..entry
    };
    let with_operators = |entry| Entry {
        scenario: Scenario::with_operators,
        ..entry
    };
    vec![
        entry(
            Failpoint::AssignmentWithoutCondition,
            &[SingleWriter],
            "two planners give one lease to two workers",
        ),
        entry(
            Failpoint::CheckpointWithoutCondition,
            &[SingleWriter],
            "a worker that lost the shard overwrites its successor's progress",
        ),
        entry(
            Failpoint::LockWithoutCondition,
            &[LeaderHarmless],
            "every worker leads",
        ),
        entry(
            Failpoint::RenewalWithoutCount,
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
            Failpoint::LostReplyIsSuccess,
            &[NoStartAfterDeadline, NoOverlap, TokenRises, SingleWriter],
            "a worker relies on a lease that it does not have",
        ),
        entry(
            Failpoint::RefusalIsSuccess,
            &[NoOverlap, NoStartAfterDeadline, TokenRises],
            "a worker goes on with a shard that is another's",
        ),
        entry(
            Failpoint::DeadlineIgnored,
            &[NoStartAfterDeadline],
            "two workers process a shard while one of them is cut off",
        ),
        entry(
            Failpoint::DeadlineFromReply,
            &[NoStartAfterDeadline],
            "the same, for as long as a reply was on its way",
        ),
        entry(
            Failpoint::TokenNotRaised,
            &[TokenRises],
            "a sink cannot tell an old owner from a new one",
        ),
        entry(
            Failpoint::CheckpointBeforeFinish,
            &[CheckpointNotAhead],
            "a crash loses what was in the processor's hands",
        ),
        entry(
            Failpoint::NoRetry,
            &[NoRecordLost],
            "a shard stands still after one failure",
        ),
        entry(
            Failpoint::SkipOnError,
            &[InOrder, CheckpointNotAhead],
            "the record that failed is lost",
        ),
        entry(
            Failpoint::BatchDroppedOnError,
            &[InOrder, CheckpointNotAhead],
            "the rest of the batch is lost: what the Java KCL does",
        ),
        entry(
            Failpoint::BatchDroppedOnPanic,
            &[InOrder, CheckpointNotAhead],
            "the batch is lost, or never checkpointed",
        ),
        entry(
            Failpoint::EndBeforeLastRecords,
            &[CheckpointNotAhead],
            "the last records of a shard are lost",
        ),
        entry(
            Failpoint::EndBeforeCheckpoints,
            &[CheckpointNotAhead],
            "with manual checkpoints, what a processor has collected at the end of a shard is lost",
        ),
        entry(
            Failpoint::EndWithoutChildrenBelieved,
            &[CheckpointNotAhead, NoRecordLost, InOrder],
            "an open shard is never read again after one incomplete answer",
        ),
        entry(
            Failpoint::NotFoundBelieved,
            &[CheckpointNotAhead, NoRecordLost, InOrder],
            "the rest of a closed shard is lost when a server does not find it for a moment",
        ),
        entry(
            Failpoint::GapNotCounted,
            &[NoRecordLost],
            "retention takes records and nobody is told",
        ),
        entry(
            Failpoint::ResumeAtCheckpoint,
            &[InOrder],
            "a record is processed again without need",
        ),
        entry(
            Failpoint::ResumeTooLate,
            &[InOrder],
            "a record is lost with each new owner",
        ),
        entry(
            Failpoint::RestOfAggregateDropped,
            &[InOrder, NoRecordLost],
            "the user records behind a checkpoint inside an aggregate are lost",
        ),
        entry(
            Failpoint::NoParentWait,
            &[ParentsFirst],
            "the records of a key come in the wrong order after a split",
        ),
        entry(
            Failpoint::OneParentIsEnough,
            &[ParentsFirst],
            "the same after a merge",
        ),
        entry(
            Failpoint::ChildAtLatest,
            &[InOrder, NoRecordLost],
            "what was put before the child was opened is lost",
        ),
        entry(
            Failpoint::ForgottenChild,
            &[LineageComplete, NoRecordLost],
            "half of the hash keys are read by nobody",
        ),
        entry(
            Failpoint::FinishedShardLeasedAgain,
            &[CheckpointRises],
            "a finished shard is read again from its beginning",
        ),
        entry(
            Failpoint::CleanupTooEarly,
            &[CleanupSafe],
            "a shard may be read again, or its child never",
        ),
        entry(
            Failpoint::NoHandoffWait,
            &[SingleWriter],
            "the next owner begins while the last one works",
        ),
        entry(
            Failpoint::NothingExpires,
            &[EveryLeaseOwned],
            "the shards of a dead worker stand still",
        ),
        entry(
            Failpoint::ExpiryTooEarly,
            &[NoOverlap, NoStartAfterDeadline],
            "two healthy workers process one shard",
        ),
        entry(
            Failpoint::ExpiryByWallClock,
            &[NoOverlap, NoStartAfterDeadline],
            "the same, wherever a clock is wrong",
        ),
        entry(
            Failpoint::MovesWithoutEnd,
            &[BalanceSettles],
            "shards stop and start for ever",
        ),
        entry(
            Failpoint::ImpatientChallenger,
            &[LeaderHarmless],
            "the leader changes at every look",
        ),
        entry(
            Failpoint::FailoverTimeForgotten,
            &[NoOverlap, NoStartAfterDeadline, SingleWriter],
            "two healthy workers process one shard during a deploy that shortens the failover time",
        ),
        entry(
            Failpoint::IndexErrorNotBridged,
            &[EveryLeaseOwned],
            "the shards that a worker is given are read by no worker while the index is throttled",
        ),
        with_failing_records(entry(
            Failpoint::PositionBeforeAcknowledgement,
            &[CheckpointNotAhead, InOrder],
            "a record that no sink has stored is lost",
        )),
        with_failing_records(entry(
            Failpoint::NeighbourSetAside,
            &[NoRecordLost],
            "a good record goes to the dead letters since its neighbour is bad",
        )),
        with_failing_records(entry(
            Failpoint::AttemptsShared,
            &[NoRecordLost],
            "a record has fewer attempts than the policy grants, since others failed before it",
        )),
        with_failing_records(entry(
            Failpoint::SkipWithoutPolicy,
            &[InOrder, CheckpointNotAhead],
            "a record that fails is lost, whatever the policy says",
        )),
        entry(
            Failpoint::GapHoldIgnored,
            &[NoRecordLost],
            "a shard goes on behind records that retention took, although it was to wait for an operator",
        ),
        with_handlers(entry(
            Failpoint::KeyOrderIgnored,
            &[KeyOrder],
            "a newer position of a truck is written before the older one",
        )),
        entry(
            Failpoint::AheadCountsUnfinished,
            &[InOrder, CheckpointNotAhead, NoRecordLost],
            "the next owner leaves out records that were in flight",
        ),
        entry(
            Failpoint::GatheredBatchDropped,
            &[CheckpointNotAhead, InOrder],
            "the records that were gathered when a worker gave a lease up are lost",
        ),
        with_operators(entry(
            Failpoint::PauseNotObeyed,
            &[OrdersObeyed, ParentsFirst],
            "a shard is read although its owner has answered that it is paused",
        )),
        with_operators(entry(
            Failpoint::OrderWithoutCondition,
            &[SingleWriter],
            "of two operators at once one overwrites the other's order",
        )),
        with_operators(entry(
            Failpoint::ResetWithoutFence,
            &[
                SingleWriter,
                OrdersObeyed,
                CheckpointNotAhead,
                NoRecordLost,
                TokenRises,
            ],
            "the owner goes on from where it was, and stores its progress over the reset",
        )),
        with_operators(entry(
            Failpoint::ResetTimeIgnored,
            &[OrdersObeyed],
            "a shard is read from another time than its reset said",
        )),
    ]
}

/// The bugs that no scenario shows, each with the test that finds it.
pub fn found_by_tests() -> Vec<(Failpoint, &'static str)> {
    vec![
        (
            Failpoint::AheadOfAnotherCheckpoint,
            "moved_checkpoint_makes_attribute_void",
        ),
        (
            Failpoint::OpenWindowCheckpointed,
            "window_counts_miss_records_of_open_windows",
        ),
    ]
}

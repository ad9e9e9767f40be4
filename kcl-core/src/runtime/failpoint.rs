//! Deliberate bugs, to see that whatever checks the invariants finds them.
//!
//! Nothing here is for users. Without the feature `mutants`, which no release enables, [`active`] is constant and the code is as
//! if this module were not there. With it, a bug is switched on for one thread and for one call.

/// A deliberate bug, made at the one decision that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failpoint {
    /// The store assigns a lease whatever the row's version is.
    AssignmentWithoutCondition,
    /// The store takes a checkpoint from anybody, whatever the row's version is.
    CheckpointWithoutCondition,
    /// The store gives the leader lock to whoever asks.
    LockWithoutCondition,
    /// A renewal does not move the counter.
    RenewalWithoutCount,
    /// A write whose reply was lost is taken for made.
    LostReplyIsSuccess,
    /// A refused write is taken for made: who lost a lease goes on with it.
    RefusalIsSuccess,
    /// A holder past its deadline goes on.
    DeadlineIgnored,
    /// A holder counts its time from the reply to a renewal, and not from its sending.
    DeadlineFromReply,
    /// An ownership has the token of the assignment, and not of its own first renewal.
    TokenNotRaised,
    /// The delivered position is stored, finished or not.
    CheckpointBeforeFinish,
    /// A batch that failed is never tried again.
    NoRetry,
    /// The record at which the processor failed is left out.
    SkipOnError,
    /// A batch in which the processor failed counts as finished.
    BatchDroppedOnError,
    /// After a panic the new processor begins with the next batch.
    BatchDroppedOnPanic,
    /// The end of a shard is stored when it is read, and not when its last records are processed.
    EndBeforeLastRecords,
    /// The end of a shard is stored although the user's code has not checkpointed its last records.
    EndBeforeCheckpoints,
    /// The end of a shard is believed although the answer shows no children.
    EndWithoutChildrenBelieved,
    /// A shard that the source does not find once counts as gone, whatever a listing shows.
    NotFoundBelieved,
    /// A gap is not counted where retention took the place at which reading goes on.
    GapNotCounted,
    /// A new owner begins at the record of the checkpoint, and not after it.
    ResumeAtCheckpoint,
    /// A new owner leaves out the record after the checkpoint.
    ResumeTooLate,
    /// A new owner takes the aggregate of the checkpoint for done, though only a part is.
    RestOfAggregateDropped,
    /// A child shard waits for no parent.
    NoParentWait,
    /// A child shard waits for one of its parents.
    OneParentIsEnough,
    /// A child shard begins at its newest record.
    ChildAtLatest,
    /// Of the children of a shard one is forgotten.
    ForgottenChild,
    /// A shard without a lease counts as never read, although its descendants have leases.
    FinishedShardLeasedAgain,
    /// A lease is deleted once its children have leases, started or not.
    CleanupTooEarly,
    /// The next owner of a lease begins before it is handed over.
    NoHandoffWait,
    /// An expired lease is given to nobody.
    NothingExpires,
    /// A lease counts as expired after a quarter of the failover time.
    ExpiryTooEarly,
    /// A lease counts as expired when the time that its owner wrote last is old.
    ExpiryByWallClock,
    /// Balance moves a lease also where that makes nothing better.
    MovesWithoutEnd,
    /// The leader lock is taken from a leader that keeps it.
    ImpatientChallenger,
    /// The failover time of an owner is forgotten together with its worker row.
    FailoverTimeForgotten,
    /// While the owner index answers with errors, a worker does not look for its leases by a scan.
    IndexErrorNotBridged,
    /// A record that is set aside is finished before the sink has acknowledged it.
    PositionBeforeAcknowledgement,
    /// Of a batch whose failing record is not known, the first is set aside.
    NeighbourSetAside,
    /// The attempts of all records count as one record's.
    AttemptsShared,
    /// A record that fails is skipped, whatever the policy says.
    SkipWithoutPolicy,
    /// A shard goes on behind a gap although the setting holds it there.
    GapHoldIgnored,
    /// A record is handled although one before it with its key is not finished.
    KeyOrderIgnored,
    /// A record that is in flight is stored as finished ahead of the checkpoint.
    AheadCountsUnfinished,
    /// Records that were finished ahead of one checkpoint count beside another.
    AheadOfAnotherCheckpoint,
    /// A batch that was gathered counts as finished at a drain, and is not offered.
    GatheredBatchDropped,
    /// A record of a window that is open counts as finished.
    OpenWindowCheckpointed,
    /// A shard that is paused by an order is read, and the order answered.
    PauseNotObeyed,
    /// An order is stored although another was stored since its operator looked.
    OrderWithoutCondition,
    /// A reset leaves the counter, so that the owner is not fenced.
    ResetWithoutFence,
    /// The time that a reset names is not where reading begins.
    ResetTimeIgnored,
}

impl Failpoint {
    /// Every bug there is.
    pub const ALL: [Self; 50] = [
        Self::AssignmentWithoutCondition,
        Self::CheckpointWithoutCondition,
        Self::LockWithoutCondition,
        Self::RenewalWithoutCount,
        Self::LostReplyIsSuccess,
        Self::RefusalIsSuccess,
        Self::DeadlineIgnored,
        Self::DeadlineFromReply,
        Self::TokenNotRaised,
        Self::CheckpointBeforeFinish,
        Self::NoRetry,
        Self::SkipOnError,
        Self::BatchDroppedOnError,
        Self::BatchDroppedOnPanic,
        Self::EndBeforeLastRecords,
        Self::EndBeforeCheckpoints,
        Self::EndWithoutChildrenBelieved,
        Self::NotFoundBelieved,
        Self::GapNotCounted,
        Self::ResumeAtCheckpoint,
        Self::ResumeTooLate,
        Self::RestOfAggregateDropped,
        Self::NoParentWait,
        Self::OneParentIsEnough,
        Self::ChildAtLatest,
        Self::ForgottenChild,
        Self::FinishedShardLeasedAgain,
        Self::CleanupTooEarly,
        Self::NoHandoffWait,
        Self::NothingExpires,
        Self::ExpiryTooEarly,
        Self::ExpiryByWallClock,
        Self::MovesWithoutEnd,
        Self::ImpatientChallenger,
        Self::FailoverTimeForgotten,
        Self::IndexErrorNotBridged,
        Self::PositionBeforeAcknowledgement,
        Self::NeighbourSetAside,
        Self::AttemptsShared,
        Self::SkipWithoutPolicy,
        Self::GapHoldIgnored,
        Self::KeyOrderIgnored,
        Self::AheadCountsUnfinished,
        Self::GatheredBatchDropped,
        Self::PauseNotObeyed,
        Self::OrderWithoutCondition,
        Self::ResetWithoutFence,
        Self::ResetTimeIgnored,
        Self::AheadOfAnotherCheckpoint,
        Self::OpenWindowCheckpointed,
    ];
}

/// Returns `true` if this thread runs with the named deliberate bug: one line at the decision that it breaks.
macro_rules! failpoint {
    ($bug:ident) => {
        $crate::runtime::failpoint::active($crate::runtime::failpoint::Failpoint::$bug)
    };
}
pub(crate) use failpoint;

/// Returns `true` if this thread runs with the bug: never without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub const fn active(_: Failpoint) -> bool {
    false
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Failpoint>> = const { std::cell::Cell::new(None) };
}

/// Returns `true` if this thread runs with the bug.
#[cfg(feature = "mutants")]
pub fn active(bug: Failpoint) -> bool {
    ACTIVE.get() == Some(bug)
}

/// Runs a function with the bug on this thread. A panic switches it off, too.
#[cfg(feature = "mutants")]
pub fn with<T>(bug: Failpoint, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Failpoint>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(Some(bug)));
    run()
}

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn bug_exists_on_one_thread_during_one_call() {
        let is_buggy = || active(Failpoint::NoParentWait);
        assert!(!is_buggy());
        with(Failpoint::NoParentWait, || {
            assert!(is_buggy() && !active(Failpoint::OneParentIsEnough));
            assert!(!std::thread::scope(|scope| scope.spawn(is_buggy).join().unwrap()));
        });
        let panicked = std::panic::catch_unwind(|| {
            with(Failpoint::NoParentWait, || {
                std::panic::resume_unwind(Box::new(()))
            })
        });
        assert!(panicked.is_err() && !is_buggy());
        let different: BTreeSet<_> = Failpoint::ALL.into_iter().collect();
        assert_eq!(different.len(), Failpoint::ALL.len());
    }
}

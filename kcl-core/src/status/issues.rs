//! The issues of a shard, judged by its status, and the summary of all shards of a worker.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::lifecycle::ConsumerState;
use crate::runtime::clock::Moment;
use crate::settings::Settings;
use crate::source::SourceErrorKind;
use crate::status::{LeaseStatus, WaitReason};
use crate::types::LeaseKey;

/// An issue that a shard may have. The lease is kept even so, except that of a shard which [stalls](Self::Stalled) again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HealthIssue {
    /// The lease could not be renewed in time: no batch starts until it is.
    Suspended,
    /// The consumer made no progress and named nothing that it waits for: the shard was opened again.
    Stalled,
    /// A user callback has not returned for [`ProcessingSettings::slow_callback`](crate::settings::ProcessingSettings::slow_callback).
    SlowCallback,
    /// The shard is held by a failure, and half of the time has passed after which retention takes records that it has not finished.
    /// [`LeaseStatus::expires`] says when.
    Expiring,
    /// A record cannot be read, such as an aggregate that makes no sense: the shard is held at it, and the error policy is asked.
    /// [`LeaseStatus::unreadable`] says which record it is.
    Unreadable,
    /// The processor fails: the shard is held.
    Failing,
    /// Retention took records that were not read, and the shard is held at that [gap](LeaseStatus::gap) until an operator
    /// [accepts](crate::FlowHandle::accept_gap) it.
    HeldAtGap,
    /// The shard cannot be read. A throttle is not meant: it shows in how far [behind](LeaseStatus::behind) the shard is.
    Unreachable,
    /// There was no room in the worker's [budget of bytes](crate::settings::MemorySettings::budget) for the [stall timeout](crate::settings::ReadingSettings::stall_timeout).
    Starved,
    /// The shard seems to have ended, and that cannot be confirmed: see [`LeaseStatus::end_in_doubt`]. Reading is tried on.
    EndInDoubt,
    /// Everything is processed, and the end of the shard could not be stored for the [stall timeout](crate::settings::ReadingSettings::stall_timeout).
    EndNotStored,
    /// With [manual checkpoints](crate::settings::CheckpointMode::Manual), records that the processor returned from have not been
    /// checkpointed by your code for [`CheckpointSettings::slow_after`](crate::settings::CheckpointSettings::slow_after). At the end of a shard its children wait for that.
    NotCheckpointed,
}

impl HealthIssue {
    /// Every concern, the most urgent first.
    pub const ALL: [Self; 12] = [
        Self::Suspended,
        Self::Stalled,
        Self::SlowCallback,
        Self::Expiring,
        Self::Unreadable,
        Self::Failing,
        Self::HeldAtGap,
        Self::Unreachable,
        Self::Starved,
        Self::EndInDoubt,
        Self::EndNotStored,
        Self::NotCheckpointed,
    ];
}

impl fmt::Display for HealthIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspended => "suspended",
            Self::Stalled => "stalled",
            Self::SlowCallback => "slow callback",
            Self::Expiring => "expiring",
            Self::Unreadable => "unreadable",
            Self::Failing => "failing",
            Self::HeldAtGap => "held at gap",
            Self::Unreachable => "unreachable",
            Self::Starved => "starved",
            Self::EndInDoubt => "end in doubt",
            Self::EndNotStored => "end not stored",
            Self::NotCheckpointed => "not checkpointed",
        })
    }
}

/// After what time a wait that is no fault in itself becomes a concern.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IssueThresholds {
    pub(crate) callback: Duration,
    pub(crate) stall: Duration,
    pub(crate) checkpoint: Duration,
}

impl IssueThresholds {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            callback: settings.processing.slow_callback,
            stall: settings.reading.stall_timeout,
            checkpoint: settings.checkpoints.slow_after,
        }
    }
}

impl LeaseStatus {
    /// Judges what is wrong at `now`.
    pub(crate) fn judge(&mut self, now: Moment, patience: IssueThresholds) {
        self.concern = self.concern_at(now, patience);
    }

    fn concern_at(&self, now: Moment, patience: IssueThresholds) -> Option<HealthIssue> {
        let waited = self.waited(now);
        let waits_for = |reason, limit| waited.is_some_and(|(why, age)| why == reason && age >= limit);
        let call = self.call_at(now);
        let is_unreachable = |kind: SourceErrorKind| kind != SourceErrorKind::Throttled;
        // The most urgent of those that hold.
        let holds = |concern: &HealthIssue| match concern {
            HealthIssue::Suspended => self.suspended.is_some(),
            HealthIssue::Stalled => self.stalls > 0,
            HealthIssue::SlowCallback => call.is_some_and(|(_, age)| age >= patience.callback),
            HealthIssue::Expiring => self.expires.is_some(),
            HealthIssue::Unreadable => self.unreadable.is_some(),
            HealthIssue::Failing => self.failures > 0,
            HealthIssue::HeldAtGap => waits_for(WaitReason::Gap, Duration::ZERO),
            HealthIssue::Unreachable => self.trouble.is_some_and(is_unreachable),
            HealthIssue::Starved => waits_for(WaitReason::ByteBudget, patience.stall),
            HealthIssue::EndInDoubt => self.end_in_doubt.is_some(),
            HealthIssue::EndNotStored => {
                self.state == ConsumerState::StoringEnd && waits_for(WaitReason::Draining, patience.stall)
            }
            HealthIssue::NotCheckpointed => self
                .unfinished_since
                .is_some_and(|since| now.saturating_since(since) >= patience.checkpoint),
        };
        HealthIssue::ALL.into_iter().find(holds)
    }

    /// The user callback that runs, and for how long.
    fn call_at(&self, now: Moment) -> Option<(&'static str, Duration)> {
        let (reason, age) = self.waited(now)?;
        let call = match (reason, self.state) {
            (WaitReason::Initialize, _) => "initialize",
            (WaitReason::Tick, _) => "tick",
            (WaitReason::Callback, ConsumerState::Ending) => "shard_ended",
            (WaitReason::Callback, _) => "process_records",
            (WaitReason::Draining, ConsumerState::Draining) => "shutdown_requested",
            (WaitReason::Draining, ConsumerState::Losing) => "lease_lost",
            _ => return None,
        };
        Some((call, age))
    }
}

/// The summary of the shards of a worker at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct HealthSummary {
    /// How many shards wait for what, and the longest such wait.
    pub(crate) waits: BTreeMap<WaitReason, (u32, Duration)>,
    /// How many shards have which concern.
    pub(crate) concerns: BTreeMap<HealthIssue, u32>,
    /// The shards that have one.
    pub(crate) by_lease: BTreeMap<LeaseKey, HealthIssue>,
    /// Of the shard that is worst read.
    pub(crate) behind: Duration,
    /// Of the shard that is worst processed.
    pub(crate) freshness: Duration,
    /// The freshness of each shard.
    pub(crate) lateness: BTreeMap<LeaseKey, Duration>,
    /// The records that were given to processors and are not finished.
    pub(crate) unfinished: u64,
    /// The callbacks that do not return.
    pub(crate) slow: BTreeMap<LeaseKey, SlowCall>,
    /// The shards whose records are not checkpointed: how many records, and for how long.
    pub(crate) unchecked: BTreeMap<LeaseKey, (u64, Duration)>,
}

/// A callback that does not return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlowCall {
    pub(crate) call: &'static str,
    pub(crate) age: Duration,
}

impl HealthSummary {
    /// Adds the status of one more shard, which was judged at `now`.
    pub(crate) fn add(&mut self, key: &LeaseKey, lease: &LeaseStatus, now: Moment) {
        if let Some((reason, age)) = lease.waited(now) {
            let (shards, longest) = self.waits.entry(reason).or_default();
            *shards += 1;
            *longest = age.max(*longest);
        }
        if let Some(concern) = lease.concern {
            *self.concerns.entry(concern).or_default() += 1;
            self.by_lease.insert(key.clone(), concern);
            if concern == HealthIssue::SlowCallback
                && let Some((call, age)) = lease.call_at(now)
            {
                self.slow.insert(key.clone(), SlowCall { call, age });
            }
            if concern == HealthIssue::NotCheckpointed
                && let Some(since) = lease.unfinished_since
            {
                let age = now.saturating_since(since);
                self.unchecked.insert(key.clone(), (lease.unfinished, age));
            }
        }
        self.unfinished = self.unfinished.saturating_add(lease.unfinished);
        self.behind = self.behind.max(lease.behind.at(now));
        let freshness = lease.freshness.at(now);
        self.freshness = self.freshness.max(freshness);
        self.lateness.insert(key.clone(), freshness);
    }
}

#[cfg(test)]
mod tests;

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
    /// A record cannot be read, such as an aggregate that makes no sense: the shard is held at it, and the error policy is asked.
    /// [`LeaseStatus::unreadable`] says which record it is.
    Unreadable,
    /// The processor fails: the shard is held.
    Failing,
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
    pub const ALL: [Self; 10] = [
        Self::Suspended,
        Self::Stalled,
        Self::SlowCallback,
        Self::Unreadable,
        Self::Failing,
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
            Self::Unreadable => "unreadable",
            Self::Failing => "failing",
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
            HealthIssue::Unreadable => self.unreadable.is_some(),
            HealthIssue::Failing => self.failures > 0,
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
mod tests {
    use super::*;
    use crate::processor::FencingToken;
    use crate::source::EndDoubt;
    use crate::status::Behind;
    use crate::types::{Position, ShardId};

    const PATIENCE: IssueThresholds = IssueThresholds {
        callback: Duration::from_secs(60),
        stall: Duration::from_secs(100),
        checkpoint: Duration::from_secs(300),
    };

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn running() -> LeaseStatus {
        LeaseStatus {
            state: ConsumerState::Running,
            waiting: None,
            token: FencingToken::new(1),
            suspended: None,
            checkpoint: Position::TrimHorizon,
            processed: None,
            records: 0,
            unfinished: 0,
            unfinished_since: None,
            behind: Behind::new(Duration::ZERO, at(0)),
            freshness: Behind::new(Duration::ZERO, at(0)),
            trouble: None,
            failures: 0,
            unreadable: None,
            stalls: 0,
            end_in_doubt: None,
            gap: None,
            concern: None,
        }
    }

    fn waiting(reason: WaitReason) -> LeaseStatus {
        LeaseStatus {
            waiting: Some((reason, at(0))),
            ..running()
        }
    }

    fn concern(lease: &LeaseStatus, now: u64) -> Option<HealthIssue> {
        lease.concern_at(at(now), PATIENCE)
    }

    #[test]
    fn callback_is_a_concern_once_too_slow() {
        for reason in [WaitReason::Callback, WaitReason::Initialize, WaitReason::Tick] {
            let lease = waiting(reason);
            assert_eq!(concern(&lease, 59), None);
            assert_eq!(concern(&lease, 60), Some(HealthIssue::SlowCallback));
        }
    }

    #[test]
    fn wanted_wait_is_never_a_concern() {
        for reason in [WaitReason::Paused, WaitReason::RateLimit, WaitReason::Parents] {
            assert_eq!(concern(&waiting(reason), 1_000_000), None);
        }
    }

    #[test]
    fn drain_is_slow_callback_only_in_users_code() {
        let draining = |state| LeaseStatus {
            state,
            ..waiting(WaitReason::Draining)
        };
        let slow = Some(HealthIssue::SlowCallback);
        assert_eq!(concern(&draining(ConsumerState::Draining), 200), slow);
        assert_eq!(concern(&draining(ConsumerState::Losing), 200), slow);
        assert_eq!(concern(&draining(ConsumerState::Leaving), 200), None);
        let stuck = Some(HealthIssue::EndNotStored);
        assert_eq!(concern(&draining(ConsumerState::StoringEnd), 200), stuck);
        assert_eq!(concern(&draining(ConsumerState::StoringEnd), 99), None);
    }

    #[test]
    fn a_throttle_alone_is_no_concern() {
        let trouble = |kind| LeaseStatus {
            trouble: Some(kind),
            ..running()
        };
        assert_eq!(concern(&trouble(SourceErrorKind::Throttled), 1000), None);
        let unreachable = Some(HealthIssue::Unreachable);
        assert_eq!(concern(&trouble(SourceErrorKind::Unavailable), 0), unreachable);
    }

    #[test]
    fn records_without_checkpoint_become_a_concern() {
        let lease = LeaseStatus {
            unfinished: 7,
            unfinished_since: Some(at(10)),
            ..running()
        };
        assert_eq!(concern(&lease, 309), None);
        assert_eq!(concern(&lease, 310), Some(HealthIssue::NotCheckpointed));
    }

    #[test]
    fn an_end_in_doubt_is_a_concern() {
        for doubt in [EndDoubt::ListedOpen, EndDoubt::NoEnd, EndDoubt::NotListed] {
            let lease = LeaseStatus {
                end_in_doubt: Some(doubt),
                ..running()
            };
            assert_eq!(concern(&lease, 0), Some(HealthIssue::EndInDoubt));
        }
    }

    #[test]
    fn the_most_urgent_concern_is_told() {
        let mut lease = waiting(WaitReason::ByteBudget);
        assert_eq!(concern(&lease, 99), None);
        assert_eq!(concern(&lease, 100), Some(HealthIssue::Starved));
        lease.failures = 1;
        assert_eq!(concern(&lease, 100), Some(HealthIssue::Failing));
        lease.stalls = 1;
        assert_eq!(concern(&lease, 100), Some(HealthIssue::Stalled));
        lease.suspended = Some(at(100));
        assert_eq!(concern(&lease, 100), Some(HealthIssue::Suspended));
    }

    #[test]
    fn survey_counts_waits_keeping_longest_and_oldest() {
        let mut survey = HealthSummary::default();
        let key = |n: u32| {
            let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
            LeaseKey::single_stream(&shard)
        };
        let old = LeaseStatus {
            freshness: Behind::new(Duration::from_secs(7), at(0)),
            waiting: Some((WaitReason::Callback, at(30))),
            ..running()
        };
        for (n, mut lease) in [waiting(WaitReason::Callback), old, running()]
            .into_iter()
            .enumerate()
        {
            lease.judge(at(70), PATIENCE);
            survey.add(&key(n.try_into().unwrap()), &lease, at(70));
        }
        let seconds = Duration::from_secs;
        assert_eq!(
            survey.waits,
            BTreeMap::from([(WaitReason::Callback, (2, seconds(70)))])
        );
        assert_eq!(survey.concerns, BTreeMap::from([(HealthIssue::SlowCallback, 1)]));
        assert_eq!((survey.behind, survey.freshness), (seconds(70), seconds(77)));
        let call = SlowCall {
            call: "process_records",
            age: seconds(70),
        };
        assert_eq!(survey.slow, BTreeMap::from([(key(0), call)]));
    }
}

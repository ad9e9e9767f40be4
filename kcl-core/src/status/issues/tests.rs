use super::*;
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
    LeaseStatus::unremarkable(ConsumerState::Running, Position::TrimHorizon, at(0))
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

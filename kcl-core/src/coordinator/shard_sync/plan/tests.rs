mod histories;

use super::*;
use crate::coordinator::shard_sync::cleanup::plan_cleanup;
use crate::lease::shard_end_plan::{ChildPlan, ShardFamily, children_from_listing, plan_children};
use crate::source::ShardFilter;
use crate::source::shard_graph::testing::{History, any_history, id, identity, shard};
use crate::types::{InitialPosition, StreamKey, Timestamp};
use crate::types::{RecordPosition, SequenceNumber};
use proptest::prelude::*;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const PIN: Timestamp = Timestamp::from_millis(1_699_999_999_000);

fn lease(n: u128, checkpoint: Position) -> Lease {
    let mut lease = Lease::unowned(id(n), checkpoint);
    lease.hash_range = Some(HashKeyRange::WHOLE);
    lease
}

fn plan(shards: &[Shard], leases: &[Lease], initial: InitialPosition) -> SyncPlan {
    let start = StartPolicy::resolve(initial, leases, NOW);
    plan_sync(
        &ShardGraph::new(shards.iter().cloned()),
        leases,
        &start,
        &LeaseKeyScheme::SingleStream,
        &identity(),
    )
}

fn created(plan: &SyncPlan) -> Vec<(ShardId, Position, Option<Timestamp>)> {
    let facts = |creation: &Creation| {
        let lease = &creation.lease;
        (lease.shard.clone(), lease.checkpoint.clone(), lease.pinned_start)
    };
    plan.creates.iter().map(facts).collect()
}

/// 0+1→6, 2+3→7, 6+7→8, 4 goes on, 5→9,10.
fn worked_example() -> Vec<Shard> {
    let mut shards: Vec<Shard> = (0..6).map(|n| shard(n, &[], 100)).collect();
    shards.push(shard(6, &[0, 1], 200));
    shards.push(shard(7, &[2, 3], 200));
    shards.push(shard(8, &[6, 7], 300));
    shards.push(shard(9, &[5], 200));
    shards.push(shard(10, &[5], 200));
    for shard in &mut shards {
        shard.closed = ![4, 8, 9, 10].map(id).contains(&shard.id);
    }
    shards
}

fn worked_leases(pinned: Option<Timestamp>) -> Vec<Lease> {
    [4, 5, 7]
        .into_iter()
        .map(|n| {
            let mut lease = lease(n, Position::TrimHorizon);
            lease.pinned_start = pinned;
            lease
        })
        .collect()
}

/// The worked example of the Java KCL's `HierarchicalShardSyncer`, leases on 4, 5 and 7.
///
/// TRIM_HORIZON and AT_TIMESTAMP agree with Java: 0 and 1 are read. For LATEST Java creates 6 at a new LATEST and skips what is in 0, 1
/// and the unread part of 6. Here the listing decides: if 0 and 1 were open at the pinned time they are read from it;
/// if they had ended before, they are not listed, and 6 is read from it.
#[test]
fn the_worked_example_of_the_java_kcl() {
    let shards = worked_example();
    let at_start = |n, checkpoint: &Position, pinned| (id(n), checkpoint.clone(), pinned);

    let both = created(&plan(&shards, &worked_leases(None), InitialPosition::TrimHorizon));
    assert_eq!(both, [0, 1].map(|n| at_start(n, &Position::TrimHorizon, None)));

    let at = Timestamp::from_millis(5);
    let both = created(&plan(
        &shards,
        &worked_leases(Some(at)),
        InitialPosition::AtTimestamp(at),
    ));
    assert_eq!(
        both,
        [0, 1].map(|n| at_start(n, &Position::AtTimestamp, Some(at)))
    );

    let both = created(&plan(&shards, &worked_leases(Some(PIN)), InitialPosition::Latest));
    assert_eq!(both, [0, 1].map(|n| at_start(n, &Position::Latest, Some(PIN))));

    let open_at_the_pin: Vec<_> = shards.into_iter().filter(|shard| shard.id >= id(4)).collect();
    let six = created(&plan(
        &open_at_the_pin,
        &worked_leases(Some(PIN)),
        InitialPosition::Latest,
    ));
    assert_eq!(six, [at_start(6, &Position::Latest, Some(PIN))]);
}

#[test]
fn first_sync_at_latest_pins_time_of_service() {
    // 1 closed between the pin and the listing: it is listed, it is read, and its children wait for its end.
    let shards = [shard(1, &[0], 10), shard(2, &[1], 20), shard(3, &[], 10)];
    let plan = plan(&shards, &[], InitialPosition::Latest);
    let expected = [1, 3].map(|n| (id(n), Position::Latest, Some(PIN)));
    assert_eq!(created(&plan), expected);
    assert!(
        plan.creates
            .iter()
            .all(|creation| creation.reason == CreateReason::FirstSync)
    );
    let lease = &plan.creates[0].lease;
    assert_eq!((&lease.owner, lease.counter), (&None, 0));
    assert_eq!(lease.parents, BTreeSet::from([id(0)]));
    assert_eq!(lease.identity, Some(identity()));
}

#[test]
fn first_sync_asks_for_shards_since_the_start() {
    let filter = |initial| StartPolicy::resolve(initial, [], NOW).filter(NOW);
    assert_eq!(filter(InitialPosition::Latest), ShardFilter::FromTimestamp(PIN));
    assert_eq!(filter(InitialPosition::TrimHorizon), ShardFilter::All);
    assert_eq!(
        filter(InitialPosition::AtTimestamp(PIN)),
        ShardFilter::FromTimestamp(PIN)
    );
    let tomorrow = InitialPosition::AtTimestamp(NOW.plus(Duration::from_secs(86_400)));
    assert_eq!(filter(tomorrow), ShardFilter::FromTimestamp(NOW));
}

#[test]
fn later_sync_starts_at_earliest_pinned_time() {
    let mut leases = worked_leases(None);
    leases[0].pinned_start = Some(NOW);
    leases[2].pinned_start = Some(PIN);
    let settled = |initial, leases: &[Lease]| {
        let start = StartPolicy::resolve(initial, leases, NOW.plus(Duration::from_secs(99)));
        (start.checkpoint(), start.pinned())
    };
    assert_eq!(
        settled(InitialPosition::Latest, &leases),
        (Position::Latest, Some(PIN))
    );
    assert_eq!(
        settled(InitialPosition::TrimHorizon, &leases),
        (Position::AtTimestamp, Some(PIN))
    );
    assert_eq!(
        settled(InitialPosition::Latest, &worked_leases(None)),
        (Position::TrimHorizon, None)
    );
}

#[test]
fn cleaned_up_shard_stays_but_child_is_repaired() {
    // 1 split into 2 and 3 and was cleaned up; then the lease of 3 was lost.
    let shards = [shard(1, &[], 10), shard(2, &[1], 20), shard(3, &[1], 20)];
    let plan = plan(
        &shards,
        &[lease(2, Position::TrimHorizon)],
        InitialPosition::Latest,
    );
    assert_eq!(created(&plan), [(id(3), Position::TrimHorizon, None)]);
    assert_eq!(plan.creates[0].reason, CreateReason::ChildWithoutLease);
}

#[test]
fn child_that_ended_parent_never_created_is_repaired() {
    let shards = [shard(1, &[], 10), shard(2, &[1], 20)];
    assert!(
        created(&plan(
            &shards,
            &[lease(1, Position::Latest)],
            InitialPosition::Latest
        ))
        .is_empty()
    );
    let repaired = plan(&shards, &[lease(1, Position::ShardEnd)], InitialPosition::Latest);
    assert_eq!(created(&repaired), [(id(2), Position::TrimHorizon, None)]);
}

#[test]
fn child_waits_for_no_parent_that_retention_took() {
    let plan = plan(
        &[shard(2, &[1], 20)],
        &[lease(1, Position::Latest)],
        InitialPosition::Latest,
    );
    assert_eq!(created(&plan), [(id(2), Position::TrimHorizon, None)]);
    let key = LeaseKey::single_stream(&id(1));
    assert_eq!(plan.anomalies, [Anomaly::ShardGone { key }]);
}

#[test]
fn leased_unlisted_shard_vouches_for_its_parents() {
    let mut child = lease(2, Position::TrimHorizon);
    child.parents = BTreeSet::from([id(1)]);
    assert!(created(&plan(&[shard(1, &[], 10)], &[child], InitialPosition::Latest)).is_empty());
}

/// As kinesis-mock lists a merge: with the starting sequence number of one of the parents, below that of the other.
#[test]
fn merged_shard_vouches_for_both_cleaned_up_parents() {
    let mut child = shard(6, &[4, 5], 10);
    child.closed = false;
    let shards = [shard(4, &[], 10), shard(5, &[], 11), child];
    let mut leases = [4, 5].map(|n| lease(n, Position::ShardEnd)).to_vec();
    leases
        .iter_mut()
        .for_each(|parent| parent.children = [id(6)].into());
    let done = RecordPosition::plain(SequenceNumber::from(20));
    leases.push(lease(6, Position::Record(done)));
    let deleted = plan_cleanup(&ShardGraph::new(shards.clone()), true, &leases);
    assert_eq!(deleted.len(), 2);
    let plan = plan(&shards, &leases[2..], InitialPosition::TrimHorizon);
    assert_eq!(plan, SyncPlan::default(), "what was read is not read again");
}

#[test]
fn open_parent_and_circle_are_told_without_skips() {
    let mut open = shard(1, &[1], 10);
    open.closed = false;
    let plan = plan(&[open, shard(2, &[1], 20)], &[], InitialPosition::TrimHorizon);
    assert_eq!(created(&plan), [(id(1), Position::TrimHorizon, None)]);
    let (child, parent) = (id(1), id(1));
    let ignored = Anomaly::IgnoredParentLink { child, parent };
    let (child, parent) = (id(2), id(1));
    assert_eq!(plan.anomalies, [ignored, Anomaly::OpenParent { child, parent }]);
}

#[test]
fn many_streams_have_the_stream_in_the_key() {
    let stream = StreamKey::new("111122223333:trucks:1000").unwrap();
    let start = StartPolicy::resolve(InitialPosition::TrimHorizon, [], NOW);
    let graph = ShardGraph::new([shard(1, &[], 10)]);
    let plan = plan_sync(
        &graph,
        &[],
        &start,
        &LeaseKeyScheme::MultiStream(stream.clone()),
        &identity(),
    );
    let lease = &plan.creates[0].lease;
    assert_eq!(
        lease.key.as_str(),
        "111122223333:trucks:1000:shardId-000000000001"
    );
    assert_eq!(lease.stream, Some(stream));
}

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

/// A stream, its lease table, and what an all-knowing observer remembers.
#[derive(Debug)]
struct World {
    history: History,
    initial: InitialPosition,
    leases: BTreeMap<ShardId, Lease>,
    ever_leased: BTreeSet<ShardId>,
    /// The shards that had ended before the start.
    before_start: BTreeSet<ShardId>,
    read_to_the_end: BTreeSet<ShardId>,
    /// The shards that retention took before they were read to their end.
    gone: BTreeSet<ShardId>,
}

#[derive(Debug, Clone)]
enum Step {
    Split(usize),
    Merge(usize),
    Trim(usize),
    /// The worker of a lease reads on; at the end of its shard it creates this many children before it crashes, if it does.
    Read {
        pick: usize,
        crash_after: Option<usize>,
    },
    /// A cleanup: scans, then others read and the stream moves, then it lists, plans, and deletes what these bits name.
    Cleanup {
        meanwhile: Vec<Step>,
        deletes: u16,
    },
    /// A sync: pins and scans, then the stream moves, then it lists, plans, and creates this many leases.
    Sync {
        meanwhile: Vec<Step>,
        creates: usize,
    },
}

fn any_change_of_the_stream() -> impl Strategy<Value = Step> + Clone {
    prop_oneof![
        any::<usize>().prop_map(Step::Split),
        any::<usize>().prop_map(Step::Merge),
        any::<usize>().prop_map(Step::Trim),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let read = (any::<usize>(), proptest::option::weighted(0.2, 0_usize..2))
        .prop_map(|(pick, crash_after)| Step::Read { pick, crash_after });
    let others = prop_oneof![any_change_of_the_stream(), read.clone()];
    let cleanup = (proptest::collection::vec(others, 0..4), any::<u16>());
    let sync = (
        proptest::collection::vec(any_change_of_the_stream(), 0..3),
        prop_oneof![0_usize..3, Just(99)],
    );
    prop_oneof![
        3 => any_change_of_the_stream(),
        6 => read,
        3 => cleanup.prop_map(|(meanwhile, deletes)| Step::Cleanup { meanwhile, deletes }),
        2 => sync.prop_map(|(meanwhile, creates)| Step::Sync { meanwhile, creates }),
    ]
}

fn pick<T>(mut from: Vec<T>, at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
}

impl World {
    fn new(shards: u128, initial: InitialPosition) -> Self {
        Self {
            history: History::new(shards),
            initial,
            leases: BTreeMap::new(),
            ever_leased: BTreeSet::new(),
            before_start: BTreeSet::new(),
            read_to_the_end: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    fn full_graph(&self) -> ShardGraph {
        ShardGraph::new(self.history.shards.iter().cloned())
    }

    /// The shards that the service lists: everything, or what was open at the pinned start and came after it.
    fn listing(&self, filter: ShardFilter) -> ShardGraph {
        let shards = self.history.shards.iter();
        let is_wanted = |shard: &&Shard| filter == ShardFilter::All || !self.before_start.contains(&shard.id);
        ShardGraph::new(shards.filter(is_wanted).cloned())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Split(at) => self.history.split(*at),
            Step::Merge(at) => self.history.merge(*at),
            Step::Trim(at) => self.history.trim(*at),
            Step::Read { pick, crash_after } => self.read(*pick, *crash_after),
            Step::Cleanup { meanwhile, deletes } => self.cleanup(meanwhile, *deletes),
            Step::Sync { meanwhile, creates } => {
                self.sync(meanwhile, *creates);
            }
        }
    }

    fn create(&mut self, lease: &Lease) {
        assert!(
            !self.before_start.contains(&lease.shard),
            "{} had ended before the start",
            lease.shard
        );
        assert!(
            self.ever_leased.insert(lease.shard.clone()),
            "{} is created again",
            lease.shard
        );
        self.leases.insert(lease.shard.clone(), lease.clone());
    }

    fn sync(&mut self, meanwhile: &[Step], creates: usize) -> usize {
        let scanned: Vec<Lease> = self.leases.values().cloned().collect();
        if scanned.is_empty() && self.initial == InitialPosition::Latest {
            let closed = self.history.shards.iter().filter(|shard| shard.closed);
            self.before_start = closed.map(|shard| shard.id.clone()).collect();
        }
        let start = StartPolicy::resolve(self.initial, &scanned, NOW);
        for step in meanwhile {
            self.step(step);
        }
        let graph = self.listing(start.filter(NOW));
        let plan = plan_sync(
            &graph,
            &scanned,
            &start,
            &LeaseKeyScheme::SingleStream,
            &identity(),
        );
        let mut leased_by_then = self.ever_leased.clone();
        for Creation { lease, .. } in &plan.creates {
            let ancestors = graph.ancestors(&lease.shard);
            assert!(
                ancestors.is_subset(&leased_by_then),
                "{} comes before its ancestors",
                lease.shard
            );
            leased_by_then.insert(lease.shard.clone());
            let is_child = lease
                .parents
                .iter()
                .any(|parent| self.ever_leased.contains(parent));
            if is_child {
                assert_eq!(lease.checkpoint, Position::TrimHorizon);
            }
            assert_eq!(lease.pinned_start, start.pinned());
        }
        for Creation { lease, .. } in plan.creates.iter().take(creates) {
            self.create(lease);
        }
        let done = plan.creates.len().min(creates);
        if done == plan.creates.len() {
            let now: Vec<Lease> = self.leases.values().cloned().collect();
            let again = plan_sync(&graph, &now, &start, &LeaseKeyScheme::SingleStream, &identity());
            assert_eq!(again.creates, [], "planning again on the planned state");
            self.assert_nothing_is_lost(&graph);
        }
        done
    }

    /// Every listed shard is read, or leased, or comes after one whose worker will create its lease.
    fn assert_nothing_is_lost(&self, graph: &ShardGraph) {
        let is_live = |shard: &ShardId| self.leases.get(shard).is_some_and(|lease| !lease.is_ended());
        for shard in graph.in_lineage_order() {
            let is_safe = self.before_start.contains(&shard.id)
                || self.read_to_the_end.contains(&shard.id)
                || is_live(&shard.id)
                || graph.ancestors(&shard.id).iter().any(is_live);
            assert!(is_safe, "{} will never be read", shard.id);
        }
    }

    fn read(&mut self, at: usize, crash_after: Option<usize>) {
        let graph = self.full_graph();
        let is_waiting = |lease: &&Lease| {
            let has_unread_parent =
                |parent: &ShardId| self.leases.get(parent).is_some_and(|parent| !parent.is_ended());
            lease.parents.iter().any(has_unread_parent)
        };
        let readable = self
            .leases
            .values()
            .filter(|lease| !lease.is_ended() && graph.contains(&lease.shard) && !is_waiting(lease));
        let gone = self
            .leases
            .values()
            .find(|lease| !lease.is_ended() && !graph.contains(&lease.shard));
        if let Some(mut lease) = gone.cloned() {
            let children = graph
                .in_lineage_order()
                .filter(|child| child.parents.contains(&lease.shard));
            lease.children = children.map(|child| child.id.clone()).collect();
            lease.checkpoint = Position::ShardEnd;
            self.gone.insert(lease.shard.clone());
            self.leases.insert(lease.shard.clone(), lease);
            return;
        }
        let Some(mut lease) = pick(readable.cloned().collect(), at) else {
            return;
        };
        let is_first_read = lease.checkpoint.is_initial();
        lease.checkpoint = Position::Record(RecordPosition::plain(SequenceNumber::from(1)));
        self.leases.insert(lease.shard.clone(), lease.clone());
        if is_first_read || !graph.get(&lease.shard).unwrap().closed {
            return;
        }
        let end = children_from_listing(&graph, &lease.shard);
        let leased: BTreeSet<_> = self.leases.keys().cloned().collect();
        let parents = end.children.iter().flat_map(|child| child.parents.clone());
        let family = ShardFamily {
            leased: &leased,
            unlisted: &parents.filter(|parent| !graph.contains(parent)).collect(),
        };
        match plan_children(&lease, &end, family, |_| None).unwrap() {
            ChildPlan::Create { leases, children } => {
                for child in leases.iter().take(crash_after.unwrap_or(usize::MAX)) {
                    self.create(child);
                }
                if crash_after.is_none() {
                    self.read_to_the_end.insert(lease.shard.clone());
                    lease.checkpoint = Position::ShardEnd;
                    lease.children = children;
                    self.leases.insert(lease.shard.clone(), lease);
                }
            }
            ChildPlan::AwaitParents(_) => {}
            ChildPlan::LookUp => panic!("a closed shard has children"),
        }
    }

    fn cleanup(&mut self, meanwhile: &[Step], deletes: u16) {
        let scanned: Vec<Lease> = self.leases.values().cloned().collect();
        for step in meanwhile {
            self.step(step);
        }
        for (n, deletion) in plan_cleanup(&self.full_graph(), true, &scanned)
            .iter()
            .enumerate()
        {
            let row = |key: &LeaseKey| self.leases.values().find(|lease| lease.key == *key);
            let is_confirmed = deletion
                .witnesses
                .iter()
                .all(|witness| witness.is_confirmed_by(row(&witness.key)));
            if deletes & (1 << (n % 16)) != 0 && is_confirmed {
                let shard = row(&deletion.key).unwrap().shard.clone();
                assert!(
                    self.read_to_the_end.contains(&shard) || self.gone.contains(&shard),
                    "{shard} is not read to its end"
                );
                self.leases.remove(&shard);
            }
        }
    }

    /// The stream rests, the fleet goes on.
    fn settle_down(&mut self) {
        for _ in 0..60 {
            self.sync(&[], usize::MAX);
            for at in 0..self.leases.len() {
                self.read(at, None);
            }
            self.cleanup(&[], u16::MAX);
        }
        let listed_now = self.listing(ShardFilter::All);
        let since_start = listed_now
            .in_lineage_order()
            .filter(|shard| !self.before_start.contains(&shard.id));
        for shard in since_start {
            let is_read = self.read_to_the_end.contains(&shard.id);
            let is_being_read = self
                .leases
                .get(&shard.id)
                .is_some_and(|lease| matches!(lease.checkpoint, Position::Record(_)));
            assert_eq!(
                (is_read, is_being_read),
                (shard.closed, !shard.closed),
                "{}",
                shard.id
            );
        }
        let left: BTreeSet<&ShardId> = self.leases.keys().collect();
        let open = self.history.shards.iter().filter(|shard| !shard.closed);
        assert_eq!(
            left,
            open.map(|shard| &shard.id).collect(),
            "the table is digested"
        );
        assert_eq!(
            lease_cover(&listed_now, self.leases.values()),
            Cover {
                holes: vec![],
                overlaps: false
            }
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_reshard_loses_or_rereads_anything(
        shards in 1_u128..5,
        initial in prop_oneof![
            Just(InitialPosition::TrimHorizon),
            Just(InitialPosition::Latest),
            Just(InitialPosition::AtTimestamp(PIN)),
        ],
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        let mut world = World::new(shards, initial);
        for step in &steps {
            world.step(step);
        }
        world.settle_down();
    }

    #[test]
    fn plan_is_independent_of_order_of_input(
        (shards, shuffled) in any_history().prop_flat_map(|shards| (Just(shards.clone()), Just(shards).prop_shuffle())),
        leased in any::<u16>(),
    ) {
        let leases: Vec<_> = shards
            .iter()
            .enumerate()
            .filter(|(n, _)| leased & (1 << (n % 16)) != 0)
            .map(|(_, shard)| Lease::unowned(shard.id.clone(), Position::TrimHorizon))
            .collect();
        let reversed: Vec<_> = leases.iter().rev().cloned().collect();
        let initial = InitialPosition::TrimHorizon;
        prop_assert_eq!(plan(&shards, &leases, initial), plan(&shuffled, &reversed, initial));
    }

    #[test]
    fn any_table_is_repaired_to_full_coverage(shards in any_history(), leased in any::<u16>()) {
        // Whatever rows were lost: each plan is followed by none, and ends and repairs together cover the keys.
        let mut leases: Vec<Lease> = vec![];
        for (n, shard) in shards.iter().enumerate() {
            if leased & (1 << (n % 16)) != 0 {
                let mut lease = Lease::unowned(shard.id.clone(), Position::TrimHorizon);
                lease.hash_range = Some(shard.hash_range);
                leases.push(lease);
            }
        }
        let graph = ShardGraph::new(shards.iter().cloned());
        for _ in 0..=shards.len() {
            let creates = plan(&shards, &leases, InitialPosition::TrimHorizon).creates;
            leases.extend(creates.into_iter().map(|creation| creation.lease));
            prop_assert_eq!(plan(&shards, &leases, InitialPosition::TrimHorizon).creates, []);
            for lease in &mut leases {
                if graph.get(&lease.shard).unwrap().closed {
                    lease.checkpoint = Position::ShardEnd;
                }
            }
        }
        let cover = lease_cover(&graph, &leases);
        prop_assert_eq!(cover.holes, []);
    }
}

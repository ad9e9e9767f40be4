//! The plan on any history of a stream, with crashes of workers in between.

use super::*;

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

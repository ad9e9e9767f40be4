//! Random fleets, and what becomes of them when a plan is performed.

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::internals::{AssignmentPlan, Candidate, Hold, LeaseView, Reason, Snapshot};
use kcl_core::lease_store::{Lease, apply};
use kcl_core::settings::Strategy as Spread;
use kcl_core::types::{Incarnation, LeaseKey, Position, ShardId, WorkerId};
use proptest::prelude::*;

pub(crate) fn worker(n: usize) -> WorkerId {
    WorkerId::new(format!("w{n:02}")).unwrap()
}

pub(crate) fn candidate(n: usize) -> Candidate {
    Candidate {
        id: worker(n),
        max_leases: None,
        max_throughput: None,
        leaving: false,
        proven: true,
    }
}

pub(crate) fn row(n: usize, owner: Option<usize>, next: Option<usize>) -> Lease {
    let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
    let mut row = Lease::unowned(shard, Position::TrimHorizon);
    row.counter = n as u64;
    row.owner = next.or(owner).map(worker);
    row.checkpoint_owner = next.and(owner).map(worker);
    row
}

pub(crate) fn view(row: &Lease, hold: Hold) -> LeaseView {
    LeaseView {
        key: row.key.clone(),
        version: row.version(),
        hold,
        ended: false,
        readable: true,
        named_since: None,
        arriving: false,
        throughput: None,
        left_alone: false,
        barred: BTreeSet::new(),
        pinned: None,
    }
}

/// A fleet: the rows, and what the planner sees of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) rows: BTreeMap<LeaseKey, Lease>,
    pub(crate) snapshot: Snapshot,
}

impl World {
    pub(crate) fn add(&mut self, row: Lease, view: LeaseView) {
        self.snapshot.leases.push(view);
        self.rows.insert(row.key.clone(), row);
    }

    /// Performs the plan. An assigned lease is held and, until its owner renews it, left alone.
    pub(crate) fn perform(&self, plan: &AssignmentPlan) -> World {
        let mut world = self.clone();
        let incarnation = Incarnation::from_random_bytes([9; 16]);
        for step in &plan.moves {
            let row = world.rows.get_mut(&step.key).unwrap();
            assert!(step.change.fits(&step.expect), "{step:?}");
            assert!(step.expect.holds(Some(row)), "{step:?} on {row:?}");
            *row = apply(row, &step.change, incarnation);
            let mut leases = world.snapshot.leases.iter_mut();
            let lease = leases.find(|lease| lease.key == step.key).unwrap();
            lease.version = row.version();
            lease.hold = Hold::Held;
            lease.left_alone = true;
        }
        world
    }

    /// How many readable live leases each candidate has, by where they go.
    pub(crate) fn loads(&self) -> BTreeMap<WorkerId, usize> {
        let workers = self.snapshot.workers.iter();
        let mut loads: BTreeMap<_, _> = workers.map(|worker| (worker.id.clone(), 0)).collect();
        let held = self
            .snapshot
            .leases
            .iter()
            .filter(|lease| lease.hold == Hold::Held);
        for lease in held.filter(|lease| lease.readable && !lease.ended) {
            if let Some(load) = lease
                .version
                .owner
                .as_ref()
                .and_then(|owner| loads.get_mut(owner))
            {
                *load += 1;
            }
        }
        loads
    }

    /// Time goes by: every handoff ends, and every owner has renewed.
    pub(crate) fn settle(&mut self) {
        for lease in &mut self.snapshot.leases {
            lease.version.checkpoint_owner = None;
            lease.left_alone = false;
        }
        self.rows.values_mut().for_each(|row| row.checkpoint_owner = None);
    }

    pub(crate) fn lease(&self, key: &LeaseKey) -> &LeaseView {
        self.snapshot
            .leases
            .iter()
            .find(|lease| lease.key == *key)
            .unwrap()
    }

    pub(crate) fn receivers(&self) -> impl Iterator<Item = &Candidate> + Clone {
        self.snapshot.workers.iter().filter(|worker| !worker.leaving)
    }

    pub(crate) fn is_leaving(&self, owner: Option<&WorkerId>) -> bool {
        let mut workers = self.snapshot.workers.iter();
        workers.any(|worker| worker.leaving && Some(&worker.id) == owner)
    }
}

/// Any fleet at all: dead owners, handoffs, limits, bars, leaving workers.
pub(crate) fn any_world() -> impl Strategy<Value = World> {
    let facts = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
    );
    let bars = prop_oneof![
        3 => Just(BTreeSet::new()),
        1 => prop::collection::btree_set(0_usize..7, 0..4),
    ];
    let lease = (
        prop::option::weighted(0.7, 0_usize..9),
        prop::option::weighted(0.15, 0_usize..9),
        facts,
        bars,
        any_throughput(),
    );
    let candidate = (
        prop::option::weighted(0.3, 0_u32..8),
        prop::option::weighted(0.2, 0_u32..5000),
        prop::bool::weighted(0.1),
        any::<bool>(),
    );
    let leases = prop::collection::vec(lease, 0..40);
    (
        leases,
        prop::collection::vec(candidate, 0..7),
        0_usize..6,
        any_strategy(),
    )
        .prop_map(|(leases, workers, max_moves, strategy)| {
            let mut world = World::default();
            world.snapshot.max_moves = max_moves;
            world.snapshot.strategy = strategy;
            for (n, (owner, next, (expired, ended, readable, left_alone), barred, throughput)) in
                leases.into_iter().enumerate()
            {
                let row = row(
                    n,
                    owner,
                    next.filter(|next| owner.is_some_and(|owner| owner != *next)),
                );
                let hold = match (owner, expired) {
                    (None, _) => Hold::Unowned,
                    (Some(_), true) => Hold::Expired,
                    (Some(_), false) => Hold::Held,
                };
                let view = LeaseView {
                    ended,
                    readable,
                    throughput,
                    left_alone,
                    barred: barred.into_iter().map(worker).collect(),
                    ..view(&row, hold)
                };
                world.add(row, view);
            }
            for (n, (max_leases, max_throughput, leaving, proven)) in workers.into_iter().enumerate() {
                world.snapshot.workers.push(Candidate {
                    id: worker(n),
                    max_leases,
                    max_throughput,
                    leaving,
                    proven,
                });
            }
            world
        })
}

/// A fleet in which nothing stands in the way: live workers without limits, every lease unowned or held by one of them.
pub(crate) fn plain_world() -> impl Strategy<Value = World> {
    let owners = prop::collection::vec(prop::option::weighted(0.8, 0_usize..6), 0..60);
    (owners, 1_usize..7).prop_map(|(owners, workers)| {
        let mut world = World::default();
        for (n, owner) in owners.into_iter().enumerate() {
            let row = row(n, owner.filter(|owner| *owner < workers), None);
            let hold = if row.owner.is_some() {
                Hold::Held
            } else {
                Hold::Unowned
            };
            let view = view(&row, hold);
            world.add(row, view);
        }
        world.snapshot.workers = (0..workers).map(candidate).collect();
        world
    })
}

pub(crate) fn is_unlimited(worker: &Candidate) -> bool {
    worker.max_leases.is_none() && worker.max_throughput.is_none()
}

/// A value that may stand in a row: nothing, nonsense, or a number.
pub(crate) fn any_throughput() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        3 => Just(None),
        1 => prop::sample::select(vec![0.0, -0.0, -7.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 1e-300]).prop_map(Some),
        4 => (0.0..2000.0).prop_map(Some),
    ]
}

pub(crate) fn any_strategy() -> impl Strategy<Value = Spread> {
    prop_oneof![
        Just(Spread::LeaseCount),
        Just(Spread::throughput()),
        (0_u32..200, 0_u32..200).prop_map(|(band_percent, damping_percent)| Spread::Throughput {
            band_percent,
            damping_percent,
        }),
    ]
}

pub(crate) fn handoffs_for_balance(plan: &AssignmentPlan) -> usize {
    plan.moves
        .iter()
        .filter(|step| step.reason == Reason::Balance)
        .count()
}

pub(crate) fn spread(world: &World) -> usize {
    let loads = world.loads();
    loads.values().max().unwrap() - loads.values().min().unwrap()
}

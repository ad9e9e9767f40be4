//! The promises of the assignment planner, over random fleets. Each plan is performed on real rows by `apply`.

mod rounds;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::internals::{
    AssignmentPlan, Candidate, Hold, LeaseView, Obstacle, Reason, Snapshot, plan_assignment, plan_departure,
    plan_placement,
};
use kcl_core::lease_store::LeaseChange;
use kcl_core::settings::Strategy as Spread;
use kcl_core::types::WorkerId;
use proptest::prelude::*;

use world::{
    any_world, candidate, handoffs_for_balance, is_unlimited, plain_world, row, spread, view, worker,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn planning_again_on_planned_state_gives_nothing(world in any_world()) {
        let plan = plan_assignment(&world.snapshot);
        let again = plan_assignment(&world.perform(&plan).snapshot);
        prop_assert_eq!(again.moves, vec![]);
        prop_assert_eq!(again.unplaced, plan.unplaced);
    }

    /// Whatever operators want to be where: the plan stands, no live lease goes to a worker that may be dead, and none leaves the worker that it
    /// is pinned to, unless that worker gets nothing.
    #[test]
    fn pinned_leases_go_to_their_workers_and_stay(
        mut world in any_world(), pins in prop::collection::vec(prop::option::of(0_usize..6), 40),
    ) {
        for (lease, pin) in world.snapshot.leases.iter_mut().zip(pins) {
            lease.pinned = pin.map(worker);
        }
        let plan = plan_assignment(&world.snapshot);
        let again = plan_assignment(&world.perform(&plan).snapshot);
        prop_assert_eq!(again.moves, vec![]);
        for step in &plan.moves {
            let lease = world.lease(&step.key);
            let find = |id: &WorkerId| world.snapshot.workers.iter().find(|worker| worker.id == *id);
            let pinned = lease.pinned.as_ref().and_then(find);
            let is_able = pinned.is_some_and(|pinned| !pinned.leaving && pinned.max_leases != Some(0) && lease.barred.is_empty());
            if let Some(pinned) = pinned.filter(|_| is_able && lease.hold != Hold::Expired) {
                prop_assert!(step.to == pinned.id || !pinned.proven, "{step:?}");
            }
            if step.reason == Reason::Ordered {
                prop_assert!(pinned.is_some_and(|pinned| pinned.proven && pinned.id == step.to), "{step:?}");
            }
        }
    }

    #[test]
    fn plan_without_bars_stands_once_owners_renewed(mut world in any_world()) {
        // Leases of unlike weight are placed one by one, and what is moved next may make a better place of another worker.
        // That those moves end is in `rounds`.
        world.snapshot.strategy = Spread::LeaseCount;
        for lease in &mut world.snapshot.leases {
            lease.barred.clear();
            // Letting a lease expire is a bar too.
            if lease.hold == Hold::Expired {
                let row = world.rows.get_mut(&lease.key).unwrap();
                (row.owner, row.checkpoint_owner) = (None, None);
                (lease.version, lease.hold) = (row.version(), Hold::Unowned);
            }
        }
        let plan = plan_assignment(&world.snapshot);
        let mut planned = world.perform(&plan);
        for lease in &mut planned.snapshot.leases {
            lease.left_alone &= world.lease(&lease.key).left_alone;
        }
        prop_assert_eq!(plan_assignment(&planned.snapshot).moves, vec![]);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (world, leases, workers) in any_world().prop_flat_map(|world| {
            let leases = Just(world.snapshot.leases.clone()).prop_shuffle();
            let workers = Just(world.snapshot.workers.clone()).prop_shuffle();
            (Just(world), leases, workers)
        }),
    ) {
        let shuffled = Snapshot { leases, workers, ..world.snapshot };
        prop_assert_eq!(plan_assignment(&world.snapshot), plan_assignment(&shuffled));
    }

    #[test]
    fn every_available_lease_is_placed_or_reported(world in any_world()) {
        let plan = plan_assignment(&world.snapshot);
        let moved: BTreeSet<_> = plan.moves.iter().map(|step| &step.key).collect();
        prop_assert_eq!(moved.len(), plan.moves.len(), "a lease is moved twice");
        let unplaced: BTreeSet<_> = plan.unplaced.iter().map(|(key, _)| key).collect();
        for lease in &world.snapshot.leases {
            let (moves, stays) = (moved.contains(&lease.key), unplaced.contains(&lease.key));
            prop_assert!(!(moves && stays));
            match lease.hold {
                _ if lease.ended => prop_assert!(!moves && !stays),
                Hold::Unowned => prop_assert!(moves || stays),
                // It may also remain with the only worker there is.
                Hold::Expired => prop_assert!(moves || stays || world.receivers().count() > 0),
                Hold::Held if lease.version.checkpoint_owner.is_some() => prop_assert!(!moves && !stays),
                Hold::Held if world.is_leaving(lease.version.owner.as_ref()) => prop_assert!(moves || stays),
                Hold::Held => prop_assert!(!stays && (!moves || (lease.readable && !lease.left_alone))),
            }
        }
    }

    #[test]
    fn expired_handoff_is_cleared_whoever_gets_the_lease(mut world in any_world()) {
        world.snapshot.workers.extend([candidate(8), candidate(9)]);
        world.snapshot.leases.iter_mut().for_each(|lease| lease.barred.clear());
        let after = world.perform(&plan_assignment(&world.snapshot));
        for lease in world.snapshot.leases.iter().filter(|lease| lease.hold == Hold::Expired && !lease.ended) {
            prop_assert_eq!(&after.rows[&lease.key].checkpoint_owner, &None);
        }
    }

    #[test]
    fn limits_are_honoured_and_leaving_workers_get_nothing(world in any_world()) {
        let plan = plan_assignment(&world.snapshot);
        let (before, after) = (world.loads(), world.perform(&plan).loads());
        for worker in &world.snapshot.workers {
            let limit = worker.max_leases.map_or(usize::MAX, |limit| limit as usize);
            prop_assert!(after[&worker.id] <= limit.max(before[&worker.id]));
            prop_assert!(!worker.leaving || plan.moves.iter().all(|step| step.to != worker.id));
        }
        for (key, obstacle) in &plan.unplaced {
            let lease = world.lease(key);
            let nobody_is_barred = lease.barred.is_empty() && lease.hold != Hold::Expired;
            let somebody_has_no_limit = world.receivers().any(is_unlimited);
            match obstacle {
                Obstacle::NoCandidate => prop_assert_eq!(world.receivers().count(), 0),
                Obstacle::MaxLeases => prop_assert!(world.receivers().count() > 0 && !somebody_has_no_limit),
                Obstacle::MaxThroughput => prop_assert!(world.receivers().any(|worker| worker.max_throughput.is_some())),
                Obstacle::Barred => prop_assert!(!nobody_is_barred),
            }
        }
    }

    #[test]
    fn barred_worker_gets_lease_only_when_all_are(world in any_world()) {
        for step in &plan_assignment(&world.snapshot).moves {
            let lease = world.lease(&step.key);
            if lease.barred.contains(&step.to) {
                prop_assert!(world.receivers().all(|worker| lease.barred.contains(&worker.id)));
                // And the one that let it expire gets it only when it is alone.
                prop_assert!(step.from.as_ref() != Some(&step.to) || world.receivers().count() == 1);
            }
        }
    }

    #[test]
    fn moves_under_way_never_exceed_the_cap(
        mut world in plain_world(), max_moves in 0_usize..8, handoffs in 0_usize..8,
    ) {
        world.snapshot.max_moves = max_moves;
        let held = world.snapshot.leases.iter_mut().filter(|lease| lease.hold == Hold::Held);
        for lease in held.take(handoffs) {
            lease.version.checkpoint_owner = lease.version.owner.replace(worker(0));
        }
        let in_handoff = |lease: &&LeaseView| lease.version.checkpoint_owner.is_some();
        let under_way = world.snapshot.leases.iter().filter(in_handoff).count();
        let unlimited = Snapshot { max_moves: usize::MAX, ..world.snapshot.clone() };
        let needed = handoffs_for_balance(&plan_assignment(&unlimited));
        let made = handoffs_for_balance(&plan_assignment(&world.snapshot));
        let cap = max_moves.max((needed + under_way).div_ceil(3));
        prop_assert_eq!(made, needed.min(cap.saturating_sub(under_way)));
    }

    #[test]
    fn balance_within_one_lease_takes_fewest_moves(mut world in plain_world()) {
        world.snapshot.max_moves = usize::MAX;
        let plan = plan_assignment(&world.snapshot);
        let mut before: Vec<usize> = world.loads().into_values().collect();
        before.sort_unstable_by(|a, b| b.cmp(a));
        let (share, extra) = (world.rows.len() / before.len(), world.rows.len() % before.len());
        let too_many = |(rank, load): (usize, &usize)| load.saturating_sub(share + usize::from(rank < extra));
        let excess: usize = before.iter().enumerate().map(too_many).sum();
        prop_assert_eq!(handoffs_for_balance(&plan), excess);
        prop_assert!(spread(&world.perform(&plan)) <= 1);
    }

    #[test]
    fn few_rounds_of_capped_moves_reach_balance(mut world in plain_world()) {
        world.snapshot.max_moves = 2;
        for _ in 0..60 {
            let plan = plan_assignment(&world.snapshot);
            if plan.moves.is_empty() {
                break;
            }
            world = world.perform(&plan);
            world.settle();
        }
        prop_assert!(spread(&world) <= 1);
    }

    #[test]
    fn a_standby_only_places_what_is_available(world in any_world()) {
        let plan = plan_placement(&world.snapshot);
        let only_assigns = plan.moves.iter().all(|step| matches!(step.change, LeaseChange::Assign { .. }));
        prop_assert!(only_assigns);
        let again = plan_placement(&world.perform(&plan).snapshot);
        prop_assert_eq!(again.moves, vec![]);
    }

    #[test]
    fn departing_worker_hands_over_what_others_can_take(mut world in any_world()) {
        let me = worker(8);
        world.snapshot.workers.push(candidate(8));
        let plan = plan_departure(&me, &world.snapshot);
        for step in &plan.moves {
            prop_assert_eq!(step.from.as_ref(), Some(&me));
            prop_assert!(step.to != me && step.reason == Reason::Leaving);
            let begins = matches!(step.change, LeaseChange::BeginHandoff { .. });
            prop_assert!(begins);
        }
        let mine = world.snapshot.leases.iter().filter(|lease| {
            let is_steady = lease.hold == Hold::Held && !lease.ended && lease.version.checkpoint_owner.is_none();
            is_steady && lease.version.owner.as_ref() == Some(&me)
        });
        prop_assert_eq!(plan.moves.len() + plan.unplaced.len(), mine.count());
        let has_room = world.receivers().any(|worker| worker.id != me && is_unlimited(worker));
        let unbarred = world.snapshot.leases.iter().all(|lease| lease.barred.is_empty());
        prop_assert!(!(has_room && unbarred) || plan.unplaced.is_empty());
        let again = plan_departure(&me, &world.perform(&plan).snapshot);
        prop_assert_eq!(again.moves, vec![]);
    }
}

#[test]
fn leases_waiting_for_parents_are_spread_with_room() {
    let mut snapshot = Snapshot::default();
    for n in 0..6 {
        let lease = view(&row(n, None, None), Hold::Unowned);
        snapshot.leases.push(LeaseView {
            readable: n >= 4,
            ..lease
        });
    }
    let limited = |n| Candidate {
        max_leases: Some(1),
        ..candidate(n)
    };
    snapshot.workers = vec![limited(0), limited(1)];
    let plan = plan_assignment(&snapshot);
    let moved = plan
        .moves
        .iter()
        .map(|step| (step.key.as_str(), step.to.as_str()));
    assert_eq!(
        moved.collect::<Vec<_>>(),
        [("shardId-000000000004", "w00"), ("shardId-000000000005", "w01")]
    );
    assert_eq!(plan.unplaced.len(), 4);

    snapshot.workers = vec![candidate(0), candidate(1)];
    let plan = plan_assignment(&snapshot);
    let to_first = plan.moves.iter().filter(|step| step.to == worker(0)).count();
    assert_eq!((plan.moves.len(), to_first), (6, 3));
}

#[test]
fn expired_lease_of_only_worker_stays_with_it() {
    let mut snapshot = Snapshot {
        leases: vec![view(&row(0, Some(0), None), Hold::Expired)],
        workers: vec![candidate(0)],
        max_moves: 1,
        ..Snapshot::default()
    };
    snapshot.leases[0].barred.insert(worker(0));
    assert_eq!(plan_assignment(&snapshot), AssignmentPlan::default());
    snapshot.workers.push(candidate(1));
    assert_eq!(plan_assignment(&snapshot).moves[0].to, worker(1));
}

#[test]
fn worker_seen_alive_wins_tie_against_old_row() {
    let old = Candidate {
        proven: false,
        ..candidate(0)
    };
    let snapshot = Snapshot {
        leases: vec![view(&row(0, None, None), Hold::Unowned)],
        workers: vec![old, candidate(1)],
        max_moves: 0,
        ..Snapshot::default()
    };
    assert_eq!(plan_assignment(&snapshot).moves[0].to, worker(1));
}

#[test]
fn ten_thousand_leases_are_balanced_in_one_plan() {
    let mut snapshot = Snapshot {
        max_moves: usize::MAX,
        ..Snapshot::default()
    };
    for n in 0..10_000 {
        let owner = (n % 3 > 0).then_some(n % 50);
        let hold = if owner.is_some() {
            Hold::Held
        } else {
            Hold::Unowned
        };
        snapshot.leases.push(view(&row(n, owner, None), hold));
    }
    snapshot.workers = (0..500).map(candidate).collect();
    let plan = plan_assignment(&snapshot);
    assert_eq!(plan.unplaced, []);
    let mut loads: BTreeMap<&WorkerId, usize> = BTreeMap::new();
    let moved: BTreeMap<_, _> = plan.moves.iter().map(|step| (&step.key, &step.to)).collect();
    for lease in &snapshot.leases {
        let owner = moved.get(&lease.key).copied().or(lease.version.owner.as_ref());
        *loads.entry(owner.unwrap()).or_default() += 1;
    }
    assert!(loads.len() == 500 && loads.values().all(|load| *load == 20));
}

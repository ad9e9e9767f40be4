//! A fleet in round after round: it gets balanced soon, and then it rests.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::internals::{Hold, LeaseView, Move, Obstacle, Snapshot, plan_assignment};
use kcl_core::settings::Strategy as Spread;
use kcl_core::types::WorkerId;
use proptest::prelude::*;

use crate::assignment_properties::world::{
    World, any_world, candidate, handoffs_for_balance, row, spread, view, worker,
};

/// As many moves at a time as anybody could want, so that rounds are not stretched by the cap.
const UNCAPPED: usize = 1000;

/// A fleet of so many workers: each lease with its owner and its throughput.
fn fleet(
    workers: usize,
    strategy: Spread,
    leases: impl IntoIterator<Item = (Option<usize>, Option<f64>)>,
) -> World {
    let mut world = World::default();
    for (n, (owner, throughput)) in leases.into_iter().enumerate() {
        let row = row(n, owner, None);
        let hold = if owner.is_some() {
            Hold::Held
        } else {
            Hold::Unowned
        };
        let view = LeaseView {
            throughput,
            ..view(&row, hold)
        };
        world.add(row, view);
    }
    world.snapshot.workers = (0..workers).map(candidate).collect();
    world.snapshot.strategy = strategy;
    world.snapshot.max_moves = UNCAPPED;
    world
}

/// One round and all the time that its handoffs need. Says how many leases were moved that somebody had.
fn round(world: &mut World) -> usize {
    let plan = plan_assignment(&world.snapshot);
    let handoffs = handoffs_for_balance(&plan);
    let is_empty = plan.moves.is_empty();
    *world = world.perform(&plan);
    world.settle();
    assert!(is_empty || !plan.moves.is_empty());
    if is_empty { 0 } else { handoffs.max(1) }
}

/// Rounds until there is nothing to do: how many moved something.
fn rounds_until_rest(world: &mut World, patience: usize) -> usize {
    (0..patience)
        .position(|_| round(world) == 0)
        .unwrap_or_else(|| panic!("no rest after {patience} rounds"))
}

fn rests_for_a_hundred_rounds(world: &mut World) -> bool {
    (0..100).all(|_| round(world) == 0)
}

/// The load of each worker by the documented measure: throughput, and a quarter of the average for each lease. None are unmeasured here.
fn loads(world: &World) -> BTreeMap<WorkerId, f64> {
    let leases = &world.snapshot.leases;
    let upkeep = leases.iter().filter_map(|lease| lease.throughput).sum::<f64>() / leases.len() as f64 / 4.0;
    let workers = world.snapshot.workers.iter();
    let mut loads: BTreeMap<_, _> = workers.map(|worker| (worker.id.clone(), 0.0)).collect();
    for lease in leases {
        let owner = lease.version.owner.as_ref().unwrap();
        *loads.get_mut(owner).unwrap() += lease.throughput.unwrap() + upkeep;
    }
    loads
}

/// Whether every worker is within the band, or the most loaded one has nothing to give that would make things better by a quarter of
/// the band.
fn is_balanced(world: &World) -> bool {
    let loads = loads(world);
    let share = loads.values().sum::<f64>() / loads.len() as f64;
    // The planner counts in whole bytes.
    let rounding = 1e-4 * share;
    if loads
        .values()
        .all(|load| (load - share).abs() <= 0.1 * share + rounding)
    {
        return true;
    }
    let (busiest, most) = loads.iter().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let least = loads.values().copied().fold(f64::INFINITY, f64::min);
    let leases = &world.snapshot.leases;
    let upkeep = leases.iter().filter_map(|lease| lease.throughput).sum::<f64>() / leases.len() as f64 / 4.0;
    let theirs = leases
        .iter()
        .filter(|lease| lease.version.owner.as_ref() == Some(busiest));
    theirs
        .map(|lease| lease.throughput.unwrap() + upkeep)
        .all(|load| load + 0.025 * share + rounding >= most - least)
}

/// Makes every throughput wobble by up to this part around its value.
fn with_noise(snapshot: &Snapshot, wobble: f64, noise: impl Fn(usize) -> f64) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for (n, lease) in snapshot.leases.iter_mut().enumerate() {
        lease.throughput = lease
            .throughput
            .map(|throughput| throughput * (1.0 + wobble * noise(n)));
    }
    snapshot
}

/// A number from -1 to 1 that looks like chance and is not: splitmix64.
fn chance(seed: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn lease_counts_settle_within_one_in_three_rounds(
        owners in prop::collection::vec(prop::option::weighted(0.9, 0_usize..8), 1..80), workers in 1_usize..8,
    ) {
        let leases = owners.into_iter().map(|owner| (owner.filter(|owner| *owner < workers), None));
        let mut world = fleet(workers, Spread::LeaseCount, leases);
        prop_assert!(rounds_until_rest(&mut world, 10) <= 3);
        prop_assert!(spread(&world) <= 1);
        prop_assert!(rests_for_a_hundred_rounds(&mut world));
    }

    #[test]
    fn throughput_settles_in_the_band_in_three_rounds(
        leases in prop::collection::vec((prop::option::weighted(0.9, 0_usize..8), 0.0..1000.0), 1..80), workers in 1_usize..8,
    ) {
        let leases = leases.into_iter().map(|(owner, kib)| (owner.filter(|owner| *owner < workers), Some(kib)));
        let mut world = fleet(workers, Spread::throughput(), leases);
        let rounds = rounds_until_rest(&mut world, 100);
        prop_assert!(rounds <= 3, "{} rounds", rounds);
        prop_assert!(is_balanced(&world), "{:?}", loads(&world));
        prop_assert!(rests_for_a_hundred_rounds(&mut world));
    }

    #[test]
    fn a_fleet_within_the_band_is_left_alone(
        leases in prop::collection::vec(80.0..120.0, 60..100),
    ) {
        let world = fleet(4, Spread::throughput(), leases.into_iter().enumerate().map(|(n, kib)| (Some(n % 4), Some(kib))));
        let loads = loads(&world);
        let share = loads.values().sum::<f64>() / 4.0;
        prop_assume!(loads.values().all(|load| (load - share).abs() < 0.0999 * share));
        prop_assert_eq!(plan_assignment(&world.snapshot).moves, vec![]);
    }

    #[test]
    fn wobbling_throughput_inside_the_band_moves_nothing(
        workers in 2_usize..6,
        leases in prop::collection::vec((0_usize..6, 50.0..150.0), 180..240),
        seed in any::<u32>(),
    ) {
        let leases = leases.into_iter().map(|(owner, kib)| (Some(owner % workers), Some(kib)));
        // One worker has just come: else the fleet may stand at the very edge of the band, where nothing is moved before it wobbles.
        let mut world = fleet(workers + 1, Spread::throughput(), leases);
        let still = world.snapshot.leases.clone();
        let mut moved = Vec::new();
        for number in 0..103_u64 {
            // The wobble is around the true throughput, not around the last wobble.
            for (lease, still) in world.snapshot.leases.iter_mut().zip(&still) {
                lease.throughput = still.throughput;
            }
            let noise = |n| chance(u64::from(seed) ^ (number << 40) ^ ((n as u64) << 20));
            world.snapshot = with_noise(&world.snapshot, 0.05, noise);
            moved.push(round(&mut world));
        }
        prop_assert!(moved[3..].iter().all(|moved| *moved == 0), "{moved:?}");
    }

    #[test]
    fn joining_worker_moves_at_most_its_share(
        workers in 1_usize..12, leases in 0_usize..150, by_throughput in any::<bool>(), kib in prop::option::of(0.0..1000.0),
    ) {
        let strategy = if by_throughput { Spread::throughput() } else { Spread::LeaseCount };
        let mut world = fleet(workers + 1, strategy, (0..leases).map(|n| (Some(n % workers), kib)));
        let mut moved = 0;
        loop {
            match round(&mut world) {
                0 => break,
                more => moved += more,
            }
        }
        prop_assert!(moved <= leases.div_ceil(workers + 1), "{moved} of {leases}");
    }

    #[test]
    fn moves_of_any_fleet_come_to_an_end(mut world in any_world()) {
        world.snapshot.workers.iter_mut().for_each(|worker| worker.leaving = false);
        rounds_until_rest(&mut world, 60);
    }
}

/// In the Java KCL (3.x) a fleet without throughput divides by zero, and two of the workers get everything.
#[test]
fn cold_start_without_throughput_gives_even_shares() {
    let readings: [&[Option<f64>]; 4] = [&[None], &[Some(0.0)], &[None, Some(0.0)], &[Some(f64::NAN), None]];
    for workers in 3..=8 {
        for readings in readings {
            let leases = (0..203).map(|n| (None, readings[n % readings.len()]));
            let mut world = fleet(workers, Spread::throughput(), leases);
            round(&mut world);
            assert!(
                spread(&world) <= 1,
                "{workers} workers, {readings:?}: {:?}",
                world.loads()
            );
            assert_eq!(world.loads().values().sum::<usize>(), 203);
            assert!(rests_for_a_hundred_rounds(&mut world));
        }
    }
}

/// The same failure when the leases are held already: all by the first worker, and the others have just come.
#[test]
fn joiners_of_fleet_without_throughput_get_their_share() {
    for workers in 3..=8 {
        for reading in [None, Some(0.0)] {
            let mut world = fleet(
                workers,
                Spread::throughput(),
                (0..200).map(|_| (Some(0), reading)),
            );
            assert!(rounds_until_rest(&mut world, 10) <= 3);
            let share = 200.0 / workers as f64;
            for (worker, load) in world.loads() {
                assert!(
                    (load as f64 - share).abs() <= 0.1 * share + 1.0,
                    "{worker} has {load} of {share}"
                );
            }
        }
    }
}

#[test]
fn hottest_shard_stays_and_owner_sheds_the_rest() {
    let leases = (0..41).map(|n| (Some(n % 4), Some(if n == 0 { 5000.0 } else { 50.0 })));
    let mut world = fleet(4, Spread::throughput(), leases);
    let hot = world.snapshot.leases[0].key.clone();
    for number in 0..103 {
        let noise = |n| chance(number << 32 | n as u64);
        let noisy = with_noise(&world.snapshot, 0.03, noise);
        let plan = plan_assignment(&noisy);
        assert!(plan.moves.iter().all(|step| step.key != hot));
        assert!(number < 3 || plan.moves.is_empty(), "round {number}: {plan:?}");
        world = world.perform(&plan);
        world.settle();
    }
    let counts = world.loads();
    assert_eq!(counts[&worker(0)], 1);
    assert!(
        (1..4).all(|n| (12..=15).contains(&counts[&worker(n)])),
        "{counts:?}"
    );
}

#[test]
fn idle_leases_are_not_heaped_on_one_worker() {
    let leases = (0..1009).map(|n| (None, Some(if n < 9 { 900.0 } else { 0.0 })));
    let mut world = fleet(10, Spread::throughput(), leases);
    round(&mut world);
    let most = world.loads().into_values().max().unwrap();
    assert!(most <= 5 * 101, "{:?}", world.loads());
}

#[test]
fn worker_gives_away_part_of_excess_each_time() {
    let mut world = fleet(2, Spread::throughput(), (0..100).map(|_| (Some(0), Some(80.0))));
    // From twice the share to 40 % above it, and then the rest: 16 % more would be hardly off the band.
    assert_eq!([0; 3].map(|_| round(&mut world)), [30, 18, 0]);
    let all_at_once = Spread::Throughput {
        band_percent: 10,
        damping_percent: 100,
    };
    let mut world = fleet(2, all_at_once, (0..100).map(|_| (Some(0), Some(80.0))));
    assert_eq!([0; 2].map(|_| round(&mut world)), [48, 0]);
}

#[test]
fn running_handoffs_count_against_part_given_away() {
    let world = fleet(2, Spread::throughput(), (0..100).map(|_| (Some(0), Some(80.0))));
    let plan = plan_assignment(&world.snapshot);
    let mut world = world.perform(&plan);
    assert_eq!(plan_assignment(&world.snapshot).moves, []);
    // Half of them are done; the worker that still hands over the others begins a few more.
    for step in &plan.moves[..15] {
        let mut leases = world.snapshot.leases.iter_mut();
        let lease = leases.find(|lease| lease.key == step.key).unwrap();
        (lease.version.checkpoint_owner, lease.left_alone) = (None, false);
    }
    let more = plan_assignment(&world.snapshot).moves.len();
    assert!((1..12).contains(&more), "{more}");
}

#[test]
fn worker_at_throughput_limit_gets_nothing_more() {
    let leases = (0..6).map(|n| (None, Some(if n < 4 { 600.0 } else { 100.0 })));
    for strategy in [Spread::LeaseCount, Spread::throughput()] {
        let mut world = fleet(2, strategy, leases.clone());
        for worker in &mut world.snapshot.workers {
            worker.max_throughput = Some(1000);
        }
        // Two heavy leases fill a worker; the second takes it over its limit, because a limit is no reason to split a lease.
        let plan = plan_assignment(&world.snapshot);
        assert_eq!(plan.moves.len() + plan.unplaced.len(), 6);
        assert!(
            plan.unplaced
                .iter()
                .all(|(_, obstacle)| *obstacle == Obstacle::MaxThroughput)
        );
        assert!(!plan.unplaced.is_empty());
        let world = world.perform(&plan);
        for worker in &world.snapshot.workers {
            let mine = world
                .snapshot
                .leases
                .iter()
                .filter(|lease| lease.version.owner.as_ref() == Some(&worker.id));
            let kib: Vec<f64> = mine.filter_map(|lease| lease.throughput).collect();
            let last = kib.iter().copied().fold(0.0, f64::max);
            assert!(kib.iter().sum::<f64>() - last < 1000.0, "{kib:?}");
        }
        assert_eq!(plan_assignment(&world.snapshot).moves, []);
    }
}

#[test]
fn limit_that_stands_in_the_way_is_named() {
    let obstacle = |max_leases, max_throughput| {
        let mut world = fleet(
            2,
            Spread::LeaseCount,
            [Some(0), Some(1), None].map(|owner| (owner, Some(50.0))),
        );
        for worker in &mut world.snapshot.workers {
            worker.max_leases = max_leases;
            worker.max_throughput = max_throughput;
        }
        plan_assignment(&world.snapshot).unplaced[0].1
    };
    assert_eq!(obstacle(Some(1), None), Obstacle::MaxLeases);
    assert_eq!(obstacle(Some(1), Some(10)), Obstacle::MaxLeases);
    assert_eq!(obstacle(Some(2), Some(10)), Obstacle::MaxThroughput);
}

#[test]
fn balancing_gives_nothing_to_possibly_dead_worker() {
    for strategy in [Spread::LeaseCount, Spread::throughput()] {
        let mut world = fleet(3, strategy, (0..30).map(|n| (Some(n % 2), Some(50.0))));
        world.snapshot.workers[2].proven = false;
        assert_eq!(plan_assignment(&world.snapshot).moves, []);
        world.snapshot.workers[2].proven = true;
        assert_eq!(plan_assignment(&world.snapshot).moves.len(), 10);
    }
}

#[test]
fn newest_of_equally_heavy_leases_are_moved() {
    for strategy in [Spread::LeaseCount, Spread::throughput()] {
        let mut world = fleet(2, strategy, (0..10).map(|_| (Some(0), Some(50.0))));
        for (n, lease) in world.snapshot.leases.iter_mut().enumerate() {
            lease.named_since = Some(Moment::from_origin(Duration::from_secs(n as u64 * 7 % 10)));
        }
        world.snapshot.strategy = strategy;
        let moved = plan_assignment(&world.snapshot).moves;
        let since = |step: &Move| world.lease(&step.key).named_since.unwrap();
        let oldest_moved = moved.iter().map(since).min().unwrap();
        let stayed = world.snapshot.leases.iter();
        let stayed = stayed.filter(|lease| moved.iter().all(|step| step.key != lease.key));
        assert!(
            stayed
                .filter_map(|lease| lease.named_since)
                .all(|since| since < oldest_moved)
        );
    }
}

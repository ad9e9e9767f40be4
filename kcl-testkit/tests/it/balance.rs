//! How a fleet shares its shards: evenly, in few moves, and then it keeps still.

use std::time::Duration;

use kcl_testkit::fleet::{Fleet, Simulation};

const SECOND: Duration = Duration::from_secs(1);
/// How often the leader of these fleets scans: their tables fit one page.
const ROUND: Duration = Duration::from_millis(500);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("w{n:02}")).collect()
}

/// Waits until these workers hold every shard, and none two more than another.
async fn balanced(fleet: &Fleet, names: &[String]) {
    let shards = fleet.open_shards().len();
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = names.iter().map(|name| view.held(name).len()).collect();
            let spread = held.iter().max().zip(held.iter().min());
            held.iter().sum::<usize>() == shards && spread.is_some_and(|(most, least)| most - least <= 1)
        })
        .await;
}

/// The moments since then at which leases were assigned or handed off, in seconds.
fn moves(fleet: &Fleet, since: Duration) -> Vec<f64> {
    let trace = fleet.trace();
    let moves = trace
        .iter()
        .filter(|line| line.contains(" begin_handoff ") || line.contains(" assign "))
        .filter(|line| !line.contains("refused"));
    let at = moves.map(|line| {
        line.trim_start()
            .split(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    });
    at.filter(|at| *at >= since.as_secs_f64()).collect()
}

/// In how many rounds of the leader these moves were made.
fn rounds(moves: &[f64]) -> usize {
    let pauses = moves
        .windows(2)
        .filter(|two| two[1] - two[0] > ROUND.as_secs_f64() / 2.0);
    usize::from(!moves.is_empty()) + pauses.count()
}

async fn keeps_still_for_a_hundred_rounds(fleet: &Fleet) {
    let since = fleet.now().since_origin();
    fleet.sleep(100 * ROUND).await;
    assert_eq!(moves(fleet, since), Vec::<f64>::new());
}

#[test]
fn joining_worker_moves_its_share_in_three_rounds() {
    for (workers, shards) in [(1, 8), (2, 12), (3, 10), (4, 40), (7, 64), (9, 20)] {
        let simulation = Simulation::new(1).shards(shards).trace_lines(50_000);
        simulation.run(async |fleet| {
            let what = format!("{shards} shards, {workers} workers and one more");
            let mut names = names(workers);
            for name in &names {
                fleet.start_worker(name, fleet.settings());
            }
            balanced(&fleet, &names).await;
            keeps_still_for_a_hundred_rounds(&fleet).await;

            let since = fleet.now().since_origin();
            names.push("the-new-one".to_owned());
            fleet.start_worker("the-new-one", fleet.settings());
            balanced(&fleet, &names).await;
            let moves = moves(&fleet, since);
            let share = usize::try_from(shards).unwrap().div_ceil(workers);
            assert!(
                !moves.is_empty() && moves.len() <= share,
                "{what}: {} moves",
                moves.len()
            );
            assert!(rounds(&moves) <= 3, "{what}: {moves:?}");
            keeps_still_for_a_hundred_rounds(&fleet).await;
        });
    }
}

#[test]
fn after_crash_only_leases_of_dead_worker_move() {
    for (workers, shards) in [(2, 8), (4, 40), (5, 12)] {
        let simulation = Simulation::new(2).shards(shards).trace_lines(50_000);
        simulation.run(async |fleet| {
            let names = names(workers);
            for name in &names {
                fleet.start_worker(name, fleet.settings());
            }
            balanced(&fleet, &names).await;
            let (victim, rest) = names.split_last().unwrap();
            let orphans = fleet.view().held(victim).len();
            let since = fleet.now().since_origin();
            fleet.kill(victim);
            fleet.sleep(2 * fleet.settings().leases.failover_time).await;
            balanced(&fleet, rest).await;
            assert_eq!(
                moves(&fleet, since).len(),
                orphans,
                "{shards} shards of {workers} workers"
            );
            keeps_still_for_a_hundred_rounds(&fleet).await;
        });
    }
}

#[test]
fn workers_that_start_together_are_balanced_at_once() {
    for (workers, shards) in [(3, 8), (8, 64), (20, 200)] {
        let simulation = Simulation::new(3).shards(shards).trace_lines(50_000);
        simulation.run(async |fleet| {
            let names = names(workers);
            for name in &names {
                fleet.start_worker(name, fleet.settings());
            }
            balanced(&fleet, &names).await;
            let took = fleet.now().since_origin();
            assert!(
                took < 3 * SECOND,
                "{shards} shards of {workers} workers: {took:?}"
            );
            let handed_on = fleet
                .trace()
                .iter()
                .filter(|line| line.contains("begin_handoff"))
                .count();
            println!("{shards} shards of {workers} workers: balanced in {took:?}, {handed_on} handoffs");
            keeps_still_for_a_hundred_rounds(&fleet).await;
        });
    }
}

#[test]
fn workers_keep_their_limits_and_report_leftovers() {
    Simulation::new(4)
        .shards(12)
        .trace_lines(50_000)
        .run(async |fleet| {
            for (name, limit) in [("a", 2), ("b", 5)] {
                let mut settings = fleet.settings();
                settings.assignment.max_leases = Some(limit);
                fleet.start_worker(name, settings);
            }
            fleet.sleep(10 * SECOND).await;
            assert_eq!(
                (fleet.view().held("a").len(), fleet.view().held("b").len()),
                (2, 5)
            );
            let leader = fleet.view().leader().unwrap();
            assert_eq!(fleet.view().status(&leader).unwrap().unplaced, 5);
            keeps_still_for_a_hundred_rounds(&fleet).await;
            fleet.start_worker("c", fleet.settings());
            fleet
                .wait_until("the rest is read", 10 * SECOND, |view| view.held("c").len() == 5)
                .await;
            assert_eq!(fleet.view().status(&leader).unwrap().unplaced, 0);
        });
}

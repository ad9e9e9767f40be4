//! A rolling deploy: one worker after the other is stopped and replaced while records flow.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::model::{LeaseKey, WorkerId};
use kcl_core::settings::Settings;
use kcl_testkit::fleet::{Fleet, Simulation};

const SECOND: Duration = Duration::from_secs(1);
const SHARDS: u32 = 64;

/// Waits until these workers hold every shard, and none two more than another.
async fn balanced(fleet: &Fleet, names: &[String]) {
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = names.iter().map(|name| view.held(name).len()).collect();
            let spread = held.iter().max().zip(held.iter().min());
            held.iter().sum::<usize>() == SHARDS as usize
                && spread.is_some_and(|(most, least)| most - least <= 1)
        })
        .await;
}

/// Who processes each shard, and how often that changed.
#[derive(Default)]
struct Moves {
    owners: BTreeMap<LeaseKey, WorkerId>,
    moves: BTreeMap<LeaseKey, u32>,
}

impl Moves {
    fn look(&mut self, fleet: &Fleet) {
        for lease in fleet.view().leases() {
            let Some(owner) = lease.actual_owner() else {
                continue;
            };
            let before = self.owners.insert(lease.key.clone(), owner.clone());
            let count = self.moves.entry(lease.key.clone()).or_default();
            *count += u32::from(before.is_some_and(|before| before != *owner));
        }
    }
}

/// Runs the scenario while somebody counts who owns what.
async fn counting_moves(fleet: &Fleet, scenario: impl Future<Output = ()>) -> BTreeMap<LeaseKey, u32> {
    let moves = RefCell::new(Moves::default());
    let watch = async {
        loop {
            moves.borrow_mut().look(fleet);
            fleet.sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = scenario => {}
        () = watch => {}
    }
    moves.into_inner().moves
}

#[test]
fn a_rolling_deploy_of_four_workers_over_64_shards_moves_each_lease_at_most_twice_and_repeats_nothing() {
    for seed in 0..2 {
        let settings = Settings {
            failover_time: 10 * SECOND,
            ..Settings::default()
        };
        let simulation = Simulation::new(seed).shards(SHARDS).settings(settings);
        simulation.run(async |fleet| {
            let mut names: Vec<String> = (0..4).map(|n| format!("old-{n}")).collect();
            for name in &names {
                fleet.start_worker(name, fleet.settings());
            }
            balanced(&fleet, &names).await;
            fleet.produce(SECOND / 10, 64);
            fleet.sleep(20 * SECOND).await;
            let moves = counting_moves(&fleet, async {
                for (n, name) in names.iter_mut().enumerate() {
                    let report = fleet.drain(name).await.unwrap();
                    assert!(report.is_clean(), "{report:?}");
                    assert!(report.took < 10 * SECOND, "{report:?}");
                    *name = format!("new-{n}");
                    fleet.start_worker(name, fleet.settings());
                    fleet.sleep(20 * SECOND).await;
                }
                balanced(&fleet, &names).await;
            })
            .await;
            fleet.stop_producing();
            fleet.settle().await;
            let tally = fleet.view().tally();
            assert_eq!((tally.redelivered, tally.finished), (0, tally.put), "seed {seed}");
            let most = moves.values().max().copied();
            let histogram = moves
                .values()
                .fold(BTreeMap::new(), |mut counts: BTreeMap<u32, u32>, moves| {
                    *counts.entry(*moves).or_default() += 1;
                    counts
                });
            println!("seed {seed}: {histogram:?}");
            assert!(most <= Some(2), "seed {seed}: {histogram:?}");
        });
    }
}

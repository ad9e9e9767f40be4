//! A rolling deploy: one worker after the other is stopped and replaced while records flow.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::types::{LeaseKey, WorkerId};
use kcl_testkit::fleet::{Fleet, Member, Simulation};

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

/// The worker that processes each shard, and how often that changed.
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
fn rolling_deploy_moves_each_lease_at_most_twice() {
    for seed in 0..2 {
        let mut settings = Settings::default();
        settings.leases.failover_time = 10 * SECOND;
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

/// A processor that takes its time for each batch, so that a worker that leaves still holds its leases for a while.
struct Thorough(Fleet);

#[async_trait]
impl RecordProcessor for Thorough {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.sleep(15 * SECOND).await;
        Ok(())
    }
}

#[test]
fn deploy_with_shorter_failover_time_overlaps_nowhere() {
    for seed in 0..10 {
        let mut old = Settings::default();
        old.leases.failover_time = 30 * SECOND;
        old.reading.stall_timeout = 60 * SECOND;
        let mut new = Settings::default();
        new.leases.failover_time = 3 * SECOND;
        let simulation = Simulation::new(seed).shards(8).settings(old.clone());
        simulation.run(async |fleet| {
            let member = |name: &str, settings: &Settings| {
                let slow = fleet.clone();
                Member::named(name)
                    .settings(settings.clone())
                    .processor(move |_: &ShardContext| Thorough(slow.clone()))
            };
            let named = |prefix: &str| (0..2).map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>();
            let (before, after) = (named("old"), named("new"));
            before.iter().for_each(|name| fleet.start(member(name, &old)));
            fleet.produce(SECOND, 16);
            fleet.sleep(60 * SECOND).await;
            for (gone, comes) in before.iter().zip(&after) {
                fleet.start(member(comes, &new));
                fleet.sleep(SECOND).await;
                let report = fleet.drain(gone).await.unwrap();
                assert!(report.is_clean(), "seed {seed}: {report:?}");
            }
            fleet.stop_producing();
            fleet.settle().await;
            let overlaps = fleet.view().overlaps();
            assert!(overlaps.is_empty(), "seed {seed}: {overlaps:?}");
            assert_eq!(fleet.view().tally().redelivered, 0, "seed {seed}");
        });
    }
}

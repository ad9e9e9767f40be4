use super::*;
use crate::fleet::FleetFacts;
use kcl_core::lease_store::{Lease, Scan, ShardReport, WorkerRow, WriteStamp};
use kcl_core::types::{Incarnation, Position, ShardId, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A fleet of so many workers, with shards of these lags in seconds; one that is held where there is none.
fn fleet(workers: u32, lags: &[Option<u64>]) -> FleetView {
    let run = Incarnation::from_random_bytes([1; 16]);
    let lease = |(number, lag): (usize, &Option<u64>)| {
        let mut report = ShardReport::new(NOW);
        report.behind = Duration::from_secs(lag.unwrap_or(1_000_000));
        report.waiting_for = lag.is_none().then(|| "hold".to_owned());
        Lease {
            owner: Some(
                format!("worker-{}", number % workers.max(1) as usize)
                    .parse()
                    .unwrap(),
            ),
            counter: 1,
            stamp: Some(WriteStamp {
                incarnation: run,
                counter: 1,
            }),
            report: Some(Box::new(report)),
            ..Lease::unowned(
                ShardId::new(format!("shardId-{number:012}")).unwrap(),
                Position::Latest,
            )
        }
    };
    let row = |number: u32| WorkerRow {
        id: format!("worker-{number}").parse().unwrap(),
        incarnation: Some(run),
        touches: 1,
        failover: None,
        max_leases: None,
        max_throughput: None,
        updated: NOW,
        started: None,
        version: None,
        orders: None,
    };
    let scan = Scan {
        leases: lags.iter().enumerate().map(lease).collect(),
        workers: (0..workers).map(row).collect(),
        ..Scan::default()
    };
    let facts = FleetFacts::new(&scan);
    FleetView::of("app", &facts, NOW)
}

fn wanted(workers: u32, lags: &[Option<u64>]) -> u32 {
    workers_wanted(&fleet(workers, lags), &ScalerSettings::default()).workers
}

#[test]
fn fleet_that_keeps_up_stays_as_it_is() {
    assert_eq!(wanted(2, &[Some(0); 8]), 2);
    assert_eq!(wanted(0, &[Some(0); 8]), 1);
    let settings = ScalerSettings {
        shards_per_worker: Some(3),
        ..ScalerSettings::default()
    };
    assert_eq!(workers_wanted(&fleet(8, &[Some(0); 8]), &settings).workers, 3);
}

#[test]
fn lag_grows_the_fleet_in_proportion() {
    assert_eq!(wanted(4, &[Some(301); 8]), 5);
    assert_eq!(wanted(4, &[Some(450); 8]), 6);
    assert_eq!(wanted(4, &[Some(100_000); 8]), 8);
    assert_eq!(wanted(4, &[Some(100_000); 20]), 8);
}

#[test]
fn held_shard_asks_for_no_worker() {
    let decided = workers_wanted(&fleet(2, &[None, Some(0), Some(0)]), &ScalerSettings::default());
    assert_eq!((decided.workers, decided.catch_up), (2, CatchUp::Done));
}

#[test]
fn limited_shard_asks_for_no_worker() {
    let mut fleet = fleet(2, &[Some(100_000), Some(0), Some(0)]);
    let limited = &mut fleet.shards[0];
    limited.orders = vec!["limit to 20 records/s".to_owned()];
    let decided = workers_wanted(&fleet, &ScalerSettings::default());
    assert_eq!(decided.workers, 2, "{}", decided.reason);
    fleet.shards[0].orders.clear();
    assert_eq!(workers_wanted(&fleet, &ScalerSettings::default()).workers, 3);
}

#[test]
fn unknown_pace_is_said_to_be_unknown() {
    let decided = workers_wanted(&fleet(2, &[Some(5), Some(0)]), &ScalerSettings::default());
    assert_eq!(decided.catch_up, CatchUp::Unknown);
    let empty = workers_wanted(&fleet(2, &[]), &ScalerSettings::default());
    assert_eq!((empty.workers, empty.catch_up), (1, CatchUp::Done));
    assert!(empty.reason.contains("a worker makes them"), "{}", empty.reason);
}

#[test]
fn growth_does_not_compound_before_newcomers_work() {
    let settings = |per_worker| ScalerSettings {
        shards_per_worker: per_worker,
        ..ScalerSettings::default()
    };
    for per_worker in [None, Some(4)] {
        let asked = |newcomers: u32| {
            let mut fleet = fleet(4, &[Some(450); 16]);
            let idle = fleet.workers[0].clone();
            for number in 0..newcomers {
                let mut worker = idle.clone();
                worker.worker = format!("newcomer-{number}");
                worker.leases = 0;
                fleet.workers.push(worker);
            }
            fleet.summary.live_workers += newcomers;
            workers_wanted(&fleet, &settings(per_worker)).workers
        };
        let first = asked(0);
        assert_eq!(first, 6, "half as many again");
        assert_eq!(
            asked(first - 4),
            first,
            "{per_worker:?}: the newcomers have no shard yet"
        );
    }
}

#[test]
fn pace_of_the_fleet_before_adds_no_worker() {
    let mut fleet = fleet(4, &[Some(900); 16]);
    fleet
        .shards
        .iter_mut()
        .for_each(|shard| shard.catch_up_s = Some(600));
    let settings = ScalerSettings {
        shards_per_worker: Some(8),
        ..ScalerSettings::default()
    };
    assert_eq!(workers_wanted(&fleet, &settings).workers, 8, "twice too slow");
    fleet.shards[0].next_owner = Some("worker-1".to_owned());
    let decided = workers_wanted(&fleet, &settings);
    assert_eq!(decided.workers, 4, "{}", decided.reason);
    assert!(decided.reason.contains("sharing out"), "{}", decided.reason);
}

#[test]
fn least_above_open_shards_is_said() {
    let settings = ScalerSettings {
        min_workers: 8,
        ..ScalerSettings::default()
    };
    let decided = workers_wanted(&fleet(1, &[Some(0); 3]), &settings);
    assert_eq!(decided.workers, 3);
    assert!(
        decided.reason.contains("though 8 are the least"),
        "{}",
        decided.reason
    );
}

#[test]
fn ended_leases_keep_one_worker() {
    let mut fleet = fleet(3, &[Some(0); 2]);
    fleet
        .shards
        .iter_mut()
        .for_each(|shard| shard.state = ShardState::Ended);
    let settings = ScalerSettings {
        shards_per_worker: Some(2),
        ..ScalerSettings::default()
    };
    assert_eq!(workers_wanted(&fleet, &settings).workers, 1);
}

#[test]
fn call_that_hangs_asks_for_no_worker() {
    let mut fleet = fleet(2, &[Some(100_000), Some(0), Some(0)]);
    fleet.shards[0].state = ShardState::Stalled;
    fleet.shards[0].concern = Some("slow_callback".to_owned());
    assert_eq!(workers_wanted(&fleet, &ScalerSettings::default()).workers, 2);
    fleet.shards[0].silent_owner = Some("it is gone".to_owned());
    assert_eq!(workers_wanted(&fleet, &ScalerSettings::default()).workers, 3);
}

proptest! {
    #[test]
    fn never_more_workers_than_open_shards(
        workers in 0u32..40,
        lags in proptest::collection::vec(proptest::option::of(0u64..1_000_000), 0..30),
        per_worker in proptest::option::of(0u32..9),
        min in 0u32..50,
        max in proptest::option::of(0u32..50),
    ) {
        let settings = ScalerSettings { shards_per_worker: per_worker, min_workers: min, max_workers: max, ..ScalerSettings::default() };
        let decided = workers_wanted(&fleet(workers, &lags), &settings);
        prop_assert!(decided.workers <= decided.open_shards.max(1));
        prop_assert!(max.is_none_or(|max| decided.workers <= max));
        prop_assert!(decided.workers >= min.min(decided.open_shards).min(max.unwrap_or(u32::MAX)));
    }

    #[test]
    fn more_lag_never_wants_fewer_workers(workers in 0u32..20, lag in 0u64..5_000, more in 0u64..5_000) {
        prop_assert!(wanted(workers, &[Some(lag); 16]) <= wanted(workers, &[Some(lag + more); 16]));
    }
}

//! How long one plan takes, on one core: `cargo bench -p kcl-core --bench assignment`.
//!
//! For three sizes of fleet, both strategies and five situations it prints the median of a few runs, and how the time per lease grows from
//! one size to the next. It fails if 10,000 leases on 500 workers take more than 50 ms, or 100,000 on 1,000 more than 1 s.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program of its own"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use kcl_core::clock::Moment;
use kcl_core::internals::{Candidate, Hold, LeaseView, Snapshot, TableView, plan_assignment};
use kcl_core::lease_store::{Lease, LeaseChange, Scan, WorkerRow, apply};
use kcl_core::settings::Strategy;
use kcl_core::types::{Incarnation, Position, ShardId, Timestamp, WorkerId};

/// Leases, workers, and how long a plan may take.
const SIZES: [(usize, usize, Option<Duration>); 3] = [
    (1_000, 50, None),
    (10_000, 500, Some(Duration::from_millis(50))),
    (100_000, 1_000, Some(Duration::from_secs(1))),
];

/// Plans for a fleet of which nothing is assigned yet.
type Happening = fn(&mut Snapshot);

const SITUATIONS: [(&str, Happening); 5] = [
    ("cold start", |_| {}),
    ("steady", settle),
    ("one worker dead", |fleet| {
        settle(fleet);
        kill_one(fleet);
    }),
    ("one worker added", |fleet| {
        settle(fleet);
        fleet.workers.push(candidate(usize::MAX));
    }),
    ("workers doubled", |fleet| {
        settle(fleet);
        let more = fleet.workers.len();
        fleet.workers.extend((more..2 * more).map(candidate));
    }),
];

fn main() {
    let mut broken = Vec::new();
    let strategies = [
        ("lease count", Strategy::LeaseCount),
        ("throughput", Strategy::throughput()),
    ];
    println!(
        "{:<12} {:<17} {:>8} {:>7} {:>7} {:>10} {:>10} {:>7}",
        "strategy", "situation", "leases", "workers", "moves", "time", "per lease", "growth"
    );
    for (strategy_name, strategy) in strategies {
        for (situation, happens) in SITUATIONS {
            let mut before = None;
            for (leases, workers, limit) in SIZES {
                let mut fleet = cold(leases, workers, strategy);
                happens(&mut fleet);
                let moves = plan_assignment(&fleet).moves.len();
                let time = median(|| plan_assignment(&fleet));
                let label =
                    format!("{strategy_name:<12} {situation:<17} {leases:>8} {workers:>7} {moves:>7}");
                report(&label, leases, time, &mut before);
                if limit.is_some_and(|limit| time > limit) {
                    broken.push(format!("{label}: {time:?} is more than {limit:?}"));
                }
            }
        }
    }
    let mut before = None;
    for (leases, workers, _) in SIZES {
        let (observer, scan) = observer(leases, workers);
        let label = |what| format!("{:<12} {what:<17} {leases:>8} {workers:>7} {:>7}", "observer", "");
        report(
            &label("snapshot"),
            leases,
            median(|| observer.snapshot(10)),
            &mut before,
        );
        let looks = median(|| {
            let (mut observer, scan) = (observer.clone(), scan.clone());
            observer.look(Moment::from_origin(Duration::from_secs(2)), scan);
            observer
        });
        report(&label("copy and look"), leases, looks, &mut None);
    }
    assert!(broken.is_empty(), "too slow:\n{}", broken.join("\n"));
}

fn report(label: &str, leases: usize, time: Duration, before: &mut Option<Duration>) {
    let per_lease = time / u32::try_from(leases).unwrap();
    let growth = before.map_or(String::new(), |before| {
        format!("x{:.2}", per_lease.as_secs_f64() / before.as_secs_f64())
    });
    *before = Some(per_lease);
    println!(
        "{label} {:>10} {:>10} {growth:>7}",
        format!("{time:.1?}"),
        format!("{per_lease:.0?}")
    );
}

/// The median time of some runs, after one that warms up.
#[expect(clippy::disallowed_methods, reason = "it is real time that is measured")]
fn median<T>(run: impl Fn() -> T) -> Duration {
    black_box(run());
    let mut times: Vec<Duration> = (0..7)
        .map(|_| {
            let begun = Instant::now();
            let result = black_box(run());
            let time = begun.elapsed();
            drop(result);
            time
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn candidate(n: usize) -> Candidate {
    Candidate {
        id: worker(n),
        max_leases: None,
        max_throughput: None,
        leaving: false,
        proven: true,
    }
}

/// Long names with the difference at their end, as hosts have them.
fn worker(n: usize) -> WorkerId {
    WorkerId::new(format!("trucks-consumer.eu-central-1.compute.internal-{n:06}")).unwrap()
}

fn row(n: usize) -> Lease {
    let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
    Lease {
        // Hot and cold shards, a factor of 50 apart.
        throughput: Some(10.0 + (n * 7919 % 491) as f64),
        ..Lease::unowned(shard, Position::TrimHorizon)
    }
}

fn cold(leases: usize, workers: usize, strategy: Strategy) -> Snapshot {
    let view = |n| {
        let row = row(n);
        LeaseView {
            version: row.version(),
            key: row.key,
            hold: Hold::Unowned,
            ended: false,
            readable: true,
            named_since: None,
            arriving: false,
            throughput: row.throughput,
            left_alone: false,
            pinned: None,
            barred: BTreeSet::new(),
        }
    };
    Snapshot {
        leases: (0..leases).map(view).collect(),
        workers: (0..workers).map(candidate).collect(),
        max_moves: 10,
        strategy,
    }
}

/// The fleet when the plan is performed and every owner has renewed.
fn settle(fleet: &mut Snapshot) {
    let plan = plan_assignment(fleet);
    let owners: BTreeMap<_, _> = plan.moves.iter().map(|step| (&step.key, &step.to)).collect();
    for lease in &mut fleet.leases {
        lease.version.owner = owners.get(&lease.key).map(|owner| (*owner).clone());
        lease.hold = Hold::Held;
    }
    assert_eq!(plan_assignment(fleet).moves, []);
}

/// Its leases are expired, kept from it, and it is no candidate any more.
fn kill_one(fleet: &mut Snapshot) {
    let dead = fleet.workers.remove(0).id;
    for lease in &mut fleet.leases {
        if lease.version.owner.as_ref() == Some(&dead) {
            lease.hold = Hold::Expired;
            lease.barred.insert(dead.clone());
        }
    }
}

/// An observer that has scanned a fleet twice, and what a third scan shows.
fn observer(leases: usize, workers: usize) -> (TableView, Scan) {
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    let (failover, cadence) = (Duration::from_secs(10), Duration::from_secs(1));
    let scan = |second: u64| Scan {
        leases: (0..leases)
            .map(|n| {
                let to = worker(n % workers);
                let mut row = apply(&row(n), &LeaseChange::Assign { to }, incarnation);
                row.counter += second;
                row
            })
            .collect(),
        workers: (0..workers)
            .map(|n| WorkerRow {
                id: worker(n),
                incarnation: Some(incarnation),
                touches: second,
                failover: Some(failover),
                max_leases: None,
                max_throughput: None,
                updated: Timestamp::from_millis(0),
                started: None,
                version: None,
                orders: None,
            })
            .collect(),
        ..Scan::default()
    };
    let mut observer = TableView::new(candidate(0), failover, cadence);
    for second in 0..2 {
        observer.look(Moment::from_origin(Duration::from_secs(second)), scan(second));
    }
    (observer, scan(2))
}

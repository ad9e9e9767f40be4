//! How many workers a fleet should have: the decision of an autoscaler.

use std::time::Duration;

use serde::Serialize;

use crate::fleet::{FleetView, ShardView, is_open};
use crate::state::ShardState;
use crate::text::count_text;

/// The wants of an autoscaler's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScalerSettings {
    /// How long the fleet may take to catch up, and how far a shard may be behind whose pace is not known: 5 minutes.
    pub catch_up_within: Duration,
    /// How many shards one worker handles when nothing lags. By default a fleet that keeps up stays as it is and never shrinks.
    pub shards_per_worker: Option<u32>,
    /// The fewest workers: 1. Fewer where there are fewer shards to work on.
    pub min_workers: u32,
    /// The most workers; by default as many as there are shards.
    pub max_workers: Option<u32>,
}

impl Default for ScalerSettings {
    fn default() -> Self {
        Self {
            catch_up_within: Duration::from_secs(300),
            shards_per_worker: None,
            min_workers: 1,
            max_workers: None,
        }
    }
}

/// The time until a fleet has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "seconds")]
#[non_exhaustive]
pub enum CatchUp {
    /// Nothing is behind.
    Done,
    /// In so many seconds, at the present pace.
    In(u64),
    /// Not at the present pace, or the pace is not known yet.
    Unknown,
}

/// The decision of an autoscaler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Wanted {
    /// How many workers the fleet should have. Never more than there are shards to work on.
    pub workers: u32,
    /// How many live workers it has.
    pub live_workers: u32,
    /// The leases that are not ended.
    pub open_shards: u32,
    /// The largest lag of a shard that more workers can help, in milliseconds.
    pub max_lag_ms: Option<u64>,
    /// The longest time to catch up among the shards that more workers can help.
    pub catch_up: CatchUp,
    /// The reason, in words.
    pub reason: String,
}

/// Decides how many workers the fleet should have.
///
/// A shard that is held, paused, limited by an order or waits for its parent asks for no worker: another one would wait as well. A lag counts where its shard takes longer
/// than [`catch_up_within`](ScalerSettings::catch_up_within) to catch up, or, while its pace is not known, is further behind than that. The
/// fleet then grows in proportion, by at least one worker and at most to its double.
pub fn workers_wanted(fleet: &FleetView, settings: &ScalerSettings) -> Wanted {
    let open = fleet.shards.iter().filter(|shard| is_open(shard));
    let open_shards = u32::try_from(open.count()).unwrap_or(u32::MAX);
    let live = fleet.summary.live_workers;
    let helped: Vec<&ShardView> = fleet.shards.iter().filter(|shard| can_be_helped(shard)).collect();
    let max_lag_ms = helped.iter().filter_map(|shard| shard.lag_ms).max();
    let within = settings.catch_up_within.as_secs().max(1);
    // How much too slow the slowest shard is: above 1 is too slow.
    let slowest = helped.iter().filter_map(|shard| seconds_needed(shard)).max();
    let (base, base_reason) = match settings.shards_per_worker {
        Some(per_worker) => {
            let per_worker = per_worker.max(1);
            let base = open_shards.div_ceil(per_worker);
            (base, format!("{open_shards} shards at {per_worker} a worker"))
        }
        None => (live.max(1), "the fleet keeps up".to_owned()),
    };
    let (grown, reason) = match slowest.filter(|needed| *needed > within) {
        Some(needed) => {
            let most = u64::from(live) * 2;
            let grown = (u64::from(live) * needed).div_ceil(within).min(most);
            let grown = u32::try_from(grown)
                .unwrap_or(u32::MAX)
                .max(live.saturating_add(1));
            (
                grown,
                format!("the slowest shard needs {needed} s, and {within} s are allowed"),
            )
        }
        None => (0, base_reason.clone()),
    };
    let workers = base.max(grown).max(settings.min_workers);
    let workers = settings
        .max_workers
        .map_or(workers, |most| workers.min(most))
        .min(open_shards);
    let reason = match () {
        () if open_shards == 0 => "no shard is left to work on".to_owned(),
        () if workers == open_shards && base.max(grown) > open_shards => {
            format!("{reason}; no more than one worker a shard")
        }
        () if settings.max_workers == Some(workers) && base.max(grown) > workers => {
            format!("{reason}; no more are allowed")
        }
        () if grown > base => reason,
        () => base_reason,
    };
    let others = (open_shards as usize).saturating_sub(helped.len());
    let reason = match others {
        0 => reason,
        others => format!(
            "{reason}; {} held, paused, limited or waiting",
            count_text(others, "shard")
        ),
    };
    Wanted {
        workers,
        live_workers: live,
        open_shards,
        max_lag_ms,
        catch_up: catch_up(&helped),
        reason,
    }
}

/// Returns `true` if another worker could make the shard go on, or go on faster.
fn can_be_helped(shard: &ShardView) -> bool {
    let is_limited = shard.orders.iter().any(|order| order.starts_with("limit"));
    if is_limited {
        return false;
    }
    match shard.state {
        ShardState::Ok
        | ShardState::Lagging
        | ShardState::Unknown
        | ShardState::Stalled
        | ShardState::Unowned => true,
        ShardState::Held | ShardState::Paused | ShardState::WaitingForParent | ShardState::Ended => false,
    }
}

/// The seconds that the shard takes to catch up, or is behind while its pace is not known.
fn seconds_needed(shard: &ShardView) -> Option<u64> {
    shard.catch_up_s.or_else(|| shard.lag_ms.map(|lag| lag / 1000))
}

fn catch_up(helped: &[&ShardView]) -> CatchUp {
    let mut longest = 0;
    for shard in helped {
        match (shard.lag_ms, shard.catch_up_s) {
            (Some(0), _) | (None, None) => {}
            (_, Some(secs)) => longest = longest.max(secs),
            (Some(_), None) => return CatchUp::Unknown,
        }
    }
    match longest {
        0 if helped.iter().all(|shard| shard.lag_ms.is_none()) && !helped.is_empty() => CatchUp::Unknown,
        0 => CatchUp::Done,
        secs => CatchUp::In(secs),
    }
}

#[cfg(test)]
mod tests {
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
                owner: Some("worker-0".parse().unwrap()),
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
        assert_eq!((empty.workers, empty.catch_up), (0, CatchUp::Done));
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
            prop_assert!(decided.workers <= decided.open_shards);
            prop_assert!(max.is_none_or(|max| decided.workers <= max));
            prop_assert!(decided.workers >= min.min(decided.open_shards).min(max.unwrap_or(u32::MAX)));
        }

        #[test]
        fn more_lag_never_wants_fewer_workers(workers in 0u32..20, lag in 0u64..5_000, more in 0u64..5_000) {
            prop_assert!(wanted(workers, &[Some(lag); 16]) <= wanted(workers, &[Some(lag + more); 16]));
        }
    }
}

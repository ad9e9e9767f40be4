//! Two looks at a fleet: how fast lags become less, and which workers without rows live, whose counters move or stand still.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::{KEEPS_UP, is_open, summary};
use crate::state::ShardState;
use crate::text::duration_text;
use crate::view::{FleetView, ShardView, WorkerView};

impl FleetView {
    /// Learns from an earlier view of the same fleet how long each shard takes to catch up, where nothing better says so: its lag, divided by the
    /// pace at which the lag became less. And whether workers without rows live: the counters of their leases move.
    pub fn compare(&mut self, earlier: &Self) {
        let elapsed = self.time_ms.saturating_sub(earlier.time_ms);
        let before: BTreeMap<&str, &ShardView> = earlier
            .shards
            .iter()
            .map(|shard| (shard.lease.as_str(), shard))
            .collect();
        for shard in self.shards.iter_mut().filter(|shard| shard.catch_up_s.is_none()) {
            let lag_before = before.get(shard.lease.as_str()).and_then(|shard| shard.lag_ms);
            shard.catch_up_s = match (lag_before, shard.lag_ms) {
                (Some(before), Some(now)) => catch_up_secs(before, now, elapsed),
                _ => None,
            };
        }
        judge_liveness(self, earlier);
        let leader = self.summary.leader.take();
        self.summary = summary(&self.shards, &self.workers, leader);
    }
}

/// How long it takes until a lag that went from `before` to `now` in this time is gone; `None` where it does not become less.
fn catch_up_secs(before: u64, now: u64, elapsed: i64) -> Option<u64> {
    if Duration::from_millis(now) < KEEPS_UP {
        return Some(0);
    }
    let elapsed = u64::try_from(elapsed).ok().filter(|elapsed| *elapsed > 0)?;
    let gained = before.checked_sub(now).filter(|gained| *gained > 0)?;
    let millis = u128::from(now) * u128::from(elapsed) / u128::from(gained);
    u64::try_from(millis / 1000).ok()
}

/// Learns from an earlier view of the same fleet which workers without rows live.
///
/// A worker of which a counter moved, or that took a lease since, lives. One whose counters have been watched standing still for longer than
/// the silence of a worker that shows no failover time does not, and its shards are stalled.
fn judge_liveness(view: &mut FleetView, earlier: &FleetView) {
    let before: BTreeMap<&str, &ShardView> = earlier
        .shards
        .iter()
        .map(|shard| (shard.lease.as_str(), shard))
        .collect();
    let silence = view.thresholds.silence(None);
    let time_ms = view.time_ms;
    for worker in view
        .workers
        .iter_mut()
        .filter(|worker| worker.quiet_since_ms.is_some())
    {
        let has_moved = |shard: &ShardView| {
            let before = before.get(shard.lease.as_str());
            let is_its = shard.owner.as_ref() == Some(&worker.worker);
            is_its && before.is_some_and(|before| shard.counter > before.counter)
        };
        if view.shards.iter().any(has_moved) {
            worker.is_live = Some(true);
            continue;
        }
        let known = earlier
            .workers
            .iter()
            .find(|before| before.worker == worker.worker);
        let Some(quiet_since) = known.and_then(|before| before.quiet_since_ms) else {
            continue;
        };
        worker.quiet_since_ms = Some(quiet_since);
        worker.is_live = match quiet_for(worker, time_ms) > silence {
            true => Some(false),
            false => known.and_then(|before| before.is_live),
        };
    }
    let gone: BTreeMap<&str, Duration> = view
        .workers
        .iter()
        .filter(|worker| worker.is_live == Some(false) && worker.quiet_since_ms.is_some())
        .map(|worker| (worker.worker.as_str(), quiet_for(worker, time_ms)))
        .collect();
    for shard in view.shards.iter_mut().filter(|shard| is_open(shard)) {
        let Some((owner, quiet)) = shard.owner.as_deref().and_then(|owner| gone.get_key_value(owner)) else {
            continue;
        };
        let quiet = duration_text(*quiet);
        shard.silent_owner = Some(format!(
            "the counters of the leases of {owner} have stood still for {quiet}"
        ));
        shard.state = ShardState::Stalled;
    }
}

fn quiet_for(worker: &WorkerView, time_ms: i64) -> Duration {
    let since = worker.quiet_since_ms.unwrap_or(time_ms);
    Duration::from_millis(u64::try_from(time_ms.saturating_sub(since)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use kcl_core::lease_store::{Lease, Scan};
    use kcl_core::types::{Position, ShardId, Timestamp};

    use super::*;
    use crate::{FleetFacts, ScalerSettings, workers_wanted};

    /// Two leases of two Java workers without rows, with these counters, at this second.
    fn look(counters: [u64; 2], second: i64) -> FleetView {
        let leases = counters.into_iter().enumerate().map(|(number, counter)| Lease {
            owner: Some(format!("java-{number}").parse().unwrap()),
            counter,
            ..Lease::unowned(
                ShardId::new(format!("shardId-{number:012}")).unwrap(),
                Position::TrimHorizon,
            )
        });
        let scan = Scan {
            leases: leases.collect(),
            ..Scan::default()
        };
        FleetView::of(
            "app",
            &FleetFacts::new(&scan),
            Timestamp::from_millis(1_800_000_000_000 + second * 1000),
        )
    }

    fn liveness(fleet: &FleetView) -> Vec<Option<bool>> {
        fleet.workers.iter().map(|worker| worker.is_live).collect()
    }

    #[test]
    fn one_look_cannot_say_who_lives() {
        let fleet = look([7, 9], 0);
        assert_eq!(liveness(&fleet), [None, None]);
        assert_eq!(
            (fleet.summary.live_workers, fleet.summary.unknown_workers),
            (0, 2)
        );
        assert!(
            fleet
                .workers
                .iter()
                .all(|worker| worker.is_java && worker.leases == 1)
        );
        assert!(
            fleet
                .shards
                .iter()
                .all(|shard| shard.state == ShardState::Unknown)
        );
    }

    #[test]
    fn moving_counter_is_a_sign_of_life() {
        let first = look([7, 9], 0);
        let mut second = look([8, 9], 5);
        second.compare(&first);
        assert_eq!(liveness(&second), [Some(true), None]);
        assert_eq!(
            (second.summary.live_workers, second.summary.unknown_workers),
            (1, 1)
        );
        // It still lives between two renewals.
        let mut third = look([8, 9], 8);
        third.compare(&second);
        assert_eq!(liveness(&third), [Some(true), None]);
    }

    #[test]
    fn counter_that_stands_still_is_silence() {
        let mut last = look([7, 9], 0);
        for second in 1..=130 {
            let mut next = look([7, 9 + u64::try_from(second).unwrap() / 4], second);
            next.compare(&last);
            last = next;
        }
        assert_eq!(liveness(&last), [Some(false), Some(true)]);
        assert_eq!(last.shards[0].state, ShardState::Stalled);
        let silent = last.shards[0].silent_owner.as_ref().unwrap();
        assert!(silent.contains("java-0 have stood still for 2m10s"), "{silent}");
        assert_eq!(last.shards[1].state, ShardState::Unknown);
        assert_eq!(last.summary.states["STALLED"], 1);
    }

    #[test]
    fn fleet_of_unknown_workers_does_not_shrink() {
        let decided = workers_wanted(&look([7, 9], 0), &ScalerSettings::default());
        assert_eq!(decided.workers, 2, "{}", decided.reason);
        assert_eq!((decided.live_workers, decided.unknown_workers), (0, 2));
        assert!(decided.reason.contains("may live"), "{}", decided.reason);
    }
}

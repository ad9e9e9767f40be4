//! How many workers a fleet should have: the decision of an autoscaler.

use std::time::Duration;

use serde::Serialize;

use crate::fleet::is_open;
use crate::state::ShardState;
use crate::text::count_text;
use crate::view::{FleetView, ShardView, WorkerView};

/// The wants of an autoscaler's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScalerSettings {
    /// How long the fleet may take to catch up, and how far a shard may be behind whose pace is not known: 5 minutes.
    pub catch_up_within: Duration,
    /// How many shards one worker handles when nothing lags. By default a fleet that keeps up stays as it is and never shrinks. An autoscaler
    /// that asks again and again gives it: counted from the workers that there are, the answer would follow from the answers before.
    pub shards_per_worker: Option<u32>,
    /// The fewest workers: 1. Fewer where there are fewer open shards, which the reason says then: a worker without a shard does nothing.
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
    /// How many workers the fleet should have. Never more than there are open shards; one where no lease is open.
    pub workers: u32,
    /// How many live workers it has.
    pub live_workers: u32,
    /// How many workers may live, beside those: see [`WorkerView::is_live`](crate::WorkerView::is_live).
    pub unknown_workers: u32,
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
/// A shard that is held, paused, limited by an order, waits for its parent, or is stalled while its owner lives asks for no worker: another
/// one would wait as well. A lag counts where its shard takes longer than [`catch_up_within`](ScalerSettings::catch_up_within) to catch up, or,
/// while its pace is not known, is further behind than that.
///
/// - While the pace is not known, a shard that is so many times too far behind counts as so many shards, and at most as all of one worker.
///   With [`shards_per_worker`](ScalerSettings::shards_per_worker) the answer then follows from the backlog alone, whatever was answered
///   before; without, it is relative to the workers that have shards, and at most their double.
/// - Where the pace is known, the workers that have shards grow in proportion, by at least one and at most to their double. While workers
///   have no shard yet, or shards are handed over, the pace is that of the fleet before: it stays as it is.
///
/// Workers of which it is [not known](crate::WorkerView::is_live) whether they live count as live: the fleet never shrinks for them. There are never more
/// than open shards, whatever [`min_workers`](ScalerSettings::min_workers) says, and one where no lease is open: it makes the leases, or
/// looks for new shards.
pub fn workers_wanted(fleet: &FleetView, settings: &ScalerSettings) -> Wanted {
    let open: Vec<&ShardView> = fleet.shards.iter().filter(|shard| is_open(shard)).collect();
    let open_shards = count(open.len());
    let unknown = fleet.summary.unknown_workers;
    let present = fleet.summary.live_workers.saturating_add(unknown);
    let helped: Vec<&ShardView> = open
        .iter()
        .copied()
        .filter(|shard| can_be_helped(shard))
        .collect();
    let backlog = Backlog {
        fleet,
        helped: &helped,
        open: open_shards,
        present,
        within: settings.catch_up_within.as_secs().max(1),
    };
    let (base, base_reason) = match settings.shards_per_worker {
        Some(per_worker) => {
            let per_worker = per_worker.max(1);
            let base = open_shards.div_ceil(per_worker);
            (base, format!("{open_shards} shards at {per_worker} a worker"))
        }
        None => (present.max(1), "the fleet keeps up".to_owned()),
    };
    let by_backlog = backlog.of_unknown_pace(settings.shards_per_worker);
    let by_pace = backlog.of_known_pace();
    let grown = [by_backlog, by_pace]
        .into_iter()
        .flatten()
        .max_by_key(|(grown, _)| *grown);
    let (asked, mut reason) = match grown {
        Some((grown, reason)) if grown > base => (grown, reason),
        Some((_, reason)) if settings.shards_per_worker.is_none() => (base, reason),
        _ => (base, base_reason),
    };
    // A stream always has an open shard.
    let most = open_shards.max(1);
    let least = settings.min_workers;
    let workers = asked.max(least).max(1);
    let allowed = settings.max_workers.map_or(workers, |most| workers.min(most));
    let workers = allowed.min(most);
    match () {
        () if fleet.shards.is_empty() => {
            "there is no lease yet: a worker makes them".clone_into(&mut reason);
        }
        () if open_shards == 0 => {
            "every lease is ended: a worker looks for new shards".clone_into(&mut reason);
        }
        () if least > most && workers == most => {
            reason = format!("{reason}; no more than one worker a shard, though {least} are the least");
        }
        () if asked > most && workers == most => reason += "; no more than one worker a shard",
        () if asked > workers => reason += "; no more are allowed",
        () if workers > asked => reason = format!("{reason}; {least} are the least"),
        () => {}
    }
    let others = open.len().saturating_sub(helped.len());
    if others > 0 {
        reason = format!(
            "{reason}; {} held, paused, limited, stalled or waiting",
            count_text(others, "shard")
        );
    }
    if unknown > 0 {
        reason = format!(
            "{reason}; {} without a row may live",
            count_text(unknown as usize, "worker")
        );
    }
    Wanted {
        workers,
        live_workers: fleet.summary.live_workers,
        unknown_workers: unknown,
        open_shards,
        max_lag_ms: helped.iter().filter_map(|shard| shard.lag_ms).max(),
        catch_up: catch_up(&helped),
        reason,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The shards that are behind, and the workers that work on them.
struct Backlog<'a> {
    fleet: &'a FleetView,
    helped: &'a [&'a ShardView],
    open: u32,
    /// The workers that live, or may live.
    present: u32,
    /// The seconds that are allowed.
    within: u64,
}

impl Backlog<'_> {
    /// The workers that have shards: the lags and the paces are theirs.
    fn at_work(&self) -> u32 {
        let at_work = self.fleet.workers.iter();
        let at_work = at_work.filter(|worker| worker.is_live != Some(false) && worker.leases > 0);
        count(at_work.count())
    }

    /// Returns `true` if each worker that may have shards has some, and none is handed over.
    fn is_settled(&self) -> bool {
        let waits = |worker: &WorkerView| {
            worker.is_live == Some(true) && worker.leases == 0 && worker.orders.is_empty()
        };
        let is_waiting = self.present <= self.open && self.fleet.workers.iter().any(waits);
        !is_waiting && self.helped.iter().all(|shard| shard.next_owner.is_none())
    }

    /// The workers for the shards that are too far behind, and whose pace is not known.
    fn of_unknown_pace(&self, per_worker: Option<u32>) -> Option<(u32, String)> {
        let lag_secs = |shard: &&ShardView| match shard.catch_up_s {
            Some(_) => None,
            None => shard.lag_ms.map(|lag| lag / 1000),
        };
        let late: Vec<u64> = self
            .helped
            .iter()
            .filter_map(lag_secs)
            .filter(|lag| *lag > self.within)
            .collect();
        let furthest = *late.iter().max()?;
        let at_work = self.at_work().max(1);
        let is_relative = per_worker.is_none();
        let per_worker = per_worker.unwrap_or_else(|| self.open.div_ceil(at_work)).max(1);
        // In thousandths of a shard: each late one counts for as many as it is times too late, and at most for all of a worker.
        let most = u64::from(per_worker) * 1000;
        let weights = late
            .iter()
            .map(|lag| (lag.saturating_mul(1000) / self.within).clamp(1000, most.max(1000)));
        let others = u64::from(self.open).saturating_sub(late.len() as u64) * 1000;
        let shards = weights.sum::<u64>().saturating_add(others);
        let grown = u32::try_from(shards.div_ceil(most)).unwrap_or(u32::MAX);
        let grown = match is_relative {
            true => grown.clamp(at_work.saturating_add(1), at_work.saturating_mul(2)),
            false => grown,
        };
        Some((
            grown,
            format!(
                "{} more than {} s behind, at most {furthest} s, and their pace is not known",
                count_text(late.len(), "shard"),
                self.within
            ),
        ))
    }

    /// The workers with which the slowest shard of a known pace would catch up in time.
    fn of_known_pace(&self) -> Option<(u32, String)> {
        let needed = self.helped.iter().filter_map(|shard| shard.catch_up_s).max()?;
        if needed <= self.within {
            return None;
        }
        let reason = format!(
            "the slowest shard needs {needed} s, and {} s are allowed",
            self.within
        );
        if !self.is_settled() {
            return Some((
                self.present,
                format!("{reason}; the fleet is still sharing out its shards"),
            ));
        }
        let at_work = self.at_work().max(1);
        let grown = u64::from(at_work).saturating_mul(needed).div_ceil(self.within);
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        Some((grown.clamp(at_work + 1, at_work.saturating_mul(2)), reason))
    }
}

/// Returns `true` if another worker could make the shard go on, or go on faster.
fn can_be_helped(shard: &ShardView) -> bool {
    let is_limited = shard.orders.iter().any(|order| order.starts_with("limit"));
    if is_limited {
        return false;
    }
    match shard.state {
        ShardState::Ok | ShardState::Lagging | ShardState::Unknown | ShardState::Unowned => true,
        // A call that hangs hangs elsewhere, too. A worker that is gone, or has no room, can be replaced.
        ShardState::Stalled => shard.silent_owner.is_some() || shard.concern.as_deref() == Some("starved"),
        ShardState::Held | ShardState::Paused | ShardState::WaitingForParent | ShardState::Ended => false,
    }
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
mod tests;

//! The view of a fleet: one scan of its lease table, as rows for people and for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::lease_store::{LeaderLock, Lease, LeaseOrder, LeaseOrders, Scan, ShardReport, WorkerRow};
use kcl_core::types::{LeaseKey, Position, Timestamp, WorkerId};

use crate::lineage::LeaseLineage;
use crate::state::{ShardState, Thresholds};
use crate::view::{FleetView, LagSource, OrderView, ShardView, Summary, WorkerView};

/// The facts that a view is made of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FleetFacts<'a> {
    /// The scan of the lease table.
    pub scan: &'a Scan,
    /// How far behind checkpoints were measured to be at the stream, by lease. It counts instead of what the row reports.
    pub measured: BTreeMap<LeaseKey, Duration>,
    /// The limits between the states.
    pub thresholds: Thresholds,
}

impl<'a> FleetFacts<'a> {
    /// A scan alone, with the usual limits.
    pub fn new(scan: &'a Scan) -> Self {
        Self {
            scan,
            measured: BTreeMap::new(),
            thresholds: Thresholds::default(),
        }
    }
}

impl FleetView {
    /// The view of these facts at this time, which is the viewer's own.
    ///
    /// The ages of rows compare the clocks of the workers with the viewer's: for people, and never a condition of a write.
    pub fn of(application: &str, facts: &FleetFacts<'_>, now: Timestamp) -> Self {
        let scan = facts.scan;
        let rows: BTreeMap<&WorkerId, &WorkerRow> = scan.workers.iter().map(|row| (&row.id, row)).collect();
        let lineage = LeaseLineage::new(&scan.leases);
        let generations = lineage.generations();
        let mut shards: Vec<ShardView> = scan
            .leases
            .iter()
            .map(|lease| {
                let owner = lease.actual_owner();
                let silent_owner = owner
                    .filter(|_| !lease.is_ended())
                    .and_then(|owner| silence(owner, rows.get(owner).copied(), facts, now));
                let mut view = shard_view(lease, &lineage, now);
                // Workers of the Java KCL 2.x have no rows, so the absence of one says nothing.
                let has_row = owner.is_some_and(|owner| rows.contains_key(owner));
                let silent_owner = silent_owner.filter(|_| has_row || !view.is_java);
                view.silent_owner = silent_owner;
                view.generation = generations.get(&lease.key).copied().unwrap_or(0);
                if let Some(measured) = facts.measured.get(&lease.key) {
                    view.lag_ms = Some(millis(*measured));
                    view.lag_source = Some(LagSource::Stream);
                    view.catch_up_s = Some(0).filter(|_| *measured < KEEPS_UP);
                }
                view.state = state_of(lease, &view, facts);
                if view.state == ShardState::Stalled && view.lag_source == Some(LagSource::Row) {
                    add_silence(&mut view);
                }
                view
            })
            .collect();
        shards.sort_by(|one, other| one.lease.cmp(&other.lease));
        let workers = workers(scan, &rows, &shards, facts, now);
        let lock = scan.lock.as_ref().filter(|lock| !lock.released);
        let summary = summary(&shards, &workers, lock.map(|lock| lock.owner.to_string()));
        let unreadable = scan.undecodable.iter();
        Self {
            application: application.to_owned(),
            time_ms: now.as_millis(),
            summary,
            shards,
            workers,
            unreadable_rows: unreadable
                .map(|row| format!("{}: {}", row.key, row.problem))
                .collect(),
            thresholds: facts.thresholds.clone(),
        }
    }

    /// The shards of this name or lease key: several where the application reads many streams.
    pub fn shards_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ShardView> {
        let is_named = move |shard: &&ShardView| shard.lease == name || shard.shard == name;
        self.shards.iter().filter(is_named)
    }

    /// The limits that the states of this view follow from.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }
}

/// A shard that is less behind has caught up, as a report of its owner counts it: records are on their way for as long.
pub(crate) const KEEPS_UP: Duration = Duration::from_secs(1);

/// The report of the owner, unless there is no owner any more, the shard is ended, or Java wrote since.
fn valid_report(lease: &Lease) -> Option<&ShardReport> {
    let is_current = lease.actual_owner().is_some() && !lease.is_ended() && !lease.is_written_by_foreigner();
    lease.report.as_deref().filter(|_| is_current)
}

fn shard_view(lease: &Lease, lineage: &LeaseLineage<'_>, now: Timestamp) -> ShardView {
    let is_in_handoff = lease.is_in_handoff();
    let unfinished = lineage.unfinished_parents(lease);
    let identity = lease.identity.as_ref().map(|identity| identity.name.clone());
    let has_owner = lease.actual_owner().is_some();
    let report = valid_report(lease);
    let report_age = report.map(|report| age(report.at, now));
    let per_second = |per_minute: u64| per_minute as f64 / 60.0;
    let orders = lease.orders.as_deref();
    let answer = lease.answer.as_ref();
    ShardView {
        lease: lease.key.to_string(),
        stream: identity.or_else(|| lease.stream.as_ref().map(ToString::to_string)),
        shard: lease.shard.to_string(),
        state: ShardState::Unknown,
        owner: lease.actual_owner().map(ToString::to_string),
        next_owner: lease
            .owner
            .as_ref()
            .filter(|_| is_in_handoff)
            .map(ToString::to_string),
        checkpoint: lease.checkpoint.checkpoint_text().to_owned(),
        sub_sequence: lease.checkpoint.sub_sequence(),
        has_pending_checkpoint: lease.pending.is_some(),
        lag_ms: report.map(|report| millis(report.behind)),
        lag_source: report.map(|_| LagSource::Row),
        freshness_ms: report.map(|report| millis(report.freshness)),
        rate_kib_per_s: lease.throughput.filter(|rate| rate.is_finite()),
        read_records_per_s: report.map(|report| per_second(report.read_per_minute)),
        finished_records_per_s: report.map(|report| per_second(report.processed_per_minute)),
        catch_up_s: report
            .and_then(ShardReport::catch_up)
            .map(|catch_up| millis(catch_up).div_ceil(1000)),
        attempts: report.map_or(0, |report| report.attempts),
        last_progress_ms: report
            .zip(report_age)
            .map(|(report, age)| millis(report.last_progress.saturating_add(age))),
        waiting: report.and_then(|report| report.waiting_for.clone()),
        concern: report.and_then(|report| report.concern.clone()),
        failing_record: report
            .and_then(|report| report.failing.as_ref())
            .map(ToString::to_string),
        report_age_ms: report_age.map(millis),
        orders: orders
            .map(|orders| orders_in_force(orders, &lease.checkpoint))
            .unwrap_or_default(),
        orders_revision: lease.orders_revision(),
        answered_revision: answer.map(|answer| answer.revision),
        refused: answer
            .filter(|answer| answer.revision == lease.orders_revision())
            .and_then(|answer| answer.refused.clone()),
        order_history: orders
            .map(|orders| orders.history.iter().map(OrderView::of).collect())
            .unwrap_or_default(),
        parents: lease.parents.iter().map(ToString::to_string).collect(),
        unfinished_parents: unfinished.iter().map(|parent| parent.shard.to_string()).collect(),
        children: lineage.children(lease).into_iter().collect(),
        generation: 0,
        hash_start: lease.hash_range.map(|range| range.start().to_string()),
        hash_end: lease.hash_range.map(|range| range.end().to_string()),
        counter: lease.counter,
        owner_switches: lease.owner_switches,
        is_java: has_owner && lease.counter > 0 && lease.is_written_by_foreigner(),
        silent_owner: None,
    }
}

/// The orders that hold, in words.
/// The orders that hold. A skip is over once the shard is read beyond its record.
fn orders_in_force(orders: &LeaseOrders, checkpoint: &Position) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(orders.paused.then(|| "paused".to_owned()));
    words.extend(
        orders
            .hold
            .map(|_| "held until its ancestors are reset".to_owned()),
    );
    words.extend(
        orders
            .limit
            .map(|limit| LeaseOrder::Limit(Some(limit)).to_string()),
    );
    words.extend(orders.pinned.as_ref().map(|worker| format!("pinned to {worker}")));
    let skip = orders.skip.as_ref().filter(|record| !checkpoint.covers(record));
    words.extend(skip.map(|record| format!("skip {record}")));
    words
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why the owner counts as silent, if it does.
fn silence(
    owner: &WorkerId,
    row: Option<&WorkerRow>,
    facts: &FleetFacts<'_>,
    now: Timestamp,
) -> Option<String> {
    let Some(row) = row else {
        return Some(format!("worker {owner} has no row"));
    };
    let age = age(row.updated, now);
    let limit = facts.thresholds.silence(row.failover);
    (age > limit).then(|| {
        let age = crate::text::duration_text(age);
        format!("the row of worker {owner} is {age} old")
    })
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    let millis = now.as_millis().saturating_sub(then.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The concerns of an owner with which a shard does not go on although its owner names what it waits for.
const STALLING: [&str; 7] = [
    "suspended",
    "stalled",
    "slow_callback",
    "unreachable",
    "starved",
    "end_not_stored",
    "not_checkpointed",
];

/// The owner has not spoken since its report: what it said of the lag has grown meanwhile.
fn add_silence(view: &mut ShardView) {
    let silence = view.report_age_ms.unwrap_or(0);
    for age in [&mut view.lag_ms, &mut view.freshness_ms].into_iter().flatten() {
        *age = age.saturating_add(silence);
    }
    view.catch_up_s = None;
}

/// The state: the first rule that holds.
fn state_of(lease: &Lease, view: &ShardView, facts: &FleetFacts<'_>) -> ShardState {
    let thresholds = &facts.thresholds;
    let waiting = view.waiting.as_deref();
    let is_waiting = waiting == Some("parents") || !view.unfinished_parents.is_empty();
    if lease.is_ended() {
        return ShardState::Ended;
    }
    if view.owner.is_none() {
        return match is_waiting {
            true => ShardState::WaitingForParent,
            false => ShardState::Unowned,
        };
    }
    if view.silent_owner.is_some() {
        return ShardState::Stalled;
    }
    let report_age = view.report_age_ms.map(Duration::from_millis);
    if report_age.is_some_and(|age| age > thresholds.silence(lease.failover)) {
        return ShardState::Stalled;
    }
    let is_paused = lease.orders.as_ref().is_some_and(|orders| orders.is_paused());
    match waiting {
        Some("hold" | "dead_letter" | "gap") => return ShardState::Held,
        Some("paused") => return ShardState::Paused,
        _ if is_paused => return ShardState::Paused,
        _ => {}
    }
    if is_waiting {
        return ShardState::WaitingForParent;
    }
    let concern = view.concern.as_deref();
    if concern.is_some_and(|concern| STALLING.contains(&concern)) {
        return ShardState::Stalled;
    }
    let progress = valid_report(lease).map(|report| report.last_progress);
    if waiting.is_none() && progress.is_some_and(|age| age > thresholds.stalled) {
        return ShardState::Stalled;
    }
    match view.lag_ms.map(Duration::from_millis) {
        Some(behind) if behind > thresholds.lagging => ShardState::Lagging,
        Some(_) => ShardState::Ok,
        None => ShardState::Unknown,
    }
}

fn workers(
    scan: &Scan,
    rows: &BTreeMap<&WorkerId, &WorkerRow>,
    shards: &[ShardView],
    facts: &FleetFacts<'_>,
    now: Timestamp,
) -> Vec<WorkerView> {
    let lock = scan.lock.as_ref().filter(|lock| !lock.released);
    let leader = lock.map(|lock| lock.owner.to_string());
    let standby = lock.and_then(|lock: &LeaderLock| lock.standby.as_ref());
    let standby = standby.map(ToString::to_string);
    let mut names: BTreeSet<String> = rows.keys().map(ToString::to_string).collect();
    names.extend(
        shards
            .iter()
            .filter(|shard| is_open(shard))
            .filter_map(|shard| shard.owner.clone()),
    );
    names.extend(leader.clone());
    let by_name: BTreeMap<String, &WorkerRow> = rows.iter().map(|(id, row)| (id.to_string(), *row)).collect();
    let mut views: BTreeMap<String, WorkerView> = BTreeMap::new();
    for name in names {
        let row = by_name.get(&name);
        let age = row.map(|row| age(row.updated, now));
        let is_of_java_2 = || {
            shards
                .iter()
                .any(|shard| is_open(shard) && shard.is_java && shard.owner.as_ref() == Some(&name))
        };
        let is_live = match row.zip(age) {
            Some((row, age)) => Some(age <= facts.thresholds.silence(row.failover)),
            None => Some(false).filter(|_| !is_of_java_2()),
        };
        let view = WorkerView {
            quiet_since_ms: is_live.is_none().then_some(now.as_millis()),
            is_live,
            leases: 0,
            leases_of_concern: 0,
            incoming: 0,
            rate_kib_per_s: 0.0,
            max_leases: row.and_then(|row| row.max_leases),
            failover_ms: row.and_then(|row| row.failover).map(millis),
            row_age_ms: age.map(millis),
            version: row.and_then(|row| row.version.clone()),
            uptime_ms: row
                .and_then(|row| row.started)
                .map(|started| millis(self::age(started, now))),
            orders: row.map(|row| worker_orders(row)).unwrap_or_default(),
            is_leader: leader.as_ref() == Some(&name),
            is_standby: standby.as_ref() == Some(&name),
            is_java: row.is_some_and(|row| row.incarnation.is_none()),
            worker: name.clone(),
        };
        views.insert(name, view);
    }
    for shard in shards.iter().filter(|shard| is_open(shard)) {
        if let Some(view) = shard.owner.as_ref().and_then(|owner| views.get_mut(owner)) {
            view.leases += 1;
            let is_bad = shard.state.is_stuck() || shard.state == ShardState::Lagging;
            view.leases_of_concern += u32::from(is_bad);
            view.rate_kib_per_s += shard.rate_kib_per_s.unwrap_or(0.0);
            // A worker without a row is Java's where only Java wrote its leases.
            view.is_java |= view.row_age_ms.is_none() && shard.is_java;
        }
        if let Some(view) = shard.next_owner.as_ref().and_then(|next| views.get_mut(next)) {
            view.incoming += 1;
        }
    }
    views.into_values().collect()
}

/// The orders for a worker that hold, in words.
fn worker_orders(row: &WorkerRow) -> Vec<String> {
    let Some(orders) = &row.orders else {
        return Vec::new();
    };
    let words = [
        ("drained", orders.drained),
        ("excluded", orders.excluded && !orders.drained),
    ];
    words
        .iter()
        .filter(|(_, holds)| *holds)
        .map(|(word, _)| (*word).to_owned())
        .collect()
}

pub(crate) fn is_open(shard: &ShardView) -> bool {
    shard.state != ShardState::Ended
}

/// The order of gravity.
const GRAVEST_FIRST: [ShardState; 8] = [
    ShardState::Unowned,
    ShardState::Stalled,
    ShardState::Held,
    ShardState::Lagging,
    ShardState::Paused,
    ShardState::Unknown,
    ShardState::Ok,
    ShardState::WaitingForParent,
];

pub(crate) fn summary(shards: &[ShardView], workers: &[WorkerView], leader: Option<String>) -> Summary {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut states: BTreeMap<String, u32> = BTreeMap::new();
    for shard in shards {
        *states.entry(shard.state.word().to_owned()).or_default() += 1;
    }
    let gravest = GRAVEST_FIRST
        .iter()
        .find(|state| shards.iter().any(|shard| shard.state == **state));
    let streams: BTreeSet<String> = shards.iter().filter_map(|shard| shard.stream.clone()).collect();
    let open = || shards.iter().filter(|shard| is_open(shard));
    Summary {
        state: gravest.copied().unwrap_or(ShardState::Ended).word().to_owned(),
        live_workers: count(
            workers
                .iter()
                .filter(|worker| worker.is_live == Some(true))
                .count(),
        ),
        unknown_workers: count(workers.iter().filter(|worker| worker.is_live.is_none()).count()),
        java_workers: count(workers.iter().filter(|worker| worker.is_java).count()),
        leases: count(shards.len()),
        open_leases: count(open().count()),
        states,
        max_lag_ms: open().filter_map(|shard| shard.lag_ms).max(),
        known_lags: count(open().filter(|shard| shard.lag_ms.is_some()).count()),
        max_catch_up_s: open().filter_map(|shard| shard.catch_up_s).max(),
        rate_kib_per_s: open().filter_map(|shard| shard.rate_kib_per_s).sum(),
        leader,
        streams: streams.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;

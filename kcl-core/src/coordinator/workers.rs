//! Decides which workers may get leases: those that the planner itself sees live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::coordinator::assignment::snapshot::Candidate;
use crate::lease::expiry_watch::ExpiryWatch;
use crate::lease::row::Lease;
use crate::lease::worker_row::WorkerRow;
use crate::runtime::clock::Moment;
use crate::settings::timing::Timing;
use crate::types::{Incarnation, LeaseKey, WorkerId};

/// For how long a Java worker's row must stand still before the worker counts as dead. Java writes the row every 30 s and takes
/// one of twice that age for expired (`workerMetricsReporterFreqInMillis`).
const JAVA_LIFE: Duration = Duration::from_secs(60);

/// A watch on the rows of the workers.
///
/// A row without an incarnation is a Java worker's. It is never a candidate: the worker does not take up what this fleet assigns.
///
/// A worker lives as long as the observer has seen its row change within that worker's own failover time. It is a candidate
/// for half as long: it touches its row every third, so that one touch may be missed, and of two workers that died together
/// the second is not given what the first one had. One that let a lease expire is no candidate until its row changes again.
///
/// A row seen for the first time counts as changed just then: otherwise a fleet that starts together would wait before its first lease
/// is assigned. The price is that an observer that has only started takes a dead worker's old row for a candidate, for half a failover
/// time; such a worker is not [proven](Candidate::proven): it loses every tie, is given no live lease, and what it is given expires
/// like anything else.
#[derive(Debug, Clone)]
pub(crate) struct WorkerLiveness {
    failover: Duration,
    watch: ExpiryWatch<WorkerId, LivenessMark>,
    rows: BTreeMap<WorkerId, SeenWorker>,
    /// Whose run each process is, and when its worker's row showed it last.
    runs: BTreeMap<Incarnation, (WorkerId, Moment)>,
    has_looked: bool,
}

/// The mark that changes with each touch of a worker's row: the incarnation with the touches, or the time at which Java wrote it.
type LivenessMark = (Option<Incarnation>, u64, i64);

#[derive(Debug, Clone)]
struct SeenWorker {
    row: WorkerRow,
    /// The first observation, which proves nothing. `None` of a row that appeared later.
    first_mark: Option<LivenessMark>,
    has_changed: bool,
    /// The mark under which the worker let a lease expire.
    doubted: Option<LivenessMark>,
}

impl WorkerLiveness {
    /// A liveness of an observer with this failover time, which means to look once per `cadence`.
    pub(crate) fn new(failover: Duration, cadence: Duration) -> Self {
        Self {
            failover,
            watch: ExpiryWatch::new(cadence),
            rows: BTreeMap::new(),
            runs: BTreeMap::new(),
            has_looked: false,
        }
    }

    /// Changes how often the observer means to look.
    pub(crate) fn set_cadence(&mut self, cadence: Duration) {
        self.watch.set_cadence(cadence);
    }

    /// Observes the rows that a successful scan at `now` saw.
    pub(crate) fn look(&mut self, now: Moment, rows: &[WorkerRow]) {
        self.watch
            .look(now, rows.iter().map(|row| (row.id.clone(), mark(row))));
        let mut before = std::mem::take(&mut self.rows);
        for row in rows {
            let known = before.remove(&row.id);
            let mark = mark(row);
            let first_mark = match &known {
                Some(known) => known.first_mark,
                None => (!self.has_looked).then_some(mark),
            };
            let seen = SeenWorker {
                row: row.clone(),
                first_mark,
                has_changed: known.as_ref().is_some_and(|known| known.has_changed)
                    || first_mark != Some(mark),
                doubted: known
                    .and_then(|known| known.doubted)
                    .filter(|doubted| *doubted == mark),
            };
            if let Some(run) = row.incarnation {
                self.runs.insert(run, (row.id.clone(), now));
            }
            self.rows.insert(row.id.clone(), seen);
        }
        let long = Timing::of(self.failover).run_memory;
        self.runs
            .retain(|_, (_, seen)| now.saturating_since(*seen) < long);
        self.has_looked = true;
    }

    /// Notes that the worker let a lease expire: it is no candidate until its row changes again.
    pub(crate) fn doubt(&mut self, worker: &WorkerId) {
        if let Some(seen) = self.rows.get_mut(worker) {
            seen.doubted = Some(mark(&seen.row));
        }
    }

    /// Forgets everything, as after a time in which somebody else watched.
    pub(crate) fn forget(&mut self) {
        self.watch.forget();
        self.rows.clear();
        self.has_looked = false;
    }

    /// The failover time by which this worker's leases are judged: the longer of its own and the observer's.
    pub(crate) fn failover_of(&self, worker: &WorkerId) -> Duration {
        let published = self.rows.get(worker).and_then(|seen| seen.row.failover);
        let published = published.unwrap_or_default().min(Lease::LONGEST_FAILOVER);
        published.max(self.failover)
    }

    /// The workers that may be given leases, in the order of their names. The observer itself always may, whatever its row shows.
    pub(crate) fn candidates(&self, me: &Candidate) -> Vec<Candidate> {
        let others = self
            .rows
            .values()
            .filter(|seen| seen.row.id != me.id && self.is_fit(seen));
        let mut candidates: Vec<Candidate> = others
            .map(|seen| Candidate {
                id: seen.row.id.clone(),
                max_leases: seen.row.max_leases,
                max_throughput: seen.row.max_throughput,
                leaving: false,
                proven: seen.has_changed,
            })
            .collect();
        candidates.push(me.clone());
        for candidate in &mut candidates {
            if let Some(orders) = self
                .rows
                .get(&candidate.id)
                .and_then(|seen| seen.row.orders.as_ref())
            {
                candidate.leaving |= orders.drained;
                // A worker above its limit gets nothing more and keeps what it has.
                candidate.max_leases = candidate
                    .max_leases
                    .filter(|_| !orders.excluded)
                    .or(orders.excluded.then_some(0));
            }
        }
        candidates.sort_by(|a, b| a.id.cmp(&b.id));
        candidates
    }

    /// The run of the process that the worker's row shows.
    pub(crate) fn incarnation_of(&self, worker: &WorkerId) -> Option<Incarnation> {
        self.rows.get(worker).and_then(|seen| seen.row.incarnation)
    }

    /// Whether the wall time in the worker's row is a failover time behind the newest of all: proof of nothing, and asked only by a
    /// deliberate bug.
    pub(crate) fn has_old_time(&self, worker: &WorkerId) -> bool {
        let newest = self.rows.values().map(|seen| seen.row.updated.as_millis()).max();
        let written = self.rows.get(worker).map(|seen| seen.row.updated.as_millis());
        let patience = i64::try_from(self.failover_of(worker).as_millis()).unwrap_or(i64::MAX);
        newest
            .zip(written)
            .is_some_and(|(newest, written)| newest - written > patience)
    }

    /// The rows of workers that died long ago: [`Timing::worker_retention`] of their failover times.
    ///
    /// A worker deletes its own row when it stops. One that crashed leaves it, and with ids that change from start to start
    /// the table would grow.
    pub(crate) fn expired_workers(&self) -> Vec<WorkerRow> {
        let rows = self.rows.values().map(|seen| &seen.row);
        rows.filter(|row| {
            let failover = row.failover.unwrap_or(self.failover);
            let long = Timing::of(failover).worker_retention;
            self.watch.is_still_for(&row.id, long)
        })
        .cloned()
        .collect()
    }

    /// Whether the worker has a row and lives.
    pub(crate) fn is_alive(&self, worker: &WorkerId) -> bool {
        self.rows.get(worker).is_some_and(|seen| self.lives(&seen.row))
    }

    /// Whether the worker's row has stood still for its failover time. Of a worker without a row nothing is known.
    pub(crate) fn has_died(&self, worker: &WorkerId) -> bool {
        self.rows.get(worker).is_some_and(|seen| !self.lives(&seen.row))
    }

    /// Whether a run of a process is known to be one of another worker than this, which may have left since.
    pub(crate) fn is_of_another(&self, run: Incarnation, worker: &WorkerId) -> bool {
        self.runs.get(&run).is_some_and(|(other, _)| other != worker)
    }

    fn is_fit(&self, seen: &SeenWorker) -> bool {
        let failover = seen.row.failover.unwrap_or(self.failover);
        let is_ours = seen.row.incarnation.is_some();
        is_ours
            && seen.doubted.is_none()
            && !self
                .watch
                .is_still_for(&seen.row.id, Timing::of(failover).candidacy)
    }

    fn lives(&self, row: &WorkerRow) -> bool {
        let own = row.failover.unwrap_or(self.failover);
        let patience = if row.incarnation.is_some() {
            own
        } else {
            own.max(JAVA_LIFE)
        };
        !self.watch.is_still_for(&row.id, patience)
    }
}

fn mark(row: &WorkerRow) -> LivenessMark {
    let written = if row.incarnation.is_some() {
        0
    } else {
        row.updated.as_millis()
    };
    (row.incarnation, row.touches, written)
}

/// Which worker failed on which lease, and until when it shall not get it back.
///
/// Without this a dead worker would be the idlest candidate for its own leases, and a worker that cannot make progress on a shard
/// would be given it again at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cooldowns {
    until: BTreeMap<LeaseKey, BTreeMap<WorkerId, Moment>>,
}

impl Cooldowns {
    /// Keeps the lease from the worker until then.
    pub(crate) fn note(&mut self, lease: &LeaseKey, worker: &WorkerId, until: Moment) {
        self.until
            .entry(lease.clone())
            .or_default()
            .insert(worker.clone(), until);
    }

    /// The workers that shall not get the lease.
    pub(crate) fn barred(&self, lease: &LeaseKey, now: Moment) -> BTreeSet<WorkerId> {
        let Some(workers) = self.until.get(lease) else {
            return BTreeSet::new();
        };
        let barred = workers.iter().filter(|&(_, &until)| now < until);
        barred.map(|(worker, _)| worker.clone()).collect()
    }

    /// Forgets what is over.
    pub(crate) fn prune(&mut self, now: Moment) {
        self.until.retain(|_, workers| {
            workers.retain(|_, until| now < *until);
            !workers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests;

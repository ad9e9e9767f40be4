//! Notices Java workers that use the lease table while this fleet runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lease::store::Scan;
use crate::lease::worker_row::WorkerRow;
use crate::runtime::clock::Moment;
use crate::types::{LeaseKey, WorkerId};

/// After this long without a sign of life a Java worker counts as gone, and is reported again when it returns.
///
/// A Java worker writes its row every 30 s (`workerMetricsReporterFreqInMillis`).
const GONE: Duration = Duration::from_secs(180);

/// The view of Java workers in successive scans.
///
/// Only rows that change between two scans count: a stopped Java application leaves its rows behind.
#[derive(Debug, Clone, Default)]
pub(crate) struct JavaWorkers {
    before: Option<SeenRows>,
    /// When each Java worker last gave a sign of life. `None` is one that wrote a lease under the name of a worker of this fleet.
    present: BTreeMap<Option<WorkerId>, Moment>,
}

/// The view of an earlier scan of the rows that a Java worker changes.
#[derive(Debug, Clone, Default)]
struct SeenRows {
    /// When each worker row without an incarnation was written, in ms since 1970.
    workers: BTreeMap<WorkerId, i64>,
    counters: BTreeMap<LeaseKey, u64>,
}

/// A change that is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum JavaChange {
    /// These Java workers appeared.
    Appeared {
        /// Those whose names are known.
        workers: BTreeSet<WorkerId>,
        /// A lease that one of them wrote, if any.
        lease: Option<LeaseKey>,
    },
    /// The last Java worker is gone.
    Gone,
}

impl JavaWorkers {
    /// Observes a successful scan, and logs what there is to report if this worker leads: one line for a fleet, not one per worker.
    pub(crate) fn watch(&mut self, now: Moment, scan: &Scan, leads: bool) {
        if let Some(news) = self.look(now, scan)
            && leads
        {
            news.tell();
        }
    }

    /// Observes a successful scan. Returns an appearance once, until the worker is gone and returns.
    fn look(&mut self, now: Moment, scan: &Scan) -> Option<JavaChange> {
        let ours: BTreeSet<&WorkerId> = scan
            .workers
            .iter()
            .filter(|row| row.incarnation.is_some())
            .map(|row| &row.id)
            .collect();
        let foreign = scan.workers.iter().filter(|row| row.incarnation.is_none());
        let rows = SeenRows {
            workers: foreign
                .map(|row| (row.id.clone(), row.updated.as_millis()))
                .collect(),
            counters: scan
                .leases
                .iter()
                .map(|lease| (lease.key.clone(), lease.counter))
                .collect(),
        };
        let before = self.before.replace(rows)?;
        let mut alive: BTreeMap<Option<WorkerId>, Option<LeaseKey>> = BTreeMap::new();
        for row in scan.workers.iter().filter(|row| before.is_of_live_java(row)) {
            alive.entry(Some(row.id.clone())).or_default();
        }
        // Every write of ours that moves the counter carries a stamp.
        for lease in scan.leases.iter().filter(|lease| lease.is_written_by_foreigner()) {
            let rose = before
                .counters
                .get(&lease.key)
                .is_some_and(|counter| *counter < lease.counter);
            if rose {
                let owner = lease.actual_owner().filter(|owner| !ours.contains(owner));
                alive.insert(owner.cloned(), Some(lease.key.clone()));
            }
        }
        self.news(now, alive)
    }

    fn news(
        &mut self,
        now: Moment,
        alive: BTreeMap<Option<WorkerId>, Option<LeaseKey>>,
    ) -> Option<JavaChange> {
        let had_any = !self.present.is_empty();
        self.present.retain(|_, seen| now.saturating_since(*seen) < GONE);
        let (mut workers, mut lease, mut is_news) = (BTreeSet::new(), None, false);
        for (worker, wrote) in alive {
            if self.present.insert(worker.clone(), now).is_none() {
                is_news = true;
                workers.extend(worker);
                lease = lease.or(wrote);
            }
        }
        if is_news {
            return Some(JavaChange::Appeared { workers, lease });
        }
        (had_any && self.present.is_empty()).then_some(JavaChange::Gone)
    }
}

impl SeenRows {
    /// Whether the row was written by a Java worker after these rows were read.
    fn is_of_live_java(&self, row: &WorkerRow) -> bool {
        row.incarnation.is_none() && self.workers.get(&row.id) != Some(&row.updated.as_millis())
    }
}

impl JavaChange {
    /// Logs it.
    fn tell(&self) {
        match self {
            Self::Appeared { workers, lease } => tracing::warn!(
                ?workers,
                lease = lease.as_ref().map(tracing::field::display),
                "Java workers use the lease table of this running fleet, and both take leases from each other: stop the Java \
                 workers, or drain this fleet before they start"
            ),
            Self::Gone => tracing::info!("the Java workers no longer use the lease table"),
        }
    }
}

#[cfg(test)]
mod tests;

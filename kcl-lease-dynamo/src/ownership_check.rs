//! Refuses a table that is another application's, that a Java application left and no start has claimed, or that a live Java worker
//! uses: pure decisions over what was read.
//!
//! A Java fleet has one leader of its own, deals leases by rules of its own and would fight ours over every row. Until both can
//! share a table, a live one is left alone. Rows that Java left behind say nothing about life: what moves while it is watched does.

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::lease_store::{Lease, Scan, StoreError, StoreErrorKind, WorkerRow};
use kcl_core::types::{ApplicationName, WorkerId};

use crate::codec::{Item, client_version};
use crate::options::is_name;
use crate::{attributes, codec};

/// The table in which the Java KCL 3.0 to 3.4 keeps its lock and its migration state.
pub(crate) fn coordinator_table(application: &str) -> String {
    format!("{application}-CoordinatorState")
}

/// The table in which the Java KCL 3.0 to 3.4 keeps the rows of its workers.
pub(crate) fn worker_table(application: &str) -> String {
    format!("{application}-WorkerMetricStats")
}

/// Returns `true` if tables can have the names that the Java KCL 3.0 to 3.4 makes of the application's. Where they cannot, as of an application
/// whose name holds a space, there are none, and to ask for one would fail with a name that was never chosen.
pub(crate) fn can_name_tables(application: &str) -> bool {
    is_name(&coordinator_table(application)) && is_name(&worker_table(application))
}

/// Refuses a table that was made for another application. `migration` is the row of the client version, if any; one that Java wrote
/// does not show it.
pub(crate) fn check_application(
    table: &str,
    application: &ApplicationName,
    migration: Option<&Item>,
) -> Result<(), StoreError> {
    match migration.and_then(codec::application) {
        Some(other) if other != application.as_str() => {
            let message = format!(
                "table {table} belongs to the application {other:?}, and this worker is of {:?}; nothing was written. Two \
                 applications cannot share a table: give the store the name of another one, or the worker that application's name",
                application.as_str()
            );
            Err(StoreError::definite(StoreErrorKind::Foreign, message))
        }
        _ => Ok(()),
    }
}

/// Whether a worker of ours has claimed the application of this table.
pub(crate) fn is_claimed(migration: Option<&Item>) -> bool {
    migration.and_then(codec::application).is_some()
}

/// The values that Java workers wrote and a live one would write again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JavaRows {
    /// When each worker's row was written, in seconds since 1970.
    workers: BTreeMap<String, i64>,
    /// The counters of the leases that a Java worker wrote last, whatever its name: it may have that of a worker of ours.
    leases: BTreeMap<String, u64>,
    /// The versions of the leaders' locks, by table.
    locks: BTreeMap<String, String>,
    /// The first lease whose owner is none of ours, and that owner.
    owner: Option<(String, WorkerId)>,
}

impl JavaRows {
    /// The evidence of the rows. `locks` are the rows of leaders, each with its table.
    pub(crate) fn of(leases: &[Lease], workers: &[WorkerRow], locks: &[(String, Item)]) -> Self {
        let ours = workers.iter().filter(|worker| worker.incarnation.is_some());
        let ours = ours.map(|worker| &worker.id).collect::<BTreeSet<_>>();
        let foreign = leases
            .iter()
            .filter(|lease| is_written_by_java(lease))
            .collect::<Vec<_>>();
        let owned = foreign.iter().find_map(|lease| {
            Some((lease, lease.actual_owner()?)).filter(|(_, owner)| !ours.contains(owner))
        });
        let rows = workers.iter().filter(|worker| worker.incarnation.is_none());
        let locks = locks.iter().filter(|(_, row)| !is_lock_of(row, &ours));
        let version = |row: &Item| {
            row.get(attributes::LOCK_VERSION)
                .and_then(|value| value.as_s().ok())
                .cloned()
        };
        Self {
            workers: rows
                .map(|worker| (worker.id.to_string(), worker.updated.as_secs()))
                .collect(),
            leases: foreign
                .iter()
                .map(|lease| (lease.key.to_string(), lease.counter))
                .collect(),
            locks: locks
                .filter_map(|(table, row)| Some((table.clone(), version(row)?)))
                .collect(),
            owner: owned.map(|(lease, owner)| (lease.key.to_string(), owner.clone())),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.leases.is_empty() && self.locks.is_empty()
    }

    /// Whether there are rows of workers or leaders.
    pub(crate) fn has_worker_rows(&self) -> bool {
        !self.workers.is_empty() || !self.locks.is_empty()
    }

    /// Leaves out locks where there is nothing else. A live Java worker has a row or a lease as well, and earlier builds of this library
    /// wrote locks without their mark.
    pub(crate) fn ignoring_lone_locks(mut self) -> Self {
        if self.workers.is_empty() && self.leases.is_empty() {
            self.locks.clear();
        }
        self
    }

    /// Leaves out the rows that were watched standing still before, and are as they were then.
    pub(crate) fn excluding(mut self, observed_java_rows: &BTreeSet<String>) -> Self {
        self.workers
            .retain(|worker, secs| !observed_java_rows.contains(&worker_fingerprint(worker, *secs)));
        self.locks
            .retain(|table, version| !observed_java_rows.contains(&lock_fingerprint(table, version)));
        self
    }

    /// The rows of workers and leaders, to be remembered once they were watched. Leases are not among them: they change hands soon.
    pub(crate) fn fingerprints(&self) -> BTreeSet<String> {
        let workers = self
            .workers
            .iter()
            .map(|(worker, secs)| worker_fingerprint(worker, *secs));
        let locks = self
            .locks
            .iter()
            .map(|(table, version)| lock_fingerprint(table, version));
        workers.chain(locks).take(MAX_FINGERPRINTS).collect()
    }

    /// The write of a Java worker between this look and a later one, in words.
    pub(crate) fn first_change(&self, later: &Self) -> Option<String> {
        let worker = later.workers.iter().find(|(worker, secs)| {
            let before = self.workers.get(*worker);
            before.is_none_or(|before| before < secs)
        });
        let lease = later.leases.iter().find(|(lease, counter)| {
            let before = self.leases.get(*lease);
            before.is_none_or(|before| before < counter)
        });
        let lock = later
            .locks
            .iter()
            .find(|(table, version)| self.locks.get(*table) != Some(version));
        let row = match (lease, worker, lock) {
            (Some((lease, _)), ..) => format!("lease {lease}"),
            (None, Some((worker, _)), _) => format!("the row of worker {worker}"),
            (None, None, Some((table, _))) => format!("the leader lock in table {table}"),
            (None, None, None) => return None,
        };
        Some(format!("{row} was written by a Java worker a moment ago"))
    }

    #[cfg(test)]
    pub(crate) fn for_tests(workers: &[(&str, i64)], leases: &[(&str, i64)]) -> Self {
        let counter = |counter: i64| u64::try_from(counter).unwrap();
        Self {
            workers: workers
                .iter()
                .map(|(worker, secs)| ((*worker).to_owned(), *secs))
                .collect(),
            leases: leases
                .iter()
                .map(|(lease, at)| ((*lease).to_owned(), counter(*at)))
                .collect(),
            ..Self::default()
        }
    }
}

/// How many rows are remembered at most: an item of DynamoDB has 400 KB.
const MAX_FINGERPRINTS: usize = 1000;

fn worker_fingerprint(worker: &str, secs: i64) -> String {
    format!("worker {worker} {secs}")
}

fn lock_fingerprint(table: &str, version: &str) -> String {
    format!("lock {table} {version}")
}

/// Why a table that no worker of ours has claimed may be a Java application's, in words; none where nothing says so.
/// `coordinator` is the coordinator table, if it is there, and `migration` the row of the client version.
pub(crate) fn reasons(
    table: &str,
    written: &JavaRows,
    coordinator: Option<&str>,
    migration: Option<&Item>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(coordinator.map(|table| format!("the Java KCL's table {table} exists")));
    let version = migration.map(client_version);
    let version = version.filter(|version| *version != attributes::CLIENT_VERSION_3X);
    reasons.extend(version.map(|version| {
        format!(
            "row {} of table {table} says {version}",
            attributes::CLIENT_VERSION_KEY
        )
    }));
    reasons.extend(written.owner.as_ref().map(|(lease, owner)| {
        format!("lease {lease} of table {table} belongs to worker {owner}, which is none of ours")
    }));
    let worker = written.workers.keys().next();
    reasons.extend(worker.map(|worker| format!("worker {worker} is a Java worker")));
    let lock = written.locks.keys().next();
    reasons.extend(lock.map(|table| format!("the leader lock in table {table} is a Java worker's")));
    reasons
}

/// How users write the setting, wherever they do.
const SETTING: &str = "Settings::take_over_java in code, --take-over-java on the command line of trucks_worker, or \
                       \"take_over_java\": true in a settings file";

/// Refuses a Java application until a start says that it is stopped.
pub(crate) fn refuse_unclaimed(reasons: &[String]) -> StoreError {
    foreign(&format!(
        "{}: Java workers may be running this application, and sharing it with them is not supported; nothing was written. Use \
         another application name, or stop every Java worker and start once with the setting take_over_java ({SETTING}); the table \
         remembers the answer",
        reasons.join(", ")
    ))
}

/// Refuses a table that a Java worker uses now, with the setting and without it.
pub(crate) fn refuse_live(moved: &str, claimed: bool) -> StoreError {
    let then = if claimed {
        "start again: this application was taken over before, and needs no setting".to_owned()
    } else {
        format!("start again with the setting take_over_java ({SETTING})")
    };
    foreign(&format!(
        "{moved}, and sharing an application with live Java workers is not supported; nothing was written. Stop every Java worker, and \
         {then}"
    ))
}

fn foreign(message: &str) -> StoreError {
    StoreError::definite(StoreErrorKind::Foreign, message)
}

/// Whether a Java worker wrote the lease last and may write it again.
///
/// Java leaves the owner on the leases of finished shards for ever, so these say nothing about life. A lease that was never written
/// after its creation has the owner that created it, which is one of ours.
fn is_written_by_java(lease: &Lease) -> bool {
    let is_owned = lease.actual_owner().is_some() && !lease.is_ended();
    is_owned && lease.counter > 0 && lease.is_written_by_foreigner()
}

/// Whether the lock is that of a worker of ours. One from before such locks were marked has an owner among them, or a standby.
fn is_lock_of(row: &Item, ours: &BTreeSet<&WorkerId>) -> bool {
    let owner = row
        .get(attributes::LOCK_OWNER)
        .and_then(|value| value.as_s().ok());
    let is_marked = row.contains_key(attributes::LOCK_IS_OURS) || row.contains_key(attributes::LOCK_DEPUTY);
    is_marked || owner.is_some_and(|owner| ours.iter().any(|id| id.as_str() == owner))
}

/// Whether no worker of any kind has used the table for this application yet.
pub(crate) fn is_unused(scan: &Scan, migration: Option<&Item>) -> bool {
    scan.leases.is_empty() && scan.undecodable.is_empty() && migration.is_none()
}

#[cfg(test)]
mod tests;

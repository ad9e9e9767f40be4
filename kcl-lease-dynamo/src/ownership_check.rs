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
mod tests {
    use kcl_core::lease_store::{LeaseChange, apply};
    use kcl_core::types::{Incarnation, Position, Timestamp};

    use super::*;
    use crate::codec::{client_version_item, s};

    fn incarnation() -> Incarnation {
        Incarnation::from_random_bytes([4; 16])
    }

    fn lease() -> Lease {
        Lease::unowned("shardId-1".parse().unwrap(), Position::TrimHorizon)
    }

    fn java_lease() -> Lease {
        Lease {
            owner: Some("worker-1".parse().unwrap()),
            counter: 7,
            ..lease()
        }
    }

    fn worker(incarnation: Option<Incarnation>) -> WorkerRow {
        WorkerRow {
            id: "worker-1".parse().unwrap(),
            incarnation,
            touches: 0,
            failover: None,
            max_leases: None,
            max_throughput: None,
            updated: Timestamp::from_millis(5000),
        }
    }

    #[test]
    fn application_that_names_no_table_has_no_tables_of_java() {
        assert!(can_name_tables("trucks") && can_name_tables(&"x".repeat(237)));
        for application in [
            "my trucks",
            "größe",
            &*"x".repeat(238),
            "arn:aws:dynamodb:eu-west-1:1:table/x",
        ] {
            assert!(!can_name_tables(application), "{application}");
        }
    }

    fn lock(version: &str, ours: bool) -> (String, Item) {
        let mut row = Item::from([(attributes::LOCK_VERSION.to_owned(), s(version))]);
        if ours {
            row.insert(attributes::LOCK_IS_OURS.to_owned(), s("1"));
        }
        ("app-CoordinatorState".to_owned(), row)
    }

    fn why(leases: &[Lease], workers: &[WorkerRow]) -> String {
        reasons("table", &JavaRows::of(leases, workers, &[]), None, None).join(", ")
    }

    #[test]
    fn lease_of_an_unknown_worker_is_a_reason() {
        let why = why(&[java_lease()], &[worker(None)]);
        let expected = "lease shardId-1 of table table belongs to worker worker-1, which is none of ours, worker worker-1 is a Java \
                        worker";
        assert_eq!(why, expected);
    }

    #[test]
    fn lease_that_java_hands_over_is_a_reason() {
        let lease = Lease {
            checkpoint_owner: Some("worker-2".parse().unwrap()),
            ..java_lease()
        };
        assert!(why(&[lease], &[worker(Some(incarnation()))]).contains("worker-2"));
    }

    #[test]
    fn leases_of_ours_are_no_reason() {
        assert_eq!(why(&[java_lease()], &[worker(Some(incarnation()))]), "");
        let to = "worker-9".parse().unwrap();
        let ours = apply(&java_lease(), &LeaseChange::Assign { to }, incarnation());
        assert_eq!(why(&[ours], &[]), "");
        assert_eq!(why(&[lease()], &[]), "");
        let child = Lease {
            owner: Some("worker-9".parse().unwrap()),
            ..lease()
        };
        assert_eq!(why(&[child], &[]), "");
    }

    #[test]
    fn finished_lease_that_java_left_is_no_reason() {
        let ended = Lease {
            checkpoint: Position::ShardEnd,
            ..java_lease()
        };
        assert_eq!(why(&[ended], &[]), "");
    }

    #[test]
    fn refusal_names_the_setting_as_users_write_it() {
        for refusal in [
            refuse_unclaimed(&["row x says y".to_owned()]),
            refuse_live("lease l was written", false),
        ] {
            assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
            let text = refusal.to_string();
            for name in [
                "Settings::take_over_java",
                "--take-over-java",
                "\"take_over_java\": true",
            ] {
                assert!(text.contains(name), "{text}");
            }
        }
        let claimed = refuse_live("lease l was written", true).to_string();
        assert!(claimed.contains("needs no setting"), "{claimed}");
    }

    #[test]
    fn whatever_a_java_worker_writes_is_movement() {
        let java = |counter, millis, version| {
            let lease = Lease {
                counter,
                ..java_lease()
            };
            let worker = WorkerRow {
                updated: Timestamp::from_millis(millis),
                ..worker(None)
            };
            JavaRows::of(&[lease], &[worker], &[lock(version, false)])
        };
        let first = java(7, 5000, "a");
        assert_eq!(first.first_change(&java(7, 5000, "a")), None);
        // An old row that a scan still shows is no movement.
        assert_eq!(first.first_change(&java(6, 4000, "a")), None);
        assert!(
            first
                .first_change(&java(8, 5000, "a"))
                .unwrap()
                .starts_with("lease shardId-1 ")
        );
        assert!(
            first
                .first_change(&java(7, 35_000, "a"))
                .unwrap()
                .starts_with("the row of worker worker-1 ")
        );
        assert!(
            first
                .first_change(&java(7, 5000, "b"))
                .unwrap()
                .starts_with("the leader lock ")
        );
        assert!(JavaRows::default().first_change(&first).is_some());
        assert_eq!(first.first_change(&JavaRows::default()), None);
    }

    #[test]
    fn java_worker_under_the_id_of_ours_is_watched() {
        let of_ours = [worker(Some(incarnation()))];
        let at = |counter| {
            JavaRows::of(
                &[Lease {
                    counter,
                    ..java_lease()
                }],
                &of_ours,
                &[],
            )
        };
        assert!(!at(7).is_empty());
        assert!(at(7).first_change(&at(8)).is_some());
    }

    #[test]
    fn lock_of_ours_is_no_trace_of_java() {
        assert!(JavaRows::of(&[], &[], &[lock("a", true)]).is_empty());
        assert!(!JavaRows::of(&[], &[], &[lock("a", false)]).is_empty());
    }

    #[test]
    fn unmarked_lock_of_a_worker_of_ours_is_ours() {
        let (table, mut row) = lock("a", false);
        row.insert(attributes::LOCK_OWNER.to_owned(), s("worker-1"));
        let locks = [(table, row)];
        assert!(JavaRows::of(&[], &[worker(Some(incarnation()))], &locks).is_empty());
        let of_java = JavaRows::of(&[], &[worker(None)], &locks);
        assert!(
            of_java
                .first_change(&JavaRows::of(&[], &[worker(None)], &[lock("b", false)]))
                .is_some()
        );
        // Its worker has left: nothing else of Java is there.
        let alone = JavaRows::of(&[], &[], &locks);
        assert!(alone.has_worker_rows() && alone.ignoring_lone_locks().is_empty());
    }

    #[test]
    fn rows_that_were_watched_are_watched_again_once_they_moved() {
        let at = |millis, version| {
            let worker = WorkerRow {
                updated: Timestamp::from_millis(millis),
                ..worker(None)
            };
            JavaRows::of(&[], &[worker], &[lock(version, false)])
        };
        let fingerprints = at(5000, "a").fingerprints();
        assert!(at(5000, "a").excluding(&fingerprints).is_empty());
        assert!(at(5000, "b").excluding(&fingerprints).has_worker_rows());
        let moved = at(35_000, "a").excluding(&fingerprints);
        assert!(JavaRows::default().first_change(&moved).is_some());
        let with_lease = JavaRows::of(&[java_lease()], &[], &[]).excluding(&fingerprints);
        assert!(!with_lease.is_empty() && !with_lease.has_worker_rows());
    }

    fn version_row() -> Item {
        let (application, worker) = ("app".parse().unwrap(), "worker-1".parse().unwrap());
        client_version_item(&application, &worker, Timestamp::from_millis(5))
    }

    #[test]
    fn a_table_that_was_made_for_another_application_is_refused() {
        let check = |name: &str, row: Option<&Item>| check_application("t", &name.parse().unwrap(), row);
        let mut row = version_row();
        assert!(check("app", Some(&row)).is_ok());
        let refusal = check("other", Some(&row)).unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
        assert!(
            refusal
                .to_string()
                .starts_with(r#"table t belongs to the application "app", and this worker is of "other""#),
            "{refusal}"
        );
        row.remove(attributes::APPLICATION);
        assert!(check("other", Some(&row)).is_ok() && check("other", None).is_ok());
    }

    #[test]
    fn any_client_version_but_3x_is_a_reason() {
        let mut row = version_row();
        let why = |row: &Item| reasons("table", &JavaRows::default(), None, Some(row)).join(", ");
        assert_eq!(why(&row), "");
        for version in [
            "CLIENT_VERSION_2X",
            "CLIENT_VERSION_UPGRADE_FROM_2X",
            "CLIENT_VERSION_3X_WITH_ROLLBACK",
        ] {
            row.insert(attributes::CLIENT_VERSION.to_owned(), s(version));
            assert!(why(&row).contains(version));
        }
        row.remove(attributes::CLIENT_VERSION);
        assert!(!why(&row).is_empty());
    }

    #[test]
    fn only_an_application_without_leases_and_without_a_client_version_is_new() {
        let row = Item::new();
        let used = Scan {
            leases: vec![lease()],
            ..Scan::default()
        };
        assert!(is_unused(&Scan::default(), None));
        assert!(!is_unused(&used, None));
        assert!(!is_unused(&Scan::default(), Some(&row)));
    }
}

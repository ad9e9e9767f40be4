//! Refuses a table that is another application's, or that Java workers may be using: pure decisions over what was read.
//!
//! A Java fleet has one leader of its own, deals leases by rules of its own and would fight ours over every row. Until both can
//! share a table, a live one is left alone.

use std::collections::BTreeSet;

use kcl_core::lease::{Lease, Scan, StoreError, StoreErrorKind};
use kcl_core::model::{ApplicationName, WorkerId};

use crate::codec::{Item, client_version};
use crate::{attr, codec};

/// The table in which the Java KCL 3.0 to 3.4 keeps its lock and its migration state.
pub(crate) fn coordinator_table(application: &str) -> String {
    format!("{application}-CoordinatorState")
}

/// Refuses an application whose three-table layout is there.
pub(crate) fn refuse_coordinator_table(table: &str) -> StoreError {
    refuse(&format!("the Java KCL's table {table} exists"))
}

/// Refuses a table that was made for another application. `migration` is the row of the client version, if any; one that Java wrote
/// does not tell.
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

/// Refuses a table whose rows show a Java fleet that may be alive. `migration` is the row of the client version, if any.
pub(crate) fn check_rows(table: &str, scan: &Scan, migration: Option<&Item>) -> Result<(), StoreError> {
    if let Some(version) = migration.map(client_version)
        && version != attr::CLIENT_VERSION_3X
    {
        let key = attr::CLIENT_VERSION_KEY;
        return Err(refuse(&format!("row {key} of table {table} says {version}")));
    }
    let ours = scan.workers.iter().filter(|worker| worker.incarnation.is_some());
    let ours = ours.map(|worker| &worker.id).collect::<BTreeSet<_>>();
    match scan.leases.iter().find_map(|lease| foreign_owner(lease, &ours)) {
        Some((lease, owner)) => Err(refuse(&format!(
            "lease {} of table {table} belongs to worker {owner}, which is none of ours",
            lease.key
        ))),
        None => Ok(()),
    }
}

/// The owner of the lease, if it is a worker that knows nothing of us.
///
/// Java leaves the owner on the leases of finished shards for ever, so these tell nothing about life.
fn foreign_owner<'a>(lease: &'a Lease, ours: &BTreeSet<&WorkerId>) -> Option<(&'a Lease, &'a WorkerId)> {
    let owner = lease.actual_owner()?;
    let foreign = !lease.is_ended() && lease.is_written_by_foreigner() && !ours.contains(owner);
    foreign.then_some((lease, owner))
}

/// Whether no worker of any kind has used the table for this application yet.
pub(crate) fn is_new_application(scan: &Scan, migration: Option<&Item>) -> bool {
    scan.leases.is_empty() && scan.undecodable.is_empty() && migration.is_none()
}

fn refuse(finding: &str) -> StoreError {
    let message = format!(
        "{finding}: Java workers may be running this application, and sharing it with them is not supported; nothing was \
         written. Use another application name, or stop every Java worker and start with the setting take_over_java"
    );
    StoreError::definite(StoreErrorKind::Foreign, message)
}

#[cfg(test)]
mod tests {
    use kcl_core::lease::{LeaseChange, WorkerRow, apply};
    use kcl_core::model::{Incarnation, Position};
    use kcl_core::time::Timestamp;

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
            updated: Timestamp::from_millis(0),
        }
    }

    fn verdict(leases: Vec<Lease>, workers: Vec<WorkerRow>) -> Option<String> {
        let scan = Scan {
            leases,
            workers,
            ..Scan::default()
        };
        check_rows("table", &scan, None).err().map(|error| {
            assert_eq!(error.kind(), StoreErrorKind::Foreign);
            error.to_string()
        })
    }

    #[test]
    fn a_lease_of_an_unknown_worker_that_wrote_last_is_refused_naming_the_setting() {
        let refusal = verdict(vec![java_lease()], vec![worker(None)]).unwrap();
        assert!(
            refusal.starts_with("lease shardId-1 of table table belongs to worker worker-1"),
            "{refusal}"
        );
        assert!(refusal.contains("take_over_java"), "{refusal}");
    }

    #[test]
    fn a_lease_that_java_hands_over_between_its_workers_is_refused() {
        let lease = Lease {
            checkpoint_owner: Some("worker-2".parse().unwrap()),
            ..java_lease()
        };
        assert!(verdict(vec![lease], vec![worker(Some(incarnation()))]).is_some());
    }

    #[test]
    fn our_own_leases_are_not_refused_even_after_their_worker_was_buried() {
        assert_eq!(
            verdict(vec![java_lease()], vec![worker(Some(incarnation()))]),
            None
        );
        let to = "worker-9".parse().unwrap();
        let ours = apply(&java_lease(), &LeaseChange::Assign { to }, incarnation());
        assert_eq!(verdict(vec![ours], vec![]), None);
        assert_eq!(verdict(vec![lease()], vec![]), None);
    }

    #[test]
    fn a_finished_lease_that_java_left_behind_is_not_refused() {
        let ended = Lease {
            checkpoint: Position::ShardEnd,
            ..java_lease()
        };
        assert_eq!(verdict(vec![ended], vec![]), None);
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
        row.remove(attr::APPLICATION);
        assert!(check("other", Some(&row)).is_ok() && check("other", None).is_ok());
    }

    #[test]
    fn any_client_version_but_3x_is_refused() {
        let mut row = version_row();
        assert!(check_rows("table", &Scan::default(), Some(&row)).is_ok());
        for version in [
            "CLIENT_VERSION_2X",
            "CLIENT_VERSION_UPGRADE_FROM_2X",
            "CLIENT_VERSION_3X_WITH_ROLLBACK",
        ] {
            row.insert(attr::CLIENT_VERSION.to_owned(), s(version));
            let refusal = check_rows("table", &Scan::default(), Some(&row))
                .unwrap_err()
                .to_string();
            assert!(refusal.contains(version), "{refusal}");
        }
        row.remove(attr::CLIENT_VERSION);
        assert!(check_rows("table", &Scan::default(), Some(&row)).is_err());
    }

    #[test]
    fn only_an_application_without_leases_and_without_a_client_version_is_new() {
        let row = Item::new();
        let used = Scan {
            leases: vec![lease()],
            ..Scan::default()
        };
        assert!(is_new_application(&Scan::default(), None));
        assert!(!is_new_application(&used, None));
        assert!(!is_new_application(&Scan::default(), Some(&row)));
    }
}

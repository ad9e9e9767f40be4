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
        started: None,
        version: None,
        orders: None,
    }
}

#[test]
fn application_naming_no_table_has_no_java_tables() {
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
fn java_worker_under_our_id_is_watched() {
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
fn unmarked_lock_of_our_worker_is_ours() {
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
fn rows_are_watched_again_once_they_moved() {
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
fn table_made_for_another_application_is_refused() {
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
fn only_application_without_leases_and_version_is_new() {
    let row = Item::new();
    let used = Scan {
        leases: vec![lease()],
        ..Scan::default()
    };
    assert!(is_unused(&Scan::default(), None));
    assert!(!is_unused(&used, None));
    assert!(!is_unused(&Scan::default(), Some(&row)));
}

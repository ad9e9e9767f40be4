use super::*;
use crate::lease::change::{LeaseChange, apply};
use crate::lease::row::{Lease, OwnerNotes, RowFacts};
use crate::types::{Incarnation, Position, Timestamp};

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn row(name: &str, seconds: i64) -> WorkerRow {
    WorkerRow {
        id: id(name),
        incarnation: None,
        touches: 0,
        failover: None,
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(seconds * 1000),
        started: None,
        version: None,
        orders: None,
    }
}

fn lease(owner: &str, counter: u64) -> Lease {
    Lease {
        owner: Some(id(owner)),
        counter,
        ..Lease::unowned("shard-1".parse().unwrap(), Position::TrimHorizon)
    }
}

fn look(watch: &mut JavaWorkers, second: u64, leases: &[Lease], workers: &[WorkerRow]) -> Option<JavaChange> {
    let scan = Scan {
        leases: leases.to_vec(),
        workers: workers.to_vec(),
        ..Scan::default()
    };
    watch.look(Moment::from_origin(Duration::from_secs(second)), &scan)
}

fn appeared(names: &[&str]) -> Option<JavaChange> {
    let workers = names.iter().map(|name| id(name)).collect();
    Some(JavaChange::Appeared { workers, lease: None })
}

#[test]
fn rows_that_java_left_behind_are_no_news() {
    let mut watch = JavaWorkers::default();
    for second in 0..400 {
        assert_eq!(
            look(&mut watch, second, &[lease("java", 7)], &[row("java", 5)]),
            None
        );
    }
}

#[test]
fn java_row_that_moves_is_reported_once() {
    let mut watch = JavaWorkers::default();
    assert_eq!(look(&mut watch, 0, &[], &[row("java", 0)]), None);
    assert_eq!(look(&mut watch, 30, &[], &[row("java", 30)]), appeared(&["java"]));
    for second in (60..600).step_by(30) {
        let at = i64::try_from(second).unwrap();
        assert_eq!(
            look(&mut watch, second, &[], &[row("java", at)]),
            None,
            "after {second} s"
        );
    }
}

#[test]
fn java_row_added_while_watching_is_reported() {
    let mut watch = JavaWorkers::default();
    assert_eq!(look(&mut watch, 0, &[], &[]), None);
    assert_eq!(look(&mut watch, 1, &[], &[row("java", 1)]), appeared(&["java"]));
    let both = [row("java", 1), row("more", 2)];
    assert_eq!(look(&mut watch, 2, &[], &both), appeared(&["more"]));
}

#[test]
fn java_worker_that_returns_is_reported_again() {
    let mut watch = JavaWorkers::default();
    look(&mut watch, 0, &[], &[]);
    assert!(look(&mut watch, 1, &[], &[row("java", 1)]).is_some());
    assert_eq!(look(&mut watch, 180, &[], &[row("java", 1)]), None);
    assert_eq!(
        look(&mut watch, 181, &[], &[row("java", 1)]),
        Some(JavaChange::Gone)
    );
    assert_eq!(look(&mut watch, 182, &[], &[row("java", 1)]), None);
    assert_eq!(
        look(&mut watch, 183, &[], &[row("java", 183)]),
        appeared(&["java"])
    );
}

#[test]
fn lease_renewed_by_java_is_reported_with_owner() {
    let mut watch = JavaWorkers::default();
    look(&mut watch, 0, &[lease("java", 7)], &[]);
    let news = look(&mut watch, 4, &[lease("java", 8)], &[]);
    let lease_key = lease("java", 8).key;
    assert_eq!(
        news,
        Some(JavaChange::Appeared {
            workers: [id("java")].into(),
            lease: Some(lease_key)
        })
    );
    assert_eq!(look(&mut watch, 8, &[lease("java", 9)], &[]), None);
}

#[test]
fn lease_that_java_gives_to_ours_is_reported() {
    let ours = WorkerRow {
        incarnation: Some(Incarnation::from_random_bytes([1; 16])),
        ..row("ours", 1)
    };
    let mut watch = JavaWorkers::default();
    look(&mut watch, 0, &[lease("java", 7)], std::slice::from_ref(&ours));
    let news = look(&mut watch, 4, &[lease("ours", 8)], &[ours]);
    let expected = JavaChange::Appeared {
        workers: [].into(),
        lease: Some(lease("ours", 8).key),
    };
    assert_eq!(news, Some(expected));
}

#[test]
fn writes_of_this_fleet_are_no_news() {
    let run = Incarnation::from_random_bytes([1; 16]);
    let mut watch = JavaWorkers::default();
    let mut row = lease("java", 7);
    look(&mut watch, 0, &[row.clone()], &[]);
    let renew = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    };
    for (second, change) in [
        LeaseChange::Assign { to: id("ours") },
        renew,
        LeaseChange::Release,
    ]
    .into_iter()
    .enumerate()
    {
        row = apply(&row, &change, run);
        assert_eq!(
            look(
                &mut watch,
                u64::try_from(second).unwrap() + 1,
                &[row.clone()],
                &[]
            ),
            None
        );
    }
}

use super::*;
use crate::coordinator::assignment::assignment_plan::Reason;
use crate::coordinator::assignment::plan::plan_assignment;
use crate::lease::change::{LeaseChange, apply};
use crate::lease::row::{OwnerNotes, RowFacts};
use crate::types::{Incarnation, Position, Timestamp};

const F: Duration = Duration::from_secs(10);
const CADENCE: Duration = Duration::from_secs(1);

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn incarnation() -> Incarnation {
    Incarnation::from_random_bytes([1; 16])
}

fn lease(n: u32, owner: Option<&str>) -> Lease {
    let shard = ShardId::new(format!("shard-{n}")).unwrap();
    Lease {
        owner: owner.map(id),
        ..Lease::unowned(shard, Position::TrimHorizon)
    }
}

fn change(lease: &mut Lease, change: LeaseChange) {
    *lease = apply(lease, &change, incarnation());
}

fn renew(lease: &mut Lease) {
    change(
        lease,
        LeaseChange::Renew {
            notes: OwnerNotes::NONE,
            facts: RowFacts::NONE,
        },
    );
}

fn worker(name: &str, touches: u64) -> WorkerRow {
    WorkerRow {
        id: id(name),
        incarnation: Some(incarnation()),
        touches,
        failover: Some(F),
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(0),
        started: None,
        version: None,
        orders: None,
    }
}

fn table_view() -> TableView {
    let me = Candidate {
        id: id("me"),
        max_leases: None,
        max_throughput: None,
        leaving: false,
        proven: true,
    };
    TableView::new(me, F, CADENCE)
}

fn look(view: &mut TableView, second: u64, leases: &[Lease], workers: &[WorkerRow]) {
    let scan = Scan {
        leases: leases.to_vec(),
        workers: workers.to_vec(),
        ..Scan::default()
    };
    view.look(Moment::from_origin(Duration::from_secs(second)), scan);
}

fn lease_view(view: &TableView, n: u32) -> LeaseView {
    let key = lease(n, None).key;
    let snapshot = view.snapshot(10);
    snapshot
        .leases
        .into_iter()
        .find(|lease| lease.key == key)
        .unwrap()
}

#[test]
fn lease_without_renewal_expires_and_bars_owner() {
    let mut view = table_view();
    let (dead, mut live) = (lease(0, Some("a")), lease(1, Some("a")));
    for second in 0..=10 {
        renew(&mut live);
        look(
            &mut view,
            second,
            &[dead.clone(), live.clone()],
            &[worker("a", second)],
        );
        let expected = if second < 10 { Hold::Held } else { Hold::Expired };
        assert_eq!(lease_view(&view, 0).hold, expected, "after {second} s");
    }
    assert_eq!(lease_view(&view, 1).hold, Hold::Held);
    assert!(lease_view(&view, 0).barred.contains(&id("a")));
    let plan = plan_assignment(&view.snapshot(0));
    assert_eq!(
        (&plan.moves[0].to, plan.moves[0].reason),
        (&id("me"), Reason::Expired)
    );
}

#[test]
fn lease_says_how_long_owner_may_be_silent() {
    // The observer never saw the row of the owner, which leaves, and lives by a failover time three times as long as its own.
    let mut view = table_view();
    let mut held = lease(0, Some("leaving"));
    let told = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts {
            failover: Some(F * 3),
            ..RowFacts::NONE
        },
    };
    change(&mut held, told);
    for second in 0..30 {
        look(&mut view, second, std::slice::from_ref(&held), &[]);
        assert_eq!(lease_view(&view, 0).hold, Hold::Held, "after {second} s");
        assert!(!view.is_overdue(&held.key, Duration::ZERO));
    }
    assert_eq!(view.next_expiry(), Some(Moment::from_origin(F * 3)));
    look(&mut view, 30, std::slice::from_ref(&held), &[]);
    assert_eq!(lease_view(&view, 0).hold, Hold::Expired);
}

#[test]
fn restart_with_shorter_failover_time_shortens_no_lease() {
    let mut view = table_view();
    let mut held = lease(0, Some("a"));
    let told = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts {
            failover: Some(F * 3),
            ..RowFacts::NONE
        },
    };
    change(&mut held, told);
    // The row is that of a newer process under the same id.
    for second in 0..30 {
        let newer = run("a", 9, second);
        look(&mut view, second, std::slice::from_ref(&held), &[newer]);
        assert_eq!(lease_view(&view, 0).hold, Hold::Held, "after {second} s");
    }
}

#[test]
fn endless_failover_time_keeps_no_lease_for_ever() {
    let endless = Some(Duration::from_millis(u64::MAX));
    for (in_lease, in_worker_row) in [(endless, None), (None, endless)] {
        let mut view = table_view();
        let mut held = lease(0, Some("a"));
        let facts = RowFacts {
            failover: in_lease,
            ..RowFacts::NONE
        };
        let notes = OwnerNotes::NONE;
        change(&mut held, LeaseChange::Renew { notes, facts });
        let row = WorkerRow {
            failover: in_worker_row,
            ..worker("a", 1)
        };
        for second in 0..=3600 {
            look(
                &mut view,
                second,
                std::slice::from_ref(&held),
                std::slice::from_ref(&row),
            );
        }
        assert_eq!(lease_view(&view, 0).hold, Hold::Expired);
    }
}

#[test]
fn failover_time_left_behind_for_java_is_ignored() {
    let mut view = table_view();
    let mut held = lease(0, Some("java"));
    held.failover = Some(F * 3);
    held.counter = 7;
    for second in 0..=10 {
        look(&mut view, second, std::slice::from_ref(&held), &[]);
    }
    assert_eq!(lease_view(&view, 0).hold, Hold::Expired);
}

/// The row of a worker of which every run has another incarnation.
fn run(name: &str, incarnation: u8, touches: u64) -> WorkerRow {
    WorkerRow {
        incarnation: Some(Incarnation::from_random_bytes([incarnation; 16])),
        ..worker(name, touches)
    }
}

#[test]
fn lease_handed_to_dead_worker_is_free() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    renew(&mut row);
    for second in 0..=20 {
        match second {
            0..8 => renew(&mut row),
            8 => change(&mut row, LeaseChange::BeginHandoff { to: id("b") }),
            // Its old owner keeps it until it hands it over, whoever is dead.
            9..12 => renew(&mut row),
            12 => change(&mut row, LeaseChange::CompleteHandoff),
            _ => {}
        }
        let workers = [worker("a", second), run("b", 2, 1)];
        look(&mut view, second, &[row.clone()], &workers);
        let expected = if second < 12 { Hold::Held } else { Hold::Expired };
        assert_eq!(lease_view(&view, 0).hold, expected, "after {second} s");
    }
    assert!(lease_view(&view, 0).barred.contains(&id("b")));
}

#[test]
fn lease_handed_by_leaver_to_dead_is_free() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    change(&mut row, LeaseChange::BeginHandoff { to: id("b") });
    for second in 0..=12 {
        if second == 5 {
            change(&mut row, LeaseChange::CompleteHandoff);
        }
        let workers = [run("b", 2, 1), worker("a", second)];
        let left = if second < 5 { &workers[..] } else { &workers[..1] };
        look(&mut view, second, &[row.clone()], left);
        let expected = if second < 10 { Hold::Held } else { Hold::Expired };
        assert_eq!(lease_view(&view, 0).hold, expected, "after {second} s");
    }
}

#[test]
fn children_that_dead_worker_created_are_free() {
    let mut view = table_view();
    for second in 0..=12 {
        // The child of a shard that the worker ended just before it died.
        let born = if second < 4 {
            None
        } else {
            Some(lease(0, Some("b")))
        };
        let leases = born.as_slice();
        look(&mut view, second, leases, &[run("b", 2, 1)]);
        if born.is_some() {
            let expected = if second < 10 { Hold::Held } else { Hold::Expired };
            assert_eq!(lease_view(&view, 0).hold, expected, "after {second} s");
        }
    }
}

#[test]
fn restarted_worker_holds_lease_despite_its_old_row() {
    let mut view = table_view();
    let mut row = lease(0, Some("b"));
    for second in 0..=20 {
        // The process that stamps it is another than the one in the row of the worker.
        renew(&mut row);
        let workers = [run("b", 2, 1), run("c", 3, second)];
        look(&mut view, second, &[row.clone()], &workers);
        assert_eq!(lease_view(&view, 0).hold, Hold::Held, "after {second} s");
    }
}

#[test]
fn lease_taken_up_outlives_still_row_of_worker() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    for second in 0..=21 {
        if second < 12 {
            renew(&mut row);
        }
        look(&mut view, second, &[row.clone()], &[worker("a", 1)]);
        let expected = if second < 21 { Hold::Held } else { Hold::Expired };
        assert_eq!(lease_view(&view, 0).hold, expected, "after {second} s");
    }
}

#[test]
fn expired_lease_that_nobody_gives_away_is_overdue() {
    let mut view = table_view();
    let key = lease(0, None).key;
    for second in 0..=12 {
        assert!(!view.is_overdue(&key, CADENCE * 2), "after {second} s");
        look(&mut view, second, &[lease(0, Some("a"))], &[]);
    }
    assert!(view.is_overdue(&key, CADENCE * 2));
}

#[test]
fn next_expiry_is_of_lease_renewed_longest_ago() {
    let mut view = table_view();
    let mut renewed = lease(1, Some("a"));
    look(&mut view, 0, &[lease(0, Some("a")), renewed.clone()], &[]);
    renew(&mut renewed);
    look(&mut view, 1, &[lease(0, Some("a")), renewed], &[]);
    assert_eq!(view.next_expiry(), Some(Moment::ZERO + F));
}

#[test]
fn beginning_of_handoff_is_no_sign_of_life() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    for second in 0..=10 {
        if second == 5 {
            change(&mut row, LeaseChange::BeginHandoff { to: id("b") });
        }
        look(
            &mut view,
            second,
            &[row.clone()],
            &[worker("a", second), worker("b", second)],
        );
    }
    assert_eq!(lease_view(&view, 0).hold, Hold::Expired);
}

#[test]
fn declined_handoff_leaves_lease_alone_for_a_while() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    change(&mut row, LeaseChange::BeginHandoff { to: id("b") });
    look(&mut view, 0, &[row.clone()], &[]);
    change(&mut row, LeaseChange::CancelHandoff);
    for second in 1..=102 {
        renew(&mut row);
        look(&mut view, second, &[row.clone()], &[]);
        assert_eq!(lease_view(&view, 0).left_alone, second < 101, "after {second} s");
    }
}

#[test]
fn release_bars_worker_unless_it_leaves() {
    for (workers, barred) in [(vec![worker("a", 2)], true), (vec![], false)] {
        let mut view = table_view();
        let mut row = lease(0, Some("a"));
        look(&mut view, 0, &[row.clone()], &[worker("a", 1)]);
        change(&mut row, LeaseChange::Release);
        look(&mut view, 1, &[row], &workers);
        assert_eq!(lease_view(&view, 0).barred.contains(&id("a")), barred);
    }
}

#[test]
fn scan_behind_our_own_write_is_corrected() {
    let mut view = table_view();
    let before = lease(0, None);
    look(&mut view, 0, std::slice::from_ref(&before), &[]);
    let mut after = before.clone();
    change(&mut after, LeaseChange::Assign { to: id("me") });
    view.wrote(before.version(), after.clone());
    for scanned in [&before, &after] {
        look(&mut view, 1, std::slice::from_ref(scanned), &[]);
        let seen = lease_view(&view, 0);
        assert_eq!((seen.version, seen.arriving), (after.version(), true));
    }
    renew(&mut after);
    look(&mut view, 2, &[after], &[]);
    assert!(!lease_view(&view, 0).arriving);
}

#[test]
fn child_is_readable_once_no_parent_is_unfinished() {
    let mut view = table_view();
    let mut parent = lease(0, None);
    let mut child = lease(1, None);
    child.parents = [parent.shard.clone(), ShardId::new("long-gone").unwrap()].into();
    look(&mut view, 0, &[parent.clone(), child.clone()], &[]);
    assert!(lease_view(&view, 0).readable && !lease_view(&view, 1).readable);
    parent.checkpoint = Position::ShardEnd;
    look(&mut view, 1, &[parent, child.clone()], &[]);
    assert!(lease_view(&view, 1).readable && lease_view(&view, 0).ended);
    look(&mut view, 2, &[child], &[]);
    assert!(lease_view(&view, 1).readable);
}

#[test]
fn lease_not_yet_taken_up_is_arriving() {
    let mut view = table_view();
    let mut row = lease(0, Some("a"));
    change(&mut row, LeaseChange::BeginHandoff { to: id("b") });
    change(&mut row, LeaseChange::CompleteHandoff);
    let workers = [worker("a", 1), run("b", 2, 1)];
    look(&mut view, 0, std::slice::from_ref(&row), &workers);
    assert!(
        lease_view(&view, 0).arriving,
        "written last by a, and named for b"
    );
    row = apply(
        &row,
        &LeaseChange::Renew {
            notes: OwnerNotes::NONE,
            facts: RowFacts::NONE,
        },
        Incarnation::from_random_bytes([2; 16]),
    );
    look(&mut view, 1, std::slice::from_ref(&row), &workers);
    assert!(!lease_view(&view, 0).arriving);
}

#[test]
fn view_knows_since_when_row_names_owner() {
    let mut view = table_view();
    let mut row = lease(0, None);
    look(&mut view, 0, std::slice::from_ref(&row), &[]);
    assert_eq!(lease_view(&view, 0).named_since, None);
    change(&mut row, LeaseChange::Assign { to: id("a") });
    for second in 1..5 {
        renew(&mut row);
        look(&mut view, second, std::slice::from_ref(&row), &[]);
    }
    let second = |n| Some(Moment::from_origin(Duration::from_secs(n)));
    assert_eq!(lease_view(&view, 0).named_since, second(1));
    // During a handoff the row names the next owner.
    change(&mut row, LeaseChange::BeginHandoff { to: id("b") });
    look(&mut view, 5, std::slice::from_ref(&row), &[]);
    change(&mut row, LeaseChange::CompleteHandoff);
    look(&mut view, 6, std::slice::from_ref(&row), &[]);
    assert_eq!(lease_view(&view, 0).named_since, second(5));
}

#[test]
fn what_somebody_else_watched_meanwhile_is_forgotten() {
    let mut view = table_view();
    for second in 0..=9 {
        look(&mut view, second, &[lease(0, Some("a"))], &[]);
    }
    view.forget();
    look(&mut view, 10, &[lease(0, Some("a"))], &[]);
    assert_eq!(
        (lease_view(&view, 0).hold, view.age(&lease(0, None).key)),
        (Hold::Held, Duration::ZERO)
    );
}

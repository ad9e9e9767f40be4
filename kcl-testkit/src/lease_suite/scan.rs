//! Reading everything, finding the leases of one worker, and keeping applications apart.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::lease_store::{
    Expect, LeaseChange, LockChange, LockExpect, Scan, StoreErrorKind, WorkerChange,
};
use kcl_core::types::LeaseKey;

use super::support::{
    Handle, POLL, assign, change, create, hand_off, incarnation, lease, owned, read, scan_until, worker,
};
use super::{LeaseStoreFixture, did_not_run};
use crate::lease_suite::lock::lock;
use crate::lease_suite::workers::worker_row;

/// A storage without rows is read in one page.
pub async fn an_empty_storage_scans_as_nothing(fixture: &dyn LeaseStoreFixture) {
    let scan = fixture.handle().await.scan().await.unwrap();
    let nothing = Scan {
        pages: scan.pages,
        ..Scan::default()
    };
    assert_eq!(scan, nothing);
}

/// A single lease is seen as it is, by another handle.
pub async fn a_scan_shows_a_lease_as_it_is(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, hand_off(2)).await;
    scan_until(&other, fixture.scale().lag, |scan| scan.leases == [row.clone()]).await;
}

/// One read shows all that a planner needs.
pub async fn a_scan_shows_leases_workers_and_the_lock_at_once(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let announced = worker_row(1, 1);
    let announce = WorkerChange::Announce(announced.clone());
    store.change_worker(&announce).await.unwrap();
    let held = lock(1, "v1");
    let hold = LockChange::Hold(held.clone());
    store.change_lock(&LockExpect::Absent, &hold).await.unwrap();
    scan_until(&store, fixture.scale().lag, |scan| {
        scan.leases == [row.clone()]
            && scan.workers == [announced.clone()]
            && scan.lock.as_ref() == Some(&held)
    })
    .await;
}

/// As many rows as fill a page, and one more: each is seen once.
pub async fn a_scan_over_the_edge_of_a_page_sees_each_row_once(fixture: &dyn LeaseStoreFixture) {
    let Some(page) = fixture.scale().page else {
        return did_not_run("a_scan_over_the_edge_of_a_page_sees_each_row_once");
    };
    let store = fixture.handle().await;
    fill(&store, 1, page).await;
    let full = sees_each_once(&store, page, fixture.scale().lag).await;
    fill(&store, page + 1, page + 1).await;
    let over = sees_each_once(&store, page + 1, fixture.scale().lag).await;
    assert!(
        over.pages > full.pages,
        "{} then {} pages",
        full.pages,
        over.pages
    );
}

/// A large table: each row is seen once.
pub async fn a_scan_of_a_large_table_sees_each_row_once(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let rows = fixture.scale().many;
    fill(&store, 1, rows).await;
    sees_each_once(&store, rows, fixture.scale().lag).await;
}

async fn fill(store: &Handle, from: u32, to: u32) {
    for n in from..=to {
        let create = LeaseChange::Create(Box::new(lease(n)));
        let outcome = store
            .change(&lease(n).key, &Expect::Absent, &create, incarnation(1))
            .await;
        assert!(
            matches!(outcome, Ok(kcl_core::lease_store::Outcome::Applied(_))),
            "{outcome:?}"
        );
    }
}

async fn sees_each_once(store: &Handle, rows: u32, lag: Duration) -> Scan {
    let wanted: BTreeSet<LeaseKey> = (1..=rows).map(|n| lease(n).key).collect();
    scan_until(store, lag, |scan| keys_seen_once(scan) == wanted).await
}

fn keys_seen_once(scan: &Scan) -> BTreeSet<LeaseKey> {
    let keys: BTreeSet<LeaseKey> = scan.leases.iter().map(|lease| lease.key.clone()).collect();
    assert_eq!(keys.len(), scan.leases.len(), "a row was seen twice");
    keys
}

/// Rows that are there all the time are seen by every scan, each once, while others come and go.
pub async fn rows_present_throughout_are_seen_once_while_others_come_and_go(fixture: &dyn LeaseStoreFixture) {
    let (scanning, writing) = (fixture.handle().await, fixture.handle().await);
    fill(&writing, 1, 40).await;
    let all: BTreeSet<LeaseKey> = (1..=40).map(|n| lease(n).key).collect();
    sees_each_once(&scanning, 40, fixture.scale().lag).await;
    let scans = async {
        for _ in 0..10 {
            let seen = keys_seen_once(&scanning.scan().await.unwrap());
            assert!(all.is_subset(&seen), "missing: {:?}", all.difference(&seen));
            tokio::task::yield_now().await;
        }
    };
    let churn = async {
        for n in 41..=70 {
            let row = create(&writing, lease(n)).await;
            tokio::task::yield_now().await;
            change(&writing, &row, LeaseChange::Delete).await;
        }
    };
    tokio::join!(scans, churn);
}

/// One broken row does not blind the fleet: it is listed, the others are read, and nobody writes to it.
pub async fn an_undecodable_row_is_reported_and_the_others_are_read(fixture: &dyn LeaseStoreFixture) {
    let Some(raw) = fixture.raw_rows() else {
        return did_not_run("an_undecodable_row_is_reported_and_the_others_are_read");
    };
    let store = fixture.handle().await;
    let row = create(&store, lease(1)).await;
    let broken = lease(2).key;
    raw.put_undecodable(broken.as_str()).await;
    scan_until(&store, fixture.scale().lag, |scan| {
        scan.leases == [row.clone()]
            && scan
                .undecodable
                .iter()
                .map(|row| row.key.as_str())
                .eq([broken.as_str()])
    })
    .await;
    let error = store.read(&broken).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Data);
}

/// Rows of a kind that this version does not know are somebody else's, and no problem.
pub async fn rows_of_a_kind_the_store_does_not_know_are_skipped(fixture: &dyn LeaseStoreFixture) {
    let Some(raw) = fixture.raw_rows() else {
        return did_not_run("rows_of_a_kind_the_store_does_not_know_are_skipped");
    };
    let store = fixture.handle().await;
    raw.put_foreign("somebody-elses-row").await;
    let row = create(&store, lease(1)).await;
    let scan = scan_until(&store, fixture.scale().lag, |scan| scan.leases == [row.clone()]).await;
    assert_eq!((scan.undecodable, scan.workers), (vec![], vec![]));
}

/// The look-up by owner finds a worker's leases sooner or later, and follows when they change hands.
pub async fn the_leases_of_a_worker_are_found_and_follow_a_change_of_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    if !store.capabilities().owner_index {
        assert_eq!(
            store.owned_by(&worker(1)).await.unwrap(),
            None,
            "a store without an index says so"
        );
        return;
    }
    let mut mine = create(&store, owned(1, 1)).await;
    let other = create(&store, owned(2, 2)).await;
    create(&store, lease(3)).await;
    owns(&store, 1, &[&mine.key], fixture.scale().lag).await;
    owns(&store, 2, &[&other.key], fixture.scale().lag).await;
    mine = change(&store, &mine, assign(2)).await;
    owns(&store, 1, &[], fixture.scale().lag).await;
    owns(&store, 2, &[&mine.key, &other.key], fixture.scale().lag).await;
    change(&store, &other, LeaseChange::Delete).await;
    owns(&store, 2, &[&mine.key], fixture.scale().lag).await;
}

async fn owns(store: &Handle, owner: u32, keys: &[&LeaseKey], lag: Duration) {
    let clock = TokioClock::new();
    let deadline = clock.now() + lag;
    let wanted: BTreeSet<&LeaseKey> = keys.iter().copied().collect();
    loop {
        let found = store.owned_by(&worker(owner)).await.unwrap().unwrap();
        for key in &found {
            let row = read(store, key).await;
            assert!(row.is_some() || clock.now() < deadline, "{key:?} is invented");
        }
        if found.iter().collect::<BTreeSet<_>>() == wanted {
            assert_eq!(found.len(), wanted.len(), "a key was given twice");
            return;
        }
        assert!(
            clock.now() < deadline,
            "worker {owner} owns {wanted:?}, found {found:?}"
        );
        clock.sleep(POLL).await;
    }
}

/// Applications side by side see nothing of each other: no lease, no worker, no lock.
pub async fn two_applications_do_not_see_each_other(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.other_application().await);
    let mine = create(&store, owned(1, 1)).await;
    let theirs = create(&other, owned(1, 2)).await;
    change(&other, &theirs, LeaseChange::Delete).await;
    assert_eq!(read(&store, &mine.key).await, Some(mine.clone()));

    let announce = WorkerChange::Announce(worker_row(1, 1));
    store.change_worker(&announce).await.unwrap();
    let hold = LockChange::Hold(lock(1, "v1"));
    store.change_lock(&LockExpect::Absent, &hold).await.unwrap();
    scan_until(&store, fixture.scale().lag, |scan| {
        scan.leases.len() == 1 && scan.workers.len() == 1
    })
    .await;
    assert_eq!(other.read_lock().await.unwrap(), None);
    let scan = scan_until(&other, fixture.scale().lag, |scan| scan.leases.is_empty()).await;
    assert_eq!((scan.workers, scan.lock), (vec![], None));
}

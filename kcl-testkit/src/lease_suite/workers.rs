//! Worker rows: of two processes with one id the newest wins.

use std::time::Duration;

use kcl_core::lease_store::{WorkerChange, WorkerOutcome, WorkerRow};
use kcl_core::types::Timestamp;

use super::LeaseStoreFixture;
use super::support::{Handle, incarnation, scan_until, worker};

/// The row of a worker in a certain run of its process.
pub(super) fn worker_row(n: u32, run: u8) -> WorkerRow {
    WorkerRow {
        id: worker(n),
        incarnation: Some(incarnation(run)),
        touches: 0,
        failover: Some(Duration::from_millis(10_500)),
        max_leases: Some(17),
        max_throughput: Some(4096),
        // Whole seconds: rows shared with Java hold no finer time.
        updated: Timestamp::from_millis(1_700_000_000_000),
        started: None,
        version: None,
        orders: None,
    }
}

fn touched(row: &WorkerRow) -> WorkerRow {
    WorkerRow {
        touches: row.touches + 1,
        updated: row.updated.plus(Duration::from_secs(3)),
        ..row.clone()
    }
}

async fn applied(store: &Handle, change: WorkerChange) {
    let outcome = store.change_worker(&change).await.unwrap();
    assert_eq!(outcome, WorkerOutcome::Applied, "{change:?}");
}

async fn refused(store: &Handle, change: WorkerChange) {
    let outcome = store.change_worker(&change).await.unwrap();
    assert_eq!(outcome, WorkerOutcome::Refused, "{change:?}");
}

async fn rows_are(store: &Handle, fixture: &dyn LeaseStoreFixture, rows: &[WorkerRow]) {
    scan_until(store, fixture.scale().lag, |scan| scan.workers == rows).await;
}

/// Every field of a worker's row is stored, with and without limits.
pub async fn an_announced_worker_is_seen_as_it_announced_itself(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let row = worker_row(1, 1);
    applied(&store, WorkerChange::Announce(row.clone())).await;
    rows_are(&other, fixture, &[row]).await;
    let unlimited = WorkerRow {
        max_leases: None,
        max_throughput: None,
        ..worker_row(1, 1)
    };
    applied(&store, WorkerChange::Announce(unlimited.clone())).await;
    rows_are(&other, fixture, &[unlimited]).await;
}

/// A running worker touches its row as often as it likes.
pub async fn a_worker_touches_its_own_row(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let mut row = worker_row(1, 1);
    applied(&store, WorkerChange::Announce(row.clone())).await;
    for _ in 0..3 {
        row = touched(&row);
        applied(&store, WorkerChange::Touch(row.clone())).await;
    }
    rows_are(&store, fixture, &[row]).await;
}

/// A starting worker overwrites the row of an older run; the older run notices with its next touch.
pub async fn a_touch_after_a_newer_run_announced_itself_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let (old, new) = (worker_row(1, 1), worker_row(1, 2));
    applied(&store, WorkerChange::Announce(old.clone())).await;
    applied(&store, WorkerChange::Announce(new.clone())).await;
    refused(&store, WorkerChange::Touch(touched(&old))).await;
    rows_are(&store, fixture, &[new]).await;
}

/// A worker whose row was deleted does not write it back by touching.
pub async fn a_touch_of_an_absent_row_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    refused(&store, WorkerChange::Touch(worker_row(1, 1))).await;
    rows_are(&store, fixture, &[]).await;
}

/// A worker that was taken for dead writes its row again, and not over that of a newer run.
pub async fn a_worker_returns_only_where_no_row_is(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    applied(&store, WorkerChange::Reannounce(worker_row(1, 1))).await;
    rows_are(&store, fixture, &[worker_row(1, 1)]).await;
    applied(&store, WorkerChange::Touch(touched(&worker_row(1, 1)))).await;
    refused(&store, WorkerChange::Reannounce(worker_row(1, 1))).await;
    refused(&store, WorkerChange::Reannounce(worker_row(1, 2))).await;
    rows_are(&store, fixture, &[touched(&worker_row(1, 1))]).await;
}

/// A leaving worker deletes its own row, and not that of a newer run.
pub async fn a_leaving_worker_deletes_its_own_row_only(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let leave = |run| WorkerChange::Leave {
        id: worker(1),
        incarnation: incarnation(run),
    };
    applied(&store, WorkerChange::Announce(worker_row(1, 2))).await;
    refused(&store, leave(1)).await;
    rows_are(&store, fixture, &[worker_row(1, 2)]).await;
    applied(&store, leave(2)).await;
    rows_are(&store, fixture, &[]).await;
    refused(&store, leave(2)).await;
}

/// A planner that takes a worker for dead is refused when the worker lives.
pub async fn the_row_of_a_dead_worker_is_deleted_only_as_it_was_last_seen(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let seen = worker_row(1, 1);
    let now = touched(&seen);
    applied(&store, WorkerChange::Announce(seen.clone())).await;
    applied(&store, WorkerChange::Touch(now.clone())).await;
    refused(&store, WorkerChange::DeleteExpired(seen.clone())).await;
    applied(&store, WorkerChange::Announce(worker_row(1, 2))).await;
    refused(&store, WorkerChange::DeleteExpired(seen)).await;
    rows_are(&store, fixture, &[worker_row(1, 2)]).await;
    applied(&store, WorkerChange::DeleteExpired(worker_row(1, 2))).await;
    rows_are(&store, fixture, &[]).await;
    refused(&store, WorkerChange::DeleteExpired(now)).await;
}

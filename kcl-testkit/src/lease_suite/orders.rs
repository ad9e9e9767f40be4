//! Orders of operators, resets, and the answers of owners.

use std::num::NonZeroU32;

use kcl_core::lease_store::{
    Expect, GivenOrder, Lease, LeaseChange, LeaseOrder, LeaseOrders, OrderAnswer, OrderAuthor, OwnerNotes,
    ResetPosition, RowFacts, ShardReport, WorkerChange, WorkerOrder, WorkerOrders, WorkerOutcome,
};
use kcl_core::types::{Rate, RecordPosition, SequenceNumber, Timestamp};

use super::LeaseStoreFixture;
use super::support::{
    at, change, checkpoint, create, finished_ahead, hand_off, lease, owned, read, refused, renew, scan_until,
    worker,
};
use super::workers::worker_row;

fn author() -> OrderAuthor {
    OrderAuthor::new("ana")
        .unwrap()
        .because("the database is down")
        .unwrap()
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

/// The orders of the row with one more.
fn order(row: &Lease, order: LeaseOrder) -> LeaseChange {
    let orders = row.orders.as_deref().cloned().unwrap_or_default();
    LeaseChange::Order {
        orders: Box::new(orders.with(order, &author(), time(1))),
    }
}

fn reset(row: &Lease, to: ResetPosition) -> LeaseChange {
    let orders = row.orders.as_deref().cloned().unwrap_or_default();
    LeaseChange::Reset {
        orders: Box::new(orders.with_reset(&to, row.reading_from(), false, &author(), time(2))),
        to,
    }
}

fn record(sequence: u128, sub_sequence: u64) -> RecordPosition {
    RecordPosition {
        sequence: SequenceNumber::from(sequence),
        sub_sequence,
    }
}

/// An order disturbs no owner at work: the version stays.
pub async fn order_leaves_owner_counter_and_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint(5)).await;
    let handing = change(&store, &row, hand_off(2)).await;
    let ordered = change(&store, &handing, order(&handing, LeaseOrder::Pause)).await;
    assert_eq!(ordered.version(), handing.version());
    assert_eq!(ordered.checkpoint, row.checkpoint);
    assert!(ordered.orders.as_ref().unwrap().paused && ordered.is_unanswered());
    change(&store, &ordered, renew()).await;
}

/// An operator who has not seen the orders of another overwrites none.
pub async fn order_under_stale_revision_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, lease(1)).await;
    let first = change(&store, &row, order(&row, LeaseOrder::Pause)).await;
    refused(&store, &row, &order(&row, LeaseOrder::Resume)).await;
    let second = change(&store, &first, order(&first, LeaseOrder::Resume)).await;
    refused(&store, &first, &order(&first, LeaseOrder::Pause)).await;
    assert_eq!(read(&store, &row.key).await, Some(second));
}

/// An order for a lease that is not there creates nothing.
pub async fn order_for_absent_lease_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    refused(&store, &lease(1), &order(&lease(1), LeaseOrder::Pause)).await;
    assert_eq!(read(&store, &lease(1).key).await, None);
}

/// Every field of every order is stored.
pub async fn every_order_survives_being_stored(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let rate = Rate {
        records: NonZeroU32::new(500),
        kib: NonZeroU32::new(64),
    };
    let orders = [
        LeaseOrder::Pause,
        LeaseOrder::Limit(Some(rate)),
        LeaseOrder::Pin(worker(7)),
        LeaseOrder::Skip(record(7_000_000_000_000, 3)),
        LeaseOrder::Resume,
        LeaseOrder::Limit(None),
        LeaseOrder::Unpin,
    ];
    let mut row = create(&store, owned(1, 1)).await;
    for given in orders {
        let wanted = order(&row, given);
        let changed = change(&store, &row, wanted).await;
        assert_eq!(read(&other, &row.key).await.as_ref(), Some(&changed));
        row = changed;
    }
    let revisions = row
        .orders
        .as_ref()
        .unwrap()
        .history
        .iter()
        .map(|given| given.revision);
    assert_eq!(revisions.collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
}

/// A lease may begin with orders, as the child of a shard that is limited does.
pub async fn orders_of_new_lease_survive_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let given = GivenOrder {
        revision: 1,
        at: time(0),
        author: "ana".to_owned(),
        reason: None,
        order: "reset to 5/2".to_owned(),
        before: Some(ResetPosition::AtTimestamp(time(7))),
    };
    let mut report = ShardReport::new(time(0));
    (report.attempts, report.failing) = (3, Some(record(9, 1)));
    let row = Lease {
        orders: Some(Box::new(LeaseOrders {
            revision: 9,
            paused: true,
            history: vec![given],
            ..LeaseOrders::default()
        })),
        answer: Some(OrderAnswer {
            revision: 8,
            refused: Some("the record is finished already".to_owned()),
        }),
        report: Some(Box::new(report)),
        reset_at: Some(time(3)),
        ..owned(1, 1)
    };
    create(&store, row.clone()).await;
    assert_eq!(read(&store, &row.key).await, Some(row));
}

/// The owner answers and reports with a renewal or a checkpoint; what it does not bring stays.
pub async fn owner_answers_and_reports_while_renewing(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, order(&row, LeaseOrder::Pause)).await;
    let refusal = OrderAnswer {
        revision: 1,
        refused: Some("the shard is held at 7".to_owned()),
    };
    let notes = OwnerNotes {
        throughput: None,
        report: Some(Box::new(ShardReport::new(time(0)))),
        answer: Some(refusal.clone()),
    };
    let answering = LeaseChange::Renew {
        notes,
        facts: RowFacts::NONE,
    };
    let row = change(&store, &row, answering).await;
    assert_eq!(
        (row.answer.as_ref(), row.is_unanswered()),
        (Some(&refusal), false)
    );
    let row = change(&store, &row, checkpoint(5)).await;
    assert_eq!(row.answer, Some(refusal));
    let obeyed = LeaseChange::Checkpoint {
        position: at(6),
        finished_ahead: None,
        notes: OwnerNotes {
            answer: Some(OrderAnswer {
                revision: 2,
                refused: None,
            }),
            ..OwnerNotes::NONE
        },
    };
    let row = change(&store, &row, obeyed).await;
    assert_eq!(row.answer.as_ref().unwrap().refused, None);
    assert!(row.report.is_some());
    assert_eq!(read(&store, &row.key).await, Some(row));
}

/// A reset moves the checkpoint, back or forth, and the owner's next write is refused.
pub async fn reset_moves_checkpoint_and_fences_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let ahead = LeaseChange::Checkpoint {
        position: at(50),
        finished_ahead: finished_ahead(50, 60),
        notes: OwnerNotes::NONE,
    };
    let row = create(&store, owned(1, 1)).await;
    let mut row = change(&store, &row, ahead).await;
    for to in [
        ResetPosition::After(record(40, 3)),
        ResetPosition::AtTimestamp(time(9)),
        ResetPosition::TrimHorizon,
        ResetPosition::After(record(70, 0)),
    ] {
        let before = row.clone();
        row = change(&store, &row, reset(&before, to.clone())).await;
        assert_eq!(
            (row.owner.as_ref(), row.counter),
            (before.owner.as_ref(), before.counter + 1)
        );
        assert_eq!((&row.pending, &row.finished_ahead), (&None, &None));
        let (checkpoint_text, reset_at) = match to {
            ResetPosition::TrimHorizon => ("TRIM_HORIZON".to_owned(), None),
            ResetPosition::AtTimestamp(time) => ("AT_TIMESTAMP".to_owned(), Some(time)),
            ResetPosition::After(record) => (record.to_string(), None),
            ResetPosition::ShardEnd => ("SHARD_END".to_owned(), None),
        };
        assert_eq!(
            (row.checkpoint.to_string(), row.reset_at),
            (checkpoint_text, reset_at)
        );
        let last = row.orders.as_ref().unwrap().history.last().unwrap();
        assert_eq!(last.before, Some(before.reading_from()));
        refused(&store, &before, &renew()).await;
        refused(&store, &before, &checkpoint(80)).await;
        assert_eq!(read(&store, &row.key).await.as_ref(), Some(&row));
    }
}

/// A reset during a handoff leaves the worker that processes the shard as its owner.
pub async fn reset_ends_handoff(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, hand_off(2)).await;
    let row = change(&store, &row, reset(&row, ResetPosition::TrimHorizon)).await;
    assert_eq!((row.owner, row.checkpoint_owner), (Some(worker(1)), None));
}

/// A shard that is ended is read again after a reset.
pub async fn reset_opens_ended_lease(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, super::support::end([2, 3])).await;
    let row = change(&store, &row, reset(&row, ResetPosition::TrimHorizon)).await;
    assert_eq!(
        (row.owner.as_ref(), row.is_ended(), row.children.len()),
        (None, false, 2)
    );
    let row = change(&store, &row, super::support::assign(2)).await;
    let row = change(&store, &row, reset(&row, ResetPosition::ShardEnd)).await;
    assert_eq!(
        (row.owner.as_ref(), row.is_ended()),
        (None, true),
        "an undo ends it again"
    );
}

/// A reset is refused once the lease or its orders have moved.
pub async fn reset_under_stale_version_or_revision_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let old = create(&store, owned(1, 1)).await;
    let row = change(&store, &old, renew()).await;
    refused(&store, &old, &reset(&old, ResetPosition::TrimHorizon)).await;
    let ordered = change(&store, &row, order(&row, LeaseOrder::Pause)).await;
    refused(&store, &row, &reset(&row, ResetPosition::TrimHorizon)).await;
    assert_eq!(read(&store, &row.key).await, Some(ordered));
}

/// Of two operators at once exactly one is obeyed.
pub async fn of_two_orders_exactly_one_is_stored(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let row = create(&store, lease(1)).await;
    let (pause, limit) = (
        order(&row, LeaseOrder::Pause),
        order(&row, LeaseOrder::Limit(None)),
    );
    let incarnation = super::support::incarnation(1);
    let expect = Expect::Orders(0);
    let (a, b) = tokio::join!(
        store.change(&row.key, &expect, &pause, incarnation),
        other.change(&row.key, &expect, &limit, incarnation)
    );
    let applied = [a.unwrap(), b.unwrap()]
        .into_iter()
        .filter(|outcome| matches!(outcome, kcl_core::lease_store::Outcome::Applied(_)));
    assert_eq!(applied.count(), 1);
}

/// A worker's own writes leave its orders, which end with its row.
pub async fn orders_of_worker_survive_its_touches(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = worker_row(1, 1);
    let write = async |change: WorkerChange| store.change_worker(&change).await.unwrap();
    assert_eq!(
        write(WorkerChange::Announce(row.clone())).await,
        WorkerOutcome::Applied
    );
    let first = WorkerOrders::default().with(WorkerOrder::Drain, &author(), time(0));
    let give = |seen: u64, orders: &WorkerOrders| WorkerChange::Order {
        id: worker(1),
        seen,
        orders: Box::new(orders.clone()),
    };
    assert_eq!(write(give(0, &first)).await, WorkerOutcome::Applied);
    assert_eq!(
        write(give(0, &first)).await,
        WorkerOutcome::Refused,
        "another came first"
    );
    let mut touched = row.clone();
    touched.touches += 1;
    assert_eq!(
        write(WorkerChange::Touch(touched.clone())).await,
        WorkerOutcome::Applied
    );
    touched.orders = Some(Box::new(first.clone()));
    scan_until(&store, fixture.scale().lag, |scan| {
        scan.workers == [touched.clone()]
    })
    .await;
    let second = first.with(WorkerOrder::Include, &author(), time(1));
    assert_eq!(write(give(1, &second)).await, WorkerOutcome::Applied);
    let leave = WorkerChange::Leave {
        id: worker(1),
        incarnation: super::support::incarnation(1),
    };
    assert_eq!(write(leave).await, WorkerOutcome::Applied);
    assert_eq!(
        write(give(2, &second)).await,
        WorkerOutcome::Refused,
        "the row is gone"
    );
}

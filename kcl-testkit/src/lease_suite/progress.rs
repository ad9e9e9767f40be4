//! Checkpoints and the end of a shard.

use bytes::Bytes;
use kcl_core::lease_store::{Lease, LeaseChange, PendingCheckpoint};
use kcl_core::types::Position;

use super::support::{
    DISCARD, assign, at, change, checkpoint, checkpoint_ahead, create, end, finished_ahead, hand_off, owned,
    prepare, refused, renew, shards,
};
use super::{LeaseStoreFixture, did_not_run};

/// A checkpoint stores the position and doubles as a renewal.
pub async fn a_checkpoint_stores_the_position_and_moves_the_counter(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let stored = change(&store, &row, checkpoint(5)).await;
    assert_eq!((stored.checkpoint, stored.counter), (at(5), row.counter + 1));
}

/// A checkpoint under a version that the row has left moves nothing: not by a former owner, not by a slow one.
pub async fn a_checkpoint_under_a_stale_version_is_refused_and_moves_nothing(
    fixture: &dyn LeaseStoreFixture,
) {
    let store = fixture.handle().await;
    let old = create(&store, owned(1, 1)).await;
    let row = change(&store, &old, renew()).await;
    refused(&store, &old, &checkpoint(5)).await;
    change(&store, &row, assign(2)).await;
    refused(&store, &row, &checkpoint(5)).await;
}

/// A checkpoint that Java prepared is settled by the next one.
pub async fn a_checkpoint_clears_a_pending_one(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    for (n, state) in [(1, None), (2, Some(Bytes::from_static(b"prepared")))] {
        let pending = Some(PendingCheckpoint {
            position: at(9),
            state,
        });
        let row = create(
            &store,
            Lease {
                pending,
                ..owned(n, 1)
            },
        )
        .await;
        let row = change(&store, &row, renew()).await;
        assert!(row.pending.is_some(), "a renewal leaves it");
        let row = change(&store, &row, checkpoint(5)).await;
        assert_eq!(row.pending, None);
    }
}

/// The records that are finished ahead of a checkpoint go with it: the next one replaces or removes them.
pub async fn what_is_finished_ahead_is_replaced_with_each_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint_ahead(5, 9)).await;
    assert_eq!(row.valid_finished_ahead(true), finished_ahead(5, 9).as_ref());
    assert_eq!(
        row.valid_finished_ahead(false),
        None,
        "aggregates are not unpacked"
    );
    let row = change(&store, &row, checkpoint_ahead(5, 12)).await;
    assert_eq!(
        row.finished_ahead,
        finished_ahead(5, 12),
        "at the same checkpoint"
    );
    // The largest that there is, with a sequence number of the service's length.
    let far = 49_680_416_556_756_428_880_067_349_872_691;
    let row = change(&store, &row, checkpoint_ahead(far, far + 2000)).await;
    let row = change(&store, &row, checkpoint(far + 1)).await;
    assert_eq!(row.finished_ahead, None, "it says nothing");
    let row = change(&store, &row, checkpoint_ahead(far + 2, far + 5)).await;
    let row = change(&store, &row, end([2, 3])).await;
    assert_eq!(row.finished_ahead, None, "the shard has ended");
}

/// The records that are finished ahead of a checkpoint stay beside it, whoever has the lease.
pub async fn what_is_finished_ahead_stays_until_the_next_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let ahead = finished_ahead(5, 9);
    let mut row = change(&store, &row, checkpoint_ahead(5, 9)).await;
    let changes = [
        renew(),
        prepare(7, Some(b"state")),
        DISCARD,
        hand_off(2),
        renew(),
        LeaseChange::CancelHandoff,
        hand_off(2),
        LeaseChange::CompleteHandoff,
        LeaseChange::Release,
        assign(3),
        renew(),
    ];
    for step in changes {
        row = change(&store, &row, step.clone()).await;
        assert_eq!(row.finished_ahead, ahead, "after {step:?}");
    }
    let moved = Lease {
        checkpoint: at(4),
        ..row
    };
    assert_eq!(
        moved.valid_finished_ahead(true),
        None,
        "a foreign tool moved the checkpoint"
    );
}

/// A prepared checkpoint stands beside the stored one, through renewals and handoffs, until the next checkpoint.
pub async fn a_prepared_checkpoint_stays_until_the_next_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let largest: &'static [u8] = &[7; PendingCheckpoint::LARGEST_STATE];
    for (n, state) in [(1, None), (2, Some(&b"\0prepared\xff"[..])), (3, Some(largest))] {
        let row = create(&store, owned(n, 1)).await;
        let row = change(&store, &row, checkpoint(5)).await;
        let prepared = change(&store, &row, prepare(9, state)).await;
        assert_eq!(
            (&prepared.checkpoint, prepared.counter),
            (&at(5), row.counter + 1)
        );
        let pending = Some(PendingCheckpoint {
            position: at(9),
            state: state.map(Bytes::from_static),
        });
        assert_eq!(prepared.pending, pending);
        let mut row = prepared;
        for step in [
            renew(),
            hand_off(2),
            LeaseChange::CompleteHandoff,
            assign(3),
            LeaseChange::Release,
        ] {
            row = change(&store, &row, step).await;
            assert_eq!(row.pending, pending);
        }
        let row = change(&store, &row, assign(1)).await;
        let committed = change(&store, &row, checkpoint(9)).await;
        assert_eq!((committed.checkpoint, committed.pending), (at(9), None));
    }
}

/// Preparing again replaces what was prepared, state and all, and discarding removes it without a trace.
pub async fn a_prepared_checkpoint_is_replaced_or_discarded(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, prepare(5, Some(b"first"))).await;
    let row = change(&store, &row, prepare(9, None)).await;
    let pending = row.pending.clone().unwrap();
    assert_eq!((pending.position, pending.state), (at(9), None));
    let row = change(&store, &row, prepare(11, Some(b"third"))).await;
    let row = change(&store, &row, DISCARD).await;
    assert_eq!((&row.pending, &row.checkpoint), (&None, &Position::TrimHorizon));
    let again = change(&store, &row, DISCARD).await;
    assert_eq!(again.counter, row.counter + 1, "it doubles as a renewal");
}

/// Nothing is prepared or discarded under a version that the row has left: not by a former owner, not by a slow one.
pub async fn preparing_under_a_stale_version_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let old = create(&store, owned(1, 1)).await;
    let row = change(&store, &old, renew()).await;
    let taken = change(&store, &row, assign(2)).await;
    let taken = change(&store, &taken, prepare(9, Some(b"mine"))).await;
    for stale in [&old, &row] {
        refused(&store, stale, &prepare(5, None)).await;
        refused(&store, stale, &DISCARD).await;
    }
    let row = change(&store, &taken, end([2])).await;
    assert_eq!(row.pending, None, "the end of the shard settles it");
}

/// Attributes that another program keeps in the row survive every change we make.
pub async fn attributes_the_store_does_not_know_survive_every_change(fixture: &dyn LeaseStoreFixture) {
    let Some(raw) = fixture.raw_rows() else {
        return did_not_run("attributes_the_store_does_not_know_survive_every_change");
    };
    let store = fixture.handle().await;
    let mut row = create(&store, owned(1, 1)).await;
    raw.add_unknown_attribute(&row.key).await;
    let changes = [
        renew(),
        prepare(4, Some(b"state")),
        checkpoint(5),
        prepare(6, None),
        DISCARD,
        assign(2),
        hand_off(3),
        LeaseChange::CancelHandoff,
        LeaseChange::Release,
        LeaseChange::Describe {
            children: Some(shards([2, 3])),
            hash_range: None,
        },
        end([2, 3]),
    ];
    for step in changes {
        let verb = step.verb();
        row = change(&store, &row, step).await;
        assert!(raw.has_unknown_attribute(&row.key).await, "lost by {verb}");
    }
}

/// An ended lease has its end, its children and no owner.
pub async fn an_ended_lease_has_children_and_no_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let ended = change(&store, &row, end([2, 3])).await;
    assert_eq!(
        (&ended.checkpoint, &ended.children),
        (&Position::ShardEnd, &shards([2, 3]))
    );
    assert_eq!((&ended.owner, ended.counter), (&None, row.counter + 1));
    let childless = create(&store, owned(4, 1)).await;
    let childless = change(&store, &childless, end([])).await;
    assert!(childless.is_ended() && childless.children.is_empty());
}

/// A shard that ends during a handoff ends for both workers.
pub async fn ending_during_a_handoff_leaves_no_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, hand_off(2)).await;
    let ended = change(&store, &row, end([2])).await;
    assert_eq!(
        (ended.owner, ended.checkpoint_owner, ended.handoff_stamp),
        (None, None, None)
    );
}

/// Only the owner ends a shard.
pub async fn an_end_under_a_stale_version_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    change(&store, &row, assign(2)).await;
    refused(&store, &row, &end([2])).await;
}

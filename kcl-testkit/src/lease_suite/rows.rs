//! Describing and deleting rows.

use kcl_core::lease_store::LeaseChange;
use kcl_core::types::HashKeyRange;

use super::LeaseStoreFixture;
use super::support::{
    assign, change, checkpoint, create, hand_off, lease, owned, read, refused, renew, shards,
};

fn describe(children: &[u32], range: Option<(u128, u128)>) -> LeaseChange {
    LeaseChange::Describe {
        children: (!children.is_empty()).then(|| shards(children.iter().copied())),
        hash_range: range.map(|(start, end)| HashKeyRange::new(start, end).unwrap()),
    }
}

/// Describing a shard fills in its facts, and disturbs no owner at work: the version stays.
pub async fn describing_touches_neither_owner_nor_counter_nor_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint(5)).await;
    let row = change(&store, &row, hand_off(2)).await;
    let described = change(&store, &row, describe(&[2, 3], Some((0, u128::MAX)))).await;
    assert_eq!(described.version(), row.version());
    assert_eq!(described.checkpoint, row.checkpoint);
    change(&store, &described, renew()).await;
}

/// A description leaves the facts that it does not bring.
pub async fn describing_leaves_the_facts_it_does_not_bring(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, lease(1)).await;
    let row = change(&store, &row, describe(&[2, 3], None)).await;
    let row = change(&store, &row, describe(&[], Some((7, 9)))).await;
    let row = change(&store, &row, describe(&[], None)).await;
    assert_eq!(row.children, shards([2, 3]));
    assert_eq!(row.hash_range, Some(HashKeyRange::new(7, 9).unwrap()));
}

/// A description arrives after its lease was deleted: it has no effect.
pub async fn describing_an_absent_lease_is_refused_and_creates_nothing(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    refused(&store, &lease(1), &describe(&[2], Some((0, 1)))).await;
    assert_eq!(read(&store, &lease(1).key).await, None);
}

/// A lease is deleted under the version on which the decision was made, and not under any other.
pub async fn deletion_under_a_stale_version_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let old = create(&store, lease(1)).await;
    let row = change(&store, &old, assign(1)).await;
    refused(&store, &old, &LeaseChange::Delete).await;
    let handing = change(&store, &row, hand_off(2)).await;
    refused(&store, &row, &LeaseChange::Delete).await;
    change(&store, &handing, LeaseChange::Delete).await;
}

/// A row that is not there cannot be deleted.
pub async fn deletion_of_an_absent_lease_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    refused(&store, &lease(1), &LeaseChange::Delete).await;
    let row = create(&store, lease(1)).await;
    change(&store, &row, LeaseChange::Delete).await;
    refused(&store, &row, &LeaseChange::Delete).await;
}

/// A lease that is created again inherits nothing.
pub async fn a_lease_created_again_after_its_deletion_starts_fresh(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint(5)).await;
    let row = change(&store, &row, describe(&[2, 3], Some((0, 1)))).await;
    change(&store, &row, LeaseChange::Delete).await;
    create(&store, lease(1)).await;
}

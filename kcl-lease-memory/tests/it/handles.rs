//! Particulars of the store in memory. Everything it shares with other stores is tested by the suite in `kcl-testkit`.

use std::num::NonZeroU32;
use std::time::Duration;

use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore, Outcome, Preparation, StoreErrorKind};
use kcl_core::types::{ApplicationName, Incarnation, LeaseKey, Position, ShardId, WorkerId};

use kcl_lease_memory::MemoryLeaseStore;

fn incarnation() -> Incarnation {
    Incarnation::from_random_bytes([7; 16])
}

fn lease(n: u32) -> Lease {
    Lease::unowned(
        ShardId::new(format!("shardId-{n:012}")).unwrap(),
        Position::TrimHorizon,
    )
}

async fn create(store: &MemoryLeaseStore, lease: Lease) -> Outcome {
    let change = LeaseChange::Create(Box::new(lease.clone()));
    store
        .change(&lease.key, &Expect::Absent, &change, incarnation())
        .await
        .unwrap()
}

#[tokio::test]
async fn clone_of_store_shares_its_storage() {
    let store = MemoryLeaseStore::new();
    create(&store, lease(1)).await;
    assert_eq!(store.clone().scan().await.unwrap().leases, [lease(1)]);
    assert!(MemoryLeaseStore::new().scan().await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn handle_without_owner_index_sees_same_rows() {
    let store = MemoryLeaseStore::new();
    let worker = WorkerId::new("w-1").unwrap();
    let mut owned = lease(1);
    owned.owner = Some(worker.clone());
    create(&store, owned.clone()).await;

    assert_eq!(
        store.owned_by(&worker).await.unwrap(),
        Some(vec![owned.key.clone()])
    );
    let scanning = store.clone().without_owner_index();
    assert!(!scanning.capabilities().owner_index);
    assert_eq!(scanning.owned_by(&worker).await.unwrap(), None);
    assert_eq!(scanning.read(&owned.key).await.unwrap(), Some(owned));
}

#[tokio::test]
async fn scan_counts_page_more_once_page_is_full() {
    let store = MemoryLeaseStore::new().with_page_size(NonZeroU32::new(2).unwrap());
    for (rows, pages) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        create(&store, lease(rows)).await;
        assert_eq!(store.scan().await.unwrap().pages, pages, "{rows} rows");
    }
}

#[tokio::test]
async fn lease_cannot_be_created_under_key_of_another() {
    let store = MemoryLeaseStore::new();
    let change = LeaseChange::Create(Box::new(lease(1)));
    let other = LeaseKey::new("another").unwrap();
    let error = store
        .change(&other, &Expect::Absent, &change, incarnation())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(store.scan().await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn the_storage_of_one_application_refuses_another() {
    let store = MemoryLeaseStore::new();
    let preparation = |application: &str| Preparation {
        application: ApplicationName::new(application).unwrap(),
        worker: WorkerId::new("w-1").unwrap(),
        within: Duration::ZERO,
        take_over_java: false,
    };
    store.prepare(&preparation("one")).await.unwrap();
    store.prepare(&preparation("one")).await.unwrap();
    let error = store.prepare(&preparation("two")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Foreign);
}

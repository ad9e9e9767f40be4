//! The store in memory keeps every promise of a lease store.

use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::lease_store::LeaseStore;
use kcl_lease_memory::MemoryLeaseStore;
use kcl_testkit::lease_suite::{LeaseStoreFixture, Scale};

const PAGE: NonZeroU32 = NonZeroU32::new(16).unwrap();

struct InMemory {
    store: MemoryLeaseStore,
    other: MemoryLeaseStore,
}

#[async_trait]
impl LeaseStoreFixture for InMemory {
    async fn handle(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.store.clone())
    }

    async fn other_application(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.other.clone())
    }

    fn scale(&self) -> Scale {
        Scale {
            page: Some(PAGE.get()),
            ..Scale::default()
        }
    }
}

async fn make() -> [InMemory; 1] {
    [InMemory {
        store: MemoryLeaseStore::new().with_page_size(PAGE),
        other: MemoryLeaseStore::new(),
    }]
}

kcl_testkit::lease_store_suite!(make);

mod without_an_owner_index {
    use super::*;

    #[tokio::test]
    async fn store_reports_lack_of_owner_lookup() {
        let fixture = InMemory {
            store: MemoryLeaseStore::new().without_owner_index(),
            other: MemoryLeaseStore::new(),
        };
        kcl_testkit::lease_suite::scan::the_leases_of_a_worker_are_found_and_follow_a_change_of_owner(
            &fixture,
        )
        .await;
    }
}

//! The contract of every lease store, on each DynamoDB of the testbed.

use std::io::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::LeaseStore;
use kcl_core::types::LeaseKey;
use kcl_lease_dynamo::TableLayout;
use kcl_testkit::lease_suite::{LeaseStoreFixture, RawRows, Scale};
use kcl_tests::testbed::Testbed;

use crate::lease_conformance::backends::Backend;

const UNKNOWN: &str = "ofTheFuture";

struct Tables {
    ours: Backend,
    other: Backend,
}

impl Tables {
    /// Fresh tables on the DynamoDB of this rank in the testbed; `None`, loudly, where the testbed has none.
    async fn on(rank: usize, layout: TableLayout) -> Option<Self> {
        let testbed = match Testbed::get().await {
            Ok(testbed) => testbed,
            Err(left_out) => {
                left_out.report(module_path!());
                return None;
            }
        };
        let ours = Backend::all(&testbed, "conformance").into_iter().nth(rank);
        let other = Backend::all(&testbed, "conformance-other").into_iter().nth(rank);
        let (Some(mut ours), Some(other)) = (ours, other) else {
            // Past the output capture of the test harness.
            let _ = writeln!(
                std::io::stderr(),
                "LEFT OUT: conformance on DynamoDB {rank}: the testbed has fewer"
            );
            return None;
        };
        ours.layout = layout;
        ours.prepared().await;
        Some(Self { ours, other })
    }
}

#[async_trait]
impl LeaseStoreFixture for Tables {
    async fn handle(&self) -> Arc<dyn LeaseStore> {
        // Where the rows are is known to a store that was prepared.
        Arc::new(self.ours.prepared().await)
    }

    async fn other_application(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.other.prepared().await)
    }

    fn scale(&self) -> Scale {
        Scale {
            many: 300,
            random_changes: 200,
            ..Scale::default()
        }
    }

    fn raw_rows(&self) -> Option<&dyn RawRows> {
        Some(self)
    }
}

#[async_trait]
impl RawRows for Tables {
    async fn put_foreign(&self, key: &str) {
        let row = [("leaseKey", key), ("entityType", "OF_THE_FUTURE")];
        let row = row.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        self.ours.put(row).await;
    }

    async fn put_undecodable(&self, key: &str) {
        let row = [("leaseKey", key), ("checkpoint", "TRIM_HORIZON")];
        let row = row.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        self.ours.put(row).await;
    }

    async fn add_unknown_attribute(&self, key: &LeaseKey) {
        self.ours.set(key.as_str(), UNKNOWN, mark()).await;
    }

    async fn has_unknown_attribute(&self, key: &LeaseKey) -> bool {
        self.ours.get(key.as_str(), UNKNOWN).await == Some(mark())
    }
}

fn mark() -> AttributeValue {
    AttributeValue::S("kept".to_owned())
}

mod on_the_first_dynamodb {
    async fn make() -> Vec<super::Tables> {
        super::Tables::on(0, super::TableLayout::OneTable)
            .await
            .into_iter()
            .collect()
    }

    kcl_testkit::lease_store_suite!(make);
}

mod on_the_second_dynamodb {
    async fn make() -> Vec<super::Tables> {
        super::Tables::on(1, super::TableLayout::OneTable)
            .await
            .into_iter()
            .collect()
    }

    kcl_testkit::lease_store_suite!(make);
}

mod three_tables_on_the_first_dynamodb {
    async fn make() -> Vec<super::Tables> {
        let tables = super::Tables::on(0, super::TableLayout::ThreeTables).await;
        tables.into_iter().collect()
    }

    kcl_testkit::lease_store_suite!(make);
}

mod three_tables_on_the_second_dynamodb {
    async fn make() -> Vec<super::Tables> {
        let tables = super::Tables::on(1, super::TableLayout::ThreeTables).await;
        tables.into_iter().collect()
    }

    kcl_testkit::lease_store_suite!(make);
}

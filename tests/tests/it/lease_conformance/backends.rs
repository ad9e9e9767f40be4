use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use kcl_core::clock::TokioClock;
use kcl_core::lease_store::{LeaseStore as _, Preparation};
use kcl_core::types::{LeaseKey, WorkerId};
use kcl_lease_dynamo::{DynamoLeaseStore, TableLayout, TableOptions};
use kcl_tests::testbed::Testbed;
use kcl_tests::wait::eventually;
use serde_json::{Value, json};

/// How long a call may take: emulators on a busy machine are no measure for a time limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// How long rows of Java workers are watched: nothing writes them in these tests.
const SHORT: Duration = Duration::from_millis(200);

/// How long an emulator may take to fill the index of a small table.
const LONG: Duration = Duration::from_secs(60);

/// One DynamoDB of the testbed, and a table name of the test's own on it.
pub(crate) struct Backend {
    pub(crate) server: String,
    pub(crate) table: String,
    pub(crate) layout: TableLayout,
    config: SdkConfig,
    clock: Arc<TokioClock>,
}

impl Backend {
    /// One for each DynamoDB of the testbed.
    pub(crate) fn all(testbed: &Testbed, test: &str) -> Vec<Self> {
        let of = |(server, config)| Self {
            server,
            config,
            table: testbed.unique(test),
            layout: TableLayout::AsFound,
            clock: Arc::new(TokioClock::new()),
        };
        testbed.dynamo_configs().into_iter().map(of).collect()
    }

    /// A handle on the store, as one worker has it.
    pub(crate) fn store(&self) -> DynamoLeaseStore {
        let store = DynamoLeaseStore::new(&self.config, &self.table);
        let options = TableOptions {
            layout: self.layout,
            ..TableOptions::default()
        };
        store
            .with_clock(self.clock.clone())
            .request_timeout(REQUEST_TIMEOUT)
            .table_options(options)
            .watch_java_for(SHORT)
    }

    /// A start of the application that is named like the table.
    pub(crate) fn preparation(&self) -> Preparation {
        Preparation {
            application: self.table.parse().unwrap(),
            worker: "worker-1".parse().unwrap(),
            within: Duration::from_secs(60),
            take_over_java: false,
        }
    }

    /// A handle on the store with its table made.
    pub(crate) async fn prepared(&self) -> DynamoLeaseStore {
        let store = self.store();
        let prepared = store.prepare(&self.preparation()).await;
        prepared.unwrap_or_else(|error| panic!("{}: {error}", self.server));
        store
    }

    /// Waits until the owner index can be asked.
    pub(crate) async fn index_is_there(&self) {
        self.until_index_shows(&"nobody".parse().unwrap(), &[]).await;
    }

    /// Waits until the owner index shows exactly these leases of a worker.
    pub(crate) async fn until_index_shows(&self, worker: &WorkerId, keys: &[LeaseKey]) {
        // A new handle each time, because a handle remembers for a while that there was no index.
        eventually(LONG, async || {
            match self.store().owned_by(worker).await.unwrap() {
                Some(shown) if shown == keys => Ok(()),
                shown => Err(format!("{}: {shown:?}", self.server)),
            }
        })
        .await;
    }

    /// A client of the test's own, past the store.
    pub(crate) fn sdk(&self) -> Client {
        Client::new(&self.config)
    }

    /// A table with one partition key of type S, past the store.
    pub(crate) async fn create_table(&self, table: &str, key: &str) {
        let definition = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S);
        let element = KeySchemaElement::builder()
            .attribute_name(key)
            .key_type(KeyType::Hash);
        let create = self
            .sdk()
            .create_table()
            .table_name(table)
            .attribute_definitions(definition.build().unwrap())
            .key_schema(element.build().unwrap())
            .billing_mode(BillingMode::PayPerRequest);
        create.send().await.unwrap();
    }

    /// Writes a row past the store.
    pub(crate) async fn put(&self, attributes: impl IntoIterator<Item = (String, AttributeValue)>) {
        self.put_into(&self.table, attributes).await;
    }

    /// Writes a row into a further table, past the store.
    pub(crate) async fn put_into(
        &self,
        table: &str,
        attributes: impl IntoIterator<Item = (String, AttributeValue)>,
    ) {
        let put = self.sdk().put_item().table_name(table);
        let put = put.set_item(Some(attributes.into_iter().collect()));
        put.send().await.unwrap();
    }

    /// Sets one attribute of a row past the store.
    pub(crate) async fn set(&self, key: &str, attribute: &str, value: AttributeValue) {
        let update = self
            .sdk()
            .update_item()
            .table_name(&self.table)
            .key("leaseKey", AttributeValue::S(key.to_owned()))
            .update_expression("SET #attribute = :value")
            .expression_attribute_names("#attribute", attribute)
            .expression_attribute_values(":value", value);
        update.send().await.unwrap();
    }

    /// Reads one attribute of a row past the store.
    pub(crate) async fn get(&self, key: &str, attribute: &str) -> Option<AttributeValue> {
        let get = self.sdk().get_item().table_name(&self.table);
        let get = get
            .key("leaseKey", AttributeValue::S(key.to_owned()))
            .consistent_read(true);
        get.send().await.unwrap().item?.remove(attribute)
    }

    /// The keys of all rows of a table, under this name, past the store.
    pub(crate) async fn keys(&self, table: &str, key: &str) -> BTreeSet<String> {
        let scan = self.sdk().scan().table_name(table).consistent_read(true);
        let items = scan.send().await.unwrap().items.unwrap_or_default();
        items
            .iter()
            .map(|item| item[key].as_s().unwrap().clone())
            .collect()
    }

    /// Reads a whole row past the store, in DynamoDB's own JSON; sets are sorted.
    pub(crate) async fn row(&self, key: &str) -> Value {
        let get = self.sdk().get_item().table_name(&self.table);
        let get = get
            .key("leaseKey", AttributeValue::S(key.to_owned()))
            .consistent_read(true);
        let item = get.send().await.unwrap().item.unwrap();
        item.iter()
            .map(|(name, value)| (name.clone(), json(value)))
            .collect()
    }
}

fn json(value: &AttributeValue) -> Value {
    if let AttributeValue::S(text) = value {
        json!({ "S": text })
    } else if let AttributeValue::N(digits) = value {
        json!({ "N": digits })
    } else if let AttributeValue::Ss(texts) = value {
        let sorted = texts.iter().collect::<BTreeSet<_>>();
        json!({ "SS": sorted })
    } else if let AttributeValue::B(bytes) = value {
        // Those of the tests are texts.
        json!({ "B": String::from_utf8_lossy(bytes.as_ref()) })
    } else if let AttributeValue::L(entries) = value {
        json!({ "L": entries.iter().map(json).collect::<Vec<_>>() })
    } else if let AttributeValue::M(entries) = value {
        let entries = entries.iter().map(|(name, value)| (name.clone(), json(value)));
        json!({ "M": entries.collect::<serde_json::Map<_, _>>() })
    } else {
        panic!("none of our rows holds {value:?}")
    }
}

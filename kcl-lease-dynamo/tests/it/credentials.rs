//! Credentials that are slow, a region that is missing, and a table that is elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::future::ProvideCredentials as Coming;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{Certainty, LeaseStore as _, StoreErrorKind};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_lease_dynamo::aws_sdk_dynamodb::config::{
    Credentials, ProvideCredentials, SharedCredentialsProvider,
};

use crate::server::{Server, config};
use crate::tables::{calls, preparation, usual};

/// A source of credentials that takes its time.
#[derive(Debug, Clone, Default)]
struct Slow(Arc<AtomicU32>);

impl ProvideCredentials for Slow {
    fn provide_credentials<'a>(&'a self) -> Coming<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::SeqCst);
        Coming::new(async {
            TokioClock::new().sleep(Duration::from_millis(700)).await;
            Ok(Credentials::new("test", "test", None, None, "slow"))
        })
    }
}

#[tokio::test]
async fn credentials_slower_than_a_call_arrive() {
    let slow = Slow::default();
    let server = Server::start().await;
    let config = config(&server.endpoint())
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(slow.clone()))
        .build();
    let store = DynamoLeaseStore::new(&config, "leases").request_timeout(Duration::from_millis(200));
    for (operation, call) in calls(&store).into_iter().take(3) {
        let error = server.while_running(usual, call).await.unwrap_err();
        let said = error.to_string();
        // Nothing was sent, so that no write can have been made.
        assert_eq!(error.certainty(), Certainty::Definite, "{operation}");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(said.contains("not sent: the credentials"), "{said}");
    }
    let store = store.request_timeout(Duration::from_secs(2));
    server.while_running(usual, store.scan()).await.unwrap();
    assert_eq!(slow.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_region_nothing_is_tried() {
    let complete = config("http://127.0.0.1:1");
    let lost = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(complete.credentials_provider().unwrap())
        .endpoint_url("http://127.0.0.1:1")
        .build();
    let store = DynamoLeaseStore::new(&lost, "leases");
    let error = store.prepare(&preparation()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.certainty()),
        (StoreErrorKind::Denied, Certainty::Definite)
    );
    assert!(error.to_string().contains("AWS_REGION"), "{error}");
}

#[tokio::test]
async fn a_table_of_another_region_is_refused() {
    let server = Server::start().await;
    for (table, part) in [
        (
            "arn:aws:dynamodb:us-east-1:123456789012:table/leases",
            "us-east-1",
        ),
        (
            "arn:aws:kinesis:eu-west-1:123456789012:stream/leases",
            "the ARN of a table",
        ),
    ] {
        let store = server.store_of(table);
        let preparation = preparation();
        let prepared = server.while_running(usual, store.prepare(&preparation));
        let error = prepared.await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
        assert!(server.asked().is_empty());
    }
}

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use kcl_core::lease_store::{Certainty, LeaseStore as _, StoreError, StoreErrorKind, WorkerChange};
use kcl_core::types::Incarnation;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_lease_dynamo::aws_sdk_dynamodb::config::retry::RetryConfig;
use kcl_lease_dynamo::aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use serde_json::Value;

use crate::server::{Server, config, error};
use crate::tables::{calls, preparation, usual};

fn leave() -> WorkerChange {
    WorkerChange::Leave {
        id: "worker-1".parse().unwrap(),
        incarnation: Incarnation::from_random_bytes([1; 16]),
    }
}

fn verdict(error: &StoreError) -> (StoreErrorKind, Certainty) {
    (error.kind(), error.certainty())
}

#[tokio::test]
async fn failed_write_is_tried_once_judged_by_code() {
    let cases = [
        (
            500,
            "InternalServerError",
            StoreErrorKind::Unavailable,
            Certainty::Unknown,
        ),
        (
            503,
            "ThrottlingException",
            StoreErrorKind::Throttled,
            Certainty::Unknown,
        ),
        (
            400,
            "ThrottlingException",
            StoreErrorKind::Throttled,
            Certainty::Definite,
        ),
        (
            400,
            "ProvisionedThroughputExceededException",
            StoreErrorKind::Throttled,
            Certainty::Definite,
        ),
        (
            400,
            "ResourceNotFoundException",
            StoreErrorKind::Missing,
            Certainty::Definite,
        ),
        (
            400,
            "OfTheFutureException",
            StoreErrorKind::Unavailable,
            Certainty::Unknown,
        ),
    ];
    for (status, code, kind, certainty) in cases {
        let server = Server::start().await;
        let store = server.store();
        let change = leave();
        let script = |_: &str, _: &Value| error(status, code);
        let failure = server
            .while_running(script, store.change_worker(&change))
            .await
            .unwrap_err();
        assert_eq!(verdict(&failure), (kind, certainty), "{code}");
        assert_eq!(server.operations(), ["DeleteItem"], "{code}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = Server::start().await;
    let store = server.store();
    let script = |_: &str, _: &Value| error(400, "AccessDeniedException");
    let failure = server.while_running(script, store.scan()).await.unwrap_err();
    assert_eq!(verdict(&failure), (StoreErrorKind::Denied, Certainty::Definite));
    let text = failure.to_string();
    assert!(
        text.starts_with("dynamodb:Scan on table leases: AccessDeniedException"),
        "{text}"
    );
    assert!(text.contains("grant dynamodb:Scan"), "{text}");
}

/// A user's own retries and timeouts must not come through: a write that is repeated is refused because of its first attempt.
fn stubborn(endpoint: &str) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(600));
    config(endpoint)
        .into_builder()
        .retry_config(RetryConfig::standard().with_max_attempts(5))
        .timeout_config(timeouts.build())
        .build()
}

#[tokio::test]
async fn every_call_is_tried_once_whatever_is_configured() {
    let server = Server::start().await;
    let store = DynamoLeaseStore::new(&stubborn(&server.endpoint()), "leases");
    server
        .while_running(usual, store.prepare(&preparation()))
        .await
        .unwrap();
    server.asked();
    let failing = |_: &str, _: &Value| error(500, "InternalServerError");
    for (operation, call) in calls(&store) {
        let failure = server.while_running(failing, call).await.unwrap_err();
        assert_eq!(
            verdict(&failure),
            (StoreErrorKind::Unavailable, Certainty::Unknown),
            "{operation}"
        );
        assert_eq!(server.operations(), [operation]);
    }
}

#[tokio::test]
async fn call_without_answer_ends_in_time_as_uncertain() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let store =
        DynamoLeaseStore::new(&stubborn(&endpoint), "leases").request_timeout(Duration::from_millis(100));
    for (operation, call) in calls(&store) {
        let failure = call.await.unwrap_err();
        assert_eq!(
            verdict(&failure),
            (StoreErrorKind::Unavailable, Certainty::Unknown),
            "{operation}"
        );
        assert!(
            failure.to_string().contains("no answer within 100ms"),
            "{operation}: {failure}"
        );
    }
}

#[tokio::test]
async fn write_that_reached_nobody_did_not_happen() {
    // No program listens on port 1.
    let store = DynamoLeaseStore::new(&config("http://127.0.0.1:1"), "leases");
    let failure = store.change_worker(&leave()).await.unwrap_err();
    assert_eq!(
        verdict(&failure),
        (StoreErrorKind::Unavailable, Certainty::Definite)
    );
    assert!(
        failure.to_string().contains("is the endpoint reachable?"),
        "{failure}"
    );
}

#[tokio::test]
async fn missing_credentials_or_region_say_what_helps() {
    let without_credentials = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .build();
    let failure = DynamoLeaseStore::new(&without_credentials, "leases")
        .scan()
        .await
        .unwrap_err();
    assert_eq!(verdict(&failure), (StoreErrorKind::Denied, Certainty::Definite));
    assert!(
        failure.to_string().contains("give the SDK credentials"),
        "{failure}"
    );

    let complete = config("http://127.0.0.1:1");
    let without_region = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(complete.credentials_provider().unwrap())
        .build();
    let failure = DynamoLeaseStore::new(&without_region, "leases")
        .scan()
        .await
        .unwrap_err();
    assert_eq!(verdict(&failure), (StoreErrorKind::Denied, Certainty::Definite));
    assert!(failure.to_string().contains("give the SDK a region"), "{failure}");
}

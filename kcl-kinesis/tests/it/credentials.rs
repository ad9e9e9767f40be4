//! Credentials that are slow, gone or too old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Coming;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{
    BehaviorVersion, Config, Credentials, ProvideCredentials, Region, SharedCredentialsProvider,
};
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::source::{SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::{KinesisStream, aws_sdk_kinesis};
use serde_json::json;

use crate::server::{Server, config, error, iterator, next, numbers, records, shard, summary};

/// A source of credentials that takes its time.
#[derive(Debug, Clone)]
struct Slow {
    seconds: u64,
    loads: Arc<AtomicU32>,
}

impl Slow {
    fn new(seconds: u64) -> Self {
        Self {
            seconds,
            loads: Arc::default(),
        }
    }

    fn stream(&self, server: &Server) -> KinesisStream {
        let slow = config(server).credentials_provider(SharedCredentialsProvider::new(self.clone()));
        KinesisStream::from_client(&Client::from_conf(slow.build()), "orders")
    }
}

impl ProvideCredentials for Slow {
    fn provide_credentials<'a>(&'a self) -> Coming<'a>
    where
        Self: 'a,
    {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let seconds = Duration::from_secs(self.seconds);
        Coming::new(async move {
            TokioClock::new().sleep(seconds).await;
            Ok(Credentials::new("test", "test", None, None, "slow"))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_slower_than_a_call_arrive() {
    let slow = Slow::new(25);
    let server = Server::with([summary(json!({})), summary(json!({}))]);
    let stream = slow.stream(&server);
    let clock = TokioClock::new();
    for _ in 0..2 {
        let failed = stream.identity().await.unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
        let said = failed.to_string();
        assert!(
            said.contains("credentials") && said.contains("not sent"),
            "{said}"
        );
        assert!(!said.contains("endpoint"), "{said}");
    }
    stream.identity().await.unwrap();
    assert_eq!(clock.now().since_origin(), Duration::from_secs(25));
    stream.identity().await.unwrap();
    assert_eq!(slow.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_load() {
    let slow = Slow::new(5);
    let server = Server::with([(); 3].map(|()| summary(json!({}))));
    let stream = slow.stream(&server);
    let (first, second, third) = tokio::join!(stream.identity(), stream.identity(), stream.identity());
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    assert_eq!(slow.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_loaded_again() {
    let quick = Slow::new(0);
    let server = Server::with([error(400, "ExpiredTokenException"), summary(json!({}))]);
    let stream = quick.stream(&server);
    let failed = stream.identity().await.unwrap_err();
    // A worker that starts tries on.
    assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
    assert!(failed.to_string().contains("renew the credentials"), "{failed}");
    stream.identity().await.unwrap();
    assert_eq!(quick.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_region_nothing_is_tried() {
    let server = Server::default();
    let lost = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(None::<Region>)
        .endpoint_url("http://127.0.0.1:1")
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(server.clone());
    let stream = KinesisStream::from_client(&Client::from_conf(lost.build()), "orders");
    let failed = stream.identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Denied, "{failed}");
    assert!(failed.to_string().contains("AWS_REGION"), "{failed}");
}

#[test]
fn load_of_an_ended_runtime_is_begun_again() {
    let slow = Slow::new(5);
    let server = Server::with([summary(json!({}))]);
    let stream = slow.stream(&server);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let first = runtime();
    first.block_on(async {
        let waited = TokioClock::new()
            .timeout(Duration::from_secs(1), stream.identity())
            .await;
        assert!(waited.is_err());
    });
    drop(first);
    runtime().block_on(stream.identity()).unwrap();
}

type Failure = fn() -> CredentialsError;

/// A source of credentials that fails.
#[derive(Debug)]
struct Fails(Failure);

impl ProvideCredentials for Fails {
    fn provide_credentials<'a>(&'a self) -> Coming<'a>
    where
        Self: 'a,
    {
        Coming::ready(Err((self.0)()))
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_cannot_come_say_why() {
    let chain =
        || CredentialsError::not_loaded("none found. Attempted:\n  Profile: not this one\n  Web: nor that");
    let setting = || CredentialsError::invalid_configuration("the profile `trucks` was not defined");
    let rows: [(Failure, &str); 2] = [(chain, "nor that"), (setting, "`trucks`")];
    for (error, part) in rows {
        let config =
            config(&Server::default()).credentials_provider(SharedCredentialsProvider::new(Fails(error)));
        let stream = KinesisStream::from_client(&Client::from_conf(config.build()), "orders");
        let failed = stream.identity().await.unwrap_err();
        // A start ends at once.
        assert_eq!(failed.kind(), SourceErrorKind::Denied, "{failed}");
        assert!(failed.to_string().contains(part), "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_seem_expired_are_loaded_seldom() {
    /// On a host whose clock is an hour fast.
    #[derive(Debug, Clone, Default)]
    struct Old(Arc<AtomicU32>);

    impl ProvideCredentials for Old {
        fn provide_credentials<'a>(&'a self) -> Coming<'a>
        where
            Self: 'a,
        {
            self.0.fetch_add(1, Ordering::SeqCst);
            let wall = TokioClock::new().wall().as_millis().unsigned_abs();
            let expired = UNIX_EPOCH + Duration::from_millis(wall) - Duration::from_secs(3600);
            Coming::ready(Ok(Credentials::new("test", "test", None, Some(expired), "old")))
        }
    }

    let old = Old::default();
    let server = Server::with([(); 10].map(|()| summary(json!({}))));
    let config = config(&server).credentials_provider(SharedCredentialsProvider::new(old.clone()));
    let stream = KinesisStream::from_client(&Client::from_conf(config.build()), "orders");
    for _ in 0..10 {
        stream.identity().await.unwrap();
    }
    assert_eq!(old.0.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn slow_credentials_make_no_answer_smaller() {
    let slow = Slow::new(25);
    let server = Server::with([
        iterator("i0"),
        error(400, "ExpiredTokenException"),
        records(&[1], "i1"),
    ]);
    let stream = slow.stream(&server);
    let open = async || stream.open(&shard(), StartPosition::TrimHorizon).await;
    for _ in 0..2 {
        open().await.unwrap_err();
    }
    let mut reader = open().await.unwrap();
    // The credentials are refused, and two reads wait in vain for new ones.
    for _ in 0..3 {
        next(&mut reader).await.unwrap_err();
    }
    assert_eq!(numbers(&mut reader).await, ["1"]);
    let asked = server.asked().into_iter();
    let limits: Vec<_> = asked
        .filter_map(|(_, input)| input.get("Limit").cloned())
        .collect();
    assert_eq!(limits, [100, 100]);
}

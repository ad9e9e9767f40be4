//! A server with one stream whose time stands still, and the SDK in front.

use std::fmt::Debug;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{Config, Credentials};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::ShardIteratorType;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::source::StreamSource as _;
use kcl_core::types::ShardId;
use kcl_lease_memory::MemoryStream;
use kcl_testkit::clock::ManualClock;
use kinesis_local::{WireOptions, WireServer};
use std::sync::Arc;

pub(crate) const NAME: &str = "trucks";
/// Real time after which a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Served {
    pub(crate) server: WireServer,
    pub(crate) stream: MemoryStream,
    pub(crate) clock: ManualClock,
    pub(crate) sdk: Client,
}

impl Served {
    /// With the limits and times of Kinesis.
    pub(crate) async fn as_kinesis(shards: u32) -> Self {
        Self::with(shards, WireOptions::default()).await
    }

    pub(crate) async fn with(shards: u32, options: WireOptions) -> Self {
        let clock = ManualClock::new();
        let stream = MemoryStream::new(NAME, shards, Arc::new(clock.clone()));
        let server = WireServer::start_with_clock([stream.clone()], options, Arc::new(clock.clone()));
        let server = server.await.unwrap();
        let sdk = client(server.endpoint());
        Self {
            server,
            stream,
            clock,
            sdk,
        }
    }

    pub(crate) fn advance(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
    }

    pub(crate) async fn arn(&self) -> String {
        self.stream.identity().await.unwrap().arn
    }

    pub(crate) async fn iterator(&self, shard: &ShardId, kind: ShardIteratorType) -> String {
        let call = self.sdk.get_shard_iterator().stream_name(NAME);
        let call = call.shard_id(shard.as_str()).shard_iterator_type(kind);
        call.send().await.unwrap().shard_iterator.unwrap()
    }

    pub(crate) async fn read(&self, iterator: &str) -> GetRecordsOutput {
        let call = self.sdk.get_records().shard_iterator(iterator);
        call.send().await.unwrap()
    }
}

/// The SDK as applications use it, but for its retries.
pub(crate) fn client(endpoint: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::for_tests())
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}

pub(crate) fn shard(index: u32) -> ShardId {
    ShardId::new(format!("shardId-{index:012}")).unwrap()
}

/// The code of the error with which a call must have failed.
pub(crate) fn code<T: Debug, E: ProvideErrorMetadata + Debug, R: Debug>(
    outcome: Result<T, SdkError<E, R>>,
) -> String {
    match outcome {
        Err(SdkError::ServiceError(error)) => error.into_err().code().unwrap().to_owned(),
        other => panic!("not an error of the service: {other:?}"),
    }
}

/// Returns the future's output if it comes within ten seconds of real time.
pub(crate) async fn soon<F: Future + Send>(future: F) -> F::Output {
    let clock = TokioClock::new();
    let outcome = clock.timeout(PATIENCE, future).await;
    outcome.expect("it takes too long")
}

/// Whether the future brings nothing for a while of real time.
pub(crate) async fn stays_silent<F: Future + Send>(future: F) -> bool {
    let clock = TokioClock::new();
    clock.timeout(Duration::from_millis(200), future).await.is_err()
}

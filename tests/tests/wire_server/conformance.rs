//! The conformance suite of stream sources, on the Kinesis source against the wire server with the limits of Kinesis.

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::{Credentials, SharedCredentialsProvider};
use bytes::Bytes;
use kcl_core::model::{SequenceNumber, ShardId};
use kcl_core::source::{Shard, StreamSource};
use kcl_core::time::Clock;
use kcl_kinesis::KinesisStream;
use kcl_testkit::MemoryStream;
use kcl_testkit::source_suite::{FixtureError, SourceFixture};
use kcl_testkit::wire::{WireOptions, WireServer};

use crate::support::NAME;

/// The stream is written to in memory and read through the SDK.
struct OnWire {
    stream: MemoryStream,
    source: KinesisStream,
    _server: WireServer,
}

impl OnWire {
    async fn new() -> Self {
        let stream = MemoryStream::builder(NAME).shards(2).build();
        let server = WireServer::start([stream.clone()], WireOptions::default()).await;
        let server = server.unwrap();
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .endpoint_url(server.endpoint())
            .build();
        Self {
            stream,
            source: KinesisStream::new(&config, NAME),
            _server: server,
        }
    }
}

#[async_trait]
impl SourceFixture for OnWire {
    fn source(&self) -> &dyn StreamSource {
        &self.source
    }

    fn clock(&self) -> &dyn Clock {
        self.stream.clock()
    }

    async fn put(&self, key: &str, hash_key: u128, data: Bytes) -> Result<SequenceNumber, FixtureError> {
        SourceFixture::put(&self.stream, key, hash_key, data).await
    }

    async fn split(&self, shard: &Shard) -> Result<(), FixtureError> {
        SourceFixture::split(&self.stream, shard).await
    }

    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError> {
        SourceFixture::merge(&self.stream, a, b).await
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                kcl_testkit::source_suite::$case(&OnWire::new().await).await;
            }
        )*
    };
}

kcl_testkit::stream_source_suite!(each cases!);

//! A wire server with one stream, and the source in front.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::{Credentials, SharedCredentialsProvider};
use bytes::Bytes;
use kcl_core::clock::{Clock, ClockExt as _, TokioClock};
use kcl_core::source::{Fetch, FetchLimit, RecordStream, Shard, SourceError, StartPosition, StreamSource};
use kcl_core::types::{SequenceNumber, ShardId};
use kcl_kinesis::{FanOut, KinesisStream, PollingSettings, RecordFormat};
use kcl_lease_memory::MemoryStream;
use kcl_testkit::source_suite::{Disturbance, FixtureError, SourceFixture};
use kinesis_local::{Fault, FaultRule, Operation, WireOptions, WireServer};

pub(crate) const NAME: &str = "trucks";
/// Real time after which a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How the source reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Cbor,
    Json,
    FanOut,
}

pub(crate) struct Served {
    pub(crate) server: WireServer,
    pub(crate) stream: MemoryStream,
    pub(crate) source: KinesisStream,
    pub(crate) clock: TokioClock,
    read: Read,
    options: WireOptions,
}

/// A configuration that reaches the server.
pub(crate) fn aws(server: &WireServer) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(server.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

fn fan_out(options: &WireOptions) -> FanOut {
    FanOut::consumer("suite")
        .spacing(options.resubscribe_after)
        .silence(options.heartbeat * 8)
}

impl Served {
    pub(crate) async fn new(shards: u32, options: WireOptions, read: Read) -> Self {
        let stream = MemoryStream::builder(NAME).shards(shards).build();
        let server = WireServer::start([stream.clone()], options.clone())
            .await
            .unwrap();
        let source = KinesisStream::new(&aws(&server), NAME);
        let polling = |format| PollingSettings {
            format,
            request_deadline: Duration::from_secs(3),
            ..PollingSettings::default()
        };
        let source = match read {
            Read::Cbor => source.with_polling(polling(RecordFormat::Cbor)),
            Read::Json => source.with_polling(polling(RecordFormat::Json)),
            Read::FanOut => source.with_fan_out(fan_out(&options)),
        };
        Self {
            server,
            stream,
            source,
            clock: TokioClock::new(),
            read,
            options,
        }
    }

    /// Another worker reads the first shard as the same consumer, for a moment.
    async fn take_over(&self) {
        // Not sooner after the last subscription than the service allows.
        self.clock.sleep(self.options.resubscribe_after).await;
        let other = KinesisStream::new(&aws(&self.server), NAME).with_fan_out(fan_out(&self.options));
        let mut taken = other
            .open(&self.shard(), StartPosition::TrimHorizon)
            .await
            .unwrap();
        taken.next(FetchLimit { records: 1 }).await.unwrap();
    }

    pub(crate) fn shard(&self) -> ShardId {
        ShardId::new("shardId-000000000000").unwrap()
    }

    pub(crate) async fn open(&self, start: StartPosition) -> Box<dyn RecordStream> {
        self.source.open(&self.shard(), start).await.unwrap()
    }

    /// Puts one record into the first shard.
    pub(crate) fn put(&self, payload: &str) {
        self.stream
            .put_with_hash_key("truck", 0, payload.to_owned())
            .unwrap();
    }
}

/// The next fetch, whatever it brings.
pub(crate) async fn next(reader: &mut Box<dyn RecordStream>) -> Result<Fetch, SourceError> {
    reader.next(FetchLimit { records: 1000 }).await
}

/// The payloads of the next fetch that brings some, past fetches that fail. Fails the test when none comes in time.
pub(crate) async fn payloads(reader: &mut Box<dyn RecordStream>) -> Vec<String> {
    let clock = TokioClock::new();
    let read = async {
        loop {
            if let Ok(fetch) = next(reader).await
                && !fetch.records.is_empty()
            {
                let text = |data: &Bytes| String::from_utf8(data.to_vec()).unwrap();
                return fetch.records.iter().map(|record| text(record.data())).collect();
            }
        }
    };
    clock.timeout(PATIENCE, read).await.expect("records come in time")
}

#[async_trait]
impl SourceFixture for Served {
    fn source(&self) -> &dyn StreamSource {
        &self.source
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn shares_shards(&self) -> bool {
        self.read != Read::FanOut
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        let (faults, polls) = (self.server.faults(), self.read != Read::FanOut);
        let rule = |fault, operation| FaultRule::new(fault).on(operation).times(2);
        match (disturbance, polls) {
            (Disturbance::Throttle, true) => faults.inject(rule(Fault::Throttle, Operation::GetRecords)),
            (Disturbance::Throttle, false) => {
                faults.inject(rule(Fault::Throttle, Operation::SubscribeToShard));
                self.server.reset_connections();
            }
            (Disturbance::Expiry, true) => self.stream.expire_iterators(),
            (Disturbance::Silence, true) => faults.inject(rule(Fault::HalfOpen, Operation::GetRecords)),
            (Disturbance::Silence, false) => self.server.silence_subscriptions(),
            (Disturbance::Takeover, false) => self.take_over().await,
            _ => return false,
        }
        true
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(match self.read {
            Read::FanOut => self.options.subscription_lifetime,
            Read::Cbor | Read::Json => self.options.iterator_lifetime,
        })
    }

    async fn put(
        &self,
        partition_key: &str,
        explicit_hash_key: u128,
        data: Bytes,
    ) -> Result<SequenceNumber, FixtureError> {
        let put = self
            .stream
            .put_with_hash_key(partition_key, explicit_hash_key, data);
        Ok(put?.1)
    }

    async fn split(&self, shard: &Shard) -> Result<(), FixtureError> {
        SourceFixture::split(&self.stream, shard).await
    }

    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError> {
        SourceFixture::merge(&self.stream, a, b).await
    }
}

//! The conformance suite of stream sources, on the Kinesis source against a real protocol server, through a proxy that can disturb it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use bytes::Bytes;
use kcl_core::clock::{Clock, ClockExt as _, Rng, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::source::{Shard, StreamSource};
use kcl_core::types::{SequenceNumber, ShardId};
use kcl_kinesis::{KinesisStream, PollingSettings};
use kcl_testkit::source_suite::{Disturbance, FixtureError, PATIENCE, SourceFixture};
use kcl_tests::chaos::fault::{Disturbance as OnTheWay, NetworkFault, Service};
use kcl_tests::chaos::proxy::Proxy;
use kcl_tests::testbed::Testbed;

/// How long a reader has to run into a disturbance.
const DISTURBED_WITHIN: Duration = Duration::from_secs(10);

/// A stream of its own on the testbed, with two shards.
struct OnTestbed {
    testbed: Testbed,
    stream: String,
    source: KinesisStream,
    clock: TokioClock,
    /// On the way of the source, and of nobody else.
    proxy: Arc<Proxy>,
    scope: TaskScope,
}

impl OnTestbed {
    async fn new(testbed: Testbed) -> Self {
        let stream = testbed.unique("polling");
        testbed.create_stream(&stream, 2).await;
        let nothing_is_kept = Arc::new(|_: &str, _: bool, _: &Bytes| {});
        let rng = Rng::from_seed(0);
        let proxy = Proxy::start(Service::Kinesis, testbed.kinesis_endpoint(), rng, nothing_is_kept).await;
        let proxy = proxy.expect("there is a port");
        let config = testbed
            .kinesis_config()
            .into_builder()
            .endpoint_url(proxy.endpoint());
        // What is silent is given up sooner than in production.
        let polling = PollingSettings {
            request_deadline: Duration::from_secs(2),
            ..PollingSettings::default()
        };
        Self {
            source: KinesisStream::new(&config.build(), &stream).with_polling(polling),
            clock: TokioClock::new(),
            testbed,
            stream,
            proxy: Arc::new(proxy),
            scope: TaskScope::new(),
        }
    }

    /// Lets the fault meet the next call of the source.
    fn meet(&self, fault: NetworkFault) {
        let before = self.proxy.counts().disturbed;
        self.proxy.disturb(Some(OnTheWay::always(fault)));
        let (proxy, clock) = (Arc::clone(&self.proxy), self.clock);
        self.scope.spawn("disturbance", TaskPolicy::Job, async move {
            let until = clock.now() + DISTURBED_WITHIN;
            while proxy.counts().disturbed == before && clock.now() < until {
                clock.sleep(Duration::from_millis(5)).await;
            }
            proxy.disturb(None);
        });
    }

    /// Returns once the stream is ACTIVE again.
    async fn settle(&self) -> Result<(), FixtureError> {
        let client = self.testbed.kinesis();
        let deadline = self.clock.now() + PATIENCE;
        loop {
            let summary = client.describe_stream_summary().stream_name(&self.stream);
            let summary = summary.send().await?;
            let status = summary
                .stream_description_summary()
                .map(|summary| summary.stream_status().clone());
            if status == Some(StreamStatus::Active) {
                return Ok(());
            }
            if self.clock.now() >= deadline {
                return Err(format!("the stream is still {status:?}").into());
            }
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

#[async_trait]
impl SourceFixture for OnTestbed {
    fn source(&self) -> &dyn StreamSource {
        &self.source
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        // An iterator of the server lives for minutes, and who polls a shard has it not for himself.
        let fault = match disturbance {
            Disturbance::Throttle => Some(NetworkFault::Throttle),
            Disturbance::Silence => Some(NetworkFault::BlackHole),
            Disturbance::Expiry | Disturbance::Takeover | _ => None,
        };
        if let Some(fault) = fault {
            self.meet(fault);
        }
        fault.is_some()
    }

    async fn put(
        &self,
        partition_key: &str,
        explicit_hash_key: u128,
        data: Bytes,
    ) -> Result<SequenceNumber, FixtureError> {
        let put = self
            .testbed
            .kinesis()
            .put_record()
            .stream_name(&self.stream)
            .partition_key(partition_key)
            .explicit_hash_key(explicit_hash_key.to_string())
            .data(Blob::new(data))
            .send()
            .await?;
        Ok(put.sequence_number().parse()?)
    }

    async fn split(&self, shard: &Shard) -> Result<(), FixtureError> {
        let (_, upper) = shard.hash_range.halves().ok_or("one hash key cannot be split")?;
        self.testbed
            .kinesis()
            .split_shard()
            .stream_name(&self.stream)
            .shard_to_split(shard.id.as_str())
            .new_starting_hash_key(upper.start().to_string())
            .send()
            .await?;
        self.settle().await
    }

    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError> {
        self.testbed
            .kinesis()
            .merge_shards()
            .stream_name(&self.stream)
            .shard_to_merge(a.as_str())
            .adjacent_shard_to_merge(b.as_str())
            .send()
            .await?;
        self.settle().await
    }
}

/// Makes one test of each case; each deletes its stream, so that a testbed that outlives the run does not fill up.
macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let fixture = OnTestbed::new(kcl_tests::testbed_or_skip!()).await;
                kcl_testkit::source_suite::$case(&fixture).await;
                fixture.testbed.delete_stream(&fixture.stream).await;
            }
        )*
    };
}

kcl_testkit::stream_source_suite!(each cases!);

//! The conformance suite of stream sources, on the Kinesis source against a real protocol server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use bytes::Bytes;
use kcl_core::model::{SequenceNumber, ShardId};
use kcl_core::source::{Shard, StreamSource};
use kcl_core::time::{Clock, ClockExt as _, TokioClock};
use kcl_kinesis::KinesisStream;
use kcl_testkit::source_suite::{FixtureError, PATIENCE, SourceFixture};
use kcl_tests::bed::TestBed;

/// A stream of its own on the test bed, with two shards.
struct OnBed {
    bed: TestBed,
    stream: String,
    source: KinesisStream,
    clock: TokioClock,
}

impl OnBed {
    async fn new(bed: TestBed) -> Self {
        let stream = bed.unique("polling");
        bed.create_stream(&stream, 2).await;
        Self {
            source: KinesisStream::new(&bed.kinesis_config(), &stream),
            clock: TokioClock::new(),
            bed,
            stream,
        }
    }

    /// Returns once the stream is ACTIVE again.
    async fn settle(&self) -> Result<(), FixtureError> {
        let client = self.bed.kinesis();
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
impl SourceFixture for OnBed {
    fn source(&self) -> &dyn StreamSource {
        &self.source
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    async fn put(
        &self,
        partition_key: &str,
        explicit_hash_key: u128,
        data: Bytes,
    ) -> Result<SequenceNumber, FixtureError> {
        let put = self
            .bed
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
        self.bed
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
        self.bed
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

/// Makes one test of each case; each deletes its stream, so that a bed that outlives the run does not fill up.
macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let fixture = OnBed::new(kcl_tests::bed_or_skip!()).await;
                kcl_testkit::source_suite::$case(&fixture).await;
                fixture.bed.delete_stream(&fixture.stream).await;
            }
        )*
    };
}

kcl_testkit::stream_source_suite!(each cases!);

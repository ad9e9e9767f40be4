//! The source with faults: transparent without them, and each fault as it says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kcl_core::clock::{Clock, ClockExt as _, TokioClock};
use kcl_core::source::{
    FetchLimit, RecordStream, Shard, ShardFilter, SourceErrorKind, StartPosition, StreamSource,
};
use kcl_core::types::{SequenceNumber, ShardId};
use kcl_lease_memory::MemoryStream;
use kcl_lease_memory::memory_stream::Trim;
use kcl_testkit::faulty_stream::{FaultyStream, StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::source_suite::{FixtureError, SourceFixture};
use kcl_testkit::stream_source_suite;

type Faulty = FaultyStream<MemoryStream>;

fn faulty() -> Faulty {
    let stream = MemoryStream::builder("suite").shards(2).build();
    FaultyStream::new(stream, Arc::new(TokioClock::new()))
}

/// Reads through the faults and writes behind them.
struct Fixture(Faulty);

#[async_trait]
impl SourceFixture for Fixture {
    fn source(&self) -> &dyn StreamSource {
        &self.0
    }

    fn clock(&self) -> &dyn Clock {
        self.0.inner().clock()
    }

    async fn put(&self, key: &str, hash_key: u128, data: Bytes) -> Result<SequenceNumber, FixtureError> {
        SourceFixture::put(self.0.inner(), key, hash_key, data).await
    }

    async fn split(&self, shard: &Shard) -> Result<(), FixtureError> {
        SourceFixture::split(self.0.inner(), shard).await
    }

    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError> {
        SourceFixture::merge(self.0.inner(), a, b).await
    }
}

mod without_faults {
    use super::*;

    async fn fixture() -> Fixture {
        Fixture(faulty())
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        fixture
    );
}

mod with_lost_and_late_answers {
    use super::*;

    /// The first fetches fail in every way that a reader may simply wait out. The contract holds nevertheless.
    async fn fixture() -> Fixture {
        let stream = faulty();
        let late = StreamFault::Delay(Duration::from_millis(3));
        let throttled = StreamFault::Fail(SourceErrorKind::Throttled);
        for fault in [
            StreamFault::LoseReply,
            throttled,
            late,
            StreamFault::LoseReply,
            late,
        ] {
            stream
                .faults()
                .add(StreamFaultRule::next(2, StreamCall::Next, fault));
        }
        Fixture(stream)
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        fixture
    );
}

const ONE: FetchLimit = FetchLimit { records: 1 };
const MANY: FetchLimit = FetchLimit { records: 100 };

/// A reader of a shard with four records.
async fn reader(stream: &Faulty) -> (ShardId, Box<dyn RecordStream>) {
    let mut shard = None;
    for payload in ["a", "b", "c", "d"] {
        shard = Some(stream.inner().put("key", payload).unwrap().0);
    }
    let shard = shard.unwrap();
    let reader = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();
    (shard, reader)
}

#[tokio::test(start_paused = true)]
async fn fault_strikes_as_often_as_requested() {
    let stream = faulty();
    let denied = StreamFault::Fail(SourceErrorKind::Denied);
    stream
        .faults()
        .add(StreamFaultRule::next(2, StreamCall::Shards, denied));
    for _ in 0..2 {
        let error = stream.shards(ShardFilter::All, None).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
    }
    assert!(stream.shards(ShardFilter::All, None).await.is_ok());
    assert_eq!(
        (
            stream.faults().calls(StreamCall::Shards),
            stream.faults().struck(StreamCall::Shards)
        ),
        (3, 2)
    );
    assert_eq!(stream.faults().calls(StreamCall::Identity), 0);
}

#[tokio::test(start_paused = true)]
async fn fault_is_switched_for_one_shard_while_open() {
    let stream = faulty();
    let (shard, mut reader) = reader(&stream).await;
    let outage = StreamFault::Fail(SourceErrorKind::Unavailable);
    let elsewhere = ShardId::new("shardId-000000000099").unwrap();
    stream
        .faults()
        .add(StreamFaultRule::every(StreamCall::Next, outage).on_shard(elsewhere));
    assert_eq!(reader.next(ONE).await.unwrap().records.len(), 1);
    stream
        .faults()
        .add(StreamFaultRule::every(StreamCall::Next, outage).on_shard(shard));
    for _ in 0..3 {
        assert!(reader.next(ONE).await.is_err());
    }
    stream.faults().clear();
    assert_eq!(reader.next(MANY).await.unwrap().records.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn call_that_hangs_ends_only_by_callers_deadline() {
    let stream = faulty();
    let (_, mut reader) = reader(&stream).await;
    stream
        .faults()
        .add(StreamFaultRule::next(1, StreamCall::Next, StreamFault::Hang));
    let clock = TokioClock::new();
    assert!(
        clock
            .timeout(Duration::from_secs(3600), reader.next(MANY))
            .await
            .is_err()
    );
    assert_eq!(reader.next(MANY).await.unwrap().records.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_takes_so_much_longer() {
    let stream = faulty();
    let late = StreamFault::Delay(Duration::from_secs(9));
    stream
        .faults()
        .add(StreamFaultRule::every(StreamCall::Identity, late));
    let clock = TokioClock::new();
    stream.identity().await.unwrap();
    assert_eq!(clock.now().since_origin(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn records_of_lost_answer_come_again_first() {
    let stream = faulty();
    let (shard, mut reader) = reader(&stream).await;
    stream
        .faults()
        .add(StreamFaultRule::next(2, StreamCall::Next, StreamFault::LoseReply));
    for _ in 0..2 {
        assert_eq!(
            reader.next(MANY).await.unwrap_err().kind(),
            SourceErrorKind::Unavailable
        );
    }
    // The source has answered once and would not do so again.
    stream.inner().trim(&Trim::KeepLast(0));
    stream.inner().split(&shard).unwrap();
    let mut sizes = Vec::new();
    for limit in [1, 2, 100] {
        let fetch = reader.next(FetchLimit { records: limit }).await.unwrap();
        sizes.push((fetch.records.len(), fetch.end.is_some()));
    }
    assert_eq!(sizes, [(1, false), (2, false), (1, false)]);
    assert!(reader.next(MANY).await.unwrap().end.is_some());
}

#[tokio::test(start_paused = true)]
async fn opening_whose_answer_is_lost_can_be_repeated() {
    let stream = faulty();
    let (shard, _) = reader(&stream).await;
    stream
        .faults()
        .add(StreamFaultRule::next(1, StreamCall::Open, StreamFault::LoseReply));
    assert!(stream.open(&shard, StartPosition::Latest).await.is_err());
    assert!(stream.open(&shard, StartPosition::Latest).await.is_ok());
}

//! The stream in memory against the suite for all sources, at once and over a slow network.

use std::time::Duration;

use kcl_lease_memory::MemoryStream;
use kcl_testkit::stream_source_suite;

mod at_once {
    use super::*;

    async fn stream() -> MemoryStream {
        MemoryStream::builder("suite").shards(2).build()
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        stream
    );
}

mod over_a_slow_network_with_small_pages_throttles_and_short_iterators {
    use super::*;

    async fn stream() -> MemoryStream {
        MemoryStream::builder("suite")
            .shards(2)
            .latency(Duration::from_millis(5))
            .listing_page(1)
            .reads_per_second(5)
            .iterator_lifetime(Duration::from_millis(150))
            .build()
    }

    stream_source_suite!(
        #[tokio::test(start_paused = true)]
        stream
    );
}

/// Behaviour of Kinesis that the suite cannot ask of every source.
mod rules {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use kcl_core::clock::ClockExt as _;
    use kcl_core::source::{
        FetchLimit, RecordStream, ShardFilter, SourceErrorKind, StartPosition, StreamSource as _,
    };
    use kcl_core::types::{Record, ShardId, Timestamp};
    use kcl_lease_memory::memory_stream::{Pace, ReshardError, Trim};
    use kcl_testkit::clock::{SIMULATION_START, Skew, SkewedClock};

    use super::*;

    const MANY: FetchLimit = FetchLimit { records: 10_000 };

    fn clock() -> Arc<SkewedClock> {
        Arc::new(SkewedClock::new(Skew::default()))
    }

    fn only_shard(stream: &MemoryStream) -> ShardId {
        stream.shards_snapshot()[0].shard.id.clone()
    }

    async fn payloads(reader: &mut dyn RecordStream) -> Vec<String> {
        let fetch = reader.next(MANY).await.unwrap();
        let text = |record: &Record| String::from_utf8(record.data().to_vec()).unwrap();
        fetch.records.iter().map(text).collect()
    }

    fn put_all(stream: &MemoryStream, payloads: &[&'static str]) {
        for payload in payloads {
            stream.put("key", *payload).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ids_and_arn_look_like_those_of_kinesis() {
        let stream = MemoryStream::new("trucks", 2, clock());
        let ids: Vec<_> = stream
            .shards_snapshot()
            .into_iter()
            .map(|s| s.shard.id.to_string())
            .collect();
        assert_eq!(ids, ["shardId-000000000000", "shardId-000000000001"]);
        let identity = stream.identity().await.unwrap();
        assert_eq!(
            identity.arn,
            "arn:aws:kinesis:us-east-1:000000000000:stream/trucks"
        );
        assert_eq!(identity.created, SIMULATION_START);
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_placed_by_key_or_explicit_hash() {
        let stream = MemoryStream::new("trucks", 2, clock());
        // The MD5 of "pk" and of "a" lie in the lower half of the hash keys, that of "b" in the upper.
        let shard_of = |key: &'static str| stream.put(key, "x").unwrap().0.to_string();
        assert_eq!(shard_of("pk"), "shardId-000000000000");
        assert_eq!(shard_of("a"), "shardId-000000000000");
        assert_eq!(shard_of("b"), "shardId-000000000001");
        let (shard, _) = stream.put_with_hash_key("a", u128::MAX, "x").unwrap();
        assert_eq!(shard.as_str(), "shardId-000000000001");
    }

    #[tokio::test(start_paused = true)]
    async fn records_without_key_take_turns_over_open_shards() {
        let stream = MemoryStream::new("trucks", 3, clock());
        let first = only_shard(&stream);
        stream.split(&first).unwrap();
        let mut counts = BTreeMap::new();
        for _ in 0..8 {
            let (shard, _) = stream.put_without_key("x").unwrap();
            *counts.entry(shard).or_insert(0) += 1;
        }
        assert!(!counts.contains_key(&first));
        assert_eq!(counts.values().collect::<Vec<_>>(), [&2, &2, &2, &2]);
        assert!(
            stream
                .put_log()
                .iter()
                .all(|(_, record)| record.partition_key().is_none())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn arrival_times_follow_service_and_not_host() {
        let stream = MemoryStream::builder("trucks")
            .clock(clock())
            .service_time(Timestamp::from_millis(1_000))
            .service_time_offset_millis(-400)
            .build();
        tokio::time::advance(Duration::from_millis(50)).await;
        put_all(&stream, &["a"]);
        assert_eq!(
            stream.put_log()[0].1.approximate_arrival(),
            Some(Timestamp::from_millis(650))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn reader_at_trimmed_record_begins_with_oldest() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let shard = only_shard(&stream);
        put_all(&stream, &["a", "b", "c", "d", "e"]);
        let second = stream.records(&shard)[1].sequence_number().clone();
        let mut before = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();

        assert_eq!(stream.trim(&Trim::Through(shard.clone(), second.clone())), 2);
        assert_eq!(stream.trim(&Trim::KeepLast(2)), 1);
        let starts = [
            StartPosition::TrimHorizon,
            StartPosition::AtSequence(second.clone()),
            StartPosition::AfterSequence(second),
            StartPosition::AtTimestamp(Timestamp::from_millis(0)),
        ];
        for start in starts {
            let mut reader = stream.open(&shard, start).await.unwrap();
            assert_eq!(payloads(&mut *reader).await, ["d", "e"]);
        }
        assert_eq!(payloads(&mut *before).await, ["d", "e"]);
        assert_eq!(stream.put_log().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn retention_by_time_keeps_records_of_that_time() {
        let stream = MemoryStream::new("trucks", 1, clock());
        put_all(&stream, &["old"]);
        tokio::time::advance(Duration::from_secs(10)).await;
        put_all(&stream, &["new"]);
        let now = stream.service_time();
        assert_eq!(stream.trim(&Trim::ArrivedBefore(now)), 1);
        assert_eq!(
            stream.trim(&Trim::ArrivedBefore(now.plus(Duration::from_millis(1)))),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn closed_shard_without_records_can_be_forgotten() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let parent = only_shard(&stream);
        put_all(&stream, &["a"]);
        let mut reader = stream.open(&parent, StartPosition::TrimHorizon).await.unwrap();
        let children = stream.split(&parent).unwrap();
        assert_eq!(stream.forget_closed_shards(), [], "a record is left");
        stream.trim(&Trim::KeepLast(0));
        assert_eq!(stream.forget_closed_shards(), std::slice::from_ref(&parent));

        let page = stream.shards(ShardFilter::All, None).await.unwrap();
        let listed: Vec<_> = page.shards.iter().map(|shard| shard.id.clone()).collect();
        assert_eq!(listed, children);
        let error = stream
            .open(&parent, StartPosition::TrimHorizon)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::NotFound);
        assert_eq!(
            reader.next(MANY).await.unwrap_err().kind(),
            SourceErrorKind::NotFound
        );
    }

    #[tokio::test(start_paused = true)]
    async fn filter_by_time_shows_shards_open_since_then() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let first = only_shard(&stream);
        tokio::time::advance(Duration::from_secs(10)).await;
        let [second, third] = stream.split(&first).unwrap();
        let at_split = stream.service_time();
        tokio::time::advance(Duration::from_secs(10)).await;
        let fourth = stream.merge(&second, &third).unwrap();
        let later = stream.service_time();
        let listed = |time| {
            let stream = &stream;
            async move {
                let page = stream
                    .shards(ShardFilter::FromTimestamp(time), None)
                    .await
                    .unwrap();
                page.shards.len()
            }
        };
        assert_eq!(listed(at_split).await, 4);
        assert_eq!(listed(at_split.plus(Duration::from_millis(1))).await, 3);
        assert_eq!(listed(later.plus(Duration::from_millis(1))).await, 1);
        assert_eq!(stream.shards_snapshot()[3].shard.parents, [second, third].into());
        assert_eq!(stream.shards_snapshot()[1].children, [fourth]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reshard_that_kinesis_would_refuse_is_refused() {
        let stream = MemoryStream::new("trucks", 3, clock());
        let ids: Vec<_> = stream.shards_snapshot().into_iter().map(|s| s.shard.id).collect();
        let (a, b, c) = (&ids[0], &ids[1], &ids[2]);
        assert_eq!(
            stream.merge(a, c),
            Err(ReshardError::NotAdjacent(a.clone(), c.clone()))
        );
        assert_eq!(
            stream.split_at(b, 0),
            Err(ReshardError::HashKeyOutside(b.clone()))
        );
        assert_eq!(
            stream.split_at(a, 0),
            Err(ReshardError::HashKeyOutside(a.clone()))
        );
        stream.split_at(a, 1).unwrap();
        assert_eq!(stream.split(a), Err(ReshardError::Closed(a.clone())));
        let tiny = stream.shards_snapshot()[3].shard.id.clone();
        assert_eq!(
            stream.split(&tiny),
            Err(ReshardError::HashKeyOutside(tiny.clone()))
        );
        let unknown = ShardId::new("shardId-000000000099").unwrap();
        assert_eq!(
            stream.split(&unknown),
            Err(ReshardError::NoSuchShard(unknown.clone()))
        );
        stream.merge(c, b).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_kinesis_would_refuse_is_refused() {
        let stream = MemoryStream::new("trucks", 2, clock());
        let (shard, _) = stream.put("a", "x").unwrap();
        let (_, foreign) = stream.put("b", "x").unwrap();
        let future = stream.service_time().plus(Duration::from_secs(1));
        let starts = [
            StartPosition::AtSequence(foreign.clone()),
            StartPosition::AfterSequence(foreign),
            StartPosition::AtSequence(7.into()),
            StartPosition::AtTimestamp(future),
        ];
        for start in starts {
            let error = stream.open(&shard, start).await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Invalid, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_is_the_age_of_next_unread_record() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let pace = Pace {
            behind: Duration::from_millis(7),
            idle: Duration::from_millis(900),
        };
        stream.set_pace(pace);
        let mut reader = stream
            .open(&only_shard(&stream), StartPosition::TrimHorizon)
            .await
            .unwrap();
        put_all(&stream, &["a"]);
        tokio::time::advance(Duration::from_secs(3)).await;
        put_all(&stream, &["b"]);
        tokio::time::advance(Duration::from_secs(4)).await;
        let first = reader.next(FetchLimit { records: 1 }).await.unwrap();
        assert_eq!(
            (first.behind, first.wait),
            (Some(Duration::from_secs(4)), pace.behind)
        );
        let second = reader.next(FetchLimit { records: 1 }).await.unwrap();
        assert_eq!((second.behind, second.wait), (Some(Duration::ZERO), pace.idle));
    }

    #[tokio::test(start_paused = true)]
    async fn sixth_read_in_a_second_is_throttled() {
        let clock = clock();
        let stream = MemoryStream::new("trucks", 2, clock.clone());
        stream.set_reads_per_second(Some(5));
        let ids: Vec<_> = stream.shards_snapshot().into_iter().map(|s| s.shard.id).collect();
        let mut one = stream.open(&ids[0], StartPosition::TrimHorizon).await.unwrap();
        let mut two = stream.open(&ids[0], StartPosition::TrimHorizon).await.unwrap();
        let mut other = stream.open(&ids[1], StartPosition::TrimHorizon).await.unwrap();
        for _ in 0..5 {
            one.next(MANY).await.unwrap();
        }
        clock.sleep(Duration::from_millis(900)).await;
        assert_eq!(
            two.next(MANY).await.unwrap_err().kind(),
            SourceErrorKind::Throttled
        );
        other.next(MANY).await.unwrap();
        clock.sleep(Duration::from_millis(100)).await;
        two.next(MANY).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_iterator_is_replaced_where_it_stood() {
        let clock = clock();
        let stream = MemoryStream::new("trucks", 1, clock.clone());
        let shard = only_shard(&stream);
        put_all(&stream, &["old"]);
        let mut latest = stream.open(&shard, StartPosition::Latest).await.unwrap();
        put_all(&stream, &["a"]);
        clock.sleep(Duration::from_secs(300)).await;
        assert_eq!(stream.reminted_iterators(), 0);
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(payloads(&mut *latest).await, ["a"]);
        assert_eq!(stream.reminted_iterators(), 1);
        put_all(&stream, &["b"]);
        stream.expire_iterators();
        assert_eq!(payloads(&mut *latest).await, ["b"]);
        assert_eq!(payloads(&mut *latest).await, [""; 0]);
        assert_eq!(stream.reminted_iterators(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn fetch_holds_ten_mebibytes_or_one_record() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let mebibytes = |n: usize| vec![0_u8; n * 1024 * 1024];
        for size in [4, 6, 1, 11] {
            stream.put("a", mebibytes(size)).unwrap();
        }
        let shard = only_shard(&stream);
        let mut reader = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();
        let mut counts = Vec::new();
        for _ in 0..4 {
            counts.push(reader.next(MANY).await.unwrap().records.len());
        }
        assert_eq!(counts, [2, 1, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_stream_is_not_found_by_anybody() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let shard = only_shard(&stream);
        let mut reader = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();
        stream.delete();
        let kinds = [
            stream.identity().await.unwrap_err().kind(),
            stream.shards(ShardFilter::All, None).await.unwrap_err().kind(),
            stream
                .open(&shard, StartPosition::Latest)
                .await
                .unwrap_err()
                .kind(),
            reader.next(MANY).await.unwrap_err().kind(),
            stream.put("a", "x").unwrap_err().kind(),
        ];
        assert_eq!(kinds, [SourceErrorKind::NotFound; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn recreated_stream_has_same_shard_ids() {
        let stream = MemoryStream::new("trucks", 1, clock());
        let (shard, old) = stream.put("a", "old").unwrap();
        let before = stream.identity().await.unwrap();
        let mut reader = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();
        stream.recreate(1);
        let after = stream.identity().await.unwrap();
        assert_eq!((after.name, after.arn), (before.name.clone(), before.arn.clone()));
        assert!(after.created.as_secs() > before.created.as_secs());
        assert_eq!(
            reader.next(MANY).await.unwrap_err().kind(),
            SourceErrorKind::NotFound
        );
        let resumed = stream.open(&shard, StartPosition::AfterSequence(old)).await;
        assert_eq!(resumed.unwrap_err().kind(), SourceErrorKind::Invalid);
        put_all(&stream, &["new"]);
        let mut reader = stream.open(&shard, StartPosition::TrimHorizon).await.unwrap();
        assert_eq!(payloads(&mut *reader).await, ["new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_calls_give_the_same_stream() {
        let run = || {
            let stream = MemoryStream::new("trucks", 3, clock());
            for i in 0..50 {
                stream.put(format!("truck-{i}"), "x").unwrap();
            }
            let [low, high] = stream.split(&only_shard(&stream)).unwrap();
            stream.put_without_key("y").unwrap();
            stream.merge(&low, &high).unwrap();
            (stream.put_log(), stream.shards_snapshot())
        };
        assert_eq!(run(), run());
    }

    #[tokio::test(start_paused = true)]
    async fn debug_shows_no_record() {
        let stream = MemoryStream::new("trucks", 1, clock());
        stream.put("alice", "secret").unwrap();
        let mut reader = stream
            .open(&only_shard(&stream), StartPosition::TrimHorizon)
            .await
            .unwrap();
        let fetch = reader.next(MANY).await.unwrap();
        let shown = format!("{stream:?} {reader:?} {fetch:?} {:?}", stream.put_log());
        assert!(!shown.contains("secret") && !shown.contains("alice"), "{shown}");
    }
}

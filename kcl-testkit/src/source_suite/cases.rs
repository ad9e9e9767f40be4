//! The cases. Each fails by panicking.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use kcl_core::clock::ClockExt as _;
use kcl_core::source::{
    ChildShard, FetchLimit, Shard, ShardEnd, ShardFilter, SourceErrorKind, StartPosition,
};
use kcl_core::types::{HashKeyRange, SequenceNumber, ShardId};

use super::reading::{
    SeenRecords, linger, list, open, passes, put, put_numbers, read, read_to_end, read_until, split,
    two_shards,
};
use super::{PATIENCE, SourceFixture};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Partition key, payload, sequence number and a plausible arrival time come through.
pub async fn a_record_arrives_as_it_was_put(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let payload = Bytes::from_static(&[0, 255, 10, 13, 0]);
    let put = fixture.put("truck-7", shard.hash_range.end(), payload.clone());
    let sequence = put.await.expect("a record can be put");
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let seen = read_until(fixture, &mut *reader, 10, |seen| !seen.records.is_empty()).await;
    let record = &seen.records[0];
    assert_eq!(record.partition_key(), Some("truck-7"));
    assert_eq!(record.data(), &payload);
    assert_eq!(record.sequence_number(), &sequence);
    assert_eq!(record.sub_sequence_number(), 0);
    assert!(
        record.approximate_arrival().is_some(),
        "the arrival time is missing"
    );
}

/// From the trim horizon every record comes once, and in the order of rising sequence numbers.
pub async fn trim_horizon_reads_everything_in_order(fixture: &dyn SourceFixture) {
    let [shard, other] = two_shards(fixture).await;
    let sequences = put_numbers(fixture, &shard, 0..20).await;
    put(fixture, &other, "of another shard").await;
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let seen = read_until(fixture, &mut *reader, 7, |seen| seen.records.len() >= 20).await;
    assert_eq!(seen.payloads(), numbers(0..20));
    let read: Vec<_> = seen.records.iter().map(|r| r.sequence_number().clone()).collect();
    assert_eq!(read, sequences);
    assert!(
        read.windows(2).all(|pair| pair[0] < pair[1]),
        "sequence numbers rise"
    );
    assert!(linger(fixture, &mut *reader).await.records.is_empty());
}

/// After each record of a shard a new reader begins with the very next one.
pub async fn a_reader_goes_on_exactly_after_a_sequence_number(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let sequences = put_numbers(fixture, &shard, 0..5).await;
    for (i, sequence) in sequences.iter().enumerate().take(4) {
        let start = StartPosition::AfterSequence(sequence.clone());
        let mut reader = open(fixture, &shard.id, start).await;
        assert_eq!(read(fixture, &mut *reader, 4 - i).await, numbers(i + 1..5));
    }
    let start = StartPosition::AfterSequence(sequences[4].clone());
    let mut reader = open(fixture, &shard.id, start).await;
    assert!(linger(fixture, &mut *reader).await.records.is_empty());
    put(fixture, &shard, "5").await;
    assert_eq!(read(fixture, &mut *reader, 1).await, numbers(5..6));
}

/// At each record of a shard a new reader begins with that record.
pub async fn a_reader_begins_exactly_at_a_sequence_number(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let sequences = put_numbers(fixture, &shard, 0..5).await;
    for (i, sequence) in sequences.iter().enumerate() {
        let start = StartPosition::AtSequence(sequence.clone());
        let mut reader = open(fixture, &shard.id, start).await;
        assert_eq!(read(fixture, &mut *reader, 5 - i).await, numbers(i..5));
    }
}

/// LATEST is resolved by opening: what is put between the opening and the first fetch is not lost.
pub async fn latest_gets_only_what_is_put_after_the_opening(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..3).await;
    let mut reader = open(fixture, &shard.id, StartPosition::Latest).await;
    put_numbers(fixture, &shard, 3..6).await;
    assert_eq!(read(fixture, &mut *reader, 3).await, numbers(3..6));
}

/// A reader from the arrival time of a record begins with it, if no other arrived in the same moment.
pub async fn at_timestamp_begins_with_the_first_record_of_that_time(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    for number in 0..3 {
        put_numbers(fixture, &shard, number..number + 1).await;
        // Some servers keep arrival times in whole seconds.
        fixture.clock().sleep(Duration::from_millis(2100)).await;
    }
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let all = read_until(fixture, &mut *reader, 100, |seen| seen.records.len() >= 3).await;
    for (i, record) in all.records.iter().enumerate() {
        let arrived = record.approximate_arrival().expect("the arrival time is there");
        let mut reader = open(fixture, &shard.id, StartPosition::AtTimestamp(arrived)).await;
        assert_eq!(read(fixture, &mut *reader, 3 - i).await, numbers(i..3));
    }
    let first = all.records[0]
        .approximate_arrival()
        .expect("the arrival time is there");
    let between = StartPosition::AtTimestamp(first.plus(Duration::from_millis(1001)));
    let mut reader = open(fixture, &shard.id, between).await;
    assert_eq!(read(fixture, &mut *reader, 2).await, numbers(1..3));
}

/// A reader that found nothing finds what is put afterwards.
pub async fn a_reader_waits_for_what_is_put_later(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    for number in 0..3 {
        assert!(linger(fixture, &mut *reader).await.records.is_empty());
        put_numbers(fixture, &shard, number..number + 1).await;
        assert_eq!(read(fixture, &mut *reader, 1).await, numbers(number..number + 1));
    }
}

/// Each reader has a place of its own.
pub async fn two_readers_of_a_shard_do_not_disturb_each_other(fixture: &dyn SourceFixture) {
    if !fixture.shares_shards() {
        return;
    }
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..6).await;
    let mut ahead = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let mut after = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let first = read_until(fixture, &mut *ahead, 3, |seen| seen.records.len() >= 3).await;
    assert_eq!(first.payloads(), numbers(0..3));
    assert_eq!(read(fixture, &mut *after, 6).await, numbers(0..6));
    assert_eq!(read(fixture, &mut *ahead, 3).await, numbers(3..6));
}

/// A limit of one brings at most one record at a time, and all of them in the end.
pub async fn no_fetch_exceeds_its_limit(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..6).await;
    for limit in [1, 4] {
        let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
        // `read_until` asserts the limit of every fetch.
        let seen = read_until(fixture, &mut *reader, limit, |seen| seen.records.len() >= 6).await;
        assert_eq!(seen.payloads(), numbers(0..6));
    }
}

/// Whatever the moment at which the future of a fetch is dropped, the next fetch goes on from the last one that was received.
pub async fn a_dropped_fetch_loses_and_repeats_nothing(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..40).await;
    let clock = fixture.clock();
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let mut seen = SeenRecords::default();
    for millis in 0..20 {
        let patience = Duration::from_millis(millis);
        match clock
            .timeout(patience, reader.next(FetchLimit { records: 1 }))
            .await
        {
            Ok(Ok(fetch)) => seen.add(&fetch),
            Ok(Err(error)) => assert!(passes(&error), "the source failed: {error}"),
            Err(_) => {}
        }
    }
    let rest = 40 - seen.records.len();
    let mut payloads = seen.payloads();
    payloads.extend(read(fixture, &mut *reader, rest).await);
    assert_eq!(payloads, numbers(0..40));
}

/// Where a source reports how far behind it is, that is zero once everything is read.
pub async fn a_reader_that_has_caught_up_is_not_behind(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..3).await;
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    read(fixture, &mut *reader, 3).await;
    let last = linger(fixture, &mut *reader)
        .await
        .last
        .expect("a fetch came back");
    assert!(
        last.behind.is_none_or(|behind| behind.is_zero()),
        "{:?}",
        last.behind
    );
}

/// However often it is read, an open shard has no end.
pub async fn an_open_shard_does_not_end(fixture: &dyn SourceFixture) {
    let [shard, other] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..2).await;
    split(fixture, &other).await;
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let seen = read_until(fixture, &mut *reader, 1, |seen| seen.records.len() >= 2).await;
    assert_eq!(seen.ends, []);
    assert_eq!(linger(fixture, &mut *reader).await.ends, []);
}

/// The children of a shard, as the listing shows them.
async fn children_of(fixture: &dyn SourceFixture, parent: &ShardId) -> Vec<Shard> {
    let mut shards = list(fixture, ShardFilter::All).await;
    shards.retain(|shard| shard.parents.contains(parent));
    shards
}

fn as_children(shards: &[Shard]) -> BTreeMap<ShardId, ChildShard> {
    let child = |shard: &Shard| ChildShard {
        id: shard.id.clone(),
        parents: shard.parents.clone(),
        hash_range: shard.hash_range,
    };
    shards
        .iter()
        .map(|shard| (shard.id.clone(), child(shard)))
        .collect()
}

fn assert_end_names(end: &ShardEnd, children: &[Shard]) {
    let named: BTreeMap<_, _> = end
        .children
        .iter()
        .map(|child| (child.id.clone(), child.clone()))
        .collect();
    assert_eq!(named.len(), end.children.len(), "a child is named twice");
    assert_eq!(named, as_children(children));
}

/// The end comes with or after the last record, names the two children, and comes to a reader from any place.
pub async fn a_split_shard_ends_once_after_its_last_record_with_both_children(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..5).await;
    let mut early = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    assert_eq!(read(fixture, &mut *early, 5).await, numbers(0..5));
    split(fixture, &shard).await;
    let mut late = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let children = children_of(fixture, &shard.id).await;
    assert_eq!(children.len(), 2);

    let end = read_to_end(fixture, &mut *early).await;
    assert_eq!(end.payloads(), numbers(0..0));
    assert_end_names(&end.ends[0], &children);
    let end = read_to_end(fixture, &mut *late).await;
    assert_eq!(end.payloads(), numbers(0..5));
    assert_end_names(&end.ends[0], &children);
}

/// Both parents of a merge end, and both name the one child with both parents.
pub async fn a_merged_shard_ends_with_the_child_that_names_both_parents(fixture: &dyn SourceFixture) {
    let [low, high] = two_shards(fixture).await;
    put_numbers(fixture, &low, 0..2).await;
    put_numbers(fixture, &high, 2..4).await;
    fixture
        .merge(&low.id, &high.id)
        .await
        .expect("shards can be merged");
    let children = children_of(fixture, &low.id).await;
    assert_eq!(children.len(), 1);
    assert_eq!(
        children[0].parents,
        BTreeSet::from([low.id.clone(), high.id.clone()])
    );
    assert_eq!(children[0].hash_range, HashKeyRange::WHOLE);
    for (parent, records) in [(&low, 0..2), (&high, 2..4)] {
        let mut reader = open(fixture, &parent.id, StartPosition::TrimHorizon).await;
        let seen = read_to_end(fixture, &mut *reader).await;
        assert_eq!(seen.payloads(), numbers(records));
        assert_end_names(&seen.ends[0], &children);
    }
}

/// A closed shard that never had a record has an end too, from whatever place it is read.
pub async fn an_empty_shard_that_is_closed_ends(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    split(fixture, &shard).await;
    let children = children_of(fixture, &shard.id).await;
    for start in [StartPosition::TrimHorizon, StartPosition::Latest] {
        let mut reader = open(fixture, &shard.id, start).await;
        let seen = read_to_end(fixture, &mut *reader).await;
        assert_eq!(seen.payloads(), numbers(0..0));
        assert_end_names(&seen.ends[0], &children);
    }
}

/// A reader that comes back to a closed shard of which it has read everything learns that it ended.
pub async fn resuming_after_the_last_record_of_a_closed_shard_finds_its_end(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let sequences = put_numbers(fixture, &shard, 0..3).await;
    split(fixture, &shard).await;
    let children = children_of(fixture, &shard.id).await;
    let start = StartPosition::AfterSequence(sequences[2].clone());
    let mut reader = open(fixture, &shard.id, start).await;
    let seen = read_to_end(fixture, &mut *reader).await;
    assert_eq!(seen.payloads(), numbers(0..0));
    assert_end_names(&seen.ends[0], &children);
}

/// A split moves no record: what was put before stays in the parent, what is put after is in the child of its hash key.
pub async fn children_hold_only_what_was_put_after_the_split(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    let before = put(fixture, &shard, "before").await;
    split(fixture, &shard).await;
    for child in children_of(fixture, &shard.id).await {
        let after = put(fixture, &child, child.id.as_str()).await;
        assert!(before < after, "sequence numbers rise from parent to child");
        assert!(child.starting_sequence <= after);
        let mut reader = open(fixture, &child.id, StartPosition::TrimHorizon).await;
        assert_eq!(
            read(fixture, &mut *reader, 1).await,
            [child.id.as_str().to_owned()]
        );
        assert!(linger(fixture, &mut *reader).await.records.is_empty());
    }
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    assert_eq!(
        read_to_end(fixture, &mut *reader).await.payloads(),
        ["before".to_owned()]
    );
}

fn assert_tiles(mut open: Vec<Shard>) {
    open.sort_by_key(|shard| shard.hash_range);
    let ranges: Vec<_> = open.iter().map(|shard| shard.hash_range).collect();
    assert_eq!(ranges.first().map(HashKeyRange::start), Some(0));
    assert_eq!(ranges.last().map(HashKeyRange::end), Some(u128::MAX));
    assert!(
        ranges.windows(2).all(|pair| pair[0].is_followed_by(&pair[1])),
        "{ranges:?}"
    );
}

/// After a split and a merge of one half with its neighbour, closed shards are shown closed, and each knows where it came from.
pub async fn the_listing_shows_lineage_and_covers_every_hash_key(fixture: &dyn SourceFixture) {
    let [low, high] = two_shards(fixture).await;
    assert_tiles(vec![low.clone(), high.clone()]);
    split(fixture, &low).await;
    let mut halves = children_of(fixture, &low.id).await;
    halves.sort_by_key(|shard| shard.hash_range);
    let merged = fixture.merge(&halves[1].id, &high.id).await;
    merged.expect("shards can be merged");

    let shards = list(fixture, ShardFilter::All).await;
    let closed: BTreeSet<_> = shards
        .iter()
        .filter(|shard| shard.closed)
        .map(|shard| shard.id.clone())
        .collect();
    assert_eq!(
        closed,
        BTreeSet::from([low.id.clone(), halves[1].id.clone(), high.id.clone()])
    );
    let youngest = children_of(fixture, &high.id).await;
    assert_eq!(
        youngest[0].parents,
        BTreeSet::from([halves[1].id.clone(), high.id.clone()])
    );
    assert_eq!(halves[0].parents, BTreeSet::from([low.id.clone()]));
    assert_tiles(shards.into_iter().filter(|shard| !shard.closed).collect());
}

/// The pages of a listing, put together, hold every shard exactly once, and each page says the service's time.
pub async fn a_paged_listing_shows_each_shard_once(fixture: &dyn SourceFixture) {
    let [low, high] = two_shards(fixture).await;
    split(fixture, &low).await;
    split(fixture, &high).await;
    let first = fixture.source().shards(ShardFilter::All, None).await;
    let first = first.expect("the shards can be listed").service_time;
    let shards = list(fixture, ShardFilter::All).await;
    let ids: BTreeSet<_> = shards.iter().map(|shard| shard.id.clone()).collect();
    assert_eq!((ids.len(), shards.len()), (6, 6));
    fixture.clock().sleep(Duration::from_secs(2)).await;
    let later = fixture.source().shards(ShardFilter::All, None).await;
    let later = later.expect("the shards can be listed").service_time;
    assert!(
        later > first && later < first.plus(PATIENCE),
        "{first:?} {later:?}"
    );
}

/// The filter for open shards shows those that take records now.
pub async fn the_open_filter_leaves_closed_shards_out(fixture: &dyn SourceFixture) {
    let [low, high] = two_shards(fixture).await;
    split(fixture, &low).await;
    let open = list(fixture, ShardFilter::Open).await;
    let ids: BTreeSet<_> = open.iter().map(|shard| shard.id.clone()).collect();
    let mut expected: BTreeSet<_> = children_of(fixture, &low.id)
        .await
        .iter()
        .map(|shard| shard.id.clone())
        .collect();
    expected.insert(high.id);
    assert_eq!(ids, expected);
    assert!(open.iter().all(|shard| !shard.closed));
}

/// Asked twice, also after a split, a stream is the same stream.
pub async fn the_identity_stays_the_same(fixture: &dyn SourceFixture) {
    let source = fixture.source();
    let before = source.identity().await.expect("the stream is there");
    let [shard, _] = two_shards(fixture).await;
    split(fixture, &shard).await;
    assert_eq!(source.identity().await.expect("the stream is there"), before);
    assert_eq!(before.name, source.name());
    assert!(before.arn.ends_with(&before.name), "{}", before.arn);
}

/// A shard that the stream does not have is an error, by opening or by the first fetch, and never an end.
pub async fn an_unknown_shard_is_not_found(fixture: &dyn SourceFixture) {
    let shard = ShardId::new("shardId-000000999999").expect("a valid name");
    let starts = [
        StartPosition::TrimHorizon,
        StartPosition::Latest,
        StartPosition::AfterSequence(SequenceNumber::from(1)),
    ];
    for start in starts {
        let error = match fixture.source().open(&shard, start).await {
            Err(error) => error,
            Ok(mut reader) => reader
                .next(FetchLimit { records: 1 })
                .await
                .expect_err("an unknown shard has no records and no end"),
        };
        assert_eq!(error.kind(), SourceErrorKind::NotFound, "{error}");
    }
}

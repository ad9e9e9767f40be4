//! How the cases read: with patience, and without hiding what a source does.

use bytes::Bytes;
use kcl_core::clock::ClockExt as _;
use kcl_core::source::{
    Fetch, FetchLimit, RecordStream, Shard, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
    StartPosition,
};
use kcl_core::types::{Record, SequenceNumber, ShardId};

use super::{PATIENCE, SourceFixture};

/// Every shard of the stream, all pages of the listing put together.
pub(super) async fn list(fixture: &dyn SourceFixture, filter: ShardFilter) -> Vec<Shard> {
    let mut shards = Vec::new();
    let mut page = None;
    loop {
        let answer = fixture.source().shards(filter, page).await;
        let answer = answer.expect("the shards can be listed");
        shards.extend(answer.shards);
        page = answer.next;
        if page.is_none() {
            return shards;
        }
    }
}

/// The two open shards that every fixture begins with, the one with the lower hash keys first.
pub(super) async fn two_shards(fixture: &dyn SourceFixture) -> [Shard; 2] {
    let mut shards = list(fixture, ShardFilter::Open).await;
    shards.sort_by_key(|shard| shard.hash_range);
    shards.try_into().expect("a fixture begins with two open shards")
}

/// Puts one record with this payload into a shard.
pub(super) async fn put(fixture: &dyn SourceFixture, shard: &Shard, data: &str) -> SequenceNumber {
    let data = Bytes::copy_from_slice(data.as_bytes());
    let key = shard.hash_range.start();
    fixture.put("key", key, data).await.expect("a record can be put")
}

/// Puts records with the payloads `0`, `1`, `2` and so on.
pub(super) async fn put_numbers(
    fixture: &dyn SourceFixture,
    shard: &Shard,
    numbers: std::ops::Range<usize>,
) -> Vec<SequenceNumber> {
    let mut sequences = Vec::new();
    for number in numbers {
        sequences.push(put(fixture, shard, &number.to_string()).await);
    }
    sequences
}

pub(super) async fn split(fixture: &dyn SourceFixture, shard: &Shard) {
    fixture.split(shard).await.expect("a shard can be split");
}

pub(super) async fn open(
    fixture: &dyn SourceFixture,
    shard: &ShardId,
    start: StartPosition,
) -> Box<dyn RecordStream> {
    let opened = fixture.source().open(shard, start).await;
    opened.expect("the shard can be opened")
}

/// Everything that a reader brought.
#[derive(Debug, Default)]
pub(super) struct SeenRecords {
    pub(super) records: Vec<Record>,
    pub(super) ends: Vec<ShardEnd>,
    /// The last fetch.
    pub(super) last: Option<Fetch>,
}

impl SeenRecords {
    /// The payloads, as text.
    pub(super) fn payloads(&self) -> Vec<String> {
        let text = |record: &Record| String::from_utf8_lossy(record.data()).into_owned();
        self.records.iter().map(text).collect()
    }

    pub(super) fn add(&mut self, fetch: &Fetch) {
        assert!(
            self.ends.is_empty(),
            "there was a fetch after the end of the shard"
        );
        self.records.extend(fetch.records.iter().cloned());
        self.ends.extend(fetch.end.clone());
        self.last = Some(fetch.clone());
    }
}

/// Whether a reader may simply try again.
pub(super) fn passes(error: &SourceError) -> bool {
    matches!(
        error.kind(),
        SourceErrorKind::Throttled | SourceErrorKind::Unavailable
    )
}

/// Fetches until there is enough, at the pace that the source asks for.
pub(super) async fn read_until(
    fixture: &dyn SourceFixture,
    reader: &mut dyn RecordStream,
    limit: u32,
    enough: impl Fn(&SeenRecords) -> bool,
) -> SeenRecords {
    let clock = fixture.clock();
    let deadline = clock.now() + PATIENCE;
    let mut seen = SeenRecords::default();
    while !enough(&seen) {
        let started = clock.now();
        assert!(
            started < deadline,
            "not enough within {PATIENCE:?}, only {seen:?}"
        );
        let wait = match reader.next(FetchLimit { records: limit }).await {
            Ok(fetch) => {
                assert!(fetch.records.len() <= limit as usize, "a fetch exceeds its limit");
                seen.add(&fetch);
                fetch.wait
            }
            Err(error) if passes(&error) => std::time::Duration::from_millis(250),
            Err(error) => panic!("the source failed: {error}"),
        };
        if !enough(&seen) {
            clock.sleep_until(started + wait).await;
        }
    }
    seen
}

/// Reads so many records.
pub(super) async fn read(
    fixture: &dyn SourceFixture,
    reader: &mut dyn RecordStream,
    count: usize,
) -> Vec<String> {
    let seen = read_until(fixture, reader, 100, |seen| seen.records.len() >= count).await;
    seen.payloads()
}

/// Reads to the end of a closed shard.
pub(super) async fn read_to_end(fixture: &dyn SourceFixture, reader: &mut dyn RecordStream) -> SeenRecords {
    read_until(fixture, reader, 2, |seen| !seen.ends.is_empty()).await
}

/// Gives a source that would bring too much the time to do so: two idle intervals. Returns what came.
pub(super) async fn linger(fixture: &dyn SourceFixture, reader: &mut dyn RecordStream) -> SeenRecords {
    let clock = fixture.clock();
    let mut seen = SeenRecords::default();
    for _ in 0..3 {
        match reader.next(FetchLimit { records: 100 }).await {
            Ok(fetch) => {
                seen.add(&fetch);
                clock.sleep(fetch.wait).await;
            }
            Err(error) if passes(&error) => clock.sleep(std::time::Duration::from_millis(250)).await,
            Err(error) => panic!("the source failed: {error}"),
        }
    }
    seen
}

//! Streams of a test: created, resharded and waited for.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{Record, Shard, ShardIteratorType, StreamStatus};

use super::Testbed;
use crate::wait::eventually;

/// Emulators need half a second, AWS up to a minute per change.
const ACTIVE_WITHIN: Duration = Duration::from_secs(120);

impl Testbed {
    /// A Kinesis client on this testbed.
    pub fn kinesis(&self) -> Client {
        Client::new(&self.kinesis_config())
    }

    /// Creates a stream of this many shards and waits until it is ACTIVE.
    pub async fn create_stream(&self, name: &str, shards: i32) {
        let created = self
            .kinesis()
            .create_stream()
            .stream_name(name)
            .shard_count(shards)
            .send()
            .await;
        created.expect("the stream is created");
        self.wait_until_active(name).await;
    }

    /// Deletes a stream with its consumers, so that testbeds that outlive the run do not fill up.
    pub async fn delete_stream(&self, name: &str) {
        self.kinesis()
            .delete_stream()
            .stream_name(name)
            .enforce_consumer_deletion(true)
            .send()
            .await
            .expect("the stream is deleted");
    }

    /// All listed shards of a stream, closed ones too, in the order of the listing.
    pub async fn shards(&self, name: &str) -> Vec<Shard> {
        let client = self.kinesis();
        let mut shards = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = client.list_shards();
            let request = match &token {
                Some(token) => request.next_token(token),
                None => request.stream_name(name),
            };
            let page = request.send().await.expect("the shards are listed");
            shards.extend_from_slice(page.shards());
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return shards;
            }
        }
    }

    /// The shards that still accept records, in the order of their hash keys.
    pub async fn open_shards(&self, name: &str) -> Vec<Shard> {
        let mut open = self.shards(name).await;
        open.retain(|shard| {
            shard
                .sequence_number_range()
                .is_some_and(|range| range.ending_sequence_number().is_none())
        });
        open.sort_by_key(|shard| hash_keys(shard).0);
        open
    }

    /// All records of an open shard, from the oldest to the newest.
    pub async fn records(&self, name: &str, shard: &str) -> Vec<Record> {
        let client = self.kinesis();
        let opened = client
            .get_shard_iterator()
            .stream_name(name)
            .shard_id(shard)
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await;
        let mut next = opened.expect("the shard is opened").shard_iterator;
        let mut records = Vec::new();
        while let Some(iterator) = next {
            let page = client.get_records().shard_iterator(iterator).send().await;
            let page = page.expect("the shard is read");
            let is_last = page.records().is_empty() && page.millis_behind_latest() == Some(0);
            records.extend_from_slice(page.records());
            next = page.next_shard_iterator.filter(|_| !is_last);
        }
        records
    }

    /// Splits a shard in the middle and waits until the stream is ACTIVE again.
    pub async fn split(&self, name: &str, shard: &Shard) {
        let (first, last) = hash_keys(shard);
        let middle = first + (last - first) / 2 + 1;
        let split = self
            .kinesis()
            .split_shard()
            .stream_name(name)
            .shard_to_split(shard.shard_id())
            .new_starting_hash_key(middle.to_string())
            .send()
            .await;
        split.expect("the shard is split");
        self.wait_until_active(name).await;
    }

    /// Merges two neighbours and waits until the stream is ACTIVE again.
    pub async fn merge(&self, name: &str, shard: &Shard, neighbour: &Shard) {
        let merged = self
            .kinesis()
            .merge_shards()
            .stream_name(name)
            .shard_to_merge(shard.shard_id())
            .adjacent_shard_to_merge(neighbour.shard_id())
            .send()
            .await;
        merged.expect("the shards are merged");
        self.wait_until_active(name).await;
    }

    async fn wait_until_active(&self, name: &str) {
        let client = self.kinesis();
        eventually(ACTIVE_WITHIN, async || {
            let summary = client.describe_stream_summary().stream_name(name).send().await;
            let summary = summary.map_err(|error| format!("{name}: {error:?}"))?;
            let status = summary
                .stream_description_summary()
                .map(|summary| summary.stream_status().clone());
            if status == Some(StreamStatus::Active) {
                Ok(())
            } else {
                Err(format!("{name} is {status:?}"))
            }
        })
        .await;
    }
}

/// The first and the last hash key of a shard.
pub fn hash_keys(shard: &Shard) -> (u128, u128) {
    let range = shard
        .hash_key_range()
        .expect("a listed shard has a hash key range");
    let number = |text: &str| text.parse().expect("a hash key is a number of 128 bits");
    (number(range.starting_hash_key()), number(range.ending_hash_key()))
}

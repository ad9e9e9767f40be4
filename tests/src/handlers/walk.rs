//! One worker whose handlers keep the order of each key, through a split and a merge on a server of Kinesis.

use std::ops::Range;
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use kcl_core::Worker;
use kcl_core::processor::{Concurrency, ShardContext};
use kcl_core::settings::Settings;
use kcl_kinesis::{FanOut, KinesisStream};
use kcl_lease_memory::MemoryLeaseStore;

use super::calls::KeyCaller;
use crate::fleet::drive::ReadMode;
use crate::testbed::Testbed;

const KEYS: u32 = 40;
const ROUNDS: u32 = 5;
/// By fan-out a server may show the end of a shard only by its silence.
const PATIENCE: Duration = Duration::from_secs(180);

/// Walks once, and returns how many calls were made. Where a reshard deletes records that were not read, all are handled before it.
///
/// # Panics
///
/// When a record is not handled in time, is handled twice, or out of order.
///
/// # Cancel safety
///
/// The stream stays where it is.
pub async fn walk_by_key(testbed: &Testbed, read: ReadMode, keeps_unread: bool) -> usize {
    let stream = testbed.unique("handlers");
    testbed.create_stream(&stream, 1).await;
    let source = KinesisStream::new(&testbed.kinesis_config(), &stream);
    let source = match read {
        ReadMode::Polling => source,
        ReadMode::FanOut => source.with_fan_out(FanOut::consumer("handlers")),
    };
    let (caller, mut settings) = (KeyCaller::default(), Settings::default());
    settings.leases.failover_time = Duration::from_secs(3);
    let handler = caller.clone();
    let worker = Worker::builder("handlers")
        .stream(source)
        .lease_store(MemoryLeaseStore::new())
        .settings(settings)
        .handler(Concurrency::PerKey(16), move |_: &ShardContext| handler.clone())
        .build()
        .unwrap()
        .start();
    let handled = async |rounds: u32| caller.returns((rounds * KEYS) as usize, PATIENCE).await;

    put(testbed, &stream, 0..ROUNDS).await;
    if !keeps_unread {
        handled(ROUNDS).await;
    }
    let shards = testbed.open_shards(&stream).await;
    testbed.split(&stream, &shards[0]).await;
    put(testbed, &stream, ROUNDS..2 * ROUNDS).await;
    if !keeps_unread {
        handled(2 * ROUNDS).await;
    }
    let shards = testbed.open_shards(&stream).await;
    testbed.merge(&stream, &shards[0], &shards[1]).await;
    put(testbed, &stream, 2 * ROUNDS..3 * ROUNDS).await;
    handled(3 * ROUNDS).await;
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
    caller.kept_order(keys(), 3 * ROUNDS);
    testbed.delete_stream(&stream).await;
    caller.calls().count()
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| format!("truck-{number}"))
}

/// Puts a record of each key in each round. A round is one call, so that the order of each key is that of the rounds.
async fn put(testbed: &Testbed, stream: &str, rounds: Range<u32>) {
    for round in rounds {
        let entry = |key| {
            let entry = PutRecordsRequestEntry::builder().partition_key(key);
            entry.data(Blob::new(round.to_string())).build().unwrap()
        };
        let entries = keys().map(entry).collect();
        let put = testbed.kinesis().put_records().stream_name(stream);
        let put = put.set_records(Some(entries)).send().await.unwrap();
        assert_eq!(put.failed_record_count.unwrap_or(0), 0, "{stream}");
    }
}

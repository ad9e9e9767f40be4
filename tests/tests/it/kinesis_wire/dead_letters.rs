//! Dead letters on a stream: sent over the wire, and read back as records.

use kcl_core::dead_letter::{DeadLetter, DeadLetterSink as _};
use kcl_core::source::StartPosition;
use kcl_core::types::{ApplicationName, HashKeyRange, Record, SequenceNumber, ShardId, WorkerId};
use kcl_dead_letters::decode;
use kcl_kinesis::DeadLetterStream;
use kinesis_local::WireOptions;

use crate::kinesis_wire::served::{NAME, Read, Served, aws, payloads};

fn letter(number: u128) -> DeadLetter {
    let record = Record::new(SequenceNumber::from(number), vec![0, 159, 146, 150])
        .with_sub_sequence(3)
        .with_partition_key("truck-7");
    let shard = ShardId::new("shardId-000000000007").unwrap();
    let app = ApplicationName::new("truck-tracker").unwrap();
    let mut letter = DeadLetter::new(record, "orders", shard, app, WorkerId::new("worker-1").unwrap());
    letter.hash_range = Some(HashKeyRange::parse("0", &u128::MAX.to_string()).unwrap());
    letter.error = "no such truck: is \"7\" known?\n".to_owned();
    letter
}

#[tokio::test]
async fn letters_come_back_from_stream_in_order() {
    let served = Served::new(1, WireOptions::default(), Read::Cbor).await;
    let sink = DeadLetterStream::new(&aws(&served.server), NAME);
    let letters: Vec<_> = (1..=5).map(letter).collect();
    for letter in &letters {
        sink.send(letter).await.unwrap();
    }
    let mut reader = served.open(StartPosition::TrimHorizon).await;
    let mut read = Vec::new();
    while read.len() < letters.len() {
        let lines = payloads(&mut reader).await;
        read.extend(lines.iter().map(|line| decode(line.as_bytes()).unwrap()));
    }
    assert_eq!(read, letters);
}

#[tokio::test]
async fn missing_stream_is_named() {
    let served = Served::new(1, WireOptions::default(), Read::Cbor).await;
    let sink = DeadLetterStream::new(&aws(&served.server), "set-aside");
    let error = sink.send(&letter(1)).await.unwrap_err().to_string();
    assert!(
        error.contains("set-aside") && error.contains("kinesis:PutRecord"),
        "{error}"
    );
}

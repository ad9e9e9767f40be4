//! The answer of GetRecords in JSON. Its records share one piece of memory, in which there is nothing else.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use kcl_core::source::{ChildShard, SourceError};
use kcl_core::types::{HashKeyRange, Record, SequenceNumber, ShardId, Timestamp};
use serde::Deserialize;

use crate::convert::{RecordPage, invalid_answer, undecodable};

/// A text, where it lies unless something in it is escaped.
#[derive(Deserialize)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonBody<'a> {
    #[serde(borrow)]
    records: Option<Vec<JsonRecord<'a>>>,
    next_shard_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
    #[serde(borrow)]
    child_shards: Option<Vec<JsonChild<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonRecord<'a> {
    #[serde(borrow)]
    sequence_number: JsonText<'a>,
    #[serde(borrow)]
    data: JsonText<'a>,
    #[serde(borrow)]
    partition_key: Option<JsonText<'a>>,
    /// In seconds.
    approximate_arrival_timestamp: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonChild<'a> {
    #[serde(borrow)]
    shard_id: JsonText<'a>,
    #[serde(borrow)]
    parent_shards: Vec<JsonText<'a>>,
    #[serde(borrow)]
    hash_key_range: JsonHashKeyRange<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JsonHashKeyRange<'a> {
    #[serde(borrow)]
    starting_hash_key: JsonText<'a>,
    #[serde(borrow)]
    ending_hash_key: JsonText<'a>,
}

/// Reads the body of an answer. Members that nobody here knows are passed over.
pub(crate) fn decode(body: &Bytes) -> Result<RecordPage, SourceError> {
    // The parser's own words quote what they stumbled over, which may be a record.
    let body_fields: JsonBody = serde_json::from_slice(body).map_err(|error| {
        invalid_answer(&format!(
            "a body that is not what GetRecords answers: {:?} error at line {}, column {}",
            error.classify(),
            error.line(),
            error.column()
        ))
    })?;
    let lists_records = body_fields.records.is_some();
    let json_records = body_fields.records.unwrap_or_default();
    let mut memory = SharedBuffer(BytesMut::zeroed(
        json_records.iter().map(JsonRecord::needed_bytes).sum(),
    ));
    let body_bytes = memory.0.len();
    let records = json_records
        .into_iter()
        .map(|record| record.into_record(&mut memory));
    let children = body_fields
        .child_shards
        .into_iter()
        .flatten()
        .map(JsonChild::child);
    Ok(RecordPage {
        lists_records,
        records: records.collect::<Result<_, _>>()?,
        next: body_fields.next_shard_iterator,
        behind_millis: body_fields.millis_behind_latest,
        children: children.collect::<Result<_, _>>()?,
        body_bytes,
    })
}

/// The rest of the memory of the answer.
struct SharedBuffer(BytesMut);

impl SharedBuffer {
    /// Keeps the bytes that `write` leaves at the beginning of the room for `needed_bytes`: as many as it returns.
    fn keep<E>(
        &mut self,
        needed_bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Bytes, E> {
        let mut kept = self.0.split_to(needed_bytes.min(self.0.len()));
        let length = write(&mut kept)?;
        kept.truncate(length);
        Ok(kept.freeze())
    }

    fn text(&mut self, text: &str) -> Result<ByteString, SourceError> {
        let copy = |target: &mut [u8]| {
            target.copy_from_slice(text.as_bytes());
            Ok::<_, SourceError>(text.len())
        };
        let kept = self.keep(text.len(), copy)?;
        ByteString::try_from(kept).map_err(|error| undecodable("text that is not UTF-8", error))
    }
}

/// How many bytes this much base64 may stand for.
fn max_decoded_len(base64: &str) -> usize {
    base64.len().div_ceil(4) * 3
}

impl JsonRecord<'_> {
    fn needed_bytes(&self) -> usize {
        let key = self.partition_key.as_ref().map_or(0, |key| key.0.len());
        self.sequence_number.0.len() + key + max_decoded_len(&self.data.0)
    }

    fn into_record(self, memory: &mut SharedBuffer) -> Result<Record, SourceError> {
        let sequence = SequenceNumber::new(memory.text(&self.sequence_number.0)?)
            .map_err(|error| undecodable("a sequence number that is none", error))?;
        let data = memory
            .keep(max_decoded_len(&self.data.0), |target| {
                STANDARD.decode_slice(self.data.0.as_bytes(), target)
            })
            .map_err(|_| invalid_answer("data that is not base64"))?;
        let mut record = Record::new(sequence, data);
        if let Some(key) = self.partition_key {
            record = record.with_partition_key(memory.text(&key.0)?);
        }
        if let Some(seconds) = self.approximate_arrival_timestamp {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "what is out of range becomes the nearest in range"
            )]
            let millis = (seconds * 1000.0).round() as i64;
            record = record.with_arrival(Timestamp::from_millis(millis));
        }
        Ok(record)
    }
}

impl JsonChild<'_> {
    fn child(self) -> Result<ChildShard, SourceError> {
        let id = |text: &JsonText<'_>| {
            ShardId::new(&*text.0).map_err(|error| undecodable("a shard id that is none", error))
        };
        let JsonHashKeyRange {
            starting_hash_key,
            ending_hash_key,
        } = self.hash_key_range;
        Ok(ChildShard {
            id: id(&self.shard_id)?,
            parents: self.parent_shards.iter().map(id).collect::<Result<_, _>>()?,
            hash_range: HashKeyRange::parse(&starting_hash_key.0, &ending_hash_key.0)
                .map_err(|error| undecodable("hash keys that are none", error))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"Records":[
        {"SequenceNumber":"42","Data":"cGF5bG9hZA==","PartitionKey":"truck \"7\"","ApproximateArrivalTimestamp":1700000000.123,"EncryptionType":"NONE"},
        {"SequenceNumber":"43","Data":"","PartitionKey":null}],
        "NextShardIterator":"next","MillisBehindLatest":5,
        "ChildShards":[{"ShardId":"shardId-000000000001","ParentShards":["shardId-000000000000"],"HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"9"}}]}"#;

    #[test]
    fn everything_that_the_service_says_is_understood() {
        let answer = decode(&Bytes::from_static(BODY.as_bytes())).unwrap();
        let [first, second] = &answer.records[..] else {
            panic!("two records")
        };
        assert_eq!(
            (&first.data()[..], first.partition_key()),
            (&b"payload"[..], Some("truck \"7\""))
        );
        assert_eq!(
            first.approximate_arrival(),
            Some(Timestamp::from_millis(1_700_000_000_123))
        );
        assert_eq!(
            (
                second.size(),
                second.partition_key(),
                second.approximate_arrival()
            ),
            (0, None, None)
        );
        assert_eq!(second.sequence_number(), &SequenceNumber::from(43));
        assert_eq!(
            (answer.next.as_deref(), answer.behind_millis),
            (Some("next"), Some(5))
        );
        assert_eq!(answer.children[0].id.as_str(), "shardId-000000000001");
    }

    #[test]
    fn records_count_for_the_memory_they_share() {
        let answer = decode(&Bytes::from_static(BODY.as_bytes())).unwrap();
        let size: usize = answer.records.iter().map(Record::size).sum();
        assert!(
            (size..BODY.len() / 2).contains(&answer.body_bytes),
            "{}",
            answer.body_bytes
        );
    }

    #[test]
    fn answer_that_makes_no_sense_is_error() {
        for length in 0..BODY.len() {
            assert!(decode(&Bytes::from(&BODY[..length])).is_err(), "{length} bytes");
        }
        for broken in [
            BODY.replace("cGF5bG9hZA==", "cGF5bG9hZ"),
            BODY.replace("\"42\"", "\"SHARD_END\""),
        ] {
            assert!(decode(&Bytes::from(broken)).is_err());
        }
    }
}

//! Putting records.

use bytes::Bytes;
use kcl_core::source::StreamSource as _;
use kcl_core::time::Moment;

use super::{Answer, counted};
use crate::memory_stream::MemoryStream;
use crate::wire::error::ServiceError;
use crate::wire::server::Shared;
use crate::wire::value::Map;

/// How many records one PutRecords may carry.
const MOST_RECORDS: usize = 500;
/// How many bytes, keys included.
const MOST_BYTES: u64 = 10 * 1024 * 1024;

/// A record that is to be put.
struct Entry<'a> {
    partition_key: &'a str,
    hash_key: Option<u128>,
    data: Bytes,
}

impl<'a> Entry<'a> {
    fn of(request: &'a Map, shared: &Shared) -> Result<Self, ServiceError> {
        let entry = Self {
            partition_key: request.needed_text("PartitionKey")?,
            hash_key: request.hash_key("ExplicitHashKey")?,
            data: request.blob("Data")?,
        };
        if !(1..=256).contains(&entry.partition_key.chars().count()) {
            return Err(ServiceError::validation(
                "PartitionKey must have 1 to 256 characters",
            ));
        }
        match shared.options.limits.record_bytes {
            Some(most) if entry.size() > most => Err(ServiceError::validation(format!(
                "a record of {} bytes; the most is {most}",
                entry.size()
            ))),
            _ => Ok(entry),
        }
    }

    fn size(&self) -> u64 {
        u64::try_from(self.data.len() + self.partition_key.len()).unwrap_or(u64::MAX)
    }

    fn put(self, stream: &MemoryStream, shared: &Shared, now: Moment) -> Answer {
        let target = stream
            .route(self.partition_key, self.hash_key)
            .ok_or_else(|| ServiceError::not_found("the stream has no open shard"))?;
        let limits = &shared.options.limits;
        let shard = counted(stream.name(), &target);
        shared.limiter().write(&shard, self.size(), limits, now)?;
        let (shard, number) = match self.hash_key {
            Some(key) => stream.put_with_hash_key(self.partition_key, key, self.data)?,
            None => stream.put(self.partition_key, self.data)?,
        };
        Ok(Map::new()
            .with("SequenceNumber", number.as_str())
            .with("ShardId", shard.as_str()))
    }
}

pub(super) fn put_record(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let stream = shared.streams().readable(request, now)?.stream.clone();
    let put = Entry::of(request, shared)?.put(&stream, shared, now)?;
    Ok(put.with("EncryptionType", "NONE"))
}

pub(super) fn put_records(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let stream = shared.streams().readable(request, now)?.stream.clone();
    let records = request.maps("Records")?;
    if !(1..=MOST_RECORDS).contains(&records.len()) {
        return Err(ServiceError::validation(format!(
            "Records must have 1 to {MOST_RECORDS} members"
        )));
    }
    let entries = records
        .into_iter()
        .map(|record| Entry::of(record, shared))
        .collect::<Result<Vec<_>, _>>()?;
    if entries.iter().map(Entry::size).sum::<u64>() > MOST_BYTES {
        return Err(ServiceError::invalid(format!(
            "Records exceed {MOST_BYTES} bytes"
        )));
    }
    let mut failed = 0_usize;
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        results.push(entry.put(&stream, shared, now).unwrap_or_else(|error| {
            failed += 1;
            Map::new()
                .with("ErrorCode", error.code)
                .with("ErrorMessage", error.message())
        }));
    }
    Ok(Map::new()
        .with("FailedRecordCount", failed)
        .with("Records", results)
        .with("EncryptionType", "NONE"))
}

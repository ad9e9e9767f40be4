//! Putting records.

use bytes::Bytes;
use kcl_core::clock::Moment;
use kcl_core::source::StreamSource as _;
use kcl_lease_memory::MemoryStream;
use kcl_lease_memory::memory_stream::RecordDistribution;

use crate::error::ServiceError;
use crate::limits::counted;
use crate::shared::Shared;
use crate::value::{Answer, Map};

/// How many records one PutRecords may carry.
const MOST_RECORDS: usize = 500;
/// How many bytes, keys included.
const MOST_BYTES: u64 = 10 * 1024 * 1024;

/// A record that is to be put.
struct PutEntry<'a> {
    partition_key: Option<&'a str>,
    hash_key: Option<u128>,
    data: Bytes,
}

/// The stream's rules for records.
struct Rules {
    stream: MemoryStream,
    /// The largest record, in bytes.
    most: u64,
    needs_key: bool,
    encryption: &'static str,
}

impl Rules {
    fn of(shared: &Shared, request: &Map, now: Moment) -> Result<Self, ServiceError> {
        let mut streams = shared.streams();
        let entry = streams.with_data(request, now)?;
        Ok(Self {
            stream: entry.stream.clone(),
            most: u64::from(entry.max_record_kib()) * 1024,
            needs_key: entry.stream.settings().distribution == RecordDistribution::ByPartitionKey,
            encryption: entry.attributes.encryption(),
        })
    }
}

impl<'a> PutEntry<'a> {
    fn of(request: &'a Map, rules: &Rules) -> Result<Self, ServiceError> {
        let entry = Self {
            partition_key: if rules.needs_key {
                Some(request.needed_text("PartitionKey")?)
            } else {
                request.text("PartitionKey")?
            },
            hash_key: request.hash_key("ExplicitHashKey")?,
            data: request.blob("Data")?,
        };
        let length = entry.partition_key.map(|key| key.chars().count());
        if length.is_some_and(|length| !(1..=256).contains(&length)) {
            return Err(ServiceError::validation(
                "PartitionKey must have 1 to 256 characters",
            ));
        }
        if entry.size() > rules.most {
            return Err(ServiceError::invalid(format!(
                "The record has {} bytes, its partition key included; the most that this stream takes is {} \
                 (MaxRecordSizeInKiB).",
                entry.size(),
                rules.most
            )));
        }
        Ok(entry)
    }

    fn size(&self) -> u64 {
        let key = self.partition_key.map_or(0, str::len);
        u64::try_from(self.data.len() + key).unwrap_or(u64::MAX)
    }

    fn put(self, stream: &MemoryStream, shared: &Shared, now: Moment) -> Answer {
        let target = stream
            .route(self.partition_key, self.hash_key)
            .ok_or_else(|| ServiceError::not_found("the stream has no open shard"))?;
        let limits = &shared.options.limits;
        let shard = counted(stream.name(), &target);
        shared.limiter().write(&shard, self.size(), limits, now)?;
        let (shard, number) = stream.put_with(self.partition_key, self.hash_key, self.data)?;
        Ok(Map::new()
            .with("SequenceNumber", number.as_str())
            .with("ShardId", shard.as_str()))
    }
}

pub(super) fn put_record(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let rules = Rules::of(shared, request, now)?;
    let entry = PutEntry::of(request, &rules)?;
    if request.flag("DryRun")? {
        return Err(ServiceError::dry_run());
    }
    let put = entry.put(&rules.stream, shared, now)?;
    Ok(put.with("EncryptionType", rules.encryption))
}

pub(super) fn put_records(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let rules = Rules::of(shared, request, now)?;
    let records = request.maps("Records")?;
    if !(1..=MOST_RECORDS).contains(&records.len()) {
        return Err(ServiceError::validation(format!(
            "Records must have 1 to {MOST_RECORDS} members"
        )));
    }
    let entries = records
        .into_iter()
        .map(|record| PutEntry::of(record, &rules))
        .collect::<Result<Vec<_>, _>>()?;
    if entries.iter().map(PutEntry::size).sum::<u64>() > MOST_BYTES {
        return Err(ServiceError::invalid(format!(
            "Records exceed {MOST_BYTES} bytes"
        )));
    }
    if request.flag("DryRun")? {
        return Err(ServiceError::dry_run());
    }
    let mut failed = 0_usize;
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        results.push(entry.put(&rules.stream, shared, now).unwrap_or_else(|error| {
            failed += 1;
            Map::new()
                .with("ErrorCode", error.code)
                .with("ErrorMessage", error.message())
        }));
    }
    Ok(Map::new()
        .with("FailedRecordCount", failed)
        .with("Records", results)
        .with("EncryptionType", rules.encryption))
}

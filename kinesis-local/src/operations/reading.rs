//! Iterators and GetRecords.

use kcl_core::clock::Moment;
use kcl_core::source::{FetchLimit, StartPosition, StreamSource as _};
use kcl_core::types::{Record, SequenceNumber, ShardId};
use kcl_lease_memory::MemoryStream;

use crate::Operation;
use crate::error::ServiceError;
use crate::limits::counted;
use crate::shared::Shared;
use crate::token::ShardIterator;
use crate::value::{Answer, Map};

/// The most records that a read may ask for and gets.
const MOST_RECORDS: i64 = 10_000;
/// The most bytes that a read gets, unless a single record has more.
const MOST_BYTES: usize = 10 * 1024 * 1024;

/// A start position, from the members that GetShardIterator and SubscribeToShard call differently.
pub(super) fn position(
    request: &Map,
    kind: &str,
    number: &str,
    time: &str,
) -> Result<StartPosition, ServiceError> {
    let sequence = || {
        let digits = request
            .text(number)?
            .ok_or_else(|| ServiceError::invalid(format!("{number} is missing")))?;
        SequenceNumber::new(digits)
            .map_err(|_| ServiceError::invalid(format!("{number} is not a sequence number: {digits}")))
    };
    match request.needed_text(kind)? {
        "TRIM_HORIZON" => Ok(StartPosition::TrimHorizon),
        "LATEST" => Ok(StartPosition::Latest),
        "AT_SEQUENCE_NUMBER" => Ok(StartPosition::AtSequence(sequence()?)),
        "AFTER_SEQUENCE_NUMBER" => Ok(StartPosition::AfterSequence(sequence()?)),
        "AT_TIMESTAMP" => request
            .time(time)?
            .map(StartPosition::AtTimestamp)
            .ok_or_else(|| ServiceError::invalid("Timestamp is missing")),
        other => Err(ServiceError::validation(format!(
            "{other:?} is not a place to start at"
        ))),
    }
}

pub(super) fn get_shard_iterator(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let stream = shared.streams().with_data(request, now)?.stream.clone();
    let shard = request.shard("ShardId")?;
    let start = position(
        request,
        "ShardIteratorType",
        "StartingSequenceNumber",
        "Timestamp",
    )?;
    check_known(shared, &stream, &shard)?;
    let place = stream.place(&shard, &start)?;
    if request.flag("DryRun")? {
        return Err(ServiceError::dry_run());
    }
    shared.limiter().call(
        Operation::GetShardIterator,
        &counted(stream.name(), &shard),
        shared.options.limits.iterators_per_second,
        now,
    )?;
    let iterator = ShardIterator {
        place,
        stream: stream.name().to_owned(),
        shard,
        minted: now,
    };
    Ok(Map::new().with("ShardIterator", iterator.encode()))
}

pub(super) fn get_records(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let most = request
        .int_within("Limit", 1, MOST_RECORDS)?
        .unwrap_or(MOST_RECORDS);
    let iterator = ShardIterator::decode(request.needed_text("ShardIterator")?)
        .ok_or_else(|| ServiceError::invalid("Invalid ShardIterator."))?;
    let stream = named_by(shared, request, &iterator)?;
    check_known(shared, &stream, &iterator.shard)?;
    let age = now.saturating_since(iterator.minted);
    let lifetime = shared.options.iterator_lifetime;
    if age > lifetime || stream.made_to_expire(iterator.place) {
        return Err(ServiceError::expired_iterator(format!(
            "Iterator expired. It is {age:?} old; the most is {lifetime:?}."
        )));
    }
    if request.flag("DryRun")? {
        return Err(ServiceError::dry_run());
    }
    let limits = &shared.options.limits;
    let shard = counted(stream.name(), &iterator.shard);
    shared.limiter().read(&shard, limits, now)?;
    let limit = FetchLimit {
        records: u32::try_from(most).unwrap_or(u32::MAX),
    };
    let page = stream.read_place(&iterator.shard, iterator.place, limit, MOST_BYTES)?;
    shared.limiter().brought(&shard, size(&page.records), limits, now);
    let next = page.end.is_none().then(|| {
        let next = ShardIterator {
            place: page.next,
            minted: now,
            ..iterator
        };
        next.encode()
    });
    Ok(shared.options.end_style.answer(page, next))
}

/// Refuses a shard that a server of this style does not know any more.
pub(super) fn check_known(
    shared: &Shared,
    stream: &MemoryStream,
    shard: &ShardId,
) -> Result<(), ServiceError> {
    let style = shared.options.end_style;
    if !style.forgets_closed() {
        return Ok(());
    }
    let shards = stream.shards_snapshot();
    match shards.iter().find(|other| other.shard.id == *shard) {
        Some(other) if !style.knows(other) => {
            Err(ServiceError::not_found(format!("Shard {shard} not found")))
        }
        _ => Ok(()),
    }
}

/// The stream of an iterator, which a `StreamARN` in the request must name too.
fn named_by(shared: &Shared, request: &Map, iterator: &ShardIterator) -> Result<MemoryStream, ServiceError> {
    let mut streams = shared.streams();
    let entry = streams.named(&iterator.stream)?;
    match request.text("StreamARN")? {
        Some(arn) if arn != entry.identity()?.arn => Err(ServiceError::invalid(format!(
            "The shard iterator is one of the stream {}, not of {arn}.",
            iterator.stream
        ))),
        _ => Ok(entry.stream.clone()),
    }
}

/// The records and bytes that count against limits.
pub(crate) fn size(records: &[Record]) -> u64 {
    let size = |record: &Record| record.data().len() + record.partition_key().map_or(0, str::len);
    u64::try_from(records.iter().map(size).sum::<usize>()).unwrap_or(u64::MAX)
}

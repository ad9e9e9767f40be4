//! Asks the stream about places in it: how far behind they are, and whether they are places at all.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use kcl_core::clock::Clock as _;
use kcl_core::lease_store::{Lease, ResetPosition, Scan};
use kcl_core::source::{FetchLimit, SourceError, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_core::types::{LeaseKey, Position, RecordPosition, ShardId};
use kcl_kinesis::KinesisStream;
use kcl_operations::{PlaceSample, ResetStep};

use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::stream_of;

/// How many shards are measured at once.
const MEASURED_AT_ONCE: usize = 16;
/// How many places are checked at once.
const CHECKED_AT_ONCE: usize = 16;
/// How many records at a place show how densely they lie. They are taken from the read limit of the shard, which others need.
const SAMPLE: u32 = 50;
/// The pause before a lag is measured again, and the longest: a shard takes five reads a second from all that read it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The lags that were measured, and the leases of which that failed.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) lags: BTreeMap<LeaseKey, Duration>,
    pub(crate) failed: BTreeMap<LeaseKey, String>,
}

/// Asks the stream of each lease that is not ended how far its checkpoint is behind. A shard of which that cannot be known is left out, and
/// one that gives no answer in time is named; only where none does, it is a failure.
pub(crate) async fn measure_lags(
    connection: &Connection,
    scan: &Scan,
    named: Option<&str>,
) -> Result<Measured, Failure> {
    let open = || scan.leases.iter().filter(|lease| !lease.is_ended());
    let places = open().filter_map(|lease| Some((lease, start_of(lease)?)));
    let reads = reads(connection, places, named);
    if reads.is_empty() && open().next().is_some() {
        return Err(Failure::usage(
            "the lag cannot be measured: the rows name no stream that could be asked, or nothing is checkpointed; name the stream with --stream",
        ));
    }
    let mut measured = Measured::default();
    let mut first = None;
    for (key, answer) in sample_all(connection, reads, 1).await {
        match answer {
            Ok(sample) => measured.lags.extend(sample.map(|sample| (key, sample.behind))),
            Err(error) if error.kind() == SourceErrorKind::Denied => return Err(error.into()),
            Err(error) => {
                measured.failed.insert(key, error.to_string());
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if measured.lags.is_empty() => Err(error.into()),
        _ => Ok(measured),
    }
}

/// Samples of the places of these steps: of the present ones, and of those behind the reset. A place of which nothing can be known is left
/// out.
pub(crate) async fn sample_steps(
    connection: &Connection,
    leases: &[Lease],
    steps: &[&ResetStep],
    named: Option<&str>,
) -> (BTreeMap<LeaseKey, PlaceSample>, BTreeMap<LeaseKey, PlaceSample>) {
    let rows: BTreeMap<&LeaseKey, &Lease> = leases.iter().map(|lease| (&lease.key, lease)).collect();
    let sample = async |place: fn(&ResetStep) -> &ResetPosition| {
        let places = steps.iter().filter_map(|step| {
            let lease = rows.get(&step.lease)?;
            Some((*lease, start_of_place(place(step))?))
        });
        let answers = sample_all(connection, reads(connection, places, named), SAMPLE).await;
        let known = answers
            .into_iter()
            .filter_map(|(key, answer)| Some((key, answer.ok()??)));
        known.collect()
    };
    let from = sample(|step| &step.from).await;
    (from, sample(|step| &step.to).await)
}

type Read = (LeaseKey, ShardId, KinesisStream, StartPosition);

/// The reads that measure these places, as far as the rows or the name that was given say of which stream they are.
fn reads<'a>(
    connection: &Connection,
    places: impl Iterator<Item = (&'a Lease, StartPosition)>,
    named: Option<&str>,
) -> Vec<Read> {
    let mut streams = BTreeMap::new();
    let reads = places.filter_map(|(lease, start)| {
        let name = stream_of(lease, named)?;
        let stream = streams
            .entry(name.clone())
            .or_insert_with(|| connection.stream(&name))
            .clone();
        Some((lease.key.clone(), lease.shard.clone(), stream, start))
    });
    reads.collect()
}

type Sample = Result<Option<PlaceSample>, SourceError>;

async fn sample_all(connection: &Connection, reads: Vec<Read>, records: u32) -> Vec<(LeaseKey, Sample)> {
    let reads = reads
        .into_iter()
        .map(|read| sample(connection, read, records).boxed());
    let reads: Vec<_> = reads.collect();
    let reads = futures_util::stream::iter(reads).buffer_unordered(MEASURED_AT_ONCE);
    reads.collect().await
}

/// Samples one place, again while the service throttles or does not answer, and the deadline of a call is not over.
async fn sample(
    connection: &Connection,
    (key, shard, stream, start): Read,
    records: u32,
) -> (LeaseKey, Sample) {
    let until = connection.clock.now() + connection.timeout;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match read_once(&shard, &stream, start.clone(), records).await {
            Ok(sample) => return (key, Ok(sample)),
            Err(error) => error,
        };
        let next = connection.clock.now() + pause;
        if !is_transient(error.kind()) || next >= until {
            return (key, Err(error));
        }
        connection.clock.sleep_until(next).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads so many records at a place, for how far that is behind and how densely they lie.
async fn read_once(
    shard: &ShardId,
    stream: &KinesisStream,
    start: StartPosition,
    records: u32,
) -> Result<Option<PlaceSample>, SourceError> {
    let mut reader = stream.open(shard, start).await?;
    let fetch = reader.next(FetchLimit { records }).await?;
    let arrivals = fetch
        .records
        .iter()
        .filter_map(kcl_core::types::Record::approximate_arrival);
    let arrivals: Vec<_> = arrivals.collect();
    Ok(fetch.behind.map(|behind| PlaceSample::of(behind, &arrivals)))
}

/// Returns `true` for errors that may be over soon.
pub(crate) fn is_transient(kind: SourceErrorKind) -> bool {
    matches!(kind, SourceErrorKind::Throttled | SourceErrorKind::Unavailable)
}

/// Where the shard is read from. `LATEST` and `AT_TIMESTAMP` are places only in a row that holds the time.
fn start_of(lease: &Lease) -> Option<StartPosition> {
    let place = lease.reading_from();
    match (&place, &lease.checkpoint) {
        (ResetPosition::TrimHorizon, Position::TrimHorizon)
        | (ResetPosition::After(_) | ResetPosition::AtTimestamp(_), _) => start_of_place(&place),
        (ResetPosition::TrimHorizon | ResetPosition::ShardEnd, _) => None,
    }
}

/// Where a place is in its shard; none is behind its end.
fn start_of_place(place: &ResetPosition) -> Option<StartPosition> {
    match place {
        ResetPosition::After(record) => Some(start_at(record)),
        ResetPosition::AtTimestamp(time) => Some(StartPosition::AtTimestamp(*time)),
        ResetPosition::TrimHorizon => Some(StartPosition::TrimHorizon),
        ResetPosition::ShardEnd => None,
    }
}

/// Where reading begins behind this record: inside an aggregate it is the record itself that is read again.
fn start_at(record: &RecordPosition) -> StartPosition {
    match record.sub_sequence {
        0 => StartPosition::AfterSequence(record.sequence.clone()),
        _ => StartPosition::AtSequence(record.sequence.clone()),
    }
}

/// Asks the stream for each place behind a record or at a time: the service refuses one that is not in the shard, or in the future.
pub(crate) async fn check_places(
    connection: &Connection,
    leases: &[Lease],
    places: &BTreeMap<LeaseKey, ResetPosition>,
    named: Option<&str>,
) -> Result<(), Failure> {
    let mut streams = BTreeMap::new();
    let mut asked = Vec::new();
    for lease in leases {
        let (place, start) = match places.get(&lease.key) {
            Some(place @ ResetPosition::After(record)) => (place, start_at(record)),
            Some(place @ ResetPosition::AtTimestamp(time)) => (place, StartPosition::AtTimestamp(*time)),
            Some(ResetPosition::TrimHorizon | ResetPosition::ShardEnd) | None => continue,
        };
        let Some(name) = stream_of(lease, named.filter(|_| lease.identity.is_none())) else {
            continue;
        };
        let stream = streams
            .entry(name.clone())
            .or_insert_with(|| connection.stream(&name))
            .clone();
        asked.push((lease, start, place, stream));
    }
    let answers = asked.into_iter().map(|(lease, start, place, stream)| async move {
        let Err(error) = stream.open(&lease.shard, start).await else {
            return Ok(());
        };
        let refusal = match error.kind() {
            SourceErrorKind::Invalid => {
                format!("{place} is no place in the shard of {}: {error}", lease.key)
            }
            // A finished shard that is gone from the stream has no time to begin at, and nothing to read.
            SourceErrorKind::NotFound if matches!(place, ResetPosition::AtTimestamp(_)) => return Ok(()),
            SourceErrorKind::NotFound => {
                format!("the stream has no shard for {} any more: {error}", lease.key)
            }
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable | SourceErrorKind::Denied | _ => {
                return Err(Failure::from(error));
            }
        };
        Err(Failure::new(
            Exit::NotFound,
            format!("{refusal}; nothing was written"),
        ))
    });
    let mut answers = futures_util::stream::iter(answers).buffer_unordered(CHECKED_AT_ONCE);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

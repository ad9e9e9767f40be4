//! One look at an application: its tables, and where asked the stream, as a view.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use kcl_core::clock::Clock as _;
use kcl_core::lease_store::{Lease, LeaseStore as _, ResetPosition, Scan};
use kcl_core::source::{FetchLimit, SourceError, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_core::types::{ApplicationName, LeaseKey, Position, RecordPosition, ShardId};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_operations::{FleetFacts, FleetView, Thresholds};

use crate::arguments::LookOptions;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::complain;

/// How many shards are measured at once.
const MEASURED_AT_ONCE: usize = 16;
/// How many places are checked at once.
const CHECKED_AT_ONCE: usize = 16;
/// The pause before a lag is measured again, and the longest: a shard takes five reads a second from all that read it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An application that is looked at again and again.
pub(crate) struct Looker<'a> {
    connection: &'a Connection,
    options: &'a LookOptions,
    store: DynamoLeaseStore,
    /// The view before, for how lags change.
    earlier: Option<FleetView>,
    /// The leases whose lags were to be measured at the last look, and could not be.
    unmeasured: BTreeMap<LeaseKey, String>,
    /// Whether it says on the standard error what could not be measured.
    is_quiet: bool,
}

impl<'a> Looker<'a> {
    /// Finds the tables of the application.
    pub(crate) async fn open(
        connection: &'a Connection,
        table: Option<&str>,
        options: &'a LookOptions,
    ) -> Result<Self, Failure> {
        let store = connection.store(table_of(table, &options.application));
        store.attach(&options.application).await?;
        Ok(Self {
            connection,
            options,
            store,
            earlier: None,
            unmeasured: BTreeMap::new(),
            is_quiet: false,
        })
    }

    /// The same without a word on the standard error, which would spoil a screen.
    pub(crate) fn quiet(self) -> Self {
        Self {
            is_quiet: true,
            ..self
        }
    }

    /// Looks once.
    pub(crate) async fn look(&mut self) -> Result<FleetView, Failure> {
        let scan = self.store.scan().await?;
        let mut facts = FleetFacts::new(&scan);
        facts.thresholds = Thresholds::default();
        facts.thresholds.lagging = self.options.lagging_after;
        if self.options.measure_lag {
            let measured = measure(self.connection, &scan, self.options.stream.as_deref()).await?;
            facts.measured = measured.lags;
            self.unmeasured = measured.failed;
            if !self.is_quiet {
                for (key, problem) in &self.unmeasured {
                    complain(&format!("the lag of {key} is unknown: {problem}"));
                }
            }
        }
        let mut view = FleetView::of(self.options.application.as_str(), &facts, self.connection.now());
        if let Some(stream) = &self.options.stream {
            let nameless = view.shards.iter_mut().filter(|shard| shard.stream.is_none());
            nameless.for_each(|shard| shard.stream = Some(stream.clone()));
        }
        if let Some(earlier) = &self.earlier {
            view.compare(earlier);
        }
        self.earlier = Some(view.clone());
        Ok(view)
    }

    /// The leases whose lags were to be measured at the last look, and could not be, with the reasons.
    pub(crate) fn unmeasured(&self) -> &BTreeMap<LeaseKey, String> {
        &self.unmeasured
    }

    /// The checkpoints as they are stored.
    pub(crate) async fn scan(&self) -> Result<Scan, Failure> {
        Ok(self.store.scan().await?)
    }
}

/// The table of the application, unless another was named.
pub(crate) fn table_of<'a>(table: Option<&'a str>, application: &'a ApplicationName) -> &'a str {
    table.unwrap_or(application.as_str())
}

/// The stream of a lease as it can be asked for: the one that was named, or the one that its row names.
pub(crate) fn stream_of(lease: &Lease, named: Option<&str>) -> Option<String> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    if let Some(identity) = &lease.identity {
        return Some(identity.arn.clone())
            .filter(|arn| !arn.is_empty())
            .or(Some(identity.name.clone()));
    }
    // `account:stream:creation`, where the application reads many.
    let key = lease.stream.as_ref()?;
    key.as_str().split(':').nth(1).map(str::to_owned)
}

/// The lags that were measured, and the leases of which that failed.
#[derive(Debug, Default)]
struct Measured {
    lags: BTreeMap<LeaseKey, Duration>,
    failed: BTreeMap<LeaseKey, String>,
}

/// Asks the stream of each lease that is not ended how far its checkpoint is behind. A shard of which that cannot be known is left out, and
/// one that gives no answer in time is named; only where none does, it is a failure.
async fn measure(connection: &Connection, scan: &Scan, named: Option<&str>) -> Result<Measured, Failure> {
    let mut streams = BTreeMap::new();
    let open = scan.leases.iter().filter(|lease| !lease.is_ended());
    let mut reads = Vec::new();
    for lease in open {
        let (Some(name), Some(start)) = (stream_of(lease, named), start_of(lease)) else {
            continue;
        };
        let stream = streams
            .entry(name.clone())
            .or_insert_with(|| connection.stream(&name))
            .clone();
        reads.push((lease.key.clone(), lease.shard.clone(), stream, start));
    }
    if reads.is_empty() && scan.leases.iter().any(|lease| !lease.is_ended()) {
        return Err(Failure::usage(
            "the lag cannot be measured: the rows name no stream that could be asked, or nothing is checkpointed; name the stream with --stream",
        ));
    }
    let reads = reads.into_iter().map(|read| behind(connection, read).boxed());
    let reads: Vec<_> = reads.collect();
    let reads = futures_util::stream::iter(reads).buffer_unordered(MEASURED_AT_ONCE);
    let answers: Vec<_> = reads.collect().await;
    let mut measured = Measured::default();
    let mut first = None;
    for (key, answer) in answers {
        match answer {
            Ok(behind) => measured.lags.extend(behind.map(|behind| (key, behind))),
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

type Read = (LeaseKey, ShardId, KinesisStream, StartPosition);

/// Measures one lag, again while the service throttles or does not answer, and the deadline of a call is not over.
async fn behind(
    connection: &Connection,
    (key, shard, stream, start): Read,
) -> (LeaseKey, Result<Option<Duration>, SourceError>) {
    let until = connection.clock.now() + connection.timeout;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match read_once(&shard, &stream, start.clone()).await {
            Ok(behind) => return (key, Ok(behind)),
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

/// Reads one record at a checkpoint, for how far that is behind.
async fn read_once(
    shard: &ShardId,
    stream: &KinesisStream,
    start: StartPosition,
) -> Result<Option<Duration>, SourceError> {
    let mut reader = stream.open(shard, start).await?;
    let fetch = reader.next(FetchLimit { records: 1 }).await?;
    Ok(fetch.behind)
}

/// Returns `true` for errors that may be over soon.
pub(crate) fn is_transient(kind: SourceErrorKind) -> bool {
    matches!(kind, SourceErrorKind::Throttled | SourceErrorKind::Unavailable)
}

/// Where the shard is read from. `LATEST` and `AT_TIMESTAMP` are places only in a row that holds the time.
fn start_of(lease: &Lease) -> Option<StartPosition> {
    match (lease.reading_from(), &lease.checkpoint) {
        (ResetPosition::After(record), _) => Some(start_at(&record)),
        (ResetPosition::AtTimestamp(time), _) => Some(StartPosition::AtTimestamp(time)),
        (ResetPosition::TrimHorizon, Position::TrimHorizon) => Some(StartPosition::TrimHorizon),
        (ResetPosition::TrimHorizon | ResetPosition::ShardEnd, _) => None,
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

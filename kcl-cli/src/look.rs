//! One look at an application: its tables, and where asked the stream, as a view.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use kcl_core::lease_store::{Lease, LeaseStore as _, Scan};
use kcl_core::source::{FetchLimit, StartPosition, StreamSource as _};
use kcl_core::types::{ApplicationName, LeaseKey, Position, ShardId};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_operations::{FleetFacts, FleetView, Thresholds};

use crate::arguments::LookOptions;
use crate::connection::Connection;
use crate::failure::Failure;

/// How many shards are measured at once.
const MEASURED_AT_ONCE: usize = 16;

/// An application that is looked at again and again.
pub(crate) struct Looker<'a> {
    connection: &'a Connection,
    options: &'a LookOptions,
    store: DynamoLeaseStore,
    /// The view before, for how lags change.
    earlier: Option<FleetView>,
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
        })
    }

    /// Looks once.
    pub(crate) async fn look(&mut self) -> Result<FleetView, Failure> {
        let scan = self.store.scan().await?;
        let mut facts = FleetFacts::new(&scan);
        facts.thresholds = Thresholds::default();
        facts.thresholds.lagging = self.options.lagging_after;
        if self.options.measure_lag {
            facts.measured = measure(self.connection, &scan, self.options.stream.as_deref()).await?;
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

/// Asks the stream of each lease that is not ended how far its checkpoint is behind. A shard of which that cannot be known is left out.
async fn measure(
    connection: &Connection,
    scan: &Scan,
    named: Option<&str>,
) -> Result<BTreeMap<LeaseKey, Duration>, Failure> {
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
    let reads = reads.into_iter().map(|read| behind(read).boxed());
    let reads: Vec<_> = reads.collect();
    let reads = futures_util::stream::iter(reads).buffer_unordered(MEASURED_AT_ONCE);
    let answers: Vec<_> = reads.collect().await;
    let mut lags = BTreeMap::new();
    for answer in answers {
        let (key, behind) = answer?;
        lags.extend(behind.map(|behind| (key, behind)));
    }
    Ok(lags)
}

type Read = (LeaseKey, ShardId, KinesisStream, StartPosition);

/// Reads one record at a checkpoint, for how far that is behind.
async fn behind((key, shard, stream, start): Read) -> Result<(LeaseKey, Option<Duration>), Failure> {
    let mut reader = stream.open(&shard, start).await?;
    let fetch = reader.next(FetchLimit { records: 1 }).await?;
    Ok((key, fetch.behind))
}

/// Where reading goes on after the checkpoint. `LATEST` is a place only for the worker that resolved it.
fn start_of(lease: &Lease) -> Option<StartPosition> {
    match &lease.checkpoint {
        Position::Record(record) if record.sub_sequence > 0 => {
            Some(StartPosition::AtSequence(record.sequence.clone()))
        }
        Position::Record(record) => Some(StartPosition::AfterSequence(record.sequence.clone())),
        Position::TrimHorizon => Some(StartPosition::TrimHorizon),
        Position::AtTimestamp => lease
            .reset_at
            .or(lease.pinned_start)
            .map(StartPosition::AtTimestamp),
        Position::Latest => lease
            .latest_at
            .or(lease.pinned_start)
            .map(StartPosition::AtTimestamp),
        Position::ShardEnd => None,
    }
}

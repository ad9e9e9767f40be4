//! Performs the upkeep of a stream's leases: fills in what rows lack, ends what retention took, deletes what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::coordinator::shard_sync::cleanup::{DeleteReason, Deletion, plan_cleanup};
use crate::coordinator::shard_sync::request::{SyncError, SyncRequest, SyncTools};
use crate::coordinator::shard_sync::sync::read;
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Lease;
use crate::lease::store::{Outcome, StoreError};
use crate::runtime::clock::ClockExt as _;
use crate::source::shard_graph::ShardGraph;
use crate::source::{FetchLimit, ShardFilter, SourceErrorKind, StartPosition};
use crate::types::{LeaseKey, Position};

/// How long the source may take to answer for a shard.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The report of an upkeep.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct UpkeepReport {
    /// The leases that were deleted, and why nobody needs them.
    pub(crate) deleted: Vec<(LeaseKey, DeleteReason)>,
    /// The leases that were ended because their shards are gone, with the checkpoint at which each stood.
    pub(crate) gone: Vec<Lease>,
}

/// Whether there is anything to do that deserves a listing.
pub(crate) fn needs_upkeep(leases: &[Lease], has_gone: bool, deletes: bool) -> bool {
    has_gone
        || leases
            .iter()
            .any(|lease| lease.hash_range.is_none() || (deletes && lease.is_ended()))
}

/// Does what is to be done for the leases of one stream, once, and adds it to `report` as it is done.
///
/// `suspects` are the unfinished leases whose shards the upkeep before this one did not find; it is brought up to date. One
/// listing may lag; of a shard that two in a row miss the source is asked.
///
/// # Errors
///
/// The first [`SyncError`]. A lease of which the store says no keeps no other from its upkeep, and what was done before an
/// error is done: the report names it, and the next upkeep goes on.
///
/// # Cancel safety
///
/// Dropping the future leaves a part done. Each change has its own condition, so that the rest can be done later.
pub(crate) async fn keep_up(
    mut tools: SyncTools<'_>,
    request: SyncRequest<'_>,
    suspects: &mut BTreeSet<LeaseKey>,
    deletes: bool,
    report: &mut UpkeepReport,
) -> Result<(), SyncError> {
    let (graph, _) = tools.pager(&request).all(ShardFilter::All).await?;
    if graph.is_empty() {
        // A stream always has a shard: this one is not there, or not yet.
        return Ok(());
    }
    let mut faults = UpkeepFaults::default();
    for lease in request.leases {
        faults.pass(describe(&tools, &request, &graph, lease).await)?;
    }
    let unfinished = request.leases.iter().filter(|lease| !lease.is_ended());
    let gone: BTreeMap<&LeaseKey, &Lease> = unfinished
        .filter(|lease| !graph.contains(&lease.shard))
        .map(|lease| (&lease.key, lease))
        .collect();
    suspects.retain(|key| gone.contains_key(key));
    for (key, lease) in gone {
        if suspects.insert(key.clone()) {
            continue;
        }
        if !is_gone(&tools, &request, lease).await {
            continue;
        }
        if faults.pass(end_gone(&tools, &request, &graph, lease).await)? == Some(true) {
            suspects.remove(key);
            report.gone.push(lease.clone());
        }
    }
    if deletes {
        for deletion in plan_cleanup(&graph, true, request.leases) {
            if faults.pass(delete(&tools, &request, &deletion).await)? == Some(true) {
                report.deleted.push((deletion.key, deletion.reason));
            }
        }
    }
    faults.end()
}

/// The changes of single leases that the store refused.
#[derive(Default)]
struct UpkeepFaults {
    first: Option<StoreError>,
}

impl UpkeepFaults {
    /// Lets go on with the next lease after an error of the store, and with nothing after any other.
    fn pass<T>(&mut self, outcome: Result<T, SyncError>) -> Result<Option<T>, SyncError> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(SyncError::Store(error)) => {
                self.first.get_or_insert(error);
                Ok(None)
            }
            Err(error @ (SyncError::Source(_) | SyncError::Deadline)) => Err(error),
        }
    }

    fn end(self) -> Result<(), SyncError> {
        self.first.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Fills in the hash keys that a row of the Java KCL may lack.
async fn describe(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    lease: &Lease,
) -> Result<(), SyncError> {
    let listed = graph.get(&lease.shard).filter(|_| lease.hash_range.is_none());
    let Some(shard) = listed else {
        return Ok(());
    };
    in_time(tools, request)?;
    let change = LeaseChange::Describe {
        children: None,
        hash_range: Some(shard.hash_range),
    };
    tools
        .store_client
        .change(&lease.key, Some(lease), Expect::Present, change)
        .await?;
    Ok(())
}

/// Asks the source for a shard that is not listed. Returns `true` if the source does not find it, or shows its end and no record from the
/// checkpoint on: an owner may read what a wrong listing misses, and the record of the checkpoint may be an aggregate with more in it.
async fn is_gone(tools: &SyncTools<'_>, request: &SyncRequest<'_>, lease: &Lease) -> bool {
    let start = match &lease.checkpoint {
        Position::Record(record) => StartPosition::AtSequence(record.sequence.clone()),
        Position::TrimHorizon | Position::Latest | Position::AtTimestamp | Position::ShardEnd => {
            StartPosition::TrimHorizon
        }
    };
    let read = async {
        let mut reader = tools.source.open_closed(&lease.shard, start).await?;
        reader.next(FetchLimit { records: 1 }).await
    };
    let left = request.deadline.saturating_since(tools.clock.now());
    match tools.clock.timeout(left.min(READ_TIMEOUT), Box::pin(read)).await {
        Ok(Ok(fetch)) => fetch.end.is_some() && fetch.records.is_empty(),
        Ok(Err(error)) => error.kind() == SourceErrorKind::NotFound,
        Err(_) => false,
    }
}

/// Ends a lease whose shard is gone. Returns `true` if it did. The leases of its children are the next sync's business, to which an
/// ended parent that is listed no more counts as one that was read.
///
/// A worker may hold it, and find nothing to read: the end is conditioned on the version like everything else, so that the
/// holder either got on meanwhile or learns at its next write that there is nothing left.
async fn end_gone(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    lease: &Lease,
) -> Result<bool, SyncError> {
    let children = graph
        .in_lineage_order()
        .filter(|child| child.parents.contains(&lease.shard))
        .map(|child| child.id.clone())
        .collect();
    in_time(tools, request)?;
    let expect = Expect::Version(lease.version());
    let outcome = tools
        .store_client
        .change(&lease.key, Some(lease), expect, LeaseChange::End { children })
        .await?;
    Ok(matches!(outcome, Outcome::Applied(_)))
}

/// Deletes one lease, if the rows on which that rests still say so. Returns `true` if it did.
async fn delete(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    deletion: &Deletion,
) -> Result<bool, SyncError> {
    let Some(lease) = request.leases.iter().find(|lease| lease.key == deletion.key) else {
        return Ok(false);
    };
    for witness in &deletion.witnesses {
        in_time(tools, request)?;
        let row = read(tools, request, &witness.key).await?;
        if !witness.is_confirmed_by(row.as_ref()) {
            return Ok(false);
        }
    }
    in_time(tools, request)?;
    let expect = Expect::Version(lease.version());
    let outcome = tools
        .store_client
        .change(&lease.key, Some(lease), expect, LeaseChange::Delete)
        .await?;
    Ok(matches!(outcome, Outcome::Applied(_)))
}

fn in_time(tools: &SyncTools<'_>, request: &SyncRequest<'_>) -> Result<(), SyncError> {
    if tools.clock.now() < request.deadline {
        Ok(())
    } else {
        Err(SyncError::Deadline)
    }
}

#[cfg(test)]
mod tests;

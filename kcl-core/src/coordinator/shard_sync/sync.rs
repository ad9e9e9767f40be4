//! Performs a sync: lists the shards, plans, creates what is missing.

use futures_util::future::join_all;
use std::collections::BTreeSet;

use crate::coordinator::shard_sync::plan::{Anomaly, CreateReason, Creation, lease_cover, plan_sync};
use crate::coordinator::shard_sync::request::{SyncError, SyncRequest, SyncTools};
use crate::coordinator::shard_sync::unfiltered;
use crate::lease::row::Lease;
use crate::lease::start_policy::StartPolicy;
use crate::lease::store::{Outcome, StoreError, StoreErrorKind};
use crate::runtime::failpoint::failpoint;
use crate::source::ShardFilter;
use crate::source::shard_graph::ShardGraph;
use crate::types::{HashKeyRange, InitialPosition, LeaseKey, Position, ShardId, Timestamp};

/// How many leases are created at the same time.
const CONCURRENT_CREATES: usize = 16;

/// The report of a sync.
#[derive(Debug, Default)]
pub(crate) struct SyncReport {
    /// How many shards are listed since the start. Zero means that the stream is not ready: sync again.
    pub(crate) listed: usize,
    /// The leases that were created, and why each was missing.
    pub(crate) created: Vec<(LeaseKey, CreateReason)>,
    /// The leases that somebody else created, or whose children turned out to have leases.
    pub(crate) not_needed: Vec<LeaseKey>,
    /// The leases that could not be created, and why. The next sync tries again.
    pub(crate) failed: Vec<(LeaseKey, StoreError)>,
    /// The anomalies.
    pub(crate) anomalies: Vec<Anomaly>,
    /// The hash keys that no live lease covers after the sync.
    pub(crate) holes: Vec<HashKeyRange>,
    /// Another worker makes the first sync at the same time, perhaps with another pinned start: scan, and sync again.
    pub(crate) interrupted: bool,
}

/// Makes the lease table follow the shards of the stream, once.
///
/// Leases are created in lineage order, a shard's only once those of its parents are. One that cannot be created holds up
/// nothing but its descendants.
///
/// # Errors
///
/// [`SyncError`], when nothing more can be done; the next sync goes on.
///
/// # Cancel safety
///
/// Dropping the future leaves some of the leases created, parents before children.
pub(crate) async fn sync_once(
    mut tools: SyncTools<'_>,
    request: SyncRequest<'_>,
) -> Result<SyncReport, SyncError> {
    let needs_time = request.initial != InitialPosition::TrimHorizon
        || request.leases.iter().any(|lease| lease.pinned_start.is_some());
    let (service_time, honours_filters) = if needs_time {
        let open = tools.pager(&request).page(ShardFilter::Open, None).await?;
        (open.service_time, open.shards.iter().all(|shard| !shard.closed))
    } else {
        (Timestamp::from_millis(0), true)
    };
    let mut unreadable = presumed_leases(&request);
    let start = StartPolicy::resolve(
        request.initial,
        request.leases.iter().chain(&unreadable),
        service_time,
    );
    let (mut graph, _) = tools.pager(&request).all(start.filter(service_time)).await?;
    if let (false, Some(at)) = (honours_filters, start.pinned()) {
        let leases = request.leases.iter().chain(&unreadable);
        let leased = leases.map(|lease| &lease.shard).collect();
        graph = unfiltered::without_ended_before(&tools, &request, &graph, &leased, at).await?;
    }
    // A row of another kind may be among them; it names no shard.
    unreadable.retain(|lease| graph.contains(&lease.shard));
    let leases = [request.leases, &unreadable].concat();
    let plan = plan_sync(&graph, &leases, &start, request.keying, request.identity);

    let mut report = SyncReport {
        listed: graph.in_lineage_order().count(),
        anomalies: plan.anomalies,
        ..SyncReport::default()
    };
    let unreadable = unreadable.into_iter().map(|lease| lease.key);
    report
        .anomalies
        .extend(unreadable.map(|key| Anomaly::UnreadableLease { key }));
    let mut without_lease: BTreeSet<&ShardId> = BTreeSet::new();
    let mut covering: Vec<Lease> = request.leases.to_vec();
    for batch in batches(&plan.creates) {
        let (waiting, batch): (Vec<_>, Vec<_>) = batch
            .iter()
            .partition(|creation| has_parent_in(&creation.lease, &without_lease));
        without_lease.extend(waiting.iter().map(|creation| &creation.lease.shard));
        let creates = batch
            .iter()
            .map(|creation| create(&tools, &request, &graph, &start, creation));
        for (creation, is_created) in batch.iter().zip(join_all(creates).await) {
            let key = creation.lease.key.clone();
            match is_created {
                Ok(true) => report.created.push((key, creation.reason)),
                Ok(false) => report.not_needed.push(key),
                Err(SyncError::Store(error)) => {
                    report.failed.push((key, error));
                    without_lease.insert(&creation.lease.shard);
                    continue;
                }
                Err(error @ (SyncError::Source(_) | SyncError::Deadline)) => return Err(error),
            }
            covering.push(creation.lease.clone());
        }
        if start.is_first_sync() && !report.not_needed.is_empty() {
            report.interrupted = true;
            break;
        }
    }
    report.holes = lease_cover(&graph, &covering).holes;
    Ok(report)
}

/// A live lease for each row that cannot be read: it keeps its shard and what that came from out of the plan.
fn presumed_leases(request: &SyncRequest<'_>) -> Vec<Lease> {
    let presumed = |shard: &ShardId| {
        let mut lease = Lease::unowned(shard.clone(), Position::TrimHorizon);
        lease.key = request.keying.key(shard).ok()?;
        Some(lease)
    };
    request.unreadable.iter().filter_map(presumed).collect()
}

fn has_parent_in(lease: &Lease, shards: &BTreeSet<&ShardId>) -> bool {
    lease.parents.iter().any(|parent| shards.contains(parent))
}

/// Cuts the creations into runs that may be made at the same time: none holds a shard and its parent.
fn batches(creates: &[Creation]) -> Vec<&[Creation]> {
    let mut batches = Vec::new();
    let mut from = 0;
    let mut in_batch = BTreeSet::new();
    for (at, creation) in creates.iter().enumerate() {
        if has_parent_in(&creation.lease, &in_batch) || at - from == CONCURRENT_CREATES {
            batches.extend(creates.get(from..at));
            in_batch.clear();
            from = at;
        }
        in_batch.insert(&creation.lease.shard);
    }
    batches.extend(creates.get(from..).filter(|rest| !rest.is_empty()));
    batches
}

/// Creates one lease; false when it turns out not to be missing.
async fn create(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    start: &StartPolicy,
    creation: &Creation,
) -> Result<bool, SyncError> {
    let looks = !start.is_first_sync() && !failpoint!(FinishedShardLeasedAgain);
    if looks && has_leased_child(tools, request, graph, creation).await? {
        return Ok(false);
    }
    if tools.clock.now() >= request.deadline {
        return Err(SyncError::Deadline);
    }
    let outcome = tools
        .store_client
        .create(creation.lease.clone(), request.deadline)
        .await?;
    Ok(matches!(outcome, Outcome::Applied(_)))
}

/// Whether a child got its lease since the scan, so that the shard is read by now.
///
/// A scan may lag, and this is the one mistake that would read a shard again.
async fn has_leased_child(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    creation: &Creation,
) -> Result<bool, SyncError> {
    for child in graph.children(&creation.lease.shard) {
        let Ok(key) = request.keying.key(&child.id) else {
            continue;
        };
        match read(tools, request, &key).await {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(true),
            // There is a row, whatever it says.
            Err(SyncError::Store(error)) if error.kind() == StoreErrorKind::Data => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads one row strongly, while there is time.
pub(crate) async fn read(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    key: &LeaseKey,
) -> Result<Option<Lease>, SyncError> {
    let left = request.deadline.saturating_since(tools.clock.now());
    let answer = tools.store_client.read_within(key, left).await;
    answer.ok_or(SyncError::Deadline)?.map_err(SyncError::Store)
}

#[cfg(test)]
pub(crate) mod tests;

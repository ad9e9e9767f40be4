//! Performs a sync: lists the shards, plans, creates what is missing.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::lease::{Expect, Lease, LeaseChange, LeaseStore, LeaseWriter, Outcome, StoreError};
use crate::model::{HashKeyRange, LeaseKey, StreamIdentity};
use crate::rng::Rng;
use crate::shard_sync::{
    Anomaly, CreateReason, Creation, InitialPosition, Keying, ShardGraph, Start, lease_cover, plan_sync,
};
use crate::source::{PageToken, ShardFilter, ShardPage, SourceError, SourceErrorKind, StreamSource};
use crate::time::{BoxFuture, Clock, ClockExt, Moment, Timestamp};

/// How long one page of a listing may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one page is asked for. ListShards allows 100 calls a second for the account and answers the rest with a throttle.
const PAGE_ATTEMPTS: u32 = 8;
/// The first pause before a page is asked for again; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A page holds up to 1,000 shards; a source that goes on beyond this many pages never ends.
const MAX_PAGES: u32 = 1_000;
/// How many leases are created at the same time.
const CONCURRENT_CREATES: usize = 16;

/// What a sync works with.
pub(crate) struct Tools<'a> {
    pub(crate) source: &'a dyn StreamSource,
    pub(crate) store: &'a dyn LeaseStore,
    pub(crate) writer: &'a dyn LeaseWriter,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) rng: &'a mut Rng,
}

/// What a sync is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncRequest<'a> {
    /// The leases of this stream, from a scan that was complete before the call. An empty slice makes this the first sync.
    pub(crate) leases: &'a [Lease],
    pub(crate) initial: InitialPosition,
    pub(crate) keying: &'a Keying,
    pub(crate) identity: &'a StreamIdentity,
    /// After this moment nothing is created any more: by then another leader may have finished what this sync planned,
    /// and cleaned up after it. At most the caller's belief in its leadership.
    pub(crate) deadline: Moment,
}

/// What a sync did and saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SyncReport {
    /// How many shards are listed since the start. Zero means that the stream is not ready: sync again.
    pub(crate) listed: usize,
    /// The leases that were created, and why each was missing.
    pub(crate) created: Vec<(LeaseKey, CreateReason)>,
    /// The leases that somebody else created, or whose children turned out to have leases.
    pub(crate) not_needed: Vec<LeaseKey>,
    /// What does not fit together.
    pub(crate) anomalies: Vec<Anomaly>,
    /// The hash keys that no live lease covers after the sync.
    pub(crate) holes: Vec<HashKeyRange>,
    /// Somebody else makes the first sync at the same time, perhaps with another pinned start: scan, and sync again.
    pub(crate) interrupted: bool,
}

/// A sync did not come to its end. What it created stays; the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("cannot list the shards")]
    Source(#[from] SourceError),
    #[error("cannot create a lease")]
    Store(#[from] StoreError),
    #[error("the shards were not synced in time")]
    Deadline,
}

/// Makes the lease table follow the shards of the stream, once.
///
/// Leases are created in lineage order, a shard's only once those of its parents are.
///
/// # Errors
///
/// [`SyncError`]; the next sync goes on.
///
/// # Cancel safety
///
/// Dropping the future leaves some of the leases created, parents before children.
pub(crate) async fn sync_once(
    mut tools: Tools<'_>,
    request: SyncRequest<'_>,
) -> Result<SyncReport, SyncError> {
    let needs_time = request.initial != InitialPosition::TrimHorizon
        || request.leases.iter().any(|lease| lease.pinned_start.is_some());
    let service_time = if needs_time {
        page(&mut tools, &request, ShardFilter::Open, None)
            .await?
            .service_time
    } else {
        Timestamp::from_millis(0)
    };
    let start = Start::settle(request.initial, request.leases, service_time);
    let graph = list_all(&mut tools, &request, start.filter(service_time)).await?;
    let plan = plan_sync(&graph, request.leases, &start, request.keying, request.identity);

    let mut report = SyncReport {
        listed: graph.in_lineage_order().count(),
        anomalies: plan.anomalies,
        ..SyncReport::default()
    };
    let mut covering: Vec<Lease> = request.leases.to_vec();
    for batch in batches(&plan.creates) {
        let creates = batch
            .iter()
            .map(|creation| -> BoxFuture<'_, _> {
                Box::pin(create(&tools, &request, &graph, &start, creation))
            })
            .collect();
        for (creation, is_created) in batch.iter().zip(join_all(creates).await) {
            let key = creation.lease.key.clone();
            covering.push(creation.lease.clone());
            if is_created? {
                report.created.push((key, creation.reason));
            } else {
                report.not_needed.push(key);
            }
        }
        if start.is_first_sync() && !report.not_needed.is_empty() {
            report.interrupted = true;
            break;
        }
    }
    report.holes = lease_cover(&graph, &covering).holes;
    Ok(report)
}

/// Cuts the creations into runs that may be made at the same time: none holds a shard and its parent.
fn batches(creates: &[Creation]) -> Vec<&[Creation]> {
    let mut batches = Vec::new();
    let mut from = 0;
    let mut in_batch = BTreeSet::new();
    for (at, creation) in creates.iter().enumerate() {
        let follows_a_parent = creation
            .lease
            .parents
            .iter()
            .any(|parent| in_batch.contains(parent));
        if follows_a_parent || at - from == CONCURRENT_CREATES {
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
    tools: &Tools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    start: &Start,
    creation: &Creation,
) -> Result<bool, SyncError> {
    if !start.is_first_sync() && has_leased_child(tools, request, graph, creation).await? {
        return Ok(false);
    }
    if tools.clock.now() >= request.deadline {
        return Err(SyncError::Deadline);
    }
    let change = LeaseChange::Create(Box::new(creation.lease.clone()));
    let outcome = tools
        .writer
        .change(&creation.lease.key, None, Expect::Absent, change)
        .await?;
    Ok(matches!(outcome, Outcome::Applied(_)))
}

/// Whether a child got its lease since the scan, so that the shard is read by now.
///
/// A scan may lag, and this is the one mistake that would read a shard again.
async fn has_leased_child(
    tools: &Tools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    creation: &Creation,
) -> Result<bool, SyncError> {
    for child in graph.children(&creation.lease.shard) {
        let Ok(key) = request.keying.key(&child.id) else {
            continue;
        };
        if tools.store.read(&key).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn list_all(
    tools: &mut Tools<'_>,
    request: &SyncRequest<'_>,
    filter: ShardFilter,
) -> Result<ShardGraph, SyncError> {
    let mut shards = Vec::new();
    let mut token = None;
    for _ in 0..MAX_PAGES {
        let page = page(tools, request, filter, token).await?;
        shards.extend(page.shards);
        token = page.next;
        if token.is_none() {
            return Ok(ShardGraph::new(shards));
        }
    }
    let message = format!("the listing of the shards has more than {MAX_PAGES} pages");
    Err(SourceError::new(SourceErrorKind::Invalid, message).into())
}

/// Asks for one page, again after a pause when the service is busy or silent.
async fn page(
    tools: &mut Tools<'_>,
    request: &SyncRequest<'_>,
    filter: ShardFilter,
    token: Option<PageToken>,
) -> Result<ShardPage, SyncError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let left = request.deadline.saturating_since(tools.clock.now());
        if left.is_zero() {
            break;
        }
        let call = tools.source.shards(filter, token.clone());
        match tools.clock.timeout(left.min(PAGE_TIMEOUT), call).await {
            Ok(Ok(page)) => return Ok(page),
            Ok(Err(error)) if attempt >= PAGE_ATTEMPTS || !may_pass(error.kind()) => return Err(error.into()),
            Err(_) if attempt >= PAGE_ATTEMPTS => break,
            Ok(Err(_)) | Err(_) => {}
        }
        let until = tools.clock.now() + tools.rng.jittered(pause);
        tools.clock.sleep_until(until.min(request.deadline)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
    Err(SyncError::Deadline)
}

fn may_pass(kind: SourceErrorKind) -> bool {
    match kind {
        SourceErrorKind::Throttled | SourceErrorKind::Unavailable => true,
        SourceErrorKind::Denied | SourceErrorKind::NotFound | SourceErrorKind::Invalid => false,
    }
}

/// Runs the futures side by side in this task, and gives their outputs in their order.
async fn join_all<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(move |context| {
        let mut is_pending = false;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect())
        }
    })
    .await
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;

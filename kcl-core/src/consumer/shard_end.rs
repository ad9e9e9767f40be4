//! Stores the end of a shard: the children's leases first, then the end. It can be repeated from any point.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::lease::row::Lease;
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::shard_end_plan::{
    ChildPlan, InvalidShardEnd, ShardFamily, children_from_listing, is_replaced, plan_children,
};
use crate::lease::start_policy::StartPolicy;
use crate::lease::store::{Outcome, StoreError};
use crate::lifecycle::ConsumerEvent;
use crate::ownership::Ownership;
use crate::ownership::row_writes::WriteResult;
use crate::ownership::validity::Validity;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::runtime::log_once::LogOnce;
use crate::runtime::task_scope::TaskPlace;
use crate::source::shard_graph::ShardGraph;
use crate::source::{ShardEnd, ShardFilter};
use crate::streams::listing::ListingError;
use crate::streams::pager::ShardPager;
use crate::types::{LeaseKey, ShardId, WorkerId};

/// How long to wait before a step that could not be taken is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long listings must show other shards in the place of a shard without children: what is resharded now may be listed a moment later.
const REPLACED_FOR: Duration = Duration::from_secs(5);

/// Goes on until the end is stored, the lease is lost, or it is to be given up while the end cannot be stored.
/// The shard is held meanwhile, and the reason is said once.
pub(crate) async fn store_end(own: &Ownership, end: &ShardEnd) -> ConsumerEvent {
    let mut said = LogOnce::default();
    let mut replaced = None;
    loop {
        let obstacle = match try_to_store(own, end, &mut replaced).await {
            Ok(ShardEndStep::Done(event)) => return event,
            Ok(ShardEndStep::Wait(obstacle)) => obstacle,
            Err(error) => Causes(&error).to_string(),
        };
        if said.begins(obstacle.clone()) {
            tracing::warn!(
                obstacle,
                "the end of the shard cannot be stored yet; the shard is held"
            );
        }
        tokio::select! {
            biased;
            () = own.draining() => return ConsumerEvent::DrainRequested,
            () = own.worker.clock.sleep(PAUSE) => {}
        }
    }
}

enum ShardEndStep {
    Done(ConsumerEvent),
    Wait(String),
}

#[derive(Debug, thiserror::Error)]
enum ShardEndError {
    #[error("the lease store did not answer")]
    Store(#[from] StoreError),
    #[error("the lease table could not be scanned")]
    Scan(#[from] Arc<StoreError>),
    #[error(transparent)]
    Listing(#[from] ListingError),
    #[error("the source tells children that do not fit the shard")]
    Invalid(#[from] InvalidShardEnd),
}

/// `replaced` is since when other shards are listed in the place of this one, which has no children.
async fn try_to_store(
    own: &Ownership,
    end: &ShardEnd,
    replaced: &mut Option<Moment>,
) -> Result<ShardEndStep, ShardEndError> {
    let row = own.row();
    let mut end = end.clone();
    let (mut listing, mut is_listed) = (None, false);
    // The shards that a sync lists, once the end waits for another parent.
    let mut since_start: Option<Arc<ShardGraph>> = None;
    loop {
        let mut family = read_family(own, &row, &end).await?;
        if family.has_orphans() || end.children.is_empty() {
            let graph = match &listing {
                Some(graph) => graph,
                None => listing.insert(list(own).await?),
            };
            // One that ended before the application's start gets no lease from any sync: it is as one that is gone.
            let is_before_start =
                |shard: &ShardId| since_start.as_ref().is_some_and(|since| !since.contains(shard));
            family
                .unlisted
                .retain(|shard| !graph.contains(shard) || is_before_start(shard));
        } else {
            family.unlisted.clear();
        }
        let known = ShardFamily {
            leased: &family.leased,
            unlisted: &family.unlisted,
        };
        let plan = match plan_children(&row, &end, known, own_children(own)) {
            // The listing may know better.
            Err(_) if !is_listed => {
                end = ShardEnd::default();
                continue;
            }
            plan => plan?,
        };
        match plan {
            ChildPlan::Create { leases, children } => {
                return create_and_end(own, leases, children, family.mine).await;
            }
            ChildPlan::LookUp => match &listing {
                Some(graph) => {
                    end = children_from_listing(graph, &row.shard);
                    is_listed = true;
                    if !end.children.is_empty() {
                        continue;
                    }
                    if is_replaced_for_long(own, graph, &row, replaced) {
                        return create_and_end(own, Vec::new(), BTreeSet::new(), BTreeSet::new()).await;
                    }
                    return Ok(ShardEndStep::Wait(
                        "no listing shows what the shard became".to_owned(),
                    ));
                }
                None => return Ok(ShardEndStep::Wait("the shards are not listed yet".to_owned())),
            },
            ChildPlan::AwaitParents(_) if since_start.is_none() => {
                let listed = list_since_start(own).await?;
                if !listed.contains(&row.shard) {
                    return Ok(ShardEndStep::Wait("the shard is not listed just now".to_owned()));
                }
                since_start = Some(listed);
            }
            ChildPlan::AwaitParents(parents) => {
                return Ok(ShardEndStep::Wait(format!(
                    "the other parents have no lease yet: {parents:?}"
                )));
            }
        }
    }
}

/// Whether listings have shown for a while that other shards, which are read on their own, took the place of this one.
fn is_replaced_for_long(
    own: &Ownership,
    graph: &ShardGraph,
    row: &Lease,
    replaced: &mut Option<Moment>,
) -> bool {
    let now = own.worker.clock.now();
    *replaced = is_replaced(graph, &row.shard).then(|| replaced.unwrap_or(now));
    let is_so = replaced.is_some_and(|since| now.saturating_since(since) >= REPLACED_FOR);
    if is_so {
        tracing::info!("the shard has no children; open shards without parents took its place");
    }
    is_so
}

/// Which relatives have a lease, and which of the co-parents have none.
struct Relatives {
    leased: BTreeSet<ShardId>,
    unlisted: BTreeSet<ShardId>,
    /// The children that name this worker already: from an end that did not get further, perhaps.
    mine: BTreeSet<LeaseKey>,
}

impl Relatives {
    fn has_orphans(&self) -> bool {
        !self.unlisted.is_empty()
    }
}

async fn read_family(own: &Ownership, row: &Lease, end: &ShardEnd) -> Result<Relatives, StoreError> {
    let children: BTreeSet<&ShardId> = end.children.iter().map(|child| &child.id).collect();
    let parents = end
        .children
        .iter()
        .flat_map(|child| &child.parents)
        .filter(|parent| **parent != row.shard);
    let mut relatives = Relatives {
        leased: BTreeSet::new(),
        unlisted: BTreeSet::new(),
        mine: BTreeSet::new(),
    };
    for shard in children.iter().copied().chain(parents).collect::<BTreeSet<_>>() {
        let relative = own.worker.store_client.read(&row.key_of_sibling(shard)).await?;
        if let Some(relative) = relative {
            relatives.leased.insert(shard.clone());
            if children.contains(shard) && names(own, &relative) {
                relatives.mine.insert(relative.key);
            }
        } else if !children.contains(shard) {
            relatives.unlisted.insert(shard.clone());
        }
    }
    Ok(relatives)
}

/// A listing that is shared with the other shards of the stream, and at most a second old.
async fn list(own: &Ownership) -> Result<Arc<ShardGraph>, ListingError> {
    let (stream, clock) = (&own.stream, &own.worker.clock);
    stream.listing.recent(&*stream.source, &**clock).await
}

/// The shards that a sync would list: those that were open at the start of the application, and those that came later.
async fn list_since_start(own: &Ownership) -> Result<Arc<ShardGraph>, ShardEndError> {
    let worker = &own.worker;
    let (scanner, limit) = (Arc::clone(&worker.scanner), worker.timing.urgent_scan);
    // Where the worker coordinates: a callback that blocks this runtime must not keep others from their scans.
    let scan = async move { scanner.fresh(&mut ScanDeadline::between((limit, limit))).await };
    let name = format!("store {}", own.key);
    let scan = worker.scope.run_at(TaskPlace::Coordination, name, scan).await?;
    let (source, clock) = (&*own.stream.source, &*worker.clock);
    let mut pager = ShardPager::once(source, clock);
    let open = pager.page(ShardFilter::Open, None).await;
    let service_time = open.map_err(ListingError::from)?.service_time;
    let initial = own.stream.initial_position;
    let initial = initial.unwrap_or(worker.settings.reading.initial_position);
    let leases = scan.leases.iter().filter(|lease| own.stream.keying.owns(lease));
    let start = StartPolicy::resolve(initial, leases, service_time);
    let listed = pager.all(start.filter(service_time)).await;
    Ok(Arc::new(listed.map_err(ListingError::from)?.0))
}

/// The worker that ends a shard begins with its children at once, as far as its limit allows.
fn own_children(own: &Ownership) -> impl FnMut(&crate::source::ChildShard) -> Option<WorkerId> {
    let worker = &own.worker;
    // The ended shard gives its place free.
    let others = own.held_leases().saturating_sub(1);
    let limit = worker
        .settings
        .assignment
        .max_leases
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut room = limit.saturating_sub(others);
    let me = worker.worker.clone();
    move |_| {
        let takes = room > 0;
        room = room.saturating_sub(1);
        takes.then(|| me.clone())
    }
}

fn names(own: &Ownership, row: &Lease) -> bool {
    row.owner.as_ref() == Some(&own.worker.worker)
}

async fn create_and_end(
    own: &Ownership,
    leases: Vec<Lease>,
    children: BTreeSet<ShardId>,
    mut mine: BTreeSet<LeaseKey>,
) -> Result<ShardEndStep, ShardEndError> {
    let worker = &own.worker;
    for lease in leases {
        // Whoever stood still for long may be behind others who finished the child too, and whose cleanup took its lease away.
        let Validity::GoOn { until } = own.verdict() else {
            return Ok(ShardEndStep::Wait(
                "the lease of the shard must be renewed first".to_owned(),
            ));
        };
        let key = lease.key.clone();
        let outcome = worker.store_client.create(lease, until).await?;
        // A refusal says that somebody created it already, which is as good.
        if let Outcome::Applied(row) | Outcome::Refused { current: Some(row) } = outcome
            && names(own, &row)
        {
            mine.insert(key);
        }
    }
    let invite = || {
        mine.into_iter().for_each(|key| worker.assignment_hints.add(key));
    };
    match own
        .write(LeaseChange::End {
            children: children.clone(),
        })
        .await
    {
        WriteResult::Applied(row) => {
            tracing::info!(from = %worker.worker, counter = row.counter, ?children, reason = "shard ended", "lease ended");
            invite();
            worker.plan_now.notify_one();
            Ok(ShardEndStep::Done(ConsumerEvent::EndStored))
        }
        WriteResult::GivenUp(row) if row.is_ended() => {
            invite();
            Ok(ShardEndStep::Done(ConsumerEvent::EndStored))
        }
        WriteResult::Lost | WriteResult::GivenUp(_) => Ok(ShardEndStep::Done(ConsumerEvent::LeaseLost)),
        WriteResult::Failed(error) => Err(error.into()),
    }
}

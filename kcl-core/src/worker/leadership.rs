//! What a worker does for its fleet: coordinates when it leads, makes the lease table follow the stream's shards,
//! and tells what it knows of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::assignment::{CoordinatorContext, CoordinatorStatus, Notices, Reason, Role, at_most, coordinate};
use crate::consumer::Services;
use crate::error::Causes;
use crate::lease::{Expect, Lease, LeaseChange, LeaseWriter, Outcome, StoreError};
use crate::model::{LeaseKey, StreamKey};
use crate::rng::Rng;
use crate::shard_sync::{
    Anomaly, Audit, Cover, SyncError, SyncReport, SyncRequest, Tools, UpkeepReport, Verdict, keep_up,
    needs_upkeep, sync_once,
};
use crate::source::SourceErrorKind;
use crate::streams::{FormerStreams, OpenStream};
use crate::time::{BoxFuture, ClockExt as _, Moment};

/// How often the leader compares the lease table with the stream's shards. Children come from the end of their parents, so
/// this finds only what went wrong, or a shard whose lease somebody deleted.
const AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// How many streams are synced at the same time: each asks for its shards, and the service allows 100 such calls a second.
const CONCURRENT_SYNCS: usize = 8;
/// How long to wait before a sync that did not come to its end is made again.
const SYNC_PAUSE: Duration = Duration::from_millis(500);

/// Runs until `leaving` is cancelled, and gives up the office then.
pub(crate) async fn serve_fleet(services: Arc<Services>, leaving: CancellationToken) {
    let office = Arc::new(OfficeNews {
        services: Arc::clone(&services),
        changed: Notify::new(),
        tenure: std::sync::Mutex::default(),
    });
    let context = CoordinatorContext {
        store: Arc::clone(&services.store),
        clock: Arc::clone(&services.clock),
        rng: services.rng.child("coordinator"),
        me: services.worker.clone(),
        max_leases: services.settings.max_leases,
        max_throughput: services.settings.max_throughput,
        failover: services.settings.failover_time,
        discovery: services.settings.discovery_interval,
        settings: services.settings.assignment.clone(),
        wake: Arc::clone(&services.plan_now),
        writer: Arc::new(Inviting {
            services: Arc::clone(&services),
        }),
        notices: Arc::clone(&office) as Arc<dyn Notices>,
        reads: {
            let streams = Arc::clone(&services.streams);
            Arc::new(move |lease: &Lease| streams.reads(lease))
        },
    };
    let followed = async {
        tokio::select! {
            biased;
            () = leaving.cancelled() => {}
            () = follow_shards(&services, &office) => {}
        }
    };
    tokio::join!(coordinate(context, leaving.clone()), followed);
}

/// Writes through the lanes, and takes up at once what this worker assigns to itself.
struct Inviting {
    services: Arc<Services>,
}

#[async_trait]
impl LeaseWriter for Inviting {
    async fn change(
        &self,
        key: &LeaseKey,
        before: Option<&Lease>,
        expect: Expect,
        change: LeaseChange,
    ) -> Result<Outcome, StoreError> {
        let outcome = self.services.lanes.change(key, before, expect, change).await;
        if let Ok(Outcome::Applied(row)) = &outcome
            && row.owner.as_ref() == Some(&self.services.worker)
        {
            self.services.invitations.invite(row.key.clone());
        }
        outcome
    }
}

/// What the coordinator tells the rest of the worker.
struct OfficeNews {
    services: Arc<Services>,
    changed: Notify,
    /// Until when this worker believes to lead, if it does.
    tenure: std::sync::Mutex<Option<Moment>>,
}

impl OfficeNews {
    fn leads_until(&self) -> Option<Moment> {
        *self
            .tenure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn until_leading(&self) -> Moment {
        loop {
            let changed = self.changed.notified();
            match self.leads_until() {
                Some(until) if self.services.clock.now() < until => return until,
                _ => changed.await,
            }
        }
    }
}

impl Notices for OfficeNews {
    fn coordinating(&self, status: &CoordinatorStatus) {
        let leads = status.role == Role::Leader;
        *self
            .tenure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = status.leads_until;
        self.changed.notify_waiters();
        self.services.metrics.leads(leads);
        self.services.metrics.unplaced(status.unplaced);
        let bound = status.last_scan.map(|_| status.cadence.failover_bound);
        self.services.board.update_office(leads, bound, status.unplaced);
    }

    fn moved(&self, _: Reason) {
        self.services.metrics.assigned();
    }
}

/// What the leader knows of one stream's shards from sync to sync.
struct Followed {
    audit: Audit,
    /// Unfinished leases whose shards were not listed lately.
    suspects: BTreeSet<LeaseKey>,
    is_synced: bool,
    /// When the next sync is due.
    due: Moment,
}

/// As leader: syncs the shards of each stream at once, then audits.
async fn follow_shards(services: &Services, office: &OfficeNews) {
    let rng = services.rng.child("shard sync");
    let mut followed: BTreeMap<Option<StreamKey>, Followed> = BTreeMap::new();
    let mut former = FormerStreams::default();
    let mut rounds = 0_u64;
    loop {
        let until = office.until_leading().await;
        let (streams, now) = (services.streams.all(), services.clock.now());
        followed.retain(|key, _| {
            streams
                .iter()
                .any(|stream| stream.keying.stream() == key.as_ref())
        });
        for stream in &streams {
            let new = || Followed {
                audit: Audit::new(2),
                suspects: BTreeSet::new(),
                is_synced: false,
                due: now,
            };
            followed
                .entry(stream.keying.stream().cloned())
                .or_insert_with(new);
        }
        let due = |stream: &Arc<OpenStream>| {
            let followed = followed.get(&stream.keying.stream().cloned());
            followed.is_some_and(|followed| followed.due <= now)
        };
        let due: Vec<_> = streams.iter().filter(|stream| due(stream)).collect();
        let mut next = now + AUDIT_INTERVAL;
        match read_leases(services).await {
            Ok(leases) => {
                forget_former_streams(services, &mut former, &leases).await;
                rounds += 1;
                let mut syncs: Vec<BoxFuture<'_, _>> = Vec::new();
                for stream in due {
                    let rng = rng.child(stream.source.address()).child(&rounds.to_string());
                    let key = stream.keying.stream().cloned();
                    let suspects = followed
                        .get(&key)
                        .map_or_else(BTreeSet::new, |followed| followed.suspects.clone());
                    syncs.push(Box::pin(sync(services, stream, &leases, suspects, rng, until)));
                }
                // In the order in which they end.
                for (key, outcome) in at_most(CONCURRENT_SYNCS, syncs).await {
                    if let Some(followed) = followed.get_mut(&key) {
                        followed.take_in(services, outcome);
                    }
                }
                next = followed
                    .values()
                    .map(|followed| followed.due)
                    .fold(next, Moment::min);
            }
            Err(error) => {
                tracing::warn!(error = %Causes(error.as_ref()), "the leases cannot be read, so the shards are not synced; trying on");
                next = now + SYNC_PAUSE;
            }
        }
        tokio::select! {
            biased;
            () = services.streams.changed() => {}
            () = services.clock.sleep_until(next) => {}
        }
    }
}

impl Followed {
    fn take_in(&mut self, services: &Services, outcome: Result<Synced, SyncError>) {
        let pause = match outcome {
            Ok(Synced { report, suspects }) => {
                self.suspects = suspects;
                self.is_synced = self.is_synced || report.listed > 0 && !report.interrupted;
                note(services, &mut self.audit, &report);
                if self.is_synced && !report.interrupted {
                    AUDIT_INTERVAL
                } else {
                    SYNC_PAUSE
                }
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "the shards could not be synced, trying on");
                SYNC_PAUSE
            }
        };
        self.due = services.clock.now() + pause;
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn read_leases(services: &Services) -> Result<Vec<Lease>, AnyError> {
    let limit = services.settings.failover_time / 2;
    let scan = services.clock.timeout(limit, services.store.scan()).await??;
    Ok(scan.leases)
}

/// What a sync and the upkeep after it left.
struct Synced {
    report: SyncReport,
    suspects: BTreeSet<LeaseKey>,
}

async fn sync(
    services: &Services,
    stream: &OpenStream,
    leases: &[Lease],
    suspects: BTreeSet<LeaseKey>,
    mut rng: Rng,
    deadline: Moment,
) -> (Option<StreamKey>, Result<Synced, SyncError>) {
    let leases: Vec<_> = leases
        .iter()
        .filter(|lease| stream.keying.owns(lease))
        .cloned()
        .collect();
    let request = SyncRequest {
        leases: &leases,
        initial: stream
            .initial_position
            .unwrap_or(services.settings.initial_position),
        keying: &stream.keying,
        identity: &stream.identity,
        deadline,
    };
    let outcome = sync_and_keep_up(services, stream, request, suspects, &mut rng).await;
    if let Err(SyncError::Source(error)) = &outcome
        && error.kind() == SourceErrorKind::NotFound
    {
        services.streams.doubt(stream);
    }
    (stream.keying.stream().cloned(), outcome)
}

async fn sync_and_keep_up(
    services: &Services,
    stream: &OpenStream,
    request: SyncRequest<'_>,
    mut suspects: BTreeSet<LeaseKey>,
    rng: &mut Rng,
) -> Result<Synced, SyncError> {
    let report = sync_once(tools(services, stream, rng), request).await?;
    let has_gone = report
        .anomalies
        .iter()
        .any(|anomaly| matches!(anomaly, Anomaly::ShardGone { .. }));
    if needs_upkeep(request.leases, has_gone, services.settings.cleanup) {
        let upkeep = keep_up(
            tools(services, stream, rng),
            request,
            &mut suspects,
            services.settings.cleanup,
        )
        .await?;
        note_upkeep(services, &upkeep);
    } else {
        suspects.clear();
    }
    Ok(Synced { report, suspects })
}

fn tools<'a>(services: &'a Services, stream: &'a OpenStream, rng: &'a mut Rng) -> Tools<'a> {
    Tools {
        source: stream.source.as_ref(),
        store: services.store.as_ref(),
        writer: &services.lanes,
        clock: services.clock.as_ref(),
        rng,
    }
}

fn note_upkeep(services: &Services, upkeep: &UpkeepReport) {
    for lease in &upkeep.gone {
        tracing::error!(
            lease = %lease.key, checkpoint = %lease.checkpoint,
            "retention took the shard before it was read to its end: what came after the checkpoint is lost to this application; the lease is ended"
        );
    }
    services.metrics.shards_gone(upkeep.gone.len());
    for (lease, reason) in &upkeep.deleted {
        tracing::info!(%lease, ?reason, "lease deleted");
    }
    services.metrics.leases_deleted(upkeep.deleted.len());
    if !upkeep.gone.is_empty() {
        services.plan_now.notify_one();
    }
}

/// Deletes the leases of streams that nobody has read for as long as the settings say.
async fn forget_former_streams(services: &Services, former: &mut FormerStreams, leases: &[Lease]) {
    let Some(grace) = services.settings.forget_streams_after else {
        return;
    };
    let now = services.clock.now();
    let reads = |lease: &Lease| services.streams.reads(lease);
    for lease in former.look(now, leases, reads, grace) {
        let expect = Expect::Version(lease.version());
        let outcome = services
            .lanes
            .change(&lease.key, Some(lease), expect, LeaseChange::Delete)
            .await;
        match outcome {
            Ok(Outcome::Applied(_)) => {
                tracing::info!(lease = %lease.key, checkpoint = %lease.checkpoint, reason = "stream no longer read", "lease deleted");
            }
            Ok(Outcome::Refused { .. }) => {}
            Err(error) => {
                tracing::warn!(lease = %lease.key, error = %Causes(&error), "the lease of a former stream cannot be deleted yet");
                return;
            }
        }
    }
}

fn note(services: &Services, audit: &mut Audit, report: &SyncReport) {
    if !report.created.is_empty() {
        tracing::info!(created = report.created.len(), "leases created");
        services.plan_now.notify_one();
    }
    let cover = Cover {
        holes: report.holes.clone(),
        overlaps: false,
    };
    let verdict = audit.look(&cover);
    let is_certain = matches!(verdict, Verdict::Repair(_));
    services
        .metrics
        .holes(if is_certain { cover.holes.len() } else { 0 });
    if let Verdict::Repair(hole) = verdict {
        tracing::error!(%hole, "no lease covers these hash keys, and no listed shard can be leased for them");
    }
    for anomaly in &report.anomalies {
        tracing::warn!(?anomaly, "the shards and the leases do not fit together");
    }
}

//! What a worker does for its fleet: coordinates when it leads, makes the lease table follow the stream's shards,
//! and tells what it knows of that.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::assignment::{CoordinatorContext, CoordinatorStatus, Notices, Reason, Role, coordinate};
use crate::consumer::Services;
use crate::error::Causes;
use crate::lease::{Expect, Lease, LeaseChange, LeaseWriter, Outcome, StoreError};
use crate::model::LeaseKey;
use crate::shard_sync::{Audit, Cover, Keying, SyncReport, SyncRequest, Tools, Verdict, sync_once};
use crate::time::{ClockExt as _, Moment};

/// How often the leader compares the lease table with the stream's shards. Children come from the end of their parents, so
/// this finds only what went wrong, or a shard whose lease somebody deleted.
const AUDIT_INTERVAL: Duration = Duration::from_secs(30);
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
        failover: services.settings.failover_time,
        discovery: services.settings.discovery_interval,
        settings: services.settings.assignment.clone(),
        wake: Arc::clone(&services.plan_now),
        writer: Arc::new(Inviting {
            services: Arc::clone(&services),
        }),
        notices: Arc::clone(&office) as Arc<dyn Notices>,
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

/// As leader: syncs the shards at once, then audits.
async fn follow_shards(services: &Services, office: &OfficeNews) {
    let mut rng = services.rng.child("shard sync");
    let mut audit = Audit::new(2);
    let mut is_synced = false;
    loop {
        let until = office.until_leading().await;
        let pause = match sync(services, &mut rng, until).await {
            Ok(report) => {
                is_synced = is_synced || report.listed > 0 && !report.interrupted;
                note(services, &mut audit, &report);
                if is_synced && !report.interrupted {
                    AUDIT_INTERVAL
                } else {
                    SYNC_PAUSE
                }
            }
            Err(error) => {
                tracing::warn!(error = %Causes(error.as_ref()), "the shards could not be synced, trying on");
                SYNC_PAUSE
            }
        };
        services.clock.sleep(pause).await;
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn sync(
    services: &Services,
    rng: &mut crate::rng::Rng,
    deadline: Moment,
) -> Result<SyncReport, AnyError> {
    let keying = Keying::SingleStream;
    let scan = services
        .clock
        .timeout(services.settings.failover_time / 2, services.store.scan())
        .await??;
    let leases: Vec<_> = scan
        .leases
        .into_iter()
        .filter(|lease| keying.owns(lease))
        .collect();
    let tools = Tools {
        source: services.source.as_ref(),
        store: services.store.as_ref(),
        writer: &services.lanes,
        clock: services.clock.as_ref(),
        rng,
    };
    let request = SyncRequest {
        leases: &leases,
        initial: services.settings.initial_position,
        keying: &keying,
        identity: &services.identity,
        deadline,
    };
    Ok(sync_once(tools, request).await?)
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
    if let Verdict::Repair(hole) = audit.look(&cover) {
        tracing::error!(%hole, "no lease covers these hash keys, and no listed shard can be leased for them");
    }
    for anomaly in &report.anomalies {
        tracing::warn!(?anomaly, "the shards and the leases do not fit together");
    }
}

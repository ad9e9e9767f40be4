//! What a worker does for its fleet: coordinates when it leads, makes the lease table follow the stream's shards,
//! and tells what it knows of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::assignment::{CoordinatorContext, CoordinatorStatus, Notices, Reason, Role, at_most, coordinate};
use crate::consumer::Services;
use crate::error::Causes;
use crate::invariant::Invariant;
use crate::lease::{Expect, Lease, LeaseChange, LeaseWriter, Outcome, Scan, StoreError};
use crate::model::{LeaseKey, StreamKey};
use crate::monitor::Monitor;
use crate::processor::backoff;
use crate::rng::Rng;
use crate::shard_sync::{
    Anomaly, Audit, Cover, SYNC_INTERVAL, SyncError, SyncReport, SyncRequest, Tools, UpkeepReport, Verdict,
    keep_up, needs_upkeep, sync_once,
};
use crate::source::SourceErrorKind;
use crate::streams::{FormerStreams, OpenStream};
use crate::time::{BoxFuture, ClockExt as _, Moment};
use crate::worker::scan_limit::ScanLimit;

/// How many streams are synced at the same time: each asks for its shards, and the service allows 100 such calls a second.
const CONCURRENT_SYNCS: usize = 8;
/// How long to wait before a sync that did not come to its end is made again; for one that fails again and again it doubles.
const SYNC_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_SYNC_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause before the leases are read again after reading them failed.
const LONGEST_SCAN_PAUSE: Duration = Duration::from_secs(5);

/// Runs until `leaving` is cancelled, and gives up the office then.
pub(crate) async fn serve_fleet(services: Arc<Services>, leaving: CancellationToken) {
    let office = Arc::new(OfficeNews {
        services: Arc::clone(&services),
        tenure: Monitor::default(),
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

    async fn create(&self, lease: Lease, deadline: Moment) -> Result<Outcome, StoreError> {
        // Nobody creates a lease for a worker but the one who ends its parent.
        self.services.lanes.create(lease, deadline).await
    }
}

/// What the coordinator tells the rest of the worker.
struct OfficeNews {
    services: Arc<Services>,
    tenure: Monitor<Tenure>,
}

/// A time in which this worker leads without a break, if it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tenure {
    /// Tells it from those before.
    number: u64,
    /// Until when the worker believes to lead.
    until: Option<Moment>,
}

impl Tenure {
    /// Takes in until when the worker leads, as it is known at `now`.
    fn extend(&mut self, now: Moment, until: Option<Moment>) {
        let is_unbroken = self.until.is_some_and(|until| now < until);
        if until.is_some() && !is_unbroken {
            self.number += 1;
        }
        self.until = until;
    }
}

impl OfficeNews {
    /// Until when the worker leads, if this tenure is not over.
    fn leads_until(&self, tenure: u64) -> Option<Moment> {
        let now = self.services.clock.now();
        let current = self.tenure.look(|tenure| *tenure);
        current
            .until
            .filter(|until| current.number == tenure && now < *until)
    }

    /// Which tenure it is, and until when the worker leads.
    async fn until_leading(&self) -> (u64, Moment) {
        let leading = |tenure: &Tenure| {
            let until = tenure.until.filter(|until| self.services.clock.now() < *until)?;
            Some((tenure.number, until))
        };
        self.tenure.wait_for(leading).await
    }
}

impl Notices for OfficeNews {
    fn coordinating(&self, status: &CoordinatorStatus) {
        let leads = status.role == Role::Leader;
        let now = self.services.clock.now();
        self.tenure
            .change(|tenure| tenure.extend(now, status.leads_until));
        self.services.metrics.leads(leads);
        self.services.metrics.unplaced(status.unplaced);
        let bound = status.last_scan.map(|_| status.cadence.failover_bound);
        self.services.board.update_office(leads, bound, status.unplaced);
    }

    fn moved(&self, _: Reason) {
        self.services.metrics.assigned();
    }
}

/// What a leader has found out, look by look.
///
/// It begins anew with each tenure, and after a time in which the leases could not be read: somebody else may have led
/// meanwhile, or read a stream that seems to be nobody's. What follows from two looks in a row, or from a long time without
/// anything, must not follow from what was seen before.
#[derive(Default)]
struct Findings {
    tenure: u64,
    /// When the last look was over.
    looked: Option<Moment>,
    followed: BTreeMap<Option<StreamKey>, Followed>,
    former: FormerStreams,
}

impl Findings {
    /// Forgets what this look cannot go on from.
    fn go_on(&mut self, tenure: u64, now: Moment) {
        let is_old = |looked| now.saturating_since(looked) > 2 * SYNC_INTERVAL;
        if tenure != self.tenure || self.looked.is_some_and(is_old) {
            *self = Self {
                tenure,
                ..Self::default()
            };
        }
    }

    /// Follows these streams, and no others.
    fn follow(&mut self, streams: &[Arc<OpenStream>], now: Moment) {
        self.followed.retain(|key, _| {
            streams
                .iter()
                .any(|stream| stream.keying.stream() == key.as_ref())
        });
        for stream in streams {
            let new = || Followed {
                audit: Audit::new(2),
                suspects: BTreeSet::new(),
                is_synced: false,
                failures: 0,
                due: now,
            };
            self.followed
                .entry(stream.keying.stream().cloned())
                .or_insert_with(new);
        }
    }

    fn is_due(&self, stream: &OpenStream, now: Moment) -> bool {
        let followed = self.followed.get(&stream.keying.stream().cloned());
        followed.is_some_and(|followed| followed.due <= now)
    }
}

/// What the leader knows of one stream's shards from sync to sync.
struct Followed {
    audit: Audit,
    /// Unfinished leases whose shards were not listed lately.
    suspects: BTreeSet<LeaseKey>,
    is_synced: bool,
    /// How many syncs failed in a row.
    failures: u32,
    /// When the next sync is due.
    due: Moment,
}

/// As leader: syncs the shards of each stream at once, then audits.
async fn follow_shards(services: &Services, office: &OfficeNews) {
    let rng = services.rng.child("shard sync");
    let mut findings = Findings::default();
    let mut limit = ScanLimit::new(services.settings.failover_time);
    let (mut rounds, mut failures) = (0_u64, 0_u32);
    let mut pauses = rng.child("pauses");
    loop {
        let (tenure, _) = office.until_leading().await;
        // From here on: a stream may come while the others are synced.
        let changed = services.streams.changed();
        let (streams, now) = (services.streams.all(), services.clock.now());
        findings.go_on(tenure, now);
        findings.follow(&streams, now);
        let due = streams.iter().filter(|stream| findings.is_due(stream, now));
        let due: Vec<_> = due.collect();
        let mut next = now + SYNC_INTERVAL;
        match read_leases(services, &mut limit).await {
            Ok(scan) => {
                if std::mem::take(&mut failures) > 0 {
                    tracing::info!("over: the leases cannot be read, so the shards are not synced");
                }
                let scanned = services.clock.now();
                // The scan is good for as long as nobody else can have led since it began, and it may have taken long.
                let Some(until) = office.leads_until(tenure) else {
                    continue;
                };
                rounds += 1;
                let mut syncs: Vec<BoxFuture<'_, _>> = Vec::new();
                for stream in due {
                    let rng = rng.child(stream.source.address()).child(&rounds.to_string());
                    let key = stream.keying.stream().cloned();
                    let suspects = findings
                        .followed
                        .get(&key)
                        .map_or_else(BTreeSet::new, |followed| followed.suspects.clone());
                    syncs.push(Box::pin(sync(services, stream, &scan, suspects, rng, until)));
                }
                // In the order in which they end.
                for (key, outcome) in at_most(CONCURRENT_SYNCS, syncs).await {
                    if let Some(followed) = findings.followed.get_mut(&key) {
                        followed.take_in(services, outcome);
                    }
                }
                forget_former_streams(services, office, &mut findings, &scan, scanned).await;
                findings.looked = Some(services.clock.now());
                next = findings
                    .followed
                    .values()
                    .map(|followed| followed.due)
                    .fold(next, Moment::min);
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(error = %Causes(error.as_ref()), "the leases cannot be read, so the shards are not synced; trying on");
                }
                failures = failures.saturating_add(1);
                next =
                    services.clock.now() + pauses.jittered(backoff(SYNC_PAUSE, LONGEST_SCAN_PAUSE, failures));
            }
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = services.clock.sleep_until(next) => {}
        }
    }
}

impl Followed {
    fn take_in(&mut self, services: &Services, outcome: Result<Synced, SyncError>) {
        let pause = match outcome {
            Ok(Synced {
                report,
                suspects,
                kept_up,
            }) => {
                self.suspects = suspects;
                self.is_synced = self.is_synced || report.listed > 0 && !report.interrupted;
                note(services, &mut self.audit, &report);
                if let Err(error) = kept_up {
                    tracing::warn!(error = %Causes(&error), "the upkeep of the leases was not finished, trying again at the next audit");
                }
                if !report.failed.is_empty() {
                    self.failed()
                } else {
                    self.failures = 0;
                    if self.is_synced && !report.interrupted {
                        SYNC_INTERVAL
                    } else {
                        SYNC_PAUSE
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "the shards could not be synced, trying on");
                self.failed()
            }
        };
        self.due = services.clock.now() + pause;
    }

    /// Counts a sync that failed, and says how long to wait before the next: what does not pass by itself, such as a missing
    /// permission, costs a scan and a listing each time.
    fn failed(&mut self) -> Duration {
        let pause = SYNC_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST_SYNC_PAUSE)
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn read_leases(services: &Services, limit: &mut ScanLimit) -> Result<Scan, AnyError> {
    let clock = &services.clock;
    let began = clock.now();
    match clock.timeout(limit.get(), services.store.scan()).await {
        Ok(scan) => {
            let scan = scan?;
            limit.took(clock.now().saturating_since(began));
            Ok(scan)
        }
        Err(elapsed) => {
            limit.was_not_enough();
            Err(elapsed.into())
        }
    }
}

/// What a sync and the upkeep after it left.
struct Synced {
    report: SyncReport,
    suspects: BTreeSet<LeaseKey>,
    /// How the upkeep went. The sync was made, whatever became of that.
    kept_up: Result<(), SyncError>,
}

async fn sync(
    services: &Services,
    stream: &OpenStream,
    scan: &Scan,
    suspects: BTreeSet<LeaseKey>,
    mut rng: Rng,
    deadline: Moment,
) -> (Option<StreamKey>, Result<Synced, SyncError>) {
    let of_stream = scan.leases.iter().filter(|lease| stream.keying.owns(lease));
    let leases: Vec<_> = of_stream.cloned().collect();
    let undecodable = scan.undecodable.iter();
    let unreadable = undecodable
        .filter_map(|row| stream.keying.shard(&row.key))
        .collect();
    let request = SyncRequest {
        leases: &leases,
        unreadable: &unreadable,
        initial: stream
            .initial_position
            .unwrap_or(services.settings.initial_position),
        keying: &stream.keying,
        identity: &stream.identity,
        deadline,
    };
    let outcome = sync_and_keep_up(services, stream, request, suspects, &mut rng).await;
    let kept_up = outcome.as_ref().map(|synced| &synced.kept_up);
    if let Err(SyncError::Source(error)) | Ok(Err(SyncError::Source(error))) = kept_up
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
    let kept_up = if needs_upkeep(request.leases, has_gone, services.settings.cleanup) {
        let mut upkeep = UpkeepReport::default();
        let kept_up = keep_up(
            tools(services, stream, rng),
            request,
            &mut suspects,
            services.settings.cleanup,
            &mut upkeep,
        )
        .await;
        // What it did it did once, whatever stopped it then.
        note_upkeep(services, &upkeep);
        kept_up
    } else {
        suspects.clear();
        Ok(())
    };
    Ok(Synced {
        report,
        suspects,
        kept_up,
    })
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
async fn forget_former_streams(
    services: &Services,
    office: &OfficeNews,
    findings: &mut Findings,
    scan: &Scan,
    scanned: Moment,
) {
    let Some(grace) = services.settings.forget_streams_after else {
        return;
    };
    if !services.streams.is_settled() {
        // A stream that cannot be opened, or of which the tracker says nothing just now, is not one that nobody wants.
        findings.former = FormerStreams::default();
        return;
    }
    // A lease that stands still for less may have an owner that lives.
    let grace = grace.max(services.settings.failover_time);
    let reads = |lease: &Lease| services.streams.reads(lease);
    for lease in findings.former.look(scanned, &scan.leases, reads, grace) {
        if office.leads_until(findings.tenure).is_none() {
            return;
        }
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
    if let Some((lease, error)) = report.failed.first() {
        tracing::warn!(failed = report.failed.len(), %lease, error = %Causes(error), "leases could not be created, trying on");
    }
    let verdict = audit.look(&cover);
    let is_certain = matches!(verdict, Verdict::Repair(_));
    services
        .metrics
        .holes(if is_certain { cover.holes.len() } else { 0 });
    if let Verdict::Repair(hole) = verdict {
        services
            .metrics
            .invariant_broken(Invariant::LineageComplete.place());
        tracing::error!(%hole, "no lease covers these hash keys, and no listed shard can be leased for them");
    }
    for anomaly in &report.anomalies {
        tracing::warn!(?anomaly, "the shards and the leases do not fit together");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(second))
    }

    #[test]
    fn a_tenure_that_was_not_extended_in_time_is_another_one() {
        let mut tenure = Tenure::default();
        tenure.extend(at(0), None);
        assert_eq!(tenure.number, 0);
        for second in [0, 2, 4] {
            tenure.extend(at(second), Some(at(second + 4)));
            assert_eq!(tenure.number, 1);
        }
        tenure.extend(at(8), Some(at(12)));
        assert_eq!(tenure.number, 2, "it was over at that moment");
        tenure.extend(at(9), None);
        tenure.extend(at(10), Some(at(14)));
        assert_eq!(tenure.number, 3, "it was given up in between");
    }

    #[test]
    fn what_was_found_out_is_forgotten_with_a_new_tenure_and_after_a_long_time_without_a_look() {
        let stream = StreamKey::new("1:trucks:5").unwrap();
        let seen = |looked: u64| {
            let mut findings = Findings {
                tenure: 1,
                looked: Some(at(looked)),
                ..Findings::default()
            };
            let followed = Followed {
                audit: Audit::new(2),
                suspects: BTreeSet::new(),
                is_synced: true,
                failures: 0,
                due: at(looked + 30),
            };
            findings.followed.insert(Some(stream.clone()), followed);
            findings
        };
        let remembers = |looked: u64, tenure: u64, now: u64| {
            let mut findings = seen(looked);
            findings.go_on(tenure, at(now));
            assert_eq!(findings.tenure, tenure);
            !findings.followed.is_empty()
        };
        assert!(remembers(100, 1, 130));
        assert!(remembers(100, 1, 160));
        assert!(!remembers(100, 1, 161), "nobody looked for too long");
        assert!(!remembers(100, 2, 130), "another may have led meanwhile");
    }

    #[test]
    fn a_sync_that_fails_again_and_again_is_made_ever_less_often() {
        let mut followed = Followed {
            audit: Audit::new(2),
            suspects: BTreeSet::new(),
            is_synced: false,
            failures: 0,
            due: at(0),
        };
        let pauses: Vec<u128> = (0..9).map(|_| followed.failed().as_millis()).collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        followed.failures = u32::MAX;
        assert_eq!(followed.failed(), LONGEST_SYNC_PAUSE);
    }
}

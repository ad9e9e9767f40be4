//! The part of a worker in its fleet: it coordinates when it leads, makes the lease table follow the stream's shards,
//! and reports what it knows of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::coordinator::context::CoordinatorContext;
use crate::coordinator::coordinate;
use crate::coordinator::role::{CoordinatorStatus, Role};
use crate::coordinator::shard_sync::SYNC_INTERVAL;
use crate::coordinator::shard_sync::coverage::{CoverageAudit, CoverageVerdict};
use crate::coordinator::shard_sync::former_streams::FormerStreams;
use crate::coordinator::shard_sync::plan::Anomaly;
use crate::coordinator::shard_sync::request::{SyncError, SyncRequest, SyncTools};
use crate::coordinator::shard_sync::sync::{SyncReport, sync_once};
use crate::coordinator::shard_sync::upkeep::{UpkeepReport, keep_up, needs_upkeep};
use crate::error::Causes;
use crate::invariant::Invariant;
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Lease;
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::store::{Outcome, Scan};
use crate::ownership::WorkerContext;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{BoxFuture, Moment};
use crate::runtime::log_once::LogOnce;
use crate::runtime::rng::Rng;
use crate::runtime::watched::Watched;
use crate::source::SourceErrorKind;
use crate::source::shard_graph::Cover;
use crate::streams::registry::OpenStream;
use crate::types::{LeaseKey, StreamKey};

/// How many streams are synced at the same time: each asks for its shards, and the service allows 100 such calls a second.
const CONCURRENT_SYNCS: usize = 8;
/// How long to wait before a sync that did not come to its end is made again; for one that fails again and again it doubles.
const SYNC_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_SYNC_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause before the leases are read again after reading them failed.
const LONGEST_SCAN_PAUSE: Duration = Duration::from_secs(5);
const READING_FAILS: &str = "the leases cannot be read, so the shards are not synced";

/// Runs until `leaving` is cancelled, and gives the lead up then.
pub(crate) async fn serve_fleet(worker: Arc<WorkerContext>, leaving: CancellationToken) {
    let cadence = CoordinatorContext::first_cadence(&worker.settings, &worker.timing);
    let fleet = Arc::new(Watched::new(CoordinatorStatus::unknown(cadence)));
    let context = CoordinatorContext {
        store_client: worker.store_client.clone(),
        scanner: Arc::clone(&worker.scanner),
        assignment_hints: Arc::clone(&worker.assignment_hints),
        clock: Arc::clone(&worker.clock),
        rng: worker.rng.child("coordinator"),
        me: worker.worker.clone(),
        max_leases: worker.settings.assignment.max_leases,
        max_throughput: worker.settings.assignment.max_throughput_kib(),
        timing: worker.timing.clone(),
        discovery: worker.settings.leases.discovery_interval,
        settings: worker.settings.assignment.clone(),
        wake: Arc::clone(&worker.plan_now),
        status: Arc::clone(&fleet),
        metrics: worker.metrics.clone(),
        reads: {
            let streams = Arc::clone(&worker.streams);
            Arc::new(move |lease: &Lease| streams.reads(lease))
        },
    };
    let followed = async {
        tokio::select! {
            biased;
            () = leaving.cancelled() => {}
            () = follow_shards(&worker, &fleet) => {}
        }
    };
    let coordinated = async { tokio::join!(coordinate(context, leaving.clone()), followed) };
    tokio::select! {
        biased;
        _ = coordinated => {}
        () = report_status(&worker, &fleet) => {}
    }
    // The last change may be that the lead was given up.
    report(&worker, &fleet);
}

/// Until when the worker leads, if this term is not over.
fn leads_until(worker: &WorkerContext, fleet: &Watched<CoordinatorStatus>, term: u64) -> Option<Moment> {
    let current = fleet.read(|status| status.term);
    let is_current = current.number == term;
    current.valid_at(worker.clock.now()).filter(|_| is_current)
}

/// Waits until the worker leads, and returns which term it is.
async fn until_leading(worker: &WorkerContext, fleet: &Watched<CoordinatorStatus>) -> u64 {
    let leading = |status: &CoordinatorStatus| {
        let term = status.term;
        term.valid_at(worker.clock.now()).map(|_| term.number)
    };
    fleet.wait_for(leading).await
}

/// Reports what the coordinator knows to the status of the worker and its metrics, whenever that changes.
async fn report_status(worker: &WorkerContext, fleet: &Watched<CoordinatorStatus>) {
    loop {
        let changed = fleet.changed();
        report(worker, fleet);
        changed.await;
    }
}

fn report(worker: &WorkerContext, fleet: &Watched<CoordinatorStatus>) {
    let (leads, bound, unplaced) = fleet.read(|status| {
        let bound = status.last_scan.map(|_| status.cadence.failover_bound);
        (status.role == Role::Leader, bound, status.unplaced)
    });
    worker.metrics.leads(leads);
    worker.metrics.unplaced(unplaced);
    worker.status.update_leadership(leads, bound, unplaced);
}

/// The findings of a leader, look by look.
///
/// It begins again with each term, and after a time in which the leases could not be read: somebody else may have led
/// meanwhile, or read a stream that seems to be nobody's. A conclusion from two looks in a row, or from a long time without
/// anything, must not follow from what was seen before.
#[derive(Default)]
struct LeaderFindings {
    term: u64,
    /// When the last look was over.
    looked: Option<Moment>,
    followed: BTreeMap<Option<StreamKey>, FollowedStream>,
    former: FormerStreams,
}

impl LeaderFindings {
    /// Forgets what this look cannot go on from.
    fn go_on(&mut self, term: u64, now: Moment) {
        let is_old = |looked| now.saturating_since(looked) > 2 * SYNC_INTERVAL;
        if term != self.term || self.looked.is_some_and(is_old) {
            *self = Self {
                term,
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
            let new = || FollowedStream {
                audit: CoverageAudit::new(2),
                suspects: BTreeSet::new(),
                is_synced: false,
                pauses: Backoff::new(SYNC_PAUSE, LONGEST_SYNC_PAUSE),
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

/// The leader's knowledge of one stream's shards from sync to sync.
struct FollowedStream {
    audit: CoverageAudit,
    /// Unfinished leases whose shards were not listed lately.
    suspects: BTreeSet<LeaseKey>,
    is_synced: bool,
    /// The pauses after syncs that failed: what does not pass by itself, such as a missing permission, costs a scan and a listing each time.
    pauses: Backoff,
    /// When the next sync is due.
    due: Moment,
}

/// As leader: syncs the shards of each stream at once, then audits.
async fn follow_shards(worker: &WorkerContext, fleet: &Watched<CoordinatorStatus>) {
    let rng = worker.rng.child("shard sync");
    let mut findings = LeaderFindings::default();
    let mut limit = ScanDeadline::between(worker.timing.patient_scan);
    let (mut rounds, mut problem) = (0_u64, LogOnce::default());
    let mut scan_pauses = Backoff::new(SYNC_PAUSE, LONGEST_SCAN_PAUSE);
    let mut pauses = rng.child("pauses");
    loop {
        let term = until_leading(worker, fleet).await;
        // From here on: a stream may come while the others are synced.
        let changed = worker.streams.changed();
        let (streams, now) = (worker.streams.all(), worker.clock.now());
        findings.go_on(term, now);
        findings.follow(&streams, now);
        let due = streams.iter().filter(|stream| findings.is_due(stream, now));
        let due: Vec<_> = due.collect();
        let mut next = now + SYNC_INTERVAL;
        match worker.scanner.fresh(&mut limit).await {
            Ok(scan) => {
                problem.log_end(READING_FAILS);
                scan_pauses.reset();
                let scanned = worker.clock.now();
                // The scan is good for as long as nobody else can have led since it began, and it may have taken long.
                let Some(until) = leads_until(worker, fleet, term) else {
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
                    syncs.push(Box::pin(sync(worker, stream, &scan, suspects, rng, until)));
                }
                // In the order in which they end.
                let mut outcomes = stream::iter(syncs).buffer_unordered(CONCURRENT_SYNCS);
                while let Some((key, outcome)) = outcomes.next().await {
                    if let Some(followed) = findings.followed.get_mut(&key) {
                        followed.take_in(worker, outcome);
                    }
                }
                forget_former_streams(worker, fleet, &mut findings, &scan, scanned).await;
                findings.looked = Some(worker.clock.now());
                next = findings
                    .followed
                    .values()
                    .map(|followed| followed.due)
                    .fold(next, Moment::min);
            }
            Err(error) => {
                problem.warn(READING_FAILS, Causes(&*error));
                next = worker.clock.now() + scan_pauses.failed_jittered(&mut pauses);
            }
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = worker.clock.sleep_until(next) => {}
        }
    }
}

impl FollowedStream {
    fn take_in(&mut self, worker: &WorkerContext, outcome: Result<SyncResult, SyncError>) {
        let pause = match outcome {
            Ok(SyncResult {
                report,
                suspects,
                kept_up,
            }) => {
                self.suspects = suspects;
                self.is_synced = self.is_synced || report.listed > 0 && !report.interrupted;
                note(worker, &mut self.audit, &report);
                if let Err(error) = kept_up {
                    tracing::warn!(error = %Causes(&error), "the upkeep of the leases was not finished, trying again at the next audit");
                }
                if !report.failed.is_empty() {
                    self.pauses.failed()
                } else {
                    self.pauses.reset();
                    if self.is_synced && !report.interrupted {
                        SYNC_INTERVAL
                    } else {
                        SYNC_PAUSE
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "the shards could not be synced, trying on");
                self.pauses.failed()
            }
        };
        self.due = worker.clock.now() + pause;
    }
}

/// The state after a sync and the upkeep that follows.
struct SyncResult {
    report: SyncReport,
    suspects: BTreeSet<LeaseKey>,
    /// How the upkeep went. The sync was made, whatever became of that.
    kept_up: Result<(), SyncError>,
}

async fn sync(
    worker: &WorkerContext,
    stream: &OpenStream,
    scan: &Scan,
    suspects: BTreeSet<LeaseKey>,
    mut rng: Rng,
    deadline: Moment,
) -> (Option<StreamKey>, Result<SyncResult, SyncError>) {
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
            .unwrap_or(worker.settings.reading.initial_position),
        keying: &stream.keying,
        identity: &stream.identity,
        deadline,
    };
    let outcome = sync_and_keep_up(worker, stream, request, suspects, &mut rng).await;
    let kept_up = outcome.as_ref().map(|synced| &synced.kept_up);
    if let Err(SyncError::Source(error)) | Ok(Err(SyncError::Source(error))) = kept_up
        && error.kind() == SourceErrorKind::NotFound
    {
        worker.streams.doubt(stream);
    }
    (stream.keying.stream().cloned(), outcome)
}

async fn sync_and_keep_up(
    worker: &WorkerContext,
    stream: &OpenStream,
    request: SyncRequest<'_>,
    mut suspects: BTreeSet<LeaseKey>,
    rng: &mut Rng,
) -> Result<SyncResult, SyncError> {
    let report = sync_once(tools(worker, stream, rng), request).await?;
    let has_gone = report
        .anomalies
        .iter()
        .any(|anomaly| matches!(anomaly, Anomaly::ShardGone { .. }));
    let kept_up = if needs_upkeep(request.leases, has_gone, worker.settings.leases.cleanup) {
        let mut upkeep = UpkeepReport::default();
        let kept_up = keep_up(
            tools(worker, stream, rng),
            request,
            &mut suspects,
            worker.settings.leases.cleanup,
            &mut upkeep,
        )
        .await;
        // What it did it did once, whatever stopped it then.
        note_upkeep(worker, &upkeep);
        kept_up
    } else {
        suspects.clear();
        Ok(())
    };
    Ok(SyncResult {
        report,
        suspects,
        kept_up,
    })
}

fn tools<'a>(worker: &'a WorkerContext, stream: &'a OpenStream, rng: &'a mut Rng) -> SyncTools<'a> {
    SyncTools {
        source: stream.source.as_ref(),
        store_client: &worker.store_client,
        clock: worker.clock.as_ref(),
        rng,
    }
}

fn note_upkeep(worker: &WorkerContext, upkeep: &UpkeepReport) {
    for lease in &upkeep.gone {
        tracing::error!(
            lease = %lease.key, checkpoint = %lease.checkpoint,
            "retention took the shard before it was read to its end: what came after the checkpoint is lost to this application; the lease is ended"
        );
    }
    worker.metrics.shards_gone(upkeep.gone.len());
    for (lease, reason) in &upkeep.deleted {
        tracing::info!(%lease, ?reason, "lease deleted");
    }
    worker.metrics.leases_deleted(upkeep.deleted.len());
    if !upkeep.gone.is_empty() {
        worker.plan_now.notify_one();
    }
}

/// Deletes the leases of streams that nobody has read for as long as the settings say.
async fn forget_former_streams(
    worker: &WorkerContext,
    fleet: &Watched<CoordinatorStatus>,
    findings: &mut LeaderFindings,
    scan: &Scan,
    scanned: Moment,
) {
    let Some(grace) = worker.settings.leases.forget_streams_after else {
        return;
    };
    if !worker.streams.is_settled() {
        // A stream that cannot be opened, or of which the tracker says nothing just now, is not one that nobody wants.
        findings.former = FormerStreams::default();
        return;
    }
    // A lease that stands still for less may have an owner that lives.
    let grace = grace.max(worker.timing.failover);
    let reads = |lease: &Lease| worker.streams.reads(lease);
    for lease in findings.former.look(scanned, &scan.leases, reads, grace) {
        if leads_until(worker, fleet, findings.term).is_none() {
            return;
        }
        let expect = Expect::Version(lease.version());
        let outcome = worker
            .store_client
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

fn note(worker: &WorkerContext, audit: &mut CoverageAudit, report: &SyncReport) {
    if !report.created.is_empty() {
        tracing::info!(created = report.created.len(), "leases created");
        worker.plan_now.notify_one();
    }
    let cover = Cover {
        holes: report.holes.clone(),
        overlaps: false,
    };
    if let Some((lease, error)) = report.failed.first() {
        tracing::warn!(failed = report.failed.len(), %lease, error = %Causes(error), "leases could not be created, trying on");
    }
    let verdict = audit.look(&cover);
    let is_certain = matches!(verdict, CoverageVerdict::Repair(_));
    worker
        .metrics
        .holes(if is_certain { cover.holes.len() } else { 0 });
    if let CoverageVerdict::Repair(hole) = verdict {
        worker
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
    fn findings_are_forgotten_after_new_tenure_or_gap() {
        let stream = StreamKey::new("1:trucks:5").unwrap();
        let seen = |looked: u64| {
            let mut findings = LeaderFindings {
                term: 1,
                looked: Some(at(looked)),
                ..LeaderFindings::default()
            };
            let followed = FollowedStream {
                audit: CoverageAudit::new(2),
                suspects: BTreeSet::new(),
                is_synced: true,
                pauses: Backoff::new(SYNC_PAUSE, LONGEST_SYNC_PAUSE),
                due: at(looked + 30),
            };
            findings.followed.insert(Some(stream.clone()), followed);
            findings
        };
        let remembers = |looked: u64, term: u64, now: u64| {
            let mut findings = seen(looked);
            findings.go_on(term, at(now));
            assert_eq!(findings.term, term);
            !findings.followed.is_empty()
        };
        assert!(remembers(100, 1, 130));
        assert!(remembers(100, 1, 160));
        assert!(!remembers(100, 1, 161), "nobody looked for too long");
        assert!(!remembers(100, 2, 130), "another may have led meanwhile");
    }
}

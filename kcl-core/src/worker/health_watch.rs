//! Looks at all shards of the worker together: what they wait for, how late they are, and which callback does not return, or does not let
//! the others run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::ownership::{Ownership, WorkerContext};
use crate::runtime::clock::Moment;
use crate::status::issues::HealthSummary;
use crate::status::{HealthIssue, LeaseStatus, WaitReason};
use crate::types::LeaseKey;
use crate::worker::late_shards::LateShards;
use crate::worker::lease_taker::LeaseTaker;
use crate::worker::retention_watch::{Expiry, HeldShard, RetentionWatch, SHORTEST_RETENTION};
use crate::worker::stall_watch::StallReports;

/// How often the ages are looked at: what reads metrics seldom does so more often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures and warns until `stopped` is cancelled.
pub(crate) async fn watch_health(
    worker: Arc<WorkerContext>,
    taker: Arc<LeaseTaker>,
    stopped: CancellationToken,
) {
    let mut gauges = Gauges {
        metrics: worker.metrics.clone(),
        late: LateShards::new(worker.settings.metrics.top_shards),
    };
    let mut standstills = StallReports::default();
    let mut slow = Warnings::default();
    let mut unchecked = Warnings::default();
    let mut retention = RetentionWatch::default();
    let mut concerns = BTreeMap::new();
    loop {
        let now = worker.clock.now();
        standstills.look(&worker, &taker, now);
        let survey = survey(&taker, &mut retention, now);
        if std::mem::replace(&mut concerns, survey.by_lease.clone()) != survey.by_lease {
            worker.status.changed();
        }
        gauges.show(&survey);
        warn_of_callbacks(&mut slow, &survey, worker.settings.processing.slow_callback);
        warn_of_checkpoints(&mut unchecked, &survey, worker.settings.checkpoints.slow_after);
        tokio::select! {
            biased;
            () = stopped.cancelled() => return,
            () = worker.clock.sleep_until(now + INTERVAL) => {}
        }
        standstills.woke(&worker, &taker, now + INTERVAL);
    }
}

/// Asks the held leases for their status.
fn survey(taker: &LeaseTaker, retention: &mut RetentionWatch, now: Moment) -> HealthSummary {
    let mut survey = HealthSummary::default();
    for own in taker.held() {
        let status = own.status(now);
        watch_retention(retention, &own, &status, now);
        survey.add(&own.key, &status, now);
    }
    retention.retain(|lease| survey.lateness.contains_key(lease));
    survey
}

/// Warns before retention takes what a held shard has not finished.
fn watch_retention(watch: &mut RetentionWatch, own: &Ownership, status: &LeaseStatus, now: Moment) {
    let is_held = status.is_held();
    let told = match is_held {
        true => own.stream.source.description().retention,
        false => None,
    };
    let held = HeldShard {
        age: status.freshness.at(now),
        retention: told.unwrap_or(SHORTEST_RETENTION),
    };
    let expiry = watch.look(&own.key, is_held.then_some(held));
    if expiry != Expiry::Far || status.expires.is_some() {
        let expires = (expiry != Expiry::Far).then(|| now + held.left());
        own.show_expiry(expires);
    }
    if expiry == Expiry::Warn {
        let failing = status.failing.as_ref().or(status.unreadable.as_ref());
        let failing = failing.map(ToString::to_string);
        tracing::warn!(
            lease = %own.key, checkpoint = %status.checkpoint, failing, age = ?held.age, retention = ?held.retention,
            retention_known = told.is_some(), left = ?held.left(),
            "retention is about to take records that a held shard has not finished"
        );
    }
}

fn warn_of_callbacks(warnings: &mut Warnings, survey: &HealthSummary, patience: Duration) {
    warnings.0.retain(|lease, _| survey.slow.contains_key(lease));
    for (lease, slow) in &survey.slow {
        if warnings.is_due(lease, slow.age, patience) {
            tracing::warn!(%lease, call = slow.call, running = ?slow.age, "a callback has not returned; its lease is kept");
        }
    }
}

fn warn_of_checkpoints(warnings: &mut Warnings, survey: &HealthSummary, patience: Duration) {
    warnings.0.retain(|lease, _| survey.unchecked.contains_key(lease));
    for (lease, (records, age)) in &survey.unchecked {
        if warnings.is_due(lease, *age, patience) {
            tracing::warn!(%lease, records, waiting = ?age, "records were processed and not checkpointed; a failover delivers them again");
        }
    }
}

/// The age at which each slow callback, or missing checkpoint, was warned of last.
#[derive(Debug, Default)]
struct Warnings(BTreeMap<LeaseKey, Duration>);

impl Warnings {
    /// Whether what has this age is to be warned of: when it becomes slow, and each time that its age has doubled.
    fn is_due(&mut self, lease: &LeaseKey, age: Duration, patience: Duration) -> bool {
        // Younger than before: another callback.
        let said = self.0.get(lease).filter(|said| **said <= age);
        let is_due = age >= said.map_or(patience, |said| said.saturating_mul(2));
        if is_due {
            self.0.insert(lease.clone(), age);
        }
        is_due
    }
}

/// The gauges of a worker that runs. They are zero once it does not.
struct Gauges {
    metrics: Metrics,
    late: LateShards,
}

impl Gauges {
    fn show(&mut self, survey: &HealthSummary) {
        let metrics = &self.metrics;
        for (index, reason) in WaitReason::ALL.iter().enumerate() {
            let (shards, longest) = survey.waits.get(reason).copied().unwrap_or_default();
            metrics.waiting(index, shards, longest);
        }
        for (index, concern) in HealthIssue::ALL.iter().enumerate() {
            let shards = survey.concerns.get(concern).copied().unwrap_or(0);
            metrics.of_concern(index, shards);
        }
        metrics.lateness(survey.behind, survey.freshness);
        metrics.unfinished(survey.unfinished);
        for (label, freshness) in self.late.next(&survey.lateness) {
            metrics.shard_freshness(&label, freshness);
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.show(&HealthSummary::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ShardId;

    #[test]
    fn endless_callback_is_warned_of_ever_less_often() {
        let shard = ShardId::new("shardId-000000000000").unwrap();
        let lease = LeaseKey::single_stream(&shard);
        let mut warnings = Warnings::default();
        let mut due = |age| warnings.is_due(&lease, Duration::from_secs(age), Duration::from_secs(60));
        let said: Vec<u64> = (0..3600).filter(|age| due(*age)).collect();
        assert_eq!(said, [60, 120, 240, 480, 960, 1920]);
        let again: Vec<u64> = (0..200).filter(|age| due(*age)).collect();
        assert_eq!(again, [60, 120], "the next one is another");
    }
}

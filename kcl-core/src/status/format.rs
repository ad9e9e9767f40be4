//! The form of a status for other programs: ages instead of moments, and texts for what is no number.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::lifecycle::ConsumerState;
use crate::runtime::clock::Moment;
use crate::source::{EndDoubt, SourceErrorKind};
use crate::status::{HealthIssue, LeaseStatus, Phase, WaitReason, WorkerStatus};
use crate::types::{Gap, LeaseKey, WorkerId};

#[derive(Serialize)]
struct WorkerForm<'a> {
    worker: &'a WorkerId,
    phase: Phase,
    is_healthy: bool,
    is_leader: bool,
    failover_bound_seconds: Option<f64>,
    unplaced: usize,
    standstill_seconds: Option<f64>,
    leases: BTreeMap<&'a LeaseKey, LeaseForm>,
}

#[derive(Serialize)]
struct LeaseForm {
    state: ConsumerState,
    waiting_for: Option<WaitReason>,
    waiting_seconds: Option<f64>,
    token: u64,
    suspended_seconds: Option<f64>,
    checkpoint: String,
    processed: Option<String>,
    records: u64,
    unfinished: u64,
    unfinished_seconds: Option<f64>,
    behind_seconds: f64,
    freshness_seconds: f64,
    trouble: Option<SourceErrorKind>,
    failures: u32,
    unreadable: Option<String>,
    failing: Option<String>,
    parked: u64,
    dead_letters: u64,
    skipped: u64,
    stalls: u32,
    end_in_doubt: Option<EndDoubt>,
    gap: Option<GapForm>,
    expires_in_seconds: Option<f64>,
    concern: Option<HealthIssue>,
}

#[derive(Serialize)]
struct GapForm {
    after: String,
    first: Option<String>,
}

impl LeaseForm {
    fn of(lease: &LeaseStatus, at: Moment) -> Self {
        let age = |since: Moment| at.saturating_since(since).as_secs_f64();
        let (waiting_for, waited) = lease.waited(at).unzip();
        let gap = |gap: &Gap| GapForm {
            after: gap.after.to_string(),
            first: gap.first.as_ref().map(ToString::to_string),
        };
        Self {
            state: lease.state,
            waiting_for,
            waiting_seconds: waited.as_ref().map(Duration::as_secs_f64),
            token: lease.token.as_u64(),
            suspended_seconds: lease.suspended.map(age),
            checkpoint: lease.checkpoint.to_string(),
            processed: lease.processed.as_ref().map(ToString::to_string),
            records: lease.records,
            unfinished: lease.unfinished,
            unfinished_seconds: lease.unfinished_since.map(age),
            behind_seconds: lease.behind.at(at).as_secs_f64(),
            freshness_seconds: lease.freshness.at(at).as_secs_f64(),
            trouble: lease.trouble,
            failures: lease.failures,
            unreadable: lease.unreadable.as_ref().map(ToString::to_string),
            parked: lease.parked,
            failing: lease.failing.as_ref().map(ToString::to_string),
            dead_letters: lease.dead_letters,
            skipped: lease.skipped,
            stalls: lease.stalls,
            end_in_doubt: lease.end_in_doubt,
            gap: lease.gap.as_ref().map(gap),
            expires_in_seconds: lease.expires.map(|when| when.saturating_since(at).as_secs_f64()),
            concern: lease.concern,
        }
    }
}

impl Serialize for WorkerStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Named one by one, so that a new field is not forgotten here.
        let Self {
            worker,
            at,
            phase,
            is_leader,
            leases,
            failover_bound,
            unplaced,
            standstill,
        } = self;
        let leases = leases.iter().map(|(key, lease)| (key, LeaseForm::of(lease, *at)));
        let form = WorkerForm {
            worker,
            phase: *phase,
            is_healthy: self.is_healthy(),
            is_leader: *is_leader,
            failover_bound_seconds: failover_bound.as_ref().map(Duration::as_secs_f64),
            unplaced: *unplaced,
            standstill_seconds: standstill.map(|since| at.saturating_since(since).as_secs_f64()),
            leases: leases.collect(),
        };
        form.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;

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
    stalls: u32,
    end_in_doubt: Option<EndDoubt>,
    gap: Option<GapForm>,
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
            stalls: lease.stalls,
            end_in_doubt: lease.end_in_doubt,
            gap: lease.gap.as_ref().map(gap),
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::lifecycle::ConsumerEnd;
    use crate::processor::FencingToken;
    use crate::status::Behind;
    use crate::types::{Position, RecordPosition, SequenceNumber, ShardId};

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn number(digits: &str) -> SequenceNumber {
        SequenceNumber::new(digits.to_owned()).unwrap()
    }

    fn key(n: u32) -> LeaseKey {
        LeaseKey::single_stream(&ShardId::new(format!("shardId-{n:012}")).unwrap())
    }

    /// A lease of which everything is known that can be.
    fn troubled() -> LeaseStatus {
        LeaseStatus {
            state: ConsumerState::AwaitingCheckpoints,
            waiting: Some((WaitReason::ByteBudget, at(7_500))),
            token: FencingToken::new(17),
            suspended: Some(at(9_000)),
            checkpoint: Position::Record(RecordPosition {
                sequence: number("49680416556756428880067349872691"),
                sub_sequence: 2,
            }),
            processed: Some(RecordPosition::plain(number("49680416556756428880067349872699"))),
            records: 120,
            unfinished: 7,
            unfinished_since: Some(at(4_000)),
            behind: Behind::new(Duration::from_millis(1_250), at(9_750)),
            freshness: Behind::new(Duration::from_secs(60), at(9_000)),
            trouble: Some(SourceErrorKind::NotFound),
            failures: 3,
            unreadable: Some(RecordPosition::plain(number("12"))),
            stalls: 1,
            end_in_doubt: Some(EndDoubt::ListedOpen),
            gap: Some(Gap {
                after: number("5"),
                first: Some(number("9")),
            }),
            concern: Some(HealthIssue::EndInDoubt),
        }
    }

    fn quiet() -> LeaseStatus {
        LeaseStatus {
            state: ConsumerState::Done(ConsumerEnd::ShardEnded),
            waiting: None,
            token: FencingToken::new(1),
            suspended: None,
            checkpoint: Position::ShardEnd,
            processed: None,
            records: 0,
            unfinished: 0,
            unfinished_since: None,
            behind: Behind::new(Duration::ZERO, at(10_000)),
            freshness: Behind::new(Duration::ZERO, at(10_000)),
            trouble: None,
            failures: 0,
            unreadable: None,
            stalls: 0,
            end_in_doubt: None,
            gap: None,
            concern: None,
        }
    }

    #[test]
    fn status_with_every_part_has_this_json() {
        let status = WorkerStatus {
            worker: WorkerId::new("worker-1").unwrap(),
            at: at(10_000),
            phase: Phase::Running,
            is_leader: true,
            leases: BTreeMap::from([(key(0), troubled()), (key(1), quiet())]),
            failover_bound: Some(Duration::from_millis(12_500)),
            unplaced: 4,
            standstill: Some(at(8_000)),
        };
        let expected = json!({
            "worker": "worker-1",
            "phase": "running",
            "is_healthy": false,
            "is_leader": true,
            "failover_bound_seconds": 12.5,
            "unplaced": 4,
            "standstill_seconds": 2.0,
            "leases": {
                "shardId-000000000000": {
                    "state": "awaiting_checkpoints",
                    "waiting_for": "byte_budget",
                    "waiting_seconds": 2.5,
                    "token": 17,
                    "suspended_seconds": 1.0,
                    "checkpoint": "49680416556756428880067349872691/2",
                    "processed": "49680416556756428880067349872699",
                    "records": 120,
                    "unfinished": 7,
                    "unfinished_seconds": 6.0,
                    "behind_seconds": 1.5,
                    "freshness_seconds": 61.0,
                    "trouble": "not_found",
                    "failures": 3,
                    "unreadable": "12",
                    "stalls": 1,
                    "end_in_doubt": "listed_open",
                    "gap": { "after": "5", "first": "9" },
                    "concern": "end_in_doubt",
                },
                "shardId-000000000001": {
                    "state": "shard_ended",
                    "waiting_for": null,
                    "waiting_seconds": null,
                    "token": 1,
                    "suspended_seconds": null,
                    "checkpoint": "SHARD_END",
                    "processed": null,
                    "records": 0,
                    "unfinished": 0,
                    "unfinished_seconds": null,
                    "behind_seconds": 0.0,
                    "freshness_seconds": 0.0,
                    "trouble": null,
                    "failures": 0,
                    "unreadable": null,
                    "stalls": 0,
                    "end_in_doubt": null,
                    "gap": null,
                    "concern": null,
                },
            },
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), expected);
    }

    #[test]
    fn no_two_states_have_one_name() {
        let names = ConsumerState::ALL.map(|state| {
            let name = serde_json::to_value(state).unwrap();
            name.as_str().unwrap().to_owned()
        });
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn names_in_json_are_labels_of_metrics() {
        let label = |text: String| Value::String(text.replace(' ', "_"));
        for reason in WaitReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), label(reason.to_string()));
        }
        for concern in HealthIssue::ALL {
            assert_eq!(serde_json::to_value(concern).unwrap(), label(concern.to_string()));
        }
    }
}

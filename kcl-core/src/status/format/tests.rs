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
        failing: Some(RecordPosition::plain(number("12"))),
        parked: 4,
        dead_letters: 2,
        skipped: 1,
        stalls: 1,
        end_in_doubt: Some(EndDoubt::ListedOpen),
        gap: Some(Gap {
            after: number("5"),
            first: Some(number("9")),
        }),
        expires: Some(at(16_500)),
        concern: Some(HealthIssue::EndInDoubt),
    }
}

fn quiet() -> LeaseStatus {
    let ended = ConsumerState::Done(ConsumerEnd::ShardEnded);
    LeaseStatus::unremarkable(ended, Position::ShardEnd, at(10_000))
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
                "failing": "12",
                "parked": 4,
                "dead_letters": 2,
                "skipped": 1,
                "stalls": 1,
                "end_in_doubt": "listed_open",
                "gap": { "after": "5", "first": "9" },
                "expires_in_seconds": 6.5,
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
                "failing": null,
                "parked": 0,
                "dead_letters": 0,
                "skipped": 0,
                "stalls": 0,
                "end_in_doubt": null,
                "gap": null,
                "expires_in_seconds": null,
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

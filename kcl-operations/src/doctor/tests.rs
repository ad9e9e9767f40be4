use std::time::Duration;

use kcl_core::lease_store::{LeaderLock, Lease, Scan, Undecodable, WorkerRow, WriteStamp};
use kcl_core::source::{RecordPlacement, StreamDescription};
use kcl_core::types::{Incarnation, Position, ShardId, StreamIdentity, Timestamp};

use super::{Facts, Finding, Problem, ProblemKind, Right, Severity, StreamFact, TableFact, examine};
use crate::fleet::FleetFacts;
use crate::view::FleetView;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/trucks";

fn identity(created: i64) -> StreamIdentity {
    StreamIdentity {
        name: "trucks".to_owned(),
        arn: ARN.to_owned(),
        created: Timestamp::from_millis(created),
    }
}

fn scan() -> Scan {
    let run = Incarnation::from_random_bytes([1; 16]);
    let lease = Lease {
        owner: Some("worker-1".parse().unwrap()),
        counter: 3,
        stamp: Some(WriteStamp {
            incarnation: run,
            counter: 3,
        }),
        identity: Some(identity(1_700_000_000_123)),
        ..Lease::unowned(ShardId::new("shardId-000000000000").unwrap(), Position::Latest)
    };
    let worker = WorkerRow {
        id: "worker-1".parse().unwrap(),
        incarnation: Some(run),
        touches: 1,
        failover: Some(Duration::from_secs(10)),
        max_leases: None,
        max_throughput: None,
        updated: NOW,
        started: Some(NOW),
        version: Some("0.1.0".to_owned()),
        orders: None,
    };
    let lock = LeaderLock {
        owner: "worker-1".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "1".to_owned(),
        released: false,
        standby: None,
    };
    Scan {
        leases: vec![lease],
        workers: vec![worker],
        lock: Some(lock),
        ..Scan::default()
    }
}

fn fleet_of(scan: &Scan, behind: Option<Duration>) -> FleetView {
    let mut facts = FleetFacts::new(scan);
    let measured = behind
        .into_iter()
        .flat_map(|behind| scan.leases.iter().map(move |lease| (lease.key.clone(), behind)));
    facts.measured.extend(measured);
    FleetView::of("trucks-app", &facts, NOW)
}

/// Facts in which nothing is wrong.
fn well() -> Facts {
    let mut description = StreamDescription::default();
    description.retention = Some(Duration::from_secs(24 * 3600));
    description.consumers = Some(3);
    description.placement = Some(RecordPlacement::ByPartitionKey);
    let stream = StreamFact {
        leased: Some(identity(1_700_000_000_123)),
        identity: Some(identity(1_700_000_000_123)),
        description,
        open_shards: Some(["shardId-000000000000".to_owned()].into()),
        ..StreamFact::new("trucks")
    };
    Facts {
        region: Some("eu-west-1".to_owned()),
        table: Some(TableFact::new("trucks-app", None)),
        fleet: Some(fleet_of(&scan(), Some(Duration::from_secs(2)))),
        streams: vec![stream],
        streams_left_out: 0,
        rights: vec![Right::new("kinesis:GetRecords", ARN, Some(true))],
        needs_keys: true,
        clock_offset_ms: Some(900),
    }
}

/// The one finding after this change of facts in which nothing is wrong.
fn only(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = well();
    change(&mut facts);
    let findings = examine(&facts);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(!findings[0].advice.is_empty());
    findings.into_iter().next().unwrap()
}

fn named(finding: Finding) -> (&'static str, Severity) {
    (finding.code, finding.severity)
}

#[test]
fn well_application_has_no_finding() {
    assert_eq!(examine(&well()), []);
    assert_eq!(examine(&Facts::default()), []);
}

#[test]
fn wrong_region_is_found_by_arn_and_table() {
    let by_arn = only(|facts| facts.region = Some("us-east-1".to_owned()));
    assert_eq!(by_arn.advice, "use --region eu-west-1");
    assert_eq!(by_arn.code, "wrong-region");
    let by_table = only(|facts| {
        facts.table = Some(TableFact {
            elsewhere: vec!["eu-central-1".to_owned()],
            ..TableFact::new("trucks-app", Some(Problem::new(ProblemKind::Missing, "gone")))
        });
    });
    assert_eq!(
        (by_table.code, by_table.advice.as_str()),
        ("wrong-region", "use --region eu-central-1")
    );
}

#[test]
fn each_problem_of_the_table_has_its_name() {
    let table = |kind| {
        named(only(|facts| {
            facts.table = Some(TableFact::new("t", Some(Problem::new(kind, "message"))))
        }))
    };
    assert_eq!(table(ProblemKind::Missing), ("table-missing", Severity::Problem));
    assert_eq!(table(ProblemKind::Foreign), ("table-foreign", Severity::Problem));
    assert_eq!(table(ProblemKind::Denied), ("no-access", Severity::Problem));
    assert_eq!(table(ProblemKind::Invalid), ("invalid-name", Severity::Problem));
    assert_eq!(
        table(ProblemKind::Unreachable),
        ("unreachable", Severity::Problem)
    );
}

#[test]
fn missing_right_names_action_and_resource() {
    let finding = only(|facts| facts.rights[0].is_granted = Some(false));
    assert_eq!(finding.advice, format!("grant kinesis:GetRecords on {ARN}"));
    let mut facts = well();
    facts.rights[0].is_granted = None;
    assert_eq!(examine(&facts), []);
}

#[test]
fn missing_stream_and_recreated_one_are_found() {
    let missing = only(|facts| {
        facts.streams[0].problem = Some(Problem::new(ProblemKind::Missing, "gone"));
    });
    assert_eq!(named(missing), ("stream-missing", Severity::Problem));
    let other = only(|facts| facts.streams[0].identity = Some(identity(1_750_000_000_456)));
    assert_eq!(named(other), ("stream-recreated", Severity::Problem));
}

#[test]
fn twentieth_consumer_uses_them_up() {
    let consumers = |number| {
        let mut facts = well();
        facts.streams[0].description.consumers = Some(number);
        examine(&facts).into_iter().map(named).collect::<Vec<_>>()
    };
    assert_eq!(consumers(19), []);
    assert_eq!(consumers(20), [("consumers-used-up", Severity::Warning)]);
}

#[test]
fn lag_is_compared_with_retention() {
    let hours = |hours: u64| {
        let mut facts = well();
        facts.fleet = Some(fleet_of(&scan(), Some(Duration::from_secs(hours * 3600))));
        examine(&facts).into_iter().map(named).collect::<Vec<_>>()
    };
    assert_eq!(hours(11), []);
    assert_eq!(hours(12), [("retention-shorter-than-lag", Severity::Warning)]);
    assert_eq!(hours(24), [("retention-shorter-than-lag", Severity::Problem)]);
}

#[test]
fn auto_keys_matter_where_keys_are_needed() {
    let auto = |facts: &mut Facts| facts.streams[0].description.placement = Some(RecordPlacement::ByService);
    assert_eq!(named(only(auto)), ("auto-keys", Severity::Problem));
    let unneeded = only(|facts| {
        auto(facts);
        facts.needs_keys = false;
    });
    assert_eq!(named(unneeded), ("auto-keys", Severity::Note));
}

#[test]
fn clock_is_judged_by_its_distance() {
    let off = |millis| {
        let mut facts = well();
        facts.clock_offset_ms = Some(millis);
        examine(&facts).into_iter().map(named).collect::<Vec<_>>()
    };
    assert_eq!(off(4_999), []);
    assert_eq!(off(-5_000), [("clock-off", Severity::Warning)]);
    assert_eq!(off(240_000), [("clock-off", Severity::Problem)]);
}

#[test]
fn java_workers_and_mixed_versions_are_found() {
    let java = only(|facts| {
        let mut scan = scan();
        scan.workers.push(WorkerRow {
            id: "java-1".parse().unwrap(),
            incarnation: None,
            ..scan.workers[0].clone()
        });
        facts.fleet = Some(fleet_of(&scan, None));
    });
    assert_eq!(named(java), ("java-workers", Severity::Warning));
    let mixed = only(|facts| {
        let fleet = facts.fleet.as_mut().unwrap();
        let mut other = fleet.workers[0].clone();
        other.version = Some("0.2.0".to_owned());
        fleet.workers[0].version = Some("0.1.0".to_owned());
        fleet.workers.push(other);
    });
    assert_eq!(
        mixed.finding,
        "workers run different versions: 1 of 0.1.0 and 1 of 0.2.0"
    );
}

#[test]
fn shards_that_do_not_go_on_are_found() {
    let unowned = only(|facts| {
        let mut scan = scan();
        scan.leases[0].owner = None;
        facts.fleet = Some(fleet_of(&scan, None));
    });
    assert_eq!(named(unowned), ("shards-stuck", Severity::Warning));
    let nobody = only(|facts| {
        let mut scan = scan();
        scan.workers.clear();
        scan.lock = None;
        facts.fleet = Some(fleet_of(&scan, None));
    });
    assert_eq!(named(nobody), ("no-workers", Severity::Problem));
    let uncovered = only(|facts| {
        let open = facts.streams[0].open_shards.as_mut().unwrap();
        open.insert("shardId-000000000001".to_owned());
    });
    assert_eq!(named(uncovered), ("shards-without-lease", Severity::Warning));
}

#[test]
fn streams_with_equal_shard_ids_are_told_apart() {
    let of_lorries = |lease: &Lease| Lease {
        key: "111122223333:lorries:1700000000:shardId-000000000001"
            .parse()
            .unwrap(),
        shard: ShardId::new("shardId-000000000001").unwrap(),
        identity: Some(StreamIdentity {
            name: "lorries".to_owned(),
            arn: ARN.replace("trucks", "lorries"),
            ..identity(1_700_000_000_123)
        }),
        ..lease.clone()
    };
    let uncovered = only(|facts| {
        let mut scan = scan();
        scan.leases.push(of_lorries(&scan.leases[0]));
        facts.fleet = Some(fleet_of(&scan, Some(Duration::from_secs(2))));
        let open = facts.streams[0].open_shards.as_mut().unwrap();
        open.insert("shardId-000000000001".to_owned());
    });
    assert_eq!(
        named(uncovered.clone()),
        ("shards-without-lease", Severity::Warning)
    );
    assert!(
        uncovered.finding.contains("shardId-000000000001"),
        "{uncovered:?}"
    );
}

#[test]
fn streams_that_were_left_out_are_counted() {
    let finding = only(|facts| facts.streams_left_out = 7);
    assert_eq!(named(finding.clone()), ("streams-left-out", Severity::Note));
    assert!(finding.finding.contains("7 more"), "{finding:?}");
}

#[test]
fn unreadable_rows_and_missing_leader_are_found() {
    let unreadable = only(|facts| {
        let mut scan = scan();
        scan.undecodable.push(Undecodable {
            key: "shardId-9".to_owned(),
            problem: "attribute checkpoint is missing".to_owned(),
        });
        facts.fleet = Some(fleet_of(&scan, None));
    });
    assert_eq!(named(unreadable), ("rows-unreadable", Severity::Warning));
    let leaderless = only(|facts| {
        let mut scan = scan();
        scan.lock = None;
        facts.fleet = Some(fleet_of(&scan, None));
    });
    assert_eq!(named(leaderless), ("no-leader", Severity::Warning));
}

use std::time::Duration;

use kcl_core::lease_store::{
    LeaderLock, Lease, LeaseOrder, LeaseOrders, OrderAnswer, OrderAuthor, Scan, ShardReport, WorkerRow,
    WriteStamp,
};
use kcl_core::status::WaitReason;
use kcl_core::types::{Incarnation, LeaseKey, Position, ShardId, Timestamp};
use proptest::prelude::*;

use super::{FleetFacts, FleetView};
use crate::state::ShardState;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn shard_id(number: u32) -> ShardId {
    ShardId::new(format!("shardId-{number:012}")).unwrap()
}

/// A lease of ours, owned by `worker-1`.
fn owned(number: u32) -> Lease {
    let stamp = WriteStamp {
        incarnation: Incarnation::from_random_bytes([1; 16]),
        counter: 7,
    };
    Lease {
        owner: Some("worker-1".parse().unwrap()),
        counter: 7,
        stamp: Some(stamp),
        throughput: Some(2.5),
        ..Lease::unowned(shard_id(number), Position::TrimHorizon)
    }
}

fn worker(name: &str, age: Duration) -> WorkerRow {
    WorkerRow {
        id: name.parse().unwrap(),
        incarnation: Some(Incarnation::from_random_bytes([1; 16])),
        touches: 3,
        failover: Some(Duration::from_secs(10)),
        max_leases: None,
        max_throughput: None,
        updated: NOW.minus(age),
        started: Some(NOW.minus(Duration::from_secs(3600))),
        version: Some("0.1.0".to_owned()),
        orders: None,
    }
}

fn scan(leases: Vec<Lease>) -> Scan {
    Scan {
        leases,
        workers: vec![worker("worker-1", Duration::from_secs(1))],
        ..Scan::default()
    }
}

/// A report of two seconds ago.
fn behind(secs: u64) -> ShardReport {
    let mut report = ShardReport::new(NOW.minus(Duration::from_secs(2)));
    report.behind = Duration::from_secs(secs);
    report
}

fn state_with(lease: Lease, report: Option<ShardReport>) -> ShardState {
    let report = report.map(Box::new);
    let scan = scan(vec![Lease { report, ..lease }]);
    FleetView::of("app", &FleetFacts::new(&scan), NOW).shards[0].state
}

#[test]
fn each_state_follows_from_its_rule() {
    let waiting = |reason: WaitReason| {
        let mut report = behind(0);
        report.waiting_for = Some(reason.to_string().replace(' ', "_"));
        report
    };
    let idle = |secs| {
        let mut report = behind(0);
        report.last_progress = Duration::from_secs(secs);
        report
    };
    let ended = Lease {
        checkpoint: Position::ShardEnd,
        ..owned(0)
    };
    let unowned = Lease {
        owner: None,
        ..owned(0)
    };
    assert_eq!(state_with(ended, None), ShardState::Ended);
    assert_eq!(state_with(unowned, Some(behind(1))), ShardState::Unowned);
    assert_eq!(state_with(owned(0), None), ShardState::Unknown);
    assert_eq!(state_with(owned(0), Some(behind(60))), ShardState::Ok);
    assert_eq!(state_with(owned(0), Some(behind(61))), ShardState::Lagging);
    assert_eq!(state_with(owned(0), Some(idle(121))), ShardState::Stalled);
    assert_eq!(state_with(owned(0), Some(idle(119))), ShardState::Ok);
    for reason in [WaitReason::Hold, WaitReason::DeadLetter, WaitReason::Gap] {
        assert_eq!(state_with(owned(0), Some(waiting(reason))), ShardState::Held);
    }
    assert_eq!(
        state_with(owned(0), Some(waiting(WaitReason::Paused))),
        ShardState::Paused
    );
    let waits = waiting(WaitReason::Parents);
    assert_eq!(state_with(owned(0), Some(waits)), ShardState::WaitingForParent);
}

#[test]
fn silent_owner_makes_a_shard_stalled() {
    for row in [None, Some(worker("worker-1", Duration::from_secs(61)))] {
        let mut scan = scan(vec![owned(0)]);
        scan.workers = row
            .into_iter()
            .chain([worker("worker-2", Duration::ZERO)])
            .collect();
        let fleet = FleetView::of("app", &FleetFacts::new(&scan), NOW);
        assert_eq!(fleet.shards[0].state, ShardState::Stalled);
        let silent = fleet
            .workers
            .iter()
            .find(|worker| worker.worker == "worker-1")
            .unwrap();
        assert_eq!(silent.is_live, Some(false));
        let why = fleet.why("shardId-000000000000").unwrap().join("\n");
        assert!(why.contains("Its owner is silent"), "{why}");
    }
}

#[test]
fn java_row_is_unknown_and_says_why() {
    let java = Lease {
        stamp: None,
        ..owned(0)
    };
    let mut scan = scan(vec![java]);
    scan.workers.clear();
    let fleet = FleetView::of("app", &FleetFacts::new(&scan), NOW);
    assert_eq!(fleet.shards[0].state, ShardState::Unknown);
    assert!(fleet.shards[0].is_java && fleet.workers[0].is_java);
    let why = fleet.why("shardId-000000000000").unwrap().join("\n");
    assert!(why.contains("A Java worker wrote the row last"), "{why}");
}

#[test]
fn child_waits_for_its_parent_until_that_ends() {
    let child = Lease {
        owner: None,
        parents: [shard_id(0)].into(),
        ..owned(1)
    };
    let fleet = |parent: Lease| {
        let scan = scan(vec![parent, child.clone()]);
        FleetView::of("app", &FleetFacts::new(&scan), NOW)
    };
    let waiting = fleet(owned(0));
    assert_eq!(waiting.shards[1].state, ShardState::WaitingForParent);
    assert_eq!(waiting.shards[1].generation, 1);
    assert_eq!(waiting.shards[0].children, ["shardId-000000000001"]);
    let why = waiting.why("shardId-000000000001").unwrap().join("\n");
    assert!(
        why.contains("It starts when shardId-000000000000 is finished."),
        "{why}"
    );
    let ended = Lease {
        checkpoint: Position::ShardEnd,
        ..owned(0)
    };
    assert_eq!(fleet(ended).shards[1].state, ShardState::Unowned);
}

#[test]
fn handoff_shows_both_workers_and_the_next_load() {
    let lease = Lease {
        checkpoint_owner: Some("worker-1".parse().unwrap()),
        owner: Some("worker-2".parse().unwrap()),
        ..owned(0)
    };
    let mut scan = scan(vec![lease]);
    scan.workers.push(worker("worker-2", Duration::ZERO));
    scan.lock = Some(LeaderLock {
        owner: "worker-2".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "1".to_owned(),
        released: false,
        standby: Some("worker-1".parse().unwrap()),
    });
    let fleet = FleetView::of("app", &FleetFacts::new(&scan), NOW);
    let shard = &fleet.shards[0];
    assert_eq!(shard.owner.as_deref(), Some("worker-1"));
    assert_eq!(shard.next_owner.as_deref(), Some("worker-2"));
    let [first, second] = &fleet.workers[..] else {
        panic!("{:?}", fleet.workers)
    };
    assert_eq!((first.leases, first.incoming, first.is_standby), (1, 0, true));
    assert_eq!((second.leases, second.incoming, second.is_leader), (0, 1, true));
    assert_eq!(fleet.summary.leader.as_deref(), Some("worker-2"));
}

#[test]
fn second_look_says_how_long_catching_up_takes() {
    let look = |secs: u64, now: Timestamp| {
        let scan = scan(vec![owned(0)]);
        let mut facts = FleetFacts::new(&scan);
        let key = LeaseKey::single_stream(&shard_id(0));
        facts.measured.insert(key, Duration::from_secs(secs));
        FleetView::of("app", &facts, now)
    };
    let first = look(600, NOW);
    let mut gaining = look(540, NOW.plus(Duration::from_secs(30)));
    gaining.compare(&first);
    assert_eq!(gaining.shards[0].catch_up_s, Some(270));
    assert_eq!(gaining.summary.max_catch_up_s, Some(270));
    let mut losing = look(601, NOW.plus(Duration::from_secs(30)));
    losing.compare(&first);
    assert_eq!(losing.shards[0].catch_up_s, None);
}

#[test]
fn report_is_shown_with_its_age() {
    let mut report = behind(90);
    report.trend = -500;
    report.last_progress = Duration::from_millis(40);
    report.waiting_for = Some("callback".to_owned());
    report.processed_per_minute = 90;
    let lease = Lease {
        report: Some(Box::new(report)),
        ..owned(0)
    };
    let scan = scan(vec![lease]);
    let fleet = FleetView::of("app", &FleetFacts::new(&scan), NOW);
    let shard = &fleet.shards[0];
    assert_eq!((shard.state, shard.lag_ms), (ShardState::Lagging, Some(90_000)));
    assert_eq!(
        (shard.report_age_ms, shard.last_progress_ms),
        (Some(2_000), Some(2_040))
    );
    assert_eq!(
        (shard.catch_up_s, shard.finished_records_per_s),
        (Some(180), Some(1.5))
    );
    assert_eq!(fleet.workers[0].version.as_deref(), Some("0.1.0"));
    assert_eq!(fleet.workers[0].uptime_ms, Some(3_600_000));
    let why = fleet.why("shardId-000000000000").unwrap().join("\n");
    assert!(why.contains("has caught up in about 3m00s"), "{why}");
    assert!(why.contains("a call of the processor runs"), "{why}");
}

#[test]
fn measured_lag_under_a_second_has_caught_up() {
    let scan = scan(vec![owned(0)]);
    let look = |millis| {
        let mut facts = FleetFacts::new(&scan);
        let key = LeaseKey::single_stream(&shard_id(0));
        facts.measured.insert(key, Duration::from_millis(millis));
        FleetView::of("app", &facts, NOW).shards[0].catch_up_s
    };
    assert_eq!((look(104), look(999), look(1000)), (Some(0), Some(0), None));
}

#[test]
fn orders_are_shown_until_they_are_answered() {
    let author = OrderAuthor::new("ana")
        .unwrap()
        .because("the database is down")
        .unwrap();
    let orders = LeaseOrders::default().with(LeaseOrder::Pause, &author, NOW);
    let lease = |answer| Lease {
        orders: Some(Box::new(orders.clone())),
        answer,
        ..owned(0)
    };
    let look = |answer| {
        let scan = scan(vec![lease(answer)]);
        FleetView::of("app", &FleetFacts::new(&scan), NOW)
    };
    let unanswered = look(None);
    let shard = &unanswered.shards[0];
    assert_eq!(
        (shard.state, shard.orders.as_slice()),
        (ShardState::Paused, &["paused".to_owned()][..])
    );
    let why = |fleet: &FleetView| fleet.why("shardId-000000000000").unwrap().join("\n");
    assert!(
        why(&unanswered).contains("ana ordered `pause`"),
        "{}",
        why(&unanswered)
    );
    assert!(
        why(&unanswered).contains("has not answered"),
        "{}",
        why(&unanswered)
    );
    let refusal = OrderAnswer {
        revision: 1,
        refused: Some("it is not held".to_owned()),
    };
    assert!(why(&look(Some(refusal))).contains("refused it: it is not held"));
    let answered = OrderAnswer {
        revision: 1,
        refused: None,
    };
    assert!(why(&look(Some(answered))).contains("The owner obeys it."));
}

#[test]
fn summary_names_the_gravest_state() {
    let unowned = Lease {
        owner: None,
        ..owned(1)
    };
    let scan = scan(vec![owned(0), unowned]);
    let fleet = FleetView::of("app", &FleetFacts::new(&scan), NOW);
    assert_eq!(fleet.summary.state, "UNOWNED");
    assert_eq!(fleet.summary.states["UNKNOWN"], 1);
    assert_eq!((fleet.summary.leases, fleet.summary.known_lags), (2, 0));
    assert!(
        FleetView::of("app", &FleetFacts::new(&Scan::default()), NOW)
            .why("x")
            .is_none()
    );
}

proptest! {
    #[test]
    fn every_lease_has_one_row_and_sentences(
        rows in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u32..12, any::<bool>()), 0..12),
        lag in proptest::option::of(0u64..1_000_000),
    ) {
        let leases: Vec<Lease> = rows.iter().zip(0u32..).map(|((is_owned, is_ended, parent, is_java), number)| {
            let mut lease = owned(number);
            lease.parents = [shard_id(*parent)].into();
            if !is_owned { lease.owner = None; }
            if *is_ended { lease.checkpoint = Position::ShardEnd; }
            if *is_java { lease.stamp = None; }
            lease
        }).collect();
        let mut scan = scan(leases);
        for lease in &mut scan.leases {
            lease.report = lag.map(|lag| Box::new(behind(lag)));
        }
        let facts = FleetFacts::new(&scan);
        let fleet = FleetView::of("app", &facts, NOW);
        prop_assert_eq!(fleet.shards.len(), scan.leases.len());
        let owned: u32 = fleet.workers.iter().map(|worker| worker.leases).sum();
        let open = fleet.shards.iter().filter(|shard| shard.owner.is_some() && shard.state != ShardState::Ended);
        prop_assert_eq!(owned as usize, open.count());
        for shard in &fleet.shards {
            prop_assert!(!fleet.why(&shard.lease).unwrap().is_empty());
        }
        prop_assert_eq!(fleet.summary.states.values().sum::<u32>() as usize, fleet.shards.len());
    }
}

#[test]
fn hung_callback_is_stalled_and_orders_hold_pauses() {
    let mut hung = behind(0);
    (hung.waiting_for, hung.concern) = (Some("callback".to_owned()), Some("slow_callback".to_owned()));
    assert_eq!(state_with(owned(0), Some(hung.clone())), ShardState::Stalled);
    hung.concern = None;
    assert_eq!(state_with(owned(0), Some(hung)), ShardState::Ok);
    let held = Lease {
        orders: Some(Box::new(LeaseOrders {
            revision: 1,
            hold: Some(1),
            ..LeaseOrders::default()
        })),
        ..owned(0)
    };
    assert_eq!(state_with(held, Some(behind(0))), ShardState::Paused);
}

#[test]
fn lag_of_silent_report_grows_with_its_age() {
    let hour = Duration::from_secs(3600);
    let mut report = ShardReport::new(NOW.minus(hour));
    report.behind = Duration::from_millis(200);
    let lease = Lease {
        report: Some(Box::new(report)),
        failover: Some(Duration::from_secs(10)),
        ..owned(0)
    };
    // The worker lives, and has not renewed this lease.
    let scan = scan(vec![lease]);
    let shard = &FleetView::of("app", &FleetFacts::new(&scan), NOW).shards[0];
    assert_eq!((shard.state, shard.catch_up_s), (ShardState::Stalled, None));
    assert_eq!(shard.lag_ms, Some(3_600_200));
}

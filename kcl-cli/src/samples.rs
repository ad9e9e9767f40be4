//! A small fleet for unit tests.

use std::time::Duration;

use kcl_core::lease_store::{
    LeaderLock, Lease, LeaseOrder, LeaseOrders, OrderAuthor, Scan, WorkerRow, WriteStamp,
};
use kcl_core::types::{Incarnation, Position, ShardId, Timestamp};
use kcl_operations::{FleetFacts, FleetView};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn lease(number: u32) -> Lease {
    let id = ShardId::new(format!("shardId-{number:012}")).unwrap();
    Lease::unowned(id, Position::TrimHorizon)
}

/// One shard that is owned, and one that is not; the owner is the leader.
pub(crate) fn fleet() -> FleetView {
    let run = Incarnation::from_random_bytes([1; 16]);
    let author = OrderAuthor::new("ana").unwrap();
    let orders = LeaseOrders::default().with(LeaseOrder::Unpin, &author, NOW);
    let owned = Lease {
        orders: Some(Box::new(orders)),
        owner: Some("worker-1".parse().unwrap()),
        counter: 2,
        stamp: Some(WriteStamp {
            incarnation: run,
            counter: 2,
        }),
        ..lease(0)
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
        version: None,
        orders: None,
    };
    let lock = LeaderLock {
        owner: "worker-1".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "1".to_owned(),
        released: false,
        standby: None,
    };
    let scan = Scan {
        leases: vec![owned, lease(1)],
        workers: vec![worker],
        lock: Some(lock),
        ..Scan::default()
    };
    FleetView::of("truck-tracker", &FleetFacts::new(&scan), NOW)
}

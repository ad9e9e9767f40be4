//! What the scenarios share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::lease::{Lease, LeaseChange, LeaseStore as _};
use kcl_core::model::LeaseKey;
use kcl_core::time::Moment;
use kcl_testkit::faults::{Fault, Happened, Operation, StoreCall, StoreFaults};
use kcl_testkit::fleet::Fleet;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);
/// Every call there is.
pub const OPERATIONS: [Operation; 8] = [
    Operation::Prepare,
    Operation::Scan,
    Operation::Read,
    Operation::OwnedBy,
    Operation::Change,
    Operation::ChangeWorker,
    Operation::ReadLock,
    Operation::ChangeLock,
];

/// Starts workers with these names and the fleet's settings, and waits until they share the stream.
pub async fn start(fleet: &Fleet, names: &[&str]) {
    for name in names {
        fleet.start_worker(name, fleet.settings());
    }
    balanced(fleet, names).await;
}

/// Waits until these workers hold every open shard, none is on its way, and none has two more than another.
pub async fn balanced(fleet: &Fleet, names: &[&str]) -> Duration {
    let shards = fleet.open_shards().len();
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = names.iter().map(|name| view.held(name).len()).collect();
            let spread = held.iter().max().zip(held.iter().min());
            let even = spread.is_some_and(|(most, least)| most - least <= 1);
            even && held.iter().sum::<usize>() == shards && !view.leases().iter().any(Lease::is_in_handoff)
        })
        .await
}

/// The living member that leads. There is one.
pub fn leader(fleet: &Fleet) -> String {
    fleet.view().leader().expect("a leader")
}

/// Waits until the lock row names a deputy, and returns it.
pub async fn deputy(fleet: &Fleet) -> String {
    for _ in 0..1000 {
        let lock = fleet.store().read_lock().await.unwrap();
        if let Some(deputy) = lock.and_then(|lock| lock.deputy) {
            return deputy.to_string();
        }
        fleet.sleep(10 * MILLISECOND).await;
    }
    panic!("the leader names no deputy");
}

/// One of these that neither leads nor stands in for the leader.
pub async fn follower<'a>(fleet: &Fleet, names: &[&'a str]) -> &'a str {
    let office = [leader(fleet), deputy(fleet).await];
    let mut others = names.iter().filter(|name| !office.iter().any(|busy| busy == *name));
    others.next().expect("a follower")
}

/// Waits until others than these members work on these shards, and returns how long after `since` the last one went on.
pub async fn taken_over(fleet: &Fleet, from: &[&str], shards: &BTreeSet<LeaseKey>, since: Moment) -> Duration {
    assert!(!shards.is_empty(), "they had no shards");
    fleet
        .wait_until("others work on the shards", 120 * SECOND, |view| {
            let busy = |shard| view.busy_with(shard);
            shards
                .iter()
                .all(|shard| busy(shard).is_some_and(|busy| !from.contains(&busy.as_str())))
        })
        .await;
    let handovers = fleet.view().handovers().into_iter();
    let of_these = handovers.filter(|handover| handover.first >= since && shards.contains(&handover.shard));
    let last = of_these.map(|handover| handover.first).max();
    last.expect("the shards went on").saturating_since(since)
}

/// Spoils the connections of these members.
pub fn each_store(fleet: &Fleet, names: &[&str], spoil: impl Fn(&StoreFaults)) {
    names.iter().for_each(|name| spoil(&fleet.store_faults(name)));
}

/// Every call of these members has this fault.
pub fn always(fleet: &Fleet, names: &[&str], fault: Fault) {
    each_store(fleet, names, |faults| {
        OPERATIONS
            .into_iter()
            .for_each(|operation| faults.always(operation, fault));
    });
}

/// A change of a lease that a member asked for.
#[derive(Debug, Clone)]
pub struct Written {
    pub at: Moment,
    pub process: String,
    pub key: LeaseKey,
    pub change: LeaseChange,
    pub applied: bool,
}

/// Keeps every change of a lease that a member asks for from now on.
pub fn keep_writes(fleet: &Fleet) -> Arc<Mutex<Vec<Written>>> {
    let kept: Arc<Mutex<Vec<Written>>> = Arc::default();
    let writes = Arc::clone(&kept);
    fleet.on_store_event(move |process, event| {
        if let StoreCall::Change { key, change, .. } = &event.call {
            writes.lock().unwrap().push(Written {
                at: event.at,
                process: process.to_owned(),
                key: key.clone(),
                change: change.clone(),
                applied: matches!(event.happened, Happened::Applied(_)),
            });
        }
    });
    kept
}

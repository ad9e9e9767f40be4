//! Helpers of the scenarios.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::lease_store::{Lease, LeaseChange};
use kcl_core::types::LeaseKey;
use kcl_testkit::faults::{Happened, StoreCall, StoreFaults};
use kcl_testkit::fleet::Fleet;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
/// Starts workers with these names and the fleet's settings, and waits until they share the stream.
pub(crate) async fn start(fleet: &Fleet, names: &[&str]) {
    for name in names {
        fleet.start_worker(name, fleet.settings());
    }
    balanced(fleet, names).await;
}

/// Waits until these workers hold every open shard, none is on its way, and none has two more than another.
pub(crate) async fn balanced(fleet: &Fleet, names: &[&str]) -> Duration {
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
pub(crate) fn leader(fleet: &Fleet) -> String {
    fleet.view().leader().expect("a leader")
}

/// Spoils the connections of these members.
pub(crate) fn each_store(fleet: &Fleet, names: &[&str], spoil: impl Fn(&StoreFaults)) {
    names.iter().for_each(|name| spoil(&fleet.store_faults(name)));
}

/// A change of a lease that a member asked for.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) at: Moment,
    pub(crate) process: String,
    pub(crate) key: LeaseKey,
    pub(crate) change: LeaseChange,
    pub(crate) applied: bool,
}

/// Keeps every change of a lease that a member asks for from now on.
pub(crate) fn keep_writes(fleet: &Fleet) -> Arc<Mutex<Vec<Written>>> {
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

//! Those who take part in a handoff die in its middle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::lease_store::LeaseChange;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::types::LeaseKey;
use kcl_testkit::faults::{Happened, StoreCall, StoreEvent};
use kcl_testkit::fleet::{Fleet, Member, Simulation};

use crate::coordination::support::{SECOND, balanced, keep_writes, start};

/// How far the first handoff of a fleet has come.
#[derive(Default)]
struct Progress {
    lease: Option<LeaseKey>,
    writes: usize,
    struck: Option<&'static str>,
}

impl Progress {
    /// Counts the applied writes of the first lease with a handoff. The handoff's beginning is the first.
    fn count(&mut self, event: &StoreEvent) -> Option<&'static str> {
        let (StoreCall::Change { key, change, .. }, Happened::Applied(_)) = (&event.call, &event.happened)
        else {
            return None;
        };
        if self.lease.is_none() && matches!(change, LeaseChange::BeginHandoff { .. }) {
            self.lease = Some(key.clone());
        }
        (self.lease.as_ref() == Some(key)).then(|| {
            self.writes += 1;
            change.verb()
        })
    }
}

/// Kills the victims at this write of a handoff from `a` to `b`, before anybody learns that it was done. Returns which it was.
fn crash_at(write: usize, victims: &'static [&'static str]) -> &'static str {
    let seed = u64::try_from(write * 10 + victims.len()).unwrap();
    let simulation = Simulation::new(seed);
    simulation.run(async |fleet| {
        start(&fleet, &["a"]).await;
        fleet.produce(SECOND / 50, 8);
        fleet.sleep(2 * SECOND).await;
        let progress: Arc<Mutex<Progress>> = Arc::default();
        let (doomed, seen) = (fleet.clone(), Arc::clone(&progress));
        fleet.on_store_event(move |_, event| {
            let mut seen = seen.lock().unwrap();
            if let Some(verb) = seen.count(event)
                && seen.writes == write
            {
                seen.struck = Some(verb);
                victims.iter().for_each(|name| doomed.kill(name));
            }
        });
        fleet.start_worker("b", fleet.settings());
        fleet
            .wait_until("the write is made", 30 * SECOND, |_| {
                progress.lock().unwrap().struck.is_some()
            })
            .await;
        if victims.len() == 2 {
            fleet.start_worker("c", fleet.settings());
        }
        let failover = fleet.settings().leases.failover_time;
        // Without leader and standby, another worker leaves the standby an eighth and three looks.
        fleet.sleep(2 * failover + failover / 8 + 3 * SECOND).await;
        fleet.stop_producing();
        let took = fleet.settle().await;
        // The last checkpoint may have to wait for its second.
        assert!(
            took < 2 * SECOND,
            "after two failover times all is as it should be: {took:?}"
        );
        let tally = fleet.view().tally();
        assert_eq!(tally.finished, tally.put);
        progress.lock().unwrap().struck.unwrap()
    })
}

#[test]
fn death_at_any_handoff_write_loses_nothing() {
    const CAST_OUT: [&[&str]; 3] = [&["a"], &["b"], &["a", "b"]];
    for victims in CAST_OUT {
        let struck: Vec<&str> = (1..=6).map(|write| crash_at(write, victims)).collect();
        println!("{victims:?} died at {struck:?}");
        for verb in ["begin_handoff", "complete_handoff", "renew"] {
            assert!(struck.contains(&verb), "{victims:?}: {struck:?}");
        }
    }
}

/// Takes this long over each batch.
struct Slow(Fleet, Duration);

#[async_trait]
impl RecordProcessor for Slow {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.sleep(self.1).await;
        Ok(())
    }
}

fn slow(fleet: &Fleet, name: &str, takes: Duration) -> Member {
    let fleet = fleet.clone();
    Member::named(name).processor(move |_: &ShardContext| Slow(fleet.clone(), takes))
}

#[test]
fn owner_restarted_during_handoff_loses_nothing() {
    for seed in 0..10 {
        let mut settings = Settings::default();
        settings.leases.failover_time = 4 * SECOND;
        settings.leases.handoff_timeout = 6 * SECOND;
        Simulation::new(seed).settings(settings).run(async |fleet| {
            fleet.start(slow(&fleet, "a", 20 * SECOND));
            balanced(&fleet, &["a"]).await;
            fleet.put(100);
            fleet.start_worker("b", fleet.settings());
            fleet
                .wait_until("a handoff is under way", 10 * SECOND, |view| {
                    view.leases().iter().any(|lease| lease.is_in_handoff())
                })
                .await;
            fleet.sleep(Duration::from_millis(100 * seed)).await;
            fleet.kill("a");
            fleet.start_worker("a", fleet.settings());
            balanced(&fleet, &["a", "b"]).await;
            fleet.put(100);
            fleet.settle().await;
        });
    }
}

#[test]
fn late_checkpoint_of_former_owner_writes_nothing() {
    for seed in 0..10 {
        Simulation::new(seed).run(async |fleet| {
            fleet.start(slow(&fleet, "a", 3 * SECOND));
            balanced(&fleet, &["a"]).await;
            fleet.put(100);
            // Every shard is in a callback when the process stops.
            fleet.sleep(SECOND).await;
            fleet.start_worker("b", fleet.settings());
            fleet.freeze("a");
            fleet
                .wait_until("b has every shard", 30 * SECOND, |view| view.held("b").len() == 4)
                .await;
            let writes = keep_writes(&fleet);
            let before = fleet.view().moves().len();
            fleet.thaw("a");
            // The callbacks return, and their worker has yet to learn that the leases are gone.
            fleet.sleep(SECOND / 4).await;
            let writes = writes.lock().unwrap().clone();
            let late: Vec<_> = writes.iter().filter(|write| write.process == "a").collect();
            assert!(!late.is_empty(), "seed {seed}: it tried");
            assert!(late.iter().all(|write| !write.applied), "seed {seed}: {late:?}");
            assert_eq!(fleet.view().moves().len(), before, "seed {seed}");
            fleet.settle().await;
        });
    }
}

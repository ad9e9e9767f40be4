//! Failures of stores, sources and processors.

use super::*;

#[test]
fn outage_of_lease_store_moves_no_lease() {
    for link in [Link::Refusing, Link::RequestsLost, Link::RepliesLost] {
        for seconds in [1, 4, 5, 12, 100] {
            simulate_fleet(seconds, async |fleet| {
                three_workers(&fleet).await;
                fleet.produce(SECOND / 10, 10);
                fleet.sleep(2 * SECOND).await;
                let before = tokens(&fleet);
                each_store(&fleet, |faults| faults.set_link(link));
                fleet.sleep(Duration::from_secs(seconds)).await;
                each_store(&fleet, |faults| faults.set_link(Link::Up));
                fleet.sleep(10 * SECOND).await;
                fleet.stop_producing();
                fleet.settle().await;
                assert_eq!(tokens(&fleet), before, "{link:?} for {seconds} s");
                assert_eq!(fleet.view().tally().redelivered, 0);
            });
        }
    }
}

#[test]
fn renewal_with_lost_reply_keeps_its_lease() {
    simulate_fleet(8, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 10, 10);
        fleet.sleep(2 * SECOND).await;
        let before = tokens(&fleet);
        for _ in 0..20 {
            each_store(&fleet, |faults| faults.once(Operation::Change, Fault::LoseReply));
            fleet.sleep(SECOND / 2).await;
        }
        each_store(&fleet, |faults| {
            faults.always(Operation::Change, Fault::LoseReply)
        });
        fleet.sleep(20 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(tokens(&fleet), before);
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn renewal_found_late_counts_from_its_sending() {
    for tenths in 0..20 {
        simulate_fleet(8, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            fleet.put(100);
            fleet.settle().await;
            // The next renewal lands, and its worker does not learn so for a whole failover time.
            fleet.store_faults("a").set_link(Link::RepliesLost);
            fleet
                .sleep(fleet.settings().leases.failover_time * tenths / 10)
                .await;
            fleet.freeze("a");
            fleet.sleep(fleet.settings().leases.failover_time).await;
            fleet.store_faults("a").set_link(Link::Up);
            fleet.produce(SECOND / 20, 10);
            fleet.thaw("a");
            fleet.sleep(5 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}

#[test]
fn renewals_late_but_in_time_move_no_lease() {
    simulate_fleet(9, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 10, 10);
        let before = tokens(&fleet);
        let late = Fault::DelayRequest(Duration::from_millis(600));
        each_store(&fleet, |faults| faults.always(Operation::Change, late));
        fleet.sleep(20 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(tokens(&fleet), before);
    });
}

/// Fails, or panics, while its switch is on.
struct Broken {
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicU32>,
}

#[async_trait]
impl RecordProcessor for Broken {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        if shard.shard().as_str().ends_with('1') && self.fails.load(Ordering::Relaxed) {
            return Err(ProcessorError::from(std::io::Error::other("the sink is broken")).at(&batch[0]));
        }
        let panics = self.panics.load(Ordering::Relaxed);
        if panics > 0 {
            self.panics.store(panics - 1, Ordering::Relaxed);
            panic!("a bug of the user's");
        }
        Ok(())
    }
}

/// A member whose processor fails in the second shard while the switch is on, and panics so many times.
fn broken(name: &str, fails: &Arc<AtomicBool>, panics: &Arc<AtomicU32>) -> Member {
    let (fails, panics) = (Arc::clone(fails), Arc::clone(panics));
    Member::named(name).processor(move |_: &ShardContext| Broken {
        fails: Arc::clone(&fails),
        panics: Arc::clone(&panics),
    })
}

#[test]
fn failing_processor_holds_its_shard_and_skips_nothing() {
    simulate_fleet(10, async |fleet| {
        let (fails, panics) = (Arc::new(AtomicBool::new(true)), Arc::default());
        for name in MEMBERS {
            fleet.start(broken(name, &fails, &panics));
        }
        balanced(&fleet, &MEMBERS).await;
        fleet.produce(SECOND / 10, 10);
        fleet.sleep(30 * SECOND).await;
        let before = tokens(&fleet);
        fleet.sleep(30 * SECOND).await;
        assert_eq!(tokens(&fleet), before, "a shard that is held stays where it is");
        let view = fleet.view();
        for lease in view.leases() {
            let held = lease.shard.as_str().ends_with('1');
            assert_eq!(lease.checkpoint.is_initial(), held, "{lease:?}");
            let owner = lease.owner.expect("somebody holds it");
            let status = view.status(owner.as_str()).expect("its owner runs");
            let waits_for = status.leases[&lease.key].waiting.map(|(reason, _)| reason);
            assert_eq!(waits_for, held.then_some(WaitReason::Hold), "the status says so");
        }
        fails.store(false, Ordering::Relaxed);
        fleet.stop_producing();
        fleet.settle().await;
    });
}

#[test]
fn after_panic_records_are_delivered_again_from_checkpoint() {
    simulate_fleet(11, async |fleet| {
        let (fails, panics) = (Arc::default(), Arc::new(AtomicU32::new(5)));
        for name in MEMBERS {
            fleet.start(broken(name, &fails, &panics));
        }
        balanced(&fleet, &MEMBERS).await;
        let before = tokens(&fleet);
        fleet.put(100);
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!((tally.finished, panics.load(Ordering::Relaxed)), (100, 0));
        assert!(tally.redelivered > 0);
        assert_eq!(tokens(&fleet), before);
    });
}

#[test]
fn hanging_source_is_reopened_without_proof_of_life() {
    simulate_fleet(12, async |fleet| {
        three_workers(&fleet).await;
        fleet.put(100);
        fleet.settle().await;
        let before = tokens(&fleet);
        let source = fleet.source_faults("a");
        let opened = source.calls(StreamCall::Open);
        let readers = u32::try_from(fleet.view().held("a").len()).unwrap();
        source.add(StreamFaultRule::next(
            readers,
            StreamCall::Next,
            StreamFault::Hang,
        ));
        fleet.sleep(SECOND).await;
        fleet.put(100);
        let took = fleet.settle().await;
        let settings = fleet.settings();
        assert!(
            took <= settings.reading.stall_timeout + settings.leases.failover_time,
            "{took:?}"
        );
        assert_eq!(source.calls(StreamCall::Open), opened + u64::from(readers));
        assert_eq!(tokens(&fleet), before);
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

/// Opening it again is no progress of its own: a worker that cannot read gives its shards to others.
#[test]
fn source_that_hangs_for_ever_costs_its_leases() {
    simulate_fleet(17, async |fleet| {
        three_workers(&fleet).await;
        fleet
            .source_faults("a")
            .add(StreamFaultRule::every(StreamCall::Next, StreamFault::Hang));
        fleet.put(100);
        let settings = fleet.settings();
        let tries = settings.reading.stall_tries + 2;
        fleet
            .wait_until(
                "the others have everything",
                settings.reading.stall_timeout * tries,
                |view| view.held("a").is_empty(),
            )
            .await;
        fleet.settle().await;
    });
}

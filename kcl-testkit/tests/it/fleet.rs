//! What a fleet does when workers come, go, die, hang and fail, and when the services do.
//!
//! Virtual time: minutes pass in milliseconds. The oracle checks the invariants I1 to I9 after every step of every scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::ErrorKind;
use kcl_core::lease_store::{Expect, LeaseChange, LeaseStore as _, Outcome, RowFacts};
use kcl_core::processor::{FencingToken, ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::status::WaitReason;
use kcl_core::types::{InitialPosition, LeaseKey};
use kcl_testkit::clock::Skew;
use kcl_testkit::faults::{Fault, Link, Operation, StoreFaults};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Member, Simulation};
use kcl_testkit::invariant::Invariant;
use kcl_testkit::simulate;

const SECOND: Duration = Duration::from_secs(1);
const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// Starts three workers and waits until they share the stream.
async fn three_workers(fleet: &Fleet) {
    for name in MEMBERS {
        fleet.start_worker(name, fleet.settings());
    }
    balanced(fleet, &MEMBERS).await;
}

/// Waits until these workers hold every open shard, and none two more than another.
async fn balanced(fleet: &Fleet, names: &[&str]) {
    let shards = fleet.open_shards().len();
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = names.iter().map(|name| view.held(name).len()).collect();
            let spread = held.iter().max().zip(held.iter().min());
            held.iter().sum::<usize>() == shards && spread.is_some_and(|(most, least)| most - least <= 1)
        })
        .await;
}

fn tokens(fleet: &Fleet) -> BTreeMap<&'static str, BTreeMap<LeaseKey, FencingToken>> {
    let tokens = |name| (name, fleet.view().tokens(name));
    MEMBERS.into_iter().map(tokens).collect()
}

fn each_store(fleet: &Fleet, spoil: impl Fn(&StoreFaults)) {
    for name in MEMBERS {
        spoil(&fleet.store_faults(name));
    }
}

/// Puts a record into every shard, and returns how long it takes until others than this member work on its shards.
async fn taken_over_from(fleet: &Fleet, name: &str, shards: &BTreeSet<LeaseKey>) -> Duration {
    assert!(!shards.is_empty());
    fleet.put(200);
    fleet
        .wait_until("others work on the shards", 120 * SECOND, |view| {
            shards
                .iter()
                .all(|shard| view.busy_with(shard).is_some_and(|busy| busy != name))
        })
        .await
}

fn leader(fleet: &Fleet) -> String {
    fleet.view().leader().expect("a leader")
}

fn follower(fleet: &Fleet) -> &'static str {
    let leader = leader(fleet);
    MEMBERS
        .into_iter()
        .find(|name| *name != leader)
        .expect("a follower")
}

#[test]
fn three_workers_share_a_stream_evenly() {
    simulate(1, async |fleet| {
        fleet.put(100);
        three_workers(&fleet).await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().finished, 100);
    });
}

#[test]
fn a_worker_that_comes_later_gets_its_share_without_a_record_delivered_twice() {
    Simulation::new(2).shards(6).run(async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.produce(SECOND / 20, 10);
        balanced(&fleet, &["a"]).await;
        fleet.start_worker("b", fleet.settings());
        balanced(&fleet, &["a", "b"]).await;
        fleet.start_worker("c", fleet.settings());
        balanced(&fleet, &MEMBERS).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn the_crash_of_a_worker_that_does_not_lead_is_failed_over_within_two_seconds_beyond_the_failover_time() {
    for seed in 0..10 {
        simulate(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.put(100);
            fleet.settle().await;
            let victim = follower(&fleet);
            let orphans = fleet.view().held(victim);
            fleet.sleep(Duration::from_millis(137 * seed)).await;
            fleet.kill(victim);
            let took = taken_over_from(&fleet, victim, &orphans).await;
            fleet.settle().await;
            assert!(
                took <= fleet.settings().failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn the_crash_of_the_leader_is_failed_over_as_fast() {
    for seed in 0..10 {
        simulate(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.put(100);
            fleet.settle().await;
            let victim = leader(&fleet);
            let orphans = fleet.view().held(&victim);
            fleet.sleep(Duration::from_millis(137 * seed)).await;
            fleet.kill(&victim);
            let took = taken_over_from(&fleet, &victim, &orphans).await;
            fleet.settle().await;
            assert!(
                took <= fleet.settings().failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn a_split_a_merge_and_a_crash_with_three_workers_lose_nothing() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how much real time the virtual time costs is the point"
    )]
    let real = std::time::Instant::now;
    let begun = real();
    let virtually = simulate(4, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 10, 20);
        fleet.sleep(2 * SECOND).await;
        let shards = fleet.open_shards();
        fleet.split(&shards[0]).unwrap();
        fleet.sleep(SECOND).await;
        fleet.merge(&shards[1], &shards[2]).unwrap();
        fleet.sleep(SECOND / 2).await;
        fleet.kill(follower(&fleet));
        fleet.sleep(8 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!(tally.finished, tally.put);
        assert_eq!(fleet.open_shards().len(), 4);
        fleet.now().since_origin()
    });
    let took = real() - begun;
    println!("{virtually:?} of three workers with a split, a merge and a crash took {took:?}");
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn a_worker_that_is_asked_to_stop_hands_over_without_a_record_delivered_twice() {
    simulate(5, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 20, 10);
        fleet.sleep(3 * SECOND).await;
        for name in [leader(&fleet).as_str(), follower(&fleet)] {
            let begun = fleet.now();
            let report = fleet.drain(name).await.unwrap();
            assert!(report.is_clean(), "{report:?}");
            assert!(fleet.now().saturating_since(begun) < 5 * SECOND);
            fleet.sleep(3 * SECOND).await;
            if name == "a" {
                break;
            }
        }
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn a_worker_frozen_for_three_failover_times_writes_nothing_and_delivers_nothing_after_its_deadline() {
    for seed in 0..5 {
        simulate(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 20, 10);
            fleet.sleep(2 * SECOND).await;
            let frozen = if seed % 2 == 0 {
                leader(&fleet)
            } else {
                follower(&fleet).to_owned()
            };
            let before = fleet.view().tokens(&frozen);
            fleet.freeze(&frozen);
            fleet.sleep(3 * fleet.settings().failover_time).await;
            let orphans: BTreeSet<_> = before.keys().cloned().collect();
            for shard in &orphans {
                assert_ne!(fleet.view().busy_with(shard), Some(frozen.clone()), "seed {seed}");
            }
            fleet.thaw(&frozen);
            fleet.sleep(SECOND).await;
            let after = fleet.view().tokens(&frozen);
            assert!(
                before.iter().all(|(key, token)| after.get(key) != Some(token)),
                "seed {seed}"
            );
            balanced(&fleet, &MEMBERS).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
        });
    }
}

#[test]
fn an_outage_of_the_lease_store_moves_no_lease_however_long_it_is() {
    for link in [Link::Refusing, Link::RequestsLost, Link::RepliesLost] {
        for seconds in [1, 4, 5, 12, 100] {
            simulate(seconds, async |fleet| {
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
fn a_renewal_whose_reply_is_lost_is_not_a_lost_lease() {
    simulate(8, async |fleet| {
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
fn a_renewal_found_late_is_believed_from_when_it_was_sent_and_not_from_when_it_was_found() {
    for tenths in 0..20 {
        simulate(8, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            fleet.put(100);
            fleet.settle().await;
            // The next renewal lands, and its worker does not learn of it for a whole failover time.
            fleet.store_faults("a").set_link(Link::RepliesLost);
            fleet.sleep(fleet.settings().failover_time * tenths / 10).await;
            fleet.freeze("a");
            fleet.sleep(fleet.settings().failover_time).await;
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
fn renewals_that_arrive_late_move_no_lease_as_long_as_they_arrive_in_time() {
    simulate(9, async |fleet| {
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
fn a_processor_that_fails_holds_its_shard_and_nothing_is_skipped() {
    simulate(10, async |fleet| {
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
fn after_a_panic_records_are_delivered_again_from_the_checkpoint() {
    simulate(11, async |fleet| {
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
fn a_source_that_hangs_is_opened_again_when_it_gives_no_proof_of_life() {
    simulate(12, async |fleet| {
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
            took <= settings.stall_timeout + settings.failover_time,
            "{took:?}"
        );
        assert_eq!(source.calls(StreamCall::Open), opened + u64::from(readers));
        assert_eq!(tokens(&fleet), before);
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

/// Opening it again is no progress of its own: a worker that cannot read gives its shards to others.
#[test]
fn a_source_that_hangs_for_ever_costs_the_worker_its_leases() {
    simulate(17, async |fleet| {
        three_workers(&fleet).await;
        fleet
            .source_faults("a")
            .add(StreamFaultRule::every(StreamCall::Next, StreamFault::Hang));
        fleet.put(100);
        let settings = fleet.settings();
        let tries = settings.stall_tries + 2;
        fleet
            .wait_until(
                "the others have everything",
                settings.stall_timeout * tries,
                |view| view.held("a").is_empty(),
            )
            .await;
        fleet.settle().await;
    });
}

#[test]
fn a_start_at_the_newest_record_loses_nothing_put_after_it_although_a_worker_opens_late() {
    let settings = Settings {
        initial_position: InitialPosition::Latest,
        failover_time: 4 * SECOND,
        ..Settings::default()
    };
    Simulation::new(13).settings(settings).run(async |fleet| {
        fleet.put(100);
        fleet.sleep(60 * SECOND).await;
        fleet.start_worker("a", fleet.settings());
        fleet
            .wait_until("the leases are created", 10 * SECOND, |view| {
                view.leases().len() == 4
            })
            .await;
        fleet.put(100);
        fleet.kill("a");
        fleet.sleep(60 * SECOND).await;
        fleet.put(100);
        fleet.start_worker("b", fleet.settings());
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!((tally.put, tally.finished, tally.delivered), (200, 200, 200));
    });
}

#[test]
fn of_two_workers_with_one_id_the_older_stops_and_says_why() {
    simulate(14, async |fleet| {
        fleet.start(Member::named("old").worker_id("w"));
        fleet.produce(SECOND / 10, 10);
        balanced(&fleet, &["old"]).await;
        fleet.start(Member::named("new").worker_id("w"));
        let error = fleet.stopped("old").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Superseded);
        assert!(
            error.to_string().contains("\"w\"") || error.to_string().contains('w'),
            "{error}"
        );
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().held("new").len(), 4);
    });
}

#[test]
fn a_leader_that_was_frozen_beyond_its_tenure_assigns_again_when_nobody_took_the_lock() {
    for tenths in 5..20 {
        simulate(18, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            balanced(&fleet, &["a"]).await;
            fleet.freeze("a");
            fleet.sleep(fleet.settings().failover_time * tenths / 10).await;
            fleet.thaw("a");
            fleet.sleep(SECOND).await;
            fleet.start_worker("b", fleet.settings());
            balanced(&fleet, &["a", "b"]).await;
        });
    }
}

/// A fleet with a member whose clock is this wrong, and which loses its connection to the lease store.
fn cut_off_with_a_slow_clock(rate_ppm: i32) {
    simulate(16, async |fleet| {
        let slow = Skew {
            rate_ppm,
            ..Skew::default()
        };
        fleet.start(Member::named("a").skew(slow));
        fleet.start_worker("b", fleet.settings());
        balanced(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 20, 10);
        fleet.sleep(2 * SECOND).await;
        fleet.store_faults("a").set_link(Link::Refusing);
        fleet.sleep(20 * SECOND).await;
        fleet.store_faults("a").set_link(Link::Up);
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
    });
}

#[test]
fn a_worker_cut_off_from_the_store_stops_before_the_next_begins_even_with_a_clock_five_per_cent_too_slow() {
    cut_off_with_a_slow_clock(-50_000);
}

#[test]
#[should_panic(expected = "I7")]
fn a_clock_slower_than_the_margin_allows_is_found_by_the_oracle() {
    cut_off_with_a_slow_clock(-500_000);
}

#[test]
#[should_panic(expected = "I4")]
fn a_write_that_the_store_should_not_have_accepted_is_found_by_the_oracle() {
    simulate(17, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        balanced(&fleet, &["a"]).await;
        // Behind the oracle's back: the next write that it sees is based on a version that it does not know.
        let lease = fleet.view().leases().remove(0);
        let renew = LeaseChange::Renew {
            throughput: None,
            facts: RowFacts::NONE,
        };
        let incarnation = lease.stamp.unwrap().incarnation;
        let expect = Expect::Version(lease.version());
        let written = fleet
            .store()
            .change(&lease.key, &expect, &renew, incarnation)
            .await;
        assert!(matches!(written, Ok(Outcome::Applied(_))));
        fleet.sleep(20 * SECOND).await;
    });
}

#[test]
fn records_that_retention_takes_while_nobody_reads_are_counted_and_the_rest_is_processed() {
    simulate(15, async |fleet| {
        fleet.put(100);
        fleet.trim(&kcl_lease_memory::memory_stream::Trim::KeepLast(5));
        three_workers(&fleet).await;
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!((tally.finished, tally.trimmed_unfinished), (20, 80));
    });
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let run = |seed| {
        simulate(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 10, 20);
            fleet.sleep(SECOND).await;
            let shards = fleet.open_shards();
            fleet.split(&shards[0]).unwrap();
            fleet.sleep(SECOND).await;
            fleet.kill("b");
            fleet.sleep(10 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
            fleet.trace_hash()
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_scenario_in_which_an_invariant_is_broken_ends_there_and_tells_which() {
    let simulation = Simulation::new(1).trace_lines(0);
    let outcome: Result<(), _> = simulation.attempt(async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.settle().await;
        // Somebody takes a lease from its owner, which is the owner's to give.
        let lease = fleet.view().leases().swap_remove(0);
        let seen = Expect::Version(lease.version());
        fleet
            .change_lease(&lease.key, seen, LeaseChange::Release)
            .await
            .unwrap();
        fleet.sleep(SECOND).await;
        unreachable!("the scenario goes no further");
    });
    let violation = outcome.unwrap_err();
    assert_eq!(violation.invariant, Invariant::SingleWriter);
}

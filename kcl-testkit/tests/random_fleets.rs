//! Fleets to which everything happens at random, and which are whole again once it stops.
//!
//! `KCL_TEST_SEEDS=1000` runs a thousand of them; `KCL_TEST_SEED=42` only that one; `KCL_TEST_TRACE=1000`
//! shows the last thousand events of one that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::rng::Rng;
use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_testkit::clock::Skew;
use kcl_testkit::faults::{Fault, Link, Operation};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Member, Simulation};

const MEMBERS: [&str; 4] = ["a", "b", "c", "d"];

/// A processor that is slow, fails or panics now and then, for as long as times are bad.
struct Moody {
    fleet: Fleet,
    rng: Rng,
    bad_times: Arc<AtomicBool>,
}

#[async_trait]
impl RecordProcessor for Moody {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if !self.bad_times.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.rng.below(40) {
            0 => {
                self.fleet
                    .sleep(Duration::from_millis(self.rng.below(9000)))
                    .await
            }
            1 => return Err(ProcessorError::from(Unwell)),
            2 => {
                let index = usize::try_from(self.rng.below(batch.len() as u64)).unwrap();
                return Err(ProcessorError::from(Unwell).at(&batch[index]));
            }
            // A panic that tells nobody but its worker.
            3 => std::panic::resume_unwind(Box::new("a bug of the user's")),
            _ => {}
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the sink is unwell")]
struct Unwell;

/// A fleet and the misfortunes that befall it.
struct Fate {
    fleet: Fleet,
    rng: Rng,
    bad_times: Arc<AtomicBool>,
    alive: BTreeSet<&'static str>,
    frozen: BTreeSet<&'static str>,
}

impl Fate {
    fn start(&mut self, name: &'static str) {
        let skew = Skew {
            wall_offset_millis: self.between(0, 172_800_000) - 86_400_000,
            rate_ppm: i32::try_from(self.between(0, 100_000) - 50_000).unwrap(),
            uptime: Duration::from_secs(self.rng.below(1_000_000)),
        };
        let (fleet, bad_times) = (self.fleet.clone(), Arc::clone(&self.bad_times));
        let moods = self.rng.child(name);
        let processor = move |shard: &ShardContext| Moody {
            fleet: fleet.clone(),
            rng: moods.child(&format!("{} {}", shard.shard(), shard.fencing_token())),
            bad_times: Arc::clone(&bad_times),
        };
        self.fleet
            .start(Member::named(name).skew(skew).processor(processor));
        self.alive.insert(name);
    }

    fn between(&mut self, least: u64, most: u64) -> i64 {
        i64::try_from(least + self.rng.below(most - least + 1)).unwrap()
    }

    fn one_of<T: Clone>(&mut self, choice: &[T]) -> Option<T> {
        let index = self.rng.below(choice.len() as u64);
        choice.get(usize::try_from(index).unwrap()).cloned()
    }

    fn somebody(&mut self) -> Option<&'static str> {
        let alive: Vec<_> = self.alive.iter().copied().collect();
        self.one_of(&alive)
    }

    /// Something happens.
    async fn strike(&mut self) {
        let Some(name) = self.somebody() else {
            return self.start("a");
        };
        match self.rng.below(15) {
            0 => {
                self.fleet.kill(name);
                self.alive.remove(name);
                self.frozen.remove(name);
            }
            1 | 2 => {
                let dead = MEMBERS.into_iter().find(|name| !self.alive.contains(name));
                if let Some(dead) = dead {
                    self.start(dead);
                }
            }
            3 if !self.frozen.contains(name) => {
                self.fleet.freeze(name);
                self.frozen.insert(name);
            }
            4 => self.thaw(),
            5 if !self.frozen.contains(name) && self.alive.len() > 1 => {
                self.mend(name);
                self.alive.remove(name);
                // A shard whose end cannot be stored yet, since its co-parent has no lease, is given up when the time is up.
                let report = self.fleet.drain(name).await.unwrap();
                let settings = self.fleet.settings();
                assert!(
                    report.took <= settings.drain_timeout + settings.failover_time,
                    "{report:?}"
                );
            }
            6 => {
                let shards = self.fleet.open_shards();
                if shards.len() < 8
                    && let Some(shard) = self.one_of(&shards)
                {
                    self.fleet.split(&shard).unwrap();
                }
            }
            7 => {
                let shards = self.fleet.open_shards();
                let (first, second) = (self.one_of(&shards), self.one_of(&shards));
                if let (Some(first), Some(second)) = (first, second)
                    && first != second
                {
                    // Not adjacent, perhaps.
                    let _ = self.fleet.merge(&first, &second);
                }
            }
            8 => {
                let link = [Link::Up, Link::Refusing, Link::RequestsLost, Link::RepliesLost];
                let link = self.one_of(&link).unwrap();
                self.fleet.store_faults(name).set_link(link);
            }
            9 => self
                .fleet
                .store_faults(name)
                .once(Operation::Change, Fault::LoseReply),
            10 => {
                let late = Fault::DelayRequest(Duration::from_millis(self.rng.below(10_000)));
                self.fleet.store_faults(name).once(Operation::Change, late);
            }
            11 => {
                let kinds = [SourceErrorKind::Unavailable, SourceErrorKind::Throttled];
                let fault = StreamFault::Fail(self.one_of(&kinds).unwrap());
                self.strike_source(name, 1000, fault);
            }
            12 => self.strike_source(name, 2, StreamFault::Hang),
            13 => self.strike_source(name, 3, StreamFault::LoseReply),
            _ => self.mend(name),
        }
    }

    fn strike_source(&self, name: &str, times: u32, fault: StreamFault) {
        let rule = StreamFaultRule::next(times, StreamCall::Next, fault);
        self.fleet.source_faults(name).add(rule);
    }

    fn thaw(&mut self) {
        for name in std::mem::take(&mut self.frozen) {
            self.fleet.thaw(name);
        }
    }

    fn mend(&self, name: &str) {
        self.fleet.store_faults(name).set_link(Link::Up);
        self.fleet.source_faults(name).clear();
    }

    /// Everything is well again.
    fn heal(&mut self) {
        self.bad_times.store(false, Ordering::Relaxed);
        self.thaw();
        for name in self.alive.clone() {
            self.mend(name);
        }
        for name in ["a", "b"] {
            if !self.alive.contains(name) {
                self.start(name);
            }
        }
    }
}

async fn live(fleet: Fleet, seed: u64) {
    let mut fate = Fate {
        rng: Rng::from_seed(seed).child("fate"),
        fleet: fleet.clone(),
        bad_times: Arc::new(AtomicBool::new(true)),
        alive: BTreeSet::new(),
        frozen: BTreeSet::new(),
    };
    for name in ["a", "b", "c"] {
        fate.start(name);
    }
    fleet.produce(Duration::from_millis(100), 10);
    for _ in 0..30 {
        let pause = Duration::from_millis(fate.rng.below(4000));
        fleet.sleep(pause).await;
        fate.strike().await;
    }
    fate.heal();
    fleet.sleep(Duration::from_secs(5)).await;
    fleet.stop_producing();
    fleet.settle().await;
    let tally = fleet.view().tally();
    assert_eq!(tally.finished, tally.put);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_happens_at_random_every_invariant_holds_and_the_fleet_recovers() {
    let lines = setting("KCL_TEST_TRACE").map_or(60, |lines| usize::try_from(lines).unwrap());
    let seeds = match setting("KCL_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("KCL_TEST_SEEDS").unwrap_or(40),
    };
    for seed in seeds {
        let shards = 2 + u32::try_from(seed % 4).unwrap();
        // Short enough that all of them are met.
        let settings = Settings {
            failover_time: Duration::from_secs(4),
            stall_timeout: Duration::from_secs(5),
            stall_tries: 2,
            handoff_timeout: Duration::from_secs(6),
            drain_timeout: Duration::from_secs(8),
            ..Settings::default()
        };
        Simulation::new(seed)
            .settings(settings)
            .shards(shards)
            .trace_lines(lines)
            .run(async |fleet| live(fleet, seed).await);
    }
}

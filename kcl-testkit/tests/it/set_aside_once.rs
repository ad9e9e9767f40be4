//! Records that are set aside among others that wait, fail or come again: each once, and nothing beside them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{
    FailedCall, LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, Retries, ShardContext,
};
use kcl_core::types::RecordPosition;
use kcl_testkit::fleet::{Fleet, Member};
use kcl_testkit::{ProcessorBench, SinkFault, simulate_fleet};

const SECOND: Duration = Duration::from_secs(1);

/// The text of a payload: with "named" it fails at that record, with "unnamed" without saying where, with "panic" it panics.
struct Literal;

#[async_trait]
impl RecordProcessor for Literal {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            match &record.data()[..] {
                b"named" => return Err(ProcessorError::poison("no truck").at(record)),
                b"unnamed" => return Err(ProcessorError::poison("no truck")),
                b"panic" => std::panic::resume_unwind(Box::new("no truck")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn dead_letters() -> Policy {
    Policy::new(LastResort::DeadLetter)
}

/// An aggregated record whose message ends in the middle of a field.
fn unreadable() -> Vec<u8> {
    let message = [0x1a_u8, 99, 0x08];
    let digest = <md5::Md5 as md5::Digest>::digest(message);
    [&[0xf3, 0x89, 0x9a, 0xc2][..], &message, &digest].concat()
}

#[test]
fn one_bad_of_ten_thousand_gives_one_letter() {
    for reaction in ["named", "unnamed", "panic"] {
        simulate_fleet(7, async |fleet| {
            for name in ["a", "b"] {
                fleet.start(
                    Member::named(name)
                        .processor(|_: &ShardContext| Literal)
                        .error_policy(dead_letters()),
                );
            }
            fleet.put(6000);
            fleet.put_record("truck-7", reaction);
            fleet.put(3999);
            fleet.sleep(SECOND).await;
            // Whatever moves, the letter is there once.
            let shards = fleet.open_shards();
            fleet.split(&shards[0]).unwrap();
            fleet.settle().await;
            let tally = fleet.view().tally();
            assert_eq!(
                (tally.put, tally.finished, tally.set_aside),
                (10_000, 10_000, 1),
                "{reaction}"
            );
            let letters = fleet.dead_letters().letters();
            assert_eq!(letters.len(), 1, "{reaction}");
            assert_eq!(letters[0].record.data(), reaction);
        });
    }
}

/// How many letters each ownership had acknowledged for each record.
fn acknowledged(fleet: &Fleet) -> BTreeMap<(RecordPosition, u64), u32> {
    let mut counts = BTreeMap::new();
    for letter in fleet.dead_letters().letters() {
        let key = (letter.record.position().clone(), letter.fencing_token.as_u64());
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[test]
fn each_ownership_that_meets_poison_sends_once() {
    simulate_fleet(3, async |fleet| {
        let member = |name| {
            Member::named(name)
                .processor(|_: &ShardContext| Literal)
                .error_policy(dead_letters())
        };
        fleet.start(member("a"));
        fleet.put(100);
        fleet.settle().await;
        // The letter is acknowledged, and the checkpoint behind it never stored: the next owner meets the record again.
        fleet
            .store_faults("a")
            .set_link(kcl_testkit::faults::Link::Refusing);
        fleet.put_record("truck-7", "named");
        fleet.sleep(SECOND).await;
        assert_eq!(fleet.dead_letters().letters().len(), 1);
        fleet.kill("a");
        fleet.start(member("b"));
        fleet.settle().await;
        let counts = acknowledged(&fleet);
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn sink_that_is_down_holds_one_shard() {
    for fault in [
        SinkFault::Refuse,
        SinkFault::Hang,
        SinkFault::LoseAnswer,
        SinkFault::AnswerLate(40 * SECOND),
    ] {
        simulate_fleet(5, async |fleet| {
            fleet.start(
                Member::named("a")
                    .processor(|_: &ShardContext| Literal)
                    .error_policy(dead_letters()),
            );
            fleet.put(100);
            fleet.settle().await;
            fleet.dead_letters().inject_always(fault);
            fleet.put_record("truck-7", "unnamed");
            fleet.put(400);
            fleet.sleep(300 * SECOND).await;
            let tally = fleet.view().tally();
            assert_eq!(tally.set_aside, 0, "{fault:?}");
            assert!((300..501).contains(&tally.finished), "{fault:?}: {tally:?}");
            fleet.dead_letters().recover();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().set_aside, 1, "{fault:?}");
        });
    }
}

#[test]
fn unreadable_record_behind_poison_is_set_aside_too() {
    let mut bench = ProcessorBench::of(|_: &ShardContext| Literal)
        .error_policy(dead_letters())
        .start();
    bench.dead_letters().fail_next(3);
    for data in [&b"before"[..], b"named", &unreadable(), b"after"] {
        bench.put("truck", data.to_vec());
    }
    bench.until_finished();
    let letters = bench.dead_letters().letters();
    let calls: Vec<_> = letters.iter().map(|letter| letter.call).collect();
    assert_eq!(calls, [FailedCall::ProcessRecords, FailedCall::Unpack]);
    assert_eq!(letters[1].record.data(), &unreadable());
}

#[test]
fn unreadable_record_sends_once_whoever_panics_later() {
    let mut settings = kcl_core::settings::Settings::default();
    // Nothing is stored meanwhile, so that all comes again.
    settings.checkpoints.interval = 600 * SECOND;
    let mut bench = ProcessorBench::of(|_: &ShardContext| Literal)
        .error_policy(dead_letters())
        .settings(settings)
        .start();
    for data in [&b"before"[..], &unreadable(), b"panic", b"after"] {
        bench.put("truck", data.to_vec());
    }
    bench.until_finished();
    let letters = bench.dead_letters().letters();
    let calls: Vec<_> = letters.iter().map(|letter| letter.call).collect();
    assert_eq!(calls, [FailedCall::Unpack, FailedCall::ProcessRecords]);
}

/// Fails by its sink for a while, and once by a bug.
struct Unlucky(Arc<AtomicU32>);

#[async_trait]
impl RecordProcessor for Unlucky {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0..20 => Err(ProcessorError::transient("the sink is down").at(&batch[0])),
            20 => Err(ProcessorError::from("a blip").at(&batch[0])),
            _ => Ok(()),
        }
    }
}

#[test]
fn sink_that_was_down_costs_no_attempts() {
    let calls = Arc::new(AtomicU32::new(0));
    let policy = dead_letters().unspecified(
        Retries::at_most(2).for_at_most(60 * SECOND),
        LastResort::DeadLetter,
    );
    let mut bench = ProcessorBench::of(move |_: &ShardContext| Unlucky(Arc::clone(&calls)))
        .error_policy(policy)
        .start();
    bench.put("truck", "good");
    bench.until_finished();
    assert_eq!(bench.dead_letters().letters(), []);
}

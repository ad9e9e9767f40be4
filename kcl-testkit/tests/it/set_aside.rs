//! Records that fail: they are found among their neighbours, set aside as the policy says, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, Moment, TokioClock};
use kcl_core::processor::{
    Decision, ErrorPolicy, FailedCall, Failure, LastResort, Policy, ProcessorError, RecordBatch,
    RecordProcessor, Retries, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::status::WaitReason;
use kcl_core::types::{Record, RecordPosition, ShardId};
use kcl_core::{ErrorKind, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::{BenchBuilder, BenchCall, ProcessorBench};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The answer of a processor to a record that begins with "poison".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Names,
    Fails,
    Panics,
}

/// Fails on poison until it is cured.
#[derive(Clone)]
struct Picky {
    reaction: Reaction,
    cured: Arc<AtomicBool>,
    manual: bool,
}

impl Picky {
    fn new(reaction: Reaction) -> Self {
        Self {
            reaction,
            cured: Arc::default(),
            manual: false,
        }
    }
}

#[async_trait]
impl RecordProcessor for Picky {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let is_poison =
            |record: &&Record| record.data().starts_with(b"poison") && !self.cured.load(Ordering::SeqCst);
        if let Some(at) = batch.iter().position(|record| is_poison(&record)) {
            let poison = &batch[at];
            if self.manual && at > 0 {
                drop(batch.checkpoint_through(at - 1).await);
            }
            match self.reaction {
                Reaction::Names => return Err(ProcessorError::poison("no truck").at(poison)),
                Reaction::Fails => return Err(ProcessorError::poison("no truck")),
                Reaction::Panics => panic!("no truck"),
            }
        }
        if self.manual {
            drop(batch.checkpoint().await);
        }
        Ok(())
    }
}

fn bench(picky: Picky, policy: impl ErrorPolicy) -> BenchBuilder {
    ProcessorBench::of(move |_: &ShardContext| picky.clone()).error_policy(policy)
}

/// Puts so many records, poison at these indices, and returns the position of each.
fn put(bench: &mut ProcessorBench, count: usize, poison: &[usize]) -> Vec<RecordPosition> {
    let one = |n| {
        let payload = if poison.contains(&n) {
            format!("poison {n}")
        } else {
            n.to_string()
        };
        RecordPosition::plain(bench.put("truck", payload))
    };
    (0..count).map(one).collect()
}

fn set_aside(bench: &ProcessorBench) -> Vec<RecordPosition> {
    let letters = bench.dead_letters().letters();
    letters
        .iter()
        .map(|letter| letter.record.position().clone())
        .collect()
}

fn offers(calls: &[BenchCall]) -> Vec<&BenchCall> {
    calls
        .iter()
        .filter(|call| call.method == "process_records")
        .collect()
}

/// Every record but the poison is processed once, in order. Of a call that failed, those before the record that it named are.
fn assert_processed(bench: &ProcessorBench, put: &[RecordPosition], poison: &[usize], names: bool) {
    let is_poison = |position: &RecordPosition| poison.iter().any(|n| put[*n] == *position);
    let mut done = Vec::new();
    for call in offers(&bench.calls()) {
        let count = match (&call.error, names) {
            (None, _) => call.records.len(),
            (Some(_), true) => call
                .records
                .iter()
                .take_while(|position| !is_poison(position))
                .count(),
            (Some(_), false) => 0,
        };
        done.extend(call.records[..count].iter().cloned());
    }
    let good = put.iter().enumerate().filter(|(n, _)| !poison.contains(n));
    assert_eq!(
        done,
        good.map(|(_, position)| position.clone()).collect::<Vec<_>>()
    );
}

#[test]
fn poison_is_set_aside_and_neighbours_are_processed() {
    for reaction in [Reaction::Names, Reaction::Fails] {
        for poison in [&[0][..], &[99], &[41], &[41, 42], &[7, 40, 41, 99]] {
            let mut bench = bench(Picky::new(reaction), Policy::new(LastResort::DeadLetter)).start();
            let put = put(&mut bench, 100, poison);
            bench.until_finished();
            let expected: Vec<_> = poison.iter().map(|n| put[*n].clone()).collect();
            assert_eq!(set_aside(&bench), expected, "{reaction:?} {poison:?}");
            assert_processed(&bench, &put, poison, reaction == Reaction::Names);
            let status = bench.status().leases.into_values().next().unwrap();
            assert_eq!((status.dead_letters, status.skipped), (poison.len() as u64, 0));
            assert_eq!(status.failing, None);
        }
    }
}

/// The bound is 2·log2(n) + 2 calls for n records.
#[test]
fn poison_is_isolated_in_few_calls() {
    let count = 1000;
    for place in [0, 1, 499, 500, 731, 998, 999] {
        let picky = Picky::new(Reaction::Fails);
        let mut bench = bench(picky, Policy::new(LastResort::DeadLetter)).start();
        // A processor whose calls are known to be fast is offered whole batches.
        for n in 0..2000 {
            bench.put("truck", n.to_string());
        }
        bench.until_finished();
        bench.forget_calls();
        put(&mut bench, count, &[place]);
        bench.until_finished();
        let calls = bench.calls();
        let failed = offers(&calls)
            .into_iter()
            .position(|call| call.error.is_some())
            .unwrap();
        let isolated = |call: &BenchCall| call.records.len() == 1 && call.error.is_some();
        let until = offers(&calls).into_iter().position(isolated).unwrap();
        assert_eq!(offers(&calls)[failed].records.len(), count, "{place}");
        assert!(until - failed <= 21, "{place}: {} calls", until - failed);
    }
}

#[test]
fn poison_that_panics_is_set_aside_once() {
    let poison = [3, 30];
    let mut bench = bench(Picky::new(Reaction::Panics), Policy::new(LastResort::DeadLetter)).start();
    let put = put(&mut bench, 60, &poison);
    bench.until_finished();
    let expected: Vec<_> = poison.iter().map(|n| put[*n].clone()).collect();
    assert_eq!(set_aside(&bench), expected);
    assert!(
        bench
            .dead_letters()
            .letters()
            .iter()
            .all(|letter| letter.panicked && letter.attempts == 5)
    );
}

#[test]
fn default_policy_sets_nothing_aside() {
    let picky = Picky::new(Reaction::Names);
    let cured = Arc::clone(&picky.cured);
    let mut bench = bench(picky, Policy::default()).start();
    let put = put(&mut bench, 20, &[7]);
    bench.run(3600 * SECOND);
    assert_eq!(bench.finished().len(), 7);
    let status = bench.status().leases.into_values().next().unwrap();
    assert_eq!(status.failing.as_ref(), Some(&put[7]));
    cured.store(true, Ordering::SeqCst);
    bench.until_finished();
    assert_eq!(set_aside(&bench), []);
    assert_eq!(bench.status().leases.into_values().next().unwrap().failing, None);
    let calls = bench.calls();
    let again = |call: &BenchCall| call.records.first() == Some(&put[7]) && call.error.is_none();
    assert!(
        offers(&calls).into_iter().any(again),
        "the record comes again, and nothing before it"
    );
}

#[test]
fn position_waits_for_sink_to_acknowledge() {
    for hangs in [false, true] {
        let mut bench = bench(Picky::new(Reaction::Names), Policy::new(LastResort::DeadLetter)).start();
        match hangs {
            true => bench.dead_letters().hang(),
            false => bench.dead_letters().fail(),
        }
        put(&mut bench, 20, &[7]);
        bench.run(600 * SECOND);
        assert_eq!(
            bench.finished().len(),
            7,
            "nothing passes a record whose letter is not acknowledged"
        );
        let status = bench.status().leases.into_values().next().unwrap();
        assert_eq!(
            status.waiting.map(|(reason, _)| reason),
            Some(WaitReason::DeadLetter)
        );
        let refused = bench.dead_letters().refused();
        assert!((10..60).contains(&refused), "{refused} tries in ten minutes");
        bench.dead_letters().recover();
        bench.until_finished();
        assert_eq!(set_aside(&bench).len(), 1);
    }
}

#[test]
fn next_owner_sets_aside_what_was_not_acknowledged() {
    let mut bench = bench(Picky::new(Reaction::Names), Policy::new(LastResort::DeadLetter)).start();
    bench.dead_letters().fail();
    put(&mut bench, 20, &[7]);
    bench.run(30 * SECOND);
    bench.hand_over();
    bench.run(30 * SECOND);
    bench.kill();
    bench.run(30 * SECOND);
    assert_eq!(bench.finished().len(), 7);
    bench.dead_letters().recover();
    bench.until_finished();
    assert_eq!(set_aside(&bench).len(), 1);
}

#[test]
fn skip_is_counted_and_sends_nothing() {
    let mut bench = bench(Picky::new(Reaction::Fails), Policy::new(LastResort::Skip)).start();
    let put = put(&mut bench, 50, &[20]);
    bench.until_finished();
    assert_processed(&bench, &put, &[20], false);
    assert_eq!(set_aside(&bench), []);
    let status = bench.status().leases.into_values().next().unwrap();
    assert_eq!((status.dead_letters, status.skipped), (0, 1));
}

#[test]
fn attempts_count_for_each_record() {
    let policy = Policy::new(LastResort::DeadLetter).poison(Retries::at_most(3), LastResort::DeadLetter);
    let mut bench = bench(Picky::new(Reaction::Names), policy).start();
    let poison = [2, 3, 10];
    put(&mut bench, 20, &poison);
    bench.until_finished();
    let letters = bench.dead_letters().letters();
    assert_eq!(
        letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(),
        [3, 3, 3]
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.first_failure < letter.last_failure)
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.error == "no truck" && letter.call == FailedCall::ProcessRecords)
    );
}

#[test]
fn manual_checkpoints_pass_records_set_aside() {
    for poison in [&[7][..], &[19], &[0, 19]] {
        let mut picky = Picky::new(Reaction::Names);
        picky.manual = true;
        let mut settings = Settings::default();
        settings.checkpoints.mode = CheckpointMode::Manual;
        let mut bench = bench(picky, Policy::new(LastResort::DeadLetter))
            .settings(settings)
            .start();
        let put = put(&mut bench, 20, poison);
        bench.until_finished();
        assert_eq!(set_aside(&bench).len(), poison.len());
        assert_processed(&bench, &put, poison, true);
    }
}

#[test]
fn record_set_aside_last_lets_shard_end() {
    for manual in [false, true] {
        let mut picky = Picky::new(Reaction::Names);
        picky.manual = manual;
        let mut settings = Settings::default();
        if manual {
            settings.checkpoints.mode = CheckpointMode::Manual;
        }
        let mut bench = bench(picky, Policy::new(LastResort::DeadLetter))
            .settings(settings)
            .start();
        put(&mut bench, 5, &[4]);
        let shard = bench.stream().shards_snapshot()[0].shard.id.clone();
        bench.stream().split(&shard).unwrap();
        bench.until_finished();
        bench.wait_for(|status| status.leases.len() == 2);
        assert_eq!(set_aside(&bench).len(), 1);
    }
}

#[test]
fn unreadable_aggregate_is_set_aside_whole() {
    // The magic of an aggregated record, a message that ends in the middle of a field, and the digest of that message.
    let message = [0x1a_u8, 99, 0x08];
    let digest = <md5::Md5 as md5::Digest>::digest(message);
    let broken: Vec<u8> = [&[0xf3, 0x89, 0x9a, 0xc2][..], &message, &digest].concat();
    let mut bench = bench(Picky::new(Reaction::Names), Policy::new(LastResort::DeadLetter)).start();
    bench.put("truck", "before");
    bench.put("truck", broken.clone());
    bench.put("truck", "after");
    bench.until_finished();
    let letters = bench.dead_letters().letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].record.data(), &broken);
    assert_eq!(letters[0].call, FailedCall::Unpack);
    // The next owner does not stop at it either.
    bench.hand_over();
    bench.put("truck", "later");
    bench.until_finished();
    assert_eq!(bench.dead_letters().letters().len(), 1);
}

/// Decides one thing about every failure of `process_records`.
#[derive(Debug)]
struct Always(Decision);

impl ErrorPolicy for Always {
    fn decide(&self, _: &Failure<'_>) -> Decision {
        self.0.clone()
    }
}

#[test]
fn hold_makes_no_other_try() {
    let mut bench = bench(Picky::new(Reaction::Names), Always(Decision::Hold)).start();
    put(&mut bench, 20, &[7]);
    bench.run(24 * 3600 * SECOND);
    let failed = bench.calls().iter().filter(|call| call.error.is_some()).count();
    assert_eq!((failed, bench.finished().len()), (1, 7));
    bench.hand_over();
    bench.run(60 * SECOND);
    let failed = bench.calls().iter().filter(|call| call.error.is_some()).count();
    assert_eq!(failed, 2, "the next owner tries once");
}

#[test]
fn release_gives_the_lease_up() {
    let mut bench = bench(Picky::new(Reaction::Names), Always(Decision::Release)).start();
    put(&mut bench, 20, &[7]);
    bench.run(60 * SECOND);
    let calls = bench.calls();
    assert!(calls.iter().any(|call| call.method == "shutdown_requested"));
    // It is alone, so it gets the lease back, a third of the failover time of 4 s later.
    let tries = calls.iter().filter(|call| call.error.is_some()).count();
    assert!((10..=50).contains(&tries), "{tries} tries in a minute");
}

#[test]
fn stop_ends_the_worker_with_the_error() {
    let mut bench = bench(Picky::new(Reaction::Names), Always(Decision::Stop)).start();
    put(&mut bench, 20, &[7]);
    bench.run(60 * SECOND);
    let ended = bench.end();
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Processing);
    assert!(error.cause().is_some(), "the error of the processor");
    assert!(error.to_string().contains("no truck"), "{error}");
    assert_eq!(bench.finished().len(), 7, "what is finished is stored");
}

#[test]
fn decision_that_does_not_fit_is_a_retry() {
    let picky = Picky::new(Reaction::Names);
    let cured = Arc::clone(&picky.cured);
    let mut bench = bench(picky, Always(Decision::Bisect)).start();
    put(&mut bench, 1, &[0]);
    bench.run(100 * SECOND);
    let tries = bench.calls().iter().filter(|call| call.error.is_some()).count();
    assert!((3..=5).contains(&tries), "{tries}");
    cured.store(true, Ordering::SeqCst);
    bench.until_finished();
}

/// Says that a record failed which it was never given.
struct Confused;

#[async_trait]
impl RecordProcessor for Confused {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let other = Record::new(
            kcl_core::types::SequenceNumber::from(u128::MAX),
            "never delivered",
        );
        match batch.len() {
            1 => Ok(()),
            _ => Err(ProcessorError::poison("confused").at(&other)),
        }
    }
}

#[test]
fn record_that_was_not_delivered_finishes_nothing() {
    let mut bench = ProcessorBench::of(|_: &ShardContext| Confused)
        .error_policy(Policy::new(LastResort::DeadLetter))
        .start();
    let put = put(&mut bench, 8, &[]);
    bench.until_finished();
    assert_eq!(set_aside(&bench), []);
    assert_processed(&bench, &put, &[], false);
}

#[test]
fn policy_with_dead_letters_needs_a_sink() {
    let built = kcl_core::Worker::builder("app")
        .stream(MemoryStream::builder("trucks").build())
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Confused)
        .error_policy(Policy::new(LastResort::DeadLetter))
        .build();
    let error = built.unwrap_err();
    assert!(error.to_string().contains(".dead_letters("), "{error}");
}

/// Fails on one worker, as where a worker cannot reach its sink, and notes who began with which shard, and when.
struct Unlucky {
    begun: Begun,
}

type Begun = Arc<Mutex<Vec<(String, ShardId, Moment)>>>;

#[async_trait]
impl RecordProcessor for Unlucky {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let worker = shard.worker().to_string();
        let begun = (worker, shard.shard().clone(), TokioClock::new().now());
        self.begun.lock().unwrap().push(begun);
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, _: RecordBatch, shard: &ShardContext) -> Result<(), ProcessorError> {
        match shard.worker().as_str() {
            "a" => Err(ProcessorError::transient("no way to the sink from here")),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn released_lease_goes_to_luckier_worker() {
    let clock = TokioClock::new();
    let failover = Duration::from_secs(4);
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    for n in 0..100 {
        stream.put(format!("truck-{n}"), "position").unwrap();
    }
    let (leases, begun) = (MemoryLeaseStore::new(), Begun::default());
    let start = |id: &str| {
        let begun = Arc::clone(&begun);
        let mut settings = Settings::default();
        settings.leases.failover_time = failover;
        workers::builder("trucks")
            .worker_id(id)
            .stream(stream.clone())
            .lease_store(leases.clone())
            .settings(settings)
            .processor(move |_: &ShardContext| Unlucky {
                begun: Arc::clone(&begun),
            })
            .error_policy(Always(Decision::Release))
            .clock(Arc::new(clock))
            .build()
            .unwrap()
            .start()
    };
    let (a, b) = (start("a"), start("b"));
    let processed = |worker: &WorkerHandle| {
        worker
            .status()
            .leases
            .values()
            .map(|lease| lease.records)
            .sum::<u64>()
    };
    let mut most = 0;
    for _ in 0..120 {
        clock.sleep(SECOND).await;
        most = most.max(processed(&b));
    }
    for worker in [a, b] {
        worker.abort();
        worker.join().await.unwrap();
    }
    let begun = begun.lock().unwrap();
    let mut by_a: BTreeMap<&ShardId, Vec<Moment>> = BTreeMap::new();
    for (_, shard, at) in begun.iter().filter(|(worker, ..)| worker == "a") {
        by_a.entry(shard).or_default().push(*at);
    }
    let by_b: BTreeSet<_> = begun
        .iter()
        .filter(|(worker, ..)| worker == "b")
        .map(|(_, shard, _)| shard)
        .collect();
    assert_eq!(by_b.len(), 2, "the other worker has each shard in its turn");
    assert!(most > 0);
    for (shard, times) in by_a {
        let soonest = times
            .windows(2)
            .map(|pair| pair[1].saturating_since(pair[0]))
            .min();
        assert!(
            soonest.is_none_or(|soonest| soonest >= failover * 3),
            "{shard}: back after {soonest:?}"
        );
    }
}

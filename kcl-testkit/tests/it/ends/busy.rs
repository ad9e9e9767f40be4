//! Shards that are read slowly, or whose processor panics before anything was stored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{
    CheckpointError, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::source::{SourceError, SourceErrorKind, StartPosition};
use kcl_core::types::SequenceNumber;
use kcl_lease_memory::memory_stream::Trim;
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};

use crate::altered::Altered;
use crate::ends::bench::{Bench, SECOND, Seen, lease};

fn one_by_one() -> Settings {
    let mut settings = Settings::default();
    settings.reading.max_batch_records = 1;
    settings
}

/// Takes this long for a batch.
struct Slow {
    seen: Arc<Mutex<Seen>>,
    clock: TokioClock,
    takes: Duration,
}

#[async_trait]
impl RecordProcessor for Slow {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.clock.sleep(self.takes).await;
        self.seen.lock().unwrap().note(&batch);
        Ok(())
    }
}

/// That nothing is asked while the processor is busy says nothing about the shard.
#[tokio::test(start_paused = true)]
async fn slow_processor_puts_no_end_in_doubt() {
    let bench = Bench::new(1);
    let payloads = ["0", "1", "2", "3", "4", "5"];
    payloads.iter().for_each(|payload| bench.put(payload));
    bench.split();
    let late = StreamFault::Delay(SECOND);
    let faults = bench.source.faults();
    faults.add(StreamFaultRule::every(StreamCall::Next, late));
    let (seen, clock) = (Arc::clone(&bench.seen), bench.clock);
    let slow = move |_: &ShardContext| Slow {
        seen: Arc::clone(&seen),
        clock,
        takes: SECOND * 15,
    };
    let worker = bench.start_as(bench.source.clone(), one_by_one(), slow);
    for _ in 0..1200 {
        bench.clock.sleep(SECOND / 10).await;
        let leases = worker.status().leases;
        assert!(leases.values().all(|lease| lease.end_in_doubt.is_none()));
    }
    assert_eq!(bench.payloads(), payloads);
}

/// The first processor panics at its first batch. Each begins where it says.
struct Fickle {
    seen: Arc<Mutex<Seen>>,
    from: StartFrom,
    panics: bool,
}

#[async_trait]
impl RecordProcessor for Fickle {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        Ok(self.from.clone())
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        assert!(!self.panics, "as planned");
        self.seen.lock().unwrap().note(&batch);
        Ok(())
    }
}

type Begins = dyn Fn(&Bench) -> StartFrom;

#[tokio::test(start_paused = true)]
async fn new_processor_begins_where_it_says() {
    let late = |bench: &Bench| StartFrom::AtTimestamp(bench.stream.service_time());
    let all = |_: &Bench| StartFrom::TrimHorizon;
    let rows: [(&Begins, &Begins, &[&str]); 2] =
        [(&late, &all, &["0", "1", "2", "3"]), (&all, &late, &["2", "3"])];
    for (first, then, expected) in rows {
        let bench = Bench::new(1);
        ["0", "1"].iter().for_each(|payload| bench.put(payload));
        bench.sleep(60).await;
        let (first, then) = (first(&bench), then(&bench));
        ["2", "3"].iter().for_each(|payload| bench.put(payload));
        let (seen, begun) = (Arc::clone(&bench.seen), AtomicBool::new(false));
        let fickle = move |_: &ShardContext| {
            let is_first = !begun.swap(true, Ordering::Relaxed);
            Fickle {
                seen: Arc::clone(&seen),
                from: if is_first { first.clone() } else { then.clone() },
                panics: is_first,
            }
        };
        let _worker = bench.start_as(bench.source.clone(), Settings::default(), fickle);
        bench.processes(expected, 60).await;
    }
}

/// Nothing is stored yet, and retention takes the record at which reading began.
#[tokio::test(start_paused = true)]
async fn refused_first_record_goes_on_at_the_oldest() {
    let bench = Bench::new(1);
    bench.put("0");
    let oldest = Arc::<Mutex<Option<SequenceNumber>>>::default();
    let kept = Arc::clone(&oldest);
    let strict =
        Altered::of(bench.stream.clone()).opening(move |start| match (start, &*kept.lock().unwrap()) {
            (StartPosition::AtSequence(at), Some(oldest)) if at < oldest => {
                let message = "the position is too old";
                Err(SourceError::new(SourceErrorKind::Invalid, message))
            }
            _ => Ok(()),
        });
    let panics = Arc::new(AtomicBool::new(true));
    let (seen, panicking) = (Arc::clone(&bench.seen), Arc::clone(&panics));
    let fickle = move |_: &ShardContext| Fickle {
        seen: Arc::clone(&seen),
        from: StartFrom::Checkpoint,
        panics: panicking.load(Ordering::Relaxed),
    };
    let worker = bench.start_as(strict, Settings::default(), fickle);
    bench.sleep(60).await;
    ["1", "2"].iter().for_each(|payload| bench.put(payload));
    bench.stream.trim(&Trim::KeepLast(1));
    let last = bench.stream.put_log().pop().unwrap().1;
    *oldest.lock().unwrap() = Some(last.sequence_number().clone());
    panics.store(false, Ordering::Relaxed);
    bench.processes(&["2"], 300).await;
    assert!(lease(&worker).gap.is_some());
}

/// Keeps its batches; the first processor panics at the first of them.
struct Keeper {
    kept: Arc<Mutex<Vec<RecordBatch>>>,
    panics: bool,
}

#[async_trait]
impl RecordProcessor for Keeper {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.kept.lock().unwrap().push(batch);
        assert!(!self.panics, "as planned");
        Ok(())
    }
}

/// The records were delivered again, to a processor that has not finished them.
#[tokio::test(start_paused = true)]
async fn batch_of_panicked_processor_finishes_nothing() {
    let bench = Bench::new(1);
    ["0", "1"].iter().for_each(|payload| bench.put(payload));
    let kept = Arc::new(Mutex::new(Vec::<RecordBatch>::new()));
    let (keeps, begun) = (Arc::clone(&kept), AtomicBool::new(false));
    let mut settings = Settings::default();
    settings.checkpoints.mode = CheckpointMode::Manual;
    let worker = bench.start_as(bench.source.clone(), settings, move |_: &ShardContext| Keeper {
        kept: Arc::clone(&keeps),
        panics: !begun.swap(true, Ordering::Relaxed),
    });
    bench.sleep(30).await;
    let batches = kept.lock().unwrap().clone();
    let [old, new] = &batches[..] else {
        panic!("{batches:?}")
    };
    assert!(matches!(old.checkpoint().await, Err(CheckpointError::Fenced)));
    assert_eq!(lease(&worker).unfinished, 2);
    new.checkpoint().await.unwrap();
    assert_eq!(lease(&worker).unfinished, 0);
}

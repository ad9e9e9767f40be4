use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::processor::FencingToken;
use crate::types::{ApplicationName, SequenceNumber, ShardId, Timestamp, WorkerId};

const LENGTH: i64 = 10_000;

/// The rows of a sink, by the key of the pane: the start of the window and the numbers of its records.
type Rows = BTreeMap<String, (i64, Vec<u128>)>;

/// The world around the processors: what a kill leaves.
#[derive(Default)]
struct World {
    rows: Rows,
    /// The number of the record that is checkpointed.
    stored: usize,
    /// How many of the next checkpoints, and of the next calls of `window_closed`, fail.
    failing_checkpoints: u32,
    failing_calls: u32,
}

type Shared = Arc<Mutex<World>>;

struct Lists(Shared);

#[async_trait]
impl WindowProcessor for Lists {
    type State = Vec<u128>;

    fn open(&mut self, _: &Window) -> Vec<u128> {
        Vec::new()
    }

    fn record(&mut self, numbers: &mut Vec<u128>, record: &Record) -> Result<(), ProcessorError> {
        if record.data().as_ref() == b"bad" {
            return Err("bad record".into());
        }
        numbers.push(number(record.position()));
        Ok(())
    }

    async fn window_closed(
        &mut self,
        numbers: &mut Vec<u128>,
        window: &Window,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let mut world = self.0.lock().unwrap();
        if let Some(left) = world.failing_calls.checked_sub(1) {
            world.failing_calls = left;
            return Err(ProcessorError::poison("the sink does not answer"));
        }
        assert_eq!(window.records, numbers.len() as u64);
        assert_eq!(
            (number(&window.first), number(&window.last)),
            (numbers[0], numbers[numbers.len() - 1])
        );
        let row = (window.start.as_millis(), numbers.clone());
        world.rows.insert(window.pane_key(shard), row);
        Ok(())
    }
}

fn number(position: &RecordPosition) -> u128 {
    position.sequence.as_str().parse().unwrap()
}

fn record(number: usize, arrived: i64) -> Record {
    Record::new(SequenceNumber::from(number as u128), "x").with_arrival(Timestamp::from_millis(arrived))
}

fn shard() -> ShardContext {
    let (app, worker) = (
        ApplicationName::new("app").unwrap(),
        WorkerId::new("worker-1").unwrap(),
    );
    let shard = ShardId::new("shardId-000000000000").unwrap();
    ShardContext::new(app, worker, "trucks", shard, FencingToken::new(1))
}

fn make(world: &Shared, bytes: u64, emits_early: bool) -> Box<dyn RecordProcessor> {
    let world = Arc::clone(world);
    let length = Duration::from_millis(u64::try_from(LENGTH).unwrap());
    let windows = TumblingWindows::new(length, move |_: &ShardContext| Lists(Arc::clone(&world))).unwrap();
    let windows = windows.max_open_bytes(ByteSize::b(bytes));
    match emits_early {
        true => windows.emit_early().create(&shard()),
        false => windows.create(&shard()),
    }
}

/// A batch whose checkpoints move those of the world.
fn batch(world: &Shared, records: &[Record]) -> RecordBatch {
    let world = Arc::clone(world);
    RecordBatch::unowned(records.to_vec()).on_checkpoint(move |through| {
        let mut world = world.lock().unwrap();
        if let Some(left) = world.failing_checkpoints.checked_sub(1) {
            world.failing_checkpoints = left;
            return Err(CheckpointError::Suspended);
        }
        world.stored = world.stored.max(usize::try_from(number(through)).unwrap());
        Ok(())
    })
}

fn process(processor: &mut Box<dyn RecordProcessor>, batch: RecordBatch) -> Result<(), ProcessorError> {
    let called = processor.process_records(batch, &shard()).now_or_never();
    called.expect("nothing waits")
}

fn idle(processor: &mut Box<dyn RecordProcessor>, time: Duration) -> Result<(), ProcessorError> {
    let shard = shard().with_idle_for(time);
    processor.tick(&shard).now_or_never().expect("nothing waits")
}

/// The record numbers of each window, over all its panes.
fn by_window(rows: &Rows) -> BTreeMap<i64, Vec<u128>> {
    let mut windows = BTreeMap::<i64, Vec<u128>>::new();
    for (start, numbers) in rows.values() {
        windows.entry(*start).or_default().extend(numbers);
    }
    windows.values_mut().for_each(|numbers| numbers.sort_unstable());
    windows
}

#[derive(Debug, Clone)]
enum Step {
    Batch(usize),
    Idle(u64),
    Kill,
    CheckpointFails,
    CallFails,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..6).prop_map(Step::Batch),
        2 => (0_u64..30).prop_map(Step::Idle),
        2 => Just(Step::Kill),
        1 => Just(Step::CheckpointFails),
        1 => Just(Step::CallFails),
    ]
}

proptest! {
    /// Whatever is killed, fails or idles, and however late records come: each window has each of its records once, and nothing else.
    #[test]
    fn windows_hold_each_record_once_through_kills(
        arrivals in prop::collection::vec((0_i64..8_000, 0_i64..25_000, any::<bool>()), 1..40),
        steps in prop::collection::vec(step(), 0..60),
        bytes in 1_u64..30, emits_early in any::<bool>(),
    ) {
        let (mut time, mut records) = (0, Vec::new());
        for (pause, late, is_late) in arrivals {
            time += pause;
            let arrived = if is_late { time - late } else { time };
            records.push(record(records.len() + 1, arrived));
        }
        let bytes = if emits_early { bytes } else { 1_000_000 };
        let world = Shared::default();
        let mut processor = make(&world, bytes, emits_early);
        let mut next = 0;
        let steps = steps.into_iter().chain((0..records.len()).map(|_| Step::Batch(3)));
        for step in steps {
            let outcome = match step {
                Step::Batch(count) => {
                    let end = (next + count).min(records.len());
                    if next == end { continue }
                    let outcome = process(&mut processor, batch(&world, &records[next..end]));
                    // What failed is offered again.
                    if outcome.is_ok() { next = end }
                    outcome
                }
                Step::Idle(seconds) => idle(&mut processor, Duration::from_secs(seconds)),
                Step::Kill => {
                    processor = make(&world, bytes, emits_early);
                    next = world.lock().unwrap().stored;
                    Ok(())
                }
                Step::CheckpointFails => { world.lock().unwrap().failing_checkpoints += 1; Ok(()) }
                Step::CallFails => { world.lock().unwrap().failing_calls += 1; Ok(()) }
            };
            if let Err(error) = outcome {
                prop_assert_eq!(error.severity(), Severity::Transient);
                prop_assert_eq!(error.position(), None);
            }
        }
        for _ in 0..200 {
            if next < records.len() {
                if process(&mut processor, batch(&world, &records[next..])).is_ok() { next = records.len() }
            } else if processor.shard_ended(&shard()).now_or_never().expect("nothing waits").is_ok() {
                break;
            }
        }
        let mut expected = BTreeMap::<i64, Vec<u128>>::new();
        for record in &records {
            let start = record.approximate_arrival().unwrap().as_millis().div_euclid(LENGTH) * LENGTH;
            expected.entry(start).or_default().push(number(record.position()));
        }
        let world = world.lock().unwrap();
        prop_assert_eq!(by_window(&world.rows), expected);
        prop_assert_eq!(world.stored, records.len());
    }
}

#[test]
fn window_closes_with_first_record_of_next() {
    let world = Shared::default();
    let mut processor = make(&world, 1000, false);
    let records = [record(1, 1), record(2, 9_999), record(3, 10_000)];
    process(&mut processor, batch(&world, &records[..2])).unwrap();
    assert!(world.lock().unwrap().rows.is_empty());
    process(&mut processor, batch(&world, &records[2..])).unwrap();
    let world = world.lock().unwrap();
    let key = "shardId-000000000000/0/1".to_owned();
    assert_eq!(world.rows, Rows::from([(key, (0, vec![1, 2]))]));
    assert_eq!(world.stored, 2, "the record of the open window is not finished");
}

#[test]
fn late_record_makes_a_pane_of_its_own() {
    let world = Shared::default();
    let mut processor = make(&world, 1000, false);
    let records = [
        record(1, 9_000),
        record(2, 11_000),
        record(3, 9_500),
        record(4, 21_000),
    ];
    process(&mut processor, batch(&world, &records)).unwrap();
    let world = world.lock().unwrap();
    assert_eq!(
        by_window(&world.rows),
        BTreeMap::from([(0, vec![1, 3]), (10_000, vec![2])])
    );
    assert_eq!((world.rows.len(), world.stored), (3, 3));
}

#[test]
fn idle_window_closes_after_its_grace() {
    let world = Shared::default();
    let mut processor = make(&world, 1000, false);
    process(&mut processor, batch(&world, &[record(1, 4_000)])).unwrap();
    // 6 s to the end of the window, and 5 s of grace.
    idle(&mut processor, Duration::from_millis(10_999)).unwrap();
    assert_eq!(world.lock().unwrap().stored, 0);
    idle(&mut processor, Duration::from_secs(11)).unwrap();
    assert_eq!(world.lock().unwrap().stored, 1);
}

#[test]
fn too_many_open_bytes_are_refused_clearly() {
    let world = Shared::default();
    let mut processor = make(&world, 2, false);
    let records = [record(1, 0), record(2, 1), record(3, 2), record(4, 10_000)];
    let error = process(&mut processor, batch(&world, &records[..3])).unwrap_err();
    assert_eq!(error.position(), Some(records[2].position()));
    let text = error.to_string();
    for part in ["2 bytes", "max_open_bytes", "emit_early", "shorten the windows"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // A record that closes what is open finds room.
    process(&mut processor, batch(&world, &records[3..])).unwrap();
    assert_eq!(world.lock().unwrap().stored, 2);
}

#[test]
fn bad_record_is_named_and_counts_nowhere() {
    let world = Shared::default();
    let mut processor = make(&world, 1000, false);
    let bad = Record::new(SequenceNumber::from(2), "bad").with_arrival(Timestamp::from_millis(10_000));
    let without_time = Record::new(SequenceNumber::from(3), "x");
    let records = [record(1, 1), bad, record(4, 2)];
    let error = process(&mut processor, batch(&world, &records)).unwrap_err();
    assert_eq!(error.position(), Some(records[1].position()));
    let error = process(&mut processor, batch(&world, &[without_time])).unwrap_err();
    assert_eq!(error.severity(), Severity::Poison);
    // The policy has set both aside.
    process(&mut processor, batch(&world, &records[2..])).unwrap();
    processor.shard_ended(&shard()).now_or_never().unwrap().unwrap();
    assert_eq!(
        by_window(&world.lock().unwrap().rows),
        BTreeMap::from([(0, vec![1, 4])])
    );
}

#[test]
fn impossible_window_lengths_are_refused() {
    let make = |_: &ShardContext| Lists(Shared::default());
    for millis in [0, 999, 24 * 60 * 60 * 1000 + 1] {
        assert!(
            TumblingWindows::new(Duration::from_millis(millis), make).is_err(),
            "{millis}"
        );
    }
    assert!(TumblingWindows::new(Duration::from_micros(1_000_500), make).is_err());
    assert!(TumblingWindows::new(Duration::from_secs(1), make).is_ok());
}

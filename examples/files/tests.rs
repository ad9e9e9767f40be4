use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::{FutureExt as _, TryStreamExt as _};
use kcl_testkit::{ProcessorBench, ProcessorSimulation};
use kinesis_client::Redrive;
use kinesis_client::bytes::Bytes;
use kinesis_client::clock::{Rng, TokioClock};
use kinesis_client::dead_letter::DeadLetter;
use kinesis_client::processor::FencingToken;
use kinesis_client::settings::{CheckpointMode, Settings};
use kinesis_client::types::{ApplicationName, Position, Record, SequenceNumber, ShardId, WorkerId};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;

use super::*;
use crate::faulty_store::{FaultyStore, PutAnswer, PutFault, PutFaults};

/// The faults of the next puts.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<VecDeque<PutAnswer>>>);

impl Script {
    fn add(&self, answer: PutAnswer) {
        self.0.lock().unwrap().push_back(answer);
    }
}

impl PutFaults for Script {
    fn next(&self, _: &Path) -> PutFault {
        let next = self.0.lock().unwrap().pop_front();
        PutFault {
            answer: next.unwrap_or_default(),
            ..PutFault::default()
        }
    }
}

/// A store in memory, which all owners share, and its faults.
#[derive(Debug, Clone, Default)]
struct Shelf {
    inner: Arc<InMemory>,
    script: Script,
}

/// The files of each shard.
type Files = BTreeMap<String, Vec<(String, RecordFile)>>;

impl Shelf {
    fn store(&self) -> Arc<dyn ObjectStore> {
        let inner: Arc<dyn ObjectStore> = Arc::clone(&self.inner) as _;
        Arc::new(FaultyStore::new(
            inner,
            Arc::new(TokioClock::new()),
            self.script.clone(),
        ))
    }

    fn archive(&self, limits: FileLimits) -> FileArchive {
        FileArchive {
            store: self.store(),
            folder: Path::default(),
            limits,
        }
    }

    fn processor(&self, limits: FileLimits, shard: &ShardContext) -> RecordFiles {
        RecordFiles::new(self.store(), &Path::default(), limits, shard)
    }

    /// Reads all files, and checks the chain of each shard.
    async fn files(&self) -> Files {
        let mut listing: Vec<_> = self.inner.list(None).try_collect().await.unwrap();
        listing.sort_by(|a, b| a.location.cmp(&b.location));
        let mut files = Files::new();
        for object in listing {
            let file = self.inner.get(&object.location).await.unwrap();
            let file = RecordFile::read(&file.bytes().await.unwrap()).unwrap();
            let name = object.location.filename().unwrap().to_owned();
            files
                .entry(file.header.shard.clone())
                .or_default()
                .push((name, file));
        }
        for chain in files.values() {
            check_chain(chain.iter().map(|(name, file)| (name.as_str(), file))).unwrap();
        }
        files
    }

    /// The positions of all records, shard by shard. Within a shard no record is there twice, since the chain is in order.
    async fn positions(&self) -> Vec<(ShardId, RecordPosition)> {
        let of_file = |file: RecordFile| {
            let shard = ShardId::new(file.header.shard).unwrap();
            let places = file
                .records
                .into_iter()
                .map(|record| record.place.position().unwrap());
            places
                .map(|position| (shard.clone(), position))
                .collect::<Vec<_>>()
        };
        let files = self.files().await.into_values().flatten();
        files.flat_map(|(_, file)| of_file(file)).collect()
    }

    async fn sizes(&self) -> Vec<usize> {
        let files = self.files().await.into_values().flatten();
        files.map(|(_, file)| file.records.len()).collect()
    }
}

fn limits(records: usize) -> FileLimits {
    FileLimits {
        records,
        ..FileLimits::default()
    }
}

fn manual() -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_secs(4);
    settings.checkpoints.mode = CheckpointMode::Manual;
    settings
}

fn bench(shelf: &Shelf, limits: FileLimits) -> ProcessorBench {
    ProcessorBench::of(shelf.archive(limits)).start()
}

/// A context made by hand, of an owner with this token that begins after this record.
fn owner(token: u64, checkpoint: Option<u64>) -> ShardContext {
    let shard = ShardContext::new(
        ApplicationName::new("files").unwrap(),
        WorkerId::new(format!("worker-{token}")).unwrap(),
        "orders",
        ShardId::new("shardId-0").unwrap(),
        FencingToken::new(token),
    );
    match checkpoint {
        Some(number) => shard.with_checkpoint(Position::Record(position(number))),
        None => shard,
    }
}

fn position(number: u64) -> RecordPosition {
    RecordPosition::plain(SequenceNumber::from(u128::from(number)))
}

/// The numbers of the records at which a checkpoint was made.
type Checkpoints = Arc<Mutex<Vec<u64>>>;

/// The records with these numbers, and where their checkpoints are noted.
fn batch(numbers: std::ops::RangeInclusive<u64>, checkpoints: &Checkpoints) -> RecordBatch {
    let noted = Arc::clone(checkpoints);
    let record = |number| Record::new(position(number).sequence, format!("order {number}"));
    RecordBatch::unowned(numbers.map(record).collect()).on_checkpoint(move |position| {
        noted
            .lock()
            .unwrap()
            .push(position.sequence.as_str().parse().unwrap());
        Ok(())
    })
}

#[test]
fn files_end_at_each_limit() {
    let shelf = Shelf::default();
    let small = FileLimits {
        bytes: 1000,
        records: 5,
        age: Duration::from_secs(60),
    };
    let mut bench = bench(&shelf, small);
    for number in 0..12 {
        bench.put("customer", format!("order {number}"));
    }
    bench.run(Duration::from_secs(30));
    assert_eq!(bench.block_on(shelf.sizes()), [5, 5], "by number");
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.block_on(shelf.sizes()), [5, 5, 2], "by age");
    for _ in 0..2 {
        bench.put("customer", vec![0; 900]);
    }
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.block_on(shelf.sizes()), [5, 5, 2, 1, 1], "by size");
    bench.until_finished();
    assert_eq!(bench.block_on(shelf.positions()), bench.put_records());
}

#[test]
fn put_that_landed_without_answer_is_found() {
    let shelf = Shelf::default();
    let mut bench = bench(&shelf, limits(4));
    shelf.script.add(PutAnswer::Lost);
    shelf.script.add(PutAnswer::Refused);
    for number in 0..8 {
        bench.put("customer", format!("order {number}"));
    }
    bench.until_finished();
    assert_eq!(bench.block_on(shelf.sizes()), [4, 4]);
    assert_eq!(bench.block_on(shelf.positions()), bench.put_records());
    let failed = bench.calls().iter().filter(|call| call.error.is_some()).count();
    assert_eq!(failed, 2, "{:#?}", bench.calls());
}

#[test]
fn conflict_without_object_is_tried_again() {
    let shelf = Shelf::default();
    let mut bench = bench(&shelf, limits(4));
    shelf.script.add(PutAnswer::Conflict);
    for number in 0..4 {
        bench.put("customer", format!("order {number}"));
    }
    bench.until_finished();
    assert_eq!(bench.block_on(shelf.positions()), bench.put_records());
    let failed = bench.calls().iter().filter(|call| call.error.is_some()).count();
    assert_eq!(failed, 1, "{:#?}", bench.calls());
}

#[test]
fn records_survive_deaths_handovers_and_splits() {
    let shelf = Shelf::default();
    let mut bench = bench(&shelf, limits(7));
    for round in 0..4 {
        for number in 0..20 {
            bench.put(&format!("customer-{number}"), format!("order {round}/{number}"));
        }
        bench.run(Duration::from_millis(500));
        match round {
            0 => bench.kill(),
            1 => bench.hand_over(),
            _ => drop(bench.split(&bench.open_shards().remove(0))),
        }
    }
    bench.until_finished();
    assert_eq!(bench.block_on(shelf.positions()), bench.put_records());
}

#[tokio::test(start_paused = true)]
async fn successor_goes_on_after_shorter_file() {
    let (shelf, checkpoints) = (Shelf::default(), Arc::default());
    let (old, new) = (owner(3, None), owner(5, None));
    let mut first = shelf.processor(limits(100), &old);
    first
        .process_records(batch(1..=3, &Arc::default()), &old)
        .await
        .unwrap();
    first.shutdown_requested(&old).await.unwrap();
    // It died before its checkpoint.
    let mut second = shelf.processor(limits(5), &new);
    second
        .process_records(batch(1..=8, &checkpoints), &new)
        .await
        .unwrap();
    second.shutdown_requested(&new).await.unwrap();
    assert_eq!(shelf.sizes().await, [3, 2, 3]);
    assert_eq!(*checkpoints.lock().unwrap(), [5, 8]);
}

#[tokio::test(start_paused = true)]
async fn successor_leaves_out_records_of_longer_file() {
    let (shelf, checkpoints) = (Shelf::default(), Arc::default());
    let (old, new) = (owner(3, None), owner(5, None));
    let mut first = shelf.processor(limits(100), &old);
    first
        .process_records(batch(1..=10, &Arc::default()), &old)
        .await
        .unwrap();
    first.shutdown_requested(&old).await.unwrap();
    let mut second = shelf.processor(limits(4), &new);
    second
        .process_records(batch(1..=4, &checkpoints), &new)
        .await
        .unwrap();
    assert!(checkpoints.lock().unwrap().is_empty(), "4 is inside a file");
    second
        .process_records(batch(5..=9, &checkpoints), &new)
        .await
        .unwrap();
    second.shutdown_requested(&new).await.unwrap();
    assert!(checkpoints.lock().unwrap().is_empty(), "and so is 9");
    second
        .process_records(batch(10..=12, &checkpoints), &new)
        .await
        .unwrap();
    second.shutdown_requested(&new).await.unwrap();
    assert_eq!(shelf.sizes().await, [10, 2]);
    assert_eq!(*checkpoints.lock().unwrap(), [12]);
    second
        .process_records(batch(10..=12, &checkpoints), &new)
        .await
        .unwrap();
    assert_eq!(shelf.sizes().await, [10, 2], "a batch that comes again");
}

#[tokio::test(start_paused = true)]
async fn end_of_longer_file_is_checkpointed_when_reached() {
    let (shelf, checkpoints) = (Shelf::default(), Arc::default());
    let (old, new) = (owner(3, None), owner(5, None));
    let mut first = shelf.processor(limits(6), &old);
    first
        .process_records(batch(1..=6, &Arc::default()), &old)
        .await
        .unwrap();
    let mut second = shelf.processor(limits(4), &new);
    second
        .process_records(batch(1..=4, &checkpoints), &new)
        .await
        .unwrap();
    second
        .process_records(batch(5..=6, &checkpoints), &new)
        .await
        .unwrap();
    assert_eq!(*checkpoints.lock().unwrap(), [6]);
    assert_eq!(shelf.sizes().await, [6]);
}

#[tokio::test(start_paused = true)]
async fn late_owner_and_successor_continue_one_chain() {
    let shelf = Shelf::default();
    let (old, new) = (owner(3, None), owner(5, None));
    let (mut late, mut successor) = (
        shelf.processor(limits(100), &old),
        shelf.processor(limits(100), &new),
    );
    let other = Arc::default();
    late.process_records(batch(1..=6, &other), &old).await.unwrap();
    // It stands still meanwhile.
    successor
        .process_records(batch(1..=4, &other), &new)
        .await
        .unwrap();
    successor.shutdown_requested(&new).await.unwrap();
    late.shutdown_requested(&old).await.unwrap();
    successor
        .process_records(batch(5..=9, &other), &new)
        .await
        .unwrap();
    successor.shutdown_requested(&new).await.unwrap();
    let files = shelf.files().await.remove("shardId-0").unwrap();
    let written: Vec<_> = files
        .iter()
        .map(|(_, file)| (file.header.fencing_token, file.records.len()))
        .collect();
    assert_eq!(written, [(5, 4), (3, 2), (5, 3)]);
}

#[tokio::test(start_paused = true)]
async fn files_found_from_older_checkpoint_are_left_out() {
    let shelf = Shelf::default();
    let shard = owner(3, Some(10));
    let mut first = shelf.processor(limits(2), &shard);
    first
        .process_records(batch(11..=17, &Arc::default()), &shard)
        .await
        .unwrap();
    first.shutdown_requested(&shard).await.unwrap();
    // The checkpoint of a lease table that was restored; retention has taken 11 to 14.
    let shard = owner(4, Some(10));
    let mut again = shelf.processor(limits(100), &shard);
    again
        .process_records(batch(15..=18, &Arc::default()), &shard)
        .await
        .unwrap();
    again.shutdown_requested(&shard).await.unwrap();
    assert_eq!(shelf.sizes().await, [2, 2, 2, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn file_that_is_not_whole_is_refused() {
    let shelf = Shelf::default();
    let shard = owner(3, None);
    let mut files = shelf.processor(limits(2), &shard);
    files
        .process_records(batch(1..=2, &Arc::default()), &shard)
        .await
        .unwrap();
    let path = shard_folder(&Path::default(), &shard).join(file_name(None));
    let whole = shelf.inner.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(
        RecordFile::read(&whole).unwrap().records[1].payload().unwrap(),
        b"order 2"
    );
    for length in 0..whole.len() {
        assert!(RecordFile::read(&whole[..length]).is_err(), "{length} bytes");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for left_out in 0..lines.len() {
        let others = (0..lines.len()).filter(|line| *line != left_out);
        let others: Vec<u8> = others.flat_map(|line| lines[line]).copied().collect();
        assert!(RecordFile::read(&others).is_err(), "without line {left_out}");
    }
    let torn: Bytes = whole.slice(..whole.len() - 1);
    shelf.inner.put(&path, torn.into()).await.unwrap();
    let mut next = shelf.processor(limits(2), &shard);
    assert!(
        next.process_records(batch(1..=2, &Arc::default()), &shard)
            .await
            .is_err()
    );
}

/// Owners that come one after the other, and late ones of them, are offered records; puts fail, and answers are lost.
async fn walk(mut rng: Rng) {
    let shelf = Shelf::default();
    let checkpoint = Arc::new(Mutex::new(Vec::new()));
    let mut owners: Vec<(RecordFiles, ShardContext, u64, Checkpoints)> = Vec::new();
    let mut newest = 0;
    for step in 0..120 {
        if step == 0 || rng.one_in(8) {
            let stored = checkpoint.lock().unwrap().iter().max().copied();
            let shard = owner(owners.len() as u64 + 1, stored);
            let most = usize::try_from(1 + rng.below(12)).unwrap();
            // Only the newest owner stores checkpoints.
            if let Some((_, _, _, last)) = owners.last_mut() {
                *last = Arc::default();
            }
            let noted = Arc::clone(&checkpoint);
            owners.push((
                shelf.processor(limits(most), &shard),
                shard,
                stored.unwrap_or(0),
                noted,
            ));
        }
        let back = usize::try_from(rng.below(3)).unwrap().min(owners.len() - 1);
        let at = owners.len() - 1 - back;
        let (files, shard, read, noted) = &mut owners[at];
        let answer = match rng.below(6) {
            0 => PutAnswer::Lost,
            1 => PutAnswer::Refused,
            _ => PutAnswer::Stores,
        };
        shelf.script.add(answer);
        let to = *read + 1 + rng.below(6);
        let offered = batch(*read + 1..=to, noted);
        let done = match rng.below(4) {
            0 => files.shutdown_requested(shard).await,
            _ => match files.process_records(offered.clone(), shard).await {
                Ok(()) => {
                    *read = to;
                    Ok(())
                }
                failed => failed,
            },
        };
        drop(done);
        newest = newest.max(*read);
    }
    let (files, shard, read, noted) = owners.last_mut().unwrap();
    shelf.script.0.lock().unwrap().clear();
    if *read < newest {
        files
            .process_records(batch(*read + 1..=newest, noted), shard)
            .await
            .unwrap();
    }
    files.shutdown_requested(shard).await.unwrap();
    let written: Vec<RecordPosition> = shelf.positions().await.into_iter().map(|(_, at)| at).collect();
    let written_to = written.len() as u64;
    assert_eq!(written, (1..=written_to).map(position).collect::<Vec<_>>());
    assert!(written_to >= newest, "{written_to} of {newest}");
}

#[tokio::test(start_paused = true)]
async fn any_owners_have_each_record_once() {
    for seed in 0..200 {
        walk(Rng::from_seed(seed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_the_first_record() {
    let shard = owner(1, None);
    let mut files = Shelf::default().processor(limits(2), &shard);
    assert_eq!(files.initialize(&shard).await.unwrap(), StartFrom::Checkpoint);
    files.tick(&shard).await.unwrap();
    assert_eq!(files.end_of_shard(), EndOfShard::AllFinished);
}

#[tokio::test(start_paused = true)]
async fn redriven_letters_are_left() {
    let (shelf, shard) = (Shelf::default(), owner(1, None));
    let record = Record::new(position(7).sequence, "order 7");
    let (of, app, worker) = (
        shard.shard().clone(),
        shard.application().clone(),
        shard.worker().clone(),
    );
    let letter = DeadLetter::new(record, "orders", of, app, worker);
    let report = Redrive::new(shelf.archive(limits(1))).run([letter]).await;
    assert_eq!(
        (report.left.len(), shelf.sizes().await.len()),
        (1, 0),
        "{report:?}"
    );
}

/// With `KCL_SEED=42` it runs only that seed.
#[test]
fn records_survive_twenty_fleets() {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let written = Arc::clone(&shelf);
    let files = move |shard: &ShardContext| {
        let shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.processor(limits(10), shard)
    };
    let mut settings = manual();
    settings.processing.tick_interval = Duration::from_secs(5);
    let report = ProcessorSimulation::of(files)
        .settings(settings)
        .check(move |end| {
            let shelf = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
            let records = end.records.iter();
            let mut records: Vec<_> = records
                .map(|(shard, record)| (shard.clone(), record.position().clone()))
                .collect();
            records.sort();
            let positions = shelf
                .positions()
                .now_or_never()
                .expect("a store in memory answers at once");
            assert_eq!(positions, records);
        })
        .run(0..20);
    assert!(report.faults > 0 && report.put > 0, "{report}");
}

//! A window of a stream is read again, exactly, and ends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::source::{ShardFilter, StreamSource as _};
use kcl_core::types::Timestamp;
use kcl_core::{Error, Replay, ShutdownReport};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The numbers of the records that were processed.
type Seen = Arc<Mutex<BTreeSet<u64>>>;

struct Noting {
    seen: Seen,
    /// How long a call takes.
    takes: Duration,
}

#[async_trait::async_trait]
impl RecordProcessor for Noting {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        TokioClock::new().sleep(self.takes).await;
        let numbers = batch.iter().map(|record| {
            std::str::from_utf8(record.data())
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        self.seen.lock().unwrap().extend(numbers);
        Ok(())
    }
}

/// A stream on which four records arrive each second for a hundred seconds, while it is split and merged.
struct Traffic {
    clock: TokioClock,
    stream: MemoryStream,
    began: Timestamp,
}

impl Traffic {
    async fn new(shards: u32) -> Self {
        let clock = TokioClock::new();
        let stream = MemoryStream::builder("trucks")
            .shards(shards)
            .clock(Arc::new(clock))
            .build();
        let listed = stream.shards(ShardFilter::Open, None).await.unwrap();
        let began = listed.service_time;
        let traffic = Self { clock, stream, began };
        for second in 0..100 {
            let open = || {
                traffic
                    .stream
                    .shards_snapshot()
                    .into_iter()
                    .filter(|shard| !shard.shard.closed)
                    .map(|shard| shard.shard.id)
            };
            match second {
                20 | 40 | 70 => drop(traffic.stream.split(&open().next().unwrap()).unwrap()),
                45 => {
                    let last: Vec<_> = open().collect();
                    let [.., a, b] = &last[..] else { panic!("{last:?}") };
                    traffic.stream.merge(a, b).unwrap();
                }
                _ => {}
            }
            for number in 4 * second..4 * second + 4 {
                traffic
                    .stream
                    .put(format!("truck-{number}"), number.to_string())
                    .unwrap();
            }
            clock.sleep(SECOND).await;
        }
        traffic
    }

    fn at(&self, second: u32) -> Timestamp {
        self.began.plus(SECOND * second)
    }

    fn replay(&self, from: u32, until: u32) -> Replay {
        let replay = Replay::new(self.stream.clone(), self.at(from), self.at(until));
        replay.clock(Arc::new(self.clock))
    }

    /// Runs a worker until the replay is finished, or for so long.
    async fn run(
        &self,
        replay: &Replay,
        store: &MemoryLeaseStore,
        takes: Duration,
        most: Duration,
    ) -> (Seen, bool) {
        let seen = Seen::default();
        let given = Arc::clone(&seen);
        let worker = workers::builder("trucks-again")
            .stream(replay.source())
            .lease_store(store.clone())
            .processor(move |_: &ShardContext| Noting {
                seen: Arc::clone(&given),
                takes,
            })
            .clock(Arc::new(self.clock))
            .build()
            .unwrap()
            .start();
        let finished = self.clock.timeout(most, replay.finished(&worker, store)).await;
        let is_finished = finished.is_ok();
        finished.unwrap_or(Ok(())).unwrap();
        worker.shutdown();
        let stopped: Result<ShutdownReport, Error> = worker.join().await;
        assert!(stopped.unwrap().is_clean());
        (seen, is_finished)
    }
}

fn numbers(from: u64, until: u64) -> BTreeSet<u64> {
    (4 * from..4 * until).collect()
}

#[tokio::test(start_paused = true)]
async fn replay_brings_its_window_and_ends() {
    let traffic = Traffic::new(2).await;
    for (from, until) in [(30, 50), (0, 100), (35, 36), (90, 100), (50, 50)] {
        let replay = traffic.replay(from, until);
        let (seen, is_finished) = traffic
            .run(&replay, &MemoryLeaseStore::new(), Duration::ZERO, 120 * SECOND)
            .await;
        assert!(is_finished, "from {from} until {until}");
        assert_eq!(
            *seen.lock().unwrap(),
            numbers(from.into(), until.into()),
            "from {from} until {until}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn replay_waits_for_slow_callbacks() {
    let traffic = Traffic::new(3).await;
    let (seen, is_finished) = traffic
        .run(
            &traffic.replay(30, 60),
            &MemoryLeaseStore::new(),
            45 * SECOND,
            3600 * SECOND,
        )
        .await;
    assert!(is_finished);
    assert_eq!(*seen.lock().unwrap(), numbers(30, 60));
}

#[tokio::test(start_paused = true)]
async fn replay_into_the_future_ends_after_it() {
    let traffic = Traffic::new(1).await;
    let replay = traffic.replay(95, 160);
    let begun = traffic.clock.now();
    let (store, putting) = (MemoryLeaseStore::new(), async {
        for second in 100..180 {
            traffic.stream.put("truck", (4 * second).to_string()).unwrap();
            traffic.clock.sleep(SECOND).await;
        }
    });
    let ((seen, is_finished), ()) = tokio::join!(
        traffic.run(&replay, &store, Duration::ZERO, 600 * SECOND),
        putting,
    );
    let took = traffic.clock.now().saturating_since(begun);
    assert!(is_finished && took >= 60 * SECOND, "{took:?}");
    let mut expected = numbers(95, 100);
    expected.extend((100..160).map(|second| 4 * second));
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn interrupted_replay_goes_on_where_it_stopped() {
    let traffic = Traffic::new(2).await;
    let store = MemoryLeaseStore::new();
    let replay = traffic.replay(10, 90).share_percent(1);
    let (first, is_finished) = traffic.run(&replay, &store, Duration::ZERO, 15 * SECOND).await;
    assert!(
        !is_finished,
        "with one percent of the limit, a read takes twenty seconds"
    );
    let (second, is_finished) = traffic.run(&replay, &store, Duration::ZERO, 3600 * SECOND).await;
    assert!(is_finished);
    let (first, second) = (first.lock().unwrap().clone(), second.lock().unwrap().clone());
    assert!(!first.is_empty() && !second.is_empty());
    assert_eq!(&first | &second, numbers(10, 90));
    assert_eq!(
        &first & &second,
        BTreeSet::new(),
        "nothing comes twice after a clean stop"
    );
    let (again, is_finished) = traffic.run(&replay, &store, Duration::ZERO, 3600 * SECOND).await;
    assert!(is_finished && again.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn replay_of_a_stopped_worker_says_so() {
    let traffic = Traffic::new(1).await;
    let (store, replay) = (MemoryLeaseStore::new(), traffic.replay(10, 1000));
    let worker = workers::builder("trucks-again")
        .stream(replay.source())
        .lease_store(store.clone())
        .processor(|_: &ShardContext| Noting {
            seen: Seen::default(),
            takes: Duration::ZERO,
        })
        .clock(Arc::new(traffic.clock))
        .build()
        .unwrap()
        .start();
    let stop = worker.shutdown_handle();
    let stopping = async {
        traffic.clock.sleep(30 * SECOND).await;
        stop.shutdown();
    };
    let (finished, ()) = tokio::join!(replay.finished(&worker, &store), stopping);
    assert!(
        finished
            .unwrap_err()
            .to_string()
            .contains("stopped before the end of the window")
    );
    worker.join().await.unwrap();
}

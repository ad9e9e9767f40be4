//! Streams that are denied, that ignore filters, or that distribute records by themselves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{Aggregation, Settings};
use kcl_core::source::{
    PageToken, RecordPlacement, RecordStream, ShardFilter, ShardPage, SourceError, SourceErrorKind,
    StartPosition, StreamDescription, StreamSource,
};
use kcl_core::streams::{StreamSet, TrackedStream};
use kcl_core::types::{InitialPosition, ShardId, StreamIdentity};
use kcl_core::{ErrorKind, WorkerBuilder};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

type Seen = Arc<Mutex<Vec<String>>>;

struct Notes(Seen);

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let texts = batch
            .iter()
            .map(|record| String::from_utf8_lossy(record.data()).into_owned());
        self.0.lock().unwrap().extend(texts);
        Ok(())
    }
}

/// How a stream is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oddity {
    /// No action on it is granted.
    Denied,
    /// Listings are never filtered.
    Unfiltered,
    /// The service decides the shard of a record.
    ByService,
    /// Its credentials never come, which each call says after ten seconds.
    WithoutCredentials,
    /// Its ARN holds no account.
    Nameless,
}

#[derive(Debug, Clone)]
struct Odd(MemoryStream, Oddity);

impl Odd {
    fn check(&self) -> Result<(), SourceError> {
        match self.1 {
            Oddity::Denied => Err(SourceError::new(
                SourceErrorKind::Denied,
                "grant kinesis:Everything",
            )),
            Oddity::Unfiltered | Oddity::ByService | Oddity::WithoutCredentials | Oddity::Nameless => Ok(()),
        }
    }
}

#[async_trait]
impl StreamSource for Odd {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn description(&self) -> StreamDescription {
        let mut description = StreamDescription::default();
        if self.1 == Oddity::ByService {
            description.placement = Some(RecordPlacement::ByService);
        }
        description
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.check()?;
        if self.1 == Oddity::WithoutCredentials {
            pause(10).await;
            let message = "the credentials did not come";
            return Err(SourceError::new(SourceErrorKind::Unavailable, message));
        }
        let mut identity = self.0.identity().await?;
        if self.1 == Oddity::Nameless {
            identity.arn = identity.arn.replace("000000000000", "");
        }
        Ok(identity)
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        self.check()?;
        let filter = match self.1 {
            Oddity::Unfiltered => ShardFilter::All,
            Oddity::Denied | Oddity::ByService | Oddity::WithoutCredentials | Oddity::Nameless => filter,
        };
        self.0.shards(filter, page).await
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        self.check()?;
        self.0.open(shard, start).await
    }
}

fn stream(name: &str) -> MemoryStream {
    MemoryStream::builder(name)
        .clock(Arc::new(TokioClock::new()))
        .build()
}

fn builder(leases: &MemoryLeaseStore, seen: &Seen, settings: Settings) -> WorkerBuilder {
    let seen = Arc::clone(seen);
    workers::builder("reports")
        .worker_id("a")
        .lease_store(leases.clone())
        .settings(settings)
        .processor(move |_: &ShardContext| Notes(Arc::clone(&seen)))
}

async fn pause(seconds: u64) {
    TokioClock::new().sleep(Duration::from_secs(seconds)).await;
}

fn put(stream: &MemoryStream, texts: std::ops::Range<u32>) {
    for text in texts {
        stream.put(format!("key-{text}"), format!("{text}")).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn denied_stream_keeps_no_other_from_being_read() {
    let (trucks, ships) = (stream("trucks"), Odd(stream("ships"), Oddity::Denied));
    let both = StreamSet::new([
        TrackedStream::new(trucks.clone()),
        TrackedStream::new(ships.clone()),
    ]);
    put(&trucks, 0..1);
    let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
    let worker = builder(&leases, &seen, Settings::default())
        .streams(both)
        .build()
        .unwrap()
        .start();
    pause(120).await;
    assert_eq!(*seen.lock().unwrap(), ["0"]);
    worker.shutdown();
    worker.join().await.unwrap();
    // With no other stream there is nothing to do.
    let alone = StreamSet::new([TrackedStream::new(ships)]);
    let worker = builder(&leases, &seen, Settings::default())
        .streams(alone)
        .build()
        .unwrap()
        .start();
    assert_eq!(worker.join().await.unwrap_err().kind(), ErrorKind::Denied);
}

/// Twenty records before a split, twenty after it, twenty from the start of a worker on. Returns what the worker read.
async fn read_unfiltered(settings: Settings) -> (Vec<u32>, usize) {
    let trucks = stream("trucks");
    put(&trucks, 0..20);
    pause(60).await;
    let shard = trucks.shards(ShardFilter::All, None).await.unwrap().shards[0]
        .id
        .clone();
    trucks.split(&shard).unwrap();
    put(&trucks, 20..40);
    pause(60).await;
    let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
    let odd = Odd(trucks.clone(), Oddity::Unfiltered);
    let worker = builder(&leases, &seen, settings)
        .stream(odd)
        .build()
        .unwrap()
        .start();
    pause(20).await;
    put(&trucks, 40..60);
    pause(60).await;
    worker.shutdown();
    worker.join().await.unwrap();
    let mut read = seen
        .lock()
        .unwrap()
        .iter()
        .map(|text| text.parse().unwrap())
        .collect::<Vec<u32>>();
    read.sort_unstable();
    (read, leases.scan().await.unwrap().leases.len())
}

#[tokio::test(start_paused = true)]
async fn latest_reads_nothing_older_where_filters_are_ignored() {
    let mut settings = Settings::default();
    settings.reading.initial_position = InitialPosition::Latest;
    let (read, leases) = read_unfiltered(settings).await;
    assert_eq!(read, (40..60).collect::<Vec<_>>());
    assert_eq!(leases, 2, "the shard that was closed before needs no lease");
}

#[tokio::test(start_paused = true)]
async fn a_start_time_holds_where_filters_are_ignored() {
    for (seconds, first, leases) in [(30, 20, 2), (90, 40, 2)] {
        let at = TokioClock::new().wall().plus(Duration::from_secs(seconds));
        let mut settings = Settings::default();
        settings.reading.initial_position = InitialPosition::AtTimestamp(at);
        let (read, found) = read_unfiltered(settings).await;
        assert_eq!(
            (read, found),
            ((first..60).collect::<Vec<_>>(), leases),
            "{seconds}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hash_key_filters_are_refused_with_service_placement() {
    for (aggregation, is_refused) in [
        (Aggregation::Filter, true),
        (Aggregation::FilterRecords, true),
        (Aggregation::Deliver, false),
    ] {
        let odd = Odd(stream("trucks"), Oddity::ByService);
        put(&odd.0, 0..1);
        let mut settings = Settings::default();
        settings.reading.aggregation = aggregation;
        let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
        let worker = builder(&leases, &seen, settings)
            .stream(odd)
            .build()
            .unwrap()
            .start();
        pause(30).await;
        worker.shutdown();
        let ended = worker.join().await;
        match ended {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Configuration);
                assert!(is_refused && error.to_string().contains("AUTO"), "{error}");
            }
            Ok(_) => assert!(!is_refused && *seen.lock().unwrap() == ["0"], "{aggregation:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn start_in_vain_tells_the_last_cause() {
    let odd = Odd(stream("trucks"), Oddity::WithoutCredentials);
    let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
    let worker = builder(&leases, &seen, Settings::default())
        .stream(odd)
        .build()
        .unwrap()
        .start();
    let error = worker.join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("the credentials did not come"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn nameless_stream_keeps_no_other_from_being_read() {
    let (trucks, ships) = (stream("trucks"), Odd(stream("ships"), Oddity::Nameless));
    let both = StreamSet::new([TrackedStream::new(trucks.clone()), TrackedStream::new(ships)]);
    put(&trucks, 0..1);
    let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
    let worker = builder(&leases, &seen, Settings::default())
        .streams(both)
        .build()
        .unwrap()
        .start();
    pause(120).await;
    assert_eq!(*seen.lock().unwrap(), ["0"]);
    worker.shutdown();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_shard_is_no_stall_at_any_pace() {
    for (pace, stall) in [(3, 2), (5, 5), (4, 1), (30, 1)] {
        let seconds = Duration::from_secs;
        let trucks = MemoryStream::builder("trucks")
            .clock(Arc::new(TokioClock::new()))
            .pace(kcl_lease_memory::memory_stream::Pace {
                idle: seconds(pace),
                ..Default::default()
            })
            .build();
        let mut settings = Settings::default();
        settings.leases.failover_time = seconds(1);
        settings.reading.stall_timeout = seconds(stall);
        let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
        let worker = builder(&leases, &seen, settings)
            .stream(trucks)
            .build()
            .unwrap()
            .start();
        for _ in 0..120 {
            self::pause(1).await;
            let status = worker.status();
            assert!(
                status.leases.values().all(|lease| lease.stalls == 0),
                "{pace} {stall}: {status:?}"
            );
        }
        worker.shutdown();
        worker.join().await.unwrap();
    }
}

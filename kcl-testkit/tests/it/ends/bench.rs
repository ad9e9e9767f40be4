//! One worker on a stream whose answers about the end of a shard can be wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::WorkerHandle;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::source::StreamSource;
use kcl_core::status::LeaseStatus;
use kcl_core::types::{Gap, ShardId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faulty_stream::{EndFault, FaultyStream, StreamCall, StreamFault, StreamFaultRule};

use crate::workers;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) payloads: Vec<String>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) ended: Vec<ShardId>,
}

impl Seen {
    pub(crate) fn note(&mut self, batch: &RecordBatch) {
        self.gaps.extend(batch.gap().cloned());
        let payloads = batch.iter().map(|record| record.data().to_vec());
        let payloads = payloads.map(|data| String::from_utf8(data).unwrap());
        self.payloads.extend(payloads);
    }
}

struct Notes(Arc<Mutex<Seen>>);

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.lock().unwrap().note(&batch);
        Ok(())
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.0.lock().unwrap().ended.push(shard.shard().clone());
        Ok(())
    }
}

pub(crate) struct Bench {
    pub(crate) clock: TokioClock,
    pub(crate) stream: MemoryStream,
    pub(crate) source: FaultyStream<MemoryStream>,
    pub(crate) leases: MemoryLeaseStore,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Bench {
    pub(crate) fn new(shards: u32) -> Self {
        let clock = TokioClock::new();
        let stream = MemoryStream::builder("trucks")
            .shards(shards)
            .clock(Arc::new(clock));
        let stream = stream.build();
        Self {
            clock,
            source: FaultyStream::new(stream.clone(), Arc::new(clock)),
            stream,
            leases: MemoryLeaseStore::new(),
            seen: Arc::default(),
        }
    }

    pub(crate) fn start(&self) -> WorkerHandle {
        self.start_on(self.source.clone())
    }

    pub(crate) fn start_noting(&self, settings: Settings) -> WorkerHandle {
        self.start_noting_on(self.source.clone(), settings)
    }

    pub(crate) fn start_noting_on(&self, source: impl StreamSource, settings: Settings) -> WorkerHandle {
        let seen = Arc::clone(&self.seen);
        let notes = move |_: &ShardContext| Notes(Arc::clone(&seen));
        self.start_as(source, settings, notes)
    }

    /// A worker that reads another source.
    pub(crate) fn start_on(&self, source: impl StreamSource) -> WorkerHandle {
        self.start_noting_on(source, Settings::default())
    }

    /// A worker that reads another source, with these settings and processors.
    pub(crate) fn start_as<P: RecordProcessor + 'static>(
        &self,
        source: impl StreamSource,
        settings: Settings,
        processor: impl Fn(&ShardContext) -> P + Send + Sync + 'static,
    ) -> WorkerHandle {
        workers::builder("reports")
            .worker_id("a")
            .stream(source)
            .lease_store(self.leases.clone())
            .settings(settings)
            .processor(processor)
            .clock(Arc::new(self.clock))
            .build()
            .unwrap()
            .start()
    }

    /// Every answer to a read, or the next so many, are wrong like this.
    pub(crate) fn err(&self, fault: EndFault, times: Option<u32>) {
        let fault = StreamFault::End(fault);
        self.source.faults().add(match times {
            Some(times) => StreamFaultRule::next(times, StreamCall::Next, fault),
            None => StreamFaultRule::every(StreamCall::Next, fault),
        });
    }

    pub(crate) fn put(&self, payload: &str) {
        self.stream.put("truck", payload.to_owned()).unwrap();
    }

    pub(crate) fn first_shard(&self) -> ShardId {
        self.stream.shards_snapshot()[0].shard.id.clone()
    }

    pub(crate) fn split(&self) {
        self.stream.split(&self.first_shard()).unwrap();
    }

    pub(crate) async fn sleep(&self, seconds: u32) {
        self.clock.sleep(SECOND * seconds).await;
    }

    pub(crate) fn payloads(&self) -> Vec<String> {
        self.seen.lock().unwrap().payloads.clone()
    }

    /// Waits until these were processed, once each and in this order.
    pub(crate) async fn processes(&self, expected: &[&str], within: u32) {
        let all = async {
            while self.payloads().len() < expected.len() {
                self.clock.sleep(SECOND / 10).await;
            }
        };
        let in_time = self.clock.timeout(SECOND * within, all).await;
        assert!(in_time.is_ok(), "{:?} of {expected:?}", self.payloads());
        assert_eq!(self.payloads(), expected);
    }
}

/// The status of the lease with the first key.
pub(crate) fn lease(worker: &WorkerHandle) -> LeaseStatus {
    let leases = worker.status().leases;
    leases.into_values().next().expect("a lease")
}

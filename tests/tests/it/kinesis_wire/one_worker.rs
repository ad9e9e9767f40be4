//! One stream on a wire server, and one worker after the other that notes its records.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::types::Gap;
use kcl_core::{Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;
use kinesis_local::WireOptions;

use crate::kinesis_wire::served::{Read, Served};

/// Real time within which a record is processed: a reader looks for an end that it is not shown after ten seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) payloads: Vec<String>,
    pub(crate) gaps: Vec<Gap>,
}

struct Notes(Arc<Mutex<Seen>>);

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let mut seen = self.0.lock().unwrap();
        seen.gaps.extend(batch.gap().cloned());
        let texts = batch.iter().map(|record| record.data().to_vec());
        seen.payloads
            .extend(texts.map(|text| String::from_utf8(text).unwrap()));
        Ok(())
    }
}

pub(crate) struct OneWorker {
    pub(crate) served: Served,
    pub(crate) leases: MemoryLeaseStore,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) what: String,
}

/// The defaults, with a short failover time.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_secs(3);
    settings
}

impl OneWorker {
    pub(crate) async fn new(read: Read, options: WireOptions) -> Self {
        let what = format!("{read:?}, {:?}", options.end_style);
        Self {
            served: Served::new(1, options, read).await,
            leases: MemoryLeaseStore::new(),
            seen: Arc::default(),
            what,
        }
    }

    pub(crate) fn start(&self, settings: Settings) -> WorkerHandle {
        let seen = Arc::clone(&self.seen);
        Worker::builder("suite")
            .worker_id("a")
            .stream(self.served.source.clone())
            .lease_store(self.leases.clone())
            .settings(settings)
            .processor(move |_: &ShardContext| Notes(Arc::clone(&seen)))
            .build()
            .unwrap()
            .start()
    }

    /// Waits until these were processed, once each and in this order.
    pub(crate) async fn processes(&self, expected: &[&str]) {
        let clock = TokioClock::new();
        let all = async {
            while self.seen.lock().unwrap().payloads.len() < expected.len() {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = clock.timeout(PATIENCE, all).await;
        let seen = self.seen.lock().unwrap();
        assert!(
            in_time.is_ok() && seen.payloads == expected,
            "{}: {seen:?}",
            self.what
        );
    }

    pub(crate) async fn stop(&self, worker: WorkerHandle) {
        worker.shutdown();
        let stopped = TokioClock::new().timeout(PATIENCE, worker.join()).await;
        assert!(stopped.unwrap().unwrap().is_clean(), "{}", self.what);
    }
}

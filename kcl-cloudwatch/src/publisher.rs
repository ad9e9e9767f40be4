//! How sending is set up, started and stopped.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use kcl_core::StatusReader;
use kcl_core::clock::TokioClock;
use metrics::Recorder;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

use crate::aggregates::Aggregates;
use crate::client::CloudWatchClient;
use crate::recorder::CloudWatchRecorder;
use crate::sending::Sender;
use crate::shards::ShardSampler;
use crate::validity::Dropped;

/// The least and the greatest interval.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Sends metrics to CloudWatch, once it is started.
#[must_use = "it sends nothing until it is started"]
pub struct CloudWatch {
    config: SdkConfig,
    namespace: String,
    interval: Duration,
}

impl CloudWatch {
    /// Sends to this namespace. The Java KCL uses the name of the application.
    pub fn new(config: &SdkConfig, namespace: impl Into<String>) -> Self {
        Self {
            config: config.clone(),
            namespace: namespace.into(),
            interval: Duration::from_secs(60),
        }
    }

    /// Sends in this interval, from a second to an hour; a minute by default, which is the resolution that CloudWatch keeps.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Starts sending, on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the namespace or the interval is not allowed, or the system has no thread.
    pub fn start(self) -> Result<Publisher, StartError> {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || ".-_/#: ".contains(letter);
        let is_name =
            self.namespace.chars().all(is_allowed) && (1..=255).contains(&self.namespace.trim().len());
        if !is_name || self.namespace.starts_with("AWS/") || self.namespace.starts_with(':') {
            return Err(StartError::Namespace(self.namespace));
        }
        if !(INTERVALS.0..=INTERVALS.1).contains(&self.interval) {
            return Err(StartError::Interval(self.interval));
        }
        let aggregates = Arc::new(Aggregates::default());
        let shards = Arc::new(Mutex::new(None));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (for_sender, shards_of_sender) = (Arc::clone(&aggregates), Arc::clone(&shards));
        let dropped = Arc::new(AtomicU64::new(0));
        let dropped_by_sender = Arc::clone(&dropped);
        let (until, has_ended) = (stop.clone(), ended.clone().drop_guard());
        let logs = tracing::dispatcher::get_default(tracing::Dispatch::clone);
        let send = move || {
            let _has_ended = has_ended;
            let sending = async {
                let clock = Arc::new(TokioClock::new());
                let sink = CloudWatchClient::new(&self.config, self.namespace, clock.clone());
                let sender = Sender {
                    aggregates: for_sender,
                    shards: shards_of_sender,
                    clock,
                    sink: Arc::new(sink),
                    interval: self.interval,
                    sampler: ShardSampler::default(),
                    dropped: dropped_by_sender,
                    faults: Dropped::default(),
                };
                sender.run(until).await;
            };
            if logs.is::<NoSubscriber>() {
                runtime.block_on(sending);
            } else {
                tracing::dispatcher::with_default(&logs, || runtime.block_on(sending));
            }
            // Without waiting for name lookups that are under way.
            runtime.shutdown_background();
        };
        std::thread::Builder::new()
            .name("kcl-cloudwatch".to_owned())
            .spawn(send)?;
        Ok(Publisher {
            recorder: Arc::new(CloudWatchRecorder(aggregates)),
            shards,
            dropped,
            stop,
            ended,
        })
    }
}

impl fmt::Debug for CloudWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudWatch")
            .field("namespace", &self.namespace)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// CloudWatch has no such namespaces.
    #[error(
        "{0:?} is no namespace: it takes 1 to 255 letters, digits and . - _ / # : and begins neither with AWS/ nor with a colon"
    )]
    Namespace(String),
    /// The interval is out of its range.
    #[error("the interval is {0:?}, and must be from a second to an hour")]
    Interval(Duration),
    /// The system has no thread.
    #[error("no thread to send metrics from")]
    Thread(#[from] io::Error),
}

/// Sends metrics until it is stopped or dropped.
#[derive(Debug)]
#[must_use = "it stops when it is dropped"]
pub struct Publisher {
    recorder: Arc<CloudWatchRecorder>,
    shards: Arc<Mutex<Option<StatusReader>>>,
    dropped: Arc<AtomicU64>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Publisher {
    /// Returns the recorder, for `WorkerBuilder::metrics_recorder` or as the global one.
    pub fn recorder(&self) -> Arc<dyn Recorder + Send + Sync> {
        Arc::clone(&self.recorder) as Arc<_>
    }

    /// Sends `MillisBehindLatest` and `RecordsProcessed` of each shard that this worker holds, as the Java KCL does.
    ///
    /// CloudWatch charges each as a metric of its own. Another reader replaces this one.
    pub fn watch_shards(&self, reader: StatusReader) {
        *self.shards.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    }

    /// Returns how many data were dropped because CloudWatch takes no such: a value that is not finite or beyond 2^360, two dimensions of
    /// one name, or what the service itself refused. The log names the first of each metric.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends what is left, and ends. Where CloudWatch does not answer it gives up after three tries, within 20 seconds.
    ///
    /// Call it after the worker has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future sends the rest as well, without waiting, as long as the process lives.
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_intervals_out_of_range_are_refused() {
        let config = SdkConfig::builder().build();
        for namespace in ["", "AWS/Kinesis", "trück", ":trucks", &"x".repeat(256)] {
            let refused = CloudWatch::new(&config, namespace).start();
            assert!(matches!(refused, Err(StartError::Namespace(_))), "{namespace}");
        }
        for interval in [Duration::ZERO, Duration::from_secs(3601)] {
            let refused = CloudWatch::new(&config, "trucks").interval(interval).start();
            assert!(matches!(refused, Err(StartError::Interval(_))), "{interval:?}");
        }
    }
}

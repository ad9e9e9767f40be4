//! The loop that sends: on an interval, with pauses after failures, and once more at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::StatusReader;
use kcl_core::clock::Clock;
use kcl_core::types::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::aggregates::Aggregates;
use crate::chunks::chunks;
use crate::names::Datum;
use crate::shards::ShardSampler;

/// The pause after the first failure. Each one that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The tries at the end, each with its pause before it.
const LAST_TRIES: u32 = 3;

/// Why a call carried nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PutFailure {
    /// It is not valid, and never will be.
    Invalid(String),
    /// It may be taken later, or was taken without an answer.
    TryAgain(String),
}

/// Sends data to CloudWatch.
#[async_trait]
pub(crate) trait PutMetrics: Send + Sync {
    /// Sends these data, which are of this time, within a deadline.
    async fn put(&self, data: &[Datum], time: Timestamp) -> Result<(), PutFailure>;
}

/// Sends what is aggregated.
pub(crate) struct Sender {
    pub(crate) aggregates: Arc<Aggregates>,
    pub(crate) shards: Arc<Mutex<Option<StatusReader>>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sink: Arc<dyn PutMetrics>,
    pub(crate) interval: Duration,
    pub(crate) sampler: ShardSampler,
}

impl Sender {
    /// Sends until `stop`, and then the rest.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let pause = self.pause(failures);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.clock.sleep_until(self.clock.now() + pause) => {}
            }
            failures = match self.flush().await {
                true => 0,
                false => failures + 1,
            };
        }
        for tried in 1..=LAST_TRIES {
            if self.flush().await || tried == LAST_TRIES {
                return;
            }
            let pause = self.pause(tried);
            self.clock.sleep_until(self.clock.now() + pause).await;
        }
    }

    /// The time until the next try, after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        match failures {
            0 => self.interval,
            _ => self
                .interval
                .min(FIRST_PAUSE * 2_u32.saturating_pow((failures - 1).min(16))),
        }
    }

    /// Sends everything. Returns `false` if a part is to be tried again.
    async fn flush(&mut self) -> bool {
        let reader = self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reader) = reader {
            self.sampler.sample(&reader.status(), &self.aggregates);
        }
        let chunks = chunks(self.aggregates.take());
        self.aggregates.keep_shards(&self.sampler.leases());
        let time = self.clock.wall();
        let mut is_sent = true;
        for chunk in chunks {
            let (taken, data): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            // After a failure the rest waits too: what overloads the service is not made worse.
            let outcome = match is_sent {
                true => self.sink.put(&data, time).await,
                false => Err(PutFailure::TryAgain(String::new())),
            };
            match outcome {
                Ok(()) => {}
                Err(PutFailure::Invalid(error)) => {
                    tracing::warn!(
                        error,
                        data = data.len(),
                        "dropped metrics that CloudWatch refuses"
                    );
                }
                Err(PutFailure::TryAgain(error)) => {
                    if is_sent {
                        tracing::warn!(error, "metrics were not sent and will be tried again");
                    }
                    is_sent = false;
                    taken
                        .into_iter()
                        .for_each(|taken| self.aggregates.give_back(taken));
                }
            }
        }
        is_sent
    }
}

#[cfg(test)]
mod tests;

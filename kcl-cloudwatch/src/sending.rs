//! The loop that sends: on an interval, with pauses after failures, and once more at the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::taken::Taken;
use crate::validity::{Dropped, fault};

/// The pause after the first failure. Each one that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The tries at the end, each with its pause before it.
const LAST_TRIES: u32 = 3;
/// How often refused calls of one sending are parted to find the data that are at fault: enough for several in a full call.
const MOST_SPLITS: u32 = 64;

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
    /// How many data were dropped, for those that ask.
    pub(crate) dropped: Arc<AtomicU64>,
    pub(crate) faults: Dropped,
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
        let mut splits = MOST_SPLITS;
        let mut calls: VecDeque<Vec<(Taken, Datum)>> = chunks
            .into_iter()
            .map(|chunk| self.without_faults(chunk))
            .filter(|chunk| !chunk.is_empty())
            .collect();
        while let Some(mut chunk) = calls.pop_front() {
            // After a failure the rest waits too: what overloads the service is not made worse.
            let outcome = match is_sent {
                true => {
                    let data: Vec<Datum> = chunk.iter().map(|(_, datum)| datum.clone()).collect();
                    self.sink.put(&data, time).await
                }
                false => Err(PutFailure::TryAgain(String::new())),
            };
            match outcome {
                Ok(()) => {}
                Err(PutFailure::Invalid(_)) if chunk.len() > 1 && splits > 0 => {
                    // The service does not say which datum it refuses. In halves the others get through.
                    splits -= 1;
                    let rest = chunk.split_off(chunk.len() / 2);
                    calls.push_front(rest);
                    calls.push_front(chunk);
                }
                Err(PutFailure::Invalid(error)) => {
                    for (_, datum) in &chunk {
                        self.drop_one(datum, &error);
                    }
                }
                Err(PutFailure::TryAgain(error)) => {
                    if is_sent {
                        tracing::warn!(error, "metrics were not sent and will be tried again");
                    }
                    is_sent = false;
                    chunk
                        .into_iter()
                        .for_each(|(taken, _)| self.aggregates.give_back(taken));
                }
            }
        }
        is_sent
    }

    /// The data that CloudWatch takes, as far as can be known before it is asked.
    fn without_faults(&mut self, chunk: Vec<(Taken, Datum)>) -> Vec<(Taken, Datum)> {
        let mut kept = Vec::with_capacity(chunk.len());
        for (taken, datum) in chunk {
            match fault(&datum) {
                None => kept.push((taken, datum)),
                Some(reason) => self.drop_one(&datum, reason),
            }
        }
        kept
    }

    fn drop_one(&mut self, datum: &Datum, reason: &str) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.faults.log(datum, reason);
    }
}

#[cfg(test)]
mod tests;

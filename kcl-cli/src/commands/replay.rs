//! `replay`: reads a bounded window of a stream again, beside the live traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kcl_core::clock::{Clock, TokioClock};
use kcl_core::lease_store::LeaseStore;
use kcl_core::processor::{
    Concurrency, ProcessorError, RecordBatch, RecordHandler, RecordProcessor, ShardContext,
};
use kcl_core::source::StreamSource as _;
use kcl_core::types::{Record, Timestamp};
use kcl_core::{Replay, Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;

use super::records::RecordView;
use super::watch::interrupted;
use crate::arguments::{Format, ReplayOptions, TailStart};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::{Printer, complain, print};

/// The beginning of the names of applications that replay: no application that runs has such a name by accident.
const PREFIX: &str = "replay-";
/// How many records of a shard are put at once, each of another key: a call takes far longer than a record takes of the limit of a shard.
const PUT_AT_ONCE: usize = 16;

/// `kcl replay`.
pub(crate) async fn replay(
    connection: &Connection,
    options: &ReplayOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let stream = connection.stream(&options.stream);
    let identity = stream.identity().await?;
    let window = window(options, connection.now(), stream.description().retention)?;
    if let Some(to) = &options.to_stream {
        let target = connection.stream(to).identity().await?;
        if target.arn == identity.arn {
            let message = format!(
                "{to} is the stream that is read: what is put there would be live traffic again; name another"
            );
            return Err(Failure::usage(message));
        }
    }
    let replay = Replay::new(stream, window.0, window.1).share_percent(options.share);
    let replay = replay.clock(Arc::<TokioClock>::clone(&connection.clock));
    let (application, store) = place(connection, options).await?;
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    let builder = Worker::builder(application)
        .stream(replay.source())
        .shared_lease_store(Arc::clone(&store))
        .clock(Arc::<TokioClock>::clone(&connection.clock));
    let builder = match &options.to_stream {
        None => {
            let (format, shows_payload) = (printer.format, options.payload);
            builder.processor(move |_: &ShardContext| Writer {
                format,
                shows_payload,
                counts: Arc::clone(&counted),
            })
        }
        Some(stream) => {
            let (connection, stream) = (connection.clone(), stream.clone());
            builder.handler(Concurrency::PerKey(PUT_AT_ONCE), move |_: &ShardContext| Putter {
                connection: connection.clone(),
                stream: stream.clone(),
                counts: Arc::clone(&counted),
            })
        }
    };
    let worker = builder
        .build()
        .map_err(|error| Failure::usage(error.to_string()))?
        .start();
    let begun = connection.clock.now();
    let ended = tokio::select! {
        biased;
        () = interrupted() => None,
        ended = replay.finished(&worker, store.as_ref()) => Some(ended),
    };
    stop(worker).await?;
    let is_finished = match ended {
        Some(ended) => ended
            .map(|()| true)
            .map_err(|error| Failure::new(Exit::NoAnswer, error.to_string()))?,
        None => false,
    };
    let (records, bytes) = counts.read();
    let took = connection.clock.now().saturating_since(begun).as_secs();
    complain(&format!("{records} records, {bytes} bytes, {took} s"));
    if !is_finished {
        let how = match &options.name {
            Some(_) => "the same command goes on there",
            None => "with --as it could go on there; without, it begins again",
        };
        complain(&format!("stopped before the end of the window: {how}"));
    }
    Ok(Exit::found(!is_finished))
}

/// Lets the worker stop. Its error is the one that ended it.
async fn stop(worker: WorkerHandle) -> Result<(), Failure> {
    worker.shutdown();
    let stopped = worker.join().await;
    stopped
        .map(|_| ())
        .map_err(|error| Failure::new(Exit::NoAnswer, error.to_string()))
}

/// The name of the application, and where it keeps its place: in a table of its own, or in memory.
async fn place(
    connection: &Connection,
    options: &ReplayOptions,
) -> Result<(String, Arc<dyn LeaseStore>), Failure> {
    let Some(name) = &options.name else {
        return Ok((format!("{PREFIX}once"), Arc::new(MemoryLeaseStore::new())));
    };
    let application = format!("{PREFIX}{name}");
    let store = connection.store(&application);
    // A table that is not there is made when the worker starts.
    let places = store.scan().await.map_or(0, |scan| scan.leases.len());
    if places > 0 {
        complain(&format!(
            "{application} goes on where it stopped, in {places} shards; for another window take another name"
        ));
    }
    Ok((application, Arc::new(store)))
}

/// The first moment of the window, and the one behind it.
fn window(
    options: &ReplayOptions,
    now: Timestamp,
    retention: Option<std::time::Duration>,
) -> Result<(Timestamp, Timestamp), Failure> {
    let at = |start: TailStart| match start {
        TailStart::Latest => Some(now),
        TailStart::Earliest => None,
        TailStart::At(time) => Some(time),
        TailStart::Ago(ago) => Some(now.minus(ago)),
    };
    let oldest = retention.map(|kept| now.minus(kept));
    let earliest = oldest.unwrap_or(Timestamp::from_millis(0));
    let from = at(options.from).unwrap_or(earliest);
    let until = at(options.to).unwrap_or(earliest);
    if from >= until {
        return Err(Failure::usage(format!(
            "the window is empty: --from is {from}, and --to is {until}"
        )));
    }
    if let Some(oldest) = oldest.filter(|oldest| from < *oldest) {
        let message = format!(
            "the stream keeps records from {oldest} on, and --from is {from}: begin later, or with --from earliest"
        );
        return Err(Failure::usage(message));
    }
    Ok((from, until))
}

/// The records that have gone where they are to go.
#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn add(&self, record: &Record) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes
            .fetch_add(record.data().len() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (
            self.records.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Prints on another thread: a pipe that is full, and is not read, holds that one.
#[expect(clippy::disallowed_methods, reason = "the command is no part of a simulation")]
async fn print_aside(text: String) -> Result<(), ProcessorError> {
    let printed = tokio::task::spawn_blocking(move || print(&text)).await;
    printed
        .map_err(ProcessorError::transient)?
        .map_err(ProcessorError::transient)
}

/// Prints the records of one shard.
struct Writer {
    format: Format,
    shows_payload: bool,
    counts: Arc<Counts>,
}

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let line = |record| RecordView::new(shard.shard(), record, self.shows_payload).text(self.format);
        let lines: String = batch.iter().map(line).collect();
        print_aside(lines).await?;
        batch.iter().for_each(|record| self.counts.add(record));
        Ok(())
    }
}

/// Puts the records of one shard into another stream, those of each key in their order.
struct Putter {
    connection: Connection,
    stream: String,
    counts: Arc<Counts>,
}

impl RecordHandler for Putter {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        let put = self.connection.put_again(&self.stream, record).await;
        put.map_err(|failure| ProcessorError::transient(failure.to_string()))?;
        self.counts.add(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn options(from: TailStart, to: TailStart) -> ReplayOptions {
        ReplayOptions {
            stream: "trucks".to_owned(),
            from,
            to,
            name: None,
            share: 20,
            to_stream: None,
            payload: false,
        }
    }

    #[test]
    fn window_outside_retention_is_refused() {
        let (now, day) = (
            Timestamp::from_millis(1_800_000_000_000),
            Some(Duration::from_secs(86_400)),
        );
        let window = |from, to, retention| window(&options(from, to), now, retention);
        let ago = |hours: u64| TailStart::Ago(Duration::from_secs(hours * 3600));
        assert_eq!(
            window(ago(2), ago(1), day).unwrap().1,
            now.minus(Duration::from_secs(3600))
        );
        let old = window(ago(30), ago(1), day).unwrap_err();
        assert!(
            old.exit == Exit::Usage && old.message.contains("--from earliest"),
            "{old}"
        );
        assert!(window(TailStart::Earliest, TailStart::Latest, day).is_ok());
        assert!(window(ago(30), ago(1), None).is_ok());
        assert!(window(ago(1), ago(2), day).is_err() && window(ago(1), ago(1), day).is_err());
    }
}

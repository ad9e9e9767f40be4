//! Consumes Amazon Kinesis streams with a fleet of worker processes.
//!
//! Each open shard is leased to exactly one worker, which runs your [`RecordProcessor`] on it and stores checkpoints. Shards move when
//! workers come, go or die. A child shard starts when its parents are finished. It is what Amazon's Kinesis Client Library (KCL) does for
//! Java, on the same lease table, without a JVM.
//!
//! # On AWS
//!
//! Two dependencies are enough:
//!
//! ```toml
//! [dependencies]
//! kinesis-client = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
#![cfg_attr(all(feature = "aws", feature = "signal"), doc = "```rust,no_run")]
#![cfg_attr(not(all(feature = "aws", feature = "signal")), doc = "```text")]
//! use kinesis_client::{
//!     DynamoLeaseStore, Error, KinesisStream, ProcessorError, RecordBatch, RecordProcessor,
//!     ShardContext, Worker, async_trait, aws_config,
//! };
//!
//! struct TruckTracker;
//!
//! #[async_trait]
//! impl RecordProcessor for TruckTracker {
//!     async fn process_records(
//!         &mut self,
//!         batch: RecordBatch,
//!         shard: &ShardContext,
//!     ) -> Result<(), ProcessorError> {
//!         for record in &batch {
//!             // An error holds the shard, and the batch comes again.
//!             let text = std::str::from_utf8(record.data())?;
//!             println!("{}: {text}", shard.shard());
//!         }
//!         Ok(()) // everything in the batch is done: the worker stores the checkpoint
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Error> {
//!     let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
//!     let worker = Worker::builder("truck-tracker")
//!         .stream(KinesisStream::new(&aws, "truck-positions"))
//!         // The table is created if it is not there.
//!         .lease_store(DynamoLeaseStore::new(&aws, "truck-tracker"))
//!         .processor(|_: &ShardContext| TruckTracker)
//!         .build()?;
//!     worker.run_until_signal().await?; // SIGTERM drains; a second one stops at once
//!     Ok(())
//! }
//! ```
//!
//! Start it as often as you like: the workers find each other through the lease table. What it takes is on the pages of
#![cfg_attr(feature = "aws", doc = "[`KinesisStream`] and [`DynamoLeaseStore`].")]
#![cfg_attr(not(feature = "aws"), doc = "`KinesisStream` and `DynamoLeaseStore`.")]
//!
//! # In memory
//!
//! With the feature `memory` the same worker runs in a test, or on a laptop without a network:
//!
#![cfg_attr(feature = "memory", doc = "```rust")]
#![cfg_attr(not(feature = "memory"), doc = "```text")]
//! use kinesis_client::source::StreamSource;
//! use kinesis_client::{
//!     Error, MemoryLeaseStore, RecordProcessor, ShardContext, Worker, WorkerHandle,
//! };
//!
//! fn start<P>(stream: impl StreamSource) -> Result<WorkerHandle, Error>
//! where
//!     P: RecordProcessor + Default,
//! {
//!     let worker = Worker::builder("truck-tracker")
//!         .stream(stream)
//!         .lease_store(MemoryLeaseStore::new())
//!         .processor(|_: &ShardContext| P::default())
//!         .build()?;
//!     Ok(worker.start())
//! }
//! ```
//!
//! # What is promised
//!
//! - Every record is delivered at least once, in order per shard, and is never skipped unless your code said so.
//! - Checkpoints are fenced: a worker that lost its lease stores nothing.
//! - No child shard is delivered before its parents are finished.
//!
//! Side effects of your code are *not* mutually exclusive. A worker that was paused for longer than the failover time may finish a batch
//! that another worker has been given. A sink that needs more checks the [`FencingToken`].
//!
//! # Where to go next
//!
//! | You want to | Look at |
//! |---|---|
//! | process records | [`RecordProcessor`], [`RecordBatch`], [`ProcessorError`] |
//! | start, watch and stop a worker | [`WorkerBuilder`], [`WorkerHandle`] |
//! | decide what follows a failure | [`processor::Policy`], [`dead_letter`], [`Redrive`] |
//! | count per minute, without a state store | [`processor::TumblingWindows`] |
//! | have each record in a database exactly once | [`processor::SinkPosition`] |
//! | read several streams | [`StreamSet`], [`WorkerBuilder::streams`] |
//! | change a default | [`settings`] |
//! | pause or slow down | [`FlowHandle`] |
//! | know how it is doing | [`status`], [`metrics`], the feature `http` |
//! | write a source or a lease store of your own | [`source`], [`lease_store`] |
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `aws` | yes | `KinesisStream`, `DynamoLeaseStore`, and the SDK crates that they are built for |
//! | `signal` | yes | `Worker::run_until_signal` |
//! | `http` | no | `http`: a server of metrics for Prometheus, of probes, and of the status as JSON |
//! | `memory` | no | `MemoryLeaseStore`, `MemoryStream` |

#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use ::metrics::Recorder;
pub use async_trait::async_trait;
pub use bytes;
pub use tokio_util::sync::CancellationToken;

#[doc(inline)]
pub use kcl_core::processor::{
    Concurrency, FencingToken, ProcessorError, RecordBatch, RecordHandler, RecordProcessor, ShardContext,
    StartFrom,
};
#[doc(inline)]
pub use kcl_core::settings::Settings;
#[doc(inline)]
pub use kcl_core::streams::{StreamSet, TrackedStream};
#[doc(inline)]
pub use kcl_core::types::{InitialPosition, Record};
#[doc(inline)]
pub use kcl_core::{
    Coordination, Error, ErrorKind, FlowHandle, FlowScope, Rate, Redrive, RedriveReport, Replay,
    ReplaySource, ShutdownHandle, ShutdownReport, StatusReader, Worker, WorkerBuilder, WorkerHandle,
};
#[doc(inline)]
pub use kcl_core::{clock, lease_store, metrics, processor, settings, source, status, streams, types};

/// Where records go that a policy sets aside: the seam, the sinks, and how to read the letters back.
///
/// [`DeadLetterFiles`](dead_letter::DeadLetterFiles) writes them to a folder
#[cfg_attr(
    feature = "aws",
    doc = "and [`DeadLetterStream`](dead_letter::DeadLetterStream) to another stream,"
)]
#[cfg_attr(
    not(feature = "aws"),
    doc = "and, with the feature `aws`, `DeadLetterStream` to another stream,"
)]
/// as lines of JSON; [`Redrive`] hands them to a processor again.
pub mod dead_letter {
    #[doc(inline)]
    pub use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterKey, DeadLetterSink};
    #[doc(inline)]
    pub use kcl_dead_letters::{
        DeadLetterFiles, InvalidLetter, LetterLine, ReadError, decode, encode, read_folder,
    };
    #[cfg(feature = "aws")]
    #[doc(inline)]
    pub use kcl_kinesis::DeadLetterStream;
}

#[cfg(feature = "aws")]
pub use aws_config;
#[cfg(feature = "aws")]
pub use kcl_kinesis::aws_sdk_kinesis;
#[cfg(feature = "aws")]
#[doc(inline)]
pub use kcl_kinesis::{FanOut, KinesisStream, PollingSettings, RecordFormat};
#[cfg(feature = "aws")]
pub use kcl_lease_dynamo::aws_sdk_dynamodb;
#[cfg(feature = "aws")]
#[doc(inline)]
pub use kcl_lease_dynamo::{
    Billing, DynamoLeaseStore, InvalidTableOptions, PreparedForJava, TableLayout, TableOptions,
};

/// A server of a worker's metrics for Prometheus, of probes for liveness and readiness, and of its status as JSON.
#[cfg(feature = "http")]
pub mod http {
    #[doc(inline)]
    pub use kcl_http::*;
}

#[cfg(feature = "memory")]
#[doc(inline)]
pub use kcl_lease_memory::{MemoryLeaseStore, MemoryStream, memory_stream};

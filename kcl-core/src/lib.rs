//! Coordinates a fleet of workers that consume an Amazon Kinesis stream together.
//!
//! Each open shard is leased to exactly one worker, which runs your [`RecordProcessor`](processor::RecordProcessor) on it
//! and stores checkpoints. Shards move when workers come, go or die; a child shard starts when its parents are finished.
//!
//! ```text
//! stream ──▶ shard sync ──▶ lease rows ──▶ assignment ──▶ grant ──▶ shard consumer ──▶ your processor
//!    │                          ▲                                     │      │
//!    └───────── records ────────┼─────────────────────────────────────┘      │
//!                               └──────── renewals and checkpoints ──────────┘
//! ```
//!
//! What you write is a processor, and that is all it needs:
//!
//! ```
//! use async_trait::async_trait;
//! use kcl_core::error::Error;
//! use kcl_core::lease::LeaseStore;
//! use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
//! use kcl_core::source::StreamSource;
//! use kcl_core::worker::Worker;
//!
//! struct TruckTracker {
//!     positions: u64,
//! }
//!
//! #[async_trait]
//! impl RecordProcessor for TruckTracker {
//!     async fn process_records(&mut self, batch: RecordBatch, shard: &ShardContext) -> Result<(), ProcessorError> {
//!         for record in &batch {
//!             let _text = std::str::from_utf8(record.data())?; // an error holds the shard and tries again
//!             self.positions += 1;
//!         }
//!         println!("{}: {} positions", shard.shard(), self.positions);
//!         Ok(()) // everything in the batch is done: the worker stores the checkpoint
//!     }
//! }
//!
//! async fn consume(stream: impl StreamSource, leases: impl LeaseStore) -> Result<(), Error> {
//!     let worker = Worker::builder("truck-tracker")
//!         .stream(stream)
//!         .leases(leases)
//!         .processor(|_: &ShardContext| TruckTracker { positions: 0 })
//!         .build()?;
//!     let report = worker.run(std::future::pending()).await?;
//!     assert!(report.is_clean());
//!     Ok(())
//! }
//! ```
//!
//! `kcl-kinesis` and `kcl-lease-dynamo` are the stream and the store on AWS; `kcl-testkit` and `kcl-lease-memory` are both in
//! memory, for a laptop and for tests.
//!
//! # What is promised
//!
//! Every record is delivered at least once, in order per shard, and never skipped unless your policy said so. Checkpoints are
//! fenced: a worker that lost its lease stores nothing. Side effects of your code are *not* mutually exclusive: a worker that
//! was paused for longer than the failover time may finish a batch that another one has been given. A sink that needs more can
//! check the [`FencingToken`](processor::FencingToken).
//!
//! # Where to go next
//!
//! [`worker`] builds, runs and stops; [`processor`] is what you implement; [`settings`] explains every default; [`status`] is
//! what health checks read; [`metrics`] names what is measured. Those who write a store or a source implement
//! [`lease::LeaseStore`] or [`source::StreamSource`]. Decisions are pure functions: [`assignment`], [`shard_sync`],
//! [`lease::apply`], [`lease::hold`], [`lifecycle`], [`checkpoint`].

#![deny(missing_docs)]

pub mod assignment;
pub mod budget;
pub mod checkpoint;
mod consumer;
pub mod error;
pub mod flow;
pub mod invariant;
pub mod lease;
pub mod lifecycle;
pub mod metrics;
pub mod model;
mod monitor;
#[doc(hidden)]
pub mod mutant;
pub mod processor;
pub mod rng;
pub mod settings;
pub mod shard_sync;
pub mod source;
pub mod status;
pub mod streams;
pub mod task;
pub mod time;
pub mod worker;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

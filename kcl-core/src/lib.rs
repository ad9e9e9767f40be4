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
//! Your part is a processor, and that is all it needs:
//!
//! ```
//! use async_trait::async_trait;
//! use kcl_core::Error;
//! use kcl_core::lease_store::LeaseStore;
//! use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
//! use kcl_core::source::StreamSource;
//! use kcl_core::Worker;
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
//!         .lease_store(leases)
//!         .processor(|_: &ShardContext| TruckTracker { positions: 0 })
//!         .build()?;
//!     let report = worker.run(std::future::pending()).await?;
//!     assert!(report.is_clean());
//!     Ok(())
//! }
//! ```
//!
//! `kcl-kinesis` and `kcl-lease-dynamo` are the stream and the store on AWS; `kcl-lease-memory` has both in memory, for a laptop and
//! for tests.
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
//! [`Worker`] builds, runs and stops; [`processor`] is what you implement; [`settings`] explains every default; [`status`] is
//! what health checks read; [`metrics`] names what is measured. Those who write a store or a source implement
//! [`lease_store::LeaseStore`] or [`source::StreamSource`].

#![deny(missing_docs)]
#![cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub))]

mod consumer;
mod coordinator;
pub mod dead_letter;
mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[doc(hidden)]
pub mod invariant;
mod lease;
mod lifecycle;
mod limits;
pub mod metrics;
mod ownership;
pub mod processor;
mod retrieval;
mod runtime;
pub mod settings;
pub mod source;
pub mod status;
pub mod streams;
pub mod types;
mod worker;

pub use crate::consumer::redrive::{Redrive, RedriveReport};
pub use crate::error::{Causes, Error, ErrorKind};
pub use crate::limits::flow_control::{FlowHandle, FlowScope};
pub use crate::types::Rate;
pub use crate::worker::builder::{Coordination, Worker, WorkerBuilder};
pub use crate::worker::handle::{ShutdownHandle, WorkerHandle};
pub use crate::worker::replay::{Replay, ReplaySource};
pub use crate::worker::shutdown::{Remaining, ShutdownReport, ShutdownStep};
pub use crate::worker::status_reader::StatusReader;

/// Time and randomness, as injected services, and values that belong to a runtime.
pub mod clock {
    pub use crate::runtime::clock::{BoxFuture, Clock, ClockExt, Elapsed, Moment, TokioClock};
    pub use crate::runtime::per_runtime::PerRuntime;
    pub use crate::runtime::rng::Rng;
}

/// The parts for an implementor of a lease store: the rows, their changes, and what each change does.
///
/// [`LeaseStore`](lease_store::LeaseStore) is the seam. [`apply`](lease_store::apply) is the specification of every change of a lease:
/// a store expresses it and adds nothing.
pub mod lease_store {
    pub use crate::lease::change::{Expect, LeaseChange, apply, counts_as_switch};
    pub use crate::lease::finished_ahead::{FinishedAhead, InvalidFinishedAhead};
    pub use crate::lease::orders::{
        GivenOrder, InvalidAuthor, LeaseOrder, LeaseOrders, OrderAnswer, OrderAuthor, ResetPosition,
        WorkerOrder, WorkerOrders,
    };
    pub use crate::lease::report::{InvalidReport, ShardReport};
    pub use crate::lease::row::{Lease, OwnerNotes, PendingCheckpoint, RowFacts, Version, WriteStamp};
    pub use crate::lease::store::{
        Capabilities, Certainty, LeaseStore, Outcome, Preparation, Scan, StoreError, StoreErrorKind,
        Undecodable, check_counter,
    };
    pub use crate::lease::worker_row::{
        LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome, WorkerRow,
    };
}

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

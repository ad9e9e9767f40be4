//! Coordinates a fleet of workers that consume an Amazon Kinesis stream together.

#![deny(missing_docs)]

pub mod assignment;
pub mod checkpoint;
mod consumer;
pub mod error;
pub mod invariant;
pub mod lease;
pub mod lifecycle;
pub mod metrics;
pub mod model;
pub mod processor;
pub mod rng;
pub mod settings;
pub mod shard_sync;
pub mod source;
pub mod status;
pub mod task;
pub mod time;
pub mod worker;

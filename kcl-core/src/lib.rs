//! Coordinates a fleet of workers that consume an Amazon Kinesis stream together.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod assignment;
pub mod error;
pub mod lease;
pub mod model;
pub mod rng;
pub mod shard_sync;
pub mod source;
pub mod task;
pub mod time;

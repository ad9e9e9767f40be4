#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aggregates;
mod chunks;
mod client;
mod names;
mod publisher;
mod recorder;
mod sending;
mod series;
mod shards;
mod statistics;
mod taken;
mod validity;

pub use aws_sdk_cloudwatch;
pub use publisher::{CloudWatch, Publisher, StartError};

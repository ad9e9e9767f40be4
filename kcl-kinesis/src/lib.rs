//! Reads Amazon Kinesis for `kcl-core`: lists the shards of a stream, and reads them by polling or by enhanced fan-out.
//!
//! Give [`KinesisStream`] an AWS configuration and the name or ARN of a stream, and hand it to the worker. [`DeadLetterStream`] takes the records
//! that the error policy sets aside, to a stream of their own.
//!
//! # What it takes care of
//!
//! - **Iterators.** A shard iterator lives five minutes and is a mere cache: it is obtained when it is needed, again when it grows old or is
//!   refused, and always from the last record that was delivered. LATEST is resolved once, when a shard is opened.
//! - **Pace.** Kinesis allows five reads and 2 MiB per second and shard, shared by all who poll it. A reader that is behind reads on at that pace;
//!   one that has caught up reads every 300 ms, and every second once nothing has come for half a minute. [`PollingSettings`] says otherwise.
//! - **Subscriptions.** With [`FanOut`] the service pushes records over a subscription of up to five minutes. It is replaced before that, opened
//!   again when it breaks or falls silent, and never sooner than the service allows; where it goes on is the place that its last
//!   event named. A reader that is held up for long gives it up, so that others on the connection do not suffer.
//! - **Encoding.** Records are asked for in CBOR and handed on without a copy, as slices of the answer. A server that does not speak it is asked in
//!   JSON; [`RecordFormat`] says more.
//! - **Deadlines.** Every call has one of ours, and exactly one attempt: retries of the SDK are off, so that every throttle is seen
//!   and the worker's own pauses apply. Of an answer that has started each piece has it, so that a slow connection delivers large records.
//! - **Room.** A record may take 10 MiB, among others of 1 KiB. The body of an answer is read once the worker's memory budget has room for what
//!   its head announces, so no size need be guessed, and nothing is read twice because it did not fit.
//!
//! # AWS SDK
//!
//! The SDK that this crate is built for is [`aws_sdk_kinesis`], re-exported so that a client of the same version can be made.
//!
//! # Permissions
//!
#![doc = include_str!("../docs/iam-policy.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adaptive_rate;
mod cbor;
mod client;
mod convert;
mod dead_letter_stream;
mod errors;
mod fan_out;
#[doc(hidden)]
pub mod fuzzing;
mod json;
mod pace;
mod polling;
mod raw_body;
mod stream;

pub use aws_sdk_kinesis;
pub use dead_letter_stream::DeadLetterStream;
pub use fan_out::FanOut;
pub use pace::{PollingSettings, RecordFormat};
pub use stream::KinesisStream;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

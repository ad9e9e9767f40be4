//! Leases in DynamoDB for `kcl-core`, in rows that Amazon's Java KCL 3.5 reads and writes.
//!
//! [`DynamoLeaseStore`] is all there is: give it an AWS configuration and the name of a table, and hand it to the worker.
//!
//! # What is in the table
//!
//! One row per lease, one per worker, the leader lock, and a mark of the client version, in the single-table layout of the Java KCL.
//! Ours carry a few attributes more, all of whose names begin with `rs`; Java ignores and keeps them, as this crate keeps what it does
//! not know. Rows of unknown kinds are skipped and never written.
//!
//! # Java
//!
//! A table that Java workers may be using is refused before anything is written. A *stopped* Java application can be taken over with
//! the setting `take_over_java` of [`Preparation`](kcl_core::lease::Preparation).
//!
//! # AWS SDK
//!
//! The SDK that this crate is built for is [`aws_sdk_dynamodb`], re-exported so that a client of the same version can be made. Retries
//! of the SDK are off: a conditional write repeated by the SDK would be refused because of its own first attempt.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attr;
mod client;
mod codec;
mod errors;
mod expression;
mod guard;
mod prepare;
mod scan;
mod store;
mod table;

pub use aws_sdk_dynamodb;
pub use store::DynamoLeaseStore;

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
//! # The table
//!
//! A missing table is made as [`TableOptions`] say: billed on demand unless they say otherwise, with the index by owner from the first
//! moment. One that is there already is used as it is; what it lacks is added where that is safe and granted, and said in one warning
//! where it is not. A start waits for the table and never for its index.
//!
//! # AWS SDK
//!
//! The SDK that this crate is built for is [`aws_sdk_dynamodb`], re-exported so that a client of the same version can be made. Retries
//! of the SDK are off: a conditional write repeated by the SDK would be refused because of its own first attempt.
//!
//! # Permissions
//!
#![doc = include_str!("../docs/iam-policy.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admin;
mod attr;
mod client;
mod codec;
mod errors;
mod expression;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod options;
mod prepare;
mod rights;
mod scan;
mod store;
mod table;
mod upkeep;

pub use aws_sdk_dynamodb;
pub use options::{Billing, InvalidTableOptions, TableOptions};
pub use store::DynamoLeaseStore;

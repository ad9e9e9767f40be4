//! Leases in DynamoDB for `kcl-core`, in rows that Amazon's Java KCL 3.5 reads and writes.
//!
//! [`DynamoLeaseStore`] is all there is: give it an AWS configuration and the name of a table, and hand it to the worker.
//!
//! # What is in the table
//!
//! One row per lease, one per worker, the leader lock, and a mark of the client version, in the single-table layout of the Java KCL 3.5.
//! Where the Java KCL 3.0 to 3.4 worked, the workers and the leader lock are in two further tables, as Java has them: see [`TableLayout`].
//! Ours carry a few attributes more, all of whose names begin with `rs`; Java ignores and keeps them, as this crate keeps what it does
//! not know. Rows of unknown kinds are skipped and never written.
//!
//! # Java
//!
//! A table that a Java application left is refused before anything is written, until one start has the setting `take_over_java` of
//! [`Preparation`](kcl_core::lease_store::Preparation). The answer is remembered in the table: in the row `Migration3.0`, which says by which
//! worker the table was taken over, and when. A later start needs no setting.
//!
//! With and without the setting, a table is refused while a Java worker uses it. A start watches the rows that Java workers left: 20 s
//! where there are leases alone, which a live worker renews every third of its failover time, and 35 s where there are rows of workers,
//! which a live worker writes every 30 s; [`DynamoLeaseStore::watch_java_for`] changes that. Rows of workers that stood still are
//! remembered and are not watched again. Without such rows a start does not wait.
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
mod attach;
mod attributes;
mod client;
mod codec;
mod errors;
mod expression;
#[doc(hidden)]
pub mod fuzzing;
mod java_rollback;
mod java_watch;
mod layout;
mod options;
mod ownership_check;
mod permissions;
mod prepare;
mod scan;
mod store;
mod table;
mod table_maintenance;

pub use attach::AttachedTable;
pub use aws_sdk_dynamodb;
pub use java_rollback::PreparedForJava;
pub use options::{Billing, InvalidTableOptions, TableLayout, TableOptions};
pub use store::DynamoLeaseStore;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Leases in DynamoDB for `kcl-core`, in rows that Amazon's Java KCL reads and writes.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attr;
mod codec;

pub use aws_sdk_dynamodb;

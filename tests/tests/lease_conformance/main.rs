//! The lease store of `kcl-lease-dynamo` on real DynamoDB protocol servers: first what every lease store must do, then what is
//! particular to this one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod conformance;
mod ground;
mod java;
mod options;
mod particulars;
mod stored;

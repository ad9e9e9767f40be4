//! Tests consumers built on `kcl-core`: conformance suites for stores and sources, and faults to put them through.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod faults;
pub mod lease_suite;

//! The promises about coordination, each with its number.
//!
//! Virtual time: hours pass in milliseconds. The oracle checks the invariants I1 to I9 after every step of every scenario,
//! so that losing a record, processing a shard out of order or a write by a former owner fails each of them.

mod balance;
mod duplicate_worker_ids;
mod handoffs;
mod java_regressions;
mod outages;
mod support;

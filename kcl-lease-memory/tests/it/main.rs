//! The store in memory, from outside of the crate.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod handles;

//! The small scopes hold in every order, and every deliberate mistake is found in one.

#![allow(clippy::expect_used, reason = "helpers of tests: a panic is how they report")]

mod elections;
mod fleet;
mod mistakes;

//! The test of the tests: every deliberate bug is found.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how they report")]

mod every_bug_is_found;
mod found_by_tests;
mod windows;
mod workers_see_it_themselves;

//! The source against a scripted server: what it asks, in which order, and what it makes of the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod encoding;
mod ending;
mod faults;
mod formats;
mod listing;
mod reading;
mod server;
mod slow;

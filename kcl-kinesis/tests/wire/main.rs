//! The source against a scripted server: what it asks, in which order, and what it makes of the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod ending;
mod faults;
mod listing;
mod reading;
mod server;

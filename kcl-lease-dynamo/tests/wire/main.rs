//! The store against a scripted server: what it asks, in which order, and what it makes of the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod preparing;
mod reading;
mod server;

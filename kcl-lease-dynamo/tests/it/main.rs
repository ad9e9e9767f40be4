//! The store against a scripted server: what it asks, in which order, and what it makes of the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod attaching;
mod credentials;
mod faults;
mod log;
mod options;
mod policy;
mod preparing;
mod reading;
mod rights;
mod secrets;
mod server;
mod states;
mod tables;

//! The source against a scripted server: what it asks, in which order, and what it makes of the answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod clock;
mod consumers;
mod credentials;
mod dead_letters;
mod encoding;
mod ending;
mod faults;
mod formats;
mod listing;
mod names;
mod policy;
mod reading;
mod secrets;
mod server;
mod slow;

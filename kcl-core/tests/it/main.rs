//! The promises of the core, from outside of the crate.

#![allow(clippy::unwrap_used, clippy::panic)]

mod assignment_properties;

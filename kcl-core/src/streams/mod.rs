//! The streams that an application reads: one for good, or many that come and go.
//!
//! Which of the two is part of the identity of the application. One stream has the lease keys of a single-stream application
//! of the Java KCL, the bare shard ids; many have those of a multi-stream application, `account:stream:creation:shard`, from
//! the first day, even while there is only one.
//!
//! A [`StreamTracker`] says which streams there are; [`StreamSet`] is one that the program changes at run time. The streams that a worker
//! reads at the moment is in the registry, in which every lease finds its stream.

pub(crate) mod listing;
pub(crate) mod pager;
pub(crate) mod registry;
mod tracker;

pub use tracker::{StreamSet, StreamTracker, TrackedStream};

//! One consumer per lease that this worker owns: it reads the shard, drives the processor and stores what is done.
//!
//! Three tasks, each with one job. The consumer lives by the table in [`lifecycle`](crate::lifecycle) and calls the user's code.
//! The fetcher reads ahead. The keeper renews the lease, as long as the consumer proves that it lives, and stores checkpoints.
//! They meet in the ownership, which knows the row, the holder's own deadline, and what is finished.

mod closing;
pub(crate) mod control;
mod delivery;
mod end_watch;
mod ending;
mod fetcher;
mod finishing;
mod invitations;
mod keeper;
mod last_known;
mod latest;
mod leaving;
mod meter;
mod ownership;
mod pace;
mod parts;
mod place;
mod shard_consumer;
mod start;
mod ticking;
mod unpack;

pub(crate) use control::DrainReason;
pub(crate) use delivery::{ThreadWatch, ToProcessor};
pub(crate) use invitations::Invitations;
pub(crate) use keeper::keep;
pub(crate) use ownership::{Ownership, Services};
pub(crate) use shard_consumer::consume;

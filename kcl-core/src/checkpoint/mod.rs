//! How far a shard is processed: delivered in order, finished in any order, stored up to the longest finished prefix.

mod tracker;

pub use tracker::{BatchId, Tracker};

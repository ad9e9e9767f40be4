//! Shards that get stuck, and how that shows; tasks that panic, and their restarts.

mod bench;
mod callbacks;
mod lateness;
mod long_handler;
mod meters;
mod panics;
mod waits;

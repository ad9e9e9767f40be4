//! Shards that get stuck, and what is seen of it; tasks that panic, and what comes after.

mod bench;
mod callbacks;
mod lateness;
mod long_handler;
mod meters;
mod panics;
mod waits;

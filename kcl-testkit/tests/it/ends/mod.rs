//! The end of a shard where answers are incomplete, implausible or missing, and gaps that retention makes.

mod bench;
mod busy;
mod claims;
mod gaps;
mod naming;
mod silence;

//! One consumer per lease that this worker owns: it takes batches from the fetcher, drives the processor, and ends the shard.
//!
//! The consumer lives by the table in [`lifecycle`](crate::lifecycle) and calls the user's code. The fetcher
//! ([`retrieval`](crate::retrieval)) reads ahead. The renewer ([`ownership`](crate::ownership)) renews the lease, as long as the consumer
//! proves that it lives, and stores checkpoints. They meet in the ownership, which knows the row, its validity, and what is finished.

pub(crate) mod by_record;
pub(crate) mod call_size;
pub(crate) mod closing;
pub(crate) mod delivery;
pub(crate) mod failures;
mod fetched_records;
mod gathering;
pub(crate) mod isolation;
pub(crate) mod letters;
pub(crate) mod pending;
mod reaction;
pub(crate) mod redrive;
pub(crate) mod shard_consumer;
pub(crate) mod shard_end;
pub(crate) mod ticking;

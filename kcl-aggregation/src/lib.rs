//! The aggregated-record format of the Kinesis Producer Library (KPL): one Kinesis record with many user records in it.
//!
//! [`unpack`] distinguishes an aggregated record from a plain one and gives its user records as slices of the bytes that came in;
//! [`Aggregator`] packs, for generators and tests. Nothing here is asynchronous and nothing knows AWS.
//!
//! ```
//! use bytes::Bytes;
//! use kcl_aggregation::{Aggregator, unpack};
//!
//! let mut aggregator = Aggregator::new();
//! aggregator.add("truck-1", None, b"north")?;
//! aggregator.add("truck-2", None, b"south")?;
//! let packed = aggregator.finish().expect("two records were added");
//!
//! let aggregate = unpack(&packed.data)?.expect("it is an aggregated record");
//! let user_records = aggregate.records().collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(user_records[1].partition_key, "truck-2");
//! assert_eq!(user_records[1].data, Bytes::from_static(b"south"));
//! assert_eq!(user_records[1].sub_sequence_number, 1);
//!
//! assert!(unpack(&Bytes::from_static(b"a plain record"))?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What counts as what
//!
//! As in the Java KCL, a record is *plain*, to be delivered as it is, when it is too short, does not begin with the magic bytes
//! `F3 89 9A C2`, or does not end with the MD5 of what stands between. An aggregated record is unpacked once: what its user records
//! hold is not looked into. One without user records yields none.
//!
//! A record with the magic bytes and the right MD5 was made by an aggregator, so anything wrong in it is an error that says what, and no
//! guess is made: [`CorruptAggregate`] when the message cannot be parsed (Java delivers the whole record raw), [`CorruptRecord`] in
//! the place of a single user record whose key cannot be known (Java drops it and all that follow it). The caller's error policy
//! decides what becomes of them; readable neighbours stay readable.
//!
//! An explicit hash key that is no number from 0 to 2¹²⁸ − 1 is no such error: some producers write `undefined` or nothing. It is read as
//! absent, and the user record [says so](UserRecord::has_invalid_hash_key).
//!
//! # Hash keys and shards
//!
//! The KPL packs by the shards that it believes in. After a split an aggregated record may reach a shard that some of its user
//! records do not belong to, and the KPL sends those again. [`Aggregate::admit`] applies a policy, [`OutsideShard`], and always
//! counts.
//!
//! # Resuming
//!
//! A user record's place is the sequence number of the Kinesis record and its index in it, the sub-sequence number.
//! A consumer whose checkpoint is inside an aggregated record reads that record again and goes on with
//! [`Admitted::records_after`], or with [`OwnedRecords`], which can be put aside between two user records.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admission;
mod aggregate;
mod aggregator;
mod digests;
mod envelope;
mod hash_key;
mod record;
mod shard;
mod stored;
mod wire;

pub use aggregate::Aggregate;
pub use aggregator::{Aggregator, InvalidUserRecord, Packed};
pub use envelope::{Envelope, seems_aggregated, unpack};
pub use hash_key::hash_key_of;
pub use record::{CorruptRecord, UserRecord, UserRecords};
pub use shard::{Admitted, MisplacedRecords, OutsideShard, OwnedRecords};
pub use wire::CorruptAggregate;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

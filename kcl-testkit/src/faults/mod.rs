//! A lease store that misbehaves on request, and reports the true effect of each call.
//!
//! [`FaultyLeaseStore`] wraps any store as one client's connection to it. [`StoreFaults`] says what goes wrong on that connection: a single
//! call, every call, or calls at random. [`StoreEvent`]s report to an oracle what reached the storage and with which effect, whatever the caller learned.
//!
//! ```
//! use std::sync::Arc;
//!
//! use kcl_core::lease_store::{Certainty, Expect, Lease, LeaseChange, LeaseStore};
//! use kcl_core::types::{Incarnation, Position, ShardId};
//! use kcl_core::clock::TokioClock;
//! use kcl_lease_memory::MemoryLeaseStore;
//! use kcl_testkit::faults::{Fault, FaultyLeaseStore, Operation};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = MemoryLeaseStore::new();
//! let store = FaultyLeaseStore::new(Arc::new(memory.clone()), Arc::new(TokioClock::new()));
//! store.faults().once(Operation::Change, Fault::LoseReply);
//!
//! let lease = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::TrimHorizon);
//! let create = LeaseChange::Create(Box::new(lease.clone()));
//! let incarnation = Incarnation::from_random_bytes([1; 16]);
//! let error = store.change(&lease.key, &Expect::Absent, &create, incarnation).await.unwrap_err();
//! assert_eq!(error.certainty(), Certainty::Unknown);
//! assert_eq!(memory.read(&lease.key).await?, Some(lease));
//! # Ok(()) }
//! ```

mod event;
mod plan;
mod store;

pub use event::{Happened, Operation, StoreCall, StoreCounts, StoreEvent, StoreHistory};
pub use plan::{Fault, FaultRates, Link, ScanCapacity, StoreFaults};
pub use store::FaultyLeaseStore;

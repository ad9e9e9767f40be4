//! Looks at a running fleet through its lease table, and gives it orders. It knows no AWS, and a view of a fleet is a pure decision.
//!
//! [`FleetView::of`] makes a view of one [`Scan`](kcl_core::lease_store::Scan): a [`ShardView`] for each lease, a [`WorkerView`] for each worker,
//! and a [`Summary`]. [`why`](FleetView::why) says in sentences how a shard came to its state. [`workers_wanted`] is the decision of an autoscaler,
//! [`estimate()`](estimate::estimate) the price of a stream and of its coordination, and [`examine`](doctor::examine) turns facts into findings
//! that say what to do.
//!
//! The time is an argument, and each fact that only another part knows may be missing: rows that a Java worker wrote carry no report, and a
//! view says that it does not know.
//!
//! ```
//! use kcl_core::lease_store::{Lease, Scan};
//! use kcl_core::types::{Position, ShardId, Timestamp};
//! use kcl_operations::{FleetFacts, FleetView, ShardState};
//!
//! let lease = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::TrimHorizon);
//! let scan = Scan { leases: vec![lease], ..Scan::default() };
//! let fleet = FleetView::of("truck-tracker", &FleetFacts::new(&scan), Timestamp::from_millis(1_800_000_000_000));
//! assert_eq!(fleet.shards[0].state, ShardState::Unowned);
//! println!("{}", fleet.why("shardId-000000000000").expect("it has a lease").join("\n"));
//! # Ok::<(), kcl_core::types::InvalidName>(())
//! ```

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod compare;
pub mod doctor;
pub mod estimate;
mod fleet;
mod lineage;
mod operator;
mod redrive;
mod reset;
mod scaler;
mod state;
mod text;
mod view;
mod why;

pub use fleet::FleetFacts;
pub use operator::{Given, Operator, OrderError};
pub use redrive::{LetterId, letters_to_redrive};
pub use reset::{PlaceSample, ResetPlan, ResetSpan, ResetStep};
pub use scaler::{CatchUp, ScalerSettings, Wanted, workers_wanted};
pub use state::{ShardState, Thresholds};
pub use text::{bytes_text, count_text, duration_text};
pub use view::{FleetView, LagSource, OrderView, ShardView, Summary, WorkerView};

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

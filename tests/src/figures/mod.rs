//! The figures of docs/benchmarks.md, measured on the [testbed](crate::testbed), on servers of their own or counted in virtual time.

pub mod bounds;
pub mod child;
pub mod coordination;
pub mod cost;
pub mod idle_cost;
pub mod measure;
pub mod memory;
pub mod process;
pub mod reading;
pub mod series;
pub mod status;
pub mod table;
pub mod verdict;

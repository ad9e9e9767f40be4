//! The figures that the README carries, measured on the [test bed](crate::bed) or counted in virtual time.

pub mod coordination;
pub mod cost;
pub mod measure;
pub mod memory;
pub mod process;
pub mod table;

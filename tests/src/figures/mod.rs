//! The figures that the README carries, measured on the [test bed](crate::bed).

pub mod coordination;
pub mod measure;
pub mod memory;
pub mod process;
pub mod table;

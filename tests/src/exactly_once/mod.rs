//! Results that are there exactly once: worker processes write into SQLite or PostgreSQL with a
//! [`SinkPosition`](kcl_core::processor::SinkPosition), are killed and frozen at random moments, and the table must equal the stream.

mod database;
pub mod drive;
mod journal;
mod producer;
mod verdict;
pub mod worker;

use std::fmt;

/// The database that rows go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sink {
    /// A file, which all workers open.
    Sqlite,
    /// A server of the test's own.
    Postgres,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

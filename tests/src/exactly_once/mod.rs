//! Results that are there exactly once: worker processes write into SQLite or PostgreSQL with a
//! [`SinkPosition`](kcl_core::processor::SinkPosition), or into files of an object store, are killed and frozen at random moments, and the
//! table or the files must equal the stream.

mod database;
pub mod drive;
mod file_faults;
mod file_watch;
mod journal;
mod producer;
mod results;
mod verdict;
pub mod worker;

use std::fmt;

/// Where the records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sink {
    /// A file, which all workers open.
    Sqlite,
    /// A server of the test's own.
    Postgres,
    /// Files in a local folder, through an object store.
    Files,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::Files => "files",
        })
    }
}

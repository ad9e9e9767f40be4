//! Where records come from: the seam to Kinesis, or to a stream in memory.
//!
//! [`StreamSource`] lists shards and opens them; [`RecordStream`] is one open shard, pulled one fetch at a time.
//! Iterators, subscriptions, expiry and reconnects are handled behind this seam and never seen above it.

mod end_doubt;
pub(crate) mod shard_graph;
mod stream;

use std::error::Error as StdError;
use std::fmt;

use serde::Serialize;

pub use end_doubt::EndDoubt;
pub use stream::{
    Arrival, CapacityMode, ChildShard, Fetch, FetchLimit, PageToken, RecordPlacement, RecordStream, Shard,
    ShardEnd, ShardFilter, ShardPage, StartPosition, StreamDescription, StreamSource,
};

/// Why a source could not answer. A kind is here only if the worker acts differently on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// Too many requests on this shard or this account. Do: slow down.
    Throttled,
    /// No answer, or a failure of the service. Do: try again.
    Unavailable,
    /// The permission is missing. Do: grant what the message names.
    Denied,
    /// The stream or the shard is not there. It is never the end of a shard. Do: hold, and report.
    NotFound,
    /// The request makes no sense, or the answer does not. Do: report it.
    Invalid,
}

impl SourceErrorKind {
    /// Whether the service was there and said so. Any later call, from wherever, gets the same answer until something is changed.
    pub(crate) fn is_answer(self) -> bool {
        match self {
            Self::Throttled | Self::Denied | Self::NotFound | Self::Invalid => true,
            Self::Unavailable => false,
        }
    }
}

/// A source could not answer.
#[derive(Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl SourceError {
    /// An error of this kind.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The reaction that fits it.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for SourceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

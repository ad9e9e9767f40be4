//! The facts about an application, as far as they could be had.

use std::collections::BTreeSet;

use kcl_core::lease_store::StoreErrorKind;
use kcl_core::source::{SourceErrorKind, StreamDescription};
use kcl_core::types::StreamIdentity;

use crate::view::FleetView;

/// The facts about an application. A fact that could not be had is absent, and no finding follows from it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Facts {
    /// The region of the client.
    pub region: Option<String>,
    /// The lease table.
    pub table: Option<TableFact>,
    /// The view of the fleet, where the table could be read.
    pub fleet: Option<FleetView>,
    /// The streams that the rows name, or that were asked for.
    pub streams: Vec<StreamFact>,
    /// How many more streams the rows name, which were not looked at.
    pub streams_left_out: usize,
    /// The rights that were tried.
    pub rights: Vec<Right>,
    /// Whether the application needs all records of a key in one shard, or in order.
    pub needs_keys: bool,
    /// The service's time less this host's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
}

/// The lease table, as far as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableFact {
    /// Its name.
    pub table: String,
    /// Why it cannot be read, if it cannot.
    pub problem: Option<Problem>,
    /// Other regions in which a table of the name is.
    pub elsewhere: Vec<String>,
}

impl TableFact {
    /// A table that can be read, or that has this problem.
    pub fn new(table: impl Into<String>, problem: Option<Problem>) -> Self {
        Self {
            table: table.into(),
            problem,
            elsewhere: Vec::new(),
        }
    }
}

/// Why something cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The message of the part that failed, which holds no credential.
    pub message: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// A kind of problem, as far as the advice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// It is not there.
    Missing,
    /// It is there and is something else: a table of another schema, or of another application.
    Foreign,
    /// A right is missing, or the credentials are wrong.
    Denied,
    /// The service does not answer, or throttles.
    Unreachable,
    /// The request makes no sense, as with an ARN of another region.
    Invalid,
}

impl From<StoreErrorKind> for ProblemKind {
    fn from(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::Missing => Self::Missing,
            StoreErrorKind::Foreign | StoreErrorKind::Data => Self::Foreign,
            StoreErrorKind::Denied => Self::Denied,
            StoreErrorKind::Invalid => Self::Invalid,
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable | _ => Self::Unreachable,
        }
    }
}

impl From<SourceErrorKind> for ProblemKind {
    fn from(kind: SourceErrorKind) -> Self {
        match kind {
            SourceErrorKind::NotFound => Self::Missing,
            SourceErrorKind::Denied => Self::Denied,
            SourceErrorKind::Invalid => Self::Invalid,
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable | _ => Self::Unreachable,
        }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamFact {
    /// Its name, or ARN, as it was asked for.
    pub stream: String,
    /// The stream that the lease rows were made for, where they say so.
    pub leased: Option<StreamIdentity>,
    /// Why it cannot be described, if it cannot.
    pub problem: Option<Problem>,
    /// Which stream it is.
    pub identity: Option<StreamIdentity>,
    /// Its settings.
    pub description: StreamDescription,
    /// The ids of its open shards, where they were listed.
    pub open_shards: Option<BTreeSet<String>>,
}

impl StreamFact {
    /// A stream of which nothing is known yet.
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            leased: None,
            problem: None,
            identity: None,
            description: StreamDescription::default(),
            open_shards: None,
        }
    }
}

/// A right that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// The action as IAM policies write it.
    pub action: String,
    /// The resource that it was tried on.
    pub resource: String,
    /// Whether it is granted; `None` where the trial gave no answer.
    pub is_granted: Option<bool>,
}

impl Right {
    /// A right that was tried on this resource.
    pub fn new(action: impl Into<String>, resource: impl Into<String>, is_granted: Option<bool>) -> Self {
        Self {
            action: action.into(),
            resource: resource.into(),
            is_granted,
        }
    }
}

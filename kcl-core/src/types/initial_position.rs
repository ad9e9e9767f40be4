use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::Timestamp;

/// Where an application begins in a stream that it has never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialPosition {
    /// With the oldest records kept.
    TrimHorizon,
    /// With the records put from the first start on.
    Latest,
    /// With the records that arrived at or after this time.
    AtTimestamp(Timestamp),
}

impl fmt::Display for InitialPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("TRIM_HORIZON"),
            Self::Latest => f.write_str("LATEST"),
            Self::AtTimestamp(time) => write!(f, "AT_TIMESTAMP {time}"),
        }
    }
}

//! The entry of the fuzz target of the answers. No part of the crate's interface.

use bytes::Bytes;
use kcl_core::types::{Record, ShardId};

use crate::convert::RecordPage;
use crate::{cbor, json};

/// The content of an answer of GetRecords.
#[derive(Debug, PartialEq)]
pub struct DecodedPage {
    /// Its records.
    pub records: Vec<Record>,
    /// The iterator to go on with.
    pub next: Option<String>,
    /// How far behind the reader is, in milliseconds.
    pub behind_millis: Option<i64>,
    /// The shards that come after this one.
    pub children: Vec<ShardId>,
    /// The bytes that the records are charged for.
    pub body_bytes: usize,
}

/// Parses a body in CBOR.
pub fn from_cbor(body: &Bytes) -> Option<DecodedPage> {
    cbor::decode(body).ok().map(DecodedPage::from)
}

/// Parses a body in JSON.
pub fn from_json(body: &Bytes) -> Option<DecodedPage> {
    json::decode(body).ok().map(DecodedPage::from)
}

impl From<RecordPage> for DecodedPage {
    fn from(answer: RecordPage) -> Self {
        Self {
            records: answer.records,
            next: answer.next,
            behind_millis: answer.behind_millis,
            children: answer.children.into_iter().map(|child| child.id).collect(),
            body_bytes: answer.body_bytes,
        }
    }
}

//! How values travel: JSON 1.1, CBOR 1.1 and event streams.

mod cbor;
pub(super) mod events;
mod json;

use bytes::Bytes;
use kcl_core::types::Record;

use super::error::ServiceError;
use super::value::{Map, Value};

/// The body of a request and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `application/x-amz-json-1.1`, which most SDKs speak.
    Json,
    /// `application/x-amz-cbor-1.1`, which the Java SDK speaks.
    Cbor,
}

impl Protocol {
    /// The protocol of this content type.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        [Self::Json, Self::Cbor]
            .into_iter()
            .find(|protocol| protocol.content_type() == kind)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-amz-json-1.1",
            Self::Cbor => "application/x-amz-cbor-1.1",
        }
    }

    /// The structure that a body holds; an empty body is an empty structure.
    pub(super) fn decode(self, body: &Bytes) -> Result<Map, ServiceError> {
        if body.is_empty() {
            return Ok(Map::new());
        }
        let value = match self {
            Self::Json => json::decode(body),
            Self::Cbor => cbor::decode(body),
        };
        match value {
            Some(Value::Map(map)) => Ok(map),
            _ => Err(ServiceError::serialization(
                "the body is not a structure of this content type",
            )),
        }
    }

    pub(super) fn encode(self, answer: &Map) -> Bytes {
        let size = 64 + answer.0.iter().map(|(_, value)| size_hint(value)).sum::<usize>();
        let mut body = Vec::with_capacity(size);
        match self {
            Self::Json => json::encode(answer, &mut body),
            Self::Cbor => cbor::encode(answer, &mut body),
        }
        body.into()
    }
}

/// The body of an error answer.
pub(super) fn error_body(error: &ServiceError) -> Map {
    Map::new()
        .with("__type", error.code)
        .with("message", error.message())
}

/// About how much room a value takes, so that a body of megabytes is not grown step by step.
fn size_hint(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() + 8,
        Value::Blob(blob) => blob.len() / 3 * 4 + 16,
        Value::List(list) => list.iter().map(size_hint).sum(),
        Value::Map(map) => map
            .0
            .iter()
            .map(|(name, value)| name.len() + 4 + size_hint(value))
            .sum(),
        Value::Records(records) => {
            let text =
                |record: &Record| record.data().len() / 3 * 4 + record.partition_key().map_or(0, str::len);
            records.iter().map(|record| 192 + text(record)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Time(_) => 20,
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::types::Timestamp;

    use super::*;

    fn answer() -> Map {
        Map::new()
            .with("Text", "a \"quoted\" line\n\u{1}é")
            .with("Flag", true)
            .with("Number", -7_i64)
            .with("Blob", Bytes::from_static(b"\x00\xff\x80"))
            .with("Time", Timestamp::from_millis(1_700_000_000_007))
            .with("Early", Timestamp::from_millis(-1))
            .with("Nothing", Value::Null)
            .with("List", vec![Map::new().with("Key", "value")])
    }

    #[test]
    fn what_is_encoded_is_decoded_in_both_protocols() {
        for protocol in [Protocol::Json, Protocol::Cbor] {
            let decoded = protocol.decode(&protocol.encode(&answer())).unwrap();
            assert_eq!(decoded.text("Text").unwrap(), Some("a \"quoted\" line\n\u{1}é"));
            assert!(decoded.flag("Flag").unwrap());
            assert_eq!(decoded.int("Number").unwrap(), Some(-7));
            assert_eq!(decoded.blob("Blob").unwrap(), &b"\x00\xff\x80"[..]);
            let time = |name| decoded.time(name).unwrap().unwrap().as_millis();
            assert_eq!((time("Time"), time("Early")), (1_700_000_000_007, -1));
            assert_eq!(decoded.text("Nothing").unwrap(), None);
            let list = decoded.maps("List").unwrap();
            assert_eq!(list[0].text("Key").unwrap(), Some("value"));
        }
    }

    #[test]
    fn a_record_may_lack_key_and_arrival_time() {
        let number = kcl_core::types::SequenceNumber::from(42);
        let bare = Record::new(number, &b"\x00\xff"[..]);
        let full = bare.clone().with_partition_key("a \"key\"");
        let full = full.with_arrival(Timestamp::from_millis(1_700_000_000_007));
        let answer = Map::new().with("Records", Value::Records(vec![bare, full]));
        for protocol in [Protocol::Json, Protocol::Cbor] {
            let decoded = protocol.decode(&protocol.encode(&answer)).unwrap();
            let records = decoded.maps("Records").unwrap();
            let [bare, full] = records[..] else {
                panic!("{records:?}");
            };
            for record in [bare, full] {
                assert_eq!(record.text("SequenceNumber").unwrap(), Some("42"));
                assert_eq!(record.blob("Data").unwrap(), &b"\x00\xff"[..]);
            }
            assert!(!bare.has("PartitionKey") && !bare.has("ApproximateArrivalTimestamp"));
            assert_eq!(full.text("PartitionKey").unwrap(), Some("a \"key\""));
            let arrived = full.time("ApproximateArrivalTimestamp").unwrap();
            assert_eq!(arrived, Some(Timestamp::from_millis(1_700_000_000_007)));
        }
    }

    #[test]
    fn body_of_another_kind_is_serialization_error() {
        for protocol in [Protocol::Json, Protocol::Cbor] {
            for body in [&b"\xff"[..], b"[", b"7"] {
                let error = protocol.decode(&Bytes::from_static(body)).unwrap_err();
                assert_eq!(error.code, "SerializationException");
            }
        }
    }

    #[test]
    fn the_content_type_may_carry_a_charset() {
        assert_eq!(
            Protocol::of("application/x-amz-json-1.1; charset=utf-8"),
            Some(Protocol::Json)
        );
        assert_eq!(Protocol::of("application/x-amz-cbor-1.1"), Some(Protocol::Cbor));
        assert_eq!(Protocol::of("application/json"), None);
    }
}

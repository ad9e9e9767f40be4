//! The script's JSON in the CBOR of Kinesis, and back.

use aws_smithy_types::base64;
use ciborium::Value as Cbor;
use serde_json::Value as Json;

pub(crate) const CBOR: &str = "application/x-amz-cbor-1.1";
/// Seconds since 1970 by the standard, milliseconds as Kinesis uses it.
const TIME: u64 = 1;

pub(crate) fn from_cbor(body: &[u8]) -> Json {
    ciborium::from_reader(body).unwrap()
}

pub(crate) fn to_cbor(value: &Json) -> Vec<u8> {
    let mut body = Vec::new();
    ciborium::into_writer(&converted("", value), &mut body).unwrap();
    body
}

/// Only the name of a member shows what is binary, and what is a time.
fn converted(name: &str, value: &Json) -> Cbor {
    match value {
        Json::Null => Cbor::Null,
        Json::Bool(truth) => Cbor::Bool(*truth),
        Json::Number(seconds) if name == "ApproximateArrivalTimestamp" => {
            let millis = (seconds.as_f64().unwrap() * 1000.0).round() as i64;
            Cbor::Tag(TIME, Box::new(Cbor::Integer(millis.into())))
        }
        Json::Number(number) => Cbor::Integer(number.as_i64().unwrap().into()),
        Json::String(text) if name == "Data" => Cbor::Bytes(base64::decode(text).unwrap()),
        Json::String(text) => Cbor::Text(text.clone()),
        Json::Array(items) => Cbor::Array(items.iter().map(|item| converted("", item)).collect()),
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| (Cbor::Text(name.clone()), converted(name, value));
            Cbor::Map(members.iter().map(member).collect())
        }
    }
}

//! `application/x-amz-json-1.1`: blobs in base64, times as seconds since 1970 with a fraction.

use std::borrow::Cow;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kcl_core::types::{Record, Timestamp};

use super::super::value::{Map, Value};

pub(super) fn decode(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().map(from_json)
}

fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(list) => Value::List(list.into_iter().map(from_json).collect()),
        serde_json::Value::Object(members) => Value::Map(Map(members
            .into_iter()
            .map(|(name, value)| (Cow::Owned(name), from_json(value)))
            .collect())),
    }
}

/// Writing into memory does not fail, so what it returns is of no interest throughout.
pub(super) fn encode(map: &Map, out: &mut Vec<u8>) {
    out.push(b'{');
    for (position, (name, value)) in map.0.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        text(name, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Text(content) => text(content, out),
        Value::Blob(data) => blob(data, out),
        Value::Time(moment) => time(*moment, out),
        Value::List(list) => elements(list, write, out),
        Value::Records(records) => elements(records, record, out),
        Value::Map(map) => encode(map, out),
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}

fn elements<T>(list: &[T], write: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'[');
    for (position, element) in list.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}

fn blob(data: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + data.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = STANDARD.encode_slice(data, room).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

fn time(time: Timestamp, out: &mut Vec<u8>) {
    let millis = time.as_millis();
    let sign = if millis < 0 { "-" } else { "" };
    let (seconds, rest) = (millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000);
    let _ = write!(out, "{sign}{seconds}.{rest:03}");
}

fn record(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"SequenceNumber\":");
    text(record.sequence_number().as_str(), out);
    if let Some(arrived) = record.approximate_arrival() {
        out.extend_from_slice(b",\"ApproximateArrivalTimestamp\":");
        time(arrived, out);
    }
    out.extend_from_slice(b",\"Data\":");
    blob(record.data(), out);
    if let Some(key) = record.partition_key() {
        out.extend_from_slice(b",\"PartitionKey\":");
        text(key, out);
    }
    out.push(b'}');
}

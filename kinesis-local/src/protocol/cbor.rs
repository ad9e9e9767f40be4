//! `application/x-amz-cbor-1.1`: blobs are byte strings, times are tag 1 with milliseconds as an integer.

use std::borrow::Cow;

use ciborium_ll::{Encoder, Header, simple, tag};
use kcl_core::types::{Record, Timestamp};

use super::super::value::{Map, Value};

/// The tag of times.
const TIME: u64 = 1;

pub(super) fn decode(body: &[u8]) -> Option<Value> {
    ciborium::from_reader(body).ok().and_then(from_cbor)
}

fn from_cbor(value: ciborium::Value) -> Option<Value> {
    use ciborium::Value as Cbor;
    Some(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(flag) => Value::Bool(flag),
        Cbor::Integer(number) => Value::Int(number.try_into().ok()?),
        Cbor::Float(number) => Value::Float(number),
        Cbor::Text(text) => Value::Text(text.into()),
        Cbor::Bytes(bytes) => Value::Blob(bytes.into()),
        Cbor::Tag(tag::BIGPOS | tag::BIGNEG, _) => return None,
        Cbor::Tag(TIME, time) => {
            let millis = time.into_integer().ok()?;
            Value::Time(Timestamp::from_millis(millis.try_into().ok()?))
        }
        Cbor::Tag(_, other) => from_cbor(*other)?,
        Cbor::Array(list) => Value::List(list.into_iter().map(from_cbor).collect::<Option<_>>()?),
        Cbor::Map(members) => Value::Map(Map(members
            .into_iter()
            .map(|(name, value)| Some((Cow::Owned(name.into_text().ok()?), from_cbor(value)?)))
            .collect::<Option<_>>()?)),
        _ => return None,
    })
}

pub(super) fn encode(map: &Map, out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    let _ = structure(map, &mut Encoder::from(out));
}

type Written = Result<(), std::io::Error>;

fn structure(map: &Map, out: &mut Encoder<&mut Vec<u8>>) -> Written {
    out.push(Header::Map(Some(map.0.len())))?;
    for (name, value) in &map.0 {
        out.text(name, None)?;
        write(value, out)?;
    }
    Ok(())
}

fn write(value: &Value, out: &mut Encoder<&mut Vec<u8>>) -> Written {
    match value {
        Value::Null => out.push(Header::Simple(simple::NULL)),
        Value::Bool(flag) => out.push(Header::Simple(if *flag { simple::TRUE } else { simple::FALSE })),
        Value::Int(number) => integer(*number, out),
        Value::Float(number) => out.push(Header::Float(*number)),
        Value::Text(text) => out.text(text, None),
        Value::Blob(blob) => out.bytes(blob, None),
        Value::Time(moment) => time(*moment, out),
        Value::List(list) => {
            out.push(Header::Array(Some(list.len())))?;
            list.iter().try_for_each(|value| write(value, out))
        }
        Value::Map(map) => structure(map, out),
        Value::Records(records) => {
            out.push(Header::Array(Some(records.len())))?;
            records.iter().try_for_each(|each| record(each, out))
        }
    }
}

fn time(time: Timestamp, out: &mut Encoder<&mut Vec<u8>>) -> Written {
    out.push(Header::Tag(TIME))?;
    integer(time.as_millis(), out)
}

fn record(record: &Record, out: &mut Encoder<&mut Vec<u8>>) -> Written {
    let (arrived, key) = (record.approximate_arrival(), record.partition_key());
    let members = 2 + usize::from(arrived.is_some()) + usize::from(key.is_some());
    out.push(Header::Map(Some(members)))?;
    out.text("SequenceNumber", None)?;
    out.text(record.sequence_number().as_str(), None)?;
    if let Some(arrived) = arrived {
        out.text("ApproximateArrivalTimestamp", None)?;
        time(arrived, out)?;
    }
    out.text("Data", None)?;
    out.bytes(record.data(), None)?;
    if let Some(key) = key {
        out.text("PartitionKey", None)?;
        out.text(key, None)?;
    }
    Ok(())
}

fn integer(number: i64, out: &mut Encoder<&mut Vec<u8>>) -> Written {
    match u64::try_from(number) {
        Ok(positive) => out.push(Header::Positive(positive)),
        // CBOR writes a negative n as -1 - n, which is what inverting its bits gives.
        Err(_) => out.push(Header::Negative((!number).unsigned_abs())),
    }
}

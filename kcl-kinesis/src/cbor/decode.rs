//! The answer of GetRecords, read where it lies: payloads, keys and sequence numbers are slices of the body.

use std::borrow::Cow;
use std::collections::BTreeSet;

use aws_smithy_types::base64;
use bytes::Bytes;
use bytestring::ByteString;
use kcl_core::source::{ChildShard, SourceError};
use kcl_core::types::{HashKeyRange, Record, SequenceNumber, ShardId, Timestamp};
use minicbor::data::{IanaTag, Type};
use minicbor::decode::{Decoder, Error};

use crate::convert::{RecordPage, undecodable};

/// The kinds of strings, and two single bytes, as [RFC 8949](https://www.rfc-editor.org/rfc/rfc8949#section-3.1) numbers them.
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const NULL: u8 = 0xf6;
const BREAK: u8 = 0xff;

/// The most records that an answer holds, from the
/// [API reference](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html). Only room is made for no more.
const MAX_RECORDS_PER_ANSWER: usize = 10_000;

/// Reads the body of an answer. Members that nobody here knows are passed over.
pub(crate) fn decode(body: &Bytes) -> Result<RecordPage, SourceError> {
    let mut answer = RecordPage {
        body_bytes: body.len(),
        ..RecordPage::default()
    };
    let mut reader = CborReader {
        cbor: Decoder::new(body),
        body,
    };
    reader
        .answer(&mut answer)
        .map_err(|error| undecodable("a body that is not what GetRecords answers", error))?;
    Ok(answer)
}

struct CborReader<'b> {
    cbor: Decoder<'b>,
    body: &'b Bytes,
}

impl<'b> CborReader<'b> {
    fn answer(&mut self, answer: &mut RecordPage) -> Result<(), Error> {
        self.members(|reader, name| {
            match name {
                b"Records" => {
                    answer.lists_records = true;
                    reader.items(|reader| {
                        let begin = reader.cbor.position();
                        let record = reader.record()?;
                        if answer.records.is_empty() {
                            answer.records.reserve(reader.expected_records(begin));
                        }
                        answer.records.push(record);
                        Ok(())
                    })?;
                }
                b"NextShardIterator" => answer.next = Some(reader.text()?.to_string()),
                b"MillisBehindLatest" => answer.behind_millis = Some(reader.cbor.i64()?),
                b"ChildShards" => reader.items(|reader| {
                    answer.children.push(reader.child()?);
                    Ok(())
                })?,
                _ => reader.cbor.skip()?,
            }
            Ok(())
        })
    }

    fn record(&mut self) -> Result<Record, Error> {
        let (mut sequence, mut data, mut key, mut arrived) = (None, None, None, None);
        self.members(|reader, name| {
            match name {
                b"SequenceNumber" => sequence = Some(reader.sequence()?),
                b"Data" => data = Some(reader.payload()?),
                b"PartitionKey" => key = Some(reader.text()?),
                b"ApproximateArrivalTimestamp" => arrived = Some(reader.time()?),
                _ => reader.cbor.skip()?,
            }
            Ok(())
        })?;
        let sequence = sequence.ok_or_else(|| self.wrong("a record without a sequence number"))?;
        let data = data.ok_or_else(|| self.wrong("a record without data"))?;
        let mut record = Record::new(sequence, data);
        if let Some(key) = key {
            record = record.with_partition_key(key);
        }
        if let Some(arrived) = arrived {
            record = record.with_arrival(arrived);
        }
        Ok(record)
    }

    fn child(&mut self) -> Result<ChildShard, Error> {
        let (mut id, mut parents, mut hash_range) = (None, BTreeSet::new(), None);
        self.members(|reader, name| {
            match name {
                b"ShardId" => id = Some(reader.shard_id()?),
                b"ParentShards" => reader.items(|reader| {
                    parents.insert(reader.shard_id()?);
                    Ok(())
                })?,
                b"HashKeyRange" => hash_range = Some(reader.hash_range()?),
                _ => reader.cbor.skip()?,
            }
            Ok(())
        })?;
        Ok(ChildShard {
            id: id.ok_or_else(|| self.wrong("a shard without an id"))?,
            parents,
            hash_range: hash_range.ok_or_else(|| self.wrong("a shard without hash keys"))?,
        })
    }

    fn hash_range(&mut self) -> Result<HashKeyRange, Error> {
        let (mut start, mut end) = (ByteString::new(), ByteString::new());
        self.members(|reader, name| {
            match name {
                b"StartingHashKey" => start = reader.text()?,
                b"EndingHashKey" => end = reader.text()?,
                _ => reader.cbor.skip()?,
            }
            Ok(())
        })?;
        HashKeyRange::parse(&start, &end).map_err(|_| self.wrong("hash keys that are none"))
    }

    fn shard_id(&mut self) -> Result<ShardId, Error> {
        let text = self.text()?;
        ShardId::new(&*text).map_err(|_| self.wrong("a shard id that is none"))
    }

    fn sequence(&mut self) -> Result<SequenceNumber, Error> {
        let digits = self.text()?;
        SequenceNumber::new(digits).map_err(|_| self.wrong("a sequence number that is none"))
    }

    /// Kinesis writes milliseconds as a tagged integer; a fraction would be what the tag stands for, seconds.
    fn time(&mut self) -> Result<Timestamp, Error> {
        if self.cbor.datatype()? == Type::Tag && self.cbor.tag()? != IanaTag::Timestamp.tag() {
            return Err(self.wrong("a time of another kind"));
        }
        if matches!(self.cbor.datatype()?, Type::F16 | Type::F32 | Type::F64) {
            let millis = (self.cbor.f64()? * 1000.0).round();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "what is out of range becomes the nearest in range"
            )]
            return Ok(Timestamp::from_millis(millis as i64));
        }
        Ok(Timestamp::from_millis(self.cbor.i64()?))
    }

    /// A payload: binary, or base64 as in JSON. Kinesis sends the one, kinesis-mock the other, and the Java SDK takes both.
    fn payload(&mut self) -> Result<Bytes, Error> {
        if !matches!(self.cbor.datatype()?, Type::String | Type::StringIndef) {
            return self.bytes();
        }
        let text = self.text()?;
        let payload = base64::decode(&*text).map_err(|_| self.wrong("data that is not base64"))?;
        Ok(payload.into())
    }

    /// Binary data, as a slice of the body unless it comes in pieces.
    fn bytes(&mut self) -> Result<Bytes, Error> {
        if let Some(whole) = self.short_string(BYTES) {
            return Ok(self.body.slice_ref(whole));
        }
        if self.cbor.datatype()? != Type::BytesIndef {
            return Ok(self.body.slice_ref(self.cbor.bytes()?));
        }
        let mut whole = Vec::new();
        for piece in self.cbor.bytes_iter()? {
            whole.extend_from_slice(piece?);
        }
        Ok(whole.into())
    }

    /// Text, as a slice of the body unless it comes in pieces.
    fn text(&mut self) -> Result<ByteString, Error> {
        let whole = match self.short_string(TEXT) {
            Some(whole) => Some(whole),
            None if self.cbor.datatype()? == Type::StringIndef => None,
            None => Some(self.cbor.str()?.as_bytes()),
        };
        if let Some(whole) = whole {
            let text = ByteString::try_from(self.body.slice_ref(whole));
            return text.map_err(|_| self.wrong("text that is not UTF-8"));
        }
        let mut whole = String::new();
        for piece in self.cbor.str_iter()? {
            whole.push_str(piece?);
        }
        Ok(whole.into())
    }

    /// The name of a member. Bytes that are not UTF-8 are the name of none.
    fn name(&mut self) -> Result<Cow<'b, [u8]>, Error> {
        match self.short_string(TEXT) {
            Some(name) => Ok(Cow::Borrowed(name)),
            None => Ok(Cow::Owned(self.text()?.into_bytes().into())),
        }
    }

    /// The content of a short text or byte string that comes next in one piece. Nothing else is read.
    ///
    /// This is what nearly all of a body consists of. The decoder would look at each first byte twice and at each text for UTF-8, which
    /// together took a third of all the time.
    fn short_string(&mut self, kind: u8) -> Option<&'b [u8]> {
        let position = self.cbor.position();
        let next = self.cbor.input().get(position..)?;
        let (header, length) = match *next {
            [first, ..] if first >> 5 == kind && first & 31 < 24 => (1, usize::from(first & 31)),
            [first, length, ..] if first == kind << 5 | 24 => (2, usize::from(length)),
            [first, high, low, ..] if first == kind << 5 | 25 => {
                (3, usize::from(u16::from_be_bytes([high, low])))
            }
            _ => return None,
        };
        let content = next.get(header..header + length)?;
        self.cbor.set_position(position + header + length);
        Some(content)
    }

    /// Whether this byte comes next.
    fn is_next(&self, byte: u8) -> bool {
        self.cbor.input().get(self.cbor.position()) == Some(&byte)
    }

    /// How many more records there may be if they are like the one that began there. An eighth is added: to miss by one would cost a copy.
    fn expected_records(&self, begin: usize) -> usize {
        let end = self.cbor.position();
        let left = self.cbor.input().len().saturating_sub(end);
        let more = left.checked_div(end.saturating_sub(begin)).unwrap_or(0);
        (more + more / 8).min(MAX_RECORDS_PER_ANSWER)
    }

    /// Each member of the object that comes next, but those that are null. The visitor reads or skips the member's value.
    fn members(&mut self, mut visit: impl FnMut(&mut Self, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut left = self.cbor.map()?;
        while self.another(&mut left)? {
            let name = self.name()?;
            if self.is_next(NULL) {
                self.cbor.skip()?;
            } else {
                visit(self, &name)?;
            }
        }
        Ok(())
    }

    /// Each item of the list that comes next.
    fn items(&mut self, mut visit: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let mut left = self.cbor.array()?;
        while self.another(&mut left)? {
            visit(self)?;
        }
        Ok(())
    }

    /// Whether the collection goes on: by its count, or until it says that it ends.
    fn another(&mut self, left: &mut Option<u64>) -> Result<bool, Error> {
        match left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.is_next(BREAK) => {
                self.cbor.skip()?;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    fn wrong(&self, what: &'static str) -> Error {
        Error::message(what).at(self.cbor.position())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::Encoder;
    use proptest::prelude::*;

    type Written = Result<Vec<u8>, minicbor::encode::Error<std::convert::Infallible>>;

    /// One record, written as Jackson writes: nothing says beforehand how long it is.
    fn of_unknown_length() -> Written {
        let mut cbor = Encoder::new(Vec::new());
        cbor.begin_map()?.str("MillisBehindLatest")?.i64(0)?;
        cbor.str("NextShardIterator")?
            .begin_str()?
            .str("i")?
            .str("1")?
            .end()?;
        cbor.str("Records")?.begin_array()?.begin_map()?;
        cbor.str("SequenceNumber")?.str("42")?;
        cbor.begin_str()?.str("Da")?.str("ta")?.end()?;
        cbor.begin_bytes()?.bytes(b"pay")?.bytes(b"load")?.end()?;
        cbor.str("PartitionKey")?.null()?;
        cbor.str("ApproximateArrivalTimestamp")?
            .tag(IanaTag::Timestamp)?
            .f64(1.5)?;
        cbor.end()?.end()?.end()?;
        Ok(cbor.into_writer())
    }

    #[test]
    fn collections_texts_and_payloads_may_come_in_pieces() {
        let answer = decode(&of_unknown_length().unwrap().into()).unwrap();
        assert_eq!(answer.next.as_deref(), Some("i1"));
        let record = &answer.records[0];
        assert_eq!(
            (&record.data()[..], record.partition_key()),
            (&b"payload"[..], None)
        );
        assert_eq!(record.approximate_arrival(), Some(Timestamp::from_millis(1500)));
    }

    #[test]
    fn payload_may_be_base64_and_time_untagged() {
        let write = || -> Written {
            let mut cbor = Encoder::new(Vec::new());
            cbor.map(1)?.str("Records")?.array(1)?.map(3)?;
            cbor.str("SequenceNumber")?.str("42")?;
            cbor.str("Data")?.str("cGF5bG9hZA==")?;
            cbor.str("ApproximateArrivalTimestamp")?.i64(1500)?;
            Ok(cbor.into_writer())
        };
        let answer = decode(&write().unwrap().into()).unwrap();
        assert_eq!(&answer.records[0].data()[..], b"payload");
        assert_eq!(
            answer.records[0].approximate_arrival(),
            Some(Timestamp::from_millis(1500))
        );
        assert_eq!(answer.next, None);
    }

    #[test]
    fn an_answer_cut_off_anywhere_is_an_error() {
        let whole = Bytes::from(of_unknown_length().unwrap());
        for length in 0..whole.len() {
            assert!(decode(&whole.slice(..length)).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(
            place in 0_usize..200,
            change in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut body = of_unknown_length().unwrap();
            let place = place % body.len();
            let end = (place + change.len()).min(body.len());
            body.splice(place..end, change);
            let _ = decode(&body.into());
        }
    }
}

//! Protobuf as far as one message type needs it, read without copying.
//!
//! Written by hand: a generated parser (prost with `bytes = "bytes"`) allocates a list of all user records and a string for
//! every key, needs a compiler at build time, and takes liberties that differ from those of the Java runtime, whose judgement of
//! what parses is the one to agree with: unknown fields and known fields of another wire type are skipped, numbers that are too
//! long lose their upper bits, the last of several values counts.

use std::ops::Range;

/// The numbers of the fields of the message of an aggregated record.
pub(crate) mod field {
    pub(crate) const PARTITION_KEY: u8 = 1;
    pub(crate) const EXPLICIT_HASH_KEY: u8 = 2;
    pub(crate) const RECORD: u8 = 3;
}

/// The message inside an aggregated record cannot be parsed, although its MD5 is right.
///
/// None of its records can be delivered. The Java KCL passes such a Kinesis record to the application as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("corrupt aggregated record: {problem} at byte {at}")]
pub struct CorruptAggregate {
    problem: &'static str,
    at: usize,
}

impl CorruptAggregate {
    pub(crate) fn new(problem: &'static str, at: usize) -> Self {
        Self { problem, at }
    }
}

/// A part of the Kinesis record, in half the memory of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `None` beyond 4 GiB.
    pub(crate) fn new(range: Range<usize>) -> Option<Self> {
        let start = u32::try_from(range.start).ok()?;
        let end = u32::try_from(range.end).ok()?;
        Some(Self { start, end })
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Varint(u64),
    Bytes(Span),
    /// Of a type that no field of the message has.
    Other,
}

/// How deep groups may be nested: the limit of the Java runtime.
const MAX_DEPTH: usize = 100;

/// Walks over the fields of one message.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    /// Everything before the end of the message, so that positions are those in the Kinesis record.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The span lies within the data.
    pub(crate) fn new(data: &'a [u8], message: Span) -> Self {
        let Range { start, end } = message.range();
        Self {
            bytes: data.get(..end).unwrap_or_default(),
            at: start,
        }
    }

    /// The place of the next field in the data.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes on at a place that [`at`](Self::at) returned.
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// The number and value of the next field; `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value)>, CorruptAggregate> {
        match self.next_short() {
            Some((number, span)) => Ok(Some((number, Value::Bytes(span)))),
            None => self.next_of_any_kind(),
        }
    }

    /// The next field, where it is what nearly all are: length-delimited, of a number up to 15 and less than 2 MiB.
    #[inline(always)]
    fn next_short(&mut self) -> Option<(u32, Span)> {
        let (&tag, rest) = self.bytes.get(self.at..)?.split_first()?;
        if tag & 0x87 != 2 || tag < 8 {
            return None;
        }
        let (length, size) = short_varint(rest)?;
        let length = length as usize;
        if length > rest.len() - size {
            return None;
        }
        let start = self.at + 1 + size;
        let span = Span::new(start..start + length)?;
        self.at = start + length;
        Some((u32::from(tag >> 3), span))
    }

    #[inline(never)]
    fn next_of_any_kind(&mut self) -> Result<Option<(u32, Value)>, CorruptAggregate> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            2 => Value::Bytes(self.length_delimited()?),
            _ => {
                self.skip(number, wire_type)?;
                Value::Other
            }
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u32), CorruptAggregate> {
        let at = self.at;
        let tag = self.varint()? as u32;
        match tag >> 3 {
            0 => Err(CorruptAggregate::new("a field has number 0", at)),
            number => Ok((number, tag & 7)),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, CorruptAggregate> {
        let begun = self.at;
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(CorruptAggregate::new("a number is cut off", begun));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CorruptAggregate::new("a number has more than 10 bytes", begun))
    }

    #[inline]
    fn length_delimited(&mut self) -> Result<Span, CorruptAggregate> {
        let begun = self.at;
        let length = self.varint()? as u32;
        let start = self.at;
        self.advance(length as usize)
            .ok_or(CorruptAggregate::new("a length leads past the end", begun))?;
        Span::new(start..self.at).ok_or(CorruptAggregate::new("the message is too long", begun))
    }

    fn advance(&mut self, length: usize) -> Option<()> {
        let end = self.at.checked_add(length)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }

    #[cold]
    fn skip(&mut self, number: u32, wire_type: u32) -> Result<(), CorruptAggregate> {
        let at = self.at;
        let cut_off = || CorruptAggregate::new("a fixed-length value is cut off", at);
        match wire_type {
            0 => self.varint().map(drop),
            1 => self.advance(8).ok_or_else(cut_off),
            2 => self.length_delimited().map(drop),
            3 => self.skip_group(number),
            4 => Err(CorruptAggregate::new("a group ends that did not begin", at)),
            5 => self.advance(4).ok_or_else(cut_off),
            _ => Err(CorruptAggregate::new(
                "a field has a type that does not exist",
                at,
            )),
        }
    }

    /// Without recursion: the depth is the sender's choice.
    fn skip_group(&mut self, number: u32) -> Result<(), CorruptAggregate> {
        let begun = self.at;
        let mut open = [0; MAX_DEPTH];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            if self.at >= self.bytes.len() {
                return Err(CorruptAggregate::new("a group does not end", begun));
            }
            let at = self.at;
            match self.tag()? {
                (number, 3) if depth < MAX_DEPTH => {
                    open[depth] = number;
                    depth += 1;
                }
                (_, 3) => return Err(CorruptAggregate::new("groups are nested too deep", at)),
                (number, 4) if open[depth - 1] == number => depth -= 1,
                (number, wire_type) => self.skip(number, wire_type)?,
            }
        }
        Ok(())
    }
}

/// The number in front and the bytes that it takes, at most three; `None` if it takes more or is cut off.
#[inline(always)]
pub(crate) fn short_varint(bytes: &[u8]) -> Option<(u32, usize)> {
    match *bytes {
        [a, ..] if a < 0x80 => Some((u32::from(a), 1)),
        [a, b, ..] if b < 0x80 => Some((u32::from(a & 0x7f) | u32::from(b) << 7, 2)),
        [a, b, c, ..] if c < 0x80 => {
            let low = u32::from(a & 0x7f) | u32::from(b & 0x7f) << 7;
            Some((low | u32::from(c) << 14, 3))
        }
        _ => None,
    }
}

/// The bytes that a varint of this value takes.
pub(crate) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// The bytes that a length-delimited field takes, with its tag of one byte.
pub(crate) fn bytes_field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number of the message as a field. Numbers up to 15 make tags of one byte.
pub(crate) fn put_varint_field(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    put_varint(out, value);
}

pub(crate) fn put_bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    put_length(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// Begins a length-delimited field.
pub(crate) fn put_length(out: &mut Vec<u8>, number: u8, length: usize) {
    out.push(number << 3 | 2);
    put_varint(out, length as u64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u32, Value)>, CorruptAggregate> {
        let mut fields = Fields::new(bytes, Span::new(0..bytes.len()).unwrap());
        let mut all = Vec::new();
        while let Some(field) = fields.next()? {
            all.push(field);
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn varint_is_read_as_written_and_as_long(value in any::<u64>(), shift in 0..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint_field(&mut out, 1, value);
            prop_assert_eq!(out.len(), 1 + varint_len(value));
            prop_assert_eq!(fields(&out), Ok(vec![(1, Value::Varint(value))]));
        }

        #[test]
        fn reading_ends_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = fields(&bytes);
        }
    }

    #[test]
    fn fields_of_every_type_are_skipped() {
        // Fixed 64 and 32 bits; a group with a varint, a text and a group in it.
        let bytes = [
            &[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x0d, 1, 2, 3, 4][..],
            &[0x0b, 0x08, 1, 0x12, 1, 9, 0x13, 0x14, 0x0c],
            &[0x18, 7],
        ]
        .concat();
        let expected = vec![
            (1, Value::Other),
            (1, Value::Other),
            (1, Value::Other),
            (3, Value::Varint(7)),
        ];
        assert_eq!(fields(&bytes), Ok(expected));
    }

    #[test]
    fn what_is_not_protobuf_says_where() {
        for (bytes, problem, at) in [
            (&[0x00][..], "a field has number 0", 0),
            (&[0x08, 0x80], "a number is cut off", 1),
            (&[0xff; 12], "a number has more than 10 bytes", 0),
            (&[0x08, 1, 0x12, 5, 0], "a length leads past the end", 3),
            (
                &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
                "a length leads past the end",
                1,
            ),
            (&[0x0d, 1], "a fixed-length value is cut off", 1),
            (&[0x0c], "a group ends that did not begin", 1),
            (&[0x0b, 0x14], "a group ends that did not begin", 2),
            (&[0x0b, 0x08, 1], "a group does not end", 1),
            (&[0x0e], "a field has a type that does not exist", 1),
            (&[0x0b; 101], "groups are nested too deep", 100),
        ] {
            assert_eq!(
                fields(bytes),
                Err(CorruptAggregate::new(problem, at)),
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn groups_nest_as_deep_as_in_java() {
        let bytes = [[0x0b; MAX_DEPTH], [0x0c; MAX_DEPTH]].concat();
        assert_eq!(fields(&bytes), Ok(vec![(1, Value::Other)]));
    }
}

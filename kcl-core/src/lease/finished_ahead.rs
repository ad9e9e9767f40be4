//! The records behind a checkpoint that are finished already, as the row of a lease stores them.
//!
//! The decision and its reasons are in `docs/adr/0027-finished-ahead.md`.

use std::sync::Arc;

use crate::runtime::failpoint::failpoint;
use crate::types::{Position, RecordPosition, SequenceNumber};

/// The records behind a checkpoint that are finished already: everything up to a record, but for a list of exceptions.
///
/// The exceptions are fingerprints of positions: the [top 24 bits of a hash](Self::fingerprint). A record whose fingerprint is in the list
/// counts as unfinished, so two records with one fingerprint cost a delivery, and never a record.
///
/// It names the checkpoint that it belongs to, and is void beside another. It also names the mode of its writer, which unpacked
/// aggregated records or did not: the same position stands for another record then.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::lease_store::FinishedAhead;
/// use kinesis_client::types::{Position, RecordPosition, SequenceNumber};
///
/// let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
/// let delivered = [(at(5), false), (at(6), true), (at(7), true), (at(8), false)];
/// let delivered = delivered.iter().map(|(position, is_finished)| (position, *is_finished));
/// let ahead = FinishedAhead::of(&Position::Record(at(4)), true, delivered).expect("two are finished");
/// let finished = (4..10).filter(|n| ahead.covers(&at(*n)));
/// assert_eq!(finished.collect::<Vec<_>>(), [6, 7]);
/// assert_eq!(FinishedAhead::decode(&ahead.encode()), Ok(ahead));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FinishedAhead(
    // Shared, because a row is cloned often, and is a part of many futures.
    Arc<AheadParts>,
);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AheadParts {
    base: Position,
    end: RecordPosition,
    is_unpacked: bool,
    /// Ascending, without duplicates.
    unfinished: Vec<u32>,
}

/// The bytes are no [`FinishedAhead`] that this version can read. Do: deliver the records again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot read which records are finished ahead of the checkpoint: {0}")]
pub struct InvalidFinishedAhead(&'static str);

impl FinishedAhead {
    /// The most bytes that one [encodes](Self::encode) to: 1 KiB. They are a part of the lease row, which is read by each scan and paid for with each
    /// renewal.
    pub const LARGEST_ENCODING: usize = 1024;

    /// The most exceptions, so that any as many fit.
    pub const MOST_UNFINISHED: usize = 400;

    /// The records behind the checkpoint `base` that are finished. `delivered` are all records behind it in order, as far as they are known,
    /// each with `true` if it is finished. Returns `None` if none is.
    ///
    /// Records that are finished behind so many exceptions that they do not fit are left out, and so are delivered again.
    ///
    /// Beside [`Latest`](Position::Latest) and [`AtTimestamp`](Position::AtTimestamp) there is none: they name no place in the shard, and
    /// another setting makes another one of the same position.
    pub fn of<'a>(
        base: &Position,
        is_unpacked: bool,
        delivered: impl IntoIterator<Item = (&'a RecordPosition, bool)>,
    ) -> Option<Self> {
        if !names_place(base) {
            return None;
        }
        let (mut unfinished, mut end) = (Vec::new(), None);
        let behind = delivered
            .into_iter()
            .skip_while(|(position, _)| base.covers(position));
        for (position, is_finished) in behind {
            if is_finished || failpoint!(AheadCountsUnfinished) {
                end = Some((position, unfinished.len()));
            } else if unfinished.len() < Self::MOST_UNFINISHED {
                unfinished.push(position);
            } else {
                break;
            }
        }
        let (end, before_end) = end?;
        let unfinished = unfinished.into_iter().take(before_end);
        let mut unfinished: Vec<u32> = unfinished.map(Self::fingerprint).collect();
        unfinished.sort_unstable();
        unfinished.dedup();
        Some(Self(Arc::new(AheadParts {
            base: base.clone(),
            end: end.detached(),
            is_unpacked,
            unfinished,
        })))
    }

    /// The checkpoint that it belongs to.
    pub fn base(&self) -> &Position {
        &self.0.base
    }

    /// The last record that is finished.
    pub fn end(&self) -> &RecordPosition {
        &self.0.end
    }

    /// Whether it can be relied on beside this checkpoint, by a worker that unpacks aggregated records or does not.
    pub fn belongs_to(&self, checkpoint: &Position, is_unpacked: bool) -> bool {
        let is_base = self.0.base == *checkpoint || failpoint!(AheadOfAnotherCheckpoint);
        is_base && self.0.is_unpacked == is_unpacked
    }

    /// Whether the record is finished: one behind the checkpoint and not behind the end, that is no exception.
    pub fn covers(&self, record: &RecordPosition) -> bool {
        *record <= self.0.end
            && !self.0.base.covers(record)
            && self
                .0
                .unfinished
                .binary_search(&Self::fingerprint(record))
                .is_err()
    }

    /// The same beside a checkpoint that has moved on since; `None` if nothing is finished behind it.
    #[must_use]
    pub fn rebased(&self, base: &Position) -> Option<Self> {
        let is_ahead = names_place(base) && *base >= self.0.base && !base.covers(&self.0.end);
        is_ahead.then(|| match *base == self.0.base {
            true => self.clone(),
            false => Self(Arc::new(AheadParts {
                base: base.clone(),
                ..(*self.0).clone()
            })),
        })
    }

    /// 24 bits of a position: FNV-1a of 64 bits over the digits of the sequence number without leading zeros and the eight bytes of the
    /// sub-sequence number, the highest first; then the finalizer of MurmurHash3 for 64 bits; of that the 24 highest bits.
    ///
    /// It is stored in rows, and so never changes under the same version of the encoding.
    pub fn fingerprint(position: &RecordPosition) -> u32 {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let digits = position.sequence.as_str().trim_start_matches('0');
        let bytes = digits.bytes().chain(position.sub_sequence.to_be_bytes());
        let mut hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        u32::try_from(hash >> (64 - FINGERPRINT_BITS)).unwrap_or(u32::MAX)
    }

    /// The value of the attribute: at most [`LARGEST_ENCODING`](Self::LARGEST_ENCODING) bytes.
    ///
    /// | part | bytes |
    /// |---|---|
    /// | version | 1, which is 1 |
    /// | flags | 1: bit 0 if aggregated records were unpacked, bit 1 if the base is a record and not `TRIM_HORIZON` |
    /// | base, if it is a record | the number of digits in 1, two digits in each of the next, the last padded with `f`, the sub-sequence number as LEB128 |
    /// | end | as the base |
    /// | number of exceptions | 2, the higher first |
    /// | exceptions | the differences of their ascending fingerprints less 1, Rice-coded: the part above the low bits as ones and a zero, then the low bits. Of n exceptions these are 24 less the bit length of n |
    pub fn encode(&self) -> Vec<u8> {
        let base = self.0.base.record();
        let mut bytes = vec![
            VERSION,
            u8::from(self.0.is_unpacked) | u8::from(base.is_some()) << 1,
        ];
        for position in base.into_iter().chain([&self.0.end]) {
            encode_position(&mut bytes, position);
        }
        let count = u16::try_from(self.0.unfinished.len()).unwrap_or(u16::MAX);
        bytes.extend(count.to_be_bytes());
        let low = low_bits(self.0.unfinished.len());
        let mut bits = BitWriter { bytes, used: 8 };
        let mut least = 0;
        for fingerprint in self.0.unfinished.iter() {
            let gap = fingerprint - least;
            (0..gap >> low).for_each(|_| bits.push(true));
            bits.push(false);
            (0..low).rev().for_each(|bit| bits.push(gap >> bit & 1 == 1));
            least = fingerprint + 1;
        }
        bits.bytes
    }

    /// Reads the value of the attribute.
    ///
    /// # Errors
    ///
    /// When the bytes are of another version, or no encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidFinishedAhead> {
        let invalid = InvalidFinishedAhead;
        if bytes.len() > Self::LARGEST_ENCODING {
            return Err(invalid("it is longer than 1 KiB"));
        }
        let mut bytes = Bytes(bytes);
        if bytes.next()? != VERSION {
            return Err(invalid("it has another version"));
        }
        let flags = bytes.next()?;
        if flags > 3 {
            return Err(invalid("a flag is not known"));
        }
        let base = match flags & 2 {
            0 => Position::TrimHorizon,
            _ => Position::Record(decode_position(&mut bytes)?),
        };
        let end = decode_position(&mut bytes)?;
        if base.covers(&end) {
            return Err(invalid("it ends before its checkpoint"));
        }
        let count = usize::from(u16::from_be_bytes([bytes.next()?, bytes.next()?]));
        if count > Self::MOST_UNFINISHED {
            return Err(invalid("it has too many exceptions"));
        }
        let low = low_bits(count);
        let mut bits = BitReader {
            bytes: bytes.0,
            at: 0,
        };
        let (mut unfinished, mut least) = (Vec::with_capacity(count), 0_u64);
        for _ in 0..count {
            let mut gap = 0_u64;
            while bits.next()? {
                gap += 1;
            }
            for _ in 0..low {
                gap = gap << 1 | u64::from(bits.next()?);
            }
            let fingerprint = u32::try_from(least + gap).ok();
            let fingerprint = fingerprint
                .filter(|fingerprint| fingerprint >> FINGERPRINT_BITS == 0)
                .ok_or(invalid("an exception is no fingerprint"))?;
            unfinished.push(fingerprint);
            least = u64::from(fingerprint) + 1;
        }
        bits.end()?;
        Ok(Self(Arc::new(AheadParts {
            base,
            end,
            is_unpacked: flags & 1 == 1,
            unfinished,
        })))
    }
}

const VERSION: u8 = 1;
const FINGERPRINT_BITS: u32 = 24;
/// Fills the last byte of an odd number of digits.
const PADDING: u8 = 0xf;

/// Whether the position is one place in the shard, whatever the settings of the worker.
fn names_place(position: &Position) -> bool {
    matches!(position, Position::TrimHorizon | Position::Record(_))
}

/// How many bits of a difference are stored as they are. All the ones together are then at most twice as many as the exceptions.
fn low_bits(exceptions: usize) -> u32 {
    FINGERPRINT_BITS.saturating_sub(usize::BITS - exceptions.leading_zeros())
}

fn encode_position(bytes: &mut Vec<u8>, position: &RecordPosition) {
    let digits = position.sequence.as_str().as_bytes();
    bytes.push(u8::try_from(digits.len()).unwrap_or(u8::MAX));
    for pair in digits.chunks(2) {
        let digit = |at: usize| pair.get(at).map_or(PADDING, |digit| digit - b'0');
        bytes.push(digit(0) << 4 | digit(1));
    }
    let mut rest = position.sub_sequence;
    while rest > 0x7f {
        let [low, ..] = rest.to_le_bytes();
        bytes.push(low | 0x80);
        rest >>= 7;
    }
    let [low, ..] = rest.to_le_bytes();
    bytes.push(low);
}

fn decode_position(bytes: &mut Bytes<'_>) -> Result<RecordPosition, InvalidFinishedAhead> {
    let len = usize::from(bytes.next()?);
    let mut digits = String::with_capacity(len + 1);
    while digits.len() < len {
        let pair = bytes.next()?;
        digits.extend([pair >> 4, pair & 0xf].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('f')));
    }
    if digits.len() > len && digits.pop() != Some('f') {
        return Err(InvalidFinishedAhead("a number has a digit too many"));
    }
    let sequence =
        SequenceNumber::new(digits).map_err(|_| InvalidFinishedAhead("a position is no sequence number"))?;
    let (mut sub_sequence, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes.next()?;
        let part = u64::from(byte & 0x7f);
        let is_last = byte & 0x80 == 0;
        // Neither beyond 64 bits, nor with zeros in front.
        if part << shift >> shift != part || is_last && part == 0 && shift > 0 {
            return Err(InvalidFinishedAhead(
                "a sub-sequence number is not written as a number",
            ));
        }
        sub_sequence |= part << shift;
        if is_last {
            return Ok(RecordPosition {
                sequence,
                sub_sequence,
            });
        }
        shift += 7;
        if shift >= u64::BITS {
            return Err(InvalidFinishedAhead("a sub-sequence number is too large"));
        }
    }
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Result<u8, InvalidFinishedAhead> {
        let (first, rest) = self.0.split_first().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*first)
    }
}

const TOO_SHORT: InvalidFinishedAhead = InvalidFinishedAhead("it is too short");

/// Writes bits behind whole bytes, the highest bit of a byte first.
struct BitWriter {
    bytes: Vec<u8>,
    /// How many bits of the last byte are used.
    used: u32,
}

impl BitWriter {
    fn push(&mut self, bit: bool) {
        if self.used == 8 {
            self.bytes.push(0);
            self.used = 0;
        }
        self.used += 1;
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (8 - self.used);
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// How many bits are read.
    at: usize,
}

impl BitReader<'_> {
    fn next(&mut self) -> Result<bool, InvalidFinishedAhead> {
        let byte = self.bytes.get(self.at / 8).ok_or(TOO_SHORT)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// Nothing but the padding of the last byte is left.
    fn end(mut self) -> Result<(), InvalidFinishedAhead> {
        let is_last_byte = self.bytes.len() == self.at.div_ceil(8);
        while !self.at.is_multiple_of(8) {
            if self.next()? {
                return Err(InvalidFinishedAhead("its padding is not empty"));
            }
        }
        match is_last_byte {
            true => Ok(()),
            false => Err(InvalidFinishedAhead("it is too long")),
        }
    }
}

#[cfg(test)]
mod tests;

//! The envelope of an aggregated record: magic bytes in front, MD5 behind.

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::aggregate::Aggregate;
use crate::wire::{CorruptAggregate, Span};

pub(crate) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = 16;

/// The bytes that the envelope adds to the message.
pub(crate) const OVERHEAD: usize = MAGIC.len() + DIGEST;

/// Whether the data begins as an aggregated record does, which costs nothing to see. [`unpack`] decides.
///
/// ```
/// assert!(!kcl_aggregation::seems_aggregated(b"plain"));
/// assert!(kcl_aggregation::seems_aggregated(&[0xf3, 0x89, 0x9a, 0xc2, 0x0a]));
/// ```
pub fn seems_aggregated(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// Reads the data of one Kinesis record: an aggregated record, or `None` for a plain one, which is delivered as it is.
///
/// Nothing is copied: the user records share the memory of `data`, and keep the whole record alive.
///
/// # Errors
///
/// When the envelope is right and the message in it cannot be parsed.
///
/// ```
/// use bytes::Bytes;
/// use kcl_aggregation::unpack;
///
/// assert!(unpack(&Bytes::from_static(b"plain"))?.is_none());
/// # Ok::<(), kcl_aggregation::CorruptAggregate>(())
/// ```
pub fn unpack(data: &Bytes) -> Result<Option<Aggregate>, CorruptAggregate> {
    // An empty message is no aggregated record to the Java KCL, though its envelope may be right.
    if data.len() <= OVERHEAD || !seems_aggregated(data) {
        return Ok(None);
    }
    let message = MAGIC.len()..data.len() - DIGEST;
    if Md5::digest(&data[message.clone()])[..] != data[message.end..] {
        return Ok(None);
    }
    let too_long = CorruptAggregate::new("the message is too long", message.start);
    Aggregate::parse(data.clone(), Span::new(message).ok_or(too_long)?).map(Some)
}

/// Writes the envelope around a message.
pub(crate) fn pack(message: &[&[u8]]) -> Bytes {
    let length: usize = message.iter().map(|part| part.len()).sum();
    let mut data = Vec::with_capacity(length + OVERHEAD);
    data.extend_from_slice(&MAGIC);
    for part in message {
        data.extend_from_slice(part);
    }
    let digest = Md5::digest(&data[MAGIC.len()..]);
    data.extend_from_slice(&digest);
    Bytes::from(data)
}

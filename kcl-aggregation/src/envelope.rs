//! The envelope of an aggregated record: magic bytes in front, MD5 behind.

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::aggregate::Aggregate;
use crate::digests::{Digest, md5_of_each};
use crate::wire::{CorruptAggregate, Span};

pub(crate) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = size_of::<Digest>();

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
    Envelope::of(data).unpack(data)
}

/// The envelope of one Kinesis record: that of an aggregated record, or none.
///
/// The MD5 takes most of the time of [`unpack`]. The envelopes of many records are checked several times faster together, by
/// [`Envelope::of_each`], and each record is unpacked when it is its turn.
///
/// ```
/// use bytes::Bytes;
/// use kcl_aggregation::{Aggregator, Envelope};
///
/// let mut aggregator = Aggregator::new();
/// aggregator.add("truck-1", None, b"north")?;
/// let packed = aggregator.finish().expect("a record was added");
///
/// let records = [Bytes::from_static(b"plain"), packed.data];
/// let envelopes = Envelope::of_each(records.iter().map(|record| &record[..]));
/// assert!(envelopes[0].unpack(&records[0])?.is_none());
/// assert_eq!(envelopes[1].unpack(&records[1])?.expect("it is aggregated").len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    is_aggregated: bool,
}

impl Envelope {
    const PLAIN: Self = Self { is_aggregated: false };

    /// The envelope of one record.
    pub fn of(data: &[u8]) -> Self {
        let is_aggregated =
            sealed(data).is_some_and(|(message, digest)| Md5::digest(message)[..] == digest[..]);
        Self { is_aggregated }
    }

    /// The envelopes of many records, in their order. They are those that [`of`](Self::of) returns for each.
    pub fn of_each<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<Self> {
        let mut envelopes = Vec::new();
        let (mut places, mut messages, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for data in records {
            if let Some((message, digest)) = sealed(data) {
                places.push(envelopes.len());
                messages.push(message);
                expected.push(digest);
            }
            envelopes.push(Self::PLAIN);
        }
        let digests = md5_of_each(&messages);
        for ((place, digest), expected) in places.into_iter().zip(digests).zip(expected) {
            envelopes[place].is_aggregated = digest == *expected;
        }
        envelopes
    }

    /// Reads the data that this is the envelope of: an aggregated record, or `None` for a plain one. Returns what [`unpack`] returns.
    ///
    /// # Errors
    ///
    /// When the envelope is right and the message in it cannot be parsed.
    pub fn unpack(self, data: &Bytes) -> Result<Option<Aggregate>, CorruptAggregate> {
        let Some((message, _)) = sealed(data).filter(|_| self.is_aggregated) else {
            return Ok(None);
        };
        let start = MAGIC.len();
        let too_long = CorruptAggregate::new("the message is too long", start);
        let message = Span::new(start..start + message.len()).ok_or(too_long)?;
        Aggregate::parse(data.clone(), message).map(Some)
    }
}

/// The message and the digest behind it, where the data begins as an aggregated record does.
fn sealed(data: &[u8]) -> Option<(&[u8], &Digest)> {
    let (message, digest) = data.strip_prefix(&MAGIC)?.split_last_chunk()?;
    // An empty message is no aggregated record to the Java KCL, though its envelope may be right.
    (!message.is_empty()).then_some((message, digest))
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

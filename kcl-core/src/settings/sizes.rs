//! How a settings file writes a size: a number with its unit, as `"256MiB"`. Reading it back gives the same size exactly. The form of the
//! crate `bytesize` rounds to a tenth of a unit (2.7.0, `findings/bytesize-serde-rounds.sh`).

use bytesize::ByteSize;
use serde::de::{Deserialize as _, Deserializer};
use serde::ser::Serializer;

/// The units, the largest first.
const UNITS: [(&str, u64); 4] = [
    ("TiB", bytesize::TIB),
    ("GiB", bytesize::GIB),
    ("MiB", bytesize::MIB),
    ("KiB", bytesize::KIB),
];

pub(crate) fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = size.as_u64();
    let mut units = UNITS.into_iter();
    let whole = units.find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    match whole {
        Some((name, unit)) => serializer.collect_str(&format_args!("{}{name}", bytes / unit)),
        None => serializer.collect_str(&format_args!("{bytes}B")),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    ByteSize::deserialize(deserializer)
}

/// The same for a size that may be left out.
pub(crate) mod optional {
    use super::{ByteSize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        size: &Option<ByteSize>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => super::serialize(size, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ByteSize>, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}

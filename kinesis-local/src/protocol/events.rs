//! `application/vnd.amazon.eventstream`: frames with headers, a payload and two checksums, as the
//! [Smithy specification](https://smithy.io/2.0/aws/amazon-eventstream.html) lays them out.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::super::error::ServiceError;
use super::super::value::Map;
use super::Protocol;

pub(crate) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// The type number of a header whose value is text.
const TEXT: u8 = 7;
/// Both lengths and their checksum.
const PRELUDE: usize = 12;

/// The frame that comes first: the answer of the call itself.
pub(crate) fn initial_response(protocol: Protocol) -> Bytes {
    event("initial-response", protocol, &Map::new())
}

/// A frame with an event of this type.
pub(crate) fn event(kind: &str, protocol: Protocol, payload: &Map) -> Bytes {
    let headers = [
        (":message-type", "event"),
        (":event-type", kind),
        (":content-type", protocol.content_type()),
    ];
    frame(&headers, &protocol.encode(payload))
}

/// The frame with which a stream fails.
pub(crate) fn exception(error: &ServiceError, protocol: Protocol) -> Bytes {
    let headers = [
        (":message-type", "exception"),
        (":exception-type", error.code),
        (":content-type", protocol.content_type()),
    ];
    frame(&headers, &protocol.encode(&super::error_body(error)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "names and values are a few words of ours, a payload at most some megabytes"
)]
fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let header = |(name, value): &(&str, &str)| 1 + name.len() + 1 + 2 + value.len();
    let headers_length: usize = headers.iter().map(header).sum();
    let length = PRELUDE + headers_length + payload.len() + 4;
    let mut frame = BytesMut::with_capacity(length);
    frame.put_u32(length as u32);
    frame.put_u32(headers_length as u32);
    frame.put_u32(crc32fast::hash(&frame));
    for (name, value) in headers {
        frame.put_u8(name.len() as u8);
        frame.put_slice(name.as_bytes());
        frame.put_u8(TEXT);
        frame.put_u16(value.len() as u16);
        frame.put_slice(value.as_bytes());
    }
    frame.put_slice(payload);
    frame.put_u32(crc32fast::hash(&frame));
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_frame_is_one_of_specification() {
        // The smallest message of the format's test vectors.
        let expected = [
            0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
        ];
        assert_eq!(&frame(&[], &[])[..], &expected);
    }
}

//! The body of an answer as it came, before the SDK parses it.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::byte_stream::error::Error as ByteStreamError;
use bytes::{Bytes, BytesMut};

/// Room is made beforehand for a body as long as it says it is, but for no longer one: 10 MiB of records are 14 in base64.
const MAX_PREALLOCATED: u64 = 16 * 1024 * 1024;

/// Takes the body of a successful answer, and hands the SDK an empty one. Every call has its own.
///
/// The SDK would collect the pieces of the body and then copy all of them, which takes twice the memory and, with new memory for each
/// piece, half of the processor time of reading. Here each piece is copied when it comes, and its memory serves for the next.
#[derive(Debug, Clone)]
pub(crate) struct RawBody {
    /// A part of the content type that the answer must have; empty where that does not matter.
    kind: &'static str,
    /// The bytes that the SDK takes for an answer without members.
    empty: &'static [u8],
    stream: Arc<Mutex<Option<SdkBody>>>,
}

impl RawBody {
    /// For a call that is answered in CBOR.
    pub(crate) fn cbor() -> Self {
        Self::new("cbor", &[0xa0])
    }

    /// For a call that is answered in JSON, of which not every server says that it is.
    pub(crate) fn json() -> Self {
        Self::new("", b"{}")
    }

    fn new(kind: &'static str, empty: &'static [u8]) -> Self {
        Self {
            kind,
            empty,
            stream: Arc::default(),
        }
    }

    /// The body, of which nothing was read yet. `None` when the answer was no success or in another form.
    pub(crate) fn reader(&self) -> Option<BodyReader> {
        let taken = self
            .stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let announced = taken.content_length();
        let expected = announced.unwrap_or(0).min(MAX_PREALLOCATED);
        Some(BodyReader {
            announced,
            expected: usize::try_from(expected).unwrap_or(0),
            buffer: BytesMut::new(),
            pieces: ByteStream::new(taken),
        })
    }
}

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct BodyReader {
    /// How long it is, where the answer says so.
    pub(crate) announced: Option<u64>,
    expected: usize,
    buffer: BytesMut,
    pieces: ByteStream,
}

impl BodyReader {
    /// Reads one more piece. Returns `false` at the end.
    pub(crate) async fn read(&mut self) -> Result<bool, ByteStreamError> {
        let Some(piece) = self.pieces.next().await else {
            return Ok(false);
        };
        let piece = piece?;
        if self.buffer.is_empty() {
            self.buffer.reserve(self.expected.max(piece.len()));
        }
        self.buffer.extend_from_slice(&piece);
        Ok(true)
    }

    /// How much was read.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The bytes that were read.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.buffer.freeze()
    }
}

impl Intercept for RawBody {
    fn name(&self) -> &'static str {
        "RawBody"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let kind = response.headers().get("content-type").unwrap_or_default();
        if response.status().is_success() && kind.contains(self.kind) {
            let body = std::mem::replace(response.body_mut(), SdkBody::from(self.empty));
            *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
        Ok(())
    }
}

//! An object store whose puts are slow and fail, for tests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use kinesis_client::async_trait;
use kinesis_client::bytes::Bytes;
use kinesis_client::clock::{Clock, ClockExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The course of a put.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutFault {
    /// The pause before the store has the object.
    pub before: Duration,
    /// The pause before the answer.
    pub after: Duration,
    /// Whether the object is given to the store in pieces of one byte, so that it is written for longer.
    pub in_pieces: bool,
    /// The answer.
    pub answer: PutAnswer,
}

/// The answer to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutAnswer {
    /// That of the store.
    #[default]
    Stores,
    /// An error, and the store has not seen the object.
    Refused,
    /// `AlreadyExists`, although nothing is there: S3 answers so while two are writing.
    Conflict,
    /// An error, although the store has done what it was asked.
    Lost,
}

/// The faults of a store.
pub trait PutFaults: fmt::Debug + Send + Sync + 'static {
    /// The fault of the next put, which is to this path.
    fn next(&self, path: &Path) -> PutFault;

    /// The store has answered so to the put to this path, which may have been lost since.
    fn answered(&self, _path: &Path, _answer: &Result<PutResult>) {}

    /// The object of this path, or a part, was read.
    fn was_read(&self, _path: &Path) {}
}

/// The store with faults.
#[derive(Debug)]
pub struct FaultyStore<F> {
    inner: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    faults: F,
}

impl<F: PutFaults> FaultyStore<F> {
    /// The store, with these faults.
    pub fn new(inner: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, faults: F) -> Self {
        Self { inner, clock, faults }
    }
}

impl<F: PutFaults> fmt::Display for FaultyStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn failed(why: &'static str) -> Error {
    Error::Generic {
        store: "faulty",
        source: why.into(),
    }
}

fn pieces(payload: &PutPayload) -> PutPayload {
    let pieces = |part: &Bytes| {
        let part = part.clone();
        (0..part.len()).map(move |at| part.slice(at..=at))
    };
    payload.iter().flat_map(pieces).collect()
}

#[async_trait]
impl<F: PutFaults> ObjectStore for FaultyStore<F> {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.faults.next(path);
        self.clock.sleep(fault.before).await;
        match fault.answer {
            PutAnswer::Refused => return Err(failed("the store does not answer")),
            PutAnswer::Conflict => {
                return Err(Error::AlreadyExists {
                    path: path.to_string(),
                    source: "another request for it is under way".into(),
                });
            }
            PutAnswer::Stores | PutAnswer::Lost => {}
        }
        let payload = match fault.in_pieces {
            true => pieces(&payload),
            false => payload,
        };
        let answer = self.inner.put_opts(path, payload, options).await;
        self.faults.answered(path, &answer);
        self.clock.sleep(fault.after).await;
        match fault.answer {
            PutAnswer::Lost => Err(failed("the answer is lost")),
            PutAnswer::Stores | PutAnswer::Refused | PutAnswer::Conflict => answer,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.inner.get_opts(path, options).await?;
        self.faults.was_read(path);
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

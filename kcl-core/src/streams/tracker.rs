use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::runtime::lock::Locked;
use crate::source::{SourceError, StreamSource};
use crate::types::InitialPosition;

/// Says which streams an application reads.
///
/// Every worker asks its own tracker, and any of them may lead: give all of them the same answer. While they differ, as during
/// a deploy, a new stream is read once the leader knows it, and then by those workers that do: one that is given a shard of
/// a stream it does not know gives it back. A stream that only some have dropped stays with those that have not.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use async_trait::async_trait;
/// use kinesis_client::source::{SourceError, StreamSource};
/// use kinesis_client::streams::{StreamTracker, TrackedStream};
///
/// /// Reads whatever a directory of ours says.
/// #[derive(Debug)]
/// struct Directory {
///     known: Vec<Arc<dyn StreamSource>>,
/// }
///
/// #[async_trait]
/// impl StreamTracker for Directory {
///     async fn streams(&self) -> Result<Vec<TrackedStream>, SourceError> {
///         Ok(self.known.iter().cloned().map(TrackedStream::shared).collect())
///     }
///
///     fn interval(&self) -> Duration {
///         Duration::from_secs(10)
///     }
/// }
/// ```
#[async_trait]
pub trait StreamTracker: Send + Sync + fmt::Debug + 'static {
    /// The streams to read now. They are distinguished by their [addresses](StreamSource::address); of two with the same one the
    /// first counts, and of one that is read already only that it is still there: the source first given is kept.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`]: then the worker goes on with the streams it knows, and asks again.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when it takes longer than a minute, or when the worker stops.
    async fn streams(&self) -> Result<Vec<TrackedStream>, SourceError>;

    /// How often to ask. A minute by default, as in the Java KCL; never more often than every 100 ms.
    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// A stream to read.
#[derive(Debug, Clone)]
pub struct TrackedStream {
    source: Arc<dyn StreamSource>,
    initial_position: Option<InitialPosition>,
}

impl TrackedStream {
    /// This stream, read from where [`ReadingSettings::initial_position`](crate::settings::ReadingSettings::initial_position) says.
    pub fn new(source: impl StreamSource) -> Self {
        Self::shared(Arc::new(source))
    }

    /// This stream, shared with others.
    pub fn shared(source: Arc<dyn StreamSource>) -> Self {
        Self {
            source,
            initial_position: None,
        }
    }

    /// The stream, read from here when the application has no leases for it yet.
    #[must_use]
    pub fn starting_at(mut self, position: InitialPosition) -> Self {
        self.initial_position = Some(position);
        self
    }

    /// Where its records come from.
    pub fn source(&self) -> &Arc<dyn StreamSource> {
        &self.source
    }

    /// Where to start, where that is said for this stream.
    pub fn initial_position(&self) -> Option<InitialPosition> {
        self.initial_position
    }
}

/// A list of streams that can be changed while workers read them. Clones share the list.
///
/// Workers notice a change within a second.
///
/// ```no_run
/// # use kcl_core as kinesis_client;
/// use kinesis_client::source::StreamSource;
/// use kinesis_client::streams::{StreamSet, TrackedStream};
/// # fn f(trucks: impl StreamSource, ships: impl StreamSource) {
///
/// let streams = StreamSet::new([TrackedStream::new(trucks)]);
/// // … Worker::builder("fleet").streams(streams.clone()) …
/// streams.add(TrackedStream::new(ships));
/// assert!(streams.remove("trucks"));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StreamSet {
    streams: Arc<Locked<Vec<TrackedStream>>>,
}

impl StreamSet {
    /// These streams.
    pub fn new(streams: impl IntoIterator<Item = TrackedStream>) -> Self {
        let set = Self::default();
        streams.into_iter().for_each(|stream| set.add(stream));
        set
    }

    /// Reads this stream too, from now on.
    ///
    /// It takes the place of one with the same [address](StreamSource::address), but a worker that reads that one goes on with
    /// the source it has: only workers that open the stream later use the new one. To make running workers change their source,
    /// [remove](Self::remove) the stream, give them the time to notice, and add it again.
    pub fn add(&self, stream: TrackedStream) {
        let mut streams = self.lock();
        streams.retain(|other| other.source.address() != stream.source.address());
        streams.push(stream);
    }

    /// Reads the stream with this [address](StreamSource::address) no more. Returns `true` if it was there.
    ///
    /// Its shards are drained and its leases given up; they keep their checkpoints, so that reading goes on there should the
    /// stream be added again.
    pub fn remove(&self, address: &str) -> bool {
        let mut streams = self.lock();
        let before = streams.len();
        streams.retain(|stream| stream.source.address() != address);
        streams.len() < before
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TrackedStream>> {
        self.streams.lock()
    }
}

#[async_trait]
impl StreamTracker for StreamSet {
    async fn streams(&self) -> Result<Vec<TrackedStream>, SourceError> {
        Ok(self.lock().clone())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}

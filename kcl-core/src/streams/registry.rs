use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::lease::Lease;
use crate::model::{StreamIdentity, StreamKey};
use crate::shard_sync::{InitialPosition, Keying};
use crate::source::StreamSource;

/// A stream that this worker reads, and knows to be the one that its leases are for.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) identity: StreamIdentity,
    pub(crate) keying: Keying,
    /// Where to start, where that is said for this stream.
    pub(crate) initial_position: Option<InitialPosition>,
    /// Whether the stream was not found somewhere. Until somebody has looked, it may have been created again: then its shards
    /// have the ids of the old ones, and positions in those mean nothing.
    doubted: AtomicBool,
}

impl OpenStream {
    pub(crate) fn new(
        source: Arc<dyn StreamSource>,
        identity: StreamIdentity,
        keying: Keying,
        initial_position: Option<InitialPosition>,
    ) -> Self {
        Self {
            source,
            identity,
            keying,
            initial_position,
            doubted: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// Somebody has looked, and it is the stream that it was.
    pub(crate) fn is_confirmed(&self) {
        self.doubted.store(false, Ordering::Release);
    }
}

/// The streams that this worker reads now.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Mutex<BTreeMap<Option<StreamKey>, Arc<OpenStream>>>,
    doubt: Notify,
    changed: Notify,
}

impl Streams {
    /// The stream of this lease, if this worker reads it.
    pub(crate) fn of(&self, lease: &Lease) -> Option<Arc<OpenStream>> {
        self.lock().get(&lease.stream).cloned()
    }

    /// Whether this worker reads the stream of the lease.
    pub(crate) fn reads(&self, lease: &Lease) -> bool {
        self.lock().contains_key(&lease.stream)
    }

    pub(crate) fn all(&self) -> Vec<Arc<OpenStream>> {
        self.lock().values().cloned().collect()
    }

    /// Reads this stream from now on.
    pub(crate) fn open(&self, stream: OpenStream) {
        let key = stream.keying.stream().cloned();
        self.lock().insert(key, Arc::new(stream));
        self.changed.notify_waiters();
    }

    /// Reads the stream no more.
    pub(crate) fn close(&self, stream: &OpenStream) {
        self.lock().remove(&stream.keying.stream().cloned());
        self.changed.notify_waiters();
    }

    /// Returns at the next change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The stream was not found. Whoever reads it waits until it is known whether it is still the same.
    pub(crate) fn doubt(&self, stream: &OpenStream) {
        if !stream.doubted.swap(true, Ordering::AcqRel) {
            self.doubt.notify_one();
        }
    }

    /// Returns once a stream is doubted, for as long as one is.
    pub(crate) async fn doubted(&self) {
        loop {
            let doubt = self.doubt.notified();
            if self.lock().values().any(|stream| stream.is_doubted()) {
                return;
            }
            doubt.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<StreamKey>, Arc<OpenStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

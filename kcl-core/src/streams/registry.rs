use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::row::Lease;
use crate::runtime::clock::Moment;
use crate::runtime::lock::Locked;
use crate::runtime::watched::Watched;
use crate::source::StreamSource;
use crate::streams::listing::SharedListing;
use crate::types::{InitialPosition, StreamIdentity, StreamKey};

/// For how long a stream that was seen to be there is read on while one of its shards is not found. A reader that does not find it
/// asks more often than that, so a stream that goes is noticed even so.
const SURE_FOR: Duration = Duration::from_secs(300);

/// A stream that this worker reads, and knows to be the one that its leases are for.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) identity: StreamIdentity,
    pub(crate) keying: LeaseKeyScheme,
    /// Where to start, where that is said for this stream.
    pub(crate) initial_position: Option<InitialPosition>,
    /// The state that its readers share to see whether their shards are closed.
    pub(crate) listing: SharedListing,
    belief: Locked<IdentityCheck>,
    /// The stream is not read before a look. Readers ask before each fetch.
    doubted: AtomicBool,
}

/// Whether the stream is still the one that its leases are for. Until somebody has looked, one that was not found may have been
/// created again: then its shards have the ids of the old ones, and positions in those mean nothing.
#[derive(Debug, Default)]
struct IdentityCheck {
    /// A look is asked for, and none has started since.
    asked: bool,
    /// A look is under way.
    looking: bool,
    /// When somebody had last looked, and it was the stream that it was.
    confirmed: Option<Moment>,
}

impl OpenStream {
    pub(crate) fn new(
        source: Arc<dyn StreamSource>,
        identity: StreamIdentity,
        keying: LeaseKeyScheme,
        initial_position: Option<InitialPosition>,
    ) -> Self {
        Self {
            source,
            identity,
            keying,
            initial_position,
            listing: SharedListing::default(),
            belief: Locked::default(),
            doubted: AtomicBool::new(false),
        }
    }

    /// Whether nobody may read the stream.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// Whether somebody who did not find a shard still waits for an answer.
    pub(crate) fn is_asked_for(&self) -> bool {
        let belief = self.belief();
        belief.asked || belief.looking
    }

    /// Begins to look, if a look is asked for. Requests from here on are for another look.
    pub(crate) fn begin_to_look(&self) -> bool {
        let mut belief = self.belief();
        belief.looking = std::mem::take(&mut belief.asked);
        belief.looking
    }

    /// A look has ended, and it is the stream that it was.
    pub(crate) fn is_confirmed(&self, now: Moment) {
        let mut belief = self.belief();
        self.doubted.store(false, Ordering::SeqCst);
        belief.looking = false;
        belief.confirmed = Some(now);
    }

    /// A look has ended in vain. The question stays; where the stream that it was `is_gone`, nobody reads it.
    pub(crate) fn is_not_confirmed(&self, is_gone: bool) {
        let mut belief = self.belief();
        self.doubted.fetch_or(is_gone, Ordering::SeqCst);
        (belief.asked, belief.looking) = (true, false);
    }

    fn belief(&self) -> MutexGuard<'_, IdentityCheck> {
        self.belief.lock()
    }
}

/// The streams that this worker reads now.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Watched<BTreeMap<Option<StreamKey>, Arc<OpenStream>>>,
    /// A look at one of them is asked for. Only one task waits for that, and a request that it has not seen yet is kept for it.
    doubt: Notify,
    /// Whether it is not known of some stream whether it is to be read, or one that is to be read could not be opened.
    unsettled: AtomicBool,
}

impl Streams {
    /// The stream of this lease, if this worker reads it.
    pub(crate) fn of(&self, lease: &Lease) -> Option<Arc<OpenStream>> {
        self.open.read(|open| open.get(&lease.stream).cloned())
    }

    /// Whether this worker reads the stream of the lease.
    pub(crate) fn reads(&self, lease: &Lease) -> bool {
        self.open.read(|open| open.contains_key(&lease.stream))
    }

    pub(crate) fn all(&self) -> Vec<Arc<OpenStream>> {
        self.open.read(|open| open.values().cloned().collect())
    }

    /// Notes whether all streams that are to be read are known and open.
    pub(crate) fn are_settled(&self, settled: bool) {
        self.unsettled.store(!settled, Ordering::Release);
    }

    /// Whether a stream that is not open is one that is not to be read.
    pub(crate) fn is_settled(&self) -> bool {
        !self.unsettled.load(Ordering::Acquire)
    }

    /// Reads this stream from now on.
    pub(crate) fn open(&self, stream: OpenStream) {
        let key = stream.keying.stream().cloned();
        self.open.modify(|open| open.insert(key, Arc::new(stream)));
    }

    /// Reads the stream no more.
    pub(crate) fn close(&self, stream: &OpenStream) {
        self.open
            .modify(|open| open.remove(&stream.keying.stream().cloned()));
    }

    /// Returns at the next change after this call, even if that comes before the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.open.changed()
    }

    /// The stream was not found. A reader waits until it is known whether it is still the same.
    pub(crate) fn doubt(&self, stream: &OpenStream) {
        {
            let mut belief = stream.belief();
            stream.doubted.store(true, Ordering::SeqCst);
            belief.asked = true;
        }
        self.doubt.notify_one();
    }

    /// A shard of the stream was not found. That may be the stream or only the shard, to a service that answers the same to
    /// both: somebody looks, and whoever reads the other shards waits for that, unless somebody has looked lately. Then they
    /// are read on: one shard that retention took must not hold up all the others.
    pub(crate) fn doubt_shard(&self, stream: &OpenStream, now: Moment) {
        {
            let mut belief = stream.belief();
            let is_sure = |confirmed| now.saturating_since(confirmed) < SURE_FOR;
            let is_unsure = !belief.confirmed.is_some_and(is_sure);
            stream.doubted.fetch_or(is_unsure, Ordering::SeqCst);
            belief.asked = true;
        }
        self.doubt.notify_one();
    }

    /// Returns once somebody wants to know about a stream, for as long as that is so.
    pub(crate) async fn asked(&self) {
        loop {
            let doubt = self.doubt.notified();
            if self
                .open
                .read(|open| open.values().any(|stream| stream.is_asked_for()))
            {
                return;
            }
            doubt.await;
        }
    }
}

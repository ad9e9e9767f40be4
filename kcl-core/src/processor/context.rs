use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::model::{ApplicationName, LeaseKey, ShardId, WorkerId};

/// A number that rises with every ownership of a shard.
///
/// A sink that remembers the largest token it has seen, and refuses smaller ones, cannot be written to by a former owner.
/// It is the lease counter that the owner's first renewal stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token of the ownership that began by storing this lease counter.
    pub fn new(counter: u64) -> Self {
        Self(counter)
    }

    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which shard a processor works on, in which ownership. A clone is cheap.
#[derive(Debug, Clone)]
pub struct ShardContext {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    application: ApplicationName,
    worker: WorkerId,
    stream: String,
    shard: ShardId,
    lease: LeaseKey,
    token: FencingToken,
    cancelled: CancellationToken,
}

impl ShardContext {
    /// A context made by hand, for testing a processor without a worker.
    ///
    /// ```
    /// use kcl_core::model::{ApplicationName, ShardId, WorkerId};
    /// use kcl_core::processor::{FencingToken, ShardContext};
    ///
    /// let shard = ShardContext::new(
    ///     ApplicationName::new("app")?,
    ///     WorkerId::new("worker-1")?,
    ///     "trucks",
    ///     ShardId::new("shardId-000000000000")?,
    ///     FencingToken::new(1),
    /// );
    /// assert_eq!(shard.stream(), "trucks");
    /// # Ok::<(), kcl_core::model::InvalidName>(())
    /// ```
    pub fn new(
        application: ApplicationName,
        worker: WorkerId,
        stream: impl Into<String>,
        shard: ShardId,
        token: FencingToken,
    ) -> Self {
        let lease = LeaseKey::single_stream(&shard);
        Self::of_lease(
            application,
            worker,
            stream.into(),
            shard,
            lease,
            token,
            CancellationToken::new(),
        )
    }

    pub(crate) fn of_lease(
        application: ApplicationName,
        worker: WorkerId,
        stream: String,
        shard: ShardId,
        lease: LeaseKey,
        token: FencingToken,
        cancelled: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                application,
                worker,
                stream,
                shard,
                lease,
                token,
                cancelled,
            }),
        }
    }

    /// The application.
    pub fn application(&self) -> &ApplicationName {
        &self.inner.application
    }

    /// The worker that this runs in.
    pub fn worker(&self) -> &WorkerId {
        &self.inner.worker
    }

    /// The name of the stream.
    pub fn stream(&self) -> &str {
        &self.inner.stream
    }

    /// The shard.
    pub fn shard(&self) -> &ShardId {
        &self.inner.shard
    }

    /// The key of the shard's lease.
    pub fn lease(&self) -> &LeaseKey {
        &self.inner.lease
    }

    /// The token of this ownership, for sinks that can check it.
    pub fn fencing_token(&self) -> FencingToken {
        self.inner.token
    }

    /// Fires when the lease is lost or the worker must stop: work that cannot be checkpointed any more may be left.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner.cancelled
    }
}

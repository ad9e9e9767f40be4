use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::lease::row::PendingCheckpoint;
use crate::runtime::clock::Moment;
use crate::runtime::lock::Locked;
use crate::types::{ApplicationName, HashKeyRange, LeaseKey, Position, ShardId, WorkerId};

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
    arn: Option<String>,
    shard: ShardId,
    hash_range: Option<HashKeyRange>,
    lease: LeaseKey,
    checkpoint: Option<Position>,
    is_redrive: bool,
    token: FencingToken,
    cancelled: CancellationToken,
    /// Another one after each drain that was called off.
    draining: Locked<CancellationToken>,
    /// Nanoseconds since the origin of the worker's clock.
    valid_until: AtomicU64,
    /// Nanoseconds.
    idle_for: AtomicU64,
    /// Only while `initialize` is called.
    pending: Locked<Option<PendingCheckpoint>>,
}

impl ShardContext {
    /// A context made by hand, for testing a processor without a worker.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use kinesis_client::types::{ApplicationName, ShardId, WorkerId};
    /// use kinesis_client::processor::{FencingToken, ShardContext};
    ///
    /// let shard = ShardContext::new(
    ///     ApplicationName::new("app")?,
    ///     WorkerId::new("worker-1")?,
    ///     "trucks",
    ///     ShardId::new("shardId-000000000000")?,
    ///     FencingToken::new(1),
    /// );
    /// assert_eq!(shard.stream(), "trucks");
    /// # Ok::<(), kcl_core::types::InvalidName>(())
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
            (stream.into(), None),
            (shard, None),
            (lease, None),
            token,
        )
    }

    /// The context, of a shard that receives these hash keys. For a context made by hand: in one that a worker made it changes this
    /// clone only, which then learns no more of renewals and drains.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// # use kcl_core::types::{ApplicationName, ShardId, WorkerId};
    /// # use kcl_core::processor::{FencingToken, ShardContext};
    /// use kinesis_client::types::HashKeyRange;
    ///
    /// # let (app, worker) = (ApplicationName::new("app")?, WorkerId::new("worker-1")?);
    /// # let shard = ShardId::new("shardId-000000000000")?;
    /// let shard = ShardContext::new(app, worker, "trucks", shard, FencingToken::new(1));
    /// assert_eq!(shard.hash_range(), None);
    /// let half = HashKeyRange::new(0, u128::MAX / 2)?;
    /// assert_eq!(shard.with_hash_range(half).hash_range(), Some(half));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_hash_range(self, range: HashKeyRange) -> Self {
        self.with(|inner| inner.hash_range = Some(range))
    }

    /// The context, of a shard whose lease had this checkpoint when the ownership began. For a context made by hand, as
    /// [`with_hash_range`](Self::with_hash_range).
    #[must_use]
    pub fn with_checkpoint(self, checkpoint: Position) -> Self {
        self.with(|inner| inner.checkpoint = Some(checkpoint))
    }

    /// The context, as of a lease with this prepared checkpoint. For a context made by hand, as
    /// [`with_hash_range`](Self::with_hash_range).
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// # use kcl_core::types::{ApplicationName, ShardId, WorkerId};
    /// # use kcl_core::processor::{FencingToken, ShardContext};
    /// use kinesis_client::processor::PendingCheckpoint;
    /// use kinesis_client::types::Position;
    ///
    /// # let (app, worker) = (ApplicationName::new("app")?, WorkerId::new("worker-1")?);
    /// # let shard = ShardId::new("shardId-000000000000")?;
    /// let shard = ShardContext::new(app, worker, "trucks", shard, FencingToken::new(1));
    /// assert_eq!(shard.pending_checkpoint(), None);
    /// let pending = PendingCheckpoint { position: Position::parse("42", 0)?, state: Some("tx-17".into()) };
    /// let shard = shard.with_pending_checkpoint(pending.clone());
    /// assert_eq!(shard.pending_checkpoint(), Some(pending));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_pending_checkpoint(self, pending: PendingCheckpoint) -> Self {
        self.with(|inner| inner.pending = Locked::new(Some(pending)))
    }

    /// The context, of a shard that is [idle for](Self::idle_for) so long. For a context made by hand, as
    /// [`with_hash_range`](Self::with_hash_range).
    #[must_use]
    pub fn with_idle_for(self, time: Duration) -> Self {
        self.set_idle_for(time);
        self
    }

    /// The context of a processor that is given dead letters.
    pub(crate) fn of_redrive(self) -> Self {
        self.with(|inner| inner.is_redrive = true)
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let inner = &self.inner;
        let mut inner = Inner {
            application: inner.application.clone(),
            worker: inner.worker.clone(),
            stream: inner.stream.clone(),
            arn: inner.arn.clone(),
            shard: inner.shard.clone(),
            hash_range: inner.hash_range,
            lease: inner.lease.clone(),
            checkpoint: inner.checkpoint.clone(),
            is_redrive: inner.is_redrive,
            token: inner.token,
            cancelled: inner.cancelled.clone(),
            draining: Locked::new(self.draining()),
            valid_until: AtomicU64::new(inner.valid_until.load(Ordering::Acquire)),
            idle_for: AtomicU64::new(inner.idle_for.load(Ordering::Acquire)),
            pending: Locked::new(self.pending_checkpoint()),
        };
        change(&mut inner);
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn of_lease(
        application: ApplicationName,
        worker: WorkerId,
        (stream, arn): (String, Option<String>),
        (shard, hash_range): (ShardId, Option<HashKeyRange>),
        (lease, checkpoint): (LeaseKey, Option<Position>),
        token: FencingToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                application,
                worker,
                stream,
                arn,
                shard,
                hash_range,
                lease,
                checkpoint,
                is_redrive: false,
                token,
                cancelled: CancellationToken::new(),
                draining: Locked::default(),
                valid_until: AtomicU64::new(u64::MAX),
                idle_for: AtomicU64::new(0),
                pending: Locked::default(),
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

    /// The Amazon resource name of the stream, or what a source without AWS uses in its place; `None` in a context made by hand.
    pub fn stream_arn(&self) -> Option<&str> {
        self.inner.arn.as_deref()
    }

    /// The shard.
    pub fn shard(&self) -> &ShardId {
        &self.inner.shard
    }

    /// The hash keys that the shard receives, as the lease had them when this ownership began; `None` where the lease does not say, which
    /// is so for a while after a Java application was taken over, and in a context made by hand.
    pub fn hash_range(&self) -> Option<HashKeyRange> {
        self.inner.hash_range
    }

    /// The checkpoint that an earlier owner, or an earlier processor of this one, [prepared](super::RecordBatch::prepare_through) and neither
    /// committed nor discarded. While [`initialize`](super::RecordProcessor::initialize) is called; `None` at any other time.
    ///
    /// The processor decides what it means by asking its sink, and returns [`StartFrom::CommitPending`](super::StartFrom::CommitPending)
    /// or [`StartFrom::DiscardPending`](super::StartFrom::DiscardPending).
    pub fn pending_checkpoint(&self) -> Option<PendingCheckpoint> {
        self.inner.pending.lock().clone()
    }

    pub(crate) fn set_pending_checkpoint(&self, pending: Option<PendingCheckpoint>) {
        *self.inner.pending.lock() = pending;
    }

    /// The key of the shard's lease.
    pub fn lease(&self) -> &LeaseKey {
        &self.inner.lease
    }

    /// The stored checkpoint when this ownership began; `None` in a context made by hand. It does not follow the checkpoints that are made
    /// since.
    pub fn checkpoint(&self) -> Option<&Position> {
        self.inner.checkpoint.as_ref()
    }

    /// Whether the processor is given dead letters again, by a [`Redrive`](crate::Redrive). Their records are older than others that
    /// the shard's processors have seen.
    pub fn is_redrive(&self) -> bool {
        self.inner.is_redrive
    }

    /// The token of this ownership, for sinks that can check it.
    pub fn fencing_token(&self) -> FencingToken {
        self.inner.token
    }

    /// Fires when the lease is lost or the worker must stop: work that cannot be checkpointed any more may be left.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner.cancelled
    }

    /// Fires when the worker is about to give the lease up: it shuts down, hands the shard over, or no longer reads the stream.
    ///
    /// The lease is still the worker's, and checkpoints are stored. A call that takes long should come to its end: with `Ok` after the records
    /// it was given, or before that with an error [at](super::ProcessorError::at) the first record that it has not processed. Those before it
    /// count as finished with automatic checkpoints; with manual ones, checkpoint them. Such an error is no failure of the processor. A call
    /// that goes on beyond [`drain_timeout`](crate::settings::ShutdownSettings::drain_timeout) is dropped.
    ///
    /// A handoff can be called off, when the callback takes longer than the handoff timeout: a token that has fired stays so, and the
    /// next call of this method returns one that has not.
    pub fn draining(&self) -> CancellationToken {
        self.lock_draining().clone()
    }

    pub(crate) fn begin_drain(&self) {
        self.lock_draining().cancel();
    }

    /// The drain is off.
    pub(crate) fn end_drain(&self) {
        *self.lock_draining() = CancellationToken::new();
    }

    fn lock_draining(&self) -> MutexGuard<'_, CancellationToken> {
        self.inner.draining.lock()
    }

    /// For how long the shard has had no record, when [`tick`](super::RecordProcessor::tick) was called last: from when the worker received the
    /// last one to when the source said last that there is no other. Zero while records are on their way to the processor, and when
    /// nothing is known.
    ///
    /// Times in which nothing was asked of the source do not count. It is measured by the worker's monotonic clock, so it may be compared with
    /// arrival times: when the source said so, its own clock showed at least the arrival of the last record and this time.
    pub fn idle_for(&self) -> Duration {
        Duration::from_nanos(self.inner.idle_for.load(Ordering::Acquire))
    }

    pub(crate) fn set_idle_for(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.inner.idle_for.store(nanos, Ordering::Release);
    }

    /// Until when the worker may believe that the lease is its own, on the worker's [`Clock`](crate::runtime::clock::Clock).
    ///
    /// Each renewal moves it on. No batch starts after it; work that must not overlap with the next owner's should be done,
    /// or be refusable by the [token](Self::fencing_token), before it. It is the clock's origin once the lease is known to be
    /// lost, and practically never in a context made by hand.
    pub fn valid_until(&self) -> Moment {
        Moment::from_origin(Duration::from_nanos(
            self.inner.valid_until.load(Ordering::Acquire),
        ))
    }

    pub(crate) fn set_valid_until(&self, until: Moment) {
        let nanos = u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.inner.valid_until.store(nanos, Ordering::Release);
    }
}

//! A source of which some answers are altered.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::source::{
    Arrival, Fetch, FetchLimit, PageToken, RecordStream, ShardFilter, ShardPage, SourceError, StartPosition,
    StreamSource,
};
use kcl_core::types::{ShardId, StreamIdentity};

type Hook = Arc<dyn Fn() + Send + Sync>;
type Listing = Arc<dyn Fn(ShardFilter, &mut ShardPage) + Send + Sync>;
type Opening = Arc<dyn Fn(&StartPosition) -> Result<(), SourceError> + Send + Sync>;
type Fetching = Arc<dyn Fn(&mut Fetch) + Send + Sync>;

/// Has one way to open a shard, whatever the source that it wraps has. Clones share the hooks.
#[derive(Clone)]
pub(crate) struct Altered {
    inner: Arc<dyn StreamSource>,
    listing: Listing,
    opening: Opening,
    fetching: Fetching,
    pausing: Hook,
}

impl Altered {
    pub(crate) fn of(source: impl StreamSource) -> Self {
        Self {
            inner: Arc::new(source),
            listing: Arc::new(|_, _| {}),
            opening: Arc::new(|_| Ok(())),
            fetching: Arc::new(|_| {}),
            pausing: Arc::new(|| {}),
        }
    }

    /// Alters each page of a listing.
    pub(crate) fn listing(
        mut self,
        hook: impl Fn(ShardFilter, &mut ShardPage) + Send + Sync + 'static,
    ) -> Self {
        self.listing = Arc::new(hook);
        self
    }

    /// Refuses some positions.
    pub(crate) fn opening(
        mut self,
        hook: impl Fn(&StartPosition) -> Result<(), SourceError> + Send + Sync + 'static,
    ) -> Self {
        self.opening = Arc::new(hook);
        self
    }

    /// Alters each answer of a reader.
    pub(crate) fn fetching(mut self, hook: impl Fn(&mut Fetch) + Send + Sync + 'static) -> Self {
        self.fetching = Arc::new(hook);
        self
    }

    /// Learns when a reader is asked to pause.
    pub(crate) fn pausing(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.pausing = Arc::new(hook);
        self
    }
}

impl fmt::Debug for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Altered").field(&self.inner).finish()
    }
}

#[async_trait]
impl StreamSource for Altered {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.inner.identity().await
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        let mut shown = self.inner.shards(filter, page).await?;
        (self.listing)(filter, &mut shown);
        Ok(shown)
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        (self.opening)(&start)?;
        Ok(Box::new(AlteredRecords {
            inner: self.inner.open(shard, start).await?,
            fetching: Arc::clone(&self.fetching),
            pausing: Arc::clone(&self.pausing),
        }))
    }
}

struct AlteredRecords {
    inner: Box<dyn RecordStream>,
    fetching: Fetching,
    pausing: Hook,
}

impl fmt::Debug for AlteredRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AlteredRecords").field(&self.inner).finish()
    }
}

#[async_trait]
impl RecordStream for AlteredRecords {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        let mut fetch = self.inner.next(limit).await?;
        (self.fetching)(&mut fetch);
        Ok(fetch)
    }

    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        let mut fetch = self.inner.next_announced(limit, arrival).await?;
        (self.fetching)(&mut fetch);
        Ok(fetch)
    }

    fn pause(&mut self) {
        (self.pausing)();
        self.inner.pause();
    }
}

//! Lists the shards of a stream page by page: the only caller of [`StreamSource::shards`] in a worker.

use std::time::Duration;

use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{Clock, ClockExt as _, Moment};
use crate::runtime::rng::Rng;
use crate::source::shard_graph::ShardGraph;
use crate::source::{PageToken, ShardFilter, ShardPage, SourceError, SourceErrorKind, StreamSource};

/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all pages may take for a reader, which has no deadline of its own.
const LISTING_TIMEOUT: Duration = Duration::from_secs(300);
/// How often one page is asked for. ListShards allows 100 calls a second for the account and answers the rest with a throttle.
const PAGE_ATTEMPTS: u32 = 8;
/// The pauses before a page is asked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A page holds up to 1,000 shards. A source that goes on beyond these many pages, or shards, never ends.
const MAX_PAGES: u32 = 1_000;
const MAX_SHARDS: usize = 1_000_000;

/// A listing that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagerError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("no answer in time")]
    Deadline,
}

impl From<PagerError> for SourceError {
    fn from(error: PagerError) -> Self {
        match error {
            PagerError::Source(error) => error,
            PagerError::Deadline => Self::new(SourceErrorKind::Unavailable, "no answer in time"),
        }
    }
}

/// Asks one stream for its shards, in a bounded number of pages, shards and tries, until a deadline.
pub(crate) struct ShardPager<'a> {
    source: &'a dyn StreamSource,
    clock: &'a dyn Clock,
    deadline: Moment,
    /// Jitters the pauses between two tries of one page. Without it each page is asked for once.
    rng: Option<&'a mut Rng>,
}

impl<'a> ShardPager<'a> {
    /// Returns a pager that asks for each page once, for a caller that repeats the whole listing.
    pub(crate) fn once(source: &'a dyn StreamSource, clock: &'a dyn Clock) -> Self {
        Self {
            source,
            clock,
            deadline: clock.now() + LISTING_TIMEOUT,
            rng: None,
        }
    }

    /// Returns a pager that asks for a page again, after a pause, while the service is busy or silent.
    pub(crate) fn retrying(
        source: &'a dyn StreamSource,
        clock: &'a dyn Clock,
        deadline: Moment,
        rng: &'a mut Rng,
    ) -> Self {
        Self {
            source,
            clock,
            deadline,
            rng: Some(rng),
        }
    }

    /// Lists the shards that pass the filter. Returns them with the number of their pages.
    pub(crate) async fn all(&mut self, filter: ShardFilter) -> Result<(ShardGraph, u32), PagerError> {
        let (mut shards, mut token) = (Vec::new(), None);
        for pages in 1..=MAX_PAGES {
            let page = self.page(filter, token).await?;
            shards.extend(page.shards);
            token = page.next;
            if token.is_none() {
                return Ok((ShardGraph::new(shards), pages));
            }
            if shards.len() > MAX_SHARDS {
                break;
            }
        }
        let message =
            format!("the listing of the shards has more than {MAX_PAGES} pages or {MAX_SHARDS} shards");
        Err(SourceError::new(SourceErrorKind::Invalid, message).into())
    }

    /// Lists one page of the shards that pass the filter.
    pub(crate) async fn page(
        &mut self,
        filter: ShardFilter,
        token: Option<PageToken>,
    ) -> Result<ShardPage, PagerError> {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for attempt in 1..=PAGE_ATTEMPTS {
            let left = self.deadline.saturating_since(self.clock.now());
            if left.is_zero() {
                break;
            }
            let call = self.source.shards(filter, token.clone());
            let answer = self.clock.timeout(left.min(PAGE_TIMEOUT), call).await;
            let error = match answer {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(error)) if !may_pass(error.kind()) => return Err(error.into()),
                Ok(Err(error)) => PagerError::Source(error),
                Err(_) => PagerError::Deadline,
            };
            let Some(rng) = self.rng.as_deref_mut().filter(|_| attempt < PAGE_ATTEMPTS) else {
                return Err(error);
            };
            let until = self.clock.now() + pauses.failed_jittered(rng);
            self.clock.sleep_until(until.min(self.deadline)).await;
        }
        Err(PagerError::Deadline)
    }
}

fn may_pass(kind: SourceErrorKind) -> bool {
    match kind {
        SourceErrorKind::Throttled | SourceErrorKind::Unavailable => true,
        SourceErrorKind::Denied | SourceErrorKind::NotFound | SourceErrorKind::Invalid => false,
    }
}

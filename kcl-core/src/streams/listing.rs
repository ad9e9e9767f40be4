//! One listing of a stream's shards, shared by all who read the stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::runtime::clock::{Clock, Moment};
use crate::runtime::lock::Locked;
use crate::source::shard_graph::ShardGraph;
use crate::source::{ShardFilter, StreamSource};
use crate::streams::pager::{PagerError, ShardPager};

/// How old a listing may be for a reader to whom the source claims the end of its shard. No reader lists more often than this.
const FOR_CLAIMS: Duration = Duration::from_secs(1);
/// How old a listing of one page may be for an idle reader. Each further page adds as much, so that a worker asks for a page at most
/// once in this time, however many shards and readers there are.
const FOR_IDLE: Duration = Duration::from_secs(10);

/// The shards, or why they could not be listed.
pub(crate) type Listing = Result<Arc<ShardGraph>, ListingError>;

/// A listing failed. All who share it are given the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the shards cannot be listed: {message}")]
pub(crate) struct ListingError {
    message: String,
}

impl From<PagerError> for ListingError {
    fn from(error: PagerError) -> Self {
        Self {
            message: error.to_string(),
        }
    }
}

/// The newest listing of one stream. Of those who need a newer one, one asks, and the others wait for it.
#[derive(Debug, Default)]
pub(crate) struct SharedListing {
    newest: Locked<NewestListing>,
}

#[derive(Debug, Clone, Default)]
struct NewestListing {
    begun: Option<Moment>,
    /// Of the last listing that succeeded.
    pages: u32,
    /// How many have failed in a row.
    failures: u32,
    listing: Arc<OnceCell<Listing>>,
}

impl SharedListing {
    /// A listing that is at most a second old.
    pub(crate) async fn recent(&self, source: &dyn StreamSource, clock: &dyn Clock) -> Listing {
        let (cell, _) = self.at_most(|_, _| FOR_CLAIMS, clock.now());
        cell.get_or_init(|| self.list(source, clock)).await.clone()
    }

    /// The listing at hand, for an idle reader. Lists only if that is due and no other reader does it; returns `None` while another does.
    pub(crate) async fn if_due(&self, source: &dyn StreamSource, clock: &dyn Clock) -> Option<Listing> {
        let (cell, is_due) = self.at_most(age_for_idle, clock.now());
        if is_due {
            return Some(cell.get_or_init(|| self.list(source, clock)).await.clone());
        }
        cell.get().cloned()
    }

    /// The place of a listing that was started at most so long ago, and whether the caller is the first to have it.
    fn at_most(&self, age: impl Fn(u32, u32) -> Duration, now: Moment) -> (Arc<OnceCell<Listing>>, bool) {
        let mut newest = self.newest.lock();
        let age = age(newest.pages, newest.failures);
        let is_due = newest
            .begun
            .is_none_or(|begun| now.saturating_since(begun) >= age);
        if is_due {
            newest.begun = Some(now);
            newest.listing = Arc::default();
        }
        (Arc::clone(&newest.listing), is_due)
    }

    async fn list(&self, source: &dyn StreamSource, clock: &dyn Clock) -> Listing {
        let listed = ShardPager::once(source, clock).all(ShardFilter::All).await;
        let mut newest = self.newest.lock();
        match &listed {
            Ok((_, pages)) => (newest.pages, newest.failures) = (*pages, 0),
            Err(_) => newest.failures = newest.failures.saturating_add(1),
        }
        Ok(Arc::new(listed?.0))
    }
}

/// How old the listing may be for an idle reader: older, the larger it is, and the more often none could be had.
fn age_for_idle(pages: u32, failures: u32) -> Duration {
    FOR_IDLE * pages.max(1) * 2_u32.pow(failures.min(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_readers_list_one_page_per_ten_seconds() {
        let seconds = |pages, failures| age_for_idle(pages, failures).as_secs();
        assert_eq!((seconds(0, 0), seconds(1, 0), seconds(10, 0)), (10, 10, 100));
        assert_eq!((seconds(1, 1), seconds(1, 5), seconds(1, 50)), (20, 320, 320));
    }
}

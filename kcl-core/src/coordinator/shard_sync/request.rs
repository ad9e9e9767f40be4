//! A sync as it is asked for: its tools, the request, and how it fails.

use std::collections::BTreeSet;

use crate::lease::client::StoreClient;
use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::row::Lease;
use crate::lease::store::StoreError;
use crate::runtime::clock::{Clock, Moment};
use crate::runtime::rng::Rng;
use crate::source::{SourceError, StreamSource};
use crate::streams::pager::{PagerError, ShardPager};
use crate::types::{InitialPosition, ShardId, StreamIdentity};

/// The tools of a sync.
pub(crate) struct SyncTools<'a> {
    pub(crate) source: &'a dyn StreamSource,
    pub(crate) store_client: &'a StoreClient,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) rng: &'a mut Rng,
}

impl SyncTools<'_> {
    /// Returns a pager that lists until the deadline of the sync.
    pub(crate) fn pager(&mut self, request: &SyncRequest<'_>) -> ShardPager<'_> {
        ShardPager::retrying(self.source, self.clock, request.deadline, self.rng)
    }
}

/// The request for a sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncRequest<'a> {
    /// The leases of this stream, from a scan that was complete before the call. Without any row this is the first sync.
    pub(crate) leases: &'a [Lease],
    /// The shards of this stream whose rows that scan could not read. The content of these rows is unknown, so each counts as a lease.
    pub(crate) unreadable: &'a BTreeSet<ShardId>,
    pub(crate) initial: InitialPosition,
    pub(crate) keying: &'a LeaseKeyScheme,
    pub(crate) identity: &'a StreamIdentity,
    /// After this moment nothing is created any more: by then another leader may have finished what this sync planned,
    /// and cleaned up after it. At most the time until which the caller is sure to lead.
    pub(crate) deadline: Moment,
}

/// A sync did not come to its end. Leases that it created stay; the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("cannot list the shards")]
    Source(#[from] SourceError),
    #[error("cannot read or write a lease")]
    Store(#[from] StoreError),
    #[error("the shards were not synced in time")]
    Deadline,
}

impl From<PagerError> for SyncError {
    fn from(error: PagerError) -> Self {
        match error {
            PagerError::Source(error) => Self::Source(error),
            PagerError::Deadline => Self::Deadline,
        }
    }
}

use std::time::Duration;

use crate::lease::row::Lease;
use crate::source::ShardFilter;
use crate::types::{InitialPosition, Position, Timestamp};

/// Where reading starts in a shard that nothing is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartPolicy {
    initial: InitialPosition,
    pinned: Option<Timestamp>,
    first_sync: bool,
}

/// How far before the service's own time LATEST is pinned: its clock and its view of the shards may lag by this much.
pub(crate) const PIN_MARGIN: Duration = Duration::from_secs(1);

impl StartPolicy {
    /// Settles the start once for the stream.
    ///
    /// Without a lease of the stream the time is pinned here: for LATEST the service's time less one second.
    /// With leases the earliest time that one of them carries is the start, whatever is configured now.
    /// Leases without a pinned time, as Java writes them, say nothing: then LATEST becomes TRIM_HORIZON,
    /// because a new LATEST would skip what was put since the first start.
    pub(crate) fn resolve<'a>(
        initial: InitialPosition,
        leases: impl IntoIterator<Item = &'a Lease>,
        service_time: Timestamp,
    ) -> Self {
        let mut first_sync = true;
        let mut pinned: Option<Timestamp> = None;
        for lease in leases {
            first_sync = false;
            pinned = match (pinned, lease.pinned_start) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let (initial, pinned) = match (initial, pinned) {
            (InitialPosition::TrimHorizon, Some(at)) => (InitialPosition::AtTimestamp(at), Some(at)),
            (initial, Some(at)) => (initial, Some(at)),
            (InitialPosition::TrimHorizon, None) => (initial, None),
            (InitialPosition::AtTimestamp(at), None) => (initial, Some(at)),
            (InitialPosition::Latest, None) if first_sync => (initial, Some(service_time.minus(PIN_MARGIN))),
            (InitialPosition::Latest, None) => (InitialPosition::TrimHorizon, None),
        };
        Self {
            initial,
            pinned,
            first_sync,
        }
    }

    /// The checkpoint of a lease that starts here: Java's sentinel.
    pub(crate) fn checkpoint(&self) -> Position {
        match self.initial {
            InitialPosition::TrimHorizon => Position::TrimHorizon,
            InitialPosition::Latest => Position::Latest,
            InitialPosition::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// The time that such a lease carries, if it starts at one.
    pub(crate) fn pinned(&self) -> Option<Timestamp> {
        self.pinned
    }

    /// Whether no lease of the stream existed.
    pub(crate) fn is_first_sync(&self) -> bool {
        self.first_sync
    }

    /// Which shards to list: all that were open at the start, and all that came after them.
    ///
    /// A start in the future is listed as of the service's present.
    pub(crate) fn filter(&self, service_time: Timestamp) -> ShardFilter {
        match self.pinned {
            None => ShardFilter::All,
            Some(at) => ShardFilter::FromTimestamp(at.min(service_time)),
        }
    }
}

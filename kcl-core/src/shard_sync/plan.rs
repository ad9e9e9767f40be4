//! Decides which leases are missing, and where reading starts in each.
//!
//! **Which shards get a lease.** One generation per line of descent: the oldest shards that still need reading. Their
//! children get theirs when the worker that ends a parent creates them; a sync creates a child only when a parent is done
//! and that did not happen, and only when every other listed parent has its lease.
//! A listed shard without a lease is one of these:
//!
//! - *Done*: a shard that came from it, over any number of generations, has a lease. Children get leases only after a parent
//!   was read to its end and while every other listed parent has a lease, and a finished lease is deleted only once all
//!   children have theirs. So somebody has read this shard and its lease was cleaned up, or it ended before the
//!   application's start. Creating its lease again would read it again: it is left alone for as long as it is listed.
//! - *Waiting*: a listed parent has no lease and is not done, or all of them have leases and none has ended. The end of a
//!   parent will create its lease.
//! - *Missing*: a parent is done, or none is listed. It is created: at the application's start if nothing it came from was ever
//!   leased, at TRIM_HORIZON otherwise, since a child is read from its beginning.
//!
//! The alternative, leases for all listed generations at once, waiting for their parents at run time, is not taken:
//! then a descendant's lease would not prove that its ancestors were read, and a lost parent's lease would be a silent gap.
//! The Java KCL also creates one generation per line. It differs in what it takes for granted where nothing is known: it starts new
//! leases of a table at a *new* LATEST, and asks only open shards, so that a shard that opened and closed between two syncs is skipped.
//!
//! **What the plan rests on.** The leases are read before the shards are listed: then every leased shard is old enough to be
//! listed, with its links. A lease whose shard is not listed still vouches for the parents that its row names.
//! The shards are listed with [`Start::filter`]: a shard that ended before the start must not be in the listing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lease::Lease;
use crate::model::{HashKeyRange, InvalidName, LeaseKey, Position, ShardId, StreamIdentity, StreamKey};
use crate::mutant::{self, Mutant};
use crate::shard_sync::{Cover, ShardGraph, cover};
use crate::source::{Shard, ShardFilter};
use crate::time::Timestamp;

/// Where an application begins in a stream that it has never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialPosition {
    /// With the oldest records kept.
    TrimHorizon,
    /// With the records put from the first start on.
    Latest,
    /// With the records that arrived at or after this time.
    AtTimestamp(Timestamp),
}

impl fmt::Display for InitialPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("TRIM_HORIZON"),
            Self::Latest => f.write_str("LATEST"),
            Self::AtTimestamp(time) => write!(f, "AT_TIMESTAMP {time}"),
        }
    }
}

/// How the leases of a stream are keyed: part of the identity of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keying {
    /// The application reads one stream: the key is the shard id.
    SingleStream,
    /// The application reads many streams, and this is one of them: the key is `stream:shard`.
    MultiStream(StreamKey),
}

impl Keying {
    /// The key of this shard's lease.
    ///
    /// # Errors
    ///
    /// When stream and shard together are too long for a key.
    pub fn key(&self, shard: &ShardId) -> Result<LeaseKey, InvalidName> {
        match self {
            Self::SingleStream => Ok(LeaseKey::single_stream(shard)),
            Self::MultiStream(stream) => LeaseKey::new(format!("{stream}:{shard}")),
        }
    }

    /// How the row of a lease names the stream.
    pub fn stream(&self) -> Option<&StreamKey> {
        match self {
            Self::SingleStream => None,
            Self::MultiStream(stream) => Some(stream),
        }
    }

    /// The shard whose lease has this key, if the key can be one of this stream.
    pub(crate) fn shard(&self, key: &str) -> Option<ShardId> {
        let shard = match self {
            Self::SingleStream => Some(key),
            Self::MultiStream(stream) => key
                .strip_prefix(stream.as_str())
                .and_then(|rest| rest.strip_prefix(':')),
        };
        shard.and_then(|shard| ShardId::new(shard).ok())
    }

    /// Whether the lease is one of this stream.
    pub fn owns(&self, lease: &Lease) -> bool {
        lease.stream.as_ref() == self.stream()
    }
}

/// Where reading starts in a shard that nothing is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    initial: InitialPosition,
    pinned: Option<Timestamp>,
    first_sync: bool,
}

/// How far before the service's own time LATEST is pinned: its clock and its view of the shards may lag by this much.
pub(crate) const PIN_MARGIN: Duration = Duration::from_secs(1);

impl Start {
    /// Settles the start once for the stream.
    ///
    /// Without a lease of the stream the time is pinned here: for LATEST the service's time less one second.
    /// With leases the earliest time that one of them carries is the start, whatever is configured now.
    /// Leases without a pinned time, as Java writes them, say nothing: then LATEST becomes TRIM_HORIZON,
    /// because a new LATEST would skip what was put since the first start.
    pub fn settle<'a>(
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
    pub fn checkpoint(&self) -> Position {
        match self.initial {
            InitialPosition::TrimHorizon => Position::TrimHorizon,
            InitialPosition::Latest => Position::Latest,
            InitialPosition::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// The time that such a lease carries, if it starts at one.
    pub fn pinned(&self) -> Option<Timestamp> {
        self.pinned
    }

    /// Whether no lease of the stream existed.
    pub fn is_first_sync(&self) -> bool {
        self.first_sync
    }

    /// Which shards to list: all that were open at the start, and all that came after them.
    ///
    /// A start in the future is listed as of the service's present.
    pub fn filter(&self, service_time: Timestamp) -> ShardFilter {
        match self.pinned {
            None => ShardFilter::All,
            Some(at) => ShardFilter::FromTimestamp(at.min(service_time)),
        }
    }
}

/// What a sync should do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SyncPlan {
    /// The leases to create, in lineage order: a lease only after those of the shard's parents that are created too.
    pub creates: Vec<Creation>,
    /// What does not fit together, for the log.
    pub anomalies: Vec<Anomaly>,
}

/// A lease to create, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// The row to create.
    pub lease: Lease,
    /// Why it is missing.
    pub reason: CreateReason,
}

/// Why a lease is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CreateReason {
    /// The stream has no lease at all.
    FirstSync,
    /// Nothing that the shard came from has or had a lease: it starts where the application started.
    NeverLeased,
    /// A shard that it came from was leased, and is done or no longer listed: it starts with its first record.
    ChildWithoutLease,
}

/// Something in the listing or the table that does not fit together. Nothing is skipped because of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A shard names a parent that came from it, or itself; the link is ignored.
    IgnoredParentLink {
        /// The shard.
        child: ShardId,
        /// The parent that it names.
        parent: ShardId,
    },
    /// A shard is listed as open, and so is a shard that it became. The pages of the listing are of different times.
    OpenParent {
        /// The child.
        child: ShardId,
        /// The parent that should be closed.
        parent: ShardId,
    },
    /// A lease is not ended and its shard is not listed: retention took its records before they were read.
    ShardGone {
        /// The key of the lease.
        key: LeaseKey,
    },
    /// The shard has a row that cannot be read. It counts as a lease, so that the shard is not read again, and nobody can take it:
    /// repair or delete the row.
    UnreadableLease {
        /// The key of the row.
        key: LeaseKey,
    },
    /// No key can be made for the shard, so that it gets no lease.
    NoKey {
        /// The shard.
        shard: ShardId,
    },
}

/// What is known of a listed shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has a lease that is not ended.
    Live,
    /// Its lease is ended, or was and is cleaned up.
    Done,
    /// It has no lease and waits for its parents or is to be created.
    Unleased,
}

/// Decides which leases of the stream to create.
///
/// `leases` are those of this stream, read before the shards were listed. Planning again after the creations gives no creation.
pub fn plan_sync(
    graph: &ShardGraph,
    leases: &[Lease],
    start: &Start,
    keying: &Keying,
    identity: &StreamIdentity,
) -> SyncPlan {
    let by_shard: BTreeMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let mut states = judge(graph, &by_shard);
    let mut plan = SyncPlan {
        creates: Vec::new(),
        anomalies: anomalies(graph, leases),
    };
    for shard in graph.in_lineage_order() {
        if states.get(&shard.id) != Some(&State::Unleased) {
            continue;
        }
        let parents: Vec<State> = graph
            .parents(&shard.id)
            .filter_map(|parent| states.get(&parent.id).copied())
            .collect();
        let waits = parents.contains(&State::Unleased)
            || (!parents.is_empty() && parents.iter().all(|state| *state == State::Live));
        if waits {
            continue;
        }
        let has_leased_parent = !parents.is_empty()
            || shard.parents.iter().any(|parent| {
                *parent != shard.id && !graph.contains(parent) && by_shard.contains_key(parent)
            });
        if has_leased_parent && mutant::active(Mutant::ForgottenChild) {
            continue;
        }
        let reason = match (start.is_first_sync(), has_leased_parent) {
            (true, _) => CreateReason::FirstSync,
            (false, true) => CreateReason::ChildWithoutLease,
            (false, false) => CreateReason::NeverLeased,
        };
        match new_lease(shard, reason, start, keying, identity) {
            Ok(lease) => {
                // From here on it counts as leased, for a child whose other parent is done.
                states.insert(&shard.id, State::Live);
                plan.creates.push(Creation { lease, reason });
            }
            Err(_) => plan.anomalies.push(Anomaly::NoKey {
                shard: shard.id.clone(),
            }),
        }
    }
    plan
}

fn judge<'a>(graph: &'a ShardGraph, leases: &BTreeMap<&ShardId, &Lease>) -> BTreeMap<&'a ShardId, State> {
    // Where a leased shard is not listed, the row's own links vouch for its parents; where it is, the listing's links do.
    let vouched_by_rows: BTreeSet<&ShardId> = leases
        .values()
        .filter(|lease| !graph.contains(&lease.shard))
        .flat_map(|lease| &lease.parents)
        .collect();
    let mut states: BTreeMap<&ShardId, State> = BTreeMap::new();
    let mut vouched_by_children: BTreeSet<&ShardId> = BTreeSet::new();
    for shard in graph.in_lineage_order().rev() {
        let is_vouched = vouched_by_children.contains(&shard.id) || vouched_by_rows.contains(&shard.id);
        let state = match leases.get(&shard.id) {
            Some(lease) if lease.is_ended() => State::Done,
            Some(_) => State::Live,
            None if is_vouched && !mutant::active(Mutant::FinishedShardLeasedAgain) => State::Done,
            None => State::Unleased,
        };
        if state != State::Unleased {
            vouched_by_children.extend(graph.parents(&shard.id).map(|parent| &parent.id));
        }
        states.insert(&shard.id, state);
    }
    states
}

fn new_lease(
    shard: &Shard,
    reason: CreateReason,
    start: &Start,
    keying: &Keying,
    identity: &StreamIdentity,
) -> Result<Lease, InvalidName> {
    let checkpoint = match reason {
        CreateReason::ChildWithoutLease => Position::TrimHorizon,
        CreateReason::FirstSync | CreateReason::NeverLeased => start.checkpoint(),
    };
    let mut lease = Lease::unowned(shard.id.clone(), checkpoint);
    lease.key = keying.key(&shard.id)?;
    lease.stream = keying.stream().cloned();
    lease.parents.clone_from(&shard.parents);
    lease.hash_range = Some(shard.hash_range);
    // A child is read from its beginning. It carries the pin all the same: when the leases of the first shards are cleaned up,
    // the start of the application must not be forgotten with them.
    lease.pinned_start = start.pinned();
    lease.identity = Some(identity.clone());
    Ok(lease)
}

fn anomalies(graph: &ShardGraph, leases: &[Lease]) -> Vec<Anomaly> {
    let ignored = graph
        .ignored_links()
        .map(|(child, parent)| Anomaly::IgnoredParentLink {
            child: child.clone(),
            parent: parent.clone(),
        });
    let open_parents = graph.in_lineage_order().flat_map(|child| {
        let open = graph.parents(&child.id).filter(|parent| !parent.closed);
        open.map(|parent| Anomaly::OpenParent {
            child: child.id.clone(),
            parent: parent.id.clone(),
        })
    });
    let gone = leases
        .iter()
        .filter(|lease| !lease.is_ended() && !graph.contains(&lease.shard))
        .map(|lease| Anomaly::ShardGone {
            key: lease.key.clone(),
        });
    let mut all: Vec<Anomaly> = ignored.chain(open_parents).chain(gone).collect();
    all.sort();
    all
}

/// How far the leases that are not ended cover the hash keys. A row without hash keys, as Java may write it, gets the listing's.
pub fn lease_cover<'a>(graph: &ShardGraph, leases: impl IntoIterator<Item = &'a Lease>) -> Cover {
    let range_of = |lease: &Lease| -> Option<HashKeyRange> {
        lease
            .hash_range
            .or_else(|| graph.get(&lease.shard).map(|shard| shard.hash_range))
    };
    cover(
        leases
            .into_iter()
            .filter(|lease| !lease.is_ended())
            .filter_map(range_of),
    )
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

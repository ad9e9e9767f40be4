//! The changes a lease row can see, what each is conditioned on, and [`apply`]: what each does.
//!
//! A store executes or expresses exactly this. Every change whose effect depends on the old row is conditioned on the parts
//! it depends on, so that [`apply`] has one result and an update expression needs no branch.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::orders::{LeaseOrders, ResetPosition};
use crate::lease::row::{Lease, OwnerNotes, PendingCheckpoint, RowFacts, Version, WriteStamp};
use crate::runtime::failpoint::failpoint;
use crate::types::{HashKeyRange, Incarnation, Position, ShardId, WorkerId};

/// The condition on the row at the moment of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// There is no row with the key.
    Absent,
    /// The row has this version.
    Version(Version),
    /// The row names exactly these workers, whatever its counter. Only for [`LeaseChange::BeginHandoff`], which must not
    /// be defeated by the renewals of a healthy owner.
    Owners {
        /// The owner named in the row.
        owner: Option<WorkerId>,
        /// The worker handing the lease over.
        checkpoint_owner: Option<WorkerId>,
    },
    /// There is a row. Only for [`LeaseChange::Describe`].
    Present,
    /// The orders in the row have this [revision](Lease::orders_revision), whatever else moves. Only for [`LeaseChange::Order`].
    Orders(u64),
    /// The row has this version, and its orders this revision. Only for [`LeaseChange::Reset`].
    VersionAndOrders(Version, u64),
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseChange {
    /// Creates the row. Expects [`Expect::Absent`].
    Create(Box<Lease>),
    /// The owner's heartbeat, which also fills in what a row written by Java lacks. Expects a version.
    Renew {
        /// The owner's words beside the heartbeat.
        notes: OwnerNotes,
        /// The facts that the row lacks, or has wrong.
        facts: RowFacts,
    },
    /// Names `to` as the owner: of an unowned or expired lease, or instead of an owner that is overruled. Expects a version.
    Assign {
        /// The worker to own the lease.
        to: WorkerId,
    },
    /// Asks the owner to hand the lease over to `to`. Moves no counter. Expects [`Expect::Owners`] with an owner other than
    /// `to` and no handoff under way: Java takes a row whose two owners are one worker for broken.
    BeginHandoff {
        /// The worker to own the lease next.
        to: WorkerId,
    },
    /// The owner hands over: the next owner becomes the only one. Expects a version with a handoff under way.
    CompleteHandoff,
    /// The owner declines: it becomes the only owner again. Expects a version with a handoff under way.
    CancelHandoff,
    /// The owner gives the lease up; during a handoff the next owner stays. Expects a version.
    Release,
    /// The owner stores its progress. Doubles as a renewal. Expects a version.
    Checkpoint {
        /// Everything up to here is processed.
        position: Position,
        /// The records behind it that are finished already, in the place of the row's; `None` removes those.
        finished_ahead: Option<FinishedAhead>,
        /// The owner's words beside the progress.
        notes: OwnerNotes,
    },
    /// The owner prepares a checkpoint: the row keeps it beside the one that it has, until the next checkpoint. Doubles as a renewal. Expects
    /// a version.
    Prepare {
        /// The prepared checkpoint, in the place of the row's; `None` discards the row's.
        pending: Option<PendingCheckpoint>,
    },
    /// The owner finished the shard: stores the end and the children, and gives the lease up. Expects a version.
    End {
        /// The shards that this one became.
        children: BTreeSet<ShardId>,
    },
    /// Fills in facts about the shard. Touches neither owner nor counter nor checkpoint. Expects [`Expect::Present`].
    Describe {
        /// The children to store; `None` leaves the row's.
        children: Option<BTreeSet<ShardId>>,
        /// The hash keys to store; `None` leaves the row's.
        hash_range: Option<HashKeyRange>,
    },
    /// An operator gives orders. Touches neither owner nor counter nor checkpoint. Expects [`Expect::Orders`].
    Order {
        /// The orders to store, of the next revision.
        orders: Box<LeaseOrders>,
    },
    /// An operator makes reading begin elsewhere: moves the checkpoint and the counter, so that the owner is fenced at once, and ends a
    /// handoff. The owner stays named, and the ownership that it begins next starts there. A prepared checkpoint, and records that are finished ahead, are void.
    /// Expects [`Expect::VersionAndOrders`].
    Reset {
        /// Where reading begins.
        to: ResetPosition,
        /// The orders to store, of the next revision.
        orders: Box<LeaseOrders>,
    },
    /// Deletes the row. Expects a version.
    Delete,
}

impl LeaseChange {
    /// A short name for logs and metrics.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Renew { .. } => "renew",
            Self::Assign { .. } => "assign",
            Self::BeginHandoff { .. } => "begin_handoff",
            Self::CompleteHandoff => "complete_handoff",
            Self::CancelHandoff => "cancel_handoff",
            Self::Release => "release",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Prepare { pending: Some(_) } => "prepare_checkpoint",
            Self::Prepare { pending: None } => "discard_prepared",
            Self::End { .. } => "end",
            Self::Describe { .. } => "describe",
            Self::Order { .. } => "order",
            Self::Reset { .. } => "reset",
            Self::Delete => "delete",
        }
    }

    /// Whether the change is a checkpoint, prepared or not, that is not ahead of the row's and brings no other records that are finished ahead,
    /// or discards one that the row does not have.
    pub(crate) fn stores_no_more_than(&self, row: &Lease) -> bool {
        match self {
            Self::Checkpoint {
                position,
                finished_ahead,
                ..
            } => match position.cmp(&row.checkpoint) {
                Ordering::Less => true,
                Ordering::Equal => *finished_ahead == row.finished_ahead,
                Ordering::Greater => false,
            },
            Self::Prepare {
                pending: Some(pending),
            } => pending.position <= row.checkpoint,
            Self::Prepare { pending: None } => row.pending.is_none(),
            Self::Create(_)
            | Self::Renew { .. }
            | Self::Assign { .. }
            | Self::BeginHandoff { .. }
            | Self::CompleteHandoff
            | Self::CancelHandoff
            | Self::Release
            | Self::End { .. }
            | Self::Describe { .. }
            | Self::Order { .. }
            | Self::Reset { .. }
            | Self::Delete => false,
        }
    }

    /// Whether the change moves the counter, and so stamps the row with the writer's incarnation.
    pub fn moves_counter(&self) -> bool {
        match self {
            Self::Renew { .. }
            | Self::Assign { .. }
            | Self::CompleteHandoff
            | Self::CancelHandoff
            | Self::Release
            | Self::Checkpoint { .. }
            | Self::Prepare { .. }
            | Self::Reset { .. }
            | Self::End { .. } => true,
            Self::Create(_)
            | Self::BeginHandoff { .. }
            | Self::Describe { .. }
            | Self::Order { .. }
            | Self::Delete => false,
        }
    }

    /// Whether the change may be made under this expectation.
    ///
    /// A store refuses any other pairing as a mistake of its caller, before it touches the row.
    pub fn fits(&self, expect: &Expect) -> bool {
        match (self, expect) {
            (Self::Create(_), Expect::Absent) | (Self::Describe { .. }, Expect::Present) => true,
            (Self::Order { orders }, Expect::Orders(seen)) => is_next(orders, *seen),
            (Self::Reset { orders, .. }, Expect::VersionAndOrders(_, seen)) => is_next(orders, *seen),
            (
                Self::BeginHandoff { to },
                Expect::Owners {
                    owner,
                    checkpoint_owner,
                },
            ) => owner.as_ref().is_some_and(|owner| owner != to) && checkpoint_owner.is_none(),
            (Self::CompleteHandoff | Self::CancelHandoff, Expect::Version(version)) => {
                version.owner.is_some() && version.checkpoint_owner.is_some()
            }
            (
                Self::Renew { .. }
                | Self::Assign { .. }
                | Self::Release
                | Self::Checkpoint { .. }
                | Self::Prepare { .. }
                | Self::End { .. }
                | Self::Delete,
                Expect::Version(_),
            ) => true,
            (
                _,
                Expect::Absent
                | Expect::Version(_)
                | Expect::Owners { .. }
                | Expect::Present
                | Expect::Orders(_)
                | Expect::VersionAndOrders(..),
            ) => false,
        }
    }
}

/// Whether these orders follow those of this revision.
fn is_next(orders: &LeaseOrders, seen: u64) -> bool {
    seen.checked_add(1) == Some(orders.revision)
}

impl Expect {
    /// Whether the expectation holds of the row as it is now.
    pub fn holds(&self, row: Option<&Lease>) -> bool {
        match (self, row) {
            (Self::Absent, row) => row.is_none(),
            (_, None) => false,
            (Self::Version(version), Some(row)) => *version == row.version(),
            (
                Self::Owners {
                    owner,
                    checkpoint_owner,
                },
                Some(row),
            ) => *owner == row.owner && *checkpoint_owner == row.checkpoint_owner,
            (Self::Present, Some(_)) => true,
            (Self::Orders(seen), Some(row)) => *seen == row.orders_revision(),
            (Self::VersionAndOrders(version, seen), Some(row)) => {
                *version == row.version() && *seen == row.orders_revision()
            }
        }
    }
}

/// The row after the change, written by this incarnation. Deleting gives the row as it was.
///
/// This is the specification of the lease table. The memory store executes it, every other store is compared with it.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::lease_store::{Lease, LeaseChange, apply};
/// use kinesis_client::types::{Incarnation, Position, ShardId, WorkerId};
///
/// let incarnation = Incarnation::from_random_bytes([1; 16]);
/// let lease = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::TrimHorizon);
/// let to = WorkerId::new("worker-1")?;
/// let owned = apply(&lease, &LeaseChange::Assign { to: to.clone() }, incarnation);
/// assert_eq!((owned.owner, owned.counter), (Some(to), 1));
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[must_use]
pub fn apply(row: &Lease, change: &LeaseChange, incarnation: Incarnation) -> Lease {
    let mut new = row.clone();
    match change {
        LeaseChange::Create(lease) => new = (**lease).clone(),
        LeaseChange::Renew { notes, facts } => {
            note(&mut new, notes);
            new.identity = facts.identity.clone().or(new.identity);
            new.failover = facts.failover.or(new.failover);
            new.latest_at = facts.latest_at.or(new.latest_at);
        }
        LeaseChange::Assign { to } => {
            let switches = u64::from(counts_as_switch(&row.version(), to));
            new.owner_switches = new.owner_switches.saturating_add(switches);
            new.owner = Some(to.clone());
            new.checkpoint_owner = None;
            new.failover = None;
        }
        LeaseChange::BeginHandoff { to } => {
            new.checkpoint_owner = new.owner.replace(to.clone());
            new.handoff_stamp = Some(incarnation);
        }
        LeaseChange::CompleteHandoff => {
            new.checkpoint_owner = None;
            new.failover = None;
        }
        LeaseChange::CancelHandoff => new.owner = new.checkpoint_owner.take(),
        LeaseChange::Release => {
            if new.checkpoint_owner.take().is_none() {
                new.owner = None;
            }
            new.failover = None;
        }
        LeaseChange::Checkpoint {
            position,
            finished_ahead,
            notes,
        } => {
            new.checkpoint = position.clone();
            new.finished_ahead.clone_from(finished_ahead);
            note(&mut new, notes);
            new.owner_switches = 0;
            new.pending = None;
        }
        LeaseChange::Prepare { pending } => new.pending.clone_from(pending),
        LeaseChange::End { children } => {
            new.checkpoint = Position::ShardEnd;
            new.finished_ahead = None;
            new.owner_switches = 0;
            new.pending = None;
            new.children.clone_from(children);
            new.owner = None;
            new.checkpoint_owner = None;
            new.failover = None;
        }
        LeaseChange::Describe { children, hash_range } => {
            if let Some(children) = children {
                new.children.clone_from(children);
            }
            new.hash_range = hash_range.or(new.hash_range);
        }
        LeaseChange::Order { orders } => new.orders = Some(orders.clone()),
        LeaseChange::Reset { to, orders } => {
            (new.checkpoint, new.reset_at) = to.checkpoint();
            new.finished_ahead = None;
            new.owner_switches = 0;
            new.pending = None;
            new.owner = new.checkpoint_owner.take().or(new.owner);
            new.owner = new.owner.filter(|_| *to != ResetPosition::ShardEnd);
            new.failover = None;
            new.orders = Some(orders.clone());
        }
        LeaseChange::Delete => {}
    }
    let is_uncounted = matches!(change, LeaseChange::Renew { .. }) && failpoint!(RenewalWithoutCount)
        || matches!(change, LeaseChange::Reset { .. }) && failpoint!(ResetWithoutFence);
    if change.moves_counter() && !is_uncounted {
        // A store refuses to count beyond `Lease::LARGEST_COUNTER`.
        new.counter = new.counter.saturating_add(1);
        new.stamp = Some(WriteStamp {
            incarnation,
            counter: new.counter,
        });
    }
    if new.checkpoint_owner.is_none() {
        new.handoff_stamp = None;
    }
    new
}

/// Stores what the owner says beside its heartbeat or its progress.
fn note(row: &mut Lease, notes: &OwnerNotes) {
    row.throughput = notes.throughput.or(row.throughput);
    if let Some(report) = &notes.report {
        row.report = Some(report.clone());
    }
    if let Some(answer) = &notes.answer {
        row.answer = Some(answer.clone());
    }
}

/// Whether naming `to` counts as a change of owner, by the rule of the Java KCL.
pub fn counts_as_switch(old: &Version, to: &WorkerId) -> bool {
    let owner_changes = old.owner.as_ref().is_some_and(|owner| owner != to);
    owner_changes || old.checkpoint_owner.as_ref() == Some(to)
}

#[cfg(test)]
mod tests;

//! The verdict of a strong read on a write whose outcome is not known.

use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::row::Lease;
use crate::types::{Incarnation, WorkerId};

/// The fate of a write whose reply was lost, as far as the row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The row shows the write's own effect.
    Applied,
    /// The expectation still holds: the write has not happened, and may happen yet. Repeating it under the same expectation is safe.
    NotYet,
    /// An earlier write of ours, believed lost, landed late: the row is ours and one step ahead. Adopt it and write again.
    OwnEarlierWrite,
    /// Another process was first.
    Refused,
}

/// Judges a write by the row that a strong read shows.
///
/// `before` is the row on which the writer based its expectation; `None` when it expected no row.
/// Only the writer's own incarnation together with the counter it wrote counts as its own write:
/// our worker id with another incarnation is somebody else.
pub fn resolve(
    row: Option<&Lease>,
    before: Option<&Lease>,
    expect: &Expect,
    change: &LeaseChange,
    incarnation: Incarnation,
) -> Resolution {
    let Some(row) = row else {
        return match (change, expect) {
            // Nobody else deletes a row that we meant to delete and then loses to us: gone is what we wanted.
            (LeaseChange::Delete, _) => Resolution::Applied,
            (LeaseChange::Create(_), Expect::Absent) => Resolution::NotYet,
            _ => Resolution::Refused,
        };
    };
    if shows(row, before, change, incarnation) {
        return Resolution::Applied;
    }
    if expect.holds(Some(row)) {
        return Resolution::NotYet;
    }
    match before {
        Some(before) if is_one_own_step_ahead(row, before, incarnation) => Resolution::OwnEarlierWrite,
        _ => Resolution::Refused,
    }
}

/// The meaning of a refusal for the owner whose write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The lease is still its own: only a handoff was started, or an earlier write of its own landed late.
    /// Adopt the row and make the change again.
    Adopt,
    /// An earlier write of its own, whose reply it did not wait for, gave the lease up.
    GaveUp,
    /// Another worker has the lease.
    Lost,
}

/// Judges the refusal of an owner's write by the row that the store shows.
///
/// `before` is the row on which the owner based its expectation, `me` the owner. `giving_up` is `true` if the owner has sent
/// a write that gives the lease up: without one, a row that is one step ahead and not its own was taken away.
pub fn judge_refusal(
    row: &Lease,
    before: &Lease,
    expect: &Expect,
    change: &LeaseChange,
    me: &WorkerId,
    incarnation: Incarnation,
    giving_up: bool,
) -> Refusal {
    let handoff_begun = row.counter == before.counter
        && row.stamp == before.stamp
        && !before.is_in_handoff()
        && row.checkpoint_owner.as_ref() == Some(me);
    let own_earlier =
        || resolve(Some(row), Some(before), expect, change, incarnation) == Resolution::OwnEarlierWrite;
    if row.actual_owner() == Some(me) && (handoff_begun || own_earlier()) {
        return Refusal::Adopt;
    }
    // The leader may be this very process: what it took away, or ended, was not given up.
    let next = before.owner.as_ref().filter(|_| before.is_in_handoff());
    if giving_up
        && is_next_step_of(row, before, incarnation)
        && !row.is_in_handoff()
        && row.owner.as_ref() == next
    {
        return Refusal::GaveUp;
    }
    Refusal::Lost
}

/// Whether the row shows the effect of this very change by this incarnation.
///
/// A handoff that a planner began on top does not hide it.
fn shows(row: &Lease, before: Option<&Lease>, change: &LeaseChange, incarnation: Incarnation) -> bool {
    match change {
        // A fresh row that nobody has touched yet counts as ours, whoever wrote it: creating it again would write the same.
        LeaseChange::Create(lease) => row == &**lease,
        LeaseChange::Delete => false,
        LeaseChange::Describe { children, hash_range } => {
            children.as_ref().is_none_or(|children| *children == row.children)
                && hash_range.is_none_or(|range| row.hash_range == Some(range))
        }
        LeaseChange::Order { orders } => row.orders.as_ref() == Some(orders),
        LeaseChange::BeginHandoff { .. } => before.is_some_and(|before| {
            let after = apply(before, change, incarnation);
            row.handoff_stamp == Some(incarnation)
                && row.owner == after.owner
                && row.checkpoint_owner == after.checkpoint_owner
        }),
        LeaseChange::Renew { .. }
        | LeaseChange::Assign { .. }
        | LeaseChange::CompleteHandoff
        | LeaseChange::CancelHandoff
        | LeaseChange::Release
        | LeaseChange::Checkpoint { .. }
        | LeaseChange::Prepare { .. }
        | LeaseChange::Reset { .. }
        | LeaseChange::End { .. } => before.is_some_and(|before| {
            let after = apply(before, change, incarnation);
            let owners_match = (&row.owner, &row.checkpoint_owner) == (&after.owner, &after.checkpoint_owner)
                || is_handoff_on_top(row, before, &after);
            row.stamp == after.stamp
                && row.counter == after.counter
                && (&row.checkpoint, &row.pending) == (&after.checkpoint, &after.pending)
                && row.finished_ahead == after.finished_ahead
                && owners_match
        }),
    }
}

/// Whether the row is as after the change, but for a handoff started since.
///
/// A handoff that was under way before the change was not started since: an earlier renewal that landed late would show it too.
fn is_handoff_on_top(row: &Lease, before: &Lease, after: &Lease) -> bool {
    let same_as_before =
        before.is_in_handoff() && (&row.owner, row.handoff_stamp) == (&before.owner, before.handoff_stamp);
    row.is_in_handoff() && !after.is_in_handoff() && row.checkpoint_owner == after.owner && !same_as_before
}

fn is_one_own_step_ahead(row: &Lease, before: &Lease, incarnation: Incarnation) -> bool {
    is_next_step_of(row, before, incarnation) && row.actual_owner() == before.actual_owner()
}

/// Whether the counter was moved once since `before`, by this incarnation.
fn is_next_step_of(row: &Lease, before: &Lease, incarnation: Incarnation) -> bool {
    before.counter.checked_add(1) == Some(row.counter)
        && row
            .stamp
            .is_some_and(|stamp| stamp.incarnation == incarnation && stamp.counter == row.counter)
}

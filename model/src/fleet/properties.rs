//! Properties that must hold in every state of the fleet, and states that must be reachable.

use kcl_core::internals::lease_cover;
use kcl_core::lease_store::Lease;
use kcl_testkit::invariant::Invariant;
use stateright::Property;

use super::model::{Config, Fleet};
use super::state::{Life, Seen, State};
use crate::fixtures::Lineage;

/// One property for each invariant of the core: broken in a state in which the core's own checker has said so.
macro_rules! invariants {
    ($($invariant:ident),*) => {
        vec![$(Property::always(Invariant::$invariant.statement(), |_: &Fleet, state: &State| {
            state.violation.as_ref().is_none_or(|violation| violation.invariant != Invariant::$invariant)
        })),*]
    };
}

macro_rules! reachable {
    ($name:literal, $seen:ident) => {
        Property::sometimes($name, |_: &Fleet, state: &State| {
            state.seen & Seen::$seen as u16 != 0
        })
    };
}

/// The ticks that it takes at least until a lease expires, its next owner has started, and the former one wakes up.
const EXPIRY_SEEN: u8 = 4;

pub(super) fn of(config: &Config) -> Vec<Property<Fleet>> {
    let mut properties = invariants![
        CheckpointNotAhead,
        CheckpointRises,
        SingleWriter,
        TokenRises,
        NoStartAfterDeadline,
        NoOverlap,
        InOrder,
        ParentsFirst
    ];
    properties.extend([
        Property::always(
            "unfinished leases cover every hash key",
            |fleet: &Fleet, state: &State| {
                let leases: Vec<&Lease> = state.rows.iter().flatten().map(|row| &**row).collect();
                lease_cover(&fleet.fixtures.graph, leases).is_whole()
            },
        ),
        Property::always(
            "nothing is delivered twice unless somebody crashed, stood still or was cut off",
            |fleet: &Fleet, state: &State| !state.ghost.again || is_disturbed(fleet, state),
        ),
        Property::always(
            "once faults end, every record is processed and every lease has a live owner",
            is_at_rest,
        ),
        Property::sometimes("every record is processed", |fleet: &Fleet, state: &State| {
            fleet.is_over(state) && state.checker.at_rest().is_ok()
        }),
    ]);
    let faults = &config.faults;
    let crashes_or_pauses = faults.crashes + faults.freezes + faults.cuts > 0;
    let planned = |possible: bool, property: Property<Fleet>| possible.then_some(property);
    properties.extend(
        [
            planned(
                crashes_or_pauses && config.planners > 0,
                reachable!(
                    "a lease is taken over from a worker that crashed, stands still or is cut off",
                    Failover
                ),
            ),
            planned(
                crashes_or_pauses,
                reachable!("a record is delivered again", Again),
            ),
            planned(
                faults.handoffs > 0,
                reachable!("a lease is handed over", HandedOver),
            ),
            planned(
                faults.handoffs > 0,
                reachable!("an owner declines to hand its lease over", Declined),
            ),
            planned(
                faults.handoffs > 0,
                reachable!("an owner meets a handoff in a refusal, and adopts it", Adopted),
            ),
            planned(
                faults.freezes > 0,
                reachable!("a write of a former owner is refused", Fenced),
            ),
            planned(
                faults.freezes > 0 && config.window > EXPIRY_SEEN,
                reachable!("a paused owner overlaps with its successor", Overlap),
            ),
            planned(
                faults.cuts > 0,
                reachable!(
                    "an owner that was suspended goes on under the same token",
                    Resumed
                ),
            ),
            planned(
                faults.lost > 0,
                reachable!("a write whose reply was lost is found made", LostReplyApplied),
            ),
            planned(
                faults.late > 0,
                reachable!("a write is made after its caller gave it up", LandedLate),
            ),
            planned(faults.leaves > 0, reachable!("a lease is released", Released)),
            planned(
                config.cleanup,
                reachable!("a lease that nobody needs is deleted", Deleted),
            ),
            planned(
                config.planners > 1 && config.owner.is_none(),
                reachable!("two workers plan at the same time", TwoPlans),
            ),
            planned(
                has_children(config),
                Property::sometimes(
                    "the last shard of the lineage is processed",
                    |fleet: &Fleet, state: &State| {
                        let last = fleet.fixtures.shards.len() - 1;
                        state.ghost.granted[last].is_some() && state.ghost.finished[last] != 0
                    },
                ),
            ),
        ]
        .into_iter()
        .flatten(),
    );
    properties
}

fn has_children(config: &Config) -> bool {
    !matches!(config.lineage, Lineage::Open(_))
}

/// Whether anything happened after which a record may come again.
fn is_disturbed(fleet: &Fleet, state: &State) -> bool {
    let (all, left) = (&fleet.config.faults, &state.left);
    (left.crashes, left.freezes, left.cuts, left.late) != (all.crashes, all.freezes, all.cuts, all.late)
}

fn is_at_rest(fleet: &Fleet, state: &State) -> bool {
    if !fleet.is_over(state) {
        return true;
    }
    let leaves = fleet
        .fixtures
        .shards
        .iter()
        .enumerate()
        .filter(|(_, role)| role.children.is_empty());
    let mut owners = leaves.map(|(shard, _)| {
        let owner = state.row(shard)?.actual_owner()?;
        let worker = &state.workers[fleet.fixtures.worker(owner)];
        (worker.life == Life::Up)
            .then(|| worker.slots[shard].own.as_ref())
            .flatten()
    });
    state.checker.at_rest().is_ok() && owners.all(|own| own.is_some())
}

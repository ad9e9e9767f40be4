//! Properties of the elections.

use stateright::Property;

use super::config::{ElectionsConfig, bound};
use super::state::ElectionsState;
use super::turns::Elections;

pub(super) fn of(config: &ElectionsConfig) -> Vec<Property<Elections>> {
    let mut properties = vec![
        Property::always(
            "of those who run, one at most believes to lead",
            |model: &Elections, state: &ElectionsState| {
                let running = state.nodes.iter().enumerate().filter(|(_, node)| node.is_up());
                running.filter(|(n, _)| model.leads(state, *n)).count() <= 1
            },
        ),
        Property::always(
            "no lease is without a live owner for longer than the bound, whoever is gone",
            |model: &Elections, state: &ElectionsState| {
                let (all, left) = (&model.config.faults, &state.left);
                let end = state.last_fault + bound(all.crashes + all.freezes - left.crashes - left.freezes);
                state.rows.iter().all(|row| {
                    let owner = row
                        .owner
                        .as_ref()
                        .map(|owner| &state.nodes[model.fixtures.worker(owner)]);
                    let is_gone = owner.is_some_and(|owner| owner.out_since.is_some());
                    !is_gone || state.now <= end
                })
            },
        ),
        Property::always(
            "in the end one leads, and every lease has a live owner",
            |model: &Elections, state: &ElectionsState| {
                let is_owned = |row: &crate::fleet::Row| {
                    row.actual_owner()
                        .is_some_and(|owner| state.nodes[model.fixtures.worker(owner)].is_up())
                };
                let leaders =
                    (0..state.nodes.len()).filter(|n| state.nodes[*n].is_up() && model.leads(state, *n));
                !model.is_over(state) || (leaders.count() == 1 && state.rows.iter().all(is_owned))
            },
        ),
    ];
    if config.faults.crashes + config.faults.freezes > 0 {
        properties.extend([
            Property::sometimes(
                "the deputy gives a lease away while the leader is silent",
                |_: &Elections, state: &ElectionsState| state.seen.stood_in,
            ),
            Property::sometimes(
                "another worker takes the leader's election",
                |_: &Elections, state: &ElectionsState| state.seen.succeeded,
            ),
            Property::sometimes(
                "a lease is given to another worker",
                |_: &Elections, state: &ElectionsState| state.seen.reassigned,
            ),
        ]);
    }
    properties
}

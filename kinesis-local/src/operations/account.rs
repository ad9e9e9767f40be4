//! The account: its limits and settings.

use crate::error::ServiceError;
use crate::shared::{Commitment, Shared};
use crate::value::{Answer, Map};

/// The answer of DescribeLimits about limits that are switched off.
const UNLIMITED: u32 = i32::MAX.unsigned_abs();

pub(super) fn limits(shared: &Shared) -> Answer {
    let streams = shared.streams();
    let open: usize = streams.iter().map(|(_, entry)| entry.open_shards()).sum();
    let on_demand = streams.iter().filter(|(_, entry)| entry.is_on_demand()).count();
    let limits = &shared.options.limits;
    Ok(Map::new()
        .with("ShardLimit", i64::from(limits.shards.unwrap_or(UNLIMITED)))
        .with("OpenShardCount", open)
        .with("OnDemandStreamCount", on_demand)
        .with(
            "OnDemandStreamCountLimit",
            i64::from(limits.on_demand_streams.unwrap_or(UNLIMITED)),
        ))
}

/// The settings of the account as answers show them. A commitment that ends and whose time has come is over.
pub(super) fn describe(shared: &Shared) -> Answer {
    let now = shared.clock.wall();
    let mut commitment = shared.commitment();
    if commitment.is_some_and(|commitment| commitment.ends && now >= commitment.earliest_end()) {
        *commitment = None;
    }
    Ok(show(*commitment))
}

fn show(commitment: Option<Commitment>) -> Map {
    let status = match commitment {
        None => "DISABLED",
        Some(Commitment { ends: false, .. }) => "ENABLED",
        Some(Commitment { ends: true, .. }) => "ENABLED_UNTIL_EARLIEST_ALLOWED_END",
    };
    let shown = Map::new()
        .with("Status", status)
        .with_some("StartedAt", commitment.map(|commitment| commitment.started))
        .with_some("EarliestAllowedEndAt", commitment.map(Commitment::earliest_end));
    Map::new().with("MinimumThroughputBillingCommitment", shown)
}

pub(super) fn update(shared: &Shared, request: &Map) -> Answer {
    describe(shared)?;
    let wanted = request
        .map("MinimumThroughputBillingCommitment")?
        .ok_or_else(|| ServiceError::validation("MinimumThroughputBillingCommitment is missing"))?;
    let now = shared.clock.wall();
    let mut commitment = shared.commitment();
    *commitment = match (wanted.needed_text("Status")?, *commitment) {
        ("ENABLED", Some(present)) => Some(Commitment {
            ends: false,
            ..present
        }),
        ("ENABLED", None) => Some(Commitment {
            started: now,
            ends: false,
        }),
        ("DISABLED", Some(present)) if now < present.earliest_end() => Some(Commitment {
            ends: true,
            ..present
        }),
        ("DISABLED", _) => None,
        (other, _) => {
            return Err(ServiceError::validation(format!(
                "{other:?} is not a status of a commitment: ENABLED or DISABLED"
            )));
        }
    };
    Ok(show(*commitment))
}

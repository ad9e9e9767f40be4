//! Encryption and metrics of single shards: switched on and off, described, and without any effect here.

use kcl_core::clock::Moment;

use crate::attributes::{Change, Metrics};
use crate::error::ServiceError;
use crate::shared::Shared;
use crate::streams::Status;
use crate::value::{Answer, Map};

fn key(request: &Map) -> Result<&str, ServiceError> {
    let kind = request.needed_text("EncryptionType")?;
    if kind != "KMS" {
        return Err(ServiceError::invalid(format!(
            "EncryptionType is {kind}; the only valid value is KMS"
        )));
    }
    let key = request.needed_text("KeyId")?;
    if key.is_empty() {
        return Err(ServiceError::validation("KeyId must not be empty"));
    }
    Ok(key)
}

pub(super) fn start_encryption(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let key = key(request)?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let most = shared.options.limits.encryption_changes_per_day;
    entry.attributes.may_change(Change::StartEncryption, most, now)?;
    entry.attributes.note(Change::StartEncryption, now);
    entry.attributes.key = Some(key.to_owned());
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

pub(super) fn stop_encryption(shared: &Shared, request: &Map, now: Moment) -> Answer {
    key(request)?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let most = shared.options.limits.encryption_changes_per_day;
    entry.attributes.may_change(Change::StopEncryption, most, now)?;
    entry.attributes.note(Change::StopEncryption, now);
    entry.attributes.key = None;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

/// Adds metrics, or takes them away, as `change` says from those that are on and those that are named.
fn change_metrics(
    shared: &Shared,
    request: &Map,
    now: Moment,
    change: impl Fn(&Metrics, &Metrics) -> Metrics,
) -> Answer {
    let named = Metrics::of(request)?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let present = entry.attributes.metrics.clone();
    let desired = change(&present, &named);
    entry.attributes.metrics = desired.clone();
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    let identity = entry.identity()?;
    Ok(Map::new()
        .with("StreamName", identity.name)
        .with("StreamARN", identity.arn)
        .with("CurrentShardLevelMetrics", present.list())
        .with("DesiredShardLevelMetrics", desired.list()))
}

pub(super) fn enable_monitoring(shared: &Shared, request: &Map, now: Moment) -> Answer {
    change_metrics(shared, request, now, |present, named| {
        Metrics(present.0.union(&named.0).copied().collect())
    })
}

pub(super) fn disable_monitoring(shared: &Shared, request: &Map, now: Moment) -> Answer {
    change_metrics(shared, request, now, |present, named| {
        Metrics(present.0.difference(&named.0).copied().collect())
    })
}

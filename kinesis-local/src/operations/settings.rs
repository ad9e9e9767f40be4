//! Settings of a stream that change what it does: retention, the largest record, mode, distribution, prepared throughput.

use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_lease_memory::memory_stream::{RecordDistribution, StreamMode};

use crate::attributes::Change;
use crate::error::ServiceError;
use crate::shared::Shared;
use crate::streams::{Entry, Status};
use crate::value::{Answer, Map};

/// The shortest and the longest retention, in hours.
const RETENTION_HOURS: (i64, i64) = (24, 8760);
/// The smallest and the largest setting for the largest record, in KiB.
const RECORD_KIB: (i64, i64) = (1024, 10_240);

/// Which way the retention of a stream is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Increase,
    Decrease,
}

pub(super) fn retention(shared: &Shared, request: &Map, direction: Direction, now: Moment) -> Answer {
    let wanted = request
        .int("RetentionPeriodHours")?
        .ok_or_else(|| ServiceError::validation("RetentionPeriodHours is missing"))?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let present = i64::try_from(entry.retention_hours()).unwrap_or(i64::MAX);
    let name = entry.identity()?.name;
    let (least, most) = RETENTION_HOURS;
    let refused = match direction {
        _ if wanted < least => Some(format!(
            "Minimum allowed retention period is {least} hours. Requested retention period ({wanted} hours) is too short."
        )),
        _ if wanted > most => Some(format!(
            "Maximum allowed retention period is {most} hours. Requested retention period ({wanted} hours) is too long."
        )),
        Direction::Increase if wanted < present => Some(format!(
            "Requested retention period ({wanted} hours) for stream {name} can not be shorter than existing retention period \
             ({present} hours). Use DecreaseRetentionPeriod API."
        )),
        Direction::Decrease if wanted > present => Some(format!(
            "Requested retention period ({wanted} hours) for stream {name} can not be longer than existing retention period \
             ({present} hours). Use IncreaseRetentionPeriod API."
        )),
        Direction::Increase | Direction::Decrease => None,
    };
    if let Some(message) = refused {
        return Err(ServiceError::invalid(message));
    }
    let hours = u64::try_from(wanted).unwrap_or(0);
    let retention = Duration::from_secs(hours * 3600);
    entry
        .stream
        .configure(|settings| settings.retention = Some(retention));
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

/// The member `MaxRecordSizeInKiB` of a request.
pub(super) fn max_record_kib(request: &Map) -> Result<Option<u32>, ServiceError> {
    let Some(size) = request.int("MaxRecordSizeInKiB")? else {
        return Ok(None);
    };
    let (least, most) = RECORD_KIB;
    if !(least..=most).contains(&size) {
        return Err(ServiceError::validation(format!(
            "MaxRecordSizeInKiB is {size}; it must be between {least} and {most}"
        )));
    }
    Ok(u32::try_from(size).ok())
}

pub(super) fn update_max_record_size(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let size = max_record_kib(request)?;
    let size = size.ok_or_else(|| ServiceError::validation("MaxRecordSizeInKiB is missing"))?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    entry
        .stream
        .configure(|settings| settings.max_record_kib = Some(size));
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

/// The mode that the member `StreamModeDetails` of a request asks for.
pub(super) fn mode(request: &Map) -> Result<Option<StreamMode>, ServiceError> {
    let Some(details) = request.map("StreamModeDetails")? else {
        return Ok(None);
    };
    match details.needed_text("StreamMode")? {
        "PROVISIONED" => Ok(Some(StreamMode::Provisioned)),
        "ON_DEMAND" => Ok(Some(StreamMode::OnDemand)),
        other => Err(ServiceError::validation(format!(
            "{other:?} is not a mode of streams: PROVISIONED or ON_DEMAND"
        ))),
    }
}

pub(super) fn update_mode(shared: &Shared, request: &Map, now: Moment) -> Answer {
    request.needed_text("StreamARN")?;
    let wanted = mode(request)?.ok_or_else(|| ServiceError::validation("StreamModeDetails is missing"))?;
    let mut streams = shared.streams();
    let on_demand = streams.iter().filter(|(_, entry)| entry.is_on_demand()).count();
    let entry = streams.active(request, now)?;
    let limits = &shared.options.limits;
    if wanted == entry.stream.settings().mode {
        return warm_up(shared, entry, request, now).map(|()| Map::new());
    }
    if wanted == StreamMode::OnDemand {
        check_on_demand(on_demand, limits.on_demand_streams)?;
    }
    wanted_warm_throughput(shared, wanted, request)?;
    let most = limits.mode_changes_per_day;
    entry.attributes.may_change(Change::Mode, most, now)?;
    entry.stream.configure(|settings| {
        settings.mode = wanted;
        // Only streams in on-demand mode have another.
        if wanted == StreamMode::Provisioned {
            settings.distribution = RecordDistribution::ByPartitionKey;
        }
    });
    entry.attributes.note(Change::Mode, now);
    if wanted == StreamMode::Provisioned {
        entry.attributes.warm_throughput = None;
    }
    warm_up(shared, entry, request, now)?;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

/// Checks that there may be one more stream in on-demand mode.
pub(super) fn check_on_demand(present: usize, most: Option<u32>) -> Result<(), ServiceError> {
    match most {
        Some(most) if present >= most as usize => Err(ServiceError::limit(format!(
            "The account has {present} streams in on-demand mode; the limit is {most}."
        ))),
        _ => Ok(()),
    }
}

/// The distribution that a request asks for, for a stream in this mode.
pub(super) fn distribution(
    request: &Map,
    mode: StreamMode,
) -> Result<Option<RecordDistribution>, ServiceError> {
    match request.text("RecordDistributionStrategy")? {
        None => Ok(None),
        Some("USER_PARTITION_KEY") => Ok(Some(RecordDistribution::ByPartitionKey)),
        Some("AUTO") if mode == StreamMode::OnDemand => Ok(Some(RecordDistribution::Automatic)),
        Some("AUTO") => Err(ServiceError::invalid(
            "The record distribution strategy AUTO is only supported for streams in on-demand mode.",
        )),
        Some(other) => Err(ServiceError::validation(format!(
            "{other:?} is not a record distribution strategy: AUTO or USER_PARTITION_KEY"
        ))),
    }
}

pub(super) fn update_distribution(shared: &Shared, request: &Map, now: Moment) -> Answer {
    request.needed_text("StreamARN")?;
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let wanted = distribution(request, entry.stream.settings().mode)?
        .ok_or_else(|| ServiceError::validation("RecordDistributionStrategy is missing"))?;
    entry.stream.configure(|settings| settings.distribution = wanted);
    Ok(Map::new())
}

/// The member `WarmThroughputMiBps` of a request, for a stream in this mode.
fn wanted_warm_throughput(
    shared: &Shared,
    mode: StreamMode,
    request: &Map,
) -> Result<Option<i64>, ServiceError> {
    let Some(wanted) = request.int("WarmThroughputMiBps")? else {
        return Ok(None);
    };
    if wanted < 0 {
        return Err(ServiceError::validation(
            "WarmThroughputMiBps must not be negative",
        ));
    }
    if mode != StreamMode::OnDemand {
        return Err(ServiceError::validation(
            "Warm throughput is only supported for data streams with the on-demand capacity mode.",
        ));
    }
    if shared.commitment().is_none() {
        return Err(ServiceError::invalid(
            "Warm throughput needs the account setting MinimumThroughputBillingCommitment to be ENABLED.",
        ));
    }
    Ok(Some(wanted))
}

/// Notes the member `WarmThroughputMiBps` of a request. Nothing follows from it here.
pub(super) fn warm_up(
    shared: &Shared,
    entry: &mut Entry,
    request: &Map,
    now: Moment,
) -> Result<(), ServiceError> {
    let mode = entry.stream.settings().mode;
    if let Some(wanted) = wanted_warm_throughput(shared, mode, request)? {
        entry.attributes.warm_throughput = Some(wanted);
        entry.begin(Status::Updating, now, shared.options.stream_transition);
    }
    Ok(())
}

/// The prepared throughput as answers show it.
pub(super) fn warm_throughput(entry: &Entry) -> Option<Map> {
    let mibps = entry.attributes.warm_throughput?;
    Some(Map::new().with("TargetMiBps", mibps).with("CurrentMiBps", mibps))
}

pub(super) fn update_warm_throughput(shared: &Shared, request: &Map, now: Moment) -> Answer {
    if !request.has("WarmThroughputMiBps") {
        return Err(ServiceError::validation("WarmThroughputMiBps is missing"));
    }
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    warm_up(shared, entry, request, now)?;
    let identity = entry.identity()?;
    Ok(Map::new()
        .with("StreamARN", identity.arn)
        .with("StreamName", identity.name)
        .with_some("WarmThroughput", warm_throughput(entry)))
}

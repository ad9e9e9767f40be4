//! `reset` and `undo`: reading begins elsewhere, while the fleet runs. Nothing is written without `--execute`.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::Causes;
use kcl_core::lease_store::{Lease, ResetPosition};
use kcl_core::source::{ShardFilter, StreamSource as _};
use kcl_core::types::{LeaseKey, RecordPosition, Timestamp};
use kcl_operations::{ResetPlan, ResetStep};
use serde::Serialize;

use super::orders::{Desk, record_position};
use crate::arguments::{CommonOptions, ResetOptions, UndoOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::{check_places, stream_of};
use crate::output::{Printer, column, print};

/// One step of a reset.
#[derive(Debug, Serialize)]
pub(crate) struct ResetView {
    lease: String,
    from: String,
    to: String,
    follows_parent: bool,
    is_executed: bool,
}

impl ResetView {
    fn of(step: &ResetStep, is_executed: bool) -> Self {
        Self {
            lease: step.lease.to_string(),
            from: place(&step.from),
            to: place(&step.to),
            follows_parent: step.follows,
            is_executed,
        }
    }
}

/// The place as people read it, with times in UTC.
fn place(position: &ResetPosition) -> String {
    match position {
        ResetPosition::AtTimestamp(time) => format!("AT_TIMESTAMP {time}"),
        ResetPosition::TrimHorizon | ResetPosition::After(_) | ResetPosition::ShardEnd => {
            position.to_string()
        }
    }
}

/// `kcl reset`.
pub(crate) async fn reset(
    connection: &Connection,
    common: &CommonOptions,
    options: &ResetOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    let scan = desk.scan().await?;
    let keys = chosen(&scan.leases, options.shards.as_ref(), options.all)?;
    let to = position(connection, options, &scan.leases, &keys).await?;
    if matches!(to, ResetPosition::After(_)) && keys.len() > 1 {
        return Err(Failure::usage(
            "a sequence number is one of one shard: choose that alone",
        ));
    }
    let wanted = keys.into_iter().map(|key| (key, to.clone())).collect();
    check_places(connection, &scan.leases, &wanted, None).await?;
    perform(
        &desk,
        &ResetPlan::new(&scan.leases, &wanted),
        options.execute,
        printer,
    )
    .await
}

/// `kcl undo`.
pub(crate) async fn undo(
    connection: &Connection,
    common: &CommonOptions,
    options: &UndoOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    let scan = desk.scan().await?;
    let keys: BTreeSet<LeaseKey> = chosen(&scan.leases, options.shards.as_ref(), options.all)?
        .into_iter()
        .collect();
    let mut plan = ResetPlan::undo(&scan.leases, &keys);
    if options.all {
        // Shards that were never reset have nothing to undo.
        plan.missing.clear();
    }
    perform(&desk, &plan, options.execute, printer).await
}

/// The chosen leases.
fn chosen(leases: &[Lease], shards: Option<&regex::Regex>, all: bool) -> Result<Vec<LeaseKey>, Failure> {
    if shards.is_none() && !all {
        return Err(Failure::usage(
            "say which shards with a regular expression, or --all",
        ));
    }
    let is_chosen = |lease: &&Lease| shards.is_none_or(|shards| shards.is_match(lease.key.as_str()));
    let keys: Vec<LeaseKey> = leases
        .iter()
        .filter(is_chosen)
        .map(|lease| lease.key.clone())
        .collect();
    match keys.is_empty() {
        true => Err(Failure::new(Exit::NotFound, "no lease matches")),
        false => Ok(keys),
    }
}

/// The place that the options name; clap sees to it that there is one.
async fn position(
    connection: &Connection,
    options: &ResetOptions,
    leases: &[Lease],
    keys: &[LeaseKey],
) -> Result<ResetPosition, Failure> {
    let to = &options.to;
    if to.to_earliest {
        return Ok(ResetPosition::TrimHorizon);
    }
    if to.to_latest {
        return Ok(ResetPosition::AtTimestamp(
            service_time(connection, leases, keys).await?,
        ));
    }
    if let Some(time) = to.to_datetime {
        return Ok(ResetPosition::AtTimestamp(time));
    }
    if let Some(ago) = to.by_duration {
        let now = service_time(connection, leases, keys).await?;
        return Ok(ResetPosition::AtTimestamp(now.minus(ago)));
    }
    match &to.to_sequence {
        Some(text) => {
            let record: RecordPosition = record_position(text)?;
            Ok(ResetPosition::After(record))
        }
        None => Err(Failure::usage("say where reading is to begin")),
    }
}

/// The time by the clock of Kinesis, less a margin: its answers may lag, and the clock of this host may be wrong.
async fn service_time(
    connection: &Connection,
    leases: &[Lease],
    keys: &[LeaseKey],
) -> Result<Timestamp, Failure> {
    const MARGIN: Duration = Duration::from_secs(1);
    let chosen = leases.iter().filter(|lease| keys.contains(&lease.key));
    let Some(stream) = chosen.filter_map(|lease| stream_of(lease, None)).next() else {
        return Err(Failure::usage(
            "no lease says which stream it is of, so the time of Kinesis is not known: name a time with --to-datetime",
        ));
    };
    let page = connection.stream(&stream).shards(ShardFilter::Open, None).await;
    let page = page.map_err(|error| Failure::new(Exit::NoAnswer, Causes(&error).to_string()))?;
    Ok(page.service_time.minus(MARGIN))
}

/// Shows the plan, and makes it where that was asked for.
pub(crate) async fn perform(
    desk: &Desk<'_>,
    plan: &ResetPlan,
    execute: bool,
    printer: Printer,
) -> Result<Exit, Failure> {
    if let Some(missing) = plan.missing.first() {
        let message = format!(
            "{missing} cannot be reset: it has no lease, or was never reset before; nothing was written"
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    if execute {
        desk.execute(plan).await?;
    }
    let views: Vec<ResetView> = plan.steps().map(|step| ResetView::of(step, execute)).collect();
    let columns = [
        column("LEASE", |row: &ResetView| row.lease.clone()),
        column("FROM", |row: &ResetView| row.from.clone()),
        column("TO", |row: &ResetView| row.to.clone()),
        column("BECAUSE", |row: &ResetView| match row.follows_parent {
            true => "a parent is read again".to_owned(),
            false => "asked for".to_owned(),
        }),
    ];
    let heading = match execute {
        true => "Reset, and the owners begin there:",
        false => "Nothing was written; --execute does this:",
    };
    print(&printer.rows(heading, &views, &columns, &views))?;
    Ok(Exit::Fine)
}

/// A row with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> ResetView {
    ResetView {
        lease: String::new(),
        from: String::new(),
        to: String::new(),
        follows_parent: false,
        is_executed: false,
    }
}

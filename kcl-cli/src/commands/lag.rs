//! `lag`: how far an application is behind, and how many workers it should have.

use std::collections::BTreeSet;

use kcl_core::types::LeaseKey;
use kcl_operations::{CatchUp, FleetView, ScalerSettings, ShardView, Wanted, workers_wanted};
use serde::Serialize;

use super::watch::repeat;
use crate::arguments::{CommonOptions, LagOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::{Printer, column};
use crate::views::{millis_text, secs_text};

/// The document of `kcl lag`.
#[derive(Debug, Serialize)]
pub(crate) struct LagDocument {
    application: String,
    time_ms: i64,
    workers_wanted: u32,
    live_workers: u32,
    unknown_workers: u32,
    open_shards: u32,
    known_lags: u32,
    max_lag_ms: Option<u64>,
    catch_up: &'static str,
    catch_up_s: Option<u64>,
    reason: String,
}

impl LagDocument {
    pub(crate) fn of(fleet: &FleetView, wanted: Wanted) -> Self {
        let (catch_up, catch_up_s) = match wanted.catch_up {
            CatchUp::Done => ("done", Some(0)),
            CatchUp::In(secs) => ("in", Some(secs)),
            CatchUp::Unknown | _ => ("unknown", None),
        };
        Self {
            application: fleet.application.clone(),
            time_ms: fleet.time_ms,
            workers_wanted: wanted.workers,
            live_workers: wanted.live_workers,
            unknown_workers: wanted.unknown_workers,
            open_shards: wanted.open_shards,
            known_lags: fleet.summary.known_lags,
            max_lag_ms: fleet.summary.max_lag_ms,
            catch_up,
            catch_up_s,
            reason: wanted.reason,
        }
    }
}

/// The settings of the decision.
pub(crate) fn scaler_settings(options: &LagOptions) -> ScalerSettings {
    let mut settings = ScalerSettings::default();
    settings.catch_up_within = options.catch_up_within;
    settings.shards_per_worker = options.shards_per_worker;
    settings.min_workers = options.min_workers;
    settings.max_workers = options.max_workers;
    settings
}

/// `kcl lag` without a scaler.
pub(crate) async fn lag(
    connection: &Connection,
    common: &CommonOptions,
    options: &LagOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let settings = scaler_settings(options);
    let mut looker = Looker::open(connection, common.table.as_deref(), &options.look).await?;
    repeat(connection, common.watch, async || {
        let fleet = looker.look().await?;
        let document = LagDocument::of(&fleet, workers_wanted(&fleet, &settings));
        let most = options
            .max_lag
            .map(|most| u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
        let unmeasured: BTreeSet<&str> = looker.unmeasured().keys().map(LeaseKey::as_str).collect();
        let is_late = |shard: &ShardView, most: u64| match shard.lag_ms {
            Some(lag) => lag > most,
            // Unknown is not fine.
            None => shard.state.is_stuck() || unmeasured.contains(shard.lease.as_str()),
        };
        let is_over = most.is_some_and(|most| fleet.shards.iter().any(|shard| is_late(shard, most)));
        let columns = [
            column("APPLICATION", |row: &LagDocument| row.application.clone()),
            column("LAG", |row: &LagDocument| millis_text(row.max_lag_ms)).number(),
            column("CATCH-UP", |row: &LagDocument| match row.catch_up {
                "unknown" => "unknown".to_owned(),
                _ => secs_text(row.catch_up_s),
            })
            .number(),
            column("SHARDS", |row: &LagDocument| row.open_shards.to_string()).number(),
            column("WORKERS", |row: &LagDocument| row.live_workers.to_string()).number(),
            column("WANTED", |row: &LagDocument| row.workers_wanted.to_string()).number(),
            column("REASON", |row: &LagDocument| row.reason.clone()),
        ];
        let rows = std::slice::from_ref(&document);
        Ok((printer.rows("", rows, &columns, &document), Exit::found(is_over)))
    })
    .await
}

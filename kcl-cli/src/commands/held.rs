//! `held`: the records at which shards are held, and the dead letters of a folder.

use std::path::Path;

use kcl_core::dead_letter::DeadLetter;
use kcl_core::types::Timestamp;
use kcl_dead_letters::read_folder;
use kcl_operations::{FleetView, ShardState};
use serde::Serialize;

use super::watch::repeat;
use crate::arguments::{CommonOptions, HeldOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::{Column, Printer, column};
use crate::views::{dash, heading};

/// A record that is not processed: a shard is held at it, or it was set aside.
#[derive(Debug, Serialize)]
pub(crate) struct HeldRecord {
    /// `held` or `dead_letter`.
    kind: &'static str,
    stream: Option<String>,
    shard: String,
    /// As `SEQUENCE[/INDEX]`, where it is known.
    record: Option<String>,
    partition_key: Option<String>,
    attempts: u32,
    /// Of a dead letter.
    severity: Option<String>,
    last_failure_ms: Option<i64>,
    cause: String,
}

/// The document of `kcl held`.
#[derive(Debug, Serialize)]
pub(crate) struct HeldDocument {
    application: String,
    time_ms: i64,
    records: Vec<HeldRecord>,
}

impl HeldRecord {
    /// The dead letter, without its payload.
    fn of_letter(letter: &DeadLetter) -> Self {
        Self {
            kind: "dead_letter",
            stream: Some(letter.stream.clone()),
            shard: letter.shard.to_string(),
            record: Some(letter.record.position().to_string()),
            partition_key: letter.record.partition_key().map(str::to_owned),
            attempts: letter.attempts,
            severity: Some(letter.severity.as_str().to_owned()),
            last_failure_ms: Some(letter.last_failure.as_millis()),
            cause: letter.error.clone(),
        }
    }
}

/// `kcl held`.
pub(crate) async fn held(
    connection: &Connection,
    common: &CommonOptions,
    options: &HeldOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut looker = Looker::open(connection, common.table.as_deref(), &options.look).await?;
    repeat(connection, common.watch, async || {
        let fleet = looker.look().await?;
        let letters = match &options.dead_letters {
            Some(folder) => letters(folder, &fleet.application)?,
            None => Vec::new(),
        };
        Ok(text(&fleet, &letters, printer))
    })
    .await
}

/// The letters of a folder that are the application's.
pub(crate) fn letters(folder: &Path, application: &str) -> Result<Vec<DeadLetter>, Failure> {
    let read = read_folder(folder).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        Failure::usage(format!("{error}{cause}"))
    })?;
    let letters: Vec<_> = read.into_iter().map(|line| line.letter).collect();
    let foreign = letters
        .iter()
        .find(|letter| letter.application.as_str() != application);
    match foreign {
        None => Ok(letters),
        Some(letter) => Err(Failure::usage(format!(
            "{} has dead letters of the application {}, and {application} was asked for: name the application whose letters they are, or another folder",
            folder.display(),
            letter.application
        ))),
    }
}

pub(crate) fn document(fleet: &FleetView, letters: &[DeadLetter]) -> HeldDocument {
    let held = fleet
        .shards
        .iter()
        .filter(|shard| shard.state == ShardState::Held);
    let held = held.map(|shard| HeldRecord {
        kind: "held",
        stream: shard.stream.clone(),
        shard: shard.shard.clone(),
        record: shard.failing_record.clone(),
        partition_key: None,
        attempts: shard.attempts,
        severity: None,
        last_failure_ms: None,
        cause: shard
            .concern
            .clone()
            .or_else(|| shard.waiting.clone())
            .unwrap_or_default(),
    });
    HeldDocument {
        application: fleet.application.clone(),
        time_ms: fleet.time_ms,
        records: held.chain(letters.iter().map(HeldRecord::of_letter)).collect(),
    }
}

fn text(fleet: &FleetView, letters: &[DeadLetter], printer: Printer) -> (String, Exit) {
    let document = document(fleet, letters);
    let exit = Exit::found(!document.records.is_empty());
    let heading = heading(fleet, printer.colours);
    (
        printer.rows(&heading, &document.records, &columns(), &document),
        exit,
    )
}

fn columns() -> Vec<Column<HeldRecord>> {
    vec![
        column("KIND", |row: &HeldRecord| row.kind.to_owned()),
        column("STREAM", |row: &HeldRecord| {
            row.stream.clone().unwrap_or_else(dash)
        })
        .wide(),
        column("SHARD", |row: &HeldRecord| row.shard.clone()),
        column("RECORD", |row: &HeldRecord| {
            row.record.clone().unwrap_or_else(dash)
        }),
        column("KEY", |row: &HeldRecord| {
            row.partition_key.clone().unwrap_or_else(dash)
        }),
        column("ATTEMPTS", |row: &HeldRecord| row.attempts.to_string()).number(),
        column("SEVERITY", |row: &HeldRecord| {
            row.severity.clone().unwrap_or_else(dash)
        })
        .wide(),
        column("LAST-FAILURE", |row: &HeldRecord| {
            let failed = row.last_failure_ms.map(Timestamp::from_millis);
            failed.map_or_else(dash, |failed| failed.to_string())
        }),
        column("CAUSE", |row: &HeldRecord| row.cause.clone()),
    ]
}

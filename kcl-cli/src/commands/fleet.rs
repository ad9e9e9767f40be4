//! `status`, `workers` and `why`: one application, as rows and as sentences.

use kcl_operations::{FleetView, ShardState, ShardView, WorkerView};
use regex::Regex;
use serde::Serialize;

use super::watch::repeat;
use crate::arguments::{CommonOptions, Format, LookOptions, StatusOptions, WhyOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::{Printer, json, painted, printable};
use crate::views::{heading, shard_columns, state_style, worker_columns};

/// The document of `kcl workers`.
#[derive(Debug, Serialize)]
pub(crate) struct WorkersDocument<'a> {
    application: &'a str,
    time_ms: i64,
    workers: &'a [WorkerView],
}

/// One shard in the document of `kcl why`.
#[derive(Debug, Serialize)]
pub(crate) struct WhyDocument<'a> {
    lease: &'a str,
    state: ShardState,
    rule: String,
    sentences: Vec<String>,
}

/// `kcl status`.
pub(crate) async fn status(
    connection: &Connection,
    common: &CommonOptions,
    options: &StatusOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut looker = Looker::open(connection, common.table.as_deref(), &options.look).await?;
    repeat(connection, common.watch, async || {
        let fleet = looker.look().await?;
        Ok(status_text(fleet, options, printer))
    })
    .await
}

fn status_text(mut fleet: FleetView, options: &StatusOptions, printer: Printer) -> (String, Exit) {
    let heading = heading(&fleet, printer.colours);
    // A program filters by itself what it was not asked to leave out.
    let shows_ended = options.all || printer.format == Format::Json;
    fleet.shards.retain(|shard| {
        let is_named = options
            .shards
            .as_ref()
            .is_none_or(|shards| shards.is_match(&shard.lease));
        let is_wanted = !options.stuck || shard.state.is_stuck();
        is_named && is_wanted && (shows_ended || shard.state != ShardState::Ended)
    });
    let exit = Exit::found(options.stuck && !fleet.shards.is_empty());
    (
        printer.rows(&heading, &fleet.shards, &shard_columns(), &fleet),
        exit,
    )
}

/// `kcl workers`.
pub(crate) async fn workers(
    connection: &Connection,
    common: &CommonOptions,
    options: &LookOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut looker = Looker::open(connection, common.table.as_deref(), options).await?;
    repeat(connection, common.watch, async || {
        let fleet = looker.look().await?;
        Ok((workers_text(&fleet, printer), Exit::Fine))
    })
    .await
}

pub(crate) fn workers_document(fleet: &FleetView) -> WorkersDocument<'_> {
    WorkersDocument {
        application: &fleet.application,
        time_ms: fleet.time_ms,
        workers: &fleet.workers,
    }
}

fn workers_text(fleet: &FleetView, printer: Printer) -> String {
    let heading = heading(fleet, printer.colours);
    printer.rows(
        &heading,
        &fleet.workers,
        &worker_columns(),
        &workers_document(fleet),
    )
}

/// `kcl why`.
pub(crate) async fn why(
    connection: &Connection,
    common: &CommonOptions,
    options: &WhyOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut looker = Looker::open(connection, common.table.as_deref(), &options.look).await?;
    repeat(connection, common.watch, async || {
        let fleet = looker.look().await?;
        why_text(&fleet, &options.shard, printer)
    })
    .await
}

pub(crate) fn why_documents<'a>(fleet: &'a FleetView, shards: &[&'a ShardView]) -> Vec<WhyDocument<'a>> {
    let document = |shard: &&'a ShardView| WhyDocument {
        lease: &shard.lease,
        state: shard.state,
        rule: shard.state.rule(fleet.thresholds()),
        sentences: fleet.why(&shard.lease).unwrap_or_default(),
    };
    shards.iter().map(document).collect()
}

fn why_text(fleet: &FleetView, name: &str, printer: Printer) -> Result<(String, Exit), Failure> {
    let mut shards: Vec<&ShardView> = fleet.shards_named(name).collect();
    if shards.is_empty() {
        let pattern = Regex::new(name).map_err(|error| Failure::usage(error.to_string()))?;
        shards = fleet
            .shards
            .iter()
            .filter(|shard| pattern.is_match(&shard.lease))
            .collect();
    }
    if shards.is_empty() {
        let message = format!(
            "no lease of {} is called {name}: `kcl status {} --all` lists them; a shard that is finished and cleaned up has none",
            fleet.application, fleet.application
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let exit = Exit::found(shards.iter().any(|shard| shard.state.is_stuck()));
    let documents = why_documents(fleet, &shards);
    let text = match printer.format {
        Format::Json => json(&documents, printer.is_watching),
        Format::Csv => crate::output::csv(&documents),
        Format::Table | Format::Wide => {
            let paragraphs = documents.iter().map(|document| {
                let mut lines = document.sentences.iter().map(|line| printable(line));
                let first = lines.next().unwrap_or_default();
                let word = painted(
                    document.state.word(),
                    state_style(document.state),
                    printer.colours,
                );
                let first = first.replacen(document.state.word(), &word, 1);
                let rest: String = lines.map(|line| format!("\n  {line}")).collect();
                first + &rest + "\n"
            });
            paragraphs.collect::<Vec<_>>().join("\n")
        }
    };
    Ok((text, exit))
}

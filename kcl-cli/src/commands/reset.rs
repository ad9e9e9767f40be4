//! `reset`, `import` and `undo`: reading begins elsewhere, while the fleet runs. Nothing is written without `--execute`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use kcl_core::Causes;
use kcl_core::lease_store::{Lease, LeaseStore as _, ResetPosition};
use kcl_core::source::{ShardFilter, StreamSource as _};
use kcl_core::types::{ApplicationName, LeaseKey, RecordPosition, Timestamp};
use kcl_operations::{ResetPlan, ResetSpan, ResetStep, duration_text};
use serde::Serialize;

use super::export::{ExportDocument, document, identity_of};
use super::orders::{Desk, record_position};
use super::places::{Wanted, wanted};
use crate::arguments::{CommonOptions, ImportOptions, ResetOptions, UndoOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::stream_of;
use crate::measure::{check_places, sample_steps};
use crate::output::{Printer, column, complain, print};
use crate::views::dash;

/// One step of a reset.
#[derive(Debug, Serialize)]
pub(crate) struct ResetView {
    lease: String,
    from: String,
    to: String,
    follows_parent: bool,
    /// Of a preview: how far reading goes back; below zero it goes ahead.
    back_ms: Option<i64>,
    /// Of a preview: about how many records are read again, or left out.
    records: Option<u64>,
    is_executed: bool,
}

impl ResetView {
    fn of(step: &ResetStep, span: Option<&ResetSpan>, is_executed: bool) -> Self {
        Self {
            lease: step.lease.to_string(),
            from: place(&step.from),
            to: place(&step.to),
            follows_parent: step.follows,
            back_ms: span.map(|span| span.back_ms),
            records: span.and_then(|span| span.records),
            is_executed,
        }
    }

    fn distance(&self) -> String {
        self.back_ms.map_or_else(dash, |back_ms| {
            let distance = duration_text(Duration::from_millis(back_ms.unsigned_abs()));
            let way = if back_ms < 0 { "ahead" } else { "back" };
            format!("{distance} {way}")
        })
    }

    fn records(&self) -> String {
        let (Some(records), Some(back_ms)) = (self.records, self.back_ms) else {
            return dash();
        };
        let fate = if back_ms < 0 { "left out" } else { "again" };
        format!("about {records} {fate}")
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
    let named = options.stream.as_deref();
    let document = match (&options.to.from_file, &options.to.to_checkpoint_of) {
        (Some(file), _) => Some((file.display().to_string(), document_in(file)?)),
        (None, Some(other)) => {
            let document = document_of(connection, other, &scan.leases, named).await?;
            Some((format!("the table of {other}"), document))
        }
        (None, None) => None,
    };
    let wanted = match document {
        Some((source, mut document)) => {
            let shards = options.shards.as_ref();
            let is_chosen = |lease: &str| shards.is_none_or(|shards| shards.is_match(lease));
            document.checkpoints.retain(|row| is_chosen(&row.lease));
            let leases: Vec<Lease> = scan
                .leases
                .iter()
                .filter(|lease| keys.contains(&lease.key))
                .cloned()
                .collect();
            wanted_of(connection, &document, &source, &leases, named).await?
        }
        None => {
            let to = position(connection, options, &scan.leases, &keys).await?;
            if matches!(to, ResetPosition::After(_)) && keys.len() > 1 {
                return Err(Failure::usage(
                    "a sequence number is one of one shard: choose that alone",
                ));
            }
            Wanted {
                places: keys.into_iter().map(|key| (key, to.clone())).collect(),
                left_out: Vec::new(),
            }
        }
    };
    move_to(&desk, &scan.leases, &wanted, named, options.execute, printer).await
}

/// `kcl import`.
pub(crate) async fn import(
    connection: &Connection,
    common: &CommonOptions,
    options: &ImportOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    let document = document_in(&options.file)?;
    let scan = desk.scan().await?;
    let named = options.stream.as_deref();
    let source = options.file.display().to_string();
    let wanted = wanted_of(connection, &document, &source, &scan.leases, named).await?;
    move_to(&desk, &scan.leases, &wanted, named, options.execute, printer).await
}

/// The document in this file.
fn document_in(file: &Path) -> Result<ExportDocument, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{name} is no document of `kcl export -o json`: {error}")))
}

/// The places of another application, as it would export them, of the stream of these leases.
async fn document_of(
    connection: &Connection,
    other: &ApplicationName,
    leases: &[Lease],
    named: Option<&str>,
) -> Result<ExportDocument, Failure> {
    let store = connection.store(other.as_str());
    store.attach(other).await?;
    let mut theirs = store.scan().await?;
    // An application of many streams has places in each; those of others are not asked for.
    let streams: BTreeSet<_> = leases.iter().map(|lease| &lease.stream).collect();
    theirs.leases.retain(|lease| streams.contains(&lease.stream));
    document(connection, other, &theirs, named).await
}

/// The places that a document has for these leases.
async fn wanted_of(
    connection: &Connection,
    document: &ExportDocument,
    source: &str,
    leases: &[Lease],
    named: Option<&str>,
) -> Result<Wanted, Failure> {
    let asked = identity_of(connection, named, leases).await?;
    let wanted = wanted(document, leases, asked.as_ref());
    wanted.map_err(|refusal| {
        Failure::new(
            Exit::NotFound,
            format!("{source}: {refusal}; nothing was written"),
        )
    })
}

/// Makes reading begin at these places, or says what that would be.
async fn move_to(
    desk: &Desk<'_>,
    leases: &[Lease],
    wanted: &Wanted,
    named: Option<&str>,
    execute: bool,
    printer: Printer,
) -> Result<Exit, Failure> {
    check_places(desk.connection(), leases, &wanted.places, named).await?;
    for sentence in &wanted.left_out {
        complain(sentence);
    }
    let plan = ResetPlan::new(leases, &wanted.places);
    perform(desk, leases, &plan, named, execute, printer).await?;
    Ok(Exit::found(!wanted.left_out.is_empty()))
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
    perform(&desk, &scan.leases, &plan, None, options.execute, printer).await?;
    Ok(Exit::Fine)
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
            service_time(connection, leases, keys, options.stream.as_deref()).await?,
        ));
    }
    if let Some(time) = to.to_datetime {
        return Ok(ResetPosition::AtTimestamp(time));
    }
    if let Some(ago) = to.by_duration {
        let now = service_time(connection, leases, keys, options.stream.as_deref()).await?;
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
    named: Option<&str>,
) -> Result<Timestamp, Failure> {
    const MARGIN: Duration = Duration::from_secs(1);
    let chosen = leases.iter().filter(|lease| keys.contains(&lease.key));
    let Some(stream) = chosen.filter_map(|lease| stream_of(lease, named)).next() else {
        return Err(Failure::usage(
            "no lease says which stream it is of, so the time of Kinesis is not known: name the stream with --stream",
        ));
    };
    let page = connection.stream(&stream).shards(ShardFilter::Open, None).await;
    let page = page.map_err(|error| Failure::new(Exit::NoAnswer, Causes(&error).to_string()))?;
    Ok(page.service_time.minus(MARGIN))
}

/// Shows the plan, with what lies between the places, or makes it.
async fn perform(
    desk: &Desk<'_>,
    leases: &[Lease],
    plan: &ResetPlan,
    named: Option<&str>,
    execute: bool,
    printer: Printer,
) -> Result<(), Failure> {
    if let Some(missing) = plan.missing.first() {
        let message = format!(
            "{missing} cannot be reset: it has no lease, or was never reset before; nothing was written"
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let steps: Vec<&ResetStep> = plan.steps().collect();
    let spans = match execute {
        true => {
            desk.execute(plan).await?;
            BTreeMap::new()
        }
        false => spans(desk.connection(), leases, &steps, named).await,
    };
    let view = |step: &&ResetStep| ResetView::of(step, spans.get(&step.lease), execute);
    let views: Vec<ResetView> = steps.iter().map(view).collect();
    let mut columns = vec![
        column("LEASE", |row: &ResetView| row.lease.clone()),
        column("FROM", |row: &ResetView| row.from.clone()),
        column("TO", |row: &ResetView| row.to.clone()),
        column("BECAUSE", |row: &ResetView| match row.follows_parent {
            true => "a parent is read again".to_owned(),
            false => "asked for".to_owned(),
        }),
    ];
    if !execute {
        columns.push(column("DISTANCE", ResetView::distance));
        columns.push(column("RECORDS", ResetView::records));
    }
    let heading = match execute {
        true => "Reset, and the owners begin there:",
        false => "Nothing was written; --execute does this:",
    };
    print(&printer.rows(heading, &views, &columns, &views))?;
    Ok(())
}

/// The span between the places of each step, where the stream says how far both are behind.
async fn spans(
    connection: &Connection,
    leases: &[Lease],
    steps: &[&ResetStep],
    named: Option<&str>,
) -> BTreeMap<LeaseKey, ResetSpan> {
    let (from, to) = sample_steps(connection, leases, steps, named).await;
    let span = |lease: &Lease| {
        let (from, to) = (from.get(&lease.key)?, to.get(&lease.key)?);
        Some((lease.key.clone(), ResetSpan::between(from, to)))
    };
    leases.iter().filter_map(span).collect()
}

/// A row with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> ResetView {
    ResetView {
        lease: String::new(),
        from: String::new(),
        to: String::new(),
        follows_parent: false,
        back_ms: None,
        records: None,
        is_executed: false,
    }
}

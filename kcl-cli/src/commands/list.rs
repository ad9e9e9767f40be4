//! `list`: the applications whose lease tables are in the account and region.

use futures_util::StreamExt as _;
use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind};
use kcl_core::types::ApplicationName;
use kcl_lease_dynamo::TableLayout;
use kcl_operations::{FleetFacts, FleetView, Summary};
use serde::Serialize;

use super::watch::repeat;
use crate::arguments::{CommonOptions, ListOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::{Column, Printer, column, complain};
use crate::views::{dash, millis_text, rate_text, word_style};

/// How many tables are looked at once.
const TABLES_AT_ONCE: usize = 8;

/// The most tables that are looked at: an account may have thousands, and each takes a call.
const MOST_TABLES: usize = 500;

/// The ends of the names of tables that the Java KCL 3.0 to 3.4 keeps beside a lease table.
const BESIDE: [&str; 2] = ["-CoordinatorState", "-WorkerMetricStats"];

/// One application.
#[derive(Debug, Serialize)]
pub(crate) struct ApplicationView {
    application: String,
    table: String,
    layout: &'static str,
    summary: Summary,
}

/// `kcl list`.
pub(crate) async fn list(
    connection: &Connection,
    common: &CommonOptions,
    options: &ListOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    repeat(connection, common.watch, async || {
        let mut tables = match &common.table {
            Some(table) => vec![table.clone()],
            None => table_names(connection).await?,
        };
        tables.retain(|table| {
            let is_beside = BESIDE.iter().any(|end| table.ends_with(end));
            !is_beside && options.tables.as_ref().is_none_or(|tables| tables.is_match(table))
        });
        if tables.len() > MOST_TABLES {
            let message = format!(
                "{} tables are too many to look at: say which with a regular expression, as in `kcl list ^trucks`",
                tables.len()
            );
            return Err(Failure::usage(message));
        }
        let looks = tables.into_iter().map(|table| async move {
            let look = application(connection, table.clone()).await;
            (table, look)
        });
        let looks: Vec<_> = futures_util::stream::iter(looks).buffered(TABLES_AT_ONCE).collect().await;
        let (mut applications, mut failed) = (Vec::new(), None);
        for (table, look) in looks {
            match look {
                Ok(application) => applications.extend(application),
                Err(failure) => {
                    complain(&format!("{table} is left out: {failure}"));
                    failed.get_or_insert(failure);
                }
            }
        }
        match failed {
            Some(failure) if applications.is_empty() => Err(failure),
            failed => {
                let exit = failed.map_or(Exit::Fine, |failure| failure.exit);
                Ok((printer.rows("", &applications, &columns(), &applications), exit))
            }
        }
    })
    .await
}

fn columns() -> Vec<Column<ApplicationView>> {
    vec![
        column("APPLICATION", |row: &ApplicationView| row.application.clone()),
        column("STATE", |row: &ApplicationView| row.summary.state.clone())
            .styled(|row| word_style(&row.summary.state)),
        column("WORKERS", |row: &ApplicationView| {
            match row.summary.unknown_workers {
                0 => row.summary.live_workers.to_string(),
                unknown => format!("{}+{unknown}?", row.summary.live_workers),
            }
        })
        .number(),
        column("SHARDS", |row: &ApplicationView| {
            row.summary.open_leases.to_string()
        })
        .number(),
        column("LAG", |row: &ApplicationView| millis_text(row.summary.max_lag_ms)).number(),
        column("RATE", |row: &ApplicationView| {
            rate_text(Some(row.summary.rate_kib_per_s))
        })
        .number(),
        column("STREAMS", |row: &ApplicationView| {
            match row.summary.streams.is_empty() {
                true => dash(),
                false => row.summary.streams.join(" "),
            }
        }),
        column("TABLE", |row: &ApplicationView| row.table.clone()).wide(),
        column("LAYOUT", |row: &ApplicationView| row.layout.to_owned()).wide(),
        column("JAVA", |row: &ApplicationView| {
            row.summary.java_workers.to_string()
        })
        .number()
        .wide(),
    ]
}

/// The names of all tables.
async fn table_names(connection: &Connection) -> Result<Vec<String>, Failure> {
    let client = connection.dynamo();
    let (mut names, mut start) = (Vec::new(), None);
    loop {
        let page = client.list_tables().set_exclusive_start_table_name(start).send();
        let page = connection.call("dynamodb:ListTables", page).await?;
        names.extend(page.table_names.unwrap_or_default());
        start = page.last_evaluated_table_name;
        if start.is_none() {
            return Ok(names);
        }
    }
}

/// The application of a table; `None` where it is no lease table, or none that may be read.
async fn application(connection: &Connection, table: String) -> Result<Option<ApplicationView>, Failure> {
    let store = connection.store(&table);
    // A table of another schema refuses the key before anything else is asked.
    let marked = match store.marked_application().await {
        Ok(marked) => marked,
        Err(error) if is_passed_over(error.kind()) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(application) = marked.or_else(|| ApplicationName::new(&table).ok()) else {
        return Ok(None);
    };
    let attached = match store.attach(&application).await {
        Ok(attached) => attached,
        Err(error) if is_passed_over(error.kind()) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let scan = match store.scan().await {
        Ok(scan) => scan,
        Err(error) if is_passed_over(error.kind()) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let is_lease_table =
        attached.application.is_some() || !scan.leases.is_empty() || !scan.workers.is_empty();
    if !is_lease_table {
        return Ok(None);
    }
    let view = FleetView::of(application.as_str(), &FleetFacts::new(&scan), connection.now());
    Ok(Some(ApplicationView {
        application: application.to_string(),
        table,
        layout: layout_word(attached.layout),
        summary: view.summary,
    }))
}

/// Tables of others are in every account, and a role may be allowed to read some only.
fn is_passed_over(kind: StoreErrorKind) -> bool {
    matches!(
        kind,
        StoreErrorKind::Foreign | StoreErrorKind::Invalid | StoreErrorKind::Missing | StoreErrorKind::Denied
    )
}

fn layout_word(layout: TableLayout) -> &'static str {
    match layout {
        TableLayout::ThreeTables => "three tables",
        TableLayout::OneTable | TableLayout::AsFound => "one table",
    }
}

/// A row with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample(summary: Summary) -> ApplicationView {
    ApplicationView {
        application: "app".to_owned(),
        table: "app".to_owned(),
        layout: "one table",
        summary,
    }
}

//! Setting up: look at what is there, refuse what is not ours, create what is missing, wait for the table.

use std::time::Duration;

use kcl_core::lease::{Preparation, Scan, StoreError, StoreErrorKind};
use kcl_core::time::{ClockExt as _, Moment};

use crate::client::TableClient;
use crate::expression::put_if_absent;
use crate::table::Table;
use crate::{attr, codec, guard, scan};

/// How often a table that is being created is looked at.
const POLL: Duration = Duration::from_millis(200);

/// The first call also loads credentials, which may need calls of its own; a shorter limit would hide why that fails.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// Prepares the table. Returns what is known of it.
pub(crate) async fn prepare(
    client: &TableClient,
    segments: u32,
    preparation: &Preparation,
) -> Result<Table, StoreError> {
    let deadline = client.clock.now() + preparation.within;
    let patient = client.with_request_timeout(client.request_timeout.max(FIRST_CALL));
    let mut found = look(&patient).await?;
    if let Some(table) = &found {
        table.check_key(&client.table)?;
    }
    if !preparation.take_over_java {
        refuse_coordinator_table(client, preparation).await?;
    }
    if found.is_none() {
        let created = patient.create().await;
        created.map_err(|error| explain_creation(client, error))?;
        found = look(client).await?;
    }
    let table = wait(client, found, deadline).await?;
    table.check_key(&client.table)?;
    let rows = scan::scan(client, segments).await?;
    let migration = client.get(attr::CLIENT_VERSION_KEY).await?;
    if !preparation.take_over_java {
        guard::check_rows(&client.table, &rows, migration.as_ref())?;
    }
    if guard::is_new_application(&rows, migration.as_ref()) {
        mark_as_new(client, preparation).await?;
    }
    report(client, &table, &rows);
    Ok(table)
}

/// What is known of the table, if it exists.
pub(crate) async fn look(client: &TableClient) -> Result<Option<Table>, StoreError> {
    match client.describe(&client.table).await {
        Ok(description) => Ok(Some(Table::of(&description))),
        Err(error) if error.kind() == StoreErrorKind::Missing => Ok(None),
        Err(error) if error.kind() == StoreErrorKind::Denied => probe(client, error).await,
        Err(error) => Err(error),
    }
}

/// Whoever may not describe the table may still be allowed to use it.
async fn probe(client: &TableClient, denied: StoreError) -> Result<Option<Table>, StoreError> {
    match client.get(attr::LEADER_KEY).await {
        Ok(_) => Ok(Some(Table::undescribed())),
        Err(error) if error.kind() == StoreErrorKind::Missing => Ok(None),
        Err(_) => Err(denied),
    }
}

async fn refuse_coordinator_table(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let table = guard::coordinator_table(preparation.application.as_str());
    match client.describe(&table).await {
        Ok(_) => Err(guard::refuse_coordinator_table(&table)),
        Err(error) if error.kind() == StoreErrorKind::Missing => Ok(()),
        // A policy for the lease table alone is good practice; the rows themselves are looked at next.
        Err(error) if error.kind() == StoreErrorKind::Denied => {
            tracing::warn!(table = %table, "may not look whether a Java fleet keeps its state there");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn explain_creation(client: &TableClient, error: StoreError) -> StoreError {
    if error.kind() != StoreErrorKind::Denied {
        return error;
    }
    let message = format!(
        "table {} does not exist and may not be created: grant dynamodb:CreateTable, or create it with the partition key {} \
         of type S",
        client.table,
        attr::KEY
    );
    StoreError::definite(StoreErrorKind::Denied, message).with_source(error)
}

/// Waits for the table, never for its index.
async fn wait(client: &TableClient, found: Option<Table>, deadline: Moment) -> Result<Table, StoreError> {
    let mut found = found;
    loop {
        let status = match found {
            Some(table) if table.usable => return Ok(table),
            Some(table) => table.status,
            None => "not visible yet".to_owned(),
        };
        let next_look = client.clock.now() + POLL;
        if next_look > deadline {
            let message = format!(
                "table {} did not become usable in time: it is {status}",
                client.table
            );
            return Err(StoreError::definite(StoreErrorKind::Unavailable, message));
        }
        tracing::debug!(table = %client.table, status, "waiting for the table");
        client.clock.sleep(POLL).await;
        found = look(client).await?;
    }
}

/// Says to Java workers that may come later that the application is one of 3.x.
async fn mark_as_new(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let item = codec::client_version_item(&preparation.worker, client.clock.wall());
    // A refusal means that another worker of ours did the same a moment ago.
    client
        .write(put_if_absent(attr::CLIENT_VERSION_KEY, item))
        .await?;
    Ok(())
}

fn report(client: &TableClient, table: &Table, rows: &Scan) {
    tracing::info!(
        table = %client.table,
        status = %table.status,
        owner_index = table.index_active,
        leases = rows.leases.len(),
        workers = rows.workers.len(),
        undecodable = rows.undecodable.len(),
        "lease table is ready"
    );
}

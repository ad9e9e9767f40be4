//! Setting up: look at what is there, refuse what is not ours, create what is missing, wait for the table.

use std::time::Duration;

use kcl_core::lease::{Preparation, Scan, StoreError, StoreErrorKind};
use kcl_core::time::{ClockExt as _, Moment};

use crate::client::{TableClient, Written};
use crate::codec::Item;
use crate::errors::Failure;
use crate::expression::{put_if_absent, writes_that_never_happen};
use crate::options::{TableOptions, wrong_name};
use crate::table::Table;
use crate::{attr, codec, guard, rights, scan, table, upkeep};

/// How often a table that is being created is looked at.
const POLL: Duration = Duration::from_millis(200);

/// The first call also loads credentials, which may need calls of its own, and changing a table takes longer than changing a row.
const PATIENT_CALL: Duration = Duration::from_secs(10);

/// Prepares the table. Returns what is known of it.
pub(crate) async fn prepare(
    client: &TableClient,
    segments: u32,
    options: &TableOptions,
    preparation: &Preparation,
) -> Result<Table, StoreError> {
    check(client, options)?;
    let deadline = client.clock.now() + preparation.within;
    let patient = client.with_request_timeout(client.request_timeout.max(PATIENT_CALL));
    let found = look(&patient).await?;
    if let Some(table) = &found {
        table.check_key(&client.table)?;
    }
    if !preparation.take_over_java {
        refuse_coordinator_table(client, preparation).await?;
    }
    let table = usable(&patient, options, found, deadline).await?;
    table.check_key(&client.table)?;
    let (rows, migration) = read_all(client, segments).await?;
    guard::check_application(&client.table, &preparation.application, migration.as_ref())?;
    if !preparation.take_over_java {
        guard::check_rows(&client.table, &rows, migration.as_ref())?;
    }
    may_write(client, preparation).await?;
    if guard::is_new_application(&rows, migration.as_ref()) {
        mark_as_new(client, preparation).await?;
    }
    upkeep::complete(&patient, options, &preparation.worker, &table, deadline).await;
    report(client, &table, &rows);
    Ok(table)
}

/// Says everything at once that no service could accept.
fn check(client: &TableClient, options: &TableOptions) -> Result<(), StoreError> {
    let name = wrong_name(&client.table, client.region());
    let violations = name.into_iter().chain(options.violations()).collect::<Vec<_>>();
    if violations.is_empty() {
        return Ok(());
    }
    let message = format!("the lease table is not described well: {}", violations.join("; "));
    Err(StoreError::definite(StoreErrorKind::Invalid, message))
}

/// What is known of the table, if it exists.
pub(crate) async fn look(client: &TableClient) -> Result<Option<Table>, StoreError> {
    match client.describe(&client.table).await {
        Ok(description) => Ok(Some(Table::of(&description))),
        Err(failure) if failure.error.kind() == StoreErrorKind::Missing => Ok(None),
        Err(failure) if failure.not_granted => probe(client, failure).await,
        Err(failure) => Err(failure.into()),
    }
}

/// Whoever may not describe the table may still be allowed to use it.
async fn probe(client: &TableClient, denied: Failure) -> Result<Option<Table>, StoreError> {
    match client.get(attr::LEADER_KEY).await {
        Ok(_) => Ok(Some(Table::undescribed())),
        Err(failure) if failure.error.kind() == StoreErrorKind::Missing => Ok(None),
        Err(failure) => {
            all_granted(client, [Some(&denied), Some(&failure)])?;
            Err(denied.into())
        }
    }
}

async fn refuse_coordinator_table(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let table = guard::coordinator_table(preparation.application.as_str());
    match client.describe(&table).await {
        Ok(_) => Err(guard::refuse_coordinator_table(&table)),
        Err(failure) if failure.error.kind() == StoreErrorKind::Missing => Ok(()),
        // A policy for the lease table alone is good practice; the rows themselves are looked at next.
        Err(failure) if failure.not_granted => {
            tracing::warn!(table = %table, "may not look whether a Java fleet keeps its state there");
            Ok(())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Everything that would have to be granted, or made by hand, so that there is a table.
fn explain_creation(client: &TableClient, options: &TableOptions, failure: Failure) -> StoreError {
    if !failure.not_granted {
        return failure.into();
    }
    let mut actions = vec![rights::CREATE_TABLE];
    if !options.tags.is_empty() {
        actions.push(rights::TAG_RESOURCE);
    }
    if options.point_in_time_recovery {
        actions.extend([rights::DESCRIBE_BACKUPS, rights::UPDATE_BACKUPS]);
    }
    let arn = client.arn();
    let message = format!(
        "table {} does not exist and may not be created: grant {} on {arn}, or create it by hand with {}; besides, {}",
        client.table,
        actions.join(", "),
        table::by_hand(options),
        rights::advice_to_work(&arn)
    );
    StoreError::definite(StoreErrorKind::Denied, message).with_source(failure.error)
}

/// Creates the table where there is none, and waits for it, never for its index.
async fn usable(
    client: &TableClient,
    options: &TableOptions,
    found: Option<Table>,
    deadline: Moment,
) -> Result<Table, StoreError> {
    let mut found = found;
    loop {
        // Also where a table that was being deleted is gone now; asking again for one that is not visible yet does no harm.
        if found.is_none() {
            let created = client.create(options).await;
            created.map_err(|failure| explain_creation(client, options, failure))?;
            found = look(client).await?;
        }
        let status = match found {
            Some(table) if table.usable => return Ok(table),
            Some(table) => table.status,
            None => "not visible yet".to_owned(),
        };
        let next_look = client.clock.now() + POLL;
        if next_look > deadline {
            let message = format!(
                "table {} did not become usable in time: it is {status}{}",
                client.table,
                what_helps(&status)
            );
            return Err(StoreError::definite(StoreErrorKind::Unavailable, message));
        }
        tracing::debug!(table = %client.table, status, "waiting for the table");
        client.clock.sleep(POLL).await;
        found = look(client).await?;
    }
}

/// What to do about a table that does not become usable by itself, by the statuses of DynamoDB's `TableDescription`.
fn what_helps(status: &str) -> &'static str {
    match status {
        "INACCESSIBLE_ENCRYPTION_CREDENTIALS" => {
            "; the key that encrypts it cannot be used: restore the access to that key of AWS KMS"
        }
        "ARCHIVING" | "ARCHIVED" => {
            "; the key that encrypts it could not be used for days: restore the table from its backup, or delete it"
        }
        "REPLICATION_NOT_AUTHORIZED" => {
            "; its replication is not authorized: see the replicas of this global table"
        }
        _ => "",
    }
}

/// Reads the rows and the client version, and says all at once if either may not be read.
async fn read_all(client: &TableClient, segments: u32) -> Result<(Scan, Option<Item>), StoreError> {
    let rows = scan::scan(client, segments).await;
    let migration = client.get(attr::CLIENT_VERSION_KEY).await;
    all_granted(client, [rows.as_ref().err(), migration.as_ref().err()])?;
    Ok((rows?, migration?))
}

/// Says all at once which kinds of write are not allowed, and not one by one while the worker runs: the last would be the deletion
/// with which it leaves.
async fn may_write(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let mut outcomes = Vec::new();
    for write in writes_that_never_happen(preparation.worker.as_str()) {
        outcomes.push(client.write(write).await);
    }
    all_granted(client, outcomes.iter().map(|outcome| outcome.as_ref().err()))?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))?;
    Ok(())
}

/// One error of all that were denied.
fn all_granted<'a>(
    client: &TableClient,
    failures: impl IntoIterator<Item = Option<&'a Failure>>,
) -> Result<(), StoreError> {
    let failures = failures.into_iter().flatten();
    let denied = failures.filter(|failure| failure.not_granted);
    let denied = denied.map(ToString::to_string).collect::<Vec<_>>();
    if denied.is_empty() {
        return Ok(());
    }
    let advice = rights::advice_to_work(&client.arn());
    let message = format!("{}; in all, {advice}", denied.join("; "));
    Err(StoreError::definite(StoreErrorKind::Denied, message))
}

/// Says to Java workers that may come later that the application is one of 3.x.
async fn mark_as_new(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let item = codec::client_version_item(&preparation.application, &preparation.worker, client.clock.wall());
    match client
        .write(put_if_absent(attr::CLIENT_VERSION_KEY, item))
        .await?
    {
        Written::Applied(_) => Ok(()),
        // Another worker did the same a moment ago: one of ours, or of an application that wants the table too.
        Written::Refused(_) => {
            let row = client.get(attr::CLIENT_VERSION_KEY).await?;
            guard::check_application(&client.table, &preparation.application, row.as_ref())
        }
    }
}

fn report(client: &TableClient, table: &Table, rows: &Scan) {
    tracing::info!(
        table = %client.table,
        status = %table.status,
        owner_index = ?table.index,
        billing = table.features.as_ref().map(|features| tracing::field::display(features.billing)),
        leases = rows.leases.len(),
        workers = rows.workers.len(),
        undecodable = rows.undecodable.len(),
        "lease table is ready"
    );
}

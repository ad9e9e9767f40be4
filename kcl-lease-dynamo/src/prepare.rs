//! Setting up: look at what is there, refuse what is not ours, create what is missing, wait for the table.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, Moment};
use kcl_core::lease_store::{Preparation, Scan, StoreError, StoreErrorKind, WorkerRow};
use kcl_core::types::ApplicationName;

use crate::client::{TableClient, WriteOutcome};
use crate::codec::Item;
use crate::errors::Failure;
use crate::expression::{claim_write, permission_probes, put_if_absent};
use crate::layout::{ExistingTables, Layout, Tables};
use crate::options::{TableOptions, table_name_problem};
use crate::ownership_check::JavaRows;
use crate::scan::TableRows;
use crate::table::TableState;
use crate::{
    attributes, codec, java_watch, layout, ownership_check, permissions, scan, table, table_maintenance,
};

/// How often a table that is being created is looked at.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

/// The first call also loads credentials, which may need calls of its own, and changing a table takes longer than changing a row.
const SETUP_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How a store prepares its tables.
pub(crate) struct PrepareOptions<'a> {
    pub(crate) segments: u32,
    pub(crate) table: &'a TableOptions,
    /// How long rows of a Java application are watched, where the user says so.
    pub(crate) watch: Option<Duration>,
}

/// Prepares the tables. Returns what is known of the lease table, and where everything is.
pub(crate) async fn prepare(
    client: &TableClient,
    prepare_options: &PrepareOptions<'_>,
    preparation: &Preparation,
) -> Result<(TableState, Tables), StoreError> {
    let options = prepare_options.table;
    check(client, options)?;
    let deadline = client.clock.now() + preparation.within;
    let patient = client.with_request_timeout(client.request_timeout.max(SETUP_REQUEST_TIMEOUT));
    let found = describe_table(&patient).await?;
    if let Some(table) = &found {
        table.check_key(&client.table)?;
    }
    let java = JavaTables::read(client, &preparation.application).await?;
    if found.is_none() {
        java.refuse_unclaimed(preparation)?;
    }
    let table = ensure_usable(&patient, options, found, deadline).await?;
    table.check_key(&client.table)?;

    let (rows, migration) = read_all(client, prepare_options.segments).await?;
    let found = with_rows(java.existing(migration.as_ref()), &rows);
    let layout = layout::decide(options.layout, found)?;
    layout::check_names(layout, &preparation.application)?;
    let tables = Tables::of(layout, client, &preparation.application);
    let migration = match layout {
        Layout::One => migration,
        Layout::Three => java.migration.clone(),
    };
    let table_name = &tables.coordinator.table;
    ownership_check::check_application(table_name, &preparation.application, migration.as_ref())?;
    let left = check_java(
        &tables,
        &java,
        prepare_options,
        preparation,
        &rows,
        migration.as_ref(),
        deadline,
    )
    .await?;

    check_write_permissions(client, preparation).await?;
    if layout == Layout::Three {
        for sibling in [&tables.workers, &tables.coordinator] {
            let patient = sibling.with_request_timeout(patient.request_timeout);
            let found = describe_table(&patient).await?;
            let table = ensure_usable(&patient, options, found, deadline).await?;
            table.check_java_key(sibling.key(), &sibling.table)?;
            check_write_permissions(sibling, preparation).await?;
        }
    }
    if ownership_check::is_unused(&rows.scan, migration.as_ref()) {
        claim_new_application(&tables.coordinator, preparation).await?;
    } else if let Some(left) = left {
        record_takeover(&tables.coordinator, preparation, migration.as_ref(), &left).await?;
    }
    table_maintenance::complete(&patient, options, &preparation.worker, &table, deadline).await;
    report(client, &table, layout, &rows.scan);
    Ok((table, tables))
}

/// The evidence of the two further tables of the Java KCL 3.0 to 3.4, if they are there.
#[derive(Debug)]
pub(crate) struct JavaTables {
    coordinator: TableClient,
    workers: TableClient,
    /// Whether the coordinator table is there.
    pub(crate) is_there: bool,
    pub(crate) migration: Option<Item>,
    pub(crate) table_migration: Option<String>,
}

impl JavaTables {
    pub(crate) async fn read(
        client: &TableClient,
        application: &ApplicationName,
    ) -> Result<Self, StoreError> {
        let Tables {
            workers, coordinator, ..
        } = Tables::three(client, application);
        let mut java = Self {
            coordinator,
            workers,
            is_there: false,
            migration: None,
            table_migration: None,
        };
        if !ownership_check::can_name_tables(application.as_str()) {
            return Ok(java);
        }
        match client.describe(&java.coordinator.table).await {
            Ok(_) => java.is_there = true,
            Err(failure) if failure.is_missing() => return Ok(java),
            // A worker that may not describe the table may still be allowed to read it.
            Err(failure) if failure.not_granted => {}
            Err(failure) => return Err(failure.into()),
        }
        java.migration = match java.coordinator.get(attributes::CLIENT_VERSION_KEY).await {
            Ok(row) => row,
            Err(failure) if failure.is_missing() => return Ok(java),
            Err(failure) if failure.not_granted => {
                java.warn_unreadable();
                return Ok(java);
            }
            Err(failure) => return Err(failure.into()),
        };
        java.is_there = true;
        let table_migration = java.coordinator.get(attributes::TABLE_MIGRATION_KEY).await?;
        java.table_migration = table_migration
            .as_ref()
            .and_then(codec::table_migration)
            .map(str::to_owned);
        Ok(java)
    }

    /// These findings, beside the client version of the lease table.
    pub(crate) fn existing<'a>(&'a self, in_lease_table: Option<&'a Item>) -> ExistingTables<'a> {
        ExistingTables {
            coordinator: self.is_there,
            table_migration: self.table_migration.as_deref(),
            in_lease_table,
            in_coordinator_table: self.migration.as_ref(),
            ..ExistingTables::default()
        }
    }

    /// A policy for the lease table alone is good practice; its rows are looked at in any case.
    fn warn_unreadable(&self) {
        let table = &self.coordinator.table;
        tracing::warn!(%table, "may not look whether a Java fleet keeps its state there");
    }

    /// Before the lease table is created: the application's state is there already, and no worker of ours has claimed it.
    fn refuse_unclaimed(&self, preparation: &Preparation) -> Result<(), StoreError> {
        let java_was_here = self.migration.is_some() && !ownership_check::is_claimed(self.migration.as_ref());
        if !java_was_here || preparation.take_over_java {
            return Ok(());
        }
        let coordinator = Some(self.coordinator.table.as_str());
        let reasons = ownership_check::reasons("", &JavaRows::default(), coordinator, None);
        Err(ownership_check::refuse_unclaimed(&reasons))
    }

    /// The rows of its workers, and its leader's lock. An accidental start of a Java worker leaves them beside a lease table of ours.
    async fn rows(&self) -> Result<(Vec<WorkerRow>, Option<(String, Item)>), StoreError> {
        let mut scan = Scan::default();
        if !self.is_there {
            return Ok((scan.workers, None));
        }
        match scan::workers(&self.workers, &mut scan).await {
            Err(failure) if failure.is_missing() => {}
            Err(failure) if failure.not_granted => {
                let table = &self.workers.table;
                tracing::warn!(%table, "may not look for Java workers there");
            }
            outcome => outcome?,
        }
        let lock = match self.coordinator.get(attributes::LEADER_KEY).await {
            // Another worker of ours is creating the table.
            Err(failure) if failure.is_missing() || failure.not_granted => None,
            lock => lock?,
        };
        Ok((
            scan.workers,
            lock.map(|row| (self.coordinator.table.clone(), row)),
        ))
    }
}

/// The findings with the rows of the lease table.
pub(crate) fn with_rows<'a>(found: ExistingTables<'a>, rows: &TableRows) -> ExistingTables<'a> {
    let scan = &rows.scan;
    ExistingTables {
        leases: !scan.leases.is_empty() || !scan.undecodable.is_empty(),
        others: !scan.workers.is_empty() || rows.lock.is_some(),
        workers_of_ours: scan.workers.iter().any(|row| row.incarnation.is_some()),
        ..found
    }
}

/// The facts to remember of a Java application.
#[derive(Debug)]
struct Takeover {
    fingerprints: BTreeSet<String>,
    /// Whether it was taken over by this start.
    is_new: bool,
}

/// Refuses a Java application that no start has claimed, and one of which a worker is alive.
async fn check_java(
    tables: &Tables,
    java: &JavaTables,
    options: &PrepareOptions<'_>,
    preparation: &Preparation,
    rows: &TableRows,
    migration: Option<&Item>,
    deadline: Moment,
) -> Result<Option<Takeover>, StoreError> {
    let lease_table = tables.leases.table.as_str();
    let written = java_rows(java, rows, lease_table).await?;
    let mut claimed = ownership_check::is_claimed(migration);
    // A table without rows is one that a worker of ours has just made.
    let is_used = java.is_there && (java.migration.is_some() || !rows.scan.leases.is_empty());
    let coordinator = is_used.then_some(java.coordinator.table.as_str());
    let reasons = ownership_check::reasons(lease_table, &written, coordinator, migration);
    if !claimed && !reasons.is_empty() && !preparation.take_over_java {
        // Rows of leases were read after the client version was: another worker of ours may have claimed in between.
        claimed = is_claimed_now(tables, preparation).await?;
        if !claimed {
            return Err(ownership_check::refuse_unclaimed(&reasons));
        }
    }
    let known = migration.map(codec::observed_java_rows).unwrap_or_default();
    let mut watched = written.excluding(&known);
    if claimed {
        watched = watched.ignoring_lone_locks();
    }
    if !watched.is_empty() {
        let look_again = || async {
            let rows = scan::scan(&tables.leases, options.segments).await?;
            Ok(java_rows(java, &rows, lease_table).await?.excluding(&known))
        };
        let long = java_watch::watch_duration(&watched, options.watch);
        let clock = tables.leases.clock.as_ref();
        if let Some(moved) =
            java_watch::watch_until_still(clock, long, deadline, watched.clone(), look_again).await?
        {
            return Err(ownership_check::refuse_live(&moved, claimed));
        }
    }
    let is_new = !claimed && !reasons.is_empty();
    if is_new {
        tracing::info!(
            found = reasons.join(", "),
            "taking over the table of a Java application"
        );
    }
    let fingerprints = watched.fingerprints();
    let is_more = !fingerprints.is_empty();
    Ok((is_new || is_more).then(|| Takeover {
        fingerprints: known.into_iter().chain(fingerprints).collect(),
        is_new,
    }))
}

/// Whether a worker of ours has claimed the application in the meantime.
async fn is_claimed_now(tables: &Tables, preparation: &Preparation) -> Result<bool, StoreError> {
    let table = &tables.coordinator;
    let row = match table.get(attributes::CLIENT_VERSION_KEY).await {
        Err(failure) if failure.is_missing() || failure.not_granted => None,
        row => row?,
    };
    ownership_check::check_application(&table.table, &preparation.application, row.as_ref())?;
    Ok(ownership_check::is_claimed(row.as_ref()))
}

/// The remains of Java workers in all tables.
async fn java_rows(java: &JavaTables, rows: &TableRows, lease_table: &str) -> Result<JavaRows, StoreError> {
    let (mut workers, lock) = java.rows().await?;
    workers.extend(rows.scan.workers.iter().cloned());
    let in_lease_table = rows.lock.clone().map(|row| (lease_table.to_owned(), row));
    let locks = lock.into_iter().chain(in_lease_table).collect::<Vec<_>>();
    Ok(JavaRows::of(&rows.scan.leases, &workers, &locks))
}

/// Writes the answer into the row of the client version, which the Java KCL 2.x does not have.
async fn record_takeover(
    client: &TableClient,
    preparation: &Preparation,
    migration: Option<&Item>,
    left: &Takeover,
) -> Result<(), StoreError> {
    let now = client.clock.wall();
    if migration.is_none() {
        let item = codec::client_version_item(&preparation.application, &preparation.worker, now);
        // Refused where another worker that takes the application over did the same a moment ago; the next write adds to it.
        client
            .write(put_if_absent(attributes::CLIENT_VERSION_KEY, item))
            .await?;
    }
    let taken_over = left.is_new.then_some((&preparation.worker, now.as_millis()));
    let write = claim_write(&preparation.application, taken_over, &left.fingerprints);
    match client.write(write).await? {
        WriteOutcome::Applied(_) => Ok(()),
        WriteOutcome::Refused(_) => {
            let row = client.get(attributes::CLIENT_VERSION_KEY).await?;
            ownership_check::check_application(&client.table, &preparation.application, row.as_ref())
        }
    }
}

/// Says everything at once that no service could accept.
fn check(client: &TableClient, options: &TableOptions) -> Result<(), StoreError> {
    let name = table_name_problem(&client.table, client.region());
    let violations = name.into_iter().chain(options.violations()).collect::<Vec<_>>();
    if violations.is_empty() {
        return Ok(());
    }
    let message = format!("the lease table is not described well: {}", violations.join("; "));
    Err(StoreError::definite(StoreErrorKind::Invalid, message))
}

/// The known facts about the table, if it exists.
pub(crate) async fn describe_table(client: &TableClient) -> Result<Option<TableState>, StoreError> {
    match client.describe(&client.table).await {
        Ok(description) => Ok(Some(TableState::of(&description))),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) if failure.not_granted => probe(client, failure).await,
        Err(failure) => Err(failure.into()),
    }
}

/// A worker that may not describe the table may still be allowed to use it.
async fn probe(client: &TableClient, denied: Failure) -> Result<Option<TableState>, StoreError> {
    match client.get(attributes::LEADER_KEY).await {
        Ok(_) => Ok(Some(TableState::undescribed())),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) => {
            check_granted(client, [Some(&denied), Some(&failure)])?;
            Err(denied.into())
        }
    }
}

/// Everything that would have to be granted, or made by hand, so that there is a table.
fn creation_error(client: &TableClient, options: &TableOptions, failure: Failure) -> StoreError {
    if !failure.not_granted {
        return failure.into();
    }
    let mut actions = vec![permissions::CREATE_TABLE];
    if !options.tags.is_empty() {
        actions.push(permissions::TAG_RESOURCE);
    }
    if options.point_in_time_recovery {
        actions.extend([permissions::DESCRIBE_BACKUPS, permissions::UPDATE_BACKUPS]);
    }
    let arn = client.arn();
    let message = format!(
        "table {} does not exist and may not be created: grant {} on {arn}, or create it by hand with {}; besides, {}",
        client.table,
        actions.join(", "),
        table::manual_setup(options, client.key()),
        permissions::advice_to_work(&arn, client.key())
    );
    StoreError::definite(StoreErrorKind::Denied, message).with_source(failure.error)
}

/// Creates the table where there is none, and waits for it, never for its index.
async fn ensure_usable(
    client: &TableClient,
    options: &TableOptions,
    found: Option<TableState>,
    deadline: Moment,
) -> Result<TableState, StoreError> {
    let mut found = found;
    loop {
        // Also where a table that was being deleted is gone now; asking again for one that is not visible yet does no harm.
        if found.is_none() {
            let created = client.create(options).await;
            created.map_err(|failure| creation_error(client, options, failure))?;
            found = describe_table(client).await?;
        }
        let status = match found {
            Some(table) if table.usable => return Ok(table),
            Some(table) => table.status,
            None => "not visible yet".to_owned(),
        };
        let next_look = client.clock.now() + STATUS_INTERVAL;
        if next_look > deadline {
            let message = format!(
                "table {} did not become usable in time: it is {status}{}",
                client.table,
                status_advice(&status)
            );
            return Err(StoreError::definite(StoreErrorKind::Unavailable, message));
        }
        tracing::debug!(table = %client.table, status, "waiting for the table");
        client.clock.sleep(STATUS_INTERVAL).await;
        found = describe_table(client).await?;
    }
}

/// The advice for a table that does not become usable by itself, by the statuses of DynamoDB's `TableDescription`.
fn status_advice(status: &str) -> &'static str {
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
async fn read_all(client: &TableClient, segments: u32) -> Result<(TableRows, Option<Item>), StoreError> {
    let rows = scan::scan(client, segments).await;
    let migration = client.get(attributes::CLIENT_VERSION_KEY).await;
    check_granted(client, [rows.as_ref().err(), migration.as_ref().err()])?;
    Ok((rows?, migration?))
}

/// Says all at once which kinds of write are not allowed, and not one by one while the worker runs: the last would be the deletion
/// with which it leaves.
async fn check_write_permissions(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let mut outcomes = Vec::new();
    for write in permission_probes(preparation.worker.as_str()) {
        outcomes.push(client.write(write).await);
    }
    check_granted(client, outcomes.iter().map(|outcome| outcome.as_ref().err()))?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))?;
    Ok(())
}

/// One error of all that were denied.
fn check_granted<'a>(
    client: &TableClient,
    failures: impl IntoIterator<Item = Option<&'a Failure>>,
) -> Result<(), StoreError> {
    let failures = failures.into_iter().flatten();
    let denied = failures.filter(|failure| failure.not_granted);
    let denied = denied.map(ToString::to_string).collect::<Vec<_>>();
    if denied.is_empty() {
        return Ok(());
    }
    let advice = permissions::advice_to_work(&client.arn(), client.key());
    let message = format!("{}; in all, {advice}", denied.join("; "));
    Err(StoreError::definite(StoreErrorKind::Denied, message))
}

/// Says to Java workers that may come later that the application is one of 3.x.
async fn claim_new_application(client: &TableClient, preparation: &Preparation) -> Result<(), StoreError> {
    let item = codec::client_version_item(&preparation.application, &preparation.worker, client.clock.wall());
    match client
        .write(put_if_absent(attributes::CLIENT_VERSION_KEY, item))
        .await?
    {
        WriteOutcome::Applied(_) => Ok(()),
        // Another worker did the same a moment ago: one of ours, or of an application that wants the table too.
        WriteOutcome::Refused(_) => {
            let row = client.get(attributes::CLIENT_VERSION_KEY).await?;
            ownership_check::check_application(&client.table, &preparation.application, row.as_ref())
        }
    }
}

fn report(client: &TableClient, table: &TableState, layout: Layout, rows: &Scan) {
    tracing::info!(
        table = %client.table,
        status = %table.status,
        owner_index = ?table.index,
        ?layout,
        billing = table.features.as_ref().map(|features| tracing::field::display(features.billing)),
        leases = rows.leases.len(),
        workers = rows.workers.len(),
        undecodable = rows.undecodable.len(),
        "lease table is ready"
    );
}

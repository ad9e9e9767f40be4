//! Setting up: look at what is there, refuse what is not ours, create what is missing, wait for the table.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, Moment};
use kcl_core::lease_store::{Preparation, Scan, StoreError, StoreErrorKind, WorkerRow};

use crate::client::{TableClient, Written};
use crate::codec::Item;
use crate::errors::Failure;
use crate::expression::{mark_write, put_if_absent, writes_that_never_happen};
use crate::guard::Traces;
use crate::layout::{Found, Layout, Tables};
use crate::options::{TableOptions, wrong_name};
use crate::scan::Rows;
use crate::table::Table;
use crate::{attr, codec, guard, layout, rights, scan, table, upkeep, watch};

/// How often a table that is being created is looked at.
const POLL: Duration = Duration::from_millis(200);

/// The first call also loads credentials, which may need calls of its own, and changing a table takes longer than changing a row.
const PATIENT_CALL: Duration = Duration::from_secs(10);

/// How a store prepares its tables.
pub(crate) struct Manner<'a> {
    pub(crate) segments: u32,
    pub(crate) options: &'a TableOptions,
    /// How long rows of a Java application are watched, where the user says so.
    pub(crate) watch: Option<Duration>,
}

/// Prepares the tables. Returns what is known of the lease table, and where everything is.
pub(crate) async fn prepare(
    client: &TableClient,
    manner: &Manner<'_>,
    preparation: &Preparation,
) -> Result<(Table, Tables), StoreError> {
    let options = manner.options;
    check(client, options)?;
    let deadline = client.clock.now() + preparation.within;
    let patient = client.with_request_timeout(client.request_timeout.max(PATIENT_CALL));
    let found = look(&patient).await?;
    if let Some(table) = &found {
        table.check_key(&client.table)?;
    }
    let java = JavaTables::look(client, preparation).await?;
    if found.is_none() {
        java.refuse_unanswered(preparation)?;
    }
    let table = usable(&patient, options, found, deadline).await?;
    table.check_key(&client.table)?;

    let (rows, migration) = read_all(client, manner.segments).await?;
    let layout = layout::decide(
        options.layout,
        Found {
            coordinator: java.is_there,
            table_migration: java.table_migration.as_deref(),
            in_lease_table: migration.as_ref(),
            in_coordinator_table: java.migration.as_ref(),
            leases: !rows.scan.leases.is_empty() || !rows.scan.undecodable.is_empty(),
            others: !rows.scan.workers.is_empty() || rows.lock.is_some(),
            workers_of_ours: rows.scan.workers.iter().any(|row| row.incarnation.is_some()),
        },
    )?;
    layout::check_names(layout, &preparation.application)?;
    let tables = Tables::of(layout, client, &preparation.application);
    let migration = match layout {
        Layout::One => migration,
        Layout::Three => java.migration.clone(),
    };
    let table_name = &tables.coordinator.table;
    guard::check_application(table_name, &preparation.application, migration.as_ref())?;
    let left = check_java(
        &tables,
        &java,
        manner,
        preparation,
        &rows,
        migration.as_ref(),
        deadline,
    )
    .await?;

    may_write(client, preparation).await?;
    if layout == Layout::Three {
        for beside in [&tables.workers, &tables.coordinator] {
            let patient = beside.with_request_timeout(patient.request_timeout);
            let found = look(&patient).await?;
            let table = usable(&patient, options, found, deadline).await?;
            table.check_key_named(beside.key(), &beside.table)?;
            may_write(beside, preparation).await?;
        }
    }
    if guard::is_new_application(&rows.scan, migration.as_ref()) {
        mark_as_new(&tables.coordinator, preparation).await?;
    } else if let Some(left) = left {
        remember(&tables.coordinator, preparation, migration.as_ref(), &left).await?;
    }
    upkeep::complete(&patient, options, &preparation.worker, &table, deadline).await;
    report(client, &table, layout, &rows.scan);
    Ok((table, tables))
}

/// The evidence of the two further tables of the Java KCL 3.0 to 3.4, if they are there.
#[derive(Debug)]
struct JavaTables {
    coordinator: TableClient,
    workers: TableClient,
    /// Whether the coordinator table is there.
    is_there: bool,
    migration: Option<Item>,
    table_migration: Option<String>,
}

impl JavaTables {
    async fn look(client: &TableClient, preparation: &Preparation) -> Result<Self, StoreError> {
        let Tables {
            workers, coordinator, ..
        } = Tables::three(client, &preparation.application);
        let mut java = Self {
            coordinator,
            workers,
            is_there: false,
            migration: None,
            table_migration: None,
        };
        if !guard::names_tables(preparation.application.as_str()) {
            return Ok(java);
        }
        match client.describe(&java.coordinator.table).await {
            Ok(_) => java.is_there = true,
            Err(failure) if failure.is_missing() => return Ok(java),
            // A worker that may not describe the table may still be allowed to read it.
            Err(failure) if failure.not_granted => {}
            Err(failure) => return Err(failure.into()),
        }
        java.migration = match java.coordinator.get(attr::CLIENT_VERSION_KEY).await {
            Ok(row) => row,
            Err(failure) if failure.is_missing() => return Ok(java),
            Err(failure) if failure.not_granted => {
                java.is_unseen();
                return Ok(java);
            }
            Err(failure) => return Err(failure.into()),
        };
        java.is_there = true;
        let table_migration = java.coordinator.get(attr::TABLE_MIGRATION_KEY).await?;
        java.table_migration = table_migration
            .as_ref()
            .and_then(codec::table_migration)
            .map(str::to_owned);
        Ok(java)
    }

    /// A policy for the lease table alone is good practice; its rows are looked at in any case.
    fn is_unseen(&self) {
        let table = &self.coordinator.table;
        tracing::warn!(%table, "may not look whether a Java fleet keeps its state there");
    }

    /// Before the lease table is created: the application's state is there already, and no worker of ours has answered for it.
    fn refuse_unanswered(&self, preparation: &Preparation) -> Result<(), StoreError> {
        let java_was_here = self.migration.is_some() && !guard::is_ours(self.migration.as_ref());
        if !java_was_here || preparation.take_over_java {
            return Ok(());
        }
        let coordinator = Some(self.coordinator.table.as_str());
        let reasons = guard::reasons("", &Traces::default(), coordinator, None);
        Err(guard::refuse_unanswered(&reasons))
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
        let lock = match self.coordinator.get(attr::LEADER_KEY).await {
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

/// The facts to remember of a Java application.
#[derive(Debug)]
struct Left {
    marks: BTreeSet<String>,
    /// Whether it was taken over by this start.
    is_new: bool,
}

/// Refuses a Java application that no start has answered for, and one of which a worker is alive.
async fn check_java(
    tables: &Tables,
    java: &JavaTables,
    manner: &Manner<'_>,
    preparation: &Preparation,
    rows: &Rows,
    migration: Option<&Item>,
    deadline: Moment,
) -> Result<Option<Left>, StoreError> {
    let lease_table = tables.leases.table.as_str();
    let traces = traces(java, rows, lease_table).await?;
    let mut answered = guard::is_ours(migration);
    // A table without rows is one that a worker of ours has just made.
    let is_used = java.is_there && (java.migration.is_some() || !rows.scan.leases.is_empty());
    let coordinator = is_used.then_some(java.coordinator.table.as_str());
    let reasons = guard::reasons(lease_table, &traces, coordinator, migration);
    if !answered && !reasons.is_empty() && !preparation.take_over_java {
        // Rows of leases were read after the client version was: another worker of ours may have answered in between.
        answered = is_answered_now(tables, preparation).await?;
        if !answered {
            return Err(guard::refuse_unanswered(&reasons));
        }
    }
    let known = migration.map(codec::left_over).unwrap_or_default();
    let mut watched = traces.without(&known);
    if answered {
        watched = watched.without_lone_locks();
    }
    if !watched.is_empty() {
        let look = || async {
            let rows = scan::scan(&tables.leases, manner.segments).await?;
            Ok(self::traces(java, &rows, lease_table).await?.without(&known))
        };
        let long = watch::how_long(&watched, manner.watch);
        let clock = tables.leases.clock.as_ref();
        if let Some(moved) = watch::until_still(clock, long, deadline, watched.clone(), look).await? {
            return Err(guard::refuse_alive(&moved, answered));
        }
    }
    let is_new = !answered && !reasons.is_empty();
    if is_new {
        tracing::info!(
            found = reasons.join(", "),
            "taking over the table of a Java application"
        );
    }
    let marks = watched.marks();
    let is_more = !marks.is_empty();
    Ok((is_new || is_more).then(|| Left {
        marks: known.into_iter().chain(marks).collect(),
        is_new,
    }))
}

/// Whether a worker of ours has answered for the application in the meantime.
async fn is_answered_now(tables: &Tables, preparation: &Preparation) -> Result<bool, StoreError> {
    let table = &tables.coordinator;
    let row = match table.get(attr::CLIENT_VERSION_KEY).await {
        Err(failure) if failure.is_missing() || failure.not_granted => None,
        row => row?,
    };
    guard::check_application(&table.table, &preparation.application, row.as_ref())?;
    Ok(guard::is_ours(row.as_ref()))
}

/// The remains of Java workers in all tables.
async fn traces(java: &JavaTables, rows: &Rows, lease_table: &str) -> Result<Traces, StoreError> {
    let (mut workers, lock) = java.rows().await?;
    workers.extend(rows.scan.workers.iter().cloned());
    let in_lease_table = rows.lock.clone().map(|row| (lease_table.to_owned(), row));
    let locks = lock.into_iter().chain(in_lease_table).collect::<Vec<_>>();
    Ok(Traces::of(&rows.scan.leases, &workers, &locks))
}

/// Writes the answer into the row of the client version, which the Java KCL 2.x does not have.
async fn remember(
    client: &TableClient,
    preparation: &Preparation,
    migration: Option<&Item>,
    left: &Left,
) -> Result<(), StoreError> {
    let now = client.clock.wall();
    if migration.is_none() {
        let item = codec::client_version_item(&preparation.application, &preparation.worker, now);
        // Refused where another worker that takes the application over did the same a moment ago; the next write adds to it.
        client
            .write(put_if_absent(attr::CLIENT_VERSION_KEY, item))
            .await?;
    }
    let taken_over = left.is_new.then_some((&preparation.worker, now.as_millis()));
    let write = mark_write(&preparation.application, taken_over, &left.marks);
    match client.write(write).await? {
        Written::Applied(_) => Ok(()),
        Written::Refused(_) => {
            let row = client.get(attr::CLIENT_VERSION_KEY).await?;
            guard::check_application(&client.table, &preparation.application, row.as_ref())
        }
    }
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

/// The known facts about the table, if it exists.
pub(crate) async fn look(client: &TableClient) -> Result<Option<Table>, StoreError> {
    match client.describe(&client.table).await {
        Ok(description) => Ok(Some(Table::of(&description))),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) if failure.not_granted => probe(client, failure).await,
        Err(failure) => Err(failure.into()),
    }
}

/// A worker that may not describe the table may still be allowed to use it.
async fn probe(client: &TableClient, denied: Failure) -> Result<Option<Table>, StoreError> {
    match client.get(attr::LEADER_KEY).await {
        Ok(_) => Ok(Some(Table::undescribed())),
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) => {
            all_granted(client, [Some(&denied), Some(&failure)])?;
            Err(denied.into())
        }
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
        table::by_hand(options, client.key()),
        rights::advice_to_work(&arn, client.key())
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

/// The advice for a table that does not become usable by itself, by the statuses of DynamoDB's `TableDescription`.
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
async fn read_all(client: &TableClient, segments: u32) -> Result<(Rows, Option<Item>), StoreError> {
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
    let advice = rights::advice_to_work(&client.arn(), client.key());
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

fn report(client: &TableClient, table: &Table, layout: Layout, rows: &Scan) {
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
